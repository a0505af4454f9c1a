//! Azurite, which stands in for Azure Blob Storage.

use super::wait_for;
use crate::http::{Request, Target, send};
use crate::ports;
use crate::process::Running;
use crate::program::tool;
use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorgate_snapshot::store::Settings;
use ring::hmac;
use std::process::Command;
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// The account that every Azurite has, and its key, which is no secret.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// The version of the protocol.
const VERSION: &str = "2021-08-06";

/// A running Azurite; dropping it ends it.
#[derive(Debug)]
pub struct Azurite {
    // First: it ends before its folder goes.
    _server: Running,
    _folder: TempDir,
    port: u16,
}

impl Azurite {
    /// Starts one on a free port and waits until it accepts.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moorgate-azurite-").tempdir()?;
        let port = ports::free()?;
        let mut command = Command::new("node");
        // Without these it reports to Microsoft, and refuses versions of the protocol that are newer than itself.
        command.arg(tool("azurite/node_modules/azurite/dist/src/blob/main.js")?).args([
            "--disableTelemetry",
            "--skipApiVersionCheck",
            "--inMemoryPersistence",
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            &port.to_string(),
        ]);
        command.current_dir(folder.path()).env("HOME", folder.path());
        let mut server = Running::start("azurite", &mut command, folder.path())?;
        wait_for(&mut server, port)?;
        Ok(Self { _server: server, _folder: folder, port })
    }

    /// Makes a container: one signed request of the REST protocol.
    pub fn container(&self, name: &str) -> Result<()> {
        let date = OffsetDateTime::now_utc().format(&Rfc2822)?.replace("+0000", "GMT");
        let signed = format!(
            "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{VERSION}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        );
        let key = hmac::Key::new(hmac::HMAC_SHA256, &STANDARD.decode(KEY).context("the key")?);
        let sig = STANDARD.encode(hmac::sign(&key, signed.as_bytes()));
        let request = Request::get(
            &format!("127.0.0.1:{}", self.port),
            &format!("/{ACCOUNT}/{name}?restype=container"),
        )
        .method("PUT")
        .header("x-ms-date", &date)
        .header("x-ms-version", VERSION)
        .header("authorization", &format!("SharedKey {ACCOUNT}:{sig}"));
        let answer = send(&Target::plain(self.port), &request)?;
        let body = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 201, "azurite made no container: {} {body}", answer.status);
        Ok(())
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to reach it.
    pub fn settings(&self) -> Settings {
        Settings::of([variable(&format!("127.0.0.1:{}", self.port))])
    }
}

/// The environment in which programs reach an Azurite at this address.
pub fn variable(address: &str) -> (&'static str, String) {
    let endpoint = format!("http://{address}/{ACCOUNT}");
    let text = format!("AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};");
    ("AZURE_STORAGE_CONNECTION_STRING", text)
}
