//! The task that reads late values: polls the index, fetches what is new, keeps it on the disk.

use super::{Late, Place, sealed};
use crate::bind::catalog::PortSet;
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use moorgate_snapshot::late::{Index, LateError, LateStore, Polled, ValueRef};
use moorgate_snapshot::{Anchor, Channel, Digest, FleetStore};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A poll, with all that it fetches, must be done within this time.
const DEADLINE: Duration = Duration::from_mins(1);
/// The longest wait after failures.
const BACK_OFF: Duration = Duration::from_mins(1);
/// How often the chain of trust is followed.
const FOLLOW: Duration = Duration::from_mins(1);
/// The largest file that is read back.
const MAX_FILE: u64 = 1 << 30;

/// Reads the late values of one fleet.
pub struct Follower {
    /// The fleet's part of each store; a later one is asked when an earlier one fails.
    pub stores: Vec<FleetStore>,
    /// The channel.
    pub channel: Channel,
    /// Whom to believe, as it was read last.
    pub trust: watch::Receiver<Anchor>,
    /// The file of identities that open sealed secrets.
    pub identities: Option<PathBuf>,
    /// Where values are kept for a start without the store.
    pub file: Option<PathBuf>,
    /// Where values go.
    pub late: Late,
    /// The time between polls.
    pub interval: Duration,
    /// Spreads polls and retries.
    pub jitter: Jitter,
    /// Where metrics go.
    pub metrics: Arc<Metrics>,
}

/// What was read, and how far.
#[derive(Default)]
struct Read {
    index: Option<Index>,
    values: BTreeMap<Digest, Bytes>,
    etag: Option<String>,
    store: usize,
}

/// What lies on the disk. It was verified when it was written.
#[derive(Serialize, Deserialize)]
struct Kept {
    digest: Digest,
    index: Index,
    values: BTreeMap<Digest, String>,
}

impl Follower {
    /// Follows until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut read = self.kept();
        if read.index.is_some() {
            self.apply(&read);
        }
        let mut anchor = self.trust.borrow_and_update().clone();
        let (mut failures, mut told, mut followed) = (0, None, None::<Instant>);
        loop {
            if self.trust.has_changed().unwrap_or(false) {
                (anchor, followed, read.etag) = (self.trust.borrow_and_update().clone(), None, None);
            }
            let due = followed.is_none_or(|followed| followed.elapsed() >= FOLLOW);
            let round = async {
                if due {
                    self.follow(&mut anchor, &read).await;
                }
                self.poll(&anchor, &mut read).await
            };
            let result = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                result = tokio::time::timeout(DEADLINE, round) => result,
            };
            if due {
                followed = Some(Instant::now());
            }
            let (label, message) = match result {
                Ok(Ok(())) => ("ok", None),
                Ok(Err(error)) => (error.label(), Some(error.to_string())),
                Err(_) => ("deadline", Some("the store did not answer in time".to_owned())),
            };
            let fleet = self.fleet();
            self.metrics.count("moorgate_relay_late_polls", &[("fleet", &fleet), ("result", label)]);
            if message.is_some() && message != told {
                let error = message.as_deref();
                tracing::warn!(fleet, error, "late values cannot be read: those read before stay");
            }
            let failed = message.is_some();
            told = message;
            failures = if failed { failures + 1 } else { 0 };
            let wait = if failed {
                read.store = (read.store + 1) % self.stores.len().max(1);
                read.etag = None;
                self.jitter.back_off(failures - 1, self.interval, BACK_OFF.max(self.interval))
            } else {
                self.jitter.around(self.interval)
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn fleet(&self) -> String {
        self.stores.first().map(|store| store.fleet().to_string()).unwrap_or_default()
    }

    /// Follows the chain of trust, if the trust file starts one. A chain that does not go on leaves what is known.
    async fn follow(&self, anchor: &mut Anchor, read: &Read) {
        if let Some(store) = self.stores.get(read.store).filter(|_| anchor.number().is_some()) {
            *anchor = anchor.follow(store.whole()).await.anchor;
        }
    }

    async fn poll(&self, anchor: &Anchor, read: &mut Read) -> Result<(), LateError> {
        let Some(store) = self.stores.get(read.store) else { return Ok(()) };
        let trust = anchor.trust();
        let late = LateStore { store, trust: &trust, channel: &self.channel };
        let known = read.index.as_ref().map_or(0, |index| index.generation);
        let (index, etag) = match late.poll(known, read.etag.as_deref()).await? {
            Polled::Same => return Ok(()),
            Polled::Nothing => {
                self.late.tell_nothing();
                return Ok(());
            }
            Polled::Index(index, _, etag) => (*index, etag),
        };
        let mut failed = None;
        let mut values = BTreeMap::new();
        for value in index.values() {
            let found = match read.values.get(&value.digest) {
                Some(held) => Ok(held.clone()),
                None => late.value(value).await,
            };
            match found {
                Ok(bytes) => drop(values.insert(value.digest, bytes)),
                Err(error) => failed = Some(error),
            }
        }
        if read.index.as_ref() == Some(&index) && read.values.len() == values.len() && failed.is_none() {
            read.etag = etag;
            return Ok(());
        }
        // What could not be fetched keeps its last value, and is asked for again.
        let index = match &failed {
            Some(_) => with_last(index, read.index.as_ref(), &mut values, &read.values),
            None => index,
        };
        read.etag = if failed.is_some() { None } else { etag };
        let generation = index.generation;
        (read.index, read.values) = (Some(index), values);
        self.apply(read);
        self.keep(read);
        let fleet = self.fleet();
        tracing::info!(fleet, generation, "late values were read");
        failed.map_or(Ok(()), Err)
    }

    /// Hands over what was read.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
    fn apply(&self, read: &Read) {
        let Some(index) = &read.index else { return };
        let fleet = self.fleet();
        self.metrics.set("moorgate_relay_late_generation", &[("fleet", &fleet)], index.generation as f64);
        let mut endpoints = BTreeMap::new();
        for (name, value) in &index.endpoints {
            let (Some(place), Some(bytes)) = (place(name), read.values.get(&value.digest)) else { continue };
            match sets(&place, bytes) {
                Ok(sets) => drop(endpoints.insert(place, sets)),
                Err(error) => tracing::warn!(fleet, name, error, "an endpoint set of the store is of no use"),
            }
        }
        let mut secrets = BTreeMap::new();
        for (name, value) in &index.secrets {
            let (Some(place), Some(bytes)) = (place(name), read.values.get(&value.digest)) else { continue };
            let opened = sealed::open(self.identities.as_deref(), bytes, &fleet, name);
            secrets.insert(place, opened.map(Arc::new));
        }
        self.late.tell(endpoints, secrets);
    }

    /// What was kept on the disk; nothing if it is missing or damaged.
    fn kept(&self) -> Read {
        let read = || {
            let bytes = crate::bind::file::read(self.file.as_deref()?, MAX_FILE).ok()?;
            let kept: Kept = serde_json::from_slice(&bytes).ok()?;
            if kept.digest != digest(&kept.index, &kept.values)
                || kept.index.channel != self.channel
                || kept.index.fleet.to_string() != self.fleet()
            {
                return None;
            }
            let decode = |(digest, text): (Digest, String)| {
                let bytes = Bytes::from(STANDARD.decode(text).ok()?);
                (Digest::of(&bytes) == digest).then_some((digest, bytes))
            };
            let values = kept.values.into_iter().filter_map(decode).collect();
            Some(Read { index: Some(kept.index), values, ..Read::default() })
        };
        read().unwrap_or_default()
    }

    /// Keeps values on the disk as they came: what was sealed stays sealed.
    fn keep(&self, read: &Read) {
        let (Some(file), Some(index)) = (&self.file, &read.index) else { return };
        let values: BTreeMap<Digest, String> =
            read.values.iter().map(|(digest, bytes)| (*digest, STANDARD.encode(bytes))).collect();
        let kept = Kept { digest: digest(index, &values), index: index.clone(), values };
        let write = || {
            let beside = file.with_extension("writing");
            let mut options = std::fs::OpenOptions::new();
            let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            out.write_all(&serde_json::to_vec(&kept)?)?;
            out.sync_all()?;
            std::fs::rename(&beside, file)
        };
        if let Err(error) = write() {
            let fleet = self.fleet();
            tracing::warn!(fleet, %error, "late values cannot be kept on disk");
            self.metrics.count("moorgate_relay_cache_errors", &[("fleet", &fleet), ("operation", "late")]);
        }
    }
}

/// The index with the last values of those that could not be fetched, and without those that never could.
fn with_last(
    mut index: Index,
    last: Option<&Index>,
    values: &mut BTreeMap<Digest, Bytes>,
    held: &BTreeMap<Digest, Bytes>,
) -> Index {
    type Named = BTreeMap<String, ValueRef>;
    let mut mend = |now: &mut Named, before: Option<&Named>| {
        now.retain(|name, value| {
            if values.contains_key(&value.digest) {
                return true;
            }
            let Some(old) = before.and_then(|before| before.get(name)) else { return false };
            let Some(bytes) = held.get(&old.digest) else { return false };
            values.insert(old.digest, bytes.clone());
            *value = *old;
            true
        });
    };
    mend(&mut index.endpoints, last.map(|last| &last.endpoints));
    mend(&mut index.secrets, last.map(|last| &last.secrets));
    index
}

fn digest(index: &Index, values: &BTreeMap<Digest, String>) -> Digest {
    let text = serde_json::to_vec(&(index, values)).unwrap_or_default();
    Digest::of(&text)
}

fn place(name: &str) -> Option<Place> {
    let (namespace, name) = name.split_once('/')?;
    Some((namespace.to_owned(), name.to_owned()))
}

/// The endpoint sets of a Service: in the form of static files, and of no other Service.
fn sets(place: &Place, bytes: &[u8]) -> Result<Vec<PortSet>, String> {
    let mut services = crate::bind::catalog::services_of_json(bytes)?;
    let sets = services.remove(place).unwrap_or_default();
    if services.is_empty() { Ok(sets) } else { Err("it speaks of other Services".to_owned()) }
}

#[cfg(test)]
mod tests;
