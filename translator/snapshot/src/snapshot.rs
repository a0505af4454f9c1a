//! Snapshots: a manifest and its pages.

use crate::digest::Digest;
use crate::limits::{self, Usage};
use crate::manifest::{Manifest, OLDEST_ENVOY};
use crate::page::{self, Page};
use crate::record::{Key, Record};
use crate::shape::same_resource;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use thiserror::Error;

/// The configuration of a fleet at one moment, whole and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    manifest: Manifest,
    pages: Vec<Page>,
}

/// Why records, pages or a manifest are no snapshot.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SnapshotError {
    /// Two records have the same key.
    #[error("{0} is there twice")]
    Duplicate(String),
    /// A record has no name or no type.
    #[error("a record without a name or type")]
    Unnamed,
    /// A later part whose resource lacks its first part.
    #[error("{0} lacks its first part")]
    FirstPart(String),
    /// The references of a resource do not rise.
    #[error("the references of {0} are not sorted")]
    RefsNotSorted(String),
    /// A binding whose source does not fit its kind.
    #[error("the source of {0} does not fit its kind")]
    BindingSource(String),
    /// A single record is too large for a page.
    #[error("{name} takes more than {limit} bytes")]
    RecordTooLarge {
        /// The record.
        name: String,
        /// In bytes.
        limit: usize,
    },
    /// A resource, its parts together, is too large.
    #[error("{name} takes {size} bytes in all, more than {limit}")]
    ResourceTooLarge {
        /// The resource.
        name: String,
        /// In bytes.
        size: usize,
        /// In bytes.
        limit: usize,
    },
    /// A limit of [`limits`] is passed.
    #[error("more than {limit} {what}")]
    Limit {
        /// What is limited.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// Bytes that are no message of this kind.
    #[error("no valid {0}")]
    Malformed(&'static str),
    /// A message that is encoded in another way than ours.
    #[error("the {0} is not in canonical form")]
    NotCanonical(&'static str),
    /// Keys that do not rise.
    #[error("records or pages are not in order")]
    NotSorted,
    /// A page that is not what the manifest says.
    #[error("page {0} is not what the manifest says")]
    PageMismatch(Digest),
    /// A format from the future.
    #[error("format {0} is newer than this program: upgrade it")]
    Format(u32),
    /// A feature from the future.
    #[error("feature {0:?} is unknown to this program: upgrade it")]
    Feature(String),
}

impl SnapshotError {
    /// Whether a newer program would understand what this one refuses.
    pub fn needs_upgrade(&self) -> bool {
        matches!(self, Self::Format(_) | Self::Feature(_))
    }
}

impl Snapshot {
    /// Sorts the records, checks them and the limits, and cuts them into pages. The result depends on the set of
    /// records only.
    pub fn build(records: Vec<Record>) -> Result<Self, SnapshotError> {
        Self::build_for(records, None)
    }

    /// The same with the oldest Envoy that understands the records, `major.minor`, if some that this version supports do not.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_for(mut records: Vec<Record>, oldest_envoy: Option<&str>) -> Result<Self, SnapshotError> {
        if records.len() as u64 > limits::SNAPSHOT_RECORDS {
            return Err(SnapshotError::Limit { what: "records", limit: limits::SNAPSHOT_RECORDS });
        }
        records.iter().try_for_each(page::check)?;
        records.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        if let Some(pair) = records.windows(2).find(|pair| pair[0].key() == pair[1].key()) {
            return Err(SnapshotError::Duplicate(pair[0].key().to_string()));
        }
        let pages = page::cut(records);
        let manifest = Manifest::of(&pages, oldest_envoy.unwrap_or(OLDEST_ENVOY))?;
        Self::checked(manifest, pages)
    }

    /// Puts a manifest and its pages together, in the manifest's order, and checks that each page is the one named and
    /// that keys rise from page to page.
    pub fn from_pages(manifest: Manifest, pages: Vec<Page>) -> Result<Self, SnapshotError> {
        if manifest.pages().len() != pages.len() {
            return Err(SnapshotError::Malformed("snapshot"));
        }
        for (named, page) in manifest.pages().iter().zip(&pages) {
            if !named.describes(page) {
                return Err(SnapshotError::PageMismatch(named.digest));
            }
        }
        Self::checked(manifest, pages)
    }

    fn checked(manifest: Manifest, pages: Vec<Page>) -> Result<Self, SnapshotError> {
        let snapshot = Self { manifest, pages };
        if snapshot.manifest.bytes() > limits::SNAPSHOT_BYTES {
            return Err(SnapshotError::Limit {
                what: "bytes of the snapshot",
                limit: limits::SNAPSHOT_BYTES,
            });
        }
        snapshot.check_order()?;
        if let Some((key, size)) = snapshot.largest().filter(|(_, size)| *size > limits::RESOURCE_BYTES) {
            let name = Key { part: "", ..key }.to_string();
            return Err(SnapshotError::ResourceTooLarge { name, size, limit: limits::RESOURCE_BYTES });
        }
        Ok(snapshot)
    }

    /// Keys rise from page to page, as they do inside each, and later parts follow their resource.
    fn check_order(&self) -> Result<(), SnapshotError> {
        let mut last: Option<Key<'_>> = None;
        for page in &self.pages {
            let Some(first) = page.records().first().map(Record::key) else { continue };
            if last.is_some_and(|last| last >= first) {
                return Err(SnapshotError::NotSorted);
            }
            if page.continues() && !last.is_some_and(|last| same_resource(&last, &first)) {
                return Err(SnapshotError::FirstPart(first.to_string()));
            }
            if let Some(orphan) = page.shape().orphan.and_then(|index| page.records().get(index)) {
                return Err(SnapshotError::FirstPart(orphan.key().to_string()));
            }
            last = page.records().last().map(Record::key);
        }
        Ok(())
    }

    /// The largest resource, its parts together, and its bytes.
    fn largest(&self) -> Option<(Key<'_>, usize)> {
        let mut largest: Option<(Key<'_>, usize)> = None;
        let mut open = 0;
        for page in &self.pages {
            let shape = page.shape();
            let of = |index: usize, size: usize| Some((page.records().get(index)?.key(), size));
            let head = if page.continues() { open + shape.head } else { shape.head };
            let here = [of(0, head), of(shape.largest.0, shape.largest.1)];
            for (key, size) in here.into_iter().flatten() {
                if largest.is_none_or(|(_, most)| size > most) {
                    largest = Some((key, size));
                }
            }
            open = if shape.single { head } else { shape.tail };
        }
        largest
    }

    /// The digest of the manifest: equal ids, equal configuration.
    pub fn id(&self) -> Digest {
        self.manifest.id()
    }

    /// The list of pages.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The pages, by key.
    pub fn pages(&self) -> &[Page] {
        &self.pages
    }

    /// All records, by key.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.pages.iter().flat_map(Page::records)
    }

    /// How much of each limit it uses.
    pub fn usage(&self) -> Usage {
        Usage {
            records: self.manifest.records(),
            bytes: self.manifest.bytes(),
            manifest_bytes: self.manifest.raw().len() as u64,
            largest_resource: self.largest().map_or(0, |(_, size)| size as u64),
            largest_record: self.pages.iter().map(|page| page.shape().heaviest as u64).max().unwrap_or(0),
        }
    }

    /// What differs from this snapshot to `next`, by key. Pages that both have are not looked at.
    pub fn diff<'a>(&'a self, next: &'a Snapshot) -> Vec<Change<'a>> {
        let digests = |snapshot: &Snapshot| snapshot.pages.iter().map(Page::digest).collect::<BTreeSet<_>>();
        let (old, new) = (digests(self), digests(next));
        let rest = |snapshot: &'a Snapshot, other: BTreeSet<Digest>| {
            snapshot.pages.iter().filter(move |page| !other.contains(&page.digest())).flat_map(Page::records)
        };
        let (mut before, mut after) = (rest(self, new).peekable(), rest(next, old).peekable());
        let mut changes = Vec::new();
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return changes,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.key().cmp(&new.key()),
            };
            let (old, new) = match order {
                Ordering::Less => (before.next(), None),
                Ordering::Greater => (None, after.next()),
                Ordering::Equal => (before.next(), after.next()),
            };
            if old != new {
                changes.push(Change { before: old, after: new });
            }
        }
    }
}

/// One record that differs between two snapshots: added, removed or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// The record as it was; none if it is new.
    pub before: Option<&'a Record>,
    /// The record as it is; none if it is gone.
    pub after: Option<&'a Record>,
}

#[cfg(test)]
mod tests;
