//! The whole path in one folder: keys, a store, a relay with its endpoints and secrets, and an Envoy.

use crate::certificate::Certificate;
use crate::envoy::Envoy;
use crate::http::{Answer, Request, Target, send};
use crate::process::Running;
use crate::program::{self, Outcome, moorgate, run};
use crate::{manifest, ports};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The channel that every stack follows.
pub const CHANNEL: &str = "stable";

/// How Envoy asks its relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Only what changed.
    #[default]
    Delta,
    /// State of the world.
    StateOfTheWorld,
}

/// A store, a relay and an Envoy of one fleet, in a temporary folder; dropping it stops and removes everything.
#[derive(Debug)]
pub struct Stack {
    // Processes first: they end before their folder goes.
    envoy: Option<Envoy>,
    relay: Option<Running>,
    folder: TempDir,
    fleet: String,
    health: u16,
    admin: u16,
    /// Which Envoy runs.
    pub program: PathBuf,
    /// How it asks.
    pub protocol: Protocol,
    /// What the relay is told besides.
    pub relay_arguments: Vec<String>,
    /// What Envoy is told besides.
    pub envoy_arguments: Vec<String>,
    /// What `moorgate bootstrap` is told besides.
    pub bootstrap_arguments: Vec<String>,
    /// What starts the relay, if it is not started by itself: a program that runs the one named after it.
    pub relay_prefix: Vec<String>,
}

impl Stack {
    /// Lays the folder and makes the keys; starts nothing yet.
    pub fn new(fleet: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moorgate-").tempdir()?;
        crate::process::remember_folder(folder.path());
        for name in ["store", "endpoints", "secrets", "cache", "logs", "keys"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        let stack = Self {
            envoy: None,
            relay: None,
            fleet: fleet.to_owned(),
            health: ports::free()?,
            admin: ports::free()?,
            program: program::envoy()?,
            protocol: Protocol::default(),
            relay_arguments: Vec::new(),
            envoy_arguments: Vec::new(),
            bootstrap_arguments: Vec::new(),
            relay_prefix: Vec::new(),
            folder,
        };
        stack.keygen()?;
        Ok(stack)
    }

    /// Another relay and Envoy of the same fleet, with the store and the keys of the first.
    pub fn beside(first: &Self) -> Result<Self> {
        let stack = Self::new(&first.fleet)?;
        for (own, shared) in
            [(stack.store(), first.store()), (stack.key(), first.key()), (stack.trust(), first.trust())]
        {
            if own.is_dir() {
                std::fs::remove_dir(&own)?;
            } else {
                std::fs::remove_file(&own)?;
            }
            std::os::unix::fs::symlink(shared, own)?;
        }
        Ok(stack)
    }

    /// The port of Envoy's admin address.
    pub fn admin_port(&self) -> u16 {
        self.admin
    }

    fn keygen(&self) -> Result<()> {
        let mut command = moorgate()?;
        command.arg("keygen").arg(self.key());
        run(&mut command)?.ended_with(&[0])?;
        Ok(())
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The fleet, `namespace/gateway`.
    pub fn fleet(&self) -> &str {
        &self.fleet
    }

    /// The private key that signs releases.
    pub fn key(&self) -> PathBuf {
        self.folder().join("keys/publish.key")
    }

    /// The public key that the relay trusts.
    pub fn trust(&self) -> PathBuf {
        self.folder().join("keys/publish.pub")
    }

    /// The store's folder.
    pub fn store(&self) -> PathBuf {
        self.folder().join("store")
    }

    /// The store's URL.
    pub fn store_url(&self) -> String {
        format!("file://{}", self.store().display())
    }

    /// The relay's cache.
    pub fn cache(&self) -> PathBuf {
        self.folder().join("cache")
    }

    /// The socket between relay and Envoy.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("relay.sock")
    }

    /// `moorgate` with this subcommand, told the store and whom to trust.
    pub fn command(&self, subcommand: &str) -> Result<Command> {
        let mut command = moorgate()?;
        command.arg(subcommand).env("MOORGATE_STORE", self.store_url()).env("MOORGATE_TRUST", self.trust());
        Ok(command)
    }

    /// `moorgate` with a subcommand that writes an entry: channel and key set.
    pub fn signed(&self, subcommand: &str) -> Result<Command> {
        let mut command = self.command(subcommand)?;
        command.arg("--channel").arg(CHANNEL).arg("--key").arg(format!("file:{}", self.key().display()));
        Ok(command)
    }

    /// Publishes a source: a folder or file.
    pub fn publish(&self, source: &Path) -> Result<Outcome> {
        run(self.signed("publish")?.arg(source))?.ended_with(&[0])
    }

    /// Publishes YAML documents.
    pub fn publish_documents(&self, documents: &[String]) -> Result<Outcome> {
        let file = self.folder().join("source.yaml");
        std::fs::write(&file, manifest::documents(documents))?;
        self.publish(&file)
    }

    /// Publishes YAML documents with more options.
    pub fn publish_documents_with(&self, documents: &[String], options: &[&str]) -> Result<Outcome> {
        let file = self.folder().join("source.yaml");
        std::fs::write(&file, manifest::documents(documents))?;
        run(self.signed("publish")?.args(options).arg(&file))?.ended_with(&[0])
    }

    /// The id of the snapshot that a source compiles to for this fleet.
    pub fn compiled(&self, source: &Path) -> Result<String> {
        let outcome = run(self.command("compile")?.args(["-o", "json"]).arg(source))?.ended_with(&[0, 1])?;
        let fleets = outcome.json()?["fleets"].as_array().cloned().unwrap_or_default();
        let fleet = fleets.iter().find(|fleet| fleet["fleet"] == self.fleet.as_str());
        let id = fleet.and_then(|fleet| fleet["snapshot"].as_str()).context("the fleet did not compile")?;
        Ok(id.to_owned())
    }

    /// Says where a Service's endpoints are, as an operator would beside the relay: a file that appears at once.
    pub fn set_endpoints(&self, namespace: &str, service: &str, addresses: &[SocketAddr]) -> Result<()> {
        let file = self.folder().join(format!("endpoints/{namespace}-{service}.yaml"));
        replace(&file, &manifest::endpoint_slices(namespace, service, addresses))
    }

    /// Lays a certificate and its key beside the relay.
    pub fn set_secret(&self, namespace: &str, name: &str, certificate: &Certificate) -> Result<()> {
        let folder = self.folder().join("secrets").join(namespace).join(name);
        std::fs::create_dir_all(&folder)?;
        replace(&folder.join("tls.key"), &certificate.key)?;
        replace(&folder.join("tls.crt"), &certificate.certificate)
    }

    /// The command line that starts the relay.
    pub fn relay_command(&self) -> Result<Command> {
        let relay = program::binary("moorgate-relay")?;
        let mut command = match self.relay_prefix.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg("--").arg(relay);
                command
            }
            None => Command::new(relay),
        };
        command.args(["--store", &self.store_url(), "--fleet", &self.fleet, "--channel", CHANNEL]);
        command.arg("--trust").arg(self.trust()).arg("--cache").arg(self.cache());
        command.arg("--listen").arg(format!("unix:{}", self.socket().display()));
        command.arg("--health").arg(format!("127.0.0.1:{}", self.health));
        command.arg("--endpoints").arg(self.folder().join("endpoints"));
        command.arg("--secrets").arg(self.folder().join("secrets"));
        command.arg("--admin").arg(format!("unix:{}", self.folder().join("admin.sock").display()));
        command.args(["--poll-interval", "1s"]);
        command.args(&self.relay_arguments);
        Ok(command)
    }

    /// Starts the relay and waits until it is ready.
    pub fn start_relay(&mut self) -> Result<()> {
        self.spawn_relay()?;
        crate::wait::until("the relay to be ready", || {
            self.relay()?.check()?;
            let answer = self.health("/readyz")?;
            ensure!(answer.status == 200, "/readyz: {}", String::from_utf8_lossy(&answer.body));
            Ok(())
        })
    }

    /// Starts the relay without waiting.
    pub fn spawn_relay(&mut self) -> Result<()> {
        let mut command = self.relay_command()?;
        self.relay = None;
        self.relay = Some(Running::start("relay", &mut command, &self.folder().join("logs"))?);
        Ok(())
    }

    /// The relay's process.
    pub fn relay(&mut self) -> Result<&mut Running> {
        self.relay.as_mut().context("no relay was started")
    }

    /// An answer of the relay's health address.
    pub fn health(&self, path: &str) -> Result<Answer> {
        send(&Target::plain(self.health), &Request::get("relay", path))
    }

    /// The bootstrap that `moorgate bootstrap` prints for this fleet.
    pub fn bootstrap(&self) -> Result<PathBuf> {
        self.bootstrap_at(&self.socket(), self.admin)
    }

    /// The same for an Envoy that asks at another socket, and has another admin address.
    pub fn bootstrap_at(&self, socket: &Path, admin: u16) -> Result<PathBuf> {
        let mut command = self.command("bootstrap")?;
        command.arg(&self.fleet).arg("--relay").arg(format!("unix:{}", socket.display()));
        command.arg("--admin").arg(format!("127.0.0.1:{admin}")).args(&self.bootstrap_arguments);
        if self.protocol == Protocol::StateOfTheWorld {
            command.args(["--protocol", "sotw"]);
        }
        let printed = run(&mut command)?.ended_with(&[0])?;
        let file = self.folder().join("bootstrap.json");
        std::fs::write(&file, printed.stdout)?;
        Ok(file)
    }

    /// Starts an Envoy and waits until it listens on these ports.
    pub fn start_envoy(&mut self, ports: &[u16]) -> Result<()> {
        let bootstrap = self.bootstrap()?;
        self.envoy = None;
        let logs = self.folder().join("logs");
        let envoy =
            Envoy::start_with("envoy", &self.program, &bootstrap, self.admin, &logs, &self.envoy_arguments)?;
        self.envoy.insert(envoy).wait_for_listeners(ports)
    }

    /// Ends Envoy.
    pub fn stop_envoy(&mut self) {
        self.envoy = None;
    }

    /// The running Envoy.
    pub fn envoy(&mut self) -> Result<&mut Envoy> {
        self.envoy.as_mut().context("no Envoy was started")
    }

    /// Stops Envoy and relay at once, as a machine that loses its power.
    pub fn kill_all(&mut self) {
        self.envoy = None;
        self.relay = None;
    }

    /// An answer of the relay's admin socket as JSON: `/snapshot`, `/clients`.
    pub fn relay_admin(&self, path: &str) -> Result<Value> {
        let target = Target::unix(&self.folder().join("admin.sock"));
        let answer = send(&target, &Request::get("relay", path))?;
        ensure!(answer.status == 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Waits until the relay serves this snapshot.
    pub fn wait_for_snapshot(&mut self, snapshot: &str) -> Result<()> {
        crate::wait::until(&format!("snapshot {snapshot} at the relay"), || {
            self.relay()?.check()?;
            let status = self.relay_admin("/snapshot")?;
            ensure!(status.to_string().contains(snapshot), "{status}");
            Ok(())
        })
    }
}

/// Writes a file so that a reader sees the old text or the new one.
fn replace(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().context("a file lies in a folder")?;
    let mut new = tempfile::Builder::new().prefix(".").tempfile_in(folder)?;
    std::io::Write::write_all(&mut new, text.as_bytes())?;
    new.persist(file).with_context(|| format!("writing {}", file.display()))?;
    Ok(())
}
