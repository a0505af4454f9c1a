//! Finding the newest entry.

use super::{ReadError, Reader};
use crate::entry::{Entry, EntryError, Position, VerifiedEntry};
use crate::envelope::{Envelope, EnvelopeError};
use crate::head::Head;
use crate::layout;
use crate::limits;
use crate::renewal::{Renewal, RenewalError};
use crate::store::{Get, StoreError};
use crate::trust::document::VoidRange;
use bytes::Bytes;
use time::OffsetDateTime;

/// What lies in a slot of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// Nothing.
    Empty,
    /// An object that does not verify: reported and stepped over.
    Void(EntryError),
    /// An entry.
    Entry(Box<VerifiedEntry>),
}

/// An entry as it lies in the store.
#[derive(PartialEq, Eq)]
enum Stored {
    Nothing,
    TooLarge,
    Bytes(Bytes),
}

/// A slot that does not verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Void {
    /// The slot.
    pub sequence: u64,
    /// Why.
    pub error: EntryError,
}

/// The end of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// The newest entry that verifies; none if nothing was published yet.
    pub entry: Option<VerifiedEntry>,
    /// The slot that the next entry takes.
    pub next: u64,
    /// Slots behind the newest entry that do not verify, the newest first.
    pub voids: Vec<Void>,
    /// The entry that a valid head names.
    pub head: Option<u64>,
    /// Why the head is of no use, if it is there. Costs a minute, and is worth an alarm.
    pub head_error: Option<EntryError>,
    /// The newest statement that this entry is still the newest.
    pub renewal: Option<Renewal>,
}

impl Tail {
    /// From when on a reader that has seen nothing newer raises an alarm, and serves on.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        let entry = self.entry.as_ref().and_then(|entry| entry.entry.expires);
        entry.max(self.renewal.as_ref().map(|renewal| renewal.expires))
    }
}

/// The answer to a poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    /// The tag of the head for the next poll.
    pub etag: Option<String>,
    /// The end of the log; none if the head is as it was and nobody asked for more.
    pub tail: Option<Tail>,
    /// The statement in the head that its entry is still the newest; none if there is none, or the head is as it was.
    pub renewal: Option<Result<Renewal, RenewalError>>,
}

/// What a head holds.
struct HeadEntry {
    entry: VerifiedEntry,
    renewal: Option<Result<Renewal, RenewalError>>,
}

impl Reader {
    /// The end of the log, by head and by probing. `remembered` is what the caller has seen before: a log that goes
    /// back behind it, or has another entry in its place, is refused.
    pub async fn newest(&self, remembered: Option<Position>) -> Result<Tail, ReadError> {
        let polled = self.poll(remembered, None, true).await?;
        match polled.tail {
            Some(tail) => Ok(tail),
            None => Box::pin(self.tail(remembered, None, None)).await,
        }
    }

    /// One poll: a conditional get of the head. With `probe`, or if the head is missing or does not verify, the log is
    /// asked for an entry behind the newest known one, so that a lost or stale head costs one probe period and no more.
    pub async fn poll(
        &self,
        remembered: Option<Position>,
        etag: Option<&str>,
        probe: bool,
    ) -> Result<Polled, ReadError> {
        let etag = etag.filter(|_| remembered.is_some());
        let name = layout::head(&self.channel);
        let (etag, head) = match self.store.get_if_changed(&name, etag, limits::HEAD_BYTES).await {
            Ok(Get::NotModified) if !probe => {
                return Ok(Polled { etag: etag.map(str::to_owned), tail: None, renewal: None });
            }
            Ok(Get::NotModified) => (etag.map(str::to_owned), Ok(None)),
            Ok(Get::Missing) => (None, Ok(None)),
            Ok(Get::Found(found)) => (found.etag, self.read_head(&found.bytes).await?.map(Some)),
            Err(StoreError::TooLarge { limit, .. }) => (None, Err(EntryError::TooLarge(limit))),
            Err(error) => return Err(error.into()),
        };
        let (hint, renewal, head_error) = match head {
            Ok(Some(HeadEntry { entry, renewal })) => (Some(entry), renewal, None),
            Ok(None) => (None, None, None),
            Err(error) => (None, None, Some(error)),
        };
        let newer = hint.as_ref().is_some_and(|hint| {
            remembered.is_some_and(|remembered| hint.entry.sequence > remembered.sequence)
        });
        let mut tail = if newer && !probe {
            let Some(hint) = hint else { return Ok(Polled { etag, tail: None, renewal }) };
            self.check_follows(&hint, remembered)?;
            let head = Some(hint.entry.sequence);
            let next = hint.entry.sequence + 1;
            Tail { next, entry: Some(hint), voids: Vec::new(), head, head_error, renewal: None }
        } else if probe || hint.is_none() || remembered.is_none() {
            Box::pin(self.tail(remembered, hint, head_error)).await?
        } else {
            // A head that is not newer than what is known: at most it contradicts it.
            if let Some(hint) =
                hint.filter(|hint| Some(hint.entry.sequence) == remembered.map(|one| one.sequence))
            {
                self.check_follows(&hint, remembered)?;
            }
            return Ok(Polled { etag, tail: None, renewal });
        };
        let newest = tail.entry.as_ref().map(VerifiedEntry::position);
        let of_newest = |renewal: &&Renewal| newest == Some(renewal.position());
        tail.renewal = renewal.as_ref().and_then(|one| one.as_ref().ok()).filter(of_newest).cloned();
        Ok(Polled { etag, tail: Some(tail), renewal })
    }

    async fn read_head(&self, stored: &Bytes) -> Result<Result<HeadEntry, EntryError>, ReadError> {
        let head = match Head::decode(stored) {
            Ok(head) => head,
            Err(EnvelopeError::TooLarge(limit)) => return Ok(Err(EntryError::TooLarge(limit))),
            Err(EnvelopeError::Malformed(message)) => return Ok(Err(EntryError::Malformed(message))),
        };
        let fleet = self.store.fleet();
        let checked = match Entry::verify_envelope(head.entry, &self.trust, fleet, &self.channel, None) {
            // A head may name anything: what it lacks makes it useless, and holds nobody up.
            Ok(entry) => match Box::pin(self.check_rights(entry)).await {
                Err(ReadError::Missing(path)) => Err(EntryError::Malformed(format!("{path}: missing"))),
                checked => checked?,
            },
            Err(error) => Err(error),
        };
        Ok(checked.map(|entry| {
            let renewal = head.renewal.map(|renewal| Renewal::verify(&renewal, &self.trust, &entry));
            HeadEntry { entry, renewal }
        }))
    }

    /// The end of the log from the newest known place on.
    async fn tail(
        &self,
        remembered: Option<Position>,
        hint: Option<VerifiedEntry>,
        head_error: Option<EntryError>,
    ) -> Result<Tail, ReadError> {
        let head = hint.as_ref().map(|hint| hint.entry.sequence);
        let remembered_at = remembered.map_or(0, |one| one.sequence);
        let hint = hint.filter(|hint| hint.entry.sequence >= remembered_at);
        let known = hint.as_ref().map_or(remembered_at, |hint| hint.entry.sequence);
        let first = self.trust.minimum_sequence(self.store.fleet(), &self.channel).max(1);
        let start = if known == 0 { self.first_slot().await? } else { known };
        let last = self.last_slot(start).await?;
        let mut voids = Vec::new();
        let mut sequence = last;
        let mut newest = None;
        while sequence > 0 && newest.is_none() {
            if let Some(hint) = hint.as_ref().filter(|hint| hint.entry.sequence == sequence) {
                newest = Some(hint.clone());
                continue;
            }
            if let Some(range) = self.voided(sequence) {
                sequence = range.first - 1;
                continue;
            }
            match self.slot(sequence).await? {
                Slot::Entry(entry) => newest = Some(*entry),
                Slot::Void(error) => voids.push(Void { sequence, error }),
                // The log never reached what is remembered.
                Slot::Empty if remembered.is_some() => break,
                // A slot below one that is taken was taken too: it is hidden, or removed though nothing newer holds.
                Slot::Empty if sequence >= first => {
                    return Err(ReadError::Missing(self.describe_slot(sequence)));
                }
                Slot::Empty => break,
            }
            sequence -= 1;
            if newest.is_none() && (sequence < remembered_at || voids.len() as u64 >= limits::VOID_RUN) {
                break;
            }
        }
        if let Some(newest) = &newest {
            self.check_follows(newest, remembered)?;
        } else if let Some(void) = voids.first() {
            let (channel, last) = (self.channel.clone(), Box::new(void.error.clone()));
            // A log of nothing but a few void slots is an unused one: the first release steps over them.
            if remembered.is_some() || voids.len() as u64 >= limits::VOID_RUN {
                return Err(ReadError::VoidRun { channel, count: voids.len(), last });
            }
        } else if let Some(remembered) = remembered {
            return Err(ReadError::RolledBack { channel: self.channel.clone(), remembered });
        }
        Ok(Tail { entry: newest, next: last + 1, voids, head, head_error, renewal: None })
    }

    /// Refuses what goes back behind `remembered`, or contradicts it.
    fn check_follows(&self, entry: &VerifiedEntry, remembered: Option<Position>) -> Result<(), ReadError> {
        let Some(remembered) = remembered else { return Ok(()) };
        let channel = self.channel.clone();
        if entry.entry.sequence < remembered.sequence {
            return Err(ReadError::RolledBack { channel, remembered });
        }
        let places = [Some(entry.position()), entry.entry.previous];
        let same = places.into_iter().flatten().find(|place| place.sequence == remembered.sequence);
        if same.is_some_and(|place| place.digest != remembered.digest) {
            return Err(ReadError::Equivocation { channel, sequence: remembered.sequence });
        }
        Ok(())
    }

    /// Where to start in a log of which nothing is known: its first slot, or what a list shows if that was removed.
    async fn first_slot(&self) -> Result<u64, ReadError> {
        let first = self.trust.minimum_sequence(self.store.fleet(), &self.channel).max(1);
        if self.occupied(first).await? {
            return Ok(first);
        }
        let listed = match self.store.list(&layout::log(&self.channel), 1_000_000).await {
            Ok(names) => names,
            // A relay needs no right to list, and then starts where the log starts.
            Err(StoreError::Denied { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(listed.iter().filter_map(|name| name.parse().ok()).max().unwrap_or(0))
    }

    /// The last slot that is taken, given one that is: strides that double, then halves. One get if there is nothing new.
    async fn last_slot(&self, start: u64) -> Result<u64, ReadError> {
        let (mut taken, mut stride) = (start, 1u64);
        let mut free = loop {
            let next = taken.saturating_add(stride);
            if next == u64::MAX || !self.occupied(next).await? {
                break next;
            }
            taken = next;
            stride = stride.saturating_mul(2);
        };
        while free - taken > 1 {
            let middle = taken + (free - taken) / 2;
            if self.occupied(middle).await? { taken = middle } else { free = middle }
        }
        Ok(taken)
    }

    fn voided(&self, sequence: u64) -> Option<VoidRange> {
        self.trust.voided(self.store.fleet(), &self.channel, sequence)
    }

    /// Whether a slot is taken, or declared void: nothing is written there any more.
    async fn occupied(&self, sequence: u64) -> Result<bool, ReadError> {
        if self.voided(sequence).is_some() {
            return Ok(true);
        }
        match self.store.get(&layout::entry(&self.channel, sequence), limits::ENTRY_BYTES).await {
            Ok(found) => Ok(found.is_some()),
            Err(StoreError::TooLarge { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// What lies in a slot.
    pub async fn slot(&self, sequence: u64) -> Result<Slot, ReadError> {
        match self.plain_slot(sequence).await? {
            Slot::Entry(entry) => Ok(match Box::pin(self.check_rights(*entry)).await? {
                Ok(entry) => Slot::Entry(Box::new(entry)),
                Err(error) => Slot::Void(error),
            }),
            other => Ok(other),
        }
    }

    /// Reads an entry that is about to be written as a reader will read it from this slot.
    pub async fn verify_next(
        &self,
        envelope: Envelope,
        slot: u64,
    ) -> Result<Result<VerifiedEntry, EntryError>, ReadError> {
        match Entry::verify_envelope(envelope, &self.trust, self.store.fleet(), &self.channel, Some(slot)) {
            Ok(entry) => Box::pin(self.check_rights(entry)).await,
            Err(error) => Ok(Err(error)),
        }
    }

    /// What lies in a slot, without a look at the entries before it.
    pub(super) async fn plain_slot(&self, sequence: u64) -> Result<Slot, ReadError> {
        if self.voided(sequence).is_some() {
            return Ok(Slot::Void(EntryError::Voided(sequence)));
        }
        let fleet = self.store.fleet();
        let stored = self.stored_entry(sequence).await?;
        let error = match &stored {
            Stored::Nothing => return Ok(Slot::Empty),
            Stored::TooLarge => EntryError::TooLarge(limits::ENTRY_BYTES),
            Stored::Bytes(bytes) => {
                match Entry::verify(bytes, &self.trust, fleet, &self.channel, Some(sequence)) {
                    Ok(entry) => return Ok(Slot::Entry(Box::new(entry))),
                    Err(error) => error,
                }
            }
        };
        // A void slot is stepped over, and with it whatever it decided: the damage must not lie on the way.
        if self.stored_entry(sequence).await? != stored {
            let reason = "it reads differently each time".to_owned();
            return Err(ReadError::Damaged { path: self.describe_slot(sequence), reason });
        }
        Ok(Slot::Void(error))
    }

    pub(super) fn describe_slot(&self, sequence: u64) -> String {
        self.store.describe(&layout::entry(&self.channel, sequence))
    }

    async fn stored_entry(&self, sequence: u64) -> Result<Stored, ReadError> {
        match self.store.get(&layout::entry(&self.channel, sequence), limits::ENTRY_BYTES).await {
            Ok(Some(bytes)) => Ok(Stored::Bytes(bytes)),
            Ok(None) => Ok(Stored::Nothing),
            Err(StoreError::TooLarge { .. }) => Ok(Stored::TooLarge),
            Err(error) => Err(error.into()),
        }
    }

    /// The slots from `newest` downwards, at most `most`, until one is empty.
    pub async fn history(&self, newest: u64, most: usize) -> Result<Vec<(u64, Slot)>, ReadError> {
        let mut slots = Vec::new();
        for sequence in (1..=newest).rev().take(most) {
            match self.slot(sequence).await? {
                Slot::Empty => break,
                slot => slots.push((sequence, slot)),
            }
        }
        Ok(slots)
    }
}
