//! What a live cluster told: EndpointSlices and the objects behind secrets, shared by all fleets of a relay.
//!
//! Fleets say what they want; whoever watches the cluster fills in the answers and never takes one back because it
//! cannot ask any more. This file knows no client, so that the binder is the same with and without one.

mod wants;

pub use wants::{Kind, Object, Wants};

use super::catalog::{Endpoint, PortSet, merged};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The most failing watches that are shown to people.
const SHOWN: usize = 20;

/// The most endpoints of one namespace that are kept: about 100 bytes each.
pub const MAX_ENDPOINTS: usize = 250_000;

/// One thing that is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The EndpointSlices of a namespace.
    Slices(Arc<str>),
    /// One object by its name.
    Object(Object),
}

impl Subject {
    /// The kind as API servers and metrics write it.
    pub fn plural(&self) -> &'static str {
        match self {
            Self::Slices(_) => "endpointslices",
            Self::Object(object) => object.kind.plural(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slices(namespace) => write!(f, "endpointslices of {namespace}"),
            Self::Object(object) => object.fmt(f),
        }
    }
}

/// An EndpointSlice, trimmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// The Service that it belongs to.
    pub service: String,
    /// Its addresses by port.
    pub sets: Vec<PortSet>,
}

impl Slice {
    fn endpoints(&self) -> usize {
        self.sets.iter().map(|set| set.endpoints.len()).sum()
    }
}

/// The entries of an object that certificates and bundles are made of. Debug output shows none of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pem {
    /// `tls.crt`.
    pub chain: Option<Vec<u8>>,
    /// `tls.key`.
    pub key: Option<Vec<u8>>,
    /// `ca.crt`, or the text of a ClusterTrustBundle.
    pub bundle: Option<Vec<u8>>,
    /// All of them, where a template asks for more than these.
    pub entries: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem(…)")
    }
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing yet.
    Pending,
    /// There is no such object.
    Absent,
    /// Nothing, because of this.
    Failed(String),
    /// Its entries, as last seen.
    Found(Arc<Pem>),
}

/// Counts up with every change that somebody wants to hear of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Of endpoints.
    pub endpoints: u64,
    /// Of objects.
    pub objects: u64,
}

/// How the watches do, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Watches {
    /// How many there are.
    pub total: usize,
    /// How many have answered once.
    pub synced: usize,
    /// Those that fail now, with their words; the first ones of many.
    pub failing: BTreeMap<String, String>,
}

/// How one watch does.
#[derive(Debug, Clone)]
struct Health {
    synced: bool,
    heard: Instant,
    failing: Option<String>,
}

/// The endpoints of a Service by slice.
#[derive(Debug, Default)]
struct Service {
    slices: BTreeMap<String, Slice>,
    changed: u64,
}

#[derive(Debug, Default)]
struct Namespace {
    services: BTreeMap<String, Service>,
    endpoints: usize,
    /// When a Service that is not in `services` changed last.
    changed: u64,
}

#[derive(Debug, Default)]
struct Told {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    objects: BTreeMap<Object, Answer>,
    health: BTreeMap<Subject, Health>,
    tick: u64,
}

#[derive(Debug, Default)]
struct Inner {
    told: Mutex<Told>,
    ticks: watch::Sender<Ticks>,
    wants: watch::Sender<BTreeMap<String, Wants>>,
}

/// More endpoints in a namespace than are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded;

/// The shared knowledge; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Inner>);

impl Live {
    /// Says what a fleet wants from now on.
    pub fn want(&self, fleet: &str, wants: Wants) {
        self.0.wants.send_if_modified(|all| {
            if all.get(fleet) == Some(&wants) {
                return false;
            }
            all.insert(fleet.to_owned(), wants);
            true
        });
    }

    /// A fleet wants nothing any more.
    pub fn leave(&self, fleet: &str) {
        self.0.wants.send_if_modified(|all| all.remove(fleet).is_some());
    }

    /// What fleets want.
    pub fn wanted(&self) -> watch::Receiver<BTreeMap<String, Wants>> {
        self.0.wants.subscribe()
    }

    /// Tells of changes.
    pub fn ticks(&self) -> watch::Receiver<Ticks> {
        self.0.ticks.subscribe()
    }

    /// The endpoints of a Service port, sorted; `None` if its namespace was not read yet.
    pub fn endpoints(
        &self,
        namespace: &str,
        service: &str,
        port_name: &str,
        port: u16,
    ) -> Option<Vec<Endpoint>> {
        let told = self.told();
        let services = &told.namespaces.get(namespace)?.services;
        let sets = services.get(service).into_iter().flat_map(|service| service.slices.values());
        Some(merged(sets.flat_map(|slice| &slice.sets), port_name, port))
    }

    /// The count of [`Ticks::endpoints`] at which a Service changed last.
    pub fn changed(&self, namespace: &str, service: &str) -> u64 {
        let told = self.told();
        let Some(namespace) = told.namespaces.get(namespace) else { return 0 };
        namespace.services.get(service).map_or(namespace.changed, |service| service.changed)
    }

    /// What is known of an object.
    pub fn object(&self, object: &Object) -> Answer {
        self.told().objects.get(object).cloned().unwrap_or(Answer::Pending)
    }

    /// How the watches do.
    pub fn watches(&self) -> Watches {
        let told = self.told();
        let failing = told
            .health
            .iter()
            .filter_map(|(subject, health)| Some((subject.to_string(), health.failing.clone()?)));
        Watches {
            total: told.health.len(),
            synced: told.health.values().filter(|health| health.synced).count(),
            failing: failing.take(SHOWN).collect(),
        }
    }

    /// Kind, whether it has answered once, whether it fails, and the time since it was heard: of every watch.
    pub fn census(&self) -> Vec<(&'static str, bool, bool, Duration)> {
        let told = self.told();
        let one = |(subject, health): (&Subject, &Health)| {
            (subject.plural(), health.synced, health.failing.is_some(), health.heard.elapsed())
        };
        told.health.iter().map(one).collect()
    }

    /// A watch begins.
    pub fn begin(&self, subject: &Subject) {
        let fresh = Health { synced: false, heard: Instant::now(), failing: None };
        self.told().health.insert(subject.clone(), fresh);
    }

    /// A watch has ended because nobody wants it: what it told is forgotten.
    pub fn forget(&self, subject: &Subject) {
        let mut told = self.told();
        told.health.remove(subject);
        match subject {
            Subject::Slices(namespace) => drop(told.namespaces.remove(namespace)),
            Subject::Object(object) => drop(told.objects.remove(object)),
        }
    }

    /// A watch was heard of.
    pub fn heard(&self, subject: &Subject) {
        if let Some(health) = self.told().health.get_mut(subject) {
            health.heard = Instant::now();
        }
    }

    /// A watch fails: what it told stays. Whether that is news.
    pub fn fail(&self, subject: &Subject, reason: &str) -> bool {
        let mut told = self.told();
        let Some(health) = told.health.get_mut(subject) else { return false };
        let news = health.failing.as_deref() != Some(reason);
        health.failing = Some(reason.to_owned());
        if let Subject::Object(object) = subject {
            let answer = told.objects.entry(object.clone()).or_insert(Answer::Pending);
            if matches!(answer, Answer::Pending | Answer::Failed(_)) && news {
                *answer = Answer::Failed(reason.to_owned());
                told.tick += 1;
                self.ring(&told, |ticks, now| ticks.objects = now);
            }
        }
        news
    }

    /// A watch works. Whether it failed before.
    pub fn work(&self, subject: &Subject) -> bool {
        let mut told = self.told();
        let Some(health) = told.health.get_mut(subject) else { return false };
        health.heard = Instant::now();
        health.failing.take().is_some()
    }

    /// All slices of a namespace: what is not among them is gone.
    pub fn list(&self, namespace: &Arc<str>, slices: Vec<Slice>) -> Result<(), Crowded> {
        let endpoints = slices.iter().map(Slice::endpoints).sum();
        if endpoints > MAX_ENDPOINTS {
            return Err(Crowded);
        }
        let mut services: BTreeMap<String, Service> = BTreeMap::new();
        for slice in slices {
            let service = services.entry(slice.service.clone()).or_default();
            service.slices.insert(slice.name.clone(), slice);
        }
        let mut told = self.told();
        let subject = Subject::Slices(Arc::clone(namespace));
        // A watch that was ended meanwhile has nothing to say any more.
        let Some(health) = told.health.get_mut(&subject) else { return Ok(()) };
        health.synced = true;
        let now = told.tick + 1;
        let before = told.namespaces.remove(namespace);
        let first = before.is_none();
        let mut before = before.unwrap_or_default();
        for (name, service) in &mut services {
            let same = before.services.remove(name).filter(|before| before.slices == service.slices);
            service.changed = same.map_or(now, |before| before.changed);
        }
        let gone: Vec<String> = before.services.into_keys().collect();
        let mut changed: Vec<&str> = gone.iter().map(String::as_str).collect();
        changed.extend(services.iter().filter(|(_, s)| s.changed == now).map(|(name, _)| name.as_str()));
        let rings = first || self.is_wanted(namespace, &changed);
        let absent = if first || !gone.is_empty() { now } else { before.changed };
        told.namespaces.insert(Arc::clone(namespace), Namespace { services, endpoints, changed: absent });
        told.tick = now;
        if rings {
            self.ring(&told, |ticks, now| ticks.endpoints = now);
        }
        Ok(())
    }

    /// A slice is new or changed.
    pub fn apply(&self, namespace: &Arc<str>, slice: Slice) -> Result<(), Crowded> {
        let mut guard = self.told();
        let told = &mut *guard;
        let Some(known) = told.namespaces.get_mut(namespace) else { return Ok(()) };
        let before =
            known.services.get(&slice.service).and_then(|service| service.slices.get(&slice.name)).cloned();
        if before.as_ref() == Some(&slice) {
            return Ok(());
        }
        let total = known.endpoints - before.as_ref().map_or(0, Slice::endpoints) + slice.endpoints();
        if total > MAX_ENDPOINTS {
            return Err(Crowded);
        }
        // A slice may change hands.
        let former = if before.is_none() { known.holder(&slice.name) } else { None };
        if let Some(former) = &former {
            known.take(former, &slice.name, told.tick + 1);
        }
        let name = slice.service.clone();
        known.endpoints += slice.endpoints();
        known.endpoints -= before.as_ref().map_or(0, Slice::endpoints);
        let service = known.services.entry(name.clone()).or_default();
        service.slices.insert(slice.name.clone(), slice);
        told.tick += 1;
        service.changed = told.tick;
        let changed: Vec<&str> =
            [Some(&name), former.as_ref()].into_iter().flatten().map(String::as_str).collect();
        if self.is_wanted(namespace, &changed) {
            self.ring(told, |ticks, now| ticks.endpoints = now);
        }
        Ok(())
    }

    /// A slice is gone.
    pub fn delete(&self, namespace: &Arc<str>, name: &str) {
        let mut guard = self.told();
        let told = &mut *guard;
        let Some(known) = told.namespaces.get_mut(namespace) else { return };
        let Some(service) = known.holder(name) else { return };
        told.tick += 1;
        known.take(&service, name, told.tick);
        if self.is_wanted(namespace, &[&service]) {
            self.ring(told, |ticks, now| ticks.endpoints = now);
        }
    }

    /// An object as it is now; `None` if there is none.
    pub fn tell(&self, object: &Object, pem: Option<Pem>) {
        let mut told = self.told();
        let subject = Subject::Object(object.clone());
        let Some(health) = told.health.get_mut(&subject) else { return };
        health.synced = true;
        let answer = pem.map_or(Answer::Absent, |pem| Answer::Found(Arc::new(pem)));
        if told.objects.get(object) == Some(&answer) {
            return;
        }
        told.objects.insert(object.clone(), answer);
        told.tick += 1;
        self.ring(&told, |ticks, now| ticks.objects = now);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self, namespace: &Arc<str>, services: &[&str]) -> bool {
        let wants = self.0.wants.borrow();
        let mut wanted = wants.values().filter_map(|wants| wants.services.get(namespace));
        wanted.any(|wanted| services.iter().any(|service| wanted.contains(*service)))
    }

    fn ring(&self, told: &Told, set: impl FnOnce(&mut Ticks, u64)) {
        self.0.ticks.send_modify(|ticks| set(ticks, told.tick));
    }
}

impl Namespace {
    /// The Service that has a slice.
    fn holder(&self, slice: &str) -> Option<String> {
        let found = self.services.iter().find(|(_, service)| service.slices.contains_key(slice));
        found.map(|(name, _)| name.clone())
    }

    /// Takes a slice from a Service.
    fn take(&mut self, service: &str, slice: &str, now: u64) {
        let Some(known) = self.services.get_mut(service) else { return };
        if let Some(slice) = known.slices.remove(slice) {
            self.endpoints -= slice.endpoints();
        }
        known.changed = now;
        if known.slices.is_empty() {
            self.services.remove(service);
            self.changed = now;
        }
    }
}

#[cfg(test)]
mod tests;
