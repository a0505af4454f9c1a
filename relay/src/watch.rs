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
    /// Whether files that are written beside their place are not worth a look.
    skips: bool,
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

    /// The same for folders whose files are written beside their place and moved there: what has the name of such a file,
    /// with a dot before it or a number sign in it, is not told.
    pub fn of_whole_files() -> Self {
        Self { skips: true, ..Self::default() }
    }

    /// Watches a folder, with those below it if asked. One that is not there yet is tried again at the next call.
    pub fn watch(&mut self, folder: &Path, deep: bool) {
        if matches!(self.watcher, Watching::Nothing) {
            self.watcher = start(&self.changed, self.skips);
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

/// Whether all that an event is about is written beside its place.
fn is_beside(event: &notify::Event) -> bool {
    let beside = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with('.') || name.contains('#')
    };
    !event.paths.is_empty() && event.paths.iter().all(beside)
}

fn start(changed: &Arc<Notify>, skips: bool) -> Watching {
    let tell = Arc::clone(changed);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading a folder is an event too, and would set off the next reading.
        if event.is_ok_and(|event| !event.kind.is_access() && (!skips || !is_beside(&event))) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{Event, EventKind, ModifyKind, RenameMode};

    #[test]
    fn only_files_in_their_place_are_worth_a_look() {
        let event = |names: &[&str]| {
            let event = Event::new(EventKind::Modify(ModifyKind::Name(RenameMode::Both)));
            names.iter().fold(event, |event, name| event.add_path(Path::new("/log").join(name)))
        };
        for beside in [&[".tmp12"][..], &["00000007#1"], &[".a", "b#2"]] {
            assert!(is_beside(&event(beside)), "{beside:?}");
        }
        for whole in [&["00000007"][..], &[".tmp12", "00000007"], &[]] {
            assert!(!is_beside(&event(whole)), "{whole:?}");
        }
    }
}
