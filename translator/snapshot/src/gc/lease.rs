//! One run at a time. Two at once would be safe, and would do everything twice.
//!
//! `gc/lease/<n>` is only created, never written over by another: of two that take over from a dead run, one wins. Its age
//! is the store's.

use super::{GcError, NOTE_BYTES, Seconds, place, seconds};
use crate::store::{Create, FleetStore};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thiserror::Error;

/// Why a run may not start or go on.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LeaseError {
    /// Another run holds the lease.
    #[error("another gc is at work here since {age} seconds; its lease ends after {seconds}")]
    Held {
        /// The age of the lease in seconds, by the store's clock.
        age: i64,
        /// How long it holds.
        seconds: i64,
    },
    /// The run took longer than its lease, and another may be at work.
    #[error("this gc took longer than its lease of {0} seconds: run it again, or give it a longer one")]
    Lost(i64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    nonce: String,
    seconds: i64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    done: bool,
}

/// The right to run, for a while.
#[derive(Debug)]
pub(super) struct Lease {
    number: u64,
    nonce: String,
    seconds: i64,
    /// When it was taken.
    pub(super) taken: Seconds,
}

impl Lease {
    pub(super) async fn take(store: &FleetStore, nonce: &str, length: Duration) -> Result<Self, GcError> {
        let now = clock(store, nonce).await?;
        let held = newest(store).await?;
        if let Some((_, age, note)) = held.as_ref().map(|(number, taken, note)| (number, now - taken, note))
            && !note.done
            && age < note.seconds
        {
            return Err(LeaseError::Held { age, seconds: note.seconds }.into());
        }
        let number = held.as_ref().map_or(1, |(number, ..)| number.saturating_add(1));
        let lease = Self { number, nonce: nonce.to_owned(), seconds: seconds(length), taken: now };
        let name = name(number);
        let mine = lease.note(false);
        match store.create(&name, mine.clone()).await? {
            Create::Created => {}
            Create::Conflict if store.get(&name, NOTE_BYTES).await? == Some(mine) => {}
            Create::Conflict => return Err(LeaseError::Held { age: 0, seconds: lease.seconds }.into()),
        }
        if let Some((old, ..)) = held {
            store.delete(&self::name(old)).await?;
        }
        Ok(lease)
    }

    /// Refuses to go on once somebody else may have taken over.
    pub(super) async fn check(&self, store: &FleetStore) -> Result<(), GcError> {
        let lost = || GcError::from(LeaseError::Lost(self.seconds));
        let now = clock(store, &self.nonce).await?;
        let (number, _, note) = newest(store).await?.ok_or_else(lost)?;
        let mine = (number, note.nonce.as_str()) == (self.number, self.nonce.as_str());
        if mine && now - self.taken < self.seconds { Ok(()) } else { Err(lost()) }
    }

    /// Ends the lease, if it still is the newest one.
    pub(super) async fn give_back(&self, store: &FleetStore) -> Result<(), GcError> {
        let newest = newest(store).await?;
        if newest.is_some_and(|(number, ..)| number == self.number) {
            store.overwrite(&name(self.number), self.note(true)).await?;
        }
        Ok(())
    }

    fn note(&self, done: bool) -> Bytes {
        let note = Note { nonce: self.nonce.clone(), seconds: self.seconds, done };
        // Strings and numbers: it cannot fail, and an empty note is one that does not count.
        Bytes::from(serde_json::to_vec(&note).unwrap_or_default())
    }
}

fn name(number: u64) -> String {
    format!("{}/{number:020}", place::LEASE)
}

/// The store's clock: the age of what was just written.
async fn clock(store: &FleetStore, nonce: &str) -> Result<Seconds, GcError> {
    store.overwrite(place::CLOCK, Bytes::from(nonce.to_owned())).await?;
    let unclear = || GcError::Unclear {
        path: store.describe(place::CLOCK),
        reason: "not there, though just written".to_owned(),
    };
    store.stat(place::CLOCK).await?.map(|stat| stat.modified).ok_or_else(unclear)
}

/// The newest lease, when it was taken, and what it says. One that says nothing holds for ever: somebody has to look.
async fn newest(store: &FleetStore) -> Result<Option<(u64, Seconds, Note)>, GcError> {
    let listed = store.objects(place::LEASE, 1000).await?;
    let numbered =
        listed.iter().filter_map(|object| Some((object.name.parse::<u64>().ok()?, object.modified)));
    let Some((number, taken)) = numbered.max() else { return Ok(None) };
    let name = name(number);
    let stored = store.get(&name, NOTE_BYTES).await?.unwrap_or_default();
    let unclear = |error: serde_json::Error| GcError::Unclear {
        path: store.describe(&name),
        reason: error.to_string(),
    };
    Ok(Some((number, taken, serde_json::from_slice(&stored).map_err(unclear)?)))
}
