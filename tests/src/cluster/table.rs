//! All objects of a kind, kept up to date by a watch.

use super::names::key;
use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

type Rows<K> = BTreeMap<String, Arc<K>>;

/// A table by `namespace/name`.
pub(super) struct Table<K> {
    rows: Arc<Mutex<Rows<K>>>,
    changed: watch::Receiver<u64>,
}

impl<K> Clone for Table<K> {
    fn clone(&self) -> Self {
        Self { rows: Arc::clone(&self.rows), changed: self.changed.clone() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K> Table<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    /// Watches all namespaces, from now on.
    pub(super) fn watch(client: &Client) -> Self {
        let rows: Arc<Mutex<Rows<K>>> = Arc::default();
        let (bump, changed) = watch::channel(0_u64);
        let table = Self { rows: Arc::clone(&rows), changed };
        let api: Api<K> = Api::all(client.clone());
        tokio::spawn(async move {
            let mut events = Box::pin(watcher(api, watcher::Config::default()));
            let mut fresh = Rows::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => fresh.clear(),
                    Ok(Event::InitApply(object)) => {
                        fresh.insert(key(&object), Arc::new(object));
                        continue;
                    }
                    Ok(Event::InitDone) => *lock(&rows) = std::mem::take(&mut fresh),
                    Ok(Event::Apply(object)) => {
                        lock(&rows).insert(key(&object), Arc::new(object));
                    }
                    Ok(Event::Delete(object)) => {
                        lock(&rows).remove(&key(&object));
                    }
                    Err(error) => {
                        // It tries again by itself; a little later is soon enough.
                        super::inside::say(&format!("watching {}: {error}", K::plural(&())));
                        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                        continue;
                    }
                }
                bump.send_modify(|count| *count += 1);
            }
        });
        table
    }

    /// An object.
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        lock(&self.rows).get(&format!("{namespace}/{name}")).cloned()
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<K>> {
        lock(&self.rows).values().cloned().collect()
    }

    /// What tells of each change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}
