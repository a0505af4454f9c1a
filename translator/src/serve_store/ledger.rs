//! The newest entry of each channel that relays were shown, kept in the cluster.
//!
//! ```text
//! publish ─▶ log on this disk ─▶ a relay asks ─▶ ledger: a ConfigMap, first ─▶ answer
//! a new disk, another leader:    ledger ─▶ log on that disk ─▶ publish goes on behind it
//! ```
//! A relay refuses a sequence that goes back, and a second entry with one number. So a disk may be lost and a replica may
//! take over as soon as what relays know is known elsewhere: an entry is written down before the first of them sees it, and
//! whoever begins to write begins behind what is written down. Content needs no such care: it is compiled anew from the same
//! objects, and has the same digests.

use futures::future::BoxFuture;
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::reader::{ReadError, Reader, Slot};
use moorgate_snapshot::store::StoreError;
use moorgate_snapshot::{Channel, Entry, FleetName, Store, Trust, WriteError, layout, limits, writer};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// Entries of a log that are removed at one time.
const MOST: usize = 1_000_000;

/// An entry that was written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// Whose.
    pub fleet: FleetName,
    /// Of which channel.
    pub channel: Channel,
    /// Its number.
    pub sequence: u64,
    /// The entry, as it lies in its slot of the log.
    pub entry: String,
    /// What a write has to name, so that it overwrites nobody; none if it was never written down.
    pub version: Option<String>,
}

/// Why nothing could be written down, or taken over.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// The API server.
    #[error("what relays were shown is not written down: {0}")]
    Api(String),
    /// Somebody else writes.
    #[error("another replica writes down what relays were shown of {0}")]
    Overtaken(FleetName),
    /// Two entries with one number.
    #[error("relays of {fleet} were shown another entry {sequence}")]
    Contradiction {
        /// Whose.
        fleet: FleetName,
        /// The number.
        sequence: u64,
    },
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The log on it.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Where entries are written down.
pub trait Anchors: Send + Sync {
    /// All of them.
    fn all(&self) -> BoxFuture<'_, Result<Vec<Anchor>, LedgerError>>;
    /// Writes one down in the place of the version that it names; gives the new version.
    fn write<'a>(&'a self, anchor: &'a Anchor) -> BoxFuture<'a, Result<String, LedgerError>>;
}

type Key = (FleetName, Channel);
type Place = Arc<tokio::sync::Mutex<Option<Anchor>>>;

/// What relays know.
pub struct Ledger {
    anchors: Box<dyn Anchors>,
    known: Mutex<BTreeMap<Key, Place>>,
}

#[derive(Deserialize)]
struct Numbered {
    sequence: u64,
}

impl Ledger {
    /// A ledger that lies there.
    pub fn new(anchors: impl Anchors + 'static) -> Self {
        Self { anchors: Box::new(anchors), known: Mutex::default() }
    }

    /// Before this replica writes anything: what is written down is the end of the log on this disk, whatever was there.
    pub async fn take_over(&self, store: &Store, trust: &Arc<Trust>) -> Result<(), LedgerError> {
        let anchors = self.anchors.all().await?;
        let mut known = BTreeMap::new();
        for anchor in anchors {
            let part = store.fleet(&anchor.fleet);
            let reader = Reader::new(part, Arc::clone(trust), anchor.channel.clone());
            let (fleet, sequence) = (anchor.fleet.clone(), anchor.sequence);
            let entry = Entry::verify(
                anchor.entry.as_bytes(),
                trust,
                &anchor.fleet,
                &anchor.channel,
                Some(anchor.sequence),
            );
            match entry {
                Ok(entry) if goes_on(&reader, &entry).await => {}
                Ok(entry) => {
                    replace(&reader, &entry.entry, entry.envelope.clone()).await?;
                    tracing::info!(%fleet, sequence, "the log goes on behind what relays were shown");
                }
                // Its relays keep what they have; the others need not wait for it.
                Err(error) => {
                    tracing::error!(%fleet, sequence, %error, "what relays were shown cannot be read, and its log begins anew");
                }
            }
            let key = (anchor.fleet.clone(), anchor.channel.clone());
            known.insert(key, Arc::new(tokio::sync::Mutex::new(Some(anchor))));
        }
        *self.known() = known;
        Ok(())
    }

    /// Before a relay sees an object of the log: an entry newer than all that were shown is written down. What is no entry
    /// passes, since no relay takes it for one.
    pub(super) async fn show(&self, fleet: &FleetName, name: &str, stored: &[u8]) -> Result<(), LedgerError> {
        let Some((channel, envelope)) = entry_of(name, stored) else { return Ok(()) };
        let Ok(Numbered { sequence }) = serde_json::from_slice(&envelope.payload) else { return Ok(()) };
        let Ok(entry) = String::from_utf8(envelope.encode()) else { return Ok(()) };
        let place = Arc::clone(self.known().entry((fleet.clone(), channel.clone())).or_default());
        let mut known = place.lock().await;
        let version = match &*known {
            Some(shown) if sequence < shown.sequence => return Ok(()),
            Some(shown) if sequence == shown.sequence && shown.entry == entry => return Ok(()),
            Some(shown) if sequence == shown.sequence => {
                return Err(LedgerError::Contradiction { fleet: fleet.clone(), sequence });
            }
            Some(shown) => shown.version.clone(),
            None => None,
        };
        let mut anchor = Anchor { fleet: fleet.clone(), channel, sequence, entry, version };
        anchor.version = Some(self.anchors.write(&anchor).await?);
        *known = Some(anchor);
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Place>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry that an object of a fleet holds, and its channel.
fn entry_of(name: &str, stored: &[u8]) -> Option<(Channel, Envelope)> {
    let (folder, rest) = name.split_once('/')?;
    match folder {
        "head" => {
            let head = moorgate_snapshot::head::Head::decode(stored).ok()?;
            Some((rest.parse().ok()?, head.entry))
        }
        "log" => {
            let (channel, _) = rest.split_once('/')?;
            Some((channel.parse().ok()?, Envelope::decode(stored, limits::ENTRY_BYTES).ok()?))
        }
        _ => None,
    }
}

/// Whether the log on this disk holds this entry, and ends with it or goes on behind it.
async fn goes_on(reader: &Reader, entry: &moorgate_snapshot::VerifiedEntry) -> bool {
    let same = matches!(
        reader.slot(entry.entry.sequence).await,
        Ok(Slot::Entry(found)) if found.digest == entry.digest
    );
    same && reader.newest(Some(entry.position())).await.is_ok_and(|tail| tail.entry.is_some())
}

/// Makes a log of this entry alone: it holds the whole state of its channel.
async fn replace(reader: &Reader, entry: &Entry, envelope: Envelope) -> Result<(), LedgerError> {
    let part = reader.store();
    let log = layout::log(reader.channel());
    part.delete(&layout::head(reader.channel())).await?;
    for name in part.list(&log, MOST).await? {
        part.delete(&format!("{log}/{name}")).await?;
    }
    writer::commit_entry(part, entry, &envelope).await?;
    Ok(writer::write_head(part, entry, envelope).await?)
}

#[cfg(test)]
pub(in crate::serve_store) mod tests;
