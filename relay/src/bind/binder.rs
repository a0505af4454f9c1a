//! The task that keeps a fleet's endpoints and secrets current.

mod due;

use super::catalog::Catalog;
use super::dns::{self, Ask, Outlet, Resolved, Trouble};
use super::endpoints::{self, Known, Resolution};
use super::late::Late;
use super::live::{Live, Ticks, Wants, Watches};
use super::secrets::{Reloaded, Secrets, Source};
use crate::cache::SharedCache;
use crate::clock::Clock;
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use crate::serve::view::{Name, TypeSet, Value};
use crate::watch::Folders;
use due::{Due, Resolve};
use moorgate_snapshot::{Binding, BindingKind};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often files are read again without a notification.
const RESCAN: Duration = Duration::from_secs(20);
/// Files settle for so long after a notification: a mounted Secret swaps in several steps.
const SETTLE: Duration = Duration::from_millis(30);
/// The last endpoints go to the disk at most this often.
const SAVE: Duration = Duration::from_secs(2);

/// The most names in trouble that are shown to people.
const SHOWN: usize = 20;

/// Where values come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The folder of endpoint files.
    pub endpoints: Option<PathBuf>,
    /// The folder of secrets.
    pub secrets: Option<PathBuf>,
    /// What the store has for this fleet, if that is read.
    pub late: Option<Late>,
    /// A cluster that is watched.
    pub live: Option<Live>,
    /// Who resolves names.
    pub names: Names,
}

/// Who resolves names: the system, unless somebody else is given.
#[derive(Clone)]
pub struct Names(pub Arc<dyn Ask>);

impl Default for Names {
    fn default() -> Self {
        Self(Arc::new(dns::System::default()))
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Names")
    }
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Counts up; the answer carries it.
    pub generation: u64,
    /// The bindings, sorted by kind and name.
    pub bindings: Arc<Vec<Binding>>,
}

/// What there is.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Of which question this is the answer.
    pub generation: u64,
    /// EDS.
    pub endpoints: Arc<TypeSet>,
    /// SDS.
    pub secrets: Arc<TypeSet>,
    /// ECDS.
    pub extensions: Arc<TypeSet>,
    /// For people.
    pub report: Arc<Report>,
}

/// What is bound, without the content.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Endpoint sets that are known.
    pub endpoint_sets: usize,
    /// Endpoints in them.
    pub endpoints: usize,
    /// Endpoint sets that are known to have none: requests for them are answered 503.
    pub empty: usize,
    /// Endpoint sets whose sources were not read yet.
    pub pending: Vec<Name>,
    /// Endpoint sets from the disk, until their sources are read.
    pub kept: usize,
    /// Secrets and trust bundles.
    pub secrets: Vec<SecretReport>,
    /// Names whose servers fail or deny them, some only.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, Trouble>,
    /// The watches on a cluster, of all fleets of this relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watches: Option<Watches>,
}

/// One secret, without its content.
#[derive(Debug, Clone, Serialize)]
pub struct SecretReport {
    /// The SDS name.
    pub name: Name,
    /// `ok`, `expired`, `last-good`, `invalid`, `unread`, `pending` or `missing`.
    pub state: &'static str,
    /// When its first certificate ends, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<i64>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Binds for one fleet.
pub struct Binder {
    fleet: String,
    sources: Sources,
    catalog: Catalog,
    secrets: Secrets,
    /// The last endpoints by name, of this run or of an earlier one.
    last: BTreeMap<Name, Last>,
    /// The change of the cluster up to which `last` is true.
    seen: u64,
    report: Report,
    endpoint_set: Arc<TypeSet>,
    secret_set: Arc<TypeSet>,
    extension_set: Arc<TypeSet>,
    cache: Option<SharedCache>,
    metrics: Arc<Metrics>,
    clock: Clock,
    jitter: Jitter,
    told: BTreeMap<String, String>,
}

/// An endpoint set as it was resolved last.
#[derive(Debug, Clone)]
struct Last {
    value: Arc<Value>,
    endpoints: usize,
    /// It comes from the disk: no source has told it in this run.
    kept: bool,
}

impl Last {
    fn new(bytes: Vec<u8>, endpoints: usize, kept: bool) -> Self {
        Self { value: Arc::new(Value::new(vec![bytes.into()], Vec::new())), endpoints, kept }
    }
}

impl Binder {
    /// A binder that knows the endpoints that were kept on disk.
    pub fn new(fleet: String, sources: Sources, cache: Option<SharedCache>, metrics: Arc<Metrics>) -> Self {
        let kept =
            cache.as_ref().map(|cache| cache.lock().unwrap_or_else(PoisonError::into_inner).endpoints());
        let nothing = || TypeSet::new(BTreeMap::new(), BTreeSet::new());
        Self {
            fleet,
            sources,
            catalog: Catalog::default(),
            secrets: Secrets::default(),
            last: kept
                .unwrap_or_default()
                .into_iter()
                .map(|(name, bytes)| (name, Last::new(bytes, 0, true)))
                .collect(),
            seen: 0,
            report: Report::default(),
            endpoint_set: nothing(),
            secret_set: nothing(),
            extension_set: nothing(),
            cache,
            metrics,
            clock: Clock::default(),
            jitter: Jitter::default(),
            told: BTreeMap::new(),
        }
    }

    /// The same with another time of day and another source of randomness than the system's.
    #[must_use]
    pub fn timed_by(self, clock: Clock, jitter: Jitter) -> Self {
        Self { clock, jitter, ..self }
    }

    /// An answer before any question.
    pub fn nothing() -> Bound {
        let set = || TypeSet::new(BTreeMap::new(), BTreeSet::new());
        let (endpoints, secrets, extensions) = (set(), set(), set());
        Bound { generation: 0, endpoints, secrets, extensions, report: Arc::default() }
    }

    /// Answers what is wanted until it is told to stop.
    pub async fn run(
        mut self,
        mut wanted: watch::Receiver<Wanted>,
        answers: watch::Sender<Bound>,
        stop: CancellationToken,
    ) {
        let names = watch::Sender::new(BTreeSet::new());
        let (resolved_out, mut resolved) = watch::channel(Resolved::default());
        let (fleet, metrics) = (self.fleet.clone(), Arc::clone(&self.metrics));
        let (outlet, asker) =
            (Outlet { fleet, metrics, out: resolved_out }, Arc::clone(&self.sources.names.0));
        let resolving = dns::resolve(names.subscribe(), asker, outlet, self.jitter.clone(), stop.clone());
        let resolver = tokio::spawn(resolving);
        let mut folders = Folders::new();
        let reads = self.sources.endpoints.is_some() || self.sources.secrets.is_some();
        let mut late = self.sources.late.as_ref().map(Late::changes);
        let mut ticks = self.sources.live.as_ref().map(Live::ticks);
        let (mut due, mut looked) = (Due::everything(), Ticks::default());
        let mut saved: Option<tokio::time::Instant> = None;
        loop {
            let question = wanted.borrow_and_update().clone();
            self.ask(&question, &names);
            if let Some(ticks) = &mut ticks {
                let now = *ticks.borrow_and_update();
                due = due.with_changes(looked, now);
                looked = now;
            }
            for folder in [&self.sources.endpoints, &self.sources.secrets].into_iter().flatten() {
                folders.watch(folder, true);
            }
            if let Some(late) = &mut late {
                late.mark_unchanged();
            }
            let addresses = resolved.borrow_and_update().clone();
            let save = saved.is_none_or(|saved| saved.elapsed() >= SAVE);
            let began = tokio::time::Instant::now();
            let (mut binder, out) = (self, answers.clone());
            let work = move || {
                // Nobody waits for the disk.
                let _ = out.send_replace(binder.bind(&question, &addresses, due));
                let wrote = save && binder.save();
                (binder, wrote)
            };
            // Reading folders may take its time; without any there is nothing to wait for.
            let worked = if reads { tokio::task::spawn_blocking(work).await } else { Ok(work()) };
            let Ok((binder, wrote)) = worked else {
                tracing::error!("binding ended: endpoints and secrets stay as they are");
                return;
            };
            self = binder;
            if wrote {
                saved = Some(tokio::time::Instant::now());
            }
            let pause = if save { RESCAN } else { SAVE };
            let took = began.elapsed();
            due = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = wanted.changed() => if changed.is_err() { break } else { Due::everything() },
                _ = resolved.changed() => Due::resolving(),
                () = folders.changed() => {
                    tokio::time::sleep(SETTLE).await;
                    Due::everything()
                }
                () = due::told(late.as_mut()) => Due::everything(),
                () = due::rung(ticks.as_mut(), took) => Due::nothing(),
                () = tokio::time::sleep(pause) => Due::everything(),
            };
        }
        resolver.abort();
    }

    /// Tells the resolver of names and the watches of the cluster what is wanted.
    fn ask(&self, question: &Wanted, names: &watch::Sender<BTreeSet<String>>) {
        let hosts = endpoints::names(question.bindings.iter());
        names.send_if_modified(|names| {
            let changed = *names != hosts;
            *names = hosts;
            changed
        });
        // Before the first question nothing is known of what is wanted: watches of other fleets go on meanwhile.
        if let Some(live) = self.sources.live.as_ref().filter(|_| question.generation > 0) {
            live.want(&self.fleet, Wants::of(question.bindings.iter()));
        }
    }

    /// Reads what is due and answers.
    fn bind(&mut self, question: &Wanted, resolved: &Resolved, due: Due) -> Bound {
        if due.files {
            self.read_endpoint_files();
        }
        if due.endpoints != Resolve::Nothing {
            self.bind_endpoints(question, resolved, due.endpoints);
        }
        if due.secrets {
            self.bind_secrets(question);
        }
        self.report.names =
            resolved.troubled.iter().take(SHOWN).map(|(name, t)| (name.clone(), t.clone())).collect();
        self.report.watches = self.sources.live.as_ref().map(Live::watches);
        self.show(&self.report);
        Bound {
            generation: question.generation,
            endpoints: Arc::clone(&self.endpoint_set),
            secrets: Arc::clone(&self.secret_set),
            extensions: Arc::clone(&self.extension_set),
            report: Arc::new(self.report.clone()),
        }
    }

    fn read_endpoint_files(&mut self) {
        let Some(folder) = self.sources.endpoints.clone() else { return };
        let errors: Vec<String> = self.catalog.reload(&folder).iter().map(ToString::to_string).collect();
        self.tell_once("endpoints", errors, "an endpoint file is of no use: what it told before stays");
    }

    fn bind_endpoints(&mut self, question: &Wanted, resolved: &Resolved, due: Resolve) {
        let live = self.sources.live.as_ref();
        // Read before the sources are: what changes meanwhile is looked at again.
        let now = live.map_or(0, |live| live.ticks().borrow().endpoints);
        let catalog = self.sources.endpoints.as_ref().map(|_| &self.catalog);
        let sources = Known { catalog, late: self.sources.late.as_ref(), live, resolved };
        let mut known = BTreeMap::new();
        let mut pending = BTreeSet::new();
        for binding in question.bindings.iter().filter(|binding| binding.kind == BindingKind::Endpoints) {
            let name = Arc::clone(&binding.name);
            let last = self.last.remove(&name);
            if let Some(last) = last.as_ref().filter(|last| due == Resolve::Changed && !last.kept)
                && !changed(binding, live, self.seen)
            {
                known.insert(name, last.clone());
                continue;
            }
            match (endpoints::resolve(binding, sources), last) {
                (Resolution::Ready { bytes, endpoints }, _) => {
                    known.insert(name, Last::new(bytes, endpoints, false));
                }
                (Resolution::Unsynced, Some(last)) => {
                    known.insert(name, Last { kept: true, ..last });
                }
                (Resolution::Unsynced, None) => drop(pending.insert(name)),
            }
        }
        self.report.endpoint_sets = known.len();
        self.report.endpoints = known.values().map(|last| last.endpoints).sum();
        self.report.empty = known.values().filter(|last| last.endpoints == 0).count();
        self.report.kept = known.values().filter(|last| last.kept).count();
        self.report.pending = pending.iter().map(Arc::clone).collect();
        let values = known.iter().map(|(name, last)| (Arc::clone(name), Arc::clone(&last.value))).collect();
        self.endpoint_set = TypeSet::following(&self.endpoint_set, values, pending);
        if question.generation > 0 {
            self.last = known;
            self.seen = now;
        }
    }

    fn bind_secrets(&mut self, question: &Wanted) {
        let wanted = || question.bindings.iter().filter(|binding| binding.kind != BindingKind::Endpoints);
        let (late, live) = (self.sources.late.as_ref(), self.sources.live.as_ref());
        let source = Source { folder: self.sources.secrets.as_deref(), late, live };
        let Reloaded { errors, pending } = self.secrets.reload(source, wanted());
        let now = self.clock.unix_now();
        let extension = |binding: &&Binding| binding.kind == BindingKind::Extension;
        let extension_names: BTreeSet<Name> =
            wanted().filter(extension).map(|one| Arc::clone(&one.name)).collect();
        let (mut values, mut extensions) = (BTreeMap::new(), BTreeMap::new());
        let mut reports = Vec::new();
        for binding in wanted() {
            let served = self.secrets.served().get(&binding.name);
            if let Some(served) = served {
                let value = Value::new(vec![served.bytes.clone()], Vec::new());
                let of = if binding.kind == BindingKind::Extension { &mut extensions } else { &mut values };
                of.insert(Arc::clone(&binding.name), Arc::new(value));
            }
            let served = served.filter(|served| !served.stands_in);
            let error = errors.get(&binding.name);
            let state = match (served, error) {
                (None, None) if pending.contains(&binding.name) => "pending",
                (None, None) => "missing",
                (None, Some(error)) => match error.label() {
                    "missing" => "missing",
                    "unreadable" => "unread",
                    _ => "invalid",
                },
                (Some(_), Some(_)) => "last-good",
                (Some(served), None) if served.not_after.is_some_and(|end| end <= now) => "expired",
                (Some(_), None) => "ok",
            };
            reports.push(SecretReport {
                name: Arc::clone(&binding.name),
                state,
                not_after: served.and_then(|served| served.not_after),
                error: error.map(ToString::to_string),
            });
        }
        self.report.secrets = reports;
        let kind = |name: &Name| extension_names.contains(name);
        let (unknown, pending) = pending.into_iter().partition(kind);
        self.secret_set = TypeSet::following(&self.secret_set, values, pending);
        self.extension_set = TypeSet::following(&self.extension_set, extensions, unknown);
        if self.sources.secrets.is_none() && late.is_none() && live.is_none() {
            return;
        }
        let ended = |secret: &&SecretReport| secret.not_after.is_some_and(|end| end <= now);
        let ended = self.report.secrets.iter().filter(ended).map(|secret| secret.name.to_string()).collect();
        self.tell_once("expired", ended, "a certificate has run out: it is served on");
        let errors = errors.iter().map(|(name, error)| format!("{name}: {error}")).collect();
        self.tell_once(
            "secrets",
            errors,
            "a secret is of no use: the last good one is served, if there is one",
        );
    }

    /// Logs and counts what is wrong, once until it changes.
    fn tell_once(&mut self, kind: &'static str, errors: Vec<String>, sentence: &str) {
        let prefix = format!("{kind} ");
        let before: BTreeSet<String> =
            self.told.keys().filter(|key| key.starts_with(&prefix)).cloned().collect();
        let now: BTreeMap<String, String> =
            errors.into_iter().map(|error| (format!("{prefix}{error}"), error)).collect();
        for (key, error) in &now {
            if !before.contains(key) {
                tracing::warn!(fleet = self.fleet, error, "{sentence}");
                self.metrics
                    .count("moorgate_relay_binding_errors", &[("fleet", &self.fleet), ("reason", kind)]);
            }
        }
        self.told.retain(|key, _| !key.starts_with(&prefix));
        self.told.extend(now);
    }

    /// Keeps the endpoints for a start without any source; whether there was something to write.
    fn save(&self) -> bool {
        let Some(cache) = &self.cache else { return false };
        let sets: BTreeMap<Name, Vec<u8>> =
            self.last.iter().map(|(name, last)| (Arc::clone(name), last.value.chunks().concat())).collect();
        if sets.is_empty() {
            return false;
        }
        let cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.endpoints() == sets {
            return false;
        }
        if let Err(error) = cache.save_endpoints(&sets) {
            tracing::warn!(fleet = self.fleet, %error, "the endpoints cannot be kept on disk");
            self.metrics
                .count("moorgate_relay_cache_errors", &[("fleet", &self.fleet), ("operation", "endpoints")]);
        }
        true
    }

    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
    fn show(&self, report: &Report) {
        let (fleet, metrics) = (self.fleet.as_str(), &self.metrics);
        metrics.set("moorgate_relay_endpoints", &[("fleet", fleet)], report.endpoints as f64);
        let states = [
            ("known", report.endpoint_sets),
            ("empty", report.empty),
            ("pending", report.pending.len()),
            ("kept", report.kept),
        ];
        for (state, count) in states {
            metrics.set("moorgate_relay_endpoint_sets", &[("fleet", fleet), ("state", state)], count as f64);
        }
        let ends: Vec<_> = report
            .secrets
            .iter()
            .filter_map(|secret| Some((vec![("secret", &*secret.name)], secret.not_after? as f64)))
            .collect();
        metrics.replace("moorgate_relay_secret_not_after_seconds", fleet, &ends);
        let states: Vec<_> = report
            .secrets
            .iter()
            .map(|secret| (vec![("secret", &*secret.name), ("state", secret.state)], 1.0))
            .collect();
        metrics.replace("moorgate_relay_secret_state", fleet, &states);
    }
}

/// Whether a Service of a binding changed in the cluster after this count.
fn changed(binding: &Binding, live: Option<&Live>, seen: u64) -> bool {
    let (Some(live), Some(sources)) = (live, binding.source.endpoints()) else { return false };
    sources.iter().any(|source| live.changed(&source.namespace, &source.service) > seen)
}
