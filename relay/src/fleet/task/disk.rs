//! What a fleet's task keeps on disk: snapshots, its memory, the pin of an operator.

use super::super::CommandError;
use super::super::loaded::{Loaded, lock};
use super::Task;
use crate::cache::{CacheError, SharedCache};
use moorgate_snapshot::{Digest, Snapshot};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the disk waits for what Envoys say once they have been told: one that applies a change must not share the
/// processors with what packs and writes it.
const REST: Duration = Duration::from_millis(100);

/// What is to go to the disk once Envoys have been told: waiting for a disk would be the longest part of a change. A
/// power cut in between costs what was pushed in that moment; the release before is still there.
#[derive(Debug, Default)]
pub(super) struct Owed {
    snapshots: Vec<Arc<Snapshot>>,
    state: bool,
    stay: Option<BTreeSet<Digest>>,
    /// What an entry asks for is on its way: what is owed is paid when that was pushed, or failed to come.
    awaits: bool,
    /// When it is paid.
    due: Option<Instant>,
}

impl Owed {
    fn is_nothing(&self) -> bool {
        self.snapshots.is_empty() && !self.state && self.stay.is_none()
    }
}

impl Task {
    /// When to pay the disk, if something is owed and nobody waits for a push any more.
    pub(super) fn due(&mut self) -> Option<Instant> {
        let pushed = !self.owed.awaits && self.bound.borrow().generation >= self.wanted.borrow().generation;
        if self.owed.is_nothing() || !pushed {
            return None;
        }
        Some(*self.owed.due.get_or_insert_with(|| Instant::now() + REST))
    }

    /// The disk need not wait any longer.
    pub(super) fn rested(&mut self) {
        self.owed.due = Some(Instant::now());
    }

    /// Writes what is owed: the snapshot before the memory that names it, and what is not needed goes last.
    pub(super) fn pay(&mut self) {
        let Owed { snapshots, state, stay, .. } = std::mem::take(&mut self.owed);
        let Some(cache) = self.cache.clone() else { return };
        for snapshot in snapshots {
            let result = lock(&cache).put(&snapshot);
            self.note_cache(result, "write");
        }
        if state {
            let result = lock(&cache).save_state(&self.state);
            self.note_cache(result, "state");
        }
        if let Some(stay) = stay {
            self.clean_cache(&cache, &stay);
        }
    }

    pub(super) fn pin(&mut self, snapshot: Digest) -> Result<(), CommandError> {
        self.may_pin()?;
        if !self.load(snapshot) {
            return Err(CommandError::NotCached(snapshot));
        }
        if let Some(cache) = &self.cache {
            lock(cache).save_pin(snapshot).map_err(|error| CommandError::Io(error.to_string()))?;
        }
        self.pin = Some(snapshot);
        Ok(())
    }

    pub(super) fn unpin(&mut self) -> Result<(), CommandError> {
        self.may_pin()?;
        self.pin = None;
        let removed = self.cache.as_ref().map_or(Ok(()), |cache| lock(cache).remove_pin());
        removed.map_err(|error| CommandError::Io(error.to_string()))
    }

    /// While the operator's own file pins, commands change nothing: the file would win again at once.
    fn may_pin(&self) -> Result<(), CommandError> {
        match &self.pin_file {
            Some(path) if path.exists() => Err(CommandError::PinFile(path.clone())),
            _ => Ok(()),
        }
    }

    /// Reads the pin files: the operator's own, or else that of the cache; whether what they say changed. One that holds no
    /// snapshot id takes back no pin: it may be half written.
    pub(super) fn read_pin(&mut self) -> bool {
        let own = self.pin_file.clone().filter(|path| path.exists());
        let Some(path) = own.or_else(|| self.cache.as_ref().map(|cache| lock(cache).pin_path())) else {
            return self.pin_file.is_some() && self.pin.take().is_some();
        };
        let text = match crate::bind::file::read(&path, 1024) {
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.odd_pin = false;
                return self.pin.take().is_some();
            }
            Err(_) => String::new(),
        };
        let Ok(pin) = text.trim().parse::<Digest>() else {
            if !std::mem::replace(&mut self.odd_pin, true) {
                tracing::warn!(fleet = self.label, path = %path.display(), "the pin file holds no snapshot id");
            }
            return false;
        };
        self.odd_pin = false;
        self.pin.replace(pin) != Some(pin)
    }

    /// Sees to it that a snapshot is ready to serve, from the cache if need be.
    pub(super) fn load(&mut self, id: Digest) -> bool {
        if self.loaded.contains_key(&id) {
            return true;
        }
        let Some(cache) = &self.cache else { return false };
        let snapshot = match lock(cache).get(id) {
            Ok(snapshot) => snapshot,
            Err(CacheError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return false;
            }
            Err(error) => {
                tracing::warn!(fleet = self.label, %error, "a cached snapshot is of no use");
                self.count_cache_error("read");
                return false;
            }
        };
        let before = self.current.and_then(|(id, _)| self.loaded.get(&id));
        let loaded = Loaded::new(Arc::new(snapshot), before);
        self.loaded.insert(id, loaded);
        true
    }

    /// Whether a snapshot is on its way that nothing may hold up.
    pub(super) fn await_snapshot(&mut self, awaits: bool) {
        self.owed.awaits = awaits;
    }

    pub(super) fn keep(&mut self, snapshot: &Arc<Snapshot>) {
        if self.cache.is_some() && self.failing.is_empty() {
            self.next.cache = "writing";
        }
        self.owed.snapshots.push(Arc::clone(snapshot));
    }

    /// Writes again what the disk did not take: there may be room now.
    pub(super) fn mend_cache(&mut self) {
        if self.failing.is_empty() {
            return;
        }
        let serving = self.current.and_then(|(id, _)| self.loaded.get(&id));
        if let Some(snapshot) = serving.map(|loaded| Arc::clone(&loaded.snapshot)) {
            self.keep(&snapshot);
        }
        self.save_state();
        self.note_cache(Ok(()), "clean");
    }

    pub(super) fn save_state(&mut self) {
        self.owed.state = true;
    }

    pub(super) fn keep_only(&mut self, stay: &BTreeSet<Digest>) {
        self.owed.stay = Some(stay.clone());
    }

    fn clean_cache(&mut self, cache: &SharedCache, stay: &BTreeSet<Digest>) {
        let mut kept = self.state.kept();
        kept.extend(stay);
        kept.extend(self.pin);
        // What the channel may ask for next: its pin, its target, the one before.
        let named = self.channel.iter().flat_map(moorgate_snapshot::ChannelState::releases);
        kept.extend(named.map(|release| release.snapshot));
        let result = lock(cache).retain(&kept);
        // That files could be removed says nothing of a disk that takes no writes.
        if result.is_err() {
            self.note_cache(result, "clean");
        }
    }

    /// A full or read-only disk costs the safety of a restart, not the service.
    pub(super) fn note_cache(&mut self, result: Result<(), CacheError>, operation: &'static str) {
        match result {
            Ok(()) => drop(self.failing.remove(operation)),
            Err(error) => {
                // Each is tried again with every answer of the store: one line is enough.
                if self.failing.insert(operation) {
                    tracing::warn!(fleet = self.label, %error, "the disk cache fails: served from memory");
                }
                self.count_cache_error(operation);
            }
        }
        // That the memory could be written does not bring back the snapshot that could not.
        let degraded = !self.failing.is_empty();
        self.next.cache = if degraded { "degraded" } else { "ok" };
        let value = if degraded { 1.0 } else { 0.0 };
        self.metrics.set("moorgate_relay_cache_degraded", &[("fleet", &self.label)], value);
    }

    pub(super) fn count_cache_error(&self, operation: &str) {
        let labels = [("fleet", self.label.as_str()), ("operation", operation)];
        self.metrics.count("moorgate_relay_cache_errors", &labels);
    }
}
