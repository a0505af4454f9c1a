//! The publisher's side: what it is about to name and gc has condemned is written again before the commit, and looked
//! after behind it.

use super::{NOTE_BYTES, OBJECTS, place};
use crate::channel::Release;
use crate::layout;
use crate::limits;
use crate::reader::{ReadError, Reader};
use crate::snapshot::Snapshot;
use crate::store::{FleetStore, StoreError};
use crate::writer::{self, WriteError, Written};
use bytes::Bytes;
use std::collections::BTreeSet;

/// What was condemned, in the bytes of the store.
#[derive(Debug, Default)]
pub struct Guard {
    rescued: Vec<(String, Bytes)>,
}

/// Takes what these releases need from gc's list, before an entry names them. Costs one request where gc never ran.
///
/// # Errors
/// An object of them is missing or damaged, or the store failed: the entry must not be written.
pub async fn guard(reader: &Reader, releases: &[Release]) -> Result<Guard, ReadError> {
    let store = reader.store();
    let mut guard = Guard::default();
    if releases.is_empty() || !is_collected(store).await? {
        return Ok(guard);
    }
    let mut names = BTreeSet::new();
    for release in releases {
        let manifest = reader.manifest(&release.snapshot).await?;
        names.insert((layout::manifest(&release.snapshot), release.snapshot, limits::MANIFEST_BYTES));
        let apart = manifest.pages().iter().filter(|page| page.inline.is_none());
        names.extend(apart.map(|page| (layout::page(&page.digest), page.digest, page.size)));
    }
    let condemned = condemned(store).await?;
    let held = |name: &String| condemned.as_ref().is_none_or(|condemned| condemned.contains(name));
    for (name, digest, size) in names.into_iter().filter(|(name, ..)| held(name)) {
        let mark = place::mark(&name);
        if condemned.is_none() && store.get(&mark, NOTE_BYTES).await?.is_none() {
            continue;
        }
        let stored = store.get(&name, limits::stored(size)).await?;
        let stored = stored.ok_or_else(|| ReadError::Missing(store.describe(&name)))?;
        if !Reader::holds(&stored, &digest, size) {
            let reason = "its digest is another".to_owned();
            return Err(ReadError::Damaged { path: store.describe(&name), reason });
        }
        take(store, &name, &stored).await?;
        guard.rescued.push((name, stored));
    }
    Ok(guard)
}

impl Guard {
    /// How many objects were on gc's list.
    pub fn len(&self) -> usize {
        self.rescued.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.rescued.is_empty()
    }

    /// After the commit: writes again what gc deleted after all, in the moment between its last look and its delete.
    ///
    /// # Errors
    /// The store failed.
    pub async fn settle(&self, store: &FleetStore) -> Result<u64, StoreError> {
        let mut mended = 0;
        for (name, stored) in &self.rescued {
            mended += u64::from(mend(store, name, stored).await?);
        }
        Ok(mended)
    }
}

/// After a commit: whether each object of the snapshot is there; if not, all that is missing is written again. Costs one
/// request where gc never ran.
///
/// # Errors
/// The store failed.
pub async fn recheck(store: &FleetStore, snapshot: &Snapshot) -> Result<Written, WriteError> {
    if !is_collected(store).await? {
        return Ok(Written::default());
    }
    writer::restore(store, snapshot).await
}

/// Takes an object that is about to be named from gc's list, by writing it again. Costs one request where gc never ran.
///
/// # Errors
/// The store failed: the object must not be named.
pub(crate) async fn rescue(store: &FleetStore, name: &str, stored: &Bytes) -> Result<(), StoreError> {
    if is_collected(store).await? && store.get(&place::mark(name), NOTE_BYTES).await?.is_some() {
        take(store, name, stored).await?;
    }
    Ok(())
}

/// Writes a named object again if gc deleted it after all. Costs one request where gc never ran.
///
/// # Errors
/// The store failed.
pub(crate) async fn restore(store: &FleetStore, name: &str, stored: &Bytes) -> Result<(), StoreError> {
    if is_collected(store).await? {
        mend(store, name, stored).await?;
    }
    Ok(())
}

/// Takes an object from gc's list: its bytes are young again before its mark goes.
async fn take(store: &FleetStore, name: &str, stored: &Bytes) -> Result<(), StoreError> {
    store.overwrite(name, stored.clone()).await?;
    store.delete(&place::mark(name)).await
}

/// Writes an object again if it is gone; whether it was.
async fn mend(store: &FleetStore, name: &str, stored: &Bytes) -> Result<bool, StoreError> {
    let gone = store.stat(name).await?.is_none();
    if gone {
        store.overwrite(name, stored.clone()).await?;
    }
    Ok(gone)
}

/// Whether gc has ever run here. If not, nothing is condemned, and what it condemns from now on it deletes after a delay.
async fn is_collected(store: &FleetStore) -> Result<bool, StoreError> {
    Ok(store.get(place::CLOCK, NOTE_BYTES).await?.is_some())
}

/// The condemned objects; none if they may not be listed, and then each has to be asked for.
async fn condemned(store: &FleetStore) -> Result<Option<BTreeSet<String>>, StoreError> {
    match store.objects(place::CONDEMNED, OBJECTS).await {
        Ok(marks) => Ok(Some(marks.into_iter().map(|mark| mark.name).collect())),
        Err(StoreError::Denied { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
