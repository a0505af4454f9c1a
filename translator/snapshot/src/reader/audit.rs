//! Walking the whole chain of a channel's entries, from the newest back to the first.

use super::{ReadError, Reader, Slot, Tail};
use crate::entry::{EntryError, Position, VerifiedEntry};
use crate::layout;
use crate::store::StoreError;
use futures::StreamExt as _;

/// Slots read at one time.
const PARALLEL: usize = 16;
/// Names of a log that are listed at most.
const NAMES: usize = 10_000_000;

/// What a walk along the chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Every slot, the newest first.
    pub slots: Vec<Audited>,
    /// Where it ended.
    pub end: End,
}

/// One slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// Its number.
    pub sequence: u64,
    /// What lies there.
    pub slot: Slot,
    /// What is wrong with the chain here; none if it holds.
    pub fault: Option<Fault>,
}

/// What is wrong with the chain at a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The next entry names another one.
    Another,
    /// The next entry names this one, and it does not verify any more.
    NamedAndVoid,
    /// It verifies, and the next entry does not name it.
    PassedOver,
    /// Nothing is here, and older slots are.
    Hole,
    /// The head holds this entry, and the log does not.
    OnlyInHead,
}

impl Fault {
    /// What it says to people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Another => "not the entry that the next one names",
            Self::NamedAndVoid => "the next entry names it, and it does not verify",
            Self::PassedOver => "it verifies, and the next entry passes over it",
            Self::Hole => "nothing is here, and older entries are",
            Self::OnlyInHead => "the head holds it, and the log does not",
        }
    }
}

/// Where a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At the first entry.
    First,
    /// Behind this slot there are no older ones any more.
    Retention(u64),
}

impl Audit {
    /// Whether nothing is wrong with the chain. Void slots that nothing names break nothing.
    pub fn holds(&self) -> bool {
        self.slots.iter().all(|slot| slot.fault.is_none())
    }

    /// Slots that do not verify.
    pub fn voids(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot.slot, Slot::Void(_))).count()
    }
}

impl Reader {
    /// Walks the chain back from the end of the log: every signature, every link by digest, every slot in between.
    pub async fn audit(&self, tail: &Tail) -> Result<Audit, ReadError> {
        let listed = self.oldest().await?;
        let oldest = listed.unwrap_or(1);
        let newest = tail.next.saturating_sub(1);
        let mut walk = Walk { expected: tail.entry.as_ref().map(VerifiedEntry::position), torn: false };
        let mut slots = Vec::new();
        let mut reading = futures::stream::iter((oldest..=newest).rev())
            .map(|sequence| async move { (sequence, self.slot(sequence).await) })
            .buffered(PARALLEL);
        while let Some((sequence, slot)) = reading.next().await {
            let slot = slot?;
            let mut fault = walk.step(sequence, &slot);
            if fault == Some(Fault::Hole) && tail.head == Some(sequence) {
                fault = Some(Fault::OnlyInHead);
            }
            slots.push(Audited { sequence, slot, fault });
        }
        if listed.is_none() {
            // Without a list, what is missing at the far end was removed with age.
            while slots.last().is_some_and(|last| last.slot == Slot::Empty) {
                slots.pop();
            }
        }
        let oldest = slots.last().map_or(1, |last| last.sequence);
        let end = if oldest <= 1 { End::First } else { End::Retention(oldest) };
        Ok(Audit { slots, end })
    }

    /// The oldest slot that is kept; none if the store does not let this reader list.
    async fn oldest(&self) -> Result<Option<u64>, ReadError> {
        match self.store.list(&layout::log(&self.channel), NAMES).await {
            Ok(names) => Ok(Some(names.iter().filter_map(|name| name.parse().ok()).min().unwrap_or(1))),
            Err(StoreError::Denied { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where the walk stands.
struct Walk {
    /// What the entry behind it names.
    expected: Option<Position>,
    /// The chain is broken, and the next entry that verifies is taken as it is.
    torn: bool,
}

impl Walk {
    fn step(&mut self, sequence: u64, slot: &Slot) -> Option<Fault> {
        let named = self.expected.filter(|place| place.sequence == sequence);
        match slot {
            Slot::Entry(entry) => {
                let fault = match named {
                    Some(place) if place.digest == entry.digest => None,
                    Some(_) => Some(Fault::Another),
                    None if self.torn => None,
                    None => return Some(Fault::PassedOver),
                };
                self.torn = false;
                self.expected = entry.entry.previous;
                fault
            }
            // Declared void by the root keys: that is no break, whatever named it.
            Slot::Void(EntryError::Voided(_)) => None,
            Slot::Void(_) if named.is_some() => {
                self.tear();
                Some(Fault::NamedAndVoid)
            }
            Slot::Void(_) => None,
            Slot::Empty => {
                if named.is_some() {
                    self.tear();
                }
                Some(Fault::Hole)
            }
        }
    }

    fn tear(&mut self) {
        self.expected = None;
        self.torn = true;
    }
}
