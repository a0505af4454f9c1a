//! Snapshots in memory, and where the parts of the next one may already be.

use super::{FleetConfig, FleetError};
use crate::cache::{Cache, CacheError, SharedCache};
use crate::metrics::Metrics;
use crate::serve::types;
use crate::serve::view::{Config, Name, Value};
use moorgate_snapshot::{Binding, BindingKind, Digest, Page, Snapshot, assemble, limits};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A snapshot that is ready to serve.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub config: Arc<Config>,
    pub bindings: BTreeMap<(BindingKind, Name), Binding>,
    pub snapshot: Arc<Snapshot>,
}

impl Loaded {
    /// Puts the parts together; what equals `before` is shared with it.
    pub(super) fn new(snapshot: Arc<Snapshot>, before: Option<&Config>) -> Self {
        let assembled = assemble(&snapshot);
        let mut types: BTreeMap<Name, BTreeMap<Name, Arc<Value>>> = BTreeMap::new();
        for (type_url, resources) in assembled.resources {
            let held = before.and_then(|before| before.types.get(&type_url));
            let values = resources.into_iter().map(|(name, resource)| {
                // What is the same memory is the same value: nothing has to be hashed.
                let same =
                    held.and_then(|held| held.get(&name)).filter(|value| value.shares(&resource.chunks));
                if let Some(value) = same {
                    return (name, Arc::clone(value));
                }
                let needs = resource.refs.into_iter().filter(|r| r.kind == BindingKind::Endpoints);
                let needs = needs.map(|reference| reference.name).collect();
                (name, Arc::new(Value::new(resource.chunks, needs)))
            });
            let values = values.collect();
            types.insert(type_url, values);
        }
        let config = Config::new(assembled.id, types, before);
        Self { config, bindings: assembled.bindings, snapshot }
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
