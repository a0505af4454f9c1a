//! What relays run: programs of different versions.

use crate::program::run;
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// What it says its version is.
    pub version: String,
    /// The tag of its image.
    pub tag: String,
    /// How large it is, in bytes.
    pub size: u64,
}

impl Program {
    /// The program at a path.
    pub(super) fn of(path: PathBuf, tag: &str) -> Result<Self> {
        let said = run(Command::new(&path).arg("--version"))?.ended_with(&[0])?.stdout;
        let version =
            said.split_whitespace().nth(1).with_context(|| format!("no version: {said}"))?.to_owned();
        let size = std::fs::metadata(&path)?.len();
        Ok(Self { path, version, tag: tag.to_owned(), size })
    }

    /// A copy that calls itself another version, as long as this one's. No release is older than this tree; when one is,
    /// its program serves better.
    pub(super) fn with_another_version(&self, path: &Path, tag: &str) -> Result<Self> {
        let (rest, last) = self.version.split_at(self.version.len().saturating_sub(1));
        let wanted = format!("{rest}{}", if last == "9" { "8" } else { "9" });
        std::fs::copy(&self.path, path)?;
        let change = format!("s/{}/{wanted}/g", self.version.replace('.', "[.]"));
        let mut command = Command::new("sed");
        command.env("LC_ALL", "C").arg("--in-place").arg(change).arg(path);
        run(&mut command)?.ended_with(&[0])?;
        let made = Self::of(path.to_owned(), tag)?;
        ensure!(made.version == wanted, "{} calls itself {}", path.display(), made.version);
        Ok(made)
    }
}
