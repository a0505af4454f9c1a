//! How the containers of a pod are doing, as their supervisors write it and the pod's status says it.

use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// How a container that ran has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    /// Its exit code; 128 and more for a signal.
    pub(super) code: i32,
    /// Since when it had run.
    pub(super) started: Timestamp,
    /// When it ended.
    pub(super) finished: Timestamp,
}

/// What it does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Doing {
    /// Not running, for this reason and with this message.
    Waiting(String, String),
    /// Running since.
    Running(Timestamp),
    /// Not to run again.
    Ended(Ended),
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// What it does.
    pub(super) doing: Doing,
    /// How its run before ended.
    pub(super) before: Option<Ended>,
    /// How often it was started again.
    pub(super) restarts: u32,
    /// Whether its startup probe has passed.
    pub(super) started: bool,
    /// Whether its readiness probe passes.
    pub(super) ready: bool,
}

impl Default for Line {
    fn default() -> Self {
        let doing = Doing::Waiting("ContainerCreating".to_owned(), String::new());
        Self { doing, before: None, restarts: 0, started: false, ready: false }
    }
}

/// All containers of a pod.
#[derive(Debug, Clone)]
pub(super) struct Board {
    lines: Arc<Mutex<BTreeMap<String, Line>>>,
    changed: watch::Sender<u64>,
}

impl Board {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self { lines: Arc::default(), changed: watch::channel(0).0 }
    }

    /// A container; as it will be before anybody wrote about it.
    pub(super) fn get(&self, name: &str) -> Line {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
    }

    /// Writes about a container.
    pub(super) fn write(&self, name: &str, change: impl FnOnce(&mut Line)) {
        let changed = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let line = lines.entry(name.to_owned()).or_default();
            let before = line.clone();
            change(line);
            *line != before
        };
        if changed {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// What tells of each change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
