//! The task of a fleet: what happens, and what follows from it.

mod disk;
mod force;
mod refused;
mod show;
mod trusted;
mod wave;

use super::choice::Because;
use super::loaded::{Bindings, Loaded, Pages, held, kept, known, lock, open_cache};
use super::status::Status;
use super::{Command, Fleet, FleetConfig, FleetError, Life};
use crate::bind::binder::{Binder, Bound, Wanted};
use crate::cache::{Refused, SharedCache, State};
use crate::canary::{Bake, Health, Watcher};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::pull::{Pulled, Puller, Request};
use crate::report::Reporter;
use crate::serve::hub::{Hub, Notice};
use crate::serve::types;
use moorgate_snapshot::{
    Channel, ChannelState, Digest, Effective, Entry, FleetName, Position, Reader, RelayIdentity,
    VerifiedEntry,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trusted::{note_trust, remembered_expiry};

/// How often the pin file is looked at.
const TICK: Duration = Duration::from_secs(2);

struct Task {
    fleet: FleetName,
    label: String,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    clock: Clock,
    cache: Option<SharedCache>,
    owed: disk::Owed,
    /// What of the cache fails.
    failing: BTreeSet<&'static str>,
    state: State,
    name: Channel,
    identity: RelayIdentity,
    channel: Option<ChannelState>,
    expires: Option<i64>,
    pin: Option<Digest>,
    /// Where the operator may pin, besides the cache.
    pin_file: Option<PathBuf>,
    /// A pin file that holds no snapshot id, as it was told.
    odd_pin: bool,
    pages: Pages,
    loaded: BTreeMap<Digest, Loaded>,
    current: Option<(Digest, Because)>,
    fallback: Option<Digest>,
    retired: bool,
    /// The newest entry is that of the seed.
    seeded: bool,
    wanted: watch::Sender<Wanted>,
    /// Whose bindings were asked for last.
    asked: Option<Vec<Bindings>>,
    bound: watch::Receiver<Bound>,
    puller: mpsc::Sender<Request>,
    baking: watch::Sender<Option<Bake>>,
    status: watch::Sender<Arc<Status>>,
    next: Status,
}

/// Starts the tasks: pulling, binding, and the one that decides.
pub(super) fn start(config: FleetConfig, metrics: Arc<Metrics>, life: &Life) -> Result<Fleet, FleetError> {
    let (hub, notices) = Hub::new(config.fleet.clone(), config.settings.clone(), Arc::clone(&metrics));
    let cache = open_cache(&config, &metrics)?;
    let state = cache.as_ref().map(|cache| lock(cache).state()).unwrap_or_default();
    let pages = Pages::default();
    let (events, pulled) = mpsc::unbounded_channel();
    let (requests, asked) = mpsc::channel(16);
    let anchor = config.trust.clone().resume(state.trust.as_ref());
    let reader = |store: &moorgate_snapshot::Store| {
        Reader::new(store.fleet(&config.fleet), anchor.trust(), config.channel.clone())
    };
    let puller = Puller {
        readers: config.stores.iter().map(reader).collect(),
        seed: config.seed.as_ref().map(reader),
        identity: config.identity.clone(),
        anchor: anchor.clone(),
        interval: config.poll_interval,
        remembered: remembered_position(&state),
        held: held(&pages),
        known: known(cache.as_ref()),
        kept: kept(cache.as_ref()),
        jitter: config.jitter.clone(),
        metrics: Arc::clone(&metrics),
        events,
    };
    let label = config.fleet.to_string();
    let binder = Binder::new(label.clone(), config.sources.clone(), cache.clone(), Arc::clone(&metrics))
        .timed_by(config.clock.clone(), config.jitter.clone());
    let (wanted, wanted_in) = watch::channel(Wanted::default());
    let (bound_out, bound) = watch::channel(Binder::nothing());
    let (commands, commanded) = mpsc::channel(16);
    let (baking, bakes) = watch::channel(None);
    let (told, health) = mpsc::unbounded_channel();
    let watcher = Watcher::new(&config.envoy_admins, &config.fleet, config.clock.clone(), bakes, told);
    let mut next = Status::new(config.fleet.clone(), config.channel.clone());
    next.cache = if cache.is_some() { "ok" } else { "none" };
    let (status, status_in) = watch::channel(Arc::new(next.clone()));
    remind(&hub, &state);
    note_trust(&metrics, &label, &anchor);
    let reporter = reporter(&config, &hub, &status_in, &metrics);
    let task = Task {
        fleet: config.fleet,
        label,
        hub: Arc::clone(&hub),
        metrics,
        clock: config.clock,
        cache,
        owed: disk::Owed::default(),
        failing: BTreeSet::new(),
        name: config.channel,
        identity: config.identity,
        channel: state.envelope.as_deref().and_then(remembered_channel),
        expires: state.envelope.as_deref().and_then(remembered_expiry),
        state,
        pin: None,
        pin_file: config.pin_file,
        odd_pin: false,
        pages,
        loaded: BTreeMap::new(),
        current: None,
        fallback: None,
        retired: false,
        seeded: false,
        wanted,
        asked: None,
        bound,
        puller: requests,
        baking,
        status,
        next,
    };
    life.spawn(puller.run(asked, life.stop.clone()));
    life.spawn(binder.run(wanted_in, bound_out, life.stop.clone()));
    life.spawn(watcher.run(life.stop.clone()));
    if let Some(reporter) = reporter {
        life.spawn(reporter.run(life.stop.clone()));
    }
    let inputs = Inputs { pulled, notices, commands: commanded, health };
    life.spawn(task.run(inputs, life.stop.clone()));
    Ok(Fleet { hub, status: status_in, commands })
}

/// What Envoys said before a restart still holds.
fn remind(hub: &Hub, state: &State) {
    state.good.iter().for_each(|id| hub.mark_good(*id));
    hub.mark_set_back(&state.set_back);
    hub.mark_refused(state.refused_values.iter().map(refused::recall));
}

/// Reports go to the first store, as releases do.
fn reporter(
    config: &FleetConfig,
    hub: &Arc<Hub>,
    status: &watch::Receiver<Arc<Status>>,
    metrics: &Arc<Metrics>,
) -> Option<Reporter> {
    Some(Reporter {
        part: config.stores.first()?.fleet(&config.fleet),
        key: config.report_key.clone()?,
        identity: config.identity.clone(),
        status: status.clone(),
        hub: Arc::clone(hub),
        clock: config.clock.clone(),
        jitter: config.jitter.clone(),
        metrics: Arc::clone(metrics),
    })
}

/// What the task hears of.
struct Inputs {
    pulled: mpsc::UnboundedReceiver<Pulled>,
    notices: mpsc::UnboundedReceiver<Notice>,
    commands: mpsc::Receiver<Command>,
    health: mpsc::UnboundedReceiver<Health>,
}

fn remembered_position(state: &State) -> Option<Position> {
    let position = state.entry.map(|digest| Position { sequence: state.sequence, digest });
    position.filter(|position| position.sequence > 0)
}

/// The channel as the last entry left it. The relay verified that entry before it wrote it down.
fn remembered_channel(entry: &str) -> Option<ChannelState> {
    serde_json::from_str::<Entry>(entry).ok().map(|entry| entry.state)
}

impl Task {
    async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        self.read_pin();
        self.decide();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.tell();
            let due = self.due();
            // In this order, so that a run can be repeated; what Envoys cause comes last, since they may be many.
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.pay(),
                _ = tick.tick() => self.on_tick(),
                Some(command) = inputs.commands.recv() => self.on_command(command).await,
                Ok(()) = self.bound.changed() => self.publish(),
                Some(event) = inputs.pulled.recv() => self.on_pulled(event),
                Some(health) = inputs.health.recv() => self.on_health(&health),
                Some(notice) = inputs.notices.recv() => self.on_notice(notice),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.pay(),
            }
        }
    }

    fn on_tick(&mut self) {
        // A source of bindings that takes its time must not keep a release from the disk.
        self.pay();
        let changed = self.read_pin();
        if self.try_again() || changed {
            self.decide();
        }
    }

    fn on_pulled(&mut self, event: Pulled) {
        match event {
            Pulled::Answered => {
                self.next.store.answered = Some(self.clock.unix_now());
                self.next.store.error = None;
                self.mend_cache();
            }
            Pulled::Entry(entry) => {
                self.seeded = false;
                self.on_entry(&entry);
            }
            Pulled::Seed(entry) => {
                self.seeded = true;
                self.on_entry(&entry);
            }
            Pulled::Trust(anchor) => self.on_trust(&anchor),
            Pulled::Renewed { entry, expires } => self.on_renewed(entry, expires),
            Pulled::Snapshot { release, snapshot } => {
                let id = release.snapshot;
                self.await_snapshot(false);
                self.keep(&snapshot);
                if !self.loaded.contains_key(&id) {
                    let before = self.current.and_then(|(id, _)| self.loaded.get(&id));
                    let loaded = Loaded::new(snapshot, before);
                    self.loaded.insert(id, loaded);
                }
                self.decide();
            }
            Pulled::Failed { label, message } => {
                self.await_snapshot(false);
                self.metrics.count("moorgate_relay_refusals", &[("fleet", &self.label), ("reason", label)]);
                if crate::pull::is_integrity(label) {
                    self.metrics.count("moorgate_relay_integrity_refusals", &[("fleet", &self.label)]);
                }
                if self.next.store.error.as_ref() != Some(&message) {
                    tracing::warn!(fleet = self.label, reason = label, message, "what is served stays");
                }
                self.next.store.error = Some(message);
                self.ask_for_previous();
            }
        }
    }

    fn on_entry(&mut self, verified: &VerifiedEntry) {
        let entry = &verified.entry;
        tracing::info!(
            fleet = self.label,
            sequence = entry.sequence,
            action = entry.action.as_str(),
            author = entry.author,
            "a release"
        );
        self.state.sequence = entry.sequence;
        self.state.entry = Some(verified.digest);
        self.state.envelope = String::from_utf8(verified.envelope.payload.clone()).ok();
        self.next.action = Some(entry.action);
        self.next.author = Some(entry.author.clone());
        self.expires = entry.expires.map(time::OffsetDateTime::unix_timestamp);
        // Another hash is asked for: what was refused before it may be tried again, should it ever come back.
        let asked_for = |id: &Digest| entry.state.releases().any(|release| release.snapshot == *id);
        self.state.forget_bad(self.clock.unix_now(), asked_for);
        self.state.set_back.retain(|_, id| asked_for(id));
        self.channel = Some(entry.state.clone());
        self.save_state();
        self.decide();
        let asked_for = match self.effective() {
            Effective::Serve { release, .. } => Some(release.snapshot),
            Effective::Empty | Effective::Retired => None,
        };
        self.await_snapshot(asked_for.is_some_and(|id| !self.loaded.contains_key(&id)));
    }

    /// What the channel asks of this relay.
    fn effective(&self) -> Effective<'_> {
        match &self.channel {
            Some(channel) => channel.effective_for(&self.identity, &self.name),
            None => Effective::Empty,
        }
    }

    /// A relay that has nothing to serve, and cannot get what its channel asks for, takes the previous good release.
    fn ask_for_previous(&mut self) {
        if self.current.is_some() {
            return;
        }
        if let Effective::Serve { fallback: Some(release), .. } = self.effective() {
            let _ = self.puller.try_send(Request::Fetch(Box::new(release.clone())));
        }
    }

    fn on_notice(&mut self, notice: Notice) {
        // Envoys have what was pushed.
        self.rested();
        match notice {
            Notice::Synced { snapshot } => {
                let serves = self.loaded.contains_key(&snapshot) && !self.state.is_bad(&snapshot);
                if serves && self.state.good.first() != Some(&snapshot) {
                    self.state.note_good(snapshot);
                    self.save_state();
                }
            }
            Notice::RefusedValue => {
                self.state.refused_values = self.hub.refused_values().iter().map(refused::remember).collect();
                self.save_state();
            }
            Notice::SetBack { node, snapshot } => {
                self.state.note_set_back(node, snapshot);
                self.save_state();
            }
            Notice::Refused { snapshot, kind, node, text } => self.quarantine(snapshot, kind, &node, &text),
        }
    }

    /// Withdraws a snapshot that an Envoy refused, if going back changes what was refused.
    fn quarantine(&mut self, snapshot: Digest, kind: &'static str, node: &str, text: &str) {
        if self.state.is_bad(&snapshot) || self.state.good.contains(&snapshot) {
            return;
        }
        if self.current.is_none_or(|(current, _)| current != snapshot) {
            return;
        }
        let set = |id: Digest| {
            let config = &self.loaded.get(&id)?.config;
            let known = types::kinds().iter().find(|known| known.short == kind)?;
            config.types.get(known.type_url).map(|set| Arc::clone(set.version()))
        };
        if self.fallback.is_some_and(|fallback| set(fallback).is_some() && set(fallback) == set(snapshot)) {
            tracing::warn!(
                fleet = self.label,
                node,
                r#type = kind,
                "the snapshot before has the same resources: it stays"
            );
            return;
        }
        let since = self.clock.unix_now();
        self.state.note_bad(snapshot, Refused { text: format!("{kind}: {text}"), since, until: None });
        tracing::error!(
            fleet = self.label,
            snapshot = %snapshot.short(),
            node,
            r#type = kind,
            text,
            "the snapshot is quarantined: Envoys go back to the last good one"
        );
        self.save_state();
        self.decide();
    }

    async fn on_command(&mut self, command: Command) {
        // What is asked for by hand is answered when the disk has it.
        self.pay();
        match command {
            Command::Pin(snapshot, reply) => {
                let result = self.pin(snapshot);
                self.decide();
                let _ = reply.send(result);
            }
            Command::Unpin(reply) => {
                let result = self.unpin();
                self.decide();
                let _ = reply.send(result);
            }
            Command::Forgive(reply) => {
                self.state.quarantined.clear();
                self.state.set_back.clear();
                self.state.refused_values.clear();
                self.state.wave = None;
                self.hub.forgive();
                self.save_state();
                self.ask_for_wanted();
                self.decide();
                self.pay();
                let _ = reply.send(Ok(()));
            }
            Command::Trust(file) => {
                let anchor = file.resume(self.state.trust.as_ref());
                self.on_trust(&anchor);
                let _ = self.puller.send(Request::Trust(Box::new(anchor))).await;
            }
        }
    }
}
