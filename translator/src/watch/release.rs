//! Publishing: each fleet whose snapshot changed, and the end of fleets whose Gateway is gone.
//!
//! Only the leader writes. A gate that refuses is said once and tried again calmly: a pin, another writer and a guard
//! against lost routes are somebody's wish, and the fleet goes on as it is.

mod ports;
mod queue;

use super::meter::{FLEETS, LEADS, RELEASED, RELEASES};
use super::turn::Turn;
use super::{Shared, lock};
use crate::attach::GATEWAY_GROUP;
use crate::publish::{Allow, Done, Gate, Meta, Offer, Outcome, Parent, PublishError, Publisher};
use crate::render;
use crate::source::cluster;
use kube::Client;
use moorgate_model::ObjectRef;
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::channel::Release;
use moorgate_snapshot::reader::Reader;
use moorgate_snapshot::{Channel, Digest, FleetName, PublicKey, Signer, Store, Trust};
use queue::{Act, Queue};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// Fleets published or retired at one time: each waits for the store most of the time.
const PARALLEL: usize = 16;
/// Who publishes, in the log: a channel has one writer.
pub const WRITER: &str = "watch";
/// After so long a definition that is being removed is known to be.
const SETTLE: Duration = Duration::from_secs(1);
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
    /// Hold back what loses many routes also if they were deleted in the cluster.
    pub guard_deletions: bool,
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
    #[error("{1}, and so this may be an accident: {0}")]
    Definition(Gate, String),
    #[error("it cannot be told who deleted its routes: {0}")]
    Kinds(#[from] cluster::ClusterError),
}

impl Failure {
    /// Whether somebody has to decide.
    fn is_gate(&self) -> bool {
        matches!(self, Self::Publish(PublishError::Refused(_)) | Self::Definition(..))
    }
}

/// The releases of fleets, as far as this replica knows: the sequence of each snapshot.
pub type Released = BTreeMap<FleetName, BTreeMap<Digest, u64>>;

/// Fleets whose newest state a gate holds back, and why.
pub type Held = BTreeMap<FleetName, String>;

/// How a write of a fleet ended; no outcome where there was nothing to retire.
type Ended = (FleetName, Act, Result<Option<Outcome>, Failure>);

/// Publishes.
pub(super) struct Releases {
    pub(super) target: Arc<Target>,
    pub(super) shared: Arc<Shared>,
    pub(super) turns: watch::Receiver<Option<Arc<Turn>>>,
    pub(super) leads: watch::Receiver<bool>,
    pub(super) released: watch::Sender<Released>,
    held: watch::Sender<Held>,
    queue: Queue,
    /// Whether fleets of an earlier life were looked for.
    looked: bool,
    /// Somebody here makes the fleets, and leads Services away from ports that go.
    pub(super) provisions: bool,
    barrier: ports::Barrier,
    /// The cluster.
    pub(super) client: Option<Client>,
    /// Fleets held back because routes of theirs went with their definition.
    undefined: BTreeSet<FleetName>,
}

impl Releases {
    pub(super) fn new(
        target: Arc<Target>,
        shared: Arc<Shared>,
        turns: watch::Receiver<Option<Arc<Turn>>>,
        leads: watch::Receiver<bool>,
        (released, held): (watch::Sender<Released>, watch::Sender<Held>),
    ) -> Self {
        Self {
            target,
            shared,
            turns,
            leads,
            released,
            held,
            queue: Queue::default(),
            looked: false,
            provisions: false,
            barrier: ports::Barrier::default(),
            client: None,
            undefined: BTreeSet::new(),
        }
    }

    /// Publishes as long as the loop lives. No fleet waits for another one's write.
    pub(super) async fn run(mut self) {
        let mut writes: JoinSet<Ended> = JoinSet::new();
        loop {
            let leads = *self.leads.borrow_and_update();
            let turn = self.turns.borrow_and_update().clone();
            let (mut due, mut waits) = (None, None);
            self.shared.meter.set(LEADS, &[], usize::from(leads));
            if let Some(turn) = turn.filter(|_| leads) {
                let (publish, retire) =
                    (self.publish(&turn, &mut writes), self.retire(&turn, &mut writes).await);
                due = publish.into_iter().chain(retire).min();
                // One that nobody waits for any more wakes nobody.
                let now = Instant::now();
                waits = self.barrier.ends().filter(|end| *end > now);
            } else if !leads {
                // Somebody else writes: what this replica knew of the store is no longer true. What is not committed yet
                // never will be; of what is just being committed one slot takes one entry, whoever writes it.
                writes.abort_all();
                self.queue.published.clear();
                self.barrier.clear();
                self.looked = false;
            }
            self.show();
            tokio::select! {
                changed = self.turns.changed() => if changed.is_err() { return },
                changed = self.leads.changed() => if changed.is_err() { return },
                () = self.shared.services.notified(), if waits.is_some() => {}
                Some(ended) = writes.join_next() => self.note(ended),
                () = super::turn::sleep_until(due.into_iter().chain(waits).min()) => {}
            }
        }
    }

    /// Where it is asked whether routes of a fleet were deleted by somebody; nowhere if that does not count. What went with
    /// its definition was not, also when that is there again: its routes have to come back first.
    fn deletions(&self, fleet: &FleetName) -> Option<(Arc<Shared>, Client)> {
        let counts = !self.target.guard_deletions && !self.undefined.contains(fleet);
        let client = self.client.clone().filter(|_| counts)?;
        Some((self.shared.clone(), client))
    }

    /// What probes and owners see of it.
    fn show(&mut self) {
        let counts = self.queue.counts().map(|(state, count)| (vec![("state", state)], count));
        self.shared.meter.replace(FLEETS, counts);
        let held = self.queue.held();
        self.undefined.retain(|fleet| held.contains_key(fleet));
        self.held.send_if_modified(|known| {
            let changed = *known != held;
            *known = held;
            changed
        });
    }

    /// Begins to publish what is due, as far as there is room; when something will be due that is not yet.
    fn publish(&mut self, turn: &Arc<Turn>, writes: &mut JoinSet<Ended>) -> Option<Instant> {
        self.target.signer.as_ref()?;
        let compiled = turn.compilation.fleets.iter();
        let compiled = compiled.filter(|(name, _)| !turn.compilation.blocked.blocks(name));
        let compiled = compiled.map(|(name, fleet)| (name, fleet.snapshot.id()));
        let now = Instant::now();
        let (mut due, next) = self.queue.publishable(compiled, now);
        due.retain(|(name, _)| !self.waits_for_services(turn, name, now));
        for (name, snapshot) in due.into_iter().take(PARALLEL.saturating_sub(writes.len())) {
            let (target, turn, fleet) = (self.target.clone(), turn.clone(), name.clone());
            let deletions = self.deletions(&name);
            let write = writes.spawn(async move {
                let outcome = Box::pin(one(&target, &turn, &fleet, deletions)).await;
                (fleet, Some(snapshot), outcome)
            });
            self.queue.begin(name, write.id(), Some(snapshot), now);
        }
        next
    }

    /// What became of a write.
    fn note(&mut self, ended: Result<Ended, JoinError>) {
        let now = Instant::now();
        let (name, act, result) = match ended {
            Ok(ended) => ended,
            Err(broken) => {
                if let Some((name, act)) = self.queue.broken(broken.id()).filter(|_| broken.is_panic()) {
                    self.queue.put_off(&name, act, ("the write broke off", false), now);
                }
                return;
            }
        };
        self.measure(act, &result);
        match (act, result) {
            (_, Err(error)) => {
                if matches!(error, Failure::Definition(..)) {
                    self.undefined.insert(name.clone());
                }
                self.queue.put_off(&name, act, (&error.to_string(), error.is_gate()), now);
            }
            (Some(snapshot), Ok(Some(outcome))) => {
                tell(&name, &outcome);
                let newest = outcome.entry.state.newest().map(|newest| newest.sequence);
                let sequence = newest.unwrap_or(outcome.entry.sequence);
                self.released.send_modify(|released| remember(released, &name, snapshot, sequence));
                self.queue.done(name, act);
            }
            (_, Ok(outcome)) => {
                if let Some(outcome) = outcome {
                    tell(&name, &outcome);
                }
                self.released.send_modify(|released| drop(released.remove(&name)));
                self.queue.done(name, None);
            }
        }
    }

    fn measure(&self, act: Act, result: &Result<Option<Outcome>, Failure>) {
        let act = if act.is_some() { "publish" } else { "retire" };
        let word = match result {
            Ok(Some(outcome)) => outcome.result.as_str(),
            Ok(None) => Done::Unchanged.as_str(),
            Err(error) if error.is_gate() => "refused",
            Err(_) => "failed",
        };
        self.shared.meter.count(RELEASES, &[("act", act), ("result", word)]);
        if result.is_ok() {
            self.shared.meter.happened(RELEASED);
        }
    }

    /// Whether a Service has to be led away from a port first that this snapshot takes away.
    fn waits_for_services(&mut self, turn: &Turn, name: &FleetName, now: Instant) -> bool {
        let Some(fleet) = turn.compilation.fleets.get(name).filter(|_| self.provisions) else { return false };
        let led = ports::led(&lock(&self.shared.objects), name);
        self.barrier.holds(name, &led, &render::ports(&fleet.ir), now)
    }

    /// Begins to end fleets whose Gateway was deleted; when the next one's time has come. One whose Gateway is there and is
    /// only not ours any more, or has a class that is missing, goes on: that is more often a mistake than a wish.
    async fn retire(&mut self, turn: &Turn, writes: &mut JoinSet<Ended>) -> Option<Instant> {
        self.target.signer.as_ref().filter(|_| !turn.compilation.blocked.all)?;
        let there: BTreeSet<FleetName> = {
            let objects = lock(&self.shared.objects);
            let gateways = objects.of_kind(GATEWAY_GROUP, "Gateway");
            gateways.map(|live| fleet_of(&live.reference, turn)).collect()
        };
        let mut earlier = Vec::new();
        if !self.looked {
            // Those of an earlier life.
            match self.target.store.fleets().await {
                Ok(fleets) => (self.looked, earlier) = (true, fleets),
                Err(error) => tracing::warn!(%error, "fleets that vanished cannot be looked for"),
            }
        }
        let (due, next) = self.queue.retirable(&there, earlier, self.target.retire_after, Instant::now());
        for name in due.into_iter().take(PARALLEL.saturating_sub(writes.len())) {
            let (target, fleet) = (self.target.clone(), name.clone());
            let write = writes.spawn(async move {
                let outcome = Box::pin(end(&target, &fleet)).await;
                (fleet, None, outcome)
            });
            self.queue.begin(name, write.id(), None, Instant::now());
        }
        next
    }
}

/// The fleet that serves a Gateway.
pub fn fleet_of(gateway: &ObjectRef, turn: &Turn) -> FleetName {
    turn.compilation.served_by.of(&gateway.namespace, &gateway.name)
}

fn remember(released: &mut Released, fleet: &FleetName, snapshot: Digest, sequence: u64) {
    let known = released.entry(fleet.clone()).or_default();
    known.insert(snapshot, sequence);
    while known.len() > REMEMBERED {
        let oldest = known.iter().min_by_key(|(_, sequence)| **sequence).map(|(snapshot, _)| *snapshot);
        oldest.and_then(|oldest| known.remove(&oldest));
    }
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

/// Publishes a fleet as it was compiled; none if it is not among what was.
///
/// One that loses many routes is asked for if somebody deleted them in the cluster: what is published is of an earlier
/// state of this very cluster, and each kind is still served. Whoever may delete a route there, by the cluster's own rights,
/// has it end at once; what only looks like a deletion, as of another cluster or without its CRDs, is held back.
async fn one(
    target: &Target,
    turn: &Turn,
    name: &FleetName,
    deletions: Option<(Arc<Shared>, Client)>,
) -> Result<Option<Outcome>, Failure> {
    let (Some(signer), Some(fleet)) = (target.signer.as_deref(), turn.compilation.fleets.get(name)) else {
        return Ok(None);
    };
    let publisher = target.publisher(signer, name, "")?;
    let mut provenance = target.provenance.clone();
    provenance.materials.push(turn.stand.material());
    let counts = serde_json::to_value(fleet.counts.notable()).unwrap_or_default();
    let offer = |allow: Allow, parent: Option<Parent>| Offer {
        snapshot: &fleet.snapshot,
        routes: fleet.routes as u64,
        source: Some(turn.stand.source()),
        documents: BTreeMap::from([("counts".to_owned(), counts.clone())]),
        provenance: provenance.clone(),
        records: turn.compilation.records(name, fleet),
        writer: WRITER.to_owned(),
        allow,
        parent,
        steps: Vec::new(),
        descends: &cluster::descends,
    };
    let refused = match Box::pin(publisher.publish(&offer(target.allow, None))).await {
        Err(PublishError::Refused(gate @ (Gate::Shrunk { .. } | Gate::PartShrunk { .. }))) => gate,
        published => return Ok(Some(published?)),
    };
    let Some((shared, client)) = deletions else { return Err(PublishError::Refused(refused).into()) };
    tokio::time::sleep(SETTLE).await;
    if let Some(kind) = shared.lost_kind(&client).await? {
        return Err(Failure::Definition(
            refused,
            format!("the cluster's definition of {kind} goes or is gone"),
        ));
    }
    let newest = publisher.reader.newest(None).await.map_err(PublishError::from)?.entry;
    let Some(newest) = newest.filter(|newest| is_earlier(newest.entry.state.newest(), &turn.stand)) else {
        return Err(PublishError::Refused(refused).into());
    };
    let position = newest.position();
    let parent = Parent { sequence: position.sequence, digest: Some(position.digest) };
    let publisher = target.publisher(signer, name, "deleted in the cluster")?;
    let offer = offer(Allow { shrink: true, ..target.allow }, Some(parent));
    Ok(Some(Box::pin(publisher.publish(&offer)).await?))
}

/// Whether a release is of an earlier state of the same cluster.
fn is_earlier(release: Option<&Release>, stand: &cluster::Stand) -> bool {
    let (published, now) = (release.and_then(|release| release.source.as_ref()), stand.source());
    published.is_some_and(|published| {
        published.repository == now.repository
            && cluster::descends(&published.revision, &now.revision) == Some(true)
    })
}

/// Retires a fleet that is this writer's; none if it is not, or was retired before.
async fn end(target: &Target, fleet: &FleetName) -> Result<Option<Outcome>, Failure> {
    let Some(signer) = target.signer.as_deref() else { return Ok(None) };
    let tail = target.reader(fleet).newest(None).await.map_err(PublishError::from)?;
    let state = tail.entry.map(|entry| entry.entry.state).unwrap_or_default();
    if state.writer != WRITER || state.retired || state.target.is_none() {
        return Ok(None);
    }
    let publisher = target.publisher(signer, fleet, "its Gateway was deleted")?;
    Ok(Some(Box::pin(publisher.retire(WRITER, Allow::default())).await?))
}

#[cfg(test)]
mod tests;
