//! Mirrors: a channel of the first store, copied to another one.
//!
//! ```text
//! first store ──▶ objects ──▶ read back ──▶ log entries, in order ──▶ head ──▶ mirror
//! ```
//! An entry is copied as it is, signature and all, so that a mirror cannot say anything that the first store did not. A
//! mirror whose log says something else is never written to: two entries with one number are what relays refuse.

use crate::bundle;
use crate::channel::{ChannelState, Release};
use crate::cosign;
use crate::digest::Digest;
use crate::entry::{Entry, VerifiedEntry};
use crate::envelope::Envelope;
use crate::head::Head;
use crate::late::{LateError, LateStore};
use crate::layout::{self, Channel};
use crate::limits;
use crate::manifest::PageRef;
use crate::reader::{ReadError, Reader, Slot};
use crate::store::{FleetStore, Store, StoreError};
use crate::trust::Role;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::BTreeSet;
use thiserror::Error;

/// Objects copied at one time.
const PARALLEL: usize = 16;
/// The most names that are read of a log.
const SLOTS: usize = 1_000_000;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// Log entries.
    pub entries: u64,
    /// Pages, manifests, bundles, attestations, documents and late values.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Snapshots of old entries that the first store has no more.
    pub gone: u64,
}

/// Why a mirror is not what the first store is.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// The first store.
    #[error("reading the first store: {0}")]
    Source(#[source] ReadError),
    /// The mirror.
    #[error("{0}")]
    Mirror(#[source] ReadError),
    /// Two entries with one number.
    #[error(
        "entry {sequence} of {channel} is another one there than in the first store: nothing is written to it"
    )]
    Contradicts {
        /// The channel.
        channel: Channel,
        /// The slot.
        sequence: u64,
    },
    /// Late values, of either store.
    #[error("late values: {0}")]
    Late(#[source] LateError),
    /// Another chain of trust.
    #[error("trust document {0} is another one there than in the first store: nothing is written to it")]
    OtherTrust(u64),
    /// The mirror knows more.
    #[error(
        "its log of {channel} goes on to entry {mirror}, the first store's ends at {source_end}: nothing is written to it; \
         was the first store restored, or is the order of stores another one?"
    )]
    Ahead {
        /// The channel.
        channel: Channel,
        /// Its last slot.
        mirror: u64,
        /// The first store's last slot.
        source_end: u64,
    },
}

impl MirrorError {
    /// Whether something does not hold, as opposed to a store that cannot be reached.
    pub fn is_integrity(&self) -> bool {
        match self {
            Self::Source(error) | Self::Mirror(error) => error.is_integrity(),
            Self::Late(error) => !matches!(error, LateError::Store(_)),
            Self::Contradicts { .. } | Self::OtherTrust(_) | Self::Ahead { .. } => true,
        }
    }
}

/// Copies what a mirror lacks of a channel.
pub async fn mirror(from: &Reader, to: &FleetStore) -> Result<Mirrored, MirrorError> {
    let to = Reader::new(to.clone(), from.shared_trust(), from.channel().clone());
    let newest = from.newest(None).await.map_err(MirrorError::Source)?;
    let there = to.newest(None).await.map_err(MirrorError::Mirror)?;
    let (source_end, mirror) = (newest.next - 1, there.next - 1);
    let mut copy =
        Copy { from, to: &to, pages: BTreeSet::new(), others: BTreeSet::new(), done: Mirrored::default() };
    if mirror > source_end {
        return Err(MirrorError::Ahead { channel: from.channel().clone(), mirror, source_end });
    }
    let first = if mirror == 0 { first_slot(from).await? } else { mirror + 1 };
    if mirror > 0 {
        copy.compare(mirror).await?;
    }
    if let Some(entry) = &there.entry {
        copy.learn(&entry.entry.state).await;
    }
    copy.trust().await?;
    // Of entries that are there already too: a co-signature may come at any time.
    if let Some(newest) = &newest.entry {
        copy.cosigned(&newest.entry.state).await?;
    }
    // Behind the newest entry there may be slots that do not verify.
    let newest_at = newest.entry.as_ref().map(|entry| entry.entry.sequence);
    for sequence in first..=source_end {
        copy.slot(sequence, Some(sequence) == newest_at).await?;
    }
    if let Some(newest) = &newest.entry {
        copy.head(newest).await?;
    }
    copy.late().await?;
    Ok(copy.done)
}

/// The first slot that the first store still has.
async fn first_slot(from: &Reader) -> Result<u64, MirrorError> {
    let names = match from.store().list(&layout::log(from.channel()), SLOTS).await {
        Ok(names) => names,
        // Without the right to list, from the start.
        Err(StoreError::Denied { .. }) => Vec::new(),
        Err(error) => return Err(MirrorError::Source(error.into())),
    };
    Ok(names.iter().filter_map(|name| name.parse().ok()).min().unwrap_or(1))
}

struct Copy<'a> {
    from: &'a Reader,
    to: &'a Reader,
    /// Pages that the mirror has.
    pages: BTreeSet<Digest>,
    /// Bundles, attestations and their documents that the mirror has.
    others: BTreeSet<Digest>,
    done: Mirrored,
}

impl Copy<'_> {
    async fn raw(reader: &Reader, sequence: u64) -> Result<Option<Bytes>, ReadError> {
        let name = layout::entry(reader.channel(), sequence);
        Ok(reader.store().get(&name, limits::ENTRY_BYTES).await?)
    }

    /// The newest slot of the mirror must be the first store's. Entries name the one before by its digest, so that what lies
    /// behind is the same too.
    async fn compare(&self, sequence: u64) -> Result<(), MirrorError> {
        let there = Self::raw(self.to, sequence).await.map_err(MirrorError::Mirror)?;
        let here = Self::raw(self.from, sequence).await.map_err(MirrorError::Source)?;
        // A slot that was removed in the first store is old, and cannot be compared.
        if here.is_none() || here == there {
            return Ok(());
        }
        // The damage must not lie on the way.
        let again = Self::twice(self.to, sequence).await.map_err(MirrorError::Mirror)?;
        let same = Self::twice(self.from, sequence).await.map_err(MirrorError::Source)? == again;
        if same { Ok(()) } else { Err(self.contradicts(sequence)) }
    }

    /// What lies in a slot, if it reads the same twice and whole: nothing vouches for the bytes of one that does not verify.
    async fn twice(reader: &Reader, sequence: u64) -> Result<Option<Bytes>, ReadError> {
        let name = layout::entry(reader.channel(), sequence);
        let first = Self::raw(reader, sequence).await?;
        let again = Self::raw(reader, sequence).await?;
        whole(reader.store(), &name, first, again).await
    }

    fn contradicts(&self, sequence: u64) -> MirrorError {
        MirrorError::Contradicts { channel: self.from.channel().clone(), sequence }
    }

    /// Remembers what a mirror has, so that it is not sent again. A manifest is written after its pages.
    async fn learn(&mut self, state: &ChannelState) {
        for release in state.releases() {
            if let Ok(manifest) = self.to.manifest(&release.snapshot).await {
                self.pages.extend(manifest.pages().iter().map(|page| page.digest));
            }
            if let Ok(Some(attestation)) = self.to.attestation(release).await {
                self.others.extend(release.attestation);
                self.others.extend(release.bundle.map(|bundle| bundle.digest));
                self.others.extend(attestation.documents.values().map(|document| document.digest));
            }
        }
    }

    /// Copies the chain of trust, which lies beside the fleets: keys that came later sign what follows.
    async fn trust(&self) -> Result<(), MirrorError> {
        let (from, to) = (self.from.store().whole(), self.to.store().whole());
        for number in 1..=limits::TRUST_HOPS as u64 {
            let here = document(from, number).await.map_err(MirrorError::Source)?;
            let Some(here) = here else { break };
            let failed = |error: StoreError| MirrorError::Mirror(error.into());
            let same = match to.trust_document(number).await.map_err(failed)? {
                Some(there) if there == here => true,
                Some(_) => document(to, number).await.map_err(MirrorError::Mirror)?.as_ref() == Some(&here),
                None => to.commit_trust_document(number, &here).await.map_err(failed)?,
            };
            if !same {
                return Err(MirrorError::OtherTrust(number));
            }
        }
        Ok(())
    }

    /// Copies a slot, after what it names. What the newest entry names must be there.
    async fn slot(&mut self, sequence: u64, is_newest: bool) -> Result<(), MirrorError> {
        let Some(raw) = Self::twice(self.from, sequence).await.map_err(MirrorError::Source)? else {
            return Ok(());
        };
        // A slot that does not verify is copied too: a reader steps over it in both. What it names comes along if it is
        // there, for what this trust file does not know may be what another one serves.
        let (state, verified) = match self.from.slot(sequence).await.map_err(MirrorError::Source)? {
            Slot::Entry(entry) => (entry.entry.state, true),
            Slot::Void(_) | Slot::Empty => (unverified(&raw), false),
        };
        for release in state.releases() {
            match self.release(release).await {
                Err(MirrorError::Source(ReadError::Missing(_))) if !is_newest => self.done.gone += 1,
                Err(MirrorError::Source(error)) if !verified && error.is_integrity() => self.done.gone += 1,
                other => other?,
            }
        }
        let name = layout::entry(self.to.channel(), sequence);
        match self.to.store().commit(&name, &raw, limits::ENTRY_BYTES).await {
            Ok(true) => {}
            Ok(false) => return Err(self.contradicts(sequence)),
            Err(error) => return Err(MirrorError::Mirror(error.into())),
        }
        self.done.entries += 1;
        Ok(())
    }

    /// Copies a snapshot with its bundle and attestation, and reads the new pages back from the mirror.
    async fn release(&mut self, release: &Release) -> Result<(), MirrorError> {
        match self.to.manifest(&release.snapshot).await {
            Ok(manifest) => self.pages.extend(manifest.pages().iter().map(|page| page.digest)),
            Err(ReadError::Missing(_) | ReadError::Damaged { .. }) => self.snapshot(release).await?,
            Err(error) => return Err(MirrorError::Mirror(error)),
        }
        if let Some(bundle) = &release.bundle {
            let holds = |stored: &Bytes| bundle::unpack(stored, bundle).is_some();
            // It only saves requests: one that the first store has no more is no loss.
            if self.others.insert(bundle.digest) {
                let name = layout::bundle(&bundle.digest);
                self.object(&name, limits::BUNDLE_STORED_BYTES, &holds).await.or_else(
                    |error| match error {
                        MirrorError::Source(ReadError::Missing(_)) => Ok(()),
                        error => Err(error),
                    },
                )?;
            }
        }
        let Some(attestation) = self.from.attestation(release).await.map_err(MirrorError::Source)? else {
            return Ok(());
        };
        for document in attestation.documents.values() {
            if self.others.insert(document.digest) {
                let size = usize::try_from(document.size).unwrap_or(usize::MAX).min(limits::DOCUMENT_BYTES);
                self.blob(&layout::document(&document.digest), &document.digest, size).await?;
            }
        }
        if let Some(digest) = release.attestation.as_ref().filter(|digest| self.others.insert(**digest)) {
            let holds = |stored: &Bytes| Digest::of(stored) == *digest;
            let name = layout::attestation(&release.snapshot, digest);
            self.object(&name, limits::ATTESTATION_BYTES, &holds).await?;
        }
        Ok(())
    }

    async fn cosigned(&mut self, state: &ChannelState) -> Result<(), MirrorError> {
        let snapshots: BTreeSet<Digest> = state.releases().map(|release| release.snapshot).collect();
        for snapshot in snapshots {
            self.cosignatures(&snapshot).await?;
        }
        Ok(())
    }

    /// Copies what keys that may co-sign here said of a snapshot. The release carries those that it needs; others may have
    /// come later, or count after a change of trust.
    async fn cosignatures(&mut self, snapshot: &Digest) -> Result<(), MirrorError> {
        let (fleet, channel) = (self.from.store().fleet(), self.from.channel());
        for key in self.from.trust().keys().filter(|key| key.may(Role::Cosign, fleet, channel)) {
            let name = layout::cosignature(snapshot, &key.key.id());
            let get = async |reader: &Reader| match reader.store().get(&name, cosign::BYTES).await {
                Ok(found) => Ok(found),
                // Whatever that is, it is none.
                Err(StoreError::TooLarge { .. }) => Ok(None),
                Err(error) => Err(ReadError::from(error)),
            };
            let message = cosign::message(fleet, snapshot);
            let holds = |stored: &Bytes| {
                let signatures = cosign::read(stored, fleet, snapshot).unwrap_or_default();
                signatures.iter().any(|one| one.keyid == key.key.id() && key.key.verifies(&message, &one.sig))
            };
            let Some(here) = get(self.from).await.map_err(MirrorError::Source)?.filter(holds) else {
                continue;
            };
            if get(self.to).await.map_err(MirrorError::Mirror)?.is_some_and(|there| holds(&there)) {
                continue;
            }
            let written = self.to.store().overwrite(&name, here.clone()).await;
            written.map_err(|error| MirrorError::Mirror(error.into()))?;
            self.done.objects += 1;
            self.done.bytes += here.len() as u64;
        }
        Ok(())
    }

    async fn snapshot(&mut self, release: &Release) -> Result<(), MirrorError> {
        let manifest = self.from.manifest(&release.snapshot).await.map_err(MirrorError::Source)?;
        let lacking = |page: &&PageRef| page.inline.is_none() && !self.pages.contains(&page.digest);
        let pages: Vec<PageRef> = manifest.pages().iter().filter(lacking).cloned().collect();
        let (from, to) = (self.from, self.to);
        let copied: Vec<u64> = futures::stream::iter(pages)
            .map(|page| async move {
                let name = layout::page(&page.digest);
                let holds = |stored: &Bytes| Reader::holds(stored, &page.digest, page.size);
                let bytes = copy(from, to, &name, limits::stored(page.size), &holds).await?;
                to.page(&page).await.map_err(MirrorError::Mirror)?;
                Ok::<_, MirrorError>(bytes)
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        self.done.objects += copied.len() as u64;
        self.done.bytes += copied.iter().sum::<u64>();
        let size = manifest.raw().len();
        self.blob(&layout::manifest(&release.snapshot), &release.snapshot, size).await?;
        self.to.manifest(&release.snapshot).await.map_err(MirrorError::Mirror)?;
        self.pages.extend(manifest.pages().iter().map(|page| page.digest));
        Ok(())
    }

    /// A compressed object under the digest of its uncompressed bytes.
    async fn blob(&mut self, name: &str, digest: &Digest, size: usize) -> Result<(), MirrorError> {
        let holds = |stored: &Bytes| Reader::holds(stored, digest, size);
        self.object(name, limits::stored(size), &holds).await
    }

    async fn object(
        &mut self,
        name: &str,
        limit: usize,
        holds: &(dyn Fn(&Bytes) -> bool + Sync),
    ) -> Result<(), MirrorError> {
        self.done.bytes += copy(self.from, self.to, name, limit, holds).await?;
        self.done.objects += 1;
        Ok(())
    }

    /// Copies the newest index of late values, with what it names: a relay that starts at the mirror has endpoints, too.
    async fn late(&mut self) -> Result<(), MirrorError> {
        let (store, trust) = (self.from.store(), self.from.trust());
        let late = LateStore { store, trust, channel: self.from.channel() };
        let index = match late.newest().await {
            Ok(index) if index.generation > 0 => index,
            // None, or none that any relay would read.
            Ok(_) | Err(LateError::Cosigned) => return Ok(()),
            Err(error) => return Err(MirrorError::Late(error)),
        };
        let (objects, bytes) = late.copy_to(&index, self.to.store()).await.map_err(MirrorError::Late)?;
        self.done.objects += objects;
        self.done.bytes += bytes;
        Ok(())
    }

    /// Points the head at the newest entry; a renewed one is taken over.
    async fn head(&self, newest: &VerifiedEntry) -> Result<(), MirrorError> {
        let name = layout::head(self.from.channel());
        let get = async |reader: &Reader| match reader.store().get(&name, limits::HEAD_BYTES).await {
            Ok(found) => Ok(found),
            // A head of no use is written over.
            Err(StoreError::TooLarge { .. }) => Ok(None),
            Err(error) => Err(ReadError::from(error)),
        };
        let here = get(self.from).await.map_err(MirrorError::Source)?;
        let current = |stored: &Bytes| Head::decode(stored).is_ok_and(|head| head.entry == newest.envelope);
        let head = here.filter(current).unwrap_or_else(|| Head::of(newest.envelope.clone()).encode().into());
        if get(self.to).await.map_err(MirrorError::Mirror)?.as_ref() == Some(&head) {
            return Ok(());
        }
        self.to.store().overwrite(&name, head).await.map_err(|error| MirrorError::Mirror(error.into()))
    }
}

/// A document of the chain of trust, if it reads the same twice: what is copied is not verified here.
async fn document(store: &Store, number: u64) -> Result<Option<Bytes>, ReadError> {
    let first = store.trust_document(number).await?;
    let again = store.trust_document(number).await?;
    whole(&store.chain(), &layout::trust_document(number), first, again).await
}

/// What was read twice, if it is the same and as long as the store says: a body that ends early may do so each time.
async fn whole(
    store: &FleetStore,
    name: &str,
    first: Option<Bytes>,
    again: Option<Bytes>,
) -> Result<Option<Bytes>, ReadError> {
    let stored = store.stat(name).await?.map(|stat| stat.size);
    if first == again && first.as_ref().map(|first| first.len() as u64) == stored {
        return Ok(first);
    }
    let reason = "it reads differently each time".to_owned();
    Err(ReadError::Damaged { path: store.describe(name), reason })
}

/// What a slot says that does not verify; nothing if it cannot be read.
fn unverified(raw: &[u8]) -> ChannelState {
    let envelope = Envelope::decode(raw, limits::ENTRY_BYTES).ok();
    let entry = envelope.and_then(|envelope| serde_json::from_slice::<Entry>(&envelope.payload).ok());
    entry.map(|entry| entry.state).unwrap_or_default()
}

/// Copies an object that its digest verifies; returns its stored bytes.
async fn copy(
    from: &Reader,
    to: &Reader,
    name: &str,
    limit: usize,
    holds: &(dyn Fn(&Bytes) -> bool + Sync),
) -> Result<u64, MirrorError> {
    let stored = from.store().get(name, limit).await.map_err(|error| MirrorError::Source(error.into()))?;
    let path = || from.store().describe(name);
    let stored = stored.ok_or_else(|| MirrorError::Source(ReadError::Missing(path())))?;
    if !holds(&stored) {
        let reason = "its digest is another".to_owned();
        return Err(MirrorError::Source(ReadError::Damaged { path: path(), reason }));
    }
    let ensured = to.store().ensure(name, &stored, limit, holds).await;
    ensured.map_err(|error| MirrorError::Mirror(error.into()))?;
    Ok(stored.len() as u64)
}
