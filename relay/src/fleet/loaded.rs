//! Snapshots in memory, and where the parts of the next one may already be.

use super::{FleetConfig, FleetError};
use crate::cache::{Cache, CacheError, SharedCache};
use crate::metrics::Metrics;
use crate::serve::types;
use crate::serve::view::{Config, Leaf, Name, Value};
use moorgate_snapshot::{
    AssembledRun, Binding, BindingKind, Digest, Page, Snapshot, assemble_run, limits, runs,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// A snapshot that is ready to serve.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub config: Arc<Config>,
    pub bindings: Bindings,
    pub snapshot: Arc<Snapshot>,
    /// By the digest of the first page.
    parts: BTreeMap<Digest, Arc<Part>>,
}

/// What begins in a run of pages, put together: what has the same pages has the same part.
#[derive(Debug)]
struct Part {
    pages: Vec<Digest>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Resources(Name, Arc<Leaf>),
    Bindings(Arc<[Binding]>),
}

/// The bindings of a snapshot, in the runs in which its pages hold them, sorted by kind and name.
#[derive(Debug, Clone, Default)]
pub(super) struct Bindings(Vec<Arc<[Binding]>>);

impl Bindings {
    /// Whether these are the very same.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.0.iter().flat_map(|run| run.iter())
    }

    /// Names of endpoints that another snapshot lacks.
    pub(super) fn endpoints_beside(&self, other: &Self) -> BTreeSet<Name> {
        let pointers = |all: &Self| all.0.iter().map(|run| run.as_ptr()).collect::<BTreeSet<_>>();
        let (own, others) = (pointers(self), pointers(other));
        let names = |all: &Self, beside: &BTreeSet<*const Binding>| {
            let apart = all.0.iter().filter(|run| !beside.contains(&run.as_ptr()));
            let endpoints = apart.flat_map(|run| run.iter()).filter(|one| one.kind == BindingKind::Endpoints);
            endpoints.map(|one| Arc::clone(&one.name)).collect::<BTreeSet<_>>()
        };
        &names(self, &others) - &names(other, &own)
    }
}

impl Loaded {
    /// Puts the parts together. What `before` has of the same pages is not looked at again, and what equals a part of it is
    /// shared with it.
    pub(super) fn new(snapshot: Arc<Snapshot>, before: Option<&Self>) -> Self {
        let mut types: BTreeMap<Name, Vec<Arc<Leaf>>> = BTreeMap::new();
        let (mut bindings, mut parts) = (Bindings::default(), BTreeMap::new());
        for run in runs(&snapshot) {
            let Some(key) = run.first().map(Page::digest) else { continue };
            let same = before.and_then(|before| before.parts.get(&key)).filter(|part| part.is_of(run));
            let part = same.map_or_else(|| Arc::new(Part::new(run, before)), Arc::clone);
            match &part.content {
                Content::Resources(type_url, leaf) => {
                    types.entry(Arc::clone(type_url)).or_default().push(Arc::clone(leaf));
                }
                Content::Bindings(run) => bindings.0.push(Arc::clone(run)),
            }
            parts.insert(key, part);
        }
        let config = Config::of_leaves(snapshot.id(), types, before.map(|before| &*before.config));
        Self { config, bindings, snapshot, parts }
    }

    /// Resources by type, short.
    pub(super) fn count(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for (type_url, set) in &self.config.types {
            *counts.entry(types::kind(type_url).short).or_default() += set.len();
        }
        counts
    }
}

impl Part {
    fn is_of(&self, run: &[Page]) -> bool {
        self.pages.iter().copied().eq(run.iter().map(Page::digest))
    }

    fn new(run: &[Page], before: Option<&Loaded>) -> Self {
        let content = match assemble_run(run) {
            AssembledRun::Bindings(bindings) => Content::Bindings(bindings.into()),
            AssembledRun::Resources { type_url, resources } => {
                let held = before.and_then(|before| before.config.types.get(&type_url));
                let values = resources.into_iter().map(|resource| {
                    // What is the same memory is the same value: nothing has to be hashed.
                    let same = held.and_then(|held| held.get(&resource.name));
                    if let Some(value) = same.filter(|value| value.shares(&resource.chunks)) {
                        return (resource.name, Arc::clone(value));
                    }
                    let needs = resource.refs.into_iter().filter(|r| r.kind == BindingKind::Endpoints);
                    let needs = needs.map(|reference| reference.name).collect();
                    (resource.name, Arc::new(Value::new(resource.chunks, needs)))
                });
                Content::Resources(type_url, Leaf::new(values.collect()))
            }
        };
        Self { pages: run.iter().map(Page::digest).collect(), content }
    }
}

/// Pages of what is served, so that only changed ones are fetched and read.
pub(super) type Pages = Arc<Mutex<BTreeMap<Digest, Page>>>;

/// A cache that another relay has is an error; one that cannot be used costs only the safety of a restart.
pub(super) fn open_cache(config: &FleetConfig, metrics: &Metrics) -> Result<Option<SharedCache>, FleetError> {
    let Some(root) = &config.cache else { return Ok(None) };
    match Cache::open(root, &config.fleet) {
        Ok(cache) => {
            if cache.is_read_only() {
                let fleet = config.fleet.to_string();
                tracing::error!(
                    fleet,
                    "the disk cache takes no writes: what it holds is served, and nothing is kept"
                );
                metrics.set("moorgate_relay_cache_degraded", &[("fleet", &fleet)], 1.0);
            }
            Ok(Some(Arc::new(Mutex::new(cache))))
        }
        Err(error @ CacheError::Locked { .. }) => Err(error.into()),
        Err(error) => {
            let fleet = config.fleet.to_string();
            tracing::error!(fleet, %error, "no disk cache: a restart without the store would have nothing to serve");
            metrics.set("moorgate_relay_cache_degraded", &[("fleet", &fleet)], 1.0);
            Ok(None)
        }
    }
}

pub(super) fn lock(cache: &SharedCache) -> std::sync::MutexGuard<'_, Cache> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pages in memory: they were verified when they came.
pub(super) fn held(pages: &Pages) -> crate::pull::Held {
    let pages = Arc::clone(pages);
    Arc::new(move |digest| pages.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned())
}

/// Pages on disk.
pub(super) fn known(cache: Option<&SharedCache>) -> crate::pull::Known {
    let cache = cache.cloned();
    Arc::new(move |digest| cache.as_ref().and_then(|cache| lock(cache).bytes(*digest, limits::PAGE_BYTES)))
}

pub(super) fn kept(cache: Option<&SharedCache>) -> crate::pull::Kept {
    let cache = cache.cloned();
    Arc::new(move |id| cache.as_ref().and_then(|cache| lock(cache).get(id).ok()))
}

#[cfg(test)]
mod tests;
