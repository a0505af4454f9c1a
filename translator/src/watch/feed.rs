//! The reflectors: one watch a kind, told to the loop as changes.
//!
//! A watch resumes where it broke off; if the API server no longer knows that place (410 Gone) all objects of the kind
//! are listed again, and take the place of those that were known in one step. As long as the API server cannot be
//! reached nothing changes here. CRDs that appear later are found by asking again which kinds there are.

use super::Shared;
use super::meter::{EVENTS, HEARD, LISTS, WATCH_ERRORS};
use crate::source::cluster::{self, Kind, Live};
use futures::TryStreamExt as _;
use kube::api::{Api, DynamicObject, ListParams};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher::Error};
use kube::{Client, core::ApiResource};
use moorgate_model::ObjectRef;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;

/// The time between questions for kinds.
const DISCOVERY: Duration = Duration::from_secs(5);
/// A kind that the API server stopped naming is asked for after this time: one that starts names those of CRDs late.
const GONE: Duration = Duration::from_secs(15);
/// The shortest and the longest wait after a watch that failed.
const WAIT: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Group and kind.
pub(super) type KindName = (String, String);

/// What the loop is told.
#[derive(Debug)]
pub(super) enum Change {
    /// These kinds are there, so that it can wait until all were listed.
    Kinds(Vec<KindName>),
    /// All objects of a kind.
    Listed(KindName, Vec<Live>),
    /// One object.
    Applied(Box<Live>),
    /// The cluster does not serve a kind any more, and so has no objects of it.
    Lost(KindName),
    /// An object is gone, with the resource version of that.
    Deleted(ObjectRef, String),
    /// Secrets and ConfigMaps that were read by name; none where one is not there.
    Named(Vec<(ObjectRef, Option<Live>)>),
}

pub(super) fn name_of(kind: &Kind) -> KindName {
    (kind.resource.group.clone(), kind.resource.kind.clone())
}

struct Watched {
    resource: ApiResource,
    task: JoinHandle<()>,
    /// Since when discovery does not name it.
    missing: Option<Instant>,
}

/// Watches all kinds that there are, and those that will be, until the loop is gone.
pub(super) async fn run(client: Client, shared: Arc<Shared>, changes: Sender<Change>) {
    let mut watched: BTreeMap<KindName, Watched> = BTreeMap::new();
    let mut failures = 0_u32;
    loop {
        let found = match cluster::kinds(&client).await {
            Ok(found) => found,
            Err(error) => {
                if failures.is_multiple_of(12) {
                    tracing::warn!(%error, "cannot learn which kinds there are");
                }
                failures += 1;
                tokio::time::sleep(WAIT.1.min(WAIT.0 * failures)).await;
                continue;
            }
        };
        failures = 0;
        shared.meter.happened(HEARD);
        let kinds: BTreeMap<KindName, Kind> =
            cluster::core().into_iter().chain(found).map(|kind| (name_of(&kind), kind)).collect();
        if changes.send(Change::Kinds(kinds.keys().cloned().collect())).await.is_err() {
            break;
        }
        for (name, kind) in &kinds {
            let same = watched.get_mut(name).filter(|known| known.resource == kind.resource);
            if let Some(known) = same {
                known.missing = None;
                continue;
            }
            let task = tokio::spawn(watch(client.clone(), kind.clone(), shared.clone(), changes.clone()));
            let watch = Watched { resource: kind.resource.clone(), task, missing: None };
            if let Some(old) = watched.insert(name.clone(), watch) {
                old.task.abort();
            }
        }
        for name in missing(&mut watched, &kinds, Instant::now()) {
            let Some(known) = watched.get_mut(&name) else { continue };
            if !is_unknown(&client, &known.resource).await {
                // Served all the same, or nobody knows: it is asked for again later.
                known.missing = None;
                continue;
            }
            known.task.abort();
            watched.remove(&name);
            tracing::warn!(group = name.0, kind = name.1, "the cluster does not serve this kind any more");
            if changes.send(Change::Lost(name)).await.is_err() {
                break;
            }
        }
        tokio::time::sleep(DISCOVERY).await;
        if changes.is_closed() {
            break;
        }
    }
    watched.into_values().for_each(|watched| watched.task.abort());
}

/// Kinds that discovery has not named for long enough.
fn missing(
    watched: &mut BTreeMap<KindName, Watched>,
    there: &BTreeMap<KindName, Kind>,
    now: Instant,
) -> Vec<KindName> {
    let mut long = Vec::new();
    for (name, known) in watched.iter_mut() {
        if there.contains_key(name) {
            known.missing = None;
        } else if now - *known.missing.get_or_insert(now) >= GONE {
            long.push(name.clone());
        }
    }
    long
}

/// Whether the API server says that it does not know a kind. One that is just starting says that it is not ready instead.
async fn is_unknown(client: &Client, resource: &ApiResource) -> bool {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let what = || format!("an object of kind {}", resource.kind);
    match cluster::answer(what, api.list(&ListParams::default().limit(1))).await {
        Err(cluster::ClusterError::Api { source, .. }) => cluster::is_missing(&source),
        _ => false,
    }
}

/// Watches one kind for ever.
async fn watch(client: Client, kind: Kind, shared: Arc<Shared>, changes: Sender<Change>) {
    let label = kind.resource.kind.clone();
    let label = [("kind", label.as_str())];
    let api: Api<DynamicObject> = Api::all_with(client, &kind.resource);
    let stream = watcher::watcher(api, watcher::Config::default()).backoff(Calm::default());
    tokio::pin!(stream);
    let mut listed = None;
    let mut failures = 0_u32;
    loop {
        match stream.try_next().await {
            Ok(Some(event)) => {
                failures = 0;
                shared.meter.happened(HEARD);
                if matches!(event, Event::InitDone) {
                    shared.meter.count(LISTS, &label);
                } else if matches!(event, Event::Apply(_) | Event::Delete(_)) {
                    shared.meter.count(EVENTS, &label);
                }
                if let Some(change) = change(event, &kind, &mut listed)
                    && changes.send(change).await.is_err()
                {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                let reason = if is_gone(&error) { "gone" } else { "failed" };
                shared.meter.count(WATCH_ERRORS, &[label[0], ("reason", reason)]);
                // 410 Gone is the usual end of a watch that fell behind: the list follows.
                if failures.is_multiple_of(16) && !is_gone(&error) {
                    tracing::warn!(kind = kind.resource.kind, %error, "a watch broke off and is taken up again");
                }
                failures += 1;
            }
        }
    }
}

fn is_gone(error: &Error) -> bool {
    match error {
        Error::WatchError(status) | Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

fn change(event: Event<DynamicObject>, kind: &Kind, listed: &mut Option<Vec<Live>>) -> Option<Change> {
    match event {
        Event::Init => {
            *listed = Some(Vec::new());
            None
        }
        Event::InitApply(object) => {
            listed.get_or_insert_default().extend(Live::of(object, kind));
            None
        }
        Event::InitDone => Some(Change::Listed(name_of(kind), listed.take().unwrap_or_default())),
        Event::Apply(object) => Live::of(object, kind).map(|live| Change::Applied(Box::new(live))),
        Event::Delete(object) => {
            let version = object.metadata.resource_version.clone().unwrap_or_default();
            Live::of(object, kind).map(|live| Change::Deleted(live.reference, version))
        }
    }
}

/// Waits twice as long after each failure.
#[derive(Debug, Default)]
struct Calm(u32);

impl Iterator for Calm {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = WAIT.0.saturating_mul(1 << self.0.min(10));
        self.0 = self.0.saturating_add(1);
        Some(wait.min(WAIT.1))
    }
}

impl Backoff for Calm {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_fails_waits_longer_each_time_and_not_for_ever() {
        let waits: Vec<u64> =
            Calm::default().take(9).map(|wait| u64::try_from(wait.as_millis()).unwrap()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
    }

    #[tokio::test]
    async fn a_kind_that_is_missing_for_a_moment_is_not_gone() {
        let kind = Kind::new("g", "v1", "K", "ks", true);
        let name = name_of(&kind);
        let task = tokio::spawn(std::future::pending());
        let mut watched = BTreeMap::from([(
            name.clone(),
            Watched { resource: kind.resource.clone(), task, missing: None },
        )]);
        let start = Instant::now();
        let none = BTreeMap::new();
        assert!(missing(&mut watched, &none, start).is_empty());
        assert!(missing(&mut watched, &none, start + GONE / 2).is_empty());
        // It was there in between.
        let there = BTreeMap::from([(name.clone(), kind)]);
        assert!(missing(&mut watched, &there, start + GONE / 2).is_empty());
        assert!(missing(&mut watched, &none, start + GONE).is_empty());
        assert_eq!(missing(&mut watched, &none, start + GONE * 2), [name]);
        watched.into_values().for_each(|watched| watched.task.abort());
    }
}
