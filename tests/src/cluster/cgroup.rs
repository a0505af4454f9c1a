//! A cgroup for everything that a cluster starts.

use anyhow::{Context as _, Result};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A cgroup (version 2); dropping it kills what is left in it and removes it.
#[derive(Debug)]
pub(super) struct Cgroup(PathBuf);

/// Where cgroup version 2 is mounted.
fn mount() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(2) == Some(&"cgroup2"))
        .find_map(|fields| fields.get(1).map(PathBuf::from))
}

impl Cgroup {
    /// Below this process's own, with the last part of this name; `None` where this user may not make one.
    pub(super) fn create(name: &Path) -> Result<Option<Self>> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let own = own.lines().find_map(|line| line.strip_prefix("0::/").map(str::to_owned));
        let (Some(mount), Some(own)) = (mount(), own) else { return Ok(None) };
        let path = mount.join(own).join(name.file_name().context("a name")?);
        match std::fs::create_dir(&path) {
            Ok(()) => Ok(Some(Self(path))),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotFound
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context(path.display().to_string()),
        }
    }

    /// Its folder.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        let deadline = Instant::now() + Duration::from_secs(5);
        // The kernel takes a moment to let go of the last process.
        while std::fs::remove_dir(&self.0).is_err() && self.0.exists() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
