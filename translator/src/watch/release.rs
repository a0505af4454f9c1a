//! Publishing: each fleet whose snapshot changed, and the end of fleets whose Gateway is gone.
//!
//! Only the leader writes. A gate that refuses is said once and tried again calmly: a pin, another writer and a guard
//! against lost routes are somebody's wish, and the fleet goes on as it is.

mod ports;

use super::turn::Turn;
use super::{Shared, lock};
use crate::attach::GATEWAY_GROUP;
use crate::compile::CompiledFleet;
use crate::publish::{Allow, Done, Meta, Offer, Outcome, PublishError, Publisher};
use crate::render;
use crate::source::cluster;
use futures::StreamExt as _;
use moorgate_model::ObjectRef;
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::reader::Reader;
use moorgate_snapshot::{Channel, Digest, FleetName, PublicKey, Signer, Store, Trust};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

/// Fleets published at one time.
const PARALLEL: usize = 4;
/// The shortest and the longest wait after a fleet was not published.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Who publishes, in the log: a channel has one writer.
pub const WRITER: &str = "watch";
/// Releases of a fleet whose sequence is remembered, so that relays' reports can be placed.
const REMEMBERED: usize = 64;

/// What enters from outside of the pure parts: the clock and randomness.
#[derive(Debug, Clone, Copy)]
pub struct Seams {
    /// The time of day, in whole seconds.
    pub now: fn() -> OffsetDateTime,
    /// Random text: no two entries have the same.
    pub nonce: fn() -> Result<String, String>,
}

/// Keys that sign the reports of one fleet each.
pub type Reporters = Arc<Mutex<BTreeMap<FleetName, PublicKey>>>;

/// Where and how to publish.
pub struct Target {
    /// The store.
    pub store: Store,
    /// Its mirrors.
    pub mirrors: Vec<Store>,
    /// Whom readers trust.
    pub trust: Arc<Trust>,
    /// Keys that sign reports of one fleet each, beside those of `trust`: whoever makes the fleets here puts them in.
    pub reporters: Reporters,
    /// Signs entries and attestations; without it nothing is published.
    pub signer: Option<Box<dyn Signer>>,
    /// The channel.
    pub channel: Channel,
    /// Who acts, for the log.
    pub author: String,
    /// What was asked for beyond the usual.
    pub allow: Allow,
    /// The options of the compile, as provenance names them.
    pub provenance: Provenance,
    /// A fleet is retired so long after its Gateway was deleted.
    pub retire_after: Duration,
    /// Clock and randomness.
    pub seams: Seams,
}

impl Target {
    /// A reader of the reports of a fleet.
    pub(super) fn reader_of_reports(&self, fleet: &FleetName) -> Reader {
        let key = self.reporters.lock().unwrap_or_else(PoisonError::into_inner).get(fleet).cloned();
        let trust = match key {
            Some(key) => Arc::new(self.trust.and_reporter(key, fleet)),
            None => self.trust.clone(),
        };
        Reader::new(self.store.fleet(fleet), trust, self.channel.clone())
    }

    /// A reader of a fleet's channel.
    pub fn reader(&self, fleet: &FleetName) -> Reader {
        Reader::new(self.store.fleet(fleet), self.trust.clone(), self.channel.clone())
    }

    fn publisher<'t>(
        &'t self,
        signer: &'t dyn Signer,
        fleet: &FleetName,
        reason: &str,
    ) -> Result<Publisher<'t>, Failure> {
        let meta = Meta {
            author: self.author.clone(),
            run: String::new(),
            approver: String::new(),
            reason: reason.to_owned(),
            time: (self.seams.now)(),
            expires: None,
            nonce: (self.seams.nonce)().map_err(Failure::Nonce)?,
        };
        let mirrors = self.mirrors.iter().map(|store| store.fleet(fleet)).collect();
        let reader = self.reader(fleet);
        Ok(Publisher { reader, signer, meta, dry_run: false, step_over: false, mirrors })
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the system gives no random bytes: {0}")]
    Nonce(String),
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// The releases of fleets, as far as this replica knows: the sequence of each snapshot.
pub type Released = BTreeMap<FleetName, BTreeMap<Digest, u64>>;

/// One fleet that is not as it should be.
struct Late {
    snapshot: Option<Digest>,
    failures: u32,
    again: Instant,
    said: String,
}

/// Publishes.
pub(super) struct Releases {
    pub(super) target: Arc<Target>,
    pub(super) shared: Arc<Shared>,
    pub(super) turns: watch::Receiver<Option<Arc<Turn>>>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) released: watch::Sender<Released>,
    /// What is the newest in the store.
    published: BTreeMap<FleetName, Digest>,
    late: BTreeMap<FleetName, Late>,
    /// Fleets in the store that have no Gateway, and since when.
    vanished: BTreeMap<FleetName, Instant>,
    looked: bool,
    /// Somebody here makes the fleets, and leads Services away from ports that go.
    pub(super) provisions: bool,
    barrier: ports::Barrier,
}

impl Releases {
    pub(super) fn new(
        target: Arc<Target>,
        shared: Arc<Shared>,
        turns: watch::Receiver<Option<Arc<Turn>>>,
        leads: watch::Receiver<bool>,
        released: watch::Sender<Released>,
    ) -> Self {
        let (published, late, vanished) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            target,
            shared,
            turns,
            leads,
            released,
            published,
            late,
            vanished,
            looked: false,
            provisions: false,
            barrier: ports::Barrier::default(),
        }
    }

    /// Publishes as long as the loop lives.
    pub(super) async fn run(mut self) {
        loop {
            let leads = *self.leads.borrow_and_update();
            let turn = self.turns.borrow_and_update().clone();
            if let Some(turn) = turn.filter(|_| leads) {
                self.publish(&turn).await;
                self.retire(&turn).await;
            } else if !leads {
                // Somebody else writes: what this replica knew of the store is no longer true.
                self.published.clear();
                self.barrier.clear();
                self.looked = false;
            }
            let again = self.late.values().map(|late| late.again);
            let ends = self.vanished.values().map(|since| *since + self.target.retire_after);
            let waits = self.barrier.ends();
            let due = again.chain(ends).chain(waits).min();
            tokio::select! {
                changed = self.turns.changed() => if changed.is_err() { return },
                changed = self.leads.changed() => if changed.is_err() { return },
                () = self.shared.services.notified(), if waits.is_some() => {}
                () = super::turn::sleep_until(due) => {}
            }
        }
    }

    async fn publish(&mut self, turn: &Turn) {
        let target = Arc::clone(&self.target);
        let Some(signer) = target.signer.as_deref() else { return };
        let now = Instant::now();
        let mut due = Vec::new();
        for (name, fleet) in &turn.compilation.fleets {
            let snapshot = fleet.snapshot.id();
            if self.published.get(name) == Some(&snapshot) || turn.compilation.blocked.blocks(name) {
                continue;
            }
            // Something new is tried at once, the same thing again after a while.
            let waits = |late: &Late| late.snapshot == Some(snapshot) && late.again > now;
            if !self.late.get(name).is_some_and(waits) && !self.waits_for_services(name, fleet, now) {
                due.push((name, fleet));
            }
        }
        let target = &target;
        let mut results = futures::stream::iter(due)
            .map(|(name, fleet)| async move {
                (name, fleet.snapshot.id(), Box::pin(one(target, signer, turn, name, fleet)).await)
            })
            .buffer_unordered(PARALLEL);
        while let Some((name, snapshot, result)) = results.next().await {
            match result {
                Ok(outcome) => {
                    tell(name, &outcome);
                    self.late.remove(name);
                    self.vanished.remove(name);
                    self.published.insert(name.clone(), snapshot);
                    let sequence =
                        outcome.entry.state.newest().map_or(outcome.entry.sequence, |newest| newest.sequence);
                    self.released.send_modify(|released| remember(released, name, snapshot, sequence));
                }
                Err(error) => put_off(&mut self.late, name, Some(snapshot), &error.to_string()),
            }
        }
    }

    /// Whether a Service has to be led away from a port first that this snapshot takes away.
    fn waits_for_services(&mut self, name: &FleetName, fleet: &CompiledFleet, now: Instant) -> bool {
        if !self.provisions {
            return false;
        }
        let led = ports::led(&lock(&self.shared.objects), name);
        self.barrier.holds(name, &led, &render::ports(&fleet.ir), now)
    }

    /// Ends fleets whose Gateway was deleted. One whose Gateway is there and is only not ours any more, or has a class
    /// that is missing, goes on: that is more often a mistake than a wish.
    async fn retire(&mut self, turn: &Turn) {
        let Some(signer) = self.target.signer.as_deref() else { return };
        if turn.compilation.blocked.all {
            return;
        }
        let there: BTreeSet<FleetName> = {
            let objects = lock(&self.shared.objects);
            let gateways = objects.of_kind(GATEWAY_GROUP, "Gateway");
            gateways.map(|live| fleet_of(&live.reference)).collect()
        };
        let now = Instant::now();
        if !self.looked {
            // Those of an earlier life.
            match self.target.store.fleets().await {
                Ok(fleets) => {
                    self.looked = true;
                    for fleet in fleets.into_iter().filter(|fleet| !there.contains(fleet)) {
                        self.vanished.entry(fleet).or_insert(now);
                    }
                }
                Err(error) => tracing::warn!(%error, "fleets that vanished cannot be looked for"),
            }
        }
        let lost = self.published.keys().filter(|fleet| !there.contains(fleet)).cloned();
        for fleet in lost.collect::<Vec<_>>() {
            self.vanished.entry(fleet).or_insert(now);
        }
        self.vanished.retain(|fleet, _| matches!(fleet, FleetName::Gateway { .. }) && !there.contains(fleet));
        let due: Vec<FleetName> = self
            .vanished
            .iter()
            .filter(|(_, since)| now - **since >= self.target.retire_after)
            .map(|(fleet, _)| fleet.clone())
            .collect();
        for fleet in due {
            match Box::pin(end(&self.target, signer, &fleet)).await {
                Ok(outcome) => {
                    if let Some(outcome) = outcome {
                        tell(&fleet, &outcome);
                    }
                    self.vanished.remove(&fleet);
                    self.published.remove(&fleet);
                    self.late.remove(&fleet);
                    self.released.send_modify(|released| {
                        released.remove(&fleet);
                    });
                }
                Err(error) => {
                    put_off(&mut self.late, &fleet, None, &error.to_string());
                    self.vanished.insert(fleet, now);
                }
            }
        }
    }
}

/// The fleet of a Gateway.
pub fn fleet_of(gateway: &ObjectRef) -> FleetName {
    FleetName::gateway(&gateway.namespace, &gateway.name)
}

fn remember(released: &mut Released, fleet: &FleetName, snapshot: Digest, sequence: u64) {
    let known = released.entry(fleet.clone()).or_default();
    known.insert(snapshot, sequence);
    while known.len() > REMEMBERED {
        let oldest = known.iter().min_by_key(|(_, sequence)| **sequence).map(|(snapshot, _)| *snapshot);
        oldest.and_then(|oldest| known.remove(&oldest));
    }
}

fn put_off(late: &mut BTreeMap<FleetName, Late>, fleet: &FleetName, snapshot: Option<Digest>, why: &str) {
    let known = late.entry(fleet.clone()).or_insert_with(|| Late {
        snapshot,
        failures: 0,
        again: Instant::now(),
        said: String::new(),
    });
    if known.said != why {
        tracing::warn!(%fleet, why, "not published; the fleet goes on as it is");
        why.clone_into(&mut known.said);
    }
    if known.snapshot != snapshot {
        (known.snapshot, known.failures) = (snapshot, 0);
    }
    known.again = Instant::now() + WAIT.0.saturating_mul(1 << known.failures.min(6)).min(WAIT.1);
    known.failures += 1;
}

fn tell(fleet: &FleetName, outcome: &Outcome) {
    outcome.warnings.iter().for_each(|warning| tracing::warn!(%fleet, warning, "published with a warning"));
    if outcome.result == Done::Committed {
        let action = outcome.entry.action.as_str();
        let snapshot =
            outcome.entry.state.newest().map(|release| release.snapshot.short()).unwrap_or_default();
        tracing::info!(%fleet, sequence = outcome.entry.sequence, snapshot, action, "a new entry");
    }
}

async fn one(
    target: &Target,
    signer: &dyn Signer,
    turn: &Turn,
    name: &FleetName,
    fleet: &CompiledFleet,
) -> Result<Outcome, Failure> {
    let publisher = target.publisher(signer, name, "")?;
    let mut provenance = target.provenance.clone();
    provenance.materials.push(turn.stand.material());
    let counts = serde_json::to_value(fleet.counts.notable()).unwrap_or_default();
    let offer = Offer {
        snapshot: &fleet.snapshot,
        routes: fleet.routes as u64,
        source: Some(turn.stand.source()),
        documents: BTreeMap::from([("counts".to_owned(), counts)]),
        provenance,
        records: turn.compilation.records(name, fleet),
        writer: WRITER.to_owned(),
        allow: target.allow,
        parent: None,
        steps: Vec::new(),
        descends: &cluster::descends,
    };
    Ok(Box::pin(publisher.publish(&offer)).await?)
}

/// Retires a fleet that is this writer's; none if it is not, or was retired before.
async fn end(target: &Target, signer: &dyn Signer, fleet: &FleetName) -> Result<Option<Outcome>, Failure> {
    let tail = target.reader(fleet).newest(None).await.map_err(PublishError::from)?;
    let state = tail.entry.map(|entry| entry.entry.state).unwrap_or_default();
    if state.writer != WRITER || state.retired || state.target.is_none() {
        return Ok(None);
    }
    let publisher = target.publisher(signer, fleet, "its Gateway was deleted")?;
    Ok(Some(Box::pin(publisher.retire(WRITER, Allow::default())).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fleet_that_is_refused_is_tried_again_calmly_and_something_new_at_once() {
        let fleet = FleetName::gateway("shop", "edge");
        let (first, second) = (Digest::of(b"1"), Digest::of(b"2"));
        let mut late = BTreeMap::new();
        let mut waits = Vec::new();
        for _ in 0..8 {
            put_off(&mut late, &fleet, Some(first), "pinned");
            waits.push((late[&fleet].again - Instant::now()).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        put_off(&mut late, &fleet, Some(second), "pinned");
        assert_eq!((late[&fleet].again - Instant::now()).as_secs(), 1);
    }

    #[test]
    fn old_releases_are_forgotten_first() {
        let fleet = FleetName::gateway("shop", "edge");
        let mut released = Released::new();
        for n in 0..100u8 {
            remember(&mut released, &fleet, Digest::of(&[n]), n.into());
        }
        let known = &released[&fleet];
        assert_eq!(known.len(), REMEMBERED);
        assert_eq!(known.values().min(), Some(&36));
    }
}
