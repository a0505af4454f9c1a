//! The judge: sees the bucket as it truly is and what every relay serves, and holds both to the design's promises.
//!
//! - one entry a slot, for ever, each naming the valid one before it;
//! - an entry names only what is wholly there, bit for bit what was compiled;
//! - an act is told the truth: committed is in the log, refused is not, and nothing is there twice;
//! - nothing stays removed that an entry or a report still reaches, by the judge's own reckoning ([`super::reach`]);
//! - a mirror says what the first store says, and names only what it has;
//! - a relay serves only what a valid entry named, bit for bit, and never goes back in the log.

use super::pool::{self, pool};
use super::relays;
use super::world::World;
use crate::fault_store::{Bucket, Change, FaultStore};
use futures::FutureExt as _;
use moorgate_relay::serve::view::View;
use moorgate_snapshot::{Action, Channel, Digest, Effective, Entry, Reader, Release, Trust, VerifiedEntry};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What an act was told about its entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// It is in this slot.
    Committed(u64),
    /// It is nowhere.
    Nothing,
    /// That is not known, or nobody is left to be told.
    Unknown,
}

/// Sees all, and writes down what is wrong.
pub struct Monitor {
    /// What is not as it must be.
    pub violations: Vec<String>,
    /// What it saw happen, to be counted.
    pub(super) counts: Vec<&'static str>,
    pub(super) bucket: Arc<Bucket>,
    calm: Arc<FaultStore>,
    calm_mirror: Arc<FaultStore>,
    trust: Arc<Trust>,
    /// Valid entries by channel and slot.
    pub(super) entries: BTreeMap<Channel, BTreeMap<u64, VerifiedEntry>>,
    /// When each of them was written, by the store's clock.
    pub(super) written: BTreeMap<(Channel, u64), i64>,
    /// Objects that were removed and not written since.
    pub(super) removed: BTreeSet<String>,
    /// Those of them that are needed, and by whom.
    pub(super) holes: BTreeMap<String, String>,
    /// The highest slot that is taken, valid or void.
    taken: BTreeMap<Channel, u64>,
    nonces: BTreeMap<String, (Channel, u64)>,
    forged: BTreeSet<String>,
    /// By relay: the newest sequence that it showed.
    shown: BTreeMap<String, u64>,
}

impl Monitor {
    /// A judge of this bucket and its mirror.
    pub fn new(bucket: &Arc<Bucket>, mirror: &Arc<Bucket>, trust: Arc<Trust>) -> Self {
        Self {
            violations: Vec::new(),
            counts: Vec::new(),
            bucket: Arc::clone(bucket),
            calm: FaultStore::calm(bucket),
            calm_mirror: FaultStore::calm(mirror),
            trust,
            entries: BTreeMap::new(),
            written: BTreeMap::new(),
            removed: BTreeSet::new(),
            holes: BTreeMap::new(),
            taken: BTreeMap::new(),
            nonces: BTreeMap::new(),
            forged: BTreeSet::new(),
            shown: BTreeMap::new(),
        }
    }

    /// The chain of trust went on.
    pub(super) fn trusts(&mut self, trust: Arc<Trust>) {
        self.trust = trust;
    }

    pub(super) fn violated(&mut self, words: String) {
        self.violations.push(words);
    }

    /// What is put here is an attack, whatever its signature says.
    pub fn forged(&mut self, path: String) {
        self.forged.insert(path);
    }

    /// The valid entries of a channel.
    pub fn entries(&self, channel: &Channel) -> impl DoubleEndedIterator<Item = (&u64, &VerifiedEntry)> {
        self.entries.get(channel).into_iter().flatten()
    }

    /// The newest valid entry of a channel.
    pub fn newest(&self, channel: &Channel) -> Option<&VerifiedEntry> {
        self.entries(channel).next_back().map(|(_, entry)| entry)
    }

    /// The first slot of a channel that is free.
    pub fn free(&self, channel: &Channel) -> u64 {
        self.taken.get(channel).copied().unwrap_or_default() + 1
    }

    /// Whether some entry of the channel lets this relay serve this snapshot: it is or was in force for all, or its wave
    /// had reached the relay.
    fn may_serve(&self, relay: &str, channel: &Channel, id: &Digest) -> bool {
        let identity = relays::identity(relay);
        self.entries(channel).any(|(_, entry)| {
            let state = &entry.entry.state;
            let pin = state.pin.as_ref().map(|pin| &pin.release);
            let for_all = [state.target.as_ref(), state.previous_good.as_ref(), pin];
            let reached = match state.effective_for(&identity, channel) {
                Effective::Serve { release, .. } => Some(release),
                Effective::Empty | Effective::Retired => None,
            };
            for_all.into_iter().chain([reached]).flatten().any(|release| release.snapshot == *id)
        })
    }

    /// A change of what is stored, and when.
    pub fn changed(&mut self, change: &Change<'_>, now: i64) {
        match change {
            Change::Put { path, bytes, before } => {
                self.put_back(path);
                if path.contains("/status/") {
                    self.counts.push("report");
                }
                let Some((channel, sequence)) = slot(path) else { return };
                if let Some(before) = before {
                    if before != bytes {
                        self.violated(format!(
                            "slot {sequence} of {channel} holds another entry than before"
                        ));
                    }
                    return;
                }
                self.taken.insert(channel.clone(), sequence);
                if !self.forged.contains(*path) {
                    self.written.insert((channel.clone(), sequence), now);
                    self.placed(&channel, sequence, bytes);
                }
            }
            Change::Deleted { path } if slot(path).is_some() => {
                self.violated(format!("{path}: an entry was removed"));
            }
            Change::Deleted { path } => self.deleted(path, now),
        }
    }

    fn placed(&mut self, channel: &Channel, sequence: u64, bytes: &[u8]) {
        let verified = Entry::verify(bytes, &self.trust, &World::fleet(), channel, Some(sequence));
        let entry = match verified {
            Ok(entry) => entry,
            Err(error) => return self.violated(format!("slot {sequence} of {channel}: {error}")),
        };
        let before = self.newest(channel).map(VerifiedEntry::position);
        if entry.entry.previous != before {
            self.violated(format!(
                "entry {sequence} of {channel} follows {:?}, and the newest was {before:?}",
                entry.entry.previous
            ));
        }
        let nonce = entry.entry.nonce.clone();
        if let Some((other, at)) = self.nonces.insert(nonce, (channel.clone(), sequence)) {
            self.violated(format!("entry {sequence} of {channel} is also in slot {at} of {other}"));
        }
        // What it brought; what was there before may have rotted since.
        let state = &entry.entry.state;
        let brought = match entry.entry.action {
            Action::Publish | Action::Promote | Action::Unpin => state.newest(),
            Action::Pin => state.serving(),
            _ => None,
        };
        // A publisher reads every page back; whoever chooses among releases reads what a relay would.
        let plain = entry.entry.action == Action::Publish;
        let read = |release: &Release| {
            let bundle = release.bundle.filter(|_| !plain);
            self.whole(&self.calm, channel, &Release { bundle, ..release.clone() })
        };
        let gone = brought.map(|release| self.gone(&release.snapshot)).unwrap_or_default();
        if gone.is_empty()
            && let Some(Err(why)) = brought.map(read)
        {
            self.violated(format!("entry {sequence} of {channel} names what is not there: {why}"));
        }
        // What gc took in the moment before the commit has to come back.
        for name in gone {
            self.counts.push("hole at a commit");
            self.holes.insert(name, format!("entry {sequence} of {channel}"));
        }
        self.entries.entry(channel.clone()).or_default().insert(sequence, entry);
    }

    /// Whether a release is in a store, and what was compiled.
    fn whole(&self, calm: &Arc<FaultStore>, channel: &Channel, release: &Release) -> Result<(), String> {
        let store = calm.store().fleet(&World::fleet());
        let reader = Reader::new(store, Arc::clone(&self.trust), channel.clone());
        let read = ready(reader.fetch(release, &|_| None)).map_err(|error| error.to_string())?;
        match pool::number(&release.snapshot) {
            Some(number) if pool()[number].snapshot == read => Ok(()),
            _ => Err(format!("{} was never compiled", release.snapshot.short())),
        }
    }

    /// A change of what the mirror holds: its log is a copy, and the newest entry names what is there.
    pub fn mirrored(&mut self, change: &Change<'_>) {
        let Change::Put { path, bytes, before } = change else {
            return self.violated("something was removed from the mirror".to_owned());
        };
        let Some((channel, sequence)) = slot(path) else { return };
        if before.is_some_and(|before| before != *bytes) || self.bucket.peek(path).as_ref() != Some(bytes) {
            return self.violated(format!("slot {sequence} of {channel} is another one in the mirror"));
        }
        self.counts.push("mirrored entry");
        let newest = self.newest(&channel).filter(|newest| newest.entry.sequence == sequence);
        let releases: Vec<Release> =
            newest.map(|newest| newest.entry.state.releases().cloned().collect()).unwrap_or_default();
        for release in releases {
            let plain = Release { bundle: None, ..release };
            if let Err(why) = self.whole(&self.calm_mirror, &channel, &plain) {
                self.violated(format!("entry {sequence} of {channel} in the mirror: {why}"));
            }
        }
    }

    /// What an act says of itself.
    pub fn told(&mut self, nonce: &str, told: &Told) {
        let found = self.nonces.get(nonce).map(|(_, sequence)| *sequence);
        match (told, found) {
            (Told::Committed(sequence), found) if found != Some(*sequence) => {
                self.violated(format!("{nonce} was told that it is entry {sequence}, and it is {found:?}"));
            }
            (Told::Nothing, Some(sequence)) => {
                self.violated(format!(
                    "{nonce} was told that nothing was committed, and it is entry {sequence}"
                ));
            }
            _ => {}
        }
    }

    /// What a relay knows.
    pub fn shows(&mut self, relay: &str, channel: &Channel, sequence: u64) {
        let before = self.shown.insert(relay.to_owned(), sequence).unwrap_or_default();
        if sequence < before {
            self.violated(format!("{relay} went back from entry {before} to {sequence}"));
        }
        if sequence > 0 && !self.entries.get(channel).is_some_and(|slots| slots.contains_key(&sequence)) {
            self.violated(format!("{relay} believes entry {sequence} of {channel}, which is none"));
        }
    }

    /// Whether a relay whose clock is right thinks that its newest entry has run out, when a head was renewed just now.
    pub(super) fn fresh(&mut self, relay: &str, channel: &Channel, expired: bool) {
        if expired && self.newest(channel).is_some() {
            self.violated(format!("{relay} calls what was just renewed expired"));
        }
        self.counts.push("renewal seen");
    }

    /// A relay that has lost its memory may start anywhere.
    pub fn forgets(&mut self, relay: &str) {
        self.shown.remove(relay);
    }

    /// What a relay serves.
    pub fn serves(&mut self, relay: &str, channel: &Channel, view: &View) {
        let id = view.config.id;
        if view.config.types.is_empty() {
            let retired =
                self.entries.values().flat_map(BTreeMap::values).any(|entry| entry.entry.state.retired);
            if !retired {
                self.violated(format!("{relay} serves nothing, and nobody retired the fleet"));
            }
            return;
        }
        let Some(number) = pool::number(&id) else {
            return self.violated(format!("{relay} serves {}, which was never compiled", id.short()));
        };
        if !self.may_serve(relay, channel, &id) {
            self.violated(format!("{relay} serves {}, which no entry of {channel} gives it", id.short()));
        }
        let served: BTreeMap<String, BTreeMap<String, Digest>> = view
            .config
            .types
            .iter()
            .map(|(type_url, set)| {
                let digest = |chunks: &[bytes::Bytes]| Digest::of_parts(chunks.iter().map(AsRef::as_ref));
                let values = set.iter().map(|(name, value)| (name.to_string(), digest(value.chunks())));
                (type_url.to_string(), values.collect())
            })
            .collect();
        if served != pool()[number].content {
            self.violated(format!("{relay} serves other bytes than those of {}", id.short()));
        }
    }

    /// All that the newest entries name is there, bit for bit, when gc has had its time too.
    pub(super) fn settled(&mut self, now: i64) {
        self.nothing_missing(now);
        let newest: Vec<(Channel, VerifiedEntry)> = self
            .entries
            .iter()
            .filter_map(|(channel, slots)| Some((channel.clone(), slots.values().next_back()?.clone())))
            .collect();
        for (channel, entry) in newest {
            for release in entry.entry.state.releases() {
                let plain = Release { bundle: None, ..release.clone() };
                if let Err(why) = self.whole(&self.calm, &channel, &plain) {
                    let sequence = entry.entry.sequence;
                    self.violated(format!("entry {sequence} of {channel} at the end: {why}"));
                }
            }
        }
    }

    /// What is not as it must be when a relay has had its time.
    pub fn converged(&mut self, relay: &str, channel: &Channel, sequence: u64, served: Option<Digest>) {
        let Some(newest) = self.newest(channel).cloned() else { return };
        if sequence != newest.entry.sequence {
            let at = newest.entry.sequence;
            self.violated(format!("{relay} is at entry {sequence} of {channel}, and {at} is the newest"));
        }
        let state = &newest.entry.state;
        let wanted = match state.effective_for(&relays::identity(relay), channel) {
            Effective::Serve { release, .. } => Some(release.snapshot),
            Effective::Empty | Effective::Retired => None,
        };
        let poisoned = wanted.and_then(|id| pool::number(&id)).is_some_and(|number| pool()[number].poisoned);
        // What Envoys refuse is left for something older, of which there may be several.
        if !poisoned && served != wanted && !state.retired {
            let words = |id: Option<Digest>| id.map_or("nothing".to_owned(), |id| id.short());
            self.violated(format!("{relay} serves {}, and {channel} says {}", words(served), words(wanted)));
        }
        if poisoned && served.is_none() {
            self.violated(format!("{relay} serves nothing"));
        }
    }
}

/// The channel and slot of a log entry's path.
pub fn slot(path: &str) -> Option<(Channel, u64)> {
    let (_, rest) = path.split_once("/log/")?;
    let (channel, sequence) = rest.split_once('/')?;
    Some((channel.parse().ok()?, sequence.parse().ok()?))
}

/// The value of a future that waits for nobody.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    loop {
        if let Some(value) = future.as_mut().now_or_never() {
            return value;
        }
    }
}
