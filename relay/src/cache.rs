//! What a relay keeps on disk, so that it can always serve again: snapshots, its own memory, and the last endpoints.
//!
//! ```text
//! <cache>/<fleet>/lock
//!                 state, state.previous      what was verified and what is served (see `State`)
//!                 objects/<digest>           manifests and pages, uncompressed, named by what they are
//!                 endpoints                  the last endpoint sets
//!                 late                       the store's own endpoints and secrets, as they came: sealed
//!                 pin                        a snapshot id, by hand
//! ```
//! Every file is written beside its place, synced, and moved there; whatever is read is checked against its digest
//! before it is used. Damage costs the newest generation, never the service: an older one is tried. A disk that is full
//! or takes no writes costs the safety of the next restart only.

mod disk;
mod objects;
mod state;

pub use disk::{Disk, LocalDisk};
pub use state::{Refused, RefusedValue, State, Wave};

use bytes::Bytes;
use moorgate_snapshot::{Digest, FleetName, Snapshot, SnapshotError};
use objects::{Objects, Place};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// Something about the cache that failed. Serving goes on from memory.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another relay uses this folder.
    #[error("{path}: another relay uses this cache")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// A file does not hold what its name says.
    #[error("{path}: damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The parts are whole, but make no snapshot.
    #[error("snapshot {id}: {source}")]
    Snapshot {
        /// The snapshot.
        id: Digest,
        /// Why.
        source: SnapshotError,
    },
}

/// The largest record of what a relay remembers.
const MAX_STATE: u64 = 16 << 20;
/// The largest record of endpoint sets.
const MAX_ENDPOINTS: u64 = 1 << 30;

/// A cache that several tasks use.
pub type SharedCache = Arc<Mutex<Cache>>;

/// The cache of one fleet; only one relay has it open.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    disk: Box<dyn Disk>,
    /// None on a disk that takes no writes: nobody can spoil anything there.
    lock: Option<File>,
    objects: Mutex<Objects>,
}

/// The endpoint sets as they were last served.
#[derive(Debug, Default, Serialize, Deserialize)]
struct EndpointFile {
    digest: Option<Digest>,
    sets: BTreeMap<Arc<str>, Vec<u8>>,
}

impl Cache {
    /// Opens the folder of a fleet and locks it.
    ///
    /// # Errors
    /// The folder cannot be made, or another relay has it.
    pub fn open(root: &Path, fleet: &FleetName) -> Result<Self, CacheError> {
        let folder = root.join(fleet.socket_name());
        let objects = folder.join("objects");
        // Configuration is nobody else's business: only this user may look.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&objects);
        made.map_err(io_error(&objects))?;
        let path = folder.join("lock");
        let opened = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = match opened {
            Ok(lock) => Some(lock),
            Err(error) if takes_no_writes(&error) => None,
            Err(error) => return Err(io_error(&path)(error)),
        };
        match lock.as_ref().map(File::try_lock) {
            None | Some(Ok(())) => Ok(Self::on(folder, Box::new(LocalDisk), lock)),
            Some(Err(fs::TryLockError::WouldBlock)) => Err(CacheError::Locked { path: folder }),
            Some(Err(fs::TryLockError::Error(source))) => Err(CacheError::Io { path, source }),
        }
    }

    fn on(folder: PathBuf, disk: Box<dyn Disk>, lock: Option<File>) -> Self {
        Self { folder, disk, lock, objects: Mutex::default() }
    }

    /// Whether the disk took no writes when the cache was opened: what it holds is served, and nothing is added.
    pub fn is_read_only(&self) -> bool {
        self.lock.is_none()
    }

    /// What the relay remembered; nothing, if neither copy is whole.
    pub fn state(&self) -> State {
        let read = |name| self.read_state(name);
        read("state").or_else(|| read("state.previous")).unwrap_or_default()
    }

    /// Remembers; the copy before stays until the next time.
    ///
    /// # Errors
    /// The disk failed; the copy before is whole.
    pub fn save_state(&self, state: &State) -> Result<(), CacheError> {
        let path = self.folder.join("state");
        if self.read_state("state").is_some() {
            let previous = self.folder.join("state.previous");
            self.disk.rename(&path, &previous).map_err(io_error(&previous))?;
        }
        self.write("state", &state.encode())
    }

    fn read_state(&self, name: &str) -> Option<State> {
        let bytes = self.disk.read(&self.folder.join(name), MAX_STATE).ok()?;
        State::decode(&bytes)
    }

    /// Keeps a snapshot: pages first, the manifest last, so that a manifest that is there is whole.
    ///
    /// # Errors
    /// The disk failed.
    pub fn put(&self, snapshot: &Snapshot) -> Result<(), CacheError> {
        self.objects().put(self.place(), snapshot)
    }

    /// A kept snapshot, with every digest checked.
    ///
    /// # Errors
    /// A part is missing or damaged.
    pub fn get(&self, id: Digest) -> Result<Snapshot, CacheError> {
        self.objects().get(self.place(), id)
    }

    /// A kept page or manifest; `None` if it is missing or damaged.
    pub fn bytes(&self, digest: Digest, limit: usize) -> Option<Bytes> {
        self.object(digest, limit).ok()
    }

    /// Drops every object that none of these snapshots needs. Snapshots that cannot be read keep nothing alive.
    ///
    /// # Errors
    /// The disk failed.
    pub fn retain(&self, ids: &BTreeSet<Digest>) -> Result<(), CacheError> {
        self.objects().retain(self.place(), ids)
    }

    fn object(&self, digest: Digest, limit: usize) -> Result<Bytes, CacheError> {
        self.objects().read(self.place(), digest, limit)
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> Place<'_> {
        Place { folder: &self.folder, disk: &*self.disk }
    }

    /// Keeps endpoint sets by name, for a start without any source.
    ///
    /// # Errors
    /// The disk failed.
    pub fn save_endpoints(&self, sets: &BTreeMap<Arc<str>, Vec<u8>>) -> Result<(), CacheError> {
        let file = EndpointFile { digest: Some(endpoint_digest(sets)), sets: sets.clone() };
        let bytes = serde_json::to_vec(&file).unwrap_or_default();
        self.write("endpoints", &bytes)
    }

    /// The endpoint sets that were kept; none, if the file is missing or damaged.
    pub fn endpoints(&self) -> BTreeMap<Arc<str>, Vec<u8>> {
        let file = self.disk.read(&self.folder.join("endpoints"), MAX_ENDPOINTS).ok();
        let file: EndpointFile =
            file.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        if file.digest == Some(endpoint_digest(&file.sets)) { file.sets } else { BTreeMap::new() }
    }

    /// Where a file of the operator's may pin this fleet by hand: it holds a snapshot id.
    pub fn pin_path(&self) -> PathBuf {
        self.folder.join("pin")
    }

    /// Pins by hand.
    ///
    /// # Errors
    /// The disk failed.
    pub fn save_pin(&self, snapshot: Digest) -> Result<(), CacheError> {
        self.write("pin", format!("{snapshot}\n").as_bytes())
    }

    /// Ends a pin by hand, if there is one.
    ///
    /// # Errors
    /// The disk failed.
    pub fn remove_pin(&self) -> Result<(), CacheError> {
        let path = self.pin_path();
        match self.disk.remove(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.and_then(|()| self.disk.sync_folder(&self.folder)).map_err(io_error(&path)),
        }
    }

    /// Write beside, sync, move, sync the folder: after a power cut the file is the old one or the new one.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CacheError> {
        place(&*self.disk, &self.folder, name, bytes)?;
        self.disk.sync_folder(&self.folder).map_err(io_error(&self.folder))
    }
}

/// Write beside, sync, move.
fn place(disk: &dyn Disk, folder: &Path, name: &str, bytes: &[u8]) -> Result<(), CacheError> {
    let (path, beside) = (folder.join(name), folder.join("writing"));
    let written = disk.write(&beside, bytes).and_then(|()| disk.sync_file(&beside));
    written.map_err(io_error(&beside))?;
    disk.rename(&beside, &path).map_err(io_error(&path))
}

/// Whether the disk takes no writes, though it may well be read.
fn takes_no_writes(error: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, PermissionDenied, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), IsADirectory | PermissionDenied | ReadOnlyFilesystem | StorageFull)
}

fn endpoint_digest(sets: &BTreeMap<Arc<str>, Vec<u8>>) -> Digest {
    let lengths: Vec<[u8; 8]> = sets.values().map(|set| (set.len() as u64).to_be_bytes()).collect();
    let parts = sets.iter().zip(&lengths);
    Digest::of_parts(parts.flat_map(|((name, set), length)| [name.as_bytes(), &[0], length, set.as_slice()]))
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> CacheError + '_ {
    move |source| CacheError::Io { path: path.to_path_buf(), source }
}

#[cfg(test)]
mod power;
#[cfg(test)]
mod tests;
