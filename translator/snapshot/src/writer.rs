//! Writing to a store: objects first, the log entry last.
//!
//! Every object but the head is created and never changed; what is there already is read back and checked. Interrupted at
//! any point, this leaves objects that nothing names.

use crate::attestation::{self, Attestation, DocumentRef};
use crate::bundle;
use crate::channel::BundleRef;
use crate::compress::compress;
use crate::cosign;
use crate::digest::Digest;
use crate::entry::{Entry, VerifiedEntry};
use crate::envelope::Envelope;
use crate::head::Head;
use crate::layout;
use crate::limits;
use crate::reader::Reader;
use crate::signature::{KeyError, Signer};
use crate::snapshot::Snapshot;
use crate::store::{FleetStore, StoreError};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use thiserror::Error;

/// Objects written at one time.
const PARALLEL: usize = 16;

/// Why something could not be written.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// More than readers accept.
    #[error("{what}: {size} bytes, and {limit} is the limit")]
    TooLarge {
        /// Which object.
        what: String,
        /// In bytes.
        size: usize,
        /// In bytes.
        limit: usize,
    },
    /// A document that is no JSON, or bytes that cannot be compressed.
    #[error("{0}")]
    Encoding(String),
}

/// How many objects and bytes went out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Objects that were not there before.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Written {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { objects: self.objects + other.objects, bytes: self.bytes + other.bytes }
    }

    /// One object of so many bytes, if it was written.
    fn of(wrote: bool, bytes: usize) -> Self {
        if wrote { Self { objects: 1, bytes: bytes as u64 } } else { Self::default() }
    }
}

/// Writes pages and manifest of a snapshot. Pages for which `reused` is true are taken to be there: the caller reads
/// all of them back before it commits. Inline pages lie in the manifest.
pub async fn write_snapshot(
    store: &FleetStore,
    snapshot: &Snapshot,
    reused: &(dyn Fn(&Digest) -> bool + Send + Sync),
) -> Result<Written, WriteError> {
    let apart = snapshot.manifest().pages().iter().zip(snapshot.pages());
    let pages = apart.filter(|(named, page)| named.inline.is_none() && !reused(&page.digest()));
    let pages: Vec<(Digest, Bytes)> = pages.map(|(_, page)| (page.digest(), page.raw().clone())).collect();
    let written: Written = futures::stream::iter(pages)
        .map(|(digest, raw)| async move { write_blob(store, layout::page(&digest), &raw).await })
        .buffer_unordered(PARALLEL)
        .try_fold(Written::default(), |sum, one| async move { Ok(sum.and(one)) })
        .await?;
    let manifest = write_blob(store, layout::manifest(&snapshot.id()), snapshot.manifest().raw()).await?;
    Ok(written.and(manifest))
}

/// Writes the bundle of a snapshot; none if it is too small for one to pay, or too large.
pub async fn write_bundle(store: &FleetStore, snapshot: &Snapshot) -> Result<Option<BundleRef>, WriteError> {
    let apart = snapshot.manifest().pages().iter().filter(|page| page.inline.is_none()).count();
    if apart < bundle::PAGES {
        return Ok(None);
    }
    let packed = bundle::pack(snapshot).map_err(|error| WriteError::Encoding(error.to_string()))?;
    let Some((name, stored)) = packed else { return Ok(None) };
    let holds = |found: &Bytes| bundle::unpack(found, &name).is_some();
    store.ensure(&layout::bundle(&name.digest), &stored, limits::BUNDLE_STORED_BYTES, holds).await?;
    Ok(Some(name))
}

/// Writes a document that an attestation will name.
pub async fn write_document(
    store: &FleetStore,
    name: &str,
    document: &impl Serialize,
) -> Result<(DocumentRef, Written), WriteError> {
    let (reference, raw) = encode_document(name, document)?;
    let written = write_blob(store, layout::document(&reference.digest), &raw).await?;
    Ok((reference, written))
}

/// What an attestation would call a document.
pub fn refer(name: &str, document: &impl Serialize) -> Result<DocumentRef, WriteError> {
    encode_document(name, document).map(|(reference, _)| reference)
}

fn encode_document(name: &str, document: &impl Serialize) -> Result<(DocumentRef, Bytes), WriteError> {
    let raw = serde_json::to_vec(document).map_err(|error| WriteError::Encoding(error.to_string()))?;
    check(&format!("document {name}"), raw.len(), limits::DOCUMENT_BYTES)?;
    let reference = DocumentRef { digest: Digest::of(&raw), size: raw.len() as u64 };
    Ok((reference, raw.into()))
}

/// Signs and writes a statement; the documents that it names must be there. Returns its digest.
pub async fn write_attestation(
    store: &FleetStore,
    statement: &Attestation,
    signer: &dyn Signer,
) -> Result<(Digest, Written), WriteError> {
    let payload = statement.payload().map_err(|error| WriteError::Encoding(error.to_string()))?;
    let stored = Bytes::from(Envelope::sign(attestation::PAYLOAD_TYPE, payload, &[signer])?.encode());
    check("attestation", stored.len(), limits::ATTESTATION_BYTES)?;
    let digest = Digest::of(&stored);
    let name = layout::attestation(&statement.snapshot, &digest);
    let wrote = store.ensure(&name, &stored, limits::ATTESTATION_BYTES, |found| *found == stored).await?;
    Ok((digest, Written::of(wrote, stored.len())))
}

/// Commits a signed entry by creating its slot. False if the slot is somebody else's. After an error it is not known
/// whether the entry is there.
pub async fn commit_entry(
    store: &FleetStore,
    entry: &Entry,
    envelope: &Envelope,
) -> Result<bool, WriteError> {
    let stored = Bytes::from(envelope.encode());
    check("log entry", stored.len(), limits::ENTRY_BYTES)?;
    let name = layout::entry(&entry.channel, entry.sequence);
    Ok(store.commit(&name, &stored, limits::ENTRY_BYTES).await?)
}

/// Points the head at an entry. The entry is committed whether this works or not.
pub async fn write_head(store: &FleetStore, entry: &Entry, envelope: Envelope) -> Result<(), WriteError> {
    let stored = Bytes::from(Head::of(envelope).encode());
    check("head", stored.len(), limits::HEAD_BYTES)?;
    Ok(store.overwrite(&layout::head(&entry.channel), stored).await?)
}

/// Writes a head that says that its entry is still the newest.
pub async fn write_renewed_head(
    store: &FleetStore,
    entry: &VerifiedEntry,
    renewal: Envelope,
) -> Result<(), WriteError> {
    let head = Head { renewal: Some(renewal), ..Head::of(entry.envelope.clone()) };
    let stored = Bytes::from(head.encode());
    check("head", stored.len(), limits::HEAD_BYTES)?;
    Ok(store.overwrite(&layout::head(&entry.entry.channel), stored).await?)
}

/// Writes the signature of a key that rebuilt a snapshot, beside its manifest.
pub async fn write_cosignature(
    store: &FleetStore,
    snapshot: &Digest,
    signer: &dyn Signer,
) -> Result<(), WriteError> {
    let stored = Bytes::from(cosign::sign(store.fleet(), snapshot, signer)?.encode());
    let name = layout::cosignature(snapshot, &signer.public().id());
    Ok(store.ensure(&name, &stored, cosign::BYTES, |found| *found == stored).await.map(drop)?)
}

/// Writes every page and the manifest of a snapshot again that does not hold in the store.
pub async fn mend(store: &FleetStore, snapshot: &Snapshot) -> Result<Written, WriteError> {
    write_snapshot(store, snapshot, &|_| false).await
}

/// Looks whether each page and the manifest of a snapshot is there, without reading it; if not, writes again what is
/// missing.
pub async fn restore(store: &FleetStore, snapshot: &Snapshot) -> Result<Written, WriteError> {
    let apart = snapshot.manifest().pages().iter().filter(|page| page.inline.is_none());
    let mut names: Vec<String> = apart.map(|page| layout::page(&page.digest)).collect();
    names.push(layout::manifest(&snapshot.id()));
    let there: Vec<bool> = futures::stream::iter(names)
        .map(|name| async move { store.stat(&name).await.map(|found| found.is_some()) })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    if there.into_iter().all(|there| there) {
        return Ok(Written::default());
    }
    mend(store, snapshot).await
}

async fn write_blob(store: &FleetStore, name: String, raw: &Bytes) -> Result<Written, WriteError> {
    let stored = compress(raw).map_err(|error| WriteError::Encoding(error.to_string()))?;
    let (digest, limit) = (Digest::of(raw), raw.len());
    let holds = |found: &Bytes| Reader::holds(found, &digest, limit);
    let wrote = store.ensure(&name, &stored, limits::stored(limit), holds).await?;
    Ok(Written::of(wrote, stored.len()))
}

fn check(what: &str, size: usize, limit: usize) -> Result<(), WriteError> {
    if size > limit { Err(WriteError::TooLarge { what: what.to_owned(), size, limit }) } else { Ok(()) }
}
