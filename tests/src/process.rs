//! Child processes that never outlive the value that stands for them.

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What this process has started and not yet ended, and the folders it keeps: for an end that drops no values.
static LEFT: Mutex<Left> = Mutex::new(Left { groups: BTreeSet::new(), folders: BTreeSet::new() });

struct Left {
    groups: BTreeSet<u32>,
    folders: BTreeSet<PathBuf>,
}

fn left<T>(change: impl FnOnce(&mut Left) -> T) -> T {
    change(&mut LEFT.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Has [`kill_everything`] remove this folder.
pub fn remember_folder(folder: &Path) {
    left(|left| left.folders.insert(folder.to_owned()));
}

/// Kills every program that is still running and removes the remembered folders: for a signal, before the process ends.
pub fn kill_everything() {
    left(|left| {
        for group in &left.groups {
            signal(*group, Signal::KILL);
        }
        for folder in &left.folders {
            let _ = std::fs::remove_dir_all(folder);
        }
    });
}

fn signal(group: u32, signal: Signal) {
    if let Some(group) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        // It may have ended by itself: then there is nobody left to signal.
        let _ = kill_process_group(group, signal);
    }
}

/// A running program in a process group of its own; its output goes to a file. Dropping it kills the group.
#[derive(Debug)]
pub struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a command; stdout and stderr are appended to `<logs>/<name>.log`.
    pub fn start(name: &str, command: &mut Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).context("opening a log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing a log")?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        left(|left| left.groups.insert(child.id()));
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// The process id, which is also the group's.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of its output, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}):\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Kills it at once (SIGKILL), with everything that it started.
    pub fn kill(&mut self) {
        signal(self.child.id(), Signal::KILL);
        let _ = self.child.wait();
    }

    /// Asks it to read its files again (SIGHUP).
    pub fn hang_up(&self) {
        signal(self.child.id(), Signal::HUP);
    }

    /// Asks it to end (SIGTERM) and waits; an error if it does not.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        signal(self.child.id(), Signal::TERM);
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end on SIGTERM within {within:?}:\n{}", self.name, self.tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines that it printed.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A program that was waited for may have handed its id on to a stranger.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
        left(|left| left.groups.remove(&self.child.id()));
        self.has_shown_no_key();
    }
}

impl Running {
    /// Whatever suite it was started by: a program that prints a private key has failed.
    #[allow(clippy::panic, reason = "a test ends where a secret shows")]
    fn has_shown_no_key(&self) {
        let shown = std::fs::read(&self.log).ok().and_then(|log| crate::redaction::private_material(&log));
        // A test that has failed already says more by itself.
        if let Some(shown) = shown.filter(|_| !std::thread::panicking()) {
            panic!("{} shows a private key: {shown}", self.name);
        }
    }
}
