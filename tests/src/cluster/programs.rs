//! The programs of the cluster and of the upstream suite, as `tests/tools/install-cluster` builds them.

use crate::program;
use anyhow::{Context as _, Result, ensure};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Builds what is named, unless a build of the same sources is there already, and returns its folder.
fn installed(what: &str) -> Result<PathBuf> {
    let tools = program::tools()?;
    let output = Command::new(program::root().join("tests/tools/install-cluster"))
        .arg(&tools)
        .arg(what)
        .stderr(Stdio::inherit())
        .output()
        .context("tests/tools/install-cluster")?;
    ensure!(output.status.success(), "tests/tools/install-cluster {what}: {}", output.status);
    let path = PathBuf::from(String::from_utf8(output.stdout)?.trim_end());
    ensure!(path.is_file(), "tests/tools/install-cluster {what} named no program: {}", path.display());
    Ok(path)
}

/// etcd, API server and controller manager in one program.
pub fn kubernetes() -> Result<PathBuf> {
    installed("cluster")
}

/// The suite of this version (`1.7.0`).
pub fn conformance(version: &str) -> Result<PathBuf> {
    installed(&format!("conformance-{version}"))
}

/// The program that the suite's backends run.
pub(super) fn echo() -> Result<PathBuf> {
    installed("echo-basic")
}
