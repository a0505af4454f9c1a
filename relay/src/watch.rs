//! File notification: a hint to look at once. Whoever uses it also looks from time to time.

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// Folders that are watched.
#[derive(Debug)]
pub struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    changed: Arc<Notify>,
}

impl Folders {
    /// Watches nothing yet. Without notification in this system, looking from time to time has to do.
    pub fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let tell = Arc::clone(&changed);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a folder is an event too, and would set off the next reading.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                tell.notify_one();
            }
        });
        let watcher =
            watcher.map_err(|error| tracing::warn!(%error, "no file notification: files are polled")).ok();
        Self { watcher, watched: BTreeSet::new(), changed }
    }

    /// Watches a folder, with those below it if asked. One that is not there yet is tried again at the next call.
    pub fn watch(&mut self, folder: &Path, deep: bool) {
        let Some(watcher) = &mut self.watcher else { return };
        if self.watched.contains(folder) && folder.exists() {
            return;
        }
        let mode = if deep { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        if watcher.watch(folder, mode).is_ok() {
            self.watched.insert(folder.to_owned());
        } else {
            self.watched.remove(folder);
        }
    }

    /// Waits for a change.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Default for Folders {
    fn default() -> Self {
        Self::new()
    }
}
