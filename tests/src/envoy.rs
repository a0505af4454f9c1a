//! The real Envoy: runs one, asks its admin interface, and has it judge a configuration.

use crate::http::{Request, Target, send};
use crate::process::Running;
use crate::program::{Outcome, run};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A running Envoy; dropping it kills it.
#[derive(Debug)]
pub struct Envoy {
    process: Running,
    admin: Target,
}

impl Envoy {
    /// Starts one with a bootstrap file whose admin interface listens on a local port.
    pub fn start(name: &str, program: &Path, bootstrap: &Path, admin: u16, logs: &Path) -> Result<Self> {
        Self::start_with(name, program, bootstrap, admin, logs, &[])
    }

    /// The same with further arguments.
    pub fn start_with(
        name: &str,
        program: &Path,
        bootstrap: &Path,
        admin: u16,
        logs: &Path,
        arguments: &[String],
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("--config-path").arg(bootstrap);
        command
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .args(arguments);
        let process = Running::start(name, &mut command, logs)?;
        Ok(Self { process, admin: Target::plain(admin) })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    /// An answer of the admin interface.
    pub fn admin(&self, path: &str) -> Result<String> {
        let answer = send(&self.admin, &Request::get("admin", path))?;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == 200, "{path}: status {}: {body}", answer.status);
        Ok(body)
    }

    /// A counter or gauge; zero if it does not exist yet.
    pub fn stat(&self, name: &str) -> Result<u64> {
        let text = self.admin(&format!("/stats?filter=^{name}$"))?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.map_or(Ok(0), |value| value.parse().with_context(|| format!("stat {name}: {value}")))
    }

    /// Waits until a listener accepts connections on every port.
    pub fn wait_for_listeners(&mut self, ports: &[u16]) -> Result<()> {
        crate::wait::until("Envoy's listeners", || {
            self.process.check()?;
            let listeners = self.admin("/listeners?format=json")?;
            let listeners: Value = serde_json::from_str(&listeners)?;
            let statuses = listeners["listener_statuses"].as_array().cloned().unwrap_or_default();
            let listens = |port: u16| {
                statuses.iter().any(|status| status["local_address"]["socket_address"]["port_value"] == port)
            };
            let missing: Vec<_> = ports.iter().filter(|port| !listens(**port)).collect();
            ensure!(missing.is_empty(), "no listener on {missing:?}\n{}", self.process.tail());
            // A listener is listed before its workers accept.
            for port in ports {
                let address = SocketAddr::from(([127, 0, 0, 1], *port));
                TcpStream::connect_timeout(&address, Duration::from_secs(1))
                    .with_context(|| format!("port {port}"))?;
            }
            Ok(())
        })
    }
}

/// Has an Envoy judge a bootstrap without running it.
pub fn validate(program: &Path, bootstrap: &Value, folder: &Path) -> Result<Outcome> {
    let file = folder.join("bootstrap.json");
    std::fs::write(&file, serde_json::to_vec(bootstrap)?)?;
    run(Command::new(program)
        .args(["--mode", "validate", "--log-level", "warning", "--config-path"])
        .arg(&file))
}
