//! moto, which stands in for S3.

use super::wait_for;
use crate::http::{Request, Target, send};
use crate::ports;
use crate::process::Running;
use crate::program::tool;
use anyhow::{Result, ensure};
use moorgate_snapshot::store::Settings;
use std::process::Command;
use tempfile::TempDir;

/// moto looks whether an object is there and writes it without a lock, so on a busy machine two racing creates of one name can
/// both win, which S3 does not allow. Nothing waits in between: if threads are not interrupted, one wins.
const UNINTERRUPTED: &str = "import sys\nsys.setswitchinterval(60)\n";

/// A running moto server; dropping it ends it.
#[derive(Debug)]
pub struct Moto {
    // First: it ends before its folder goes.
    _server: Running,
    _folder: TempDir,
    port: u16,
}

impl Moto {
    /// Starts one on a free port and waits until it accepts.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moorgate-moto-").tempdir()?;
        let port = ports::free()?;
        let mut command = Command::new(tool("moto/bin/moto_server")?);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).current_dir(folder.path());
        std::fs::write(folder.path().join("sitecustomize.py"), UNINTERRUPTED)?;
        command
            .env("MOTO_CALL_RESET_API", "false")
            .env("HOME", folder.path())
            .env("PYTHONPATH", folder.path());
        let mut server = Running::start("moto", &mut command, folder.path())?;
        wait_for(&mut server, port)?;
        Ok(Self { _server: server, _folder: folder, port })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a bucket.
    pub fn bucket(&self, name: &str) -> Result<()> {
        let host = format!("127.0.0.1:{}", self.port);
        let request = Request::get(&host, &format!("/{name}")).method("PUT");
        let answer = send(&Target::plain(self.port), &request)?;
        ensure!(answer.status == 200, "moto made no bucket: {}", answer.status);
        Ok(())
    }

    /// How to reach it through this port: its own, or a proxy's.
    pub fn settings_through(port: u16) -> Settings {
        Settings::of(variables(port))
    }

    /// How to reach it.
    pub fn settings(&self) -> Settings {
        Self::settings_through(self.port)
    }
}

/// The environment in which programs reach an S3 on this local port.
pub fn variables(port: u16) -> [(&'static str, String); 4] {
    [
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
    ]
}
