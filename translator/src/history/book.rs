//! Reading the records of releases. Everything read is kept, since neighbours share most of it.

use super::{CHAIN, CHANGE, Change, FORMAT, Item, RECORDS, Records, Wanted};
use moorgate_snapshot::attestation::{Attestation, DocumentRef};
use moorgate_snapshot::reader::ReadError;
use moorgate_snapshot::{Digest, Reader, Release};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The records of a fleet's releases.
#[derive(Debug)]
pub struct Book {
    reader: Reader,
    attestations: BTreeMap<Digest, Attestation>,
    changes: BTreeMap<Digest, Arc<Change>>,
    records: BTreeMap<Digest, Arc<Records>>,
}

/// The way from written records to a release: the records and the changes after them, in order.
type Way = (DocumentRef, Vec<Arc<Change>>);

impl Book {
    /// A book over what this reader reads.
    pub fn new(reader: Reader) -> Self {
        Self { reader, attestations: BTreeMap::new(), changes: BTreeMap::new(), records: BTreeMap::new() }
    }

    /// The signed statement of a release; none if it was released without.
    ///
    /// # Errors
    /// It cannot be read, or is not believed.
    pub async fn attestation(&mut self, release: &Release) -> Result<Option<Attestation>, ReadError> {
        let Some(digest) = release.attestation else { return Ok(None) };
        if let Some(found) = self.attestations.get(&digest) {
            return Ok(Some(found.clone()));
        }
        let found = self.reader.attestation(release).await?;
        if let Some(found) = &found {
            self.attestations.insert(digest, found.clone());
        }
        Ok(found)
    }

    /// What a release changed; none if its records do not say.
    ///
    /// # Errors
    /// As for [`Book::attestation`].
    pub async fn change(&mut self, release: &Release) -> Result<Option<Arc<Change>>, ReadError> {
        let attestation = self.attestation(release).await?;
        match attestation.and_then(|found| found.documents.get(CHANGE).copied()) {
            Some(document) => self.change_at(&document).await.map(Some),
            None => Ok(None),
        }
    }

    /// All objects of a release; none if it has no records.
    ///
    /// # Errors
    /// As for [`Book::attestation`].
    pub async fn records(&mut self, release: &Release) -> Result<Option<Records>, ReadError> {
        let Some((base, changes)) = self.way(release).await? else { return Ok(None) };
        let mut records = (*self.records_at(&base).await?).clone();
        changes.iter().for_each(|change| change.apply(&mut records));
        Ok(Some(records))
    }

    /// One object of a release: `Ok(Some(None))` if the release does not have it, `Ok(None)` if it has no records.
    ///
    /// # Errors
    /// As for [`Book::attestation`].
    pub async fn item(
        &mut self,
        release: &Release,
        wanted: &Wanted,
    ) -> Result<Option<Option<Item>>, ReadError> {
        let Some((base, changes)) = self.way(release).await? else { return Ok(None) };
        // From the newest change back: most often one of the last ones knows it.
        let in_change = |change: &Arc<Change>| {
            change.objects.iter().find(|(key, _)| wanted.fits(key)).map(|(_, changed)| changed.item.clone())
        };
        let last = changes.iter().enumerate().rev().find_map(|(at, change)| Some((at, in_change(change)?)));
        let (found, from) = if let Some((at, item)) = last {
            (item, at + 1)
        } else {
            let records = self.records_at(&base).await?;
            let found = records.objects.iter().find(|(key, _)| wanted.fits(key));
            (found.map(|(_, item)| item.clone()), 0)
        };
        let later = changes.get(from..).unwrap_or_default();
        Ok(Some(found.map(|item| later.iter().fold(item, |item, change| change.shifted(item)))))
    }

    async fn way(&mut self, release: &Release) -> Result<Option<Way>, ReadError> {
        let Some(attestation) = self.attestation(release).await? else { return Ok(None) };
        let Some(base) = attestation.documents.get(RECORDS).copied() else { return Ok(None) };
        let mut next = attestation.documents.get(CHANGE).copied();
        let mut changes = Vec::new();
        while let Some(document) = next {
            let change = self.change_at(&document).await?;
            if change.depth == 0 {
                break;
            }
            if change.depth > CHAIN || changes.len() as u64 >= u64::from(CHAIN) {
                return Err(damaged(&self.reader, &document, "too many changes in a row"));
            }
            next = change.before;
            changes.push(change);
        }
        changes.reverse();
        Ok(Some((base, changes)))
    }

    async fn change_at(&mut self, document: &DocumentRef) -> Result<Arc<Change>, ReadError> {
        if let Some(found) = self.changes.get(&document.digest) {
            return Ok(found.clone());
        }
        let change: Arc<Change> = Arc::new(read(&self.reader, document).await?);
        self.changes.insert(document.digest, change.clone());
        Ok(change)
    }

    async fn records_at(&mut self, document: &DocumentRef) -> Result<Arc<Records>, ReadError> {
        if let Some(found) = self.records.get(&document.digest) {
            return Ok(found.clone());
        }
        let records: Arc<Records> = Arc::new(read(&self.reader, document).await?);
        self.records.insert(document.digest, records.clone());
        Ok(records)
    }
}

/// What every document starts with.
#[derive(Deserialize)]
struct Start {
    format_version: u32,
}

async fn read<T: DeserializeOwned>(reader: &Reader, document: &DocumentRef) -> Result<T, ReadError> {
    let raw = reader.document(document).await?;
    let malformed = |error: serde_json::Error| damaged(reader, document, &error.to_string());
    let start: Start = serde_json::from_slice(&raw).map_err(malformed)?;
    if start.format_version != FORMAT {
        let reason = format!("format {} is unknown to this program: upgrade it", start.format_version);
        return Err(damaged(reader, document, &reason));
    }
    serde_json::from_slice(&raw).map_err(malformed)
}

fn damaged(reader: &Reader, document: &DocumentRef, reason: &str) -> ReadError {
    let path = reader.store().describe(&moorgate_snapshot::layout::document(&document.digest));
    ReadError::Damaged { path, reason: reason.to_owned() }
}
