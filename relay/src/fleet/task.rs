//! The task of a fleet.

use super::choice::{Because, Choice, choose};
use super::loaded::{Loaded, Pages, kept, known, lock, open_cache};
use super::status::Status;
use super::{Command, CommandError, Fleet, FleetConfig, FleetError, Life};
use crate::bind::binder::{Binder, Bound, Wanted};
use crate::cache::{CacheError, SharedCache, State};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::pull::{Pulled, Puller, Request};
use crate::serve::hub::{Hub, Notice};
use crate::serve::types;
use crate::serve::view::{Config, Name, TypeSet, View};
use moorgate_snapshot::{
    Binding, BindingKind, ChannelState, Digest, Effective, Entry, FleetName, Position, Reader, Snapshot,
    VerifiedEntry,
};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How often the pin file is looked at.
const TICK: Duration = Duration::from_secs(2);
/// Refused snapshots that are remembered.
const MAX_QUARANTINED: usize = 64;

struct Task {
    fleet: FleetName,
    label: String,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    clock: Clock,
    cache: Option<SharedCache>,
    state: State,
    channel: Option<ChannelState>,
    expires: Option<i64>,
    pin: Option<Digest>,
    pages: Pages,
    loaded: BTreeMap<Digest, Loaded>,
    current: Option<(Digest, Because)>,
    fallback: Option<Digest>,
    retired: bool,
    wanted: watch::Sender<Wanted>,
    bound: watch::Receiver<Bound>,
    puller: mpsc::Sender<Request>,
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
    let remembered =
        state.entry.map(|digest| Position { sequence: state.sequence, digest }).filter(|p| p.sequence > 0);
    let reader = |store: &moorgate_snapshot::Store| {
        Reader::new(store.fleet(&config.fleet), Arc::clone(&config.trust), config.channel.clone())
    };
    let puller = Puller {
        readers: config.stores.iter().map(reader).collect(),
        interval: config.poll_interval,
        remembered,
        known: known(&pages, cache.as_ref()),
        kept: kept(cache.as_ref()),
        jitter: config.jitter.clone(),
        metrics: Arc::clone(&metrics),
        events,
    };
    let label = config.fleet.to_string();
    let binder = Binder::new(label.clone(), config.sources, cache.clone(), Arc::clone(&metrics))
        .timed_by(config.clock.clone(), config.jitter);
    let (wanted, wanted_in) = watch::channel(Wanted::default());
    let (bound_out, bound) = watch::channel(Binder::nothing());
    let (commands, commanded) = mpsc::channel(16);
    let mut next = Status::new(config.fleet.clone(), config.channel);
    next.cache = if cache.is_some() { "ok" } else { "none" };
    let (status, status_in) = watch::channel(Arc::new(next.clone()));
    state.good.iter().for_each(|id| hub.mark_good(*id));
    let task = Task {
        fleet: config.fleet,
        label,
        hub: Arc::clone(&hub),
        metrics,
        clock: config.clock,
        cache,
        channel: state.envelope.as_deref().and_then(remembered_channel),
        state,
        expires: None,
        pin: None,
        pages,
        loaded: BTreeMap::new(),
        current: None,
        fallback: None,
        retired: false,
        wanted,
        bound,
        puller: requests,
        status,
        next,
    };
    life.spawn(puller.run(asked, life.stop.clone()));
    life.spawn(binder.run(wanted_in, bound_out, life.stop.clone()));
    life.spawn(task.run(pulled, notices, commanded, life.stop.clone()));
    Ok(Fleet { hub, status: status_in, commands })
}

/// The channel as the last entry left it. The relay verified that entry before it wrote it down.
fn remembered_channel(entry: &str) -> Option<ChannelState> {
    serde_json::from_str::<Entry>(entry).ok().map(|entry| entry.state)
}

impl Task {
    async fn run(
        mut self,
        mut pulled: mpsc::UnboundedReceiver<Pulled>,
        mut notices: mpsc::UnboundedReceiver<Notice>,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) {
        self.read_pin();
        self.decide();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.tell();
            // In this order, so that a run can be repeated; what Envoys cause comes last, since they may be many.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = tick.tick() => if self.read_pin() { self.decide() },
                Some(command) = commands.recv() => self.on_command(command).await,
                Ok(()) = self.bound.changed() => self.publish(),
                Some(event) = pulled.recv() => self.on_pulled(event),
                Some(notice) = notices.recv() => self.on_notice(notice),
            }
        }
    }

    fn on_pulled(&mut self, event: Pulled) {
        match event {
            Pulled::Answered => {
                self.next.store.answered = Some(self.clock.unix_now());
                self.next.store.error = None;
            }
            Pulled::Entry(entry) => self.on_entry(&entry),
            Pulled::Snapshot { release, snapshot } => {
                let id = release.snapshot;
                self.keep(&snapshot);
                let before = self.current.and_then(|(id, _)| self.loaded.get(&id));
                let loaded = Loaded::new(snapshot, before.map(|loaded| &*loaded.config));
                self.loaded.insert(id, loaded);
                self.decide();
            }
            Pulled::Failed { label, message } => {
                self.metrics.count("moorgate_relay_refusals", &[("fleet", &self.label), ("reason", label)]);
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
        self.channel = Some(entry.state.clone());
        self.save_state();
        self.decide();
    }

    /// A relay that has nothing to serve, and cannot get what its channel asks for, takes the previous good release.
    fn ask_for_previous(&mut self) {
        if self.current.is_some() {
            return;
        }
        let effective = self.channel.as_ref().map(ChannelState::effective);
        if let Some(Effective::Serve { fallback: Some(release), .. }) = effective {
            let _ = self.puller.try_send(Request::Fetch(Box::new(release.clone())));
        }
    }

    fn on_notice(&mut self, notice: Notice) {
        match notice {
            Notice::Synced { snapshot } => {
                if self.loaded.contains_key(&snapshot) && self.state.good.first() != Some(&snapshot) {
                    self.state.note_good(snapshot);
                    self.save_state();
                }
            }
            Notice::Refused { snapshot, kind, node, text } => self.quarantine(snapshot, kind, &node, &text),
        }
    }

    /// Withdraws a snapshot that an Envoy refused, if going back changes what was refused.
    fn quarantine(&mut self, snapshot: Digest, kind: &'static str, node: &str, text: &str) {
        if self.state.quarantined.contains_key(&snapshot) || self.state.good.contains(&snapshot) {
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
        if self.state.quarantined.len() >= MAX_QUARANTINED {
            self.state.quarantined.pop_first();
        }
        self.state.quarantined.insert(snapshot, format!("{kind}: {text}"));
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
        match command {
            Command::Pin(snapshot, reply) => {
                let result = self.pin(snapshot);
                self.decide();
                let _ = reply.send(result);
            }
            Command::Unpin(reply) => {
                let result = match self.pin_path() {
                    Some(path) if path.exists() => {
                        std::fs::remove_file(path).map_err(|error| CommandError::Io(error.to_string()))
                    }
                    _ => Ok(()),
                };
                self.pin = None;
                self.decide();
                let _ = reply.send(result);
            }
            Command::Forgive(reply) => {
                self.state.quarantined.clear();
                self.hub.forgive();
                self.save_state();
                self.decide();
                let _ = reply.send(Ok(()));
            }
            Command::Trust(trust) => drop(self.puller.send(Request::Trust(trust)).await),
        }
    }

    fn pin_path(&self) -> Option<PathBuf> {
        self.cache.as_ref().map(|cache| lock(cache).pin_path())
    }

    fn pin(&mut self, snapshot: Digest) -> Result<(), CommandError> {
        if !self.load(snapshot) {
            return Err(CommandError::NotCached(snapshot));
        }
        if let Some(path) = self.pin_path() {
            let beside = path.with_extension("new");
            std::fs::write(&beside, format!("{snapshot}\n"))
                .and_then(|()| std::fs::rename(&beside, &path))
                .map_err(|error| CommandError::Io(error.to_string()))?;
        }
        self.pin = Some(snapshot);
        Ok(())
    }

    /// Reads the pin file; whether it changed.
    fn read_pin(&mut self) -> bool {
        let Some(path) = self.pin_path() else { return false };
        let text = crate::bind::file::read(&path, 1024).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let pin = text.and_then(|text| text.trim().parse::<Digest>().ok());
        if path.exists() && pin.is_none() && self.pin.is_none() {
            tracing::warn!(fleet = self.label, path = %path.display(), "the pin file holds no snapshot id");
        }
        std::mem::replace(&mut self.pin, pin) != pin
    }

    /// Sees to it that a snapshot is ready to serve, from the cache if need be.
    fn load(&mut self, id: Digest) -> bool {
        if self.loaded.contains_key(&id) {
            return true;
        }
        let Some(cache) = &self.cache else { return false };
        let snapshot = match lock(cache).get(id) {
            Ok(snapshot) => snapshot,
            Err(CacheError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return false;
            }
            Err(error) => {
                tracing::warn!(fleet = self.label, %error, "a cached snapshot is of no use");
                self.count_cache_error("read");
                return false;
            }
        };
        let before = self.current.and_then(|(id, _)| self.loaded.get(&id));
        let loaded = Loaded::new(Arc::new(snapshot), before.map(|loaded| &*loaded.config));
        self.loaded.insert(id, loaded);
        true
    }

    /// Chooses what is to be served, and asks for its bindings if that changed.
    fn decide(&mut self) {
        let (channel, state, pin) = (self.channel.clone(), self.state.clone(), self.pin);
        match choose(channel.as_ref(), &state, pin, &mut |id| self.load(id)) {
            Choice::Nothing => {}
            Choice::Retired => self.retire(),
            Choice::Serve(id, because) => self.change_to(id, because),
        }
        self.next.local_pin = self.pin;
    }

    fn change_to(&mut self, id: Digest, because: Because) {
        let before = self.current.replace((id, because));
        let was_retired = std::mem::replace(&mut self.retired, false);
        if before.map(|(id, _)| id) == Some(id) && !was_retired {
            return;
        }
        let refused = |id: &Digest| self.state.quarantined.contains_key(id);
        let good = |id: &Digest| self.state.good.contains(id);
        // The last good one first; one that nobody has tried yet is better than none.
        let mut others: Vec<Digest> = before.iter().map(|(id, _)| *id).filter(good).collect();
        others.extend(self.state.good.iter().copied());
        others.extend(self.fallback);
        others.extend(before.map(|(id, _)| id));
        let others: Vec<Digest> =
            others.into_iter().filter(|other| *other != id && !refused(other)).collect();
        self.fallback = others.into_iter().find(|other| self.load(*other));
        self.state.serving = Some(id);
        self.save_state();
        let stay: BTreeSet<Digest> = self.fallback.into_iter().chain([id]).collect();
        self.loaded.retain(|id, _| stay.contains(id));
        self.clean_cache(&stay);
        if let Some(loaded) = self.loaded.get(&id) {
            let apart = loaded.snapshot.pages().iter().map(|page| (page.digest(), page.raw().clone()));
            *self.pages.lock().unwrap_or_else(PoisonError::into_inner) = apart.collect();
        }
        self.ask_for_bindings(&stay);
        self.next.since = Some(self.clock.unix_now());
        tracing::info!(fleet = self.label, snapshot = %id.short(), ?because, "the snapshot is put in force");
        // The binder may have answered for an equal set of names already.
        self.publish();
    }

    /// Endpoints and secrets of both snapshots: an Envoy may be at either.
    fn ask_for_bindings(&self, snapshots: &BTreeSet<Digest>) {
        let mut bindings: BTreeMap<(BindingKind, Name), Binding> = BTreeMap::new();
        let current = self.current.map(|(id, _)| id);
        for id in snapshots.iter().filter(|id| Some(**id) != current).chain(current.as_ref()) {
            if let Some(loaded) = self.loaded.get(id) {
                bindings.extend(loaded.bindings.clone());
            }
        }
        let bindings = Arc::new(bindings.into_values().collect());
        self.wanted.send_modify(|wanted| {
            wanted.generation += 1;
            wanted.bindings = bindings;
        });
    }

    /// The fleet is gone: nothing is served any more, which drains listeners and drops secrets.
    fn retire(&mut self) {
        if std::mem::replace(&mut self.retired, true) {
            return;
        }
        tracing::warn!(fleet = self.label, "the fleet is retired: its listeners are drained");
        self.current = None;
        self.fallback = None;
        self.loaded.clear();
        self.next.since = Some(self.clock.unix_now());
        self.ask_for_bindings(&BTreeSet::new());
        let nothing = || TypeSet::new(BTreeMap::new(), BTreeSet::new());
        let config = Config::new(Digest::of(b"retired"), BTreeMap::new(), None);
        self.hub.publish(Arc::new(View { config, fallback: None, endpoints: nothing(), secrets: nothing() }));
    }

    /// Puts the view in force, if the bindings of its snapshots are known.
    fn publish(&mut self) {
        let bound = self.bound.borrow_and_update().clone();
        self.next.bindings = Arc::clone(&bound.report);
        let Some(loaded) = self.current.and_then(|(id, _)| self.loaded.get(&id)) else { return };
        if bound.generation < self.wanted.borrow().generation {
            return;
        }
        let fallback = self.fallback.and_then(|id| self.loaded.get(&id));
        let view = View {
            config: Arc::clone(&loaded.config),
            fallback: fallback.map(|loaded| Arc::clone(&loaded.config)),
            endpoints: bound.endpoints,
            secrets: bound.secrets,
        };
        let same = self.hub.view().is_some_and(|before| {
            Arc::ptr_eq(&before.config, &view.config)
                && Arc::ptr_eq(&before.endpoints, &view.endpoints)
                && Arc::ptr_eq(&before.secrets, &view.secrets)
                && before.fallback.as_ref().map(|config| config.id)
                    == view.fallback.as_ref().map(|config| config.id)
        });
        if !same {
            self.hub.publish(Arc::new(view));
        }
    }

    fn keep(&mut self, snapshot: &Snapshot) {
        let Some(cache) = &self.cache else { return };
        let result = lock(cache).put(snapshot);
        self.note_cache(result, "write");
    }

    fn save_state(&mut self) {
        let Some(cache) = &self.cache else { return };
        let result = lock(cache).save_state(&self.state);
        self.note_cache(result, "state");
    }

    fn clean_cache(&mut self, stay: &BTreeSet<Digest>) {
        let Some(cache) = &self.cache else { return };
        let mut kept = self.state.kept();
        kept.extend(stay);
        kept.extend(self.pin);
        let result = lock(cache).retain(&kept);
        self.note_cache(result, "clean");
    }

    /// A full or read-only disk costs the safety of a restart, not the service.
    fn note_cache(&mut self, result: Result<(), CacheError>, operation: &'static str) {
        let degraded = result.is_err();
        if let Err(error) = result {
            tracing::warn!(fleet = self.label, %error, "the disk cache fails: served from memory");
            self.count_cache_error(operation);
        }
        self.next.cache = if degraded { "degraded" } else { "ok" };
        let value = if degraded { 1.0 } else { 0.0 };
        self.metrics.set("moorgate_relay_cache_degraded", &[("fleet", &self.label)], value);
    }

    fn count_cache_error(&self, operation: &str) {
        let labels = [("fleet", self.label.as_str()), ("operation", operation)];
        self.metrics.count("moorgate_relay_cache_errors", &labels);
    }

    /// Shows what the fleet does.
    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
    fn tell(&mut self) {
        let loaded = self.current.and_then(|(id, _)| self.loaded.get(&id));
        let next = &mut self.next;
        next.sequence = self.state.sequence;
        next.snapshot = self.current.map(|(id, _)| id);
        next.because = self.current.map(|(_, because)| because);
        next.fallback = self.fallback;
        next.good.clone_from(&self.state.good);
        next.quarantined.clone_from(&self.state.quarantined);
        next.local_pin = self.pin;
        next.retired = self.retired;
        next.expired = self.expires.is_some_and(|expires| expires < self.clock.unix_now());
        next.resources = loaded.map(Loaded::count).unwrap_or_default();
        let fleet = [("fleet", self.label.as_str())];
        let flag = |flag: bool| if flag { 1.0 } else { 0.0 };
        self.metrics.set("moorgate_relay_sequence", &fleet, next.sequence as f64);
        self.metrics.set("moorgate_relay_quarantined", &fleet, next.quarantined.len() as f64);
        self.metrics.set("moorgate_relay_pinned", &fleet, flag(next.because == Some(Because::LocalPin)));
        self.metrics.set("moorgate_relay_head_expired", &fleet, flag(next.expired));
        if let Some(id) = next.snapshot {
            let short = id.short();
            let series = [(vec![("snapshot", short.as_str())], 1.0)];
            self.metrics.replace("moorgate_relay_snapshot_info", &self.label, &series);
        }
        debug_assert_eq!(next.fleet, self.fleet);
        self.status.send_replace(Arc::new(next.clone()));
    }
}
