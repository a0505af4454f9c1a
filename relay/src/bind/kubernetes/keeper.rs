//! Which watches run: those that some fleet wants.

use super::ask::{Api, Fault};
use super::{object, slices};
use crate::bind::live::{Live, Subject, Wants};
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// So many objects are watched, each with a connection of its own; the rest is asked for from time to time.
const MAX_WATCHED_OBJECTS: usize = 256;
/// How often the metrics of watches are brought up to date.
const COUNT: Duration = Duration::from_secs(5);
/// Kinds in metrics.
const KINDS: [&str; 4] = ["endpointslices", "secrets", "configmaps", "clustertrustbundles"];

/// Starts and ends watches.
pub(super) struct Keeper {
    /// Whose watches these are, if not those of all fleets.
    fleet: Option<String>,
    running: BTreeMap<Subject, JoinHandle<()>>,
    tools: Tools,
}

/// What every watch works with.
#[derive(Clone)]
pub(super) struct Tools {
    pub api: Api,
    pub live: Live,
    pub metrics: Arc<Metrics>,
    pub jitter: Jitter,
}

impl Keeper {
    pub(super) fn new(
        api: Api,
        fleet: Option<&str>,
        live: Live,
        (metrics, jitter): (Arc<Metrics>, Jitter),
    ) -> Self {
        let tools = Tools { api, live, metrics, jitter };
        Self { fleet: fleet.map(str::to_owned), running: BTreeMap::new(), tools }
    }

    /// Keeps the right watches running until it is told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut wanted = self.tools.live.wanted();
        loop {
            let subjects = subjects(&wanted.borrow_and_update());
            self.adjust(&subjects);
            self.count();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                changed = wanted.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(COUNT) => {}
            }
        }
        self.running.values().for_each(JoinHandle::abort);
    }

    fn adjust(&mut self, subjects: &BTreeSet<Subject>) {
        let live = self.tools.live.clone();
        self.running.retain(|subject, task| {
            let stays = subjects.contains(subject);
            if !stays {
                task.abort();
                live.forget(subject);
            }
            stays
        });
        let is_object = |subject: &&Subject| matches!(subject, Subject::Object(_));
        let mut objects = self.running.keys().filter(is_object).count();
        for subject in subjects {
            if self.running.contains_key(subject) {
                continue;
            }
            live.begin(subject);
            let tools = self.tools.clone();
            let task = match subject {
                Subject::Slices(namespace) => tokio::spawn(slices::follow(Arc::clone(namespace), tools)),
                Subject::Object(object) => {
                    objects += 1;
                    tokio::spawn(object::follow(object.clone(), objects <= MAX_WATCHED_OBJECTS, tools))
                }
            };
            self.running.insert(subject.clone(), task);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
    fn count(&self) {
        let census = self.tools.live.census();
        for kind in KINDS {
            let of_kind = || census.iter().filter(|(of, ..)| *of == kind);
            let states = [
                ("failing", of_kind().filter(|(_, _, failing, _)| *failing).count()),
                ("pending", of_kind().filter(|(_, synced, failing, _)| !synced && !failing).count()),
                ("synced", of_kind().filter(|(_, synced, failing, _)| *synced && !failing).count()),
            ];
            for (state, count) in states {
                self.set("moorgate_relay_watches", &[("kind", kind), ("state", state)], count as f64);
            }
            let age = of_kind().map(|(_, _, _, age)| *age).max().unwrap_or_default();
            self.set("moorgate_relay_watch_age_seconds", &[("kind", kind)], age.as_secs_f64());
        }
    }
}

impl Keeper {
    fn set(&self, name: &'static str, labels: &[(&str, &str)], value: f64) {
        let fleet = self.fleet.iter().map(|fleet| ("fleet", fleet.as_str()));
        let labels: Vec<(&str, &str)> = fleet.chain(labels.iter().copied()).collect();
        self.tools.metrics.set(name, &labels, value);
    }
}

/// What all fleets want together.
fn subjects(wants: &BTreeMap<String, Wants>) -> BTreeSet<Subject> {
    let namespaces = wants.values().flat_map(|wants| wants.services.keys());
    let objects = wants.values().flat_map(|wants| &wants.objects);
    let slices = namespaces.map(|namespace| Subject::Slices(Arc::clone(namespace)));
    slices.chain(objects.map(|object| Subject::Object(object.clone()))).collect()
}

impl Tools {
    /// A request came to nothing: told once, counted, and waited for so long that many relays do not come back at once.
    pub(super) async fn rest(&self, subject: &Subject, fault: &Fault, failures: u32) {
        let labels = [("kind", subject.plural()), ("reason", fault.label())];
        self.metrics.count("moorgate_relay_watch_errors", &labels);
        if self.live.fail(subject, &fault.to_string()) {
            tracing::warn!(%subject, %fault, "a watch fails: what it told before stays");
        }
        let pace = &self.api.pace;
        let pause = self.jitter.back_off(failures, pace.base, pace.cap);
        tokio::time::sleep(pause.max(self.jitter.around(fault.least()))).await;
    }

    /// The watch works again, or still does.
    pub(super) fn fine(&self, subject: &Subject) {
        if self.live.work(subject) {
            tracing::info!(%subject, "the watch works again");
        }
    }

    /// How long the next watch is to last, in seconds.
    pub(super) fn span(&self) -> u32 {
        let span = self.jitter.around(self.api.pace.watch).as_secs().max(1);
        u32::try_from(span).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bind::live::{Kind, Object};

    #[test]
    fn fleets_share_watches() {
        let object = Object { kind: Kind::Secret, namespace: "shop".into(), name: "tls".into() };
        let wants = |service: &str| Wants {
            services: [("shop".into(), [service.into()].into())].into(),
            objects: [object.clone()].into(),
        };
        let both = [("a/b".to_owned(), wants("cart")), ("c/d".to_owned(), wants("pay"))].into();
        let names: Vec<_> = subjects(&both).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["endpointslices of shop", "secret shop/tls"]);
    }
}
