//! File notification: a hint to look at once. Whoever uses it also looks from time to time.

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// Folders that are watched.
#[derive(Debug, Default)]
pub struct Folders {
    watcher: Watching,
    watched: BTreeSet<PathBuf>,
    changed: Arc<Notify>,
}

/// The system's notification, from the first folder on.
#[derive(Debug, Default)]
enum Watching {
    #[default]
    Nothing,
    Impossible,
    By(RecommendedWatcher),
}

impl Folders {
    /// Watches nothing yet. Without notification in this system, looking from time to time has to do.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches a folder, with those below it if asked. One that is not there yet is tried again at the next call.
    pub fn watch(&mut self, folder: &Path, deep: bool) {
        if matches!(self.watcher, Watching::Nothing) {
            self.watcher = start(&self.changed);
        }
        let Watching::By(watcher) = &mut self.watcher else { return };
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

fn start(changed: &Arc<Notify>) -> Watching {
    let tell = Arc::clone(changed);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a folder is an event too, and would set off the next reading.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            tell.notify_one();
        }
    });
    match watcher {
        Ok(watcher) => Watching::By(watcher),
        Err(error) => {
            tracing::warn!(%error, "no file notification: files are polled");
            Watching::Impossible
        }
    }
}
