//! A machine on which operators work: a folder with keys, a store on disk, sources, and a real relay.

use crate::http::{Request, Target, send};
use crate::manifest::{self, Listener};
use crate::process::Running;
use crate::program::{Outcome, binary, root, run};
use crate::{ports, wait};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// The fleet of its source.
pub const FLEET: &str = "shop/edge";

/// A machine; dropping it ends the relay and removes the folder.
#[derive(Debug)]
pub struct Machine {
    relay: Option<Running>,
    folder: TempDir,
    health: u16,
}

/// A shell block of a page.
struct Block {
    background: bool,
    script: String,
}

fn blocks(page: &str) -> Result<Vec<Block>> {
    let text = std::fs::read_to_string(root().join("deploy/runbooks").join(page)).context(page.to_owned())?;
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        match (&mut open, bare.strip_prefix("```")) {
            (None, Some(info)) if info.starts_with("sh") => {
                open = Some(Block { background: info == "sh background", script: String::new() });
            }
            (None, _) => {}
            (Some(_), Some("")) => found.extend(open.take()),
            (Some(block), _) => {
                block.script += bare;
                block.script.push('\n');
            }
        }
    }
    ensure!(open.is_none() && found.len() > 2, "{page}: {} blocks", found.len());
    Ok(found)
}

impl Machine {
    /// An empty one, with a source.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("moorgate-").tempdir()?;
        crate::process::remember_folder(folder.path());
        let machine = Self { relay: None, folder, health: ports::free()? };
        std::fs::create_dir(machine.path("gateways"))?;
        std::fs::create_dir(machine.path("logs"))?;
        machine.write(0)?;
        Ok(machine)
    }

    /// A machine on which the first page was followed: trust, one release, a relay.
    pub fn started() -> Result<Self> {
        let mut machine = Self::new()?;
        machine.follow("first-start.md")?;
        machine.serves(1)?;
        Ok(machine)
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The source with so many routes that differ.
    pub fn write(&self, turn: usize) -> Result<()> {
        let gateway = manifest::gateway("shop", "edge", &[Listener::http("http", 8080)]);
        let rules = manifest::rule(&format!("/{turn}"), "web");
        let route = manifest::http_route("shop", "web", FLEET, &["shop.example.com"], &rules);
        let all = [manifest::gateway_class(), gateway, route, manifest::service("shop", "web")];
        Ok(std::fs::write(self.path("gateways/all.yaml"), manifest::documents(&all))?)
    }

    /// A shell script, with the programs on its path and store and trust in its environment.
    pub fn shell(&self, script: &str) -> Result<Command> {
        let programs = binary("moorgate")?;
        let programs = programs.parent().context("a program lies in a folder")?;
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.folder.path());
        command.env("PATH", format!("{}:/usr/bin:/bin", programs.display()));
        command.env("MOORGATE_STORE", format!("file://{}", self.path("store").display()));
        command.env("HEALTH_PORT", self.health.to_string());
        if self.path("trust.json").exists() {
            command.env("MOORGATE_TRUST", "trust.json");
        }
        for name in ["MOORGATE_KEY", "MOORGATE_ROOT_KEY", "MOORGATE_COSIGN_KEY"] {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// Runs a script that must succeed.
    pub fn run(&self, script: &str) -> Result<Outcome> {
        run(&mut self.shell(script)?)?.ended_with(&[0]).context(script.to_owned())
    }

    /// Runs the blocks of a page in order.
    pub fn follow(&mut self, page: &str) -> Result<()> {
        for block in blocks(page)? {
            if block.background {
                let mut command = self.shell(&format!("exec {}", block.script))?;
                self.relay = Some(Running::start("relay", &mut command, &self.path("logs"))?);
            } else {
                self.run(&block.script).with_context(|| page.to_owned())?;
            }
        }
        Ok(())
    }

    /// What the relay says of its fleet.
    pub fn status(&self) -> Result<Value> {
        let answer = send(&Target::unix(&self.path("admin.sock")), &Request::get("relay", "/snapshot"))?;
        let status: Value = serde_json::from_slice(&answer.body)?;
        let fleets = [&status["fleets"][0], &status[0], &status];
        let found = fleets.into_iter().find(|value| value["sequence"].is_number());
        Ok(found.with_context(|| status.to_string())?.clone())
    }

    /// Waits until the relay has taken this entry, and serves what the store's log says.
    pub fn serves(&mut self, sequence: u64) -> Result<Value> {
        wait::until(&format!("entry {sequence} at the relay"), || {
            self.relay.as_mut().context("no relay")?.check()?;
            let status = self.status()?;
            // The entry comes first, its snapshot after it.
            let in_force = ["target", "pin"].iter().any(|because| status["because"] == *because);
            if status["sequence"].as_u64() != Some(sequence) || !in_force {
                // It would look within a minute by itself.
                self.reload()?;
                bail!("{status}");
            }
            Ok(status)
        })
    }

    /// Has the relay look at its files, the store's log and the chain of trust at once.
    pub fn reload(&self) -> Result<()> {
        let relay = self.relay.as_ref().context("no relay")?;
        let process = Pid::from_raw(i32::try_from(relay.id())?).context("a process id")?;
        Ok(kill_process(process, Signal::HUP)?)
    }

    /// The value of a metric of the relay with these words in its labels.
    pub fn metric(&self, name: &str, words: &str) -> Result<f64> {
        let answer = send(&Target::plain(self.health), &Request::get("relay", "/metrics"))?;
        let text = String::from_utf8(answer.body.to_vec())?;
        let line = text.lines().find(|line| line.starts_with(name) && line.contains(words));
        let line = line.with_context(|| format!("no {name} with {words} in\n{text}"))?;
        Ok(line.rsplit(' ').next().context("a value")?.parse()?)
    }

    /// Publishes the source's next turn with this key.
    pub fn publish(&self, turn: usize, key: &str) -> Result<()> {
        self.write(turn)?;
        self.run(&format!("moorgate publish gateways/ --key file:{key}"))?;
        Ok(())
    }
}
