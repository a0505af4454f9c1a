//! Late values in the store: endpoint sets and sealed secrets, for fleets that have neither files nor a cluster beside them.
//!
//! ```text
//! late/<channel>/head           the newest index, signed: what a relay reads, one conditional request a poll
//! late/<channel>/log/<%020d>    the same, create-only: the create of the next one is the commit point
//! values/sha256/ab/<digest>     the values: an endpoint set as JSON, a secret sealed by age
//! ```
//! An index carries the whole state, so that a reader needs the newest one only. It counts up: a reader refuses one that
//! goes back. Values change without a snapshot, and no snapshot names them.

use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::fleet::FleetName;
use crate::gc;
use crate::layout::{self, Channel};
use crate::limits;
use crate::signature::{KeyError, Signer};
use crate::store::{FleetStore, Get, StoreError};
use crate::trust::{Role, Trust, TrustError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;
use time::OffsetDateTime;

/// The payload type of indexes in their envelopes.
pub const PAYLOAD_TYPE: &str = "application/vnd.moorgate.late.v1+json";
/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
/// How often a writer tries again when others write at the same time.
const ATTEMPTS: u32 = 16;

/// All late values of a fleet in a channel. Unknown fields are read over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// The format of this object.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetName,
    /// The channel.
    pub channel: Channel,
    /// Counts up with every change, from 1.
    pub generation: u64,
    /// When it was written.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// Endpoint sets by Service, `namespace/name`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, ValueRef>,
    /// Sealed secrets by their object, `namespace/name`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, ValueRef>,
}

/// Where a value lies: under its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ValueRef {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Why late values are not read or written. A relay keeps what it has.
#[derive(Debug, Error)]
pub enum LateError {
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The envelope.
    #[error("the index of late values: {0}")]
    Envelope(#[from] EnvelopeError),
    /// The signature.
    #[error("the index of late values: {0}")]
    Trust(#[from] TrustError),
    /// Its form.
    #[error("no valid index of late values: {0}")]
    Malformed(String),
    /// It belongs elsewhere.
    #[error("an index of late values of {0}")]
    Misplaced(String),
    /// It is older than one that was read before.
    #[error("the index of late values goes back from {known} to {found}: it was rolled back")]
    RolledBack {
        /// What was read before.
        known: u64,
        /// What is there.
        found: u64,
    },
    /// A value is not what the index names.
    #[error("{0} is missing or damaged")]
    Damaged(String),
    /// The fleet asks for co-signatures, which late values cannot have.
    #[error("this fleet asks for co-signatures: late values, which have none, are not for it")]
    Cosigned,
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Too many others write.
    #[error("others write late values all the time: try again")]
    Busy,
    /// More than there may be.
    #[error("more than {0}")]
    TooMany(&'static str),
}

impl LateError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Store(_) => "store",
            Self::Envelope(_) | Self::Malformed(_) => "malformed",
            Self::Trust(error) => error.label(),
            Self::Misplaced(_) => "replay",
            Self::RolledBack { .. } => "rollback",
            Self::Damaged(_) => "damaged",
            Self::Cosigned => "not_cosigned",
            Self::Key(_) => "key",
            Self::Busy => "busy",
            Self::TooMany(_) => "too_large",
        }
    }
}

/// What a poll finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polled {
    /// The same as before.
    Same,
    /// Nothing: nobody has written any.
    Nothing,
    /// An index, verified; its stored bytes; and the hint for the next poll.
    Index(Box<Index>, Bytes, Option<String>),
}

/// Late values of one channel of one fleet, in one store.
#[derive(Debug, Clone, Copy)]
pub struct LateStore<'s> {
    /// The fleet's part of the store.
    pub store: &'s FleetStore,
    /// Whose signatures count: keys with the role `publish`.
    pub trust: &'s Trust,
    /// The channel.
    pub channel: &'s Channel,
}

impl Index {
    /// The first one: empty.
    fn first(fleet: &FleetName, channel: &Channel) -> Self {
        Self {
            format: FORMAT,
            fleet: fleet.clone(),
            channel: channel.clone(),
            generation: 0,
            time: OffsetDateTime::UNIX_EPOCH,
            author: String::new(),
            endpoints: BTreeMap::new(),
            secrets: BTreeMap::new(),
        }
    }

    /// Reads stored bytes: signed by a key with the role `publish` for this fleet and channel.
    pub fn verify(
        stored: &[u8],
        trust: &Trust,
        fleet: &FleetName,
        channel: &Channel,
    ) -> Result<Self, LateError> {
        let _span =
            tracing::info_span!(target: crate::TRACE, "verify", what = "late values", %fleet).entered();
        if trust.cosigners(fleet, channel, u64::MAX) > 0 {
            return Err(LateError::Cosigned);
        }
        let envelope = Envelope::decode(stored, limits::LATE_INDEX_BYTES)?;
        trust.verify(&envelope, PAYLOAD_TYPE, Role::Publish, fleet, channel)?;
        let index: Self = serde_json::from_slice(&envelope.payload)
            .map_err(|error| LateError::Malformed(error.to_string()))?;
        if index.format != FORMAT {
            return Err(LateError::Malformed(format!("format {}", index.format)));
        }
        if (&index.fleet, &index.channel) != (fleet, channel) {
            return Err(LateError::Misplaced(format!("{}@{}", index.fleet, index.channel)));
        }
        index.bound()?;
        Ok(index)
    }

    /// Every value that is named.
    pub fn values(&self) -> impl Iterator<Item = &ValueRef> {
        self.endpoints.values().chain(self.secrets.values())
    }

    fn bound(&self) -> Result<(), LateError> {
        if self.endpoints.len() + self.secrets.len() > limits::LATE_VALUES {
            return Err(LateError::TooMany("late values may be"));
        }
        if self.values().map(|value| value.size).fold(0, u64::saturating_add) > limits::LATE_BYTES {
            return Err(LateError::TooMany("all late values together may hold"));
        }
        if self.values().any(|value| value.size > limits::LATE_VALUE_BYTES as u64) {
            return Err(LateError::TooMany("a late value may hold"));
        }
        Ok(())
    }
}

impl LateStore<'_> {
    /// Asks for the newest index: one conditional request. `known` is the generation that was read before.
    pub async fn poll(&self, known: u64, etag: Option<&str>) -> Result<Polled, LateError> {
        let name = layout::late_head(self.channel);
        match self.store.get_if_changed(&name, etag, limits::LATE_INDEX_BYTES).await? {
            Get::NotModified => Ok(Polled::Same),
            Get::Missing => Ok(Polled::Nothing),
            Get::Found(found) => {
                let index = Index::verify(&found.bytes, self.trust, self.store.fleet(), self.channel)?;
                if index.generation < known {
                    return Err(LateError::RolledBack { known, found: index.generation });
                }
                Ok(Polled::Index(Box::new(index), found.bytes, found.etag))
            }
        }
    }

    /// Reads a value and checks it against its digest.
    pub async fn value(&self, value: &ValueRef) -> Result<Bytes, LateError> {
        let name = layout::late_value(&value.digest);
        let limit = usize::try_from(value.size).unwrap_or(usize::MAX).min(limits::LATE_VALUE_BYTES);
        let found = self.store.get(&name, limit).await?;
        let whole = found.filter(|bytes| Digest::of(bytes) == value.digest);
        whole.ok_or_else(|| LateError::Damaged(self.store.describe(&name)))
    }

    /// The newest index of all: the head, or what the log has behind it because a writer ended before its head. A head
    /// that does not verify is as good as none: the log is read from its beginning.
    pub async fn newest(&self) -> Result<Index, LateError> {
        let head = match self.poll(0, None).await {
            Ok(Polled::Index(index, ..)) => *index,
            Err(error @ (LateError::Store(_) | LateError::Cosigned)) => return Err(error),
            Ok(Polled::Same | Polled::Nothing) | Err(_) => Index::first(self.store.fleet(), self.channel),
        };
        let behind = self.behind(head.generation).await?;
        Ok(behind.map_or(head, |(index, _)| index))
    }

    /// The newest index in the log behind this generation, with its stored bytes. Slots that do not verify are stepped
    /// over.
    async fn behind(&self, generation: u64) -> Result<Option<(Index, Bytes)>, LateError> {
        let (mut newest, mut slot, mut voids) = (None, generation, 0);
        while voids < limits::VOID_RUN {
            slot += 1;
            let name = layout::late_entry(self.channel, slot);
            let Some(stored) = self.store.get(&name, limits::LATE_INDEX_BYTES).await? else { break };
            match Index::verify(&stored, self.trust, self.store.fleet(), self.channel) {
                Ok(index) if index.generation == slot => (newest, voids) = (Some((index, stored)), 0),
                _ => voids += 1,
            }
        }
        Ok(newest)
    }

    /// Places a value; what names it may be committed then, and is to be looked after ([`Self::settle`]). One that gc has
    /// condemned meanwhile is taken from its list.
    pub async fn put(&self, bytes: &Bytes) -> Result<ValueRef, LateError> {
        if bytes.len() > limits::LATE_VALUE_BYTES {
            return Err(LateError::TooMany("a late value may hold"));
        }
        let digest = Digest::of(bytes);
        let holds = |stored: &Bytes| Digest::of(stored) == digest;
        let name = layout::late_value(&digest);
        self.store.ensure(&name, bytes, limits::LATE_VALUE_BYTES, holds).await?;
        gc::rescue(self.store, &name, bytes).await?;
        Ok(ValueRef { digest, size: bytes.len() as u64 })
    }

    /// After the commit: places again what gc deleted after all, in the moment between its last look and its delete.
    pub async fn settle(&self, values: impl Iterator<Item = &Bytes>) -> Result<(), LateError> {
        for bytes in values {
            gc::restore(self.store, &layout::late_value(&Digest::of(bytes)), bytes).await?;
        }
        Ok(())
    }

    /// Copies an index with its values to a mirror, unless that has it or a newer one; how many objects and bytes that were.
    pub async fn copy_to(&self, index: &Index, mirror: &FleetStore) -> Result<(u64, u64), LateError> {
        let to = LateStore { store: mirror, trust: self.trust, channel: self.channel };
        if let Polled::Index(newer, ..) = to.poll(0, None).await?
            && newer.generation >= index.generation
        {
            return Ok((0, 0));
        }
        let slot = layout::late_entry(self.channel, index.generation);
        let stored = self.store.get(&slot, limits::LATE_INDEX_BYTES).await?;
        let stored = stored.ok_or_else(|| LateError::Damaged(self.store.describe(&slot)))?;
        let mut values = Vec::new();
        for value in index.values() {
            let bytes = self.value(value).await?;
            to.put(&bytes).await?;
            values.push(bytes);
        }
        mirror.overwrite(&slot, stored.clone()).await?;
        mirror.overwrite(&layout::late_head(self.channel), stored.clone()).await?;
        to.settle(values.iter()).await?;
        let objects = values.iter().chain([&stored]);
        Ok((objects.clone().count() as u64, objects.map(|bytes| bytes.len() as u64).sum()))
    }

    /// Changes the index: commits the next one, and puts it into the head. Writers at the same time come one after the
    /// other, and none undoes what another did.
    pub async fn change(
        &self,
        signer: &dyn Signer,
        (time, author): (OffsetDateTime, &str),
        change: impl Fn(&mut Index),
    ) -> Result<Index, LateError> {
        let mut above = 0;
        for _ in 0..ATTEMPTS {
            let mut index = self.newest().await?;
            change(&mut index);
            index.generation = (index.generation + 1).max(above);
            (index.time, index.author) = (time, author.to_owned());
            index.bound()?;
            let payload =
                serde_json::to_vec(&index).map_err(|error| LateError::Malformed(error.to_string()))?;
            let stored = Bytes::from(Envelope::sign(PAYLOAD_TYPE, payload, &[signer])?.encode());
            // What no relay would take must not be committed.
            Index::verify(&stored, self.trust, self.store.fleet(), self.channel)?;
            let name = layout::late_entry(self.channel, index.generation);
            if self.store.commit(&name, &stored, limits::LATE_INDEX_BYTES).await? {
                self.store.overwrite(&layout::late_head(self.channel), stored).await?;
                // Whoever came later may have written the head before: it must not stay at ours.
                if let Some((_, newer)) = self.behind(index.generation).await? {
                    self.store.overwrite(&layout::late_head(self.channel), newer).await?;
                }
                return Ok(index);
            }
            // Somebody else's; if it is void, the next one is ours.
            above = index.generation + 1;
        }
        Err(LateError::Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::key;
    use crate::store::Store;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    struct Place {
        store: FleetStore,
        trust: Trust,
        channel: Channel,
    }

    impl Place {
        fn new() -> Self {
            let fleet = FleetName::gateway("shop", "edge");
            let store = Store::open("memory:///").unwrap().fleet(&fleet);
            Self { store, trust: Trust::of([key(1).public().clone()]), channel: Channel::stable() }
        }

        fn late(&self) -> LateStore<'_> {
            LateStore { store: &self.store, trust: &self.trust, channel: &self.channel }
        }

        async fn put(&self, name: &str, text: &'static str) -> Index {
            let value = self.late().put(&Bytes::from_static(text.as_bytes())).await.unwrap();
            let change = |index: &mut Index| {
                index.endpoints.insert(name.to_owned(), value);
            };
            self.late().change(&key(1), (NOW, "me"), change).await.unwrap()
        }
    }

    #[tokio::test]
    async fn values_are_read_back_and_an_index_never_goes_back() {
        let place = Place::new();
        assert_eq!(place.late().poll(0, None).await.unwrap(), Polled::Nothing);
        place.put("shop/cart", "one").await;
        let head = place.store.get(&layout::late_head(&place.channel), 1 << 20).await.unwrap().unwrap();
        let second = place.put("shop/pay", "two").await;
        assert_eq!((second.generation, second.endpoints.len()), (2, 2));
        let Polled::Index(index, _, etag) = place.late().poll(1, None).await.unwrap() else { panic!() };
        assert_eq!(*index, second);
        assert_eq!(place.late().poll(2, etag.as_deref()).await.unwrap(), Polled::Same);
        assert_eq!(place.late().value(&index.endpoints["shop/cart"]).await.unwrap(), "one");
        // The old head again; a value that is another; one that is gone.
        place.store.overwrite(&layout::late_head(&place.channel), head).await.unwrap();
        let error = place.late().poll(2, None).await.unwrap_err();
        assert_eq!(error.label(), "rollback");
        let value = index.endpoints["shop/cart"];
        place.store.overwrite(&layout::late_value(&value.digest), "bad".into()).await.unwrap();
        assert_eq!(place.late().value(&value).await.unwrap_err().label(), "damaged");
        // A writer goes on behind the newest of the log, whatever the head says.
        assert_eq!(place.put("shop/last", "three").await.generation, 3);
    }

    #[tokio::test]
    async fn strangers_other_fleets_and_other_channels_are_refused() {
        let place = Place::new();
        place.put("shop/cart", "one").await;
        let stored = place.store.get(&layout::late_head(&place.channel), 1 << 20).await.unwrap().unwrap();
        let (fleet, channel) = (place.store.fleet().clone(), place.channel.clone());
        let verify = |trust: &Trust, fleet: &FleetName, channel: &Channel| {
            Index::verify(&stored, trust, fleet, channel).map_err(|error| error.label())
        };
        assert!(verify(&place.trust, &fleet, &channel).is_ok());
        let stranger = Trust::of([key(2).public().clone()]);
        assert_eq!(verify(&stranger, &fleet, &channel), Err("unknown_key"));
        assert_eq!(verify(&place.trust, &FleetName::gateway("a", "b"), &channel), Err("replay"));
        assert_eq!(verify(&place.trust, &fleet, &"canary".parse().unwrap()), Err("replay"));
        let error = place.late().change(&key(2), (NOW, "me"), |_| ()).await.unwrap_err();
        assert_eq!(error.label(), "unknown_key", "what no relay would take is not written");
    }

    #[tokio::test]
    async fn writers_at_the_same_time_lose_nothing_and_an_intruder_s_slot_is_stepped_over() {
        let place = Place::new();
        let intruder = layout::late_entry(&place.channel, 2);
        place.store.overwrite(&intruder, "mine".into()).await.unwrap();
        let names = ["a/a", "b/b", "c/c", "d/d"];
        for index in futures::future::join_all(names.map(|name| place.put(name, "x"))).await {
            assert!(index.generation > 0);
        }
        let newest = place.late().newest().await.unwrap();
        let Polled::Index(head, ..) = place.late().poll(0, None).await.unwrap() else { panic!() };
        assert_eq!(*head, newest, "the head is that of whoever came last");
        assert_eq!(newest.endpoints.keys().collect::<Vec<_>>(), names.each_ref());
        assert_eq!(place.store.get(&intruder, 10).await.unwrap().unwrap(), "mine");
    }
}
