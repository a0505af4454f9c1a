//! The objects of a cache: manifests and pages, named by what they are.
//!
//! What is there and whole is known in memory, so that keeping a snapshot costs what is new in it. Since a disk may rot
//! under a relay that runs for months, each time a few objects are read again, those first that were not for longest.

use super::{CacheError, Disk, io_error};
use bytes::Bytes;
use moorgate_snapshot::{Digest, Manifest, Page, Snapshot, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Objects that are read again each time a snapshot is kept.
const READ_AGAIN: usize = 4;

/// What is known of the objects of a cache.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Objects that are whole and durable, with the time at which they were written or read last.
    whole: BTreeMap<Digest, u64>,
    /// Counts up.
    time: u64,
    /// The pages of manifests that were read or written, those aside that lie inside.
    pages: BTreeMap<Digest, Vec<Digest>>,
    /// Names that may not be durable yet.
    unsynced: bool,
}

impl Objects {
    /// Keeps a snapshot: pages first, the manifest last, so that a manifest that is there is whole.
    pub(super) fn put(&mut self, place: Place<'_>, snapshot: &Snapshot) -> Result<(), CacheError> {
        self.read_again(place);
        let there = place.digests()?;
        self.whole.retain(|digest, _| there.contains(digest));
        let named = apart(snapshot.manifest());
        let apart: BTreeSet<Digest> = named.iter().copied().collect();
        let mut wrote = Vec::new();
        for page in snapshot.pages().iter().filter(|page| apart.contains(&page.digest())) {
            wrote.extend(self.put_object(place, page.digest(), page.raw())?);
        }
        self.sync(place, wrote)?;
        let wrote = self.put_object(place, snapshot.id(), snapshot.manifest().raw())?;
        self.sync(place, wrote.into_iter().collect())?;
        self.pages.insert(snapshot.id(), named);
        Ok(())
    }

    /// Puts an object in its place, if it is not there, whole; its digest if it did. Its name is not durable yet.
    fn put_object(
        &mut self,
        place: Place<'_>,
        digest: Digest,
        bytes: &Bytes,
    ) -> Result<Option<Digest>, CacheError> {
        if self.whole.contains_key(&digest) || self.read(place, digest, bytes.len()).is_ok() {
            return Ok(None);
        }
        place.write(digest, bytes)?;
        self.unsynced = true;
        Ok(Some(digest))
    }

    /// Makes names durable; from then on these objects count as whole.
    fn sync(&mut self, place: Place<'_>, wrote: Vec<Digest>) -> Result<(), CacheError> {
        if self.unsynced {
            place.sync()?;
            self.unsynced = false;
        }
        for digest in wrote {
            self.note(digest);
        }
        Ok(())
    }

    fn note(&mut self, digest: Digest) {
        self.time += 1;
        self.whole.insert(digest, self.time);
    }

    /// Reads again what was not read for longest; what is damaged is no longer known.
    fn read_again(&mut self, place: Place<'_>) {
        let mut oldest: Vec<(u64, Digest)> =
            self.whole.iter().map(|(digest, time)| (*time, *digest)).collect();
        if oldest.len() > READ_AGAIN {
            oldest.select_nth_unstable(READ_AGAIN);
            oldest.truncate(READ_AGAIN);
        }
        for (_, digest) in oldest {
            let _ = self.read(place, digest, limits::MANIFEST_BYTES.max(limits::PAGE_BYTES));
        }
    }

    /// An object, whole.
    pub(super) fn read(
        &mut self,
        place: Place<'_>,
        digest: Digest,
        limit: usize,
    ) -> Result<Bytes, CacheError> {
        let read = place.read(digest, limit);
        if read.is_ok() {
            self.note(digest);
        } else {
            self.whole.remove(&digest);
        }
        read
    }

    /// A kept snapshot, with every digest checked.
    pub(super) fn get(&mut self, place: Place<'_>, id: Digest) -> Result<Snapshot, CacheError> {
        let refused = |source| CacheError::Snapshot { id, source };
        let manifest = Manifest::decode(self.read(place, id, limits::MANIFEST_BYTES)?).map_err(refused)?;
        let mut pages = Vec::new();
        for reference in manifest.pages() {
            let raw = match &reference.inline {
                Some(raw) => raw.clone(),
                None => self.read(place, reference.digest, limits::PAGE_BYTES)?,
            };
            pages.push(Page::decode(raw).map_err(refused)?);
        }
        self.pages.insert(id, apart(&manifest));
        Snapshot::from_pages(manifest, pages).map_err(refused)
    }

    /// Drops every object that none of these snapshots needs. Snapshots that cannot be read keep nothing alive.
    pub(super) fn retain(&mut self, place: Place<'_>, ids: &BTreeSet<Digest>) -> Result<(), CacheError> {
        let mut needed: BTreeSet<Digest> = BTreeSet::new();
        for id in ids {
            if !self.pages.contains_key(id) {
                let Ok(manifest) = self.read(place, *id, limits::MANIFEST_BYTES) else { continue };
                let Ok(manifest) = Manifest::decode(manifest) else { continue };
                self.pages.insert(*id, apart(&manifest));
            }
            needed.insert(*id);
            needed.extend(self.pages.get(id).into_iter().flatten());
        }
        self.pages.retain(|id, _| ids.contains(id));
        for name in place.names()? {
            if !name.parse().is_ok_and(|digest| needed.contains(&digest)) {
                place.remove(&name)?;
            }
        }
        self.whole.retain(|digest, _| needed.contains(digest));
        Ok(())
    }
}

/// The pages that do not lie inside the manifest.
fn apart(manifest: &Manifest) -> Vec<Digest> {
    let apart = manifest.pages().iter().filter(|page| page.inline.is_none());
    apart.map(|page| page.digest).collect()
}

/// Where the objects lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'c> {
    pub folder: &'c Path,
    pub disk: &'c dyn Disk,
}

impl Place<'_> {
    fn objects(&self) -> PathBuf {
        self.folder.join("objects")
    }

    pub(super) fn path(&self, digest: Digest) -> PathBuf {
        self.objects().join(digest.to_string())
    }

    fn names(&self) -> Result<Vec<String>, CacheError> {
        let folder = self.objects();
        self.disk.names(&folder).map_err(io_error(&folder))
    }

    fn digests(&self) -> Result<BTreeSet<Digest>, CacheError> {
        Ok(self.names()?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// An object; one that is not what its name says is damaged.
    fn read(&self, digest: Digest, limit: usize) -> Result<Bytes, CacheError> {
        let path = self.path(digest);
        let bytes = self.disk.read(&path, limit as u64).map_err(io_error(&path))?;
        if Digest::of(&bytes) == digest { Ok(bytes.into()) } else { Err(CacheError::Damaged { path }) }
    }

    fn write(&self, digest: Digest, bytes: &Bytes) -> Result<(), CacheError> {
        super::place(self.disk, self.folder, &format!("objects/{digest}"), bytes)
    }

    fn remove(&self, name: &str) -> Result<(), CacheError> {
        let path = self.objects().join(name);
        self.disk.remove(&path).map_err(io_error(&path))
    }

    fn sync(&self) -> Result<(), CacheError> {
        let folder = self.objects();
        self.disk.sync_folder(&folder).map_err(io_error(&folder))
    }
}
