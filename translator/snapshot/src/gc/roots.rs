//! What keeps objects: the snapshots and bundles that entries and reports name.

use super::{GcError, Policy, Seconds, channels, late, seconds};
use crate::channel::{ChannelState, Release};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::envelope::Envelope;
use crate::head::Head;
use crate::layout::{self, Channel};
use crate::limits;
use crate::reader::{Reader, Slot};
use crate::report::Report;
use crate::store::FleetStore;
use crate::trust::Trust;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Entries that one channel may have.
const ENTRIES: usize = 10_000_000;
/// How often a log is listed that goes on meanwhile.
const LISTS: usize = 3;
/// Reports that one fleet may have.
const REPORTS: usize = 1_000_000;

/// What is to be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Roots {
    /// Snapshots that newest entries name: their manifests must be there.
    pub served: BTreeSet<Digest>,
    /// All snapshots, those of older entries and reports too.
    pub snapshots: BTreeSet<Digest>,
    /// Snapshots of which only the manifest is needed: publishers look up there what a bundle holds.
    pub manifests: BTreeSet<Digest>,
    /// Bundles.
    pub bundles: BTreeSet<Digest>,
    /// Late values.
    pub values: BTreeSet<Digest>,
}

impl Roots {
    fn release(&mut self, release: &Release) {
        self.snapshots.insert(release.snapshot);
        if let Some(bundle) = release.bundle {
            self.bundles.insert(bundle.digest);
            self.manifests.insert(bundle.snapshot);
        }
    }

    fn state(&mut self, state: &ChannelState) {
        state.releases().for_each(|release| self.release(release));
    }
}

/// Everything that keeps an object of this fleet. `now` is the store's time.
pub(super) async fn find(
    store: &FleetStore,
    trust: &Arc<Trust>,
    policy: &Policy,
    now: Seconds,
) -> Result<Roots, GcError> {
    let mut roots = Roots::default();
    for channel in channels(store, "log").await? {
        let reader = Reader::new(store.clone(), trust.clone(), channel);
        of_channel(&reader, policy, now, &mut roots).await?;
    }
    of_heads(store, &mut roots).await?;
    roots.values = late::named(store, trust, policy).await?;
    of_reports(store, trust, policy, now, &mut roots).await?;
    Ok(roots)
}

/// The entries of a channel, the newest first, until they are both old and many; and the state before them, which was in
/// force when the first of them came.
async fn of_channel(
    reader: &Reader,
    policy: &Policy,
    now: Seconds,
    roots: &mut Roots,
) -> Result<(), GcError> {
    let slots = slots(reader).await?;
    let (mut verified, mut newest) = (0usize, true);
    for (sequence, written) in slots.into_iter().rev() {
        let young = now - written < seconds(policy.keep_for);
        match reader.slot(sequence).await? {
            Slot::Entry(entry) => {
                roots.state(&entry.entry.state);
                if newest {
                    roots.served.extend(entry.entry.state.releases().map(|release| release.snapshot));
                }
                newest = false;
                verified += 1;
                if !young && verified > policy.keep_last {
                    return Ok(());
                }
            }
            // What this trust file does not know may be what another one serves.
            Slot::Void(_) => roots.state(&unverified(reader, sequence).await?),
            Slot::Empty => return Err(unclear(reader.store(), reader.channel(), "an entry vanished")),
        }
    }
    if newest {
        return Err(unclear(
            reader.store(),
            reader.channel(),
            "no entry verifies: is the trust file the right one?",
        ));
    }
    Ok(())
}

/// The slots of a log with the time at which they were written. A list that leaves one out is refused, and so is one that
/// ends before what head and probing find; unless the log only went on in between.
async fn slots(reader: &Reader) -> Result<Vec<(u64, Seconds)>, GcError> {
    for _ in 0..LISTS {
        let slots = list(reader).await?;
        let newest = reader.newest(None).await?.entry.map_or(0, |entry| entry.entry.sequence);
        if slots.last().is_some_and(|(listed, _)| *listed >= newest) {
            return Ok(slots);
        }
    }
    Err(unclear(reader.store(), reader.channel(), "the list ends before the newest entry"))
}

async fn list(reader: &Reader) -> Result<Vec<(u64, Seconds)>, GcError> {
    let store = reader.store();
    let mut slots = Vec::new();
    for object in store.objects(&layout::log(reader.channel()), ENTRIES).await? {
        let sequence = object.name.parse::<u64>();
        let sequence = sequence
            .map_err(|_| unclear(store, reader.channel(), "an object that is no entry lies there"))?;
        slots.push((sequence, object.modified));
    }
    slots.sort_unstable();
    if slots.windows(2).any(|pair| !joined(reader, pair[0].0, pair[1].0)) {
        return Err(unclear(store, reader.channel(), "the list leaves out entries"));
    }
    Ok(slots)
}

/// Whether nothing is missing between two slots but what the root keys declared void.
fn joined(reader: &Reader, first: u64, next: u64) -> bool {
    let mut sequence = first + 1;
    while sequence < next {
        let Some(range) = reader.trust().voided(reader.store().fleet(), reader.channel(), sequence) else {
            return false;
        };
        sequence = range.last.saturating_add(1);
    }
    true
}

/// What a slot says that does not verify. One that says nothing may be of a later format, and then nobody here can tell
/// what it needs.
async fn unverified(reader: &Reader, sequence: u64) -> Result<ChannelState, GcError> {
    let store = reader.store();
    let stored = store.get(&layout::entry(reader.channel(), sequence), limits::ENTRY_BYTES).await?;
    let state = stored.and_then(|stored| {
        let envelope = Envelope::decode(&stored, limits::ENTRY_BYTES).ok()?;
        Some(serde_json::from_slice::<Entry>(&envelope.payload).ok()?.state)
    });
    if state.is_none() && reader.trust().voided(store.fleet(), reader.channel(), sequence).is_some() {
        return Ok(ChannelState::default());
    }
    state.ok_or_else(|| {
        let place = format!("{}@{}", store.fleet(), reader.channel());
        // What mends it, word for word: nobody should have to guess beside a store that fills up.
        let message = format!(
            "entry {sequence} cannot be read, and may name what is needed. If a newer version wrote it, run gc of that \
             version; if it is damage, the root keys declare it void: moorgate trust next next.json, moorgate trust void \
             next.json {place} {sequence} {sequence}, moorgate trust sign next.json --key KEY, moorgate trust publish \
             next.json"
        );
        unclear(store, reader.channel(), &message)
    })
}

/// Heads name entries that may have been lost from the log: they keep what they say, whoever signed them.
async fn of_heads(store: &FleetStore, roots: &mut Roots) -> Result<(), GcError> {
    for object in store.objects("head", 10_000).await? {
        let path = format!("head/{}", object.name);
        let Some(stored) = store.get(&path, limits::HEAD_BYTES).await? else { continue };
        let payload = Head::decode(&stored).map(|head| head.entry.payload).ok();
        match payload.and_then(|payload| serde_json::from_slice::<Entry>(&payload).ok()) {
            Some(entry) => roots.state(&entry.state),
            None => again(store, &path, limits::HEAD_BYTES, &stored).await?,
        }
    }
    Ok(())
}

/// Whoever signed them: a report may make gc keep more, never less. One that says nothing keeps nothing.
async fn of_reports(
    store: &FleetStore,
    trust: &Trust,
    policy: &Policy,
    now: Seconds,
    roots: &mut Roots,
) -> Result<(), GcError> {
    for object in store.objects(layout::REPORTS, REPORTS).await? {
        if now - object.modified >= seconds(policy.keep_for) {
            continue;
        }
        let path = format!("{}/{}", layout::REPORTS, object.name);
        let relay = object.name.strip_suffix(".json").and_then(|name| name.parse().ok());
        let (Some(relay), Some(stored)) = (relay, store.get(&path, limits::REPORT_BYTES).await?) else {
            continue;
        };
        let found = Report::read(&stored, trust, store.fleet(), &relay);
        if found.as_ref().map_or(true, |found| found.untrusted.is_some()) {
            again(store, &path, limits::REPORT_BYTES, &stored).await?;
        }
        if let Ok(found) = found {
            let report = found.report;
            roots.snapshots.extend(report.snapshot);
            roots.snapshots.extend(report.envoys.iter().filter_map(|envoy| envoy.acked));
        }
    }
    Ok(())
}

/// What nothing vouches for must read the same again: what was only damaged on the way here may name what is needed.
pub(super) async fn again(
    store: &FleetStore,
    path: &str,
    limit: usize,
    stored: &Bytes,
) -> Result<(), GcError> {
    let size = store.stat(path).await?.map(|stat| stat.size);
    if store.get(path, limit).await?.as_ref() == Some(stored) && size == Some(stored.len() as u64) {
        return Ok(());
    }
    Err(GcError::Unclear { path: store.describe(path), reason: "it reads differently each time".to_owned() })
}

fn unclear(store: &FleetStore, channel: &Channel, reason: &str) -> GcError {
    GcError::Unclear { path: store.describe(&layout::log(channel)), reason: reason.to_owned() }
}
