//! What a relay keeps on disk, so that it can always serve again: snapshots, its own memory, and the last endpoints.
//!
//! ```text
//! <cache>/<fleet>/lock
//!                 state, state.previous      what was verified and what is served (see `State`)
//!                 objects/<digest>           manifests and pages, uncompressed, named by what they are
//!                 endpoints                  the last endpoint sets
//! ```
//! Every file is written beside its place, synced, and moved there; whatever is read is checked against its digest
//! before it is used. Damage costs the newest generation, never the service: an older one is tried.

mod state;

pub use state::{Refused, State, Wave};

use bytes::Bytes;
use moorgate_snapshot::{Digest, FleetName, Manifest, Page, Snapshot, SnapshotError, limits};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
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

/// A cache that several tasks use.
pub type SharedCache = Arc<Mutex<Cache>>;

/// The cache of one fleet; only one relay has it open.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    _lock: File,
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
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&objects).map_err(io_error(&objects))?;
        let path = folder.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(CacheError::Locked { path: folder }),
            Err(fs::TryLockError::Error(source)) => Err(CacheError::Io { path, source }),
        }
    }

    /// What the relay remembered; nothing, if neither copy is whole.
    pub fn state(&self) -> State {
        let read = |name| fs::read(self.folder.join(name)).ok().and_then(|bytes| State::decode(&bytes));
        read("state").or_else(|| read("state.previous")).unwrap_or_default()
    }

    /// Remembers; the copy before stays until the next time.
    ///
    /// # Errors
    /// The disk failed; the copy before is whole.
    pub fn save_state(&self, state: &State) -> Result<(), CacheError> {
        let path = self.folder.join("state");
        if fs::read(&path).is_ok_and(|bytes| State::decode(&bytes).is_some()) {
            let previous = self.folder.join("state.previous");
            fs::rename(&path, &previous).map_err(io_error(&previous))?;
        }
        self.write("state", &state.encode())
    }

    /// Keeps a snapshot: pages first, the manifest last, so that a manifest that is there is whole.
    ///
    /// # Errors
    /// The disk failed.
    pub fn put(&self, snapshot: &Snapshot) -> Result<(), CacheError> {
        // Small pages lie inside the manifest.
        let inline: BTreeSet<Digest> = snapshot
            .manifest()
            .pages()
            .iter()
            .filter(|page| page.inline.is_some())
            .map(|page| page.digest)
            .collect();
        for page in snapshot.pages().iter().filter(|page| !inline.contains(&page.digest())) {
            self.put_object(page.digest(), page.raw())?;
        }
        self.put_object(snapshot.id(), snapshot.manifest().raw())
    }

    /// A kept snapshot, with every digest checked.
    ///
    /// # Errors
    /// A part is missing or damaged.
    pub fn get(&self, id: Digest) -> Result<Snapshot, CacheError> {
        let refused = |source| CacheError::Snapshot { id, source };
        let manifest = Manifest::decode(self.object(id, limits::MANIFEST_BYTES)?).map_err(refused)?;
        let mut pages = Vec::new();
        for reference in manifest.pages() {
            let raw = match &reference.inline {
                Some(raw) => raw.clone(),
                None => self.object(reference.digest, limits::PAGE_BYTES)?,
            };
            pages.push(Page::decode(raw).map_err(refused)?);
        }
        Snapshot::from_pages(manifest, pages).map_err(refused)
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
        let mut needed: BTreeSet<String> = BTreeSet::new();
        for id in ids {
            let Ok(manifest) = self.object(*id, limits::MANIFEST_BYTES) else { continue };
            let Ok(manifest) = Manifest::decode(manifest) else { continue };
            needed.insert(id.to_string());
            needed.extend(manifest.pages().iter().map(|page| page.digest.to_string()));
        }
        let folder = self.folder.join("objects");
        for entry in fs::read_dir(&folder).map_err(io_error(&folder))? {
            let entry = entry.map_err(io_error(&folder))?;
            if !entry.file_name().to_str().is_some_and(|name| needed.contains(name)) {
                let path = entry.path();
                fs::remove_file(&path).map_err(io_error(&path))?;
            }
        }
        Ok(())
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
        let file = super::bind::file::read(&self.folder.join("endpoints"), 1 << 30).ok();
        let file: EndpointFile =
            file.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        if file.digest == Some(endpoint_digest(&file.sets)) { file.sets } else { BTreeMap::new() }
    }

    /// Where a file of the operator's may pin this fleet by hand: it holds a snapshot id.
    pub fn pin_path(&self) -> PathBuf {
        self.folder.join("pin")
    }

    fn object_path(&self, digest: Digest) -> PathBuf {
        self.folder.join("objects").join(digest.to_string())
    }

    fn put_object(&self, digest: Digest, bytes: &Bytes) -> Result<(), CacheError> {
        if self.object(digest, bytes.len()).is_ok() {
            return Ok(());
        }
        self.write(&format!("objects/{digest}"), bytes)
    }

    fn object(&self, digest: Digest, limit: usize) -> Result<Bytes, CacheError> {
        let path = self.object_path(digest);
        let bytes = super::bind::file::read(&path, limit as u64).map_err(io_error(&path))?;
        if Digest::of(&bytes) == digest { Ok(bytes.into()) } else { Err(CacheError::Damaged { path }) }
    }

    /// Write beside, sync, move, sync the folder: after a power cut the file is the old one or the new one.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), CacheError> {
        let path = self.folder.join(name);
        let beside = self.folder.join("writing");
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)
            .map_err(io_error(&beside))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error(&beside))?;
        fs::rename(&beside, &path).map_err(io_error(&path))?;
        let folder = path.parent().unwrap_or(&self.folder);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error(folder))
    }
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
mod tests;
