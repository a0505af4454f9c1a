//! The records beside a snapshot: this release's change, and all objects where the row of changes got long.

use super::{Offer, PublishError, Publisher};
use crate::history::{Book, CHAIN, CHANGE, Change, Previous, RECORDS, Records};
use moorgate_snapshot::attestation::{Attestation, DocumentRef};
use moorgate_snapshot::writer::{self, Written};
use moorgate_snapshot::{Digest, Release};
use serde_json::Value;
use std::collections::BTreeMap;

/// All objects are written anew if more than one in so many of them changed.
const SHARE: usize = 4;
/// Documents of more bytes lie beside the statement, compressed, and unchanged ones are stored once.
const INLINE: usize = 4 << 10;
/// So many shifts of lines take about the room of one object.
const SHIFTS: usize = 8;

/// Where the records of the release before are.
struct Parent {
    previous: Previous,
    records: Records,
    /// The document with all objects that its changes start from.
    base: DocumentRef,
    /// Its own change, and how many there are on the way to it.
    change: (DocumentRef, u32),
    /// All its documents that lie apart, by name.
    documents: BTreeMap<String, DocumentRef>,
}

impl Publisher<'_> {
    /// Writes the records and the signed statement over them, and reads back what it wrote.
    pub(super) async fn attest(
        &self,
        offer: &Offer<'_>,
        parent: Option<&Release>,
    ) -> Result<(Digest, Written), PublishError> {
        let store = self.reader.store();
        let parent = match parent {
            Some(parent) => self.parent(parent).await,
            None => None,
        };
        let none = Records::default();
        let before = parent.as_ref().map_or(&none, |parent| &parent.records);
        let mut change = Change::between(before, &offer.records);
        change.previous = parent.as_ref().map(|parent| parent.previous.clone());
        let base =
            parent.as_ref().filter(|parent| parent.change.1 < CHAIN && is_small(&change, &offer.records));
        let mut written = Written::default();
        let base = if let Some(parent) = base {
            change.depth = parent.change.1 + 1;
            change.before = Some(parent.change.0);
            parent.base
        } else {
            let (base, wrote) = writer::write_document(store, RECORDS, &offer.records).await?;
            self.reader.document(&base).await?;
            written = written.and(wrote);
            base
        };
        let (named, wrote) = writer::write_document(store, CHANGE, &change).await?;
        self.reader.document(&named).await?;
        let mut statement = Attestation {
            fleet: store.fleet().clone(),
            snapshot: offer.snapshot.id(),
            documents: BTreeMap::from([(RECORDS.to_owned(), base), (CHANGE.to_owned(), named)]),
            inline: BTreeMap::new(),
            provenance: offer.provenance.clone(),
        };
        for (name, document) in &offer.documents {
            if document.to_string().len() <= INLINE {
                statement.inline.insert(name.clone(), document.clone());
                continue;
            }
            let there = parent.as_ref().and_then(|parent| parent.documents.get(name));
            let named = if let Some(named) = self.still_there(there, name, document).await? {
                named
            } else {
                let (named, wrote) = writer::write_document(store, name, document).await?;
                self.reader.document(&named).await?;
                written = written.and(wrote);
                named
            };
            statement.documents.insert(name.clone(), named);
        }
        let (digest, signed) = writer::write_attestation(store, &statement, self.signer).await?;
        Ok((digest, written.and(wrote).and(signed)))
    }

    /// The document of the release before if it is the same and holds: it is not sent again.
    async fn still_there(
        &self,
        there: Option<&DocumentRef>,
        name: &str,
        document: &Value,
    ) -> Result<Option<DocumentRef>, PublishError> {
        let wanted = writer::refer(name, document)?;
        let same = there == Some(&wanted);
        Ok((same && self.reader.document(&wanted).await.is_ok()).then_some(wanted))
    }

    /// The records of the release before; none if they cannot be read, and then this release stands for itself.
    async fn parent(&self, release: &Release) -> Option<Parent> {
        let mut book = Book::new(self.reader.clone());
        let read = async {
            let Some(attestation) = book.attestation(release).await? else { return Ok(None) };
            let (Some(change), Some(records)) = (book.change(release).await?, book.records(release).await?)
            else {
                return Ok(None);
            };
            Ok(Some((attestation, change, records)))
        };
        let (attestation, change, records) = match read.await {
            Ok(found) => found?,
            Err::<_, moorgate_snapshot::ReadError>(error) => {
                tracing::warn!(%error, "no records of the release before: all are written anew");
                return None;
            }
        };
        let document = |name: &str| attestation.documents.get(name).copied();
        Some(Parent {
            previous: Previous { snapshot: release.snapshot, attestation: release.attestation },
            records,
            base: document(RECORDS)?,
            change: (document(CHANGE)?, change.depth),
            documents: attestation.documents.clone(),
        })
    }
}

/// Whether a change is small beside all objects.
fn is_small(change: &Change, records: &Records) -> bool {
    let shifts: usize = change.shifts.values().map(Vec::len).sum();
    let changed = change.objects.len().saturating_add(shifts / SHIFTS);
    changed.saturating_mul(SHARE) <= records.objects.len().max(SHARE)
}
