//! `watch --provision`: the fleets themselves, by server-side apply of what [`render`](crate::render) makes.
//!
//! ```text
//!          prepare ──▶ (publish) ──▶ (Envoys acknowledge) ──▶ open
//! ports:   only those that stay                               all of them
//! ```
//! A Service leads to a new port when Envoys listen there, and no longer to an old one before Envoys leave it: `prepare`
//! is called before a snapshot is published, `open` when the fleet has acknowledged it. Whatever else changes is applied
//! by `prepare`. What a fleet no longer needs is removed, and so are fleets whose Gateway is gone ([`Provisioner::prune`]);
//! objects in the Gateway's own namespace go with it by their owner, also with nobody watching.
//!
//! Only what bears our label and our controller's name is ever removed.

mod api;
mod drive;
mod inventory;
mod relays;
mod report;
mod services;

pub use api::ApiError;

use crate::render::{self, Addresses, Fleet, Model, RenderError, ReportSecret, Settings};
use crate::serve_store::Accounts;
use api::Cluster;
use futures::future::join_all;
use inventory::{Inventory, Key};
use kube::Client;
use moorgate_snapshot::trust::TrustFileError;
use moorgate_snapshot::{FleetName, KeyError, PublicKey};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::watch;

/// The field manager of everything that is applied.
pub const FIELD_MANAGER: &str = "moorgate-watch";

/// Applies fleets.
#[derive(Debug)]
pub struct Provisioner {
    cluster: Cluster,
    settings: Settings,
    inventory: Mutex<Inventory>,
    /// Whom a fleet's relays trust, with the key of their own reports, once that is known.
    trust: Mutex<BTreeMap<FleetName, Trusted>>,
    /// Keys that sign the reports of relays in pods of their own, by owner.
    keys: Mutex<BTreeMap<String, PublicKey>>,
    /// Which of these relays there are to be.
    owners: Mutex<BTreeSet<String>>,
    front: Option<Front>,
}

/// A store that is served beside the fleets that are made.
#[derive(Debug)]
struct Front {
    /// Told which fleet belongs to which ServiceAccount.
    accounts: Accounts,
    /// The CA of its certificate, if that is one of its own; none before it is made.
    authority: Option<watch::Receiver<Option<String>>>,
}

/// Whom a fleet's relays trust.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Trusted {
    /// The identity of the Gateway: another one of the same name has another key.
    uid: Option<String>,
    /// The trust file.
    file: String,
    /// The key that signs their reports, if it is one of this fleet alone.
    reporter: Option<PublicKey>,
}

/// What became of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned {
    /// Where it is reached.
    pub addresses: Addresses,
    /// The key that signs its relays' reports, if it is one of this fleet alone.
    pub reporter: Option<PublicKey>,
    /// Its Services do not lead to all of its ports yet: [`Provisioner::open`] is due when Envoys acknowledged.
    pub waiting: bool,
}

/// Why a fleet could not be applied.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// The settings do not fit.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The key of a fleet's reports.
    #[error("Secret {name}: {source}")]
    ReportKey {
        /// The Secret.
        name: String,
        /// Why.
        source: KeyError,
    },
    /// Parameters choose the name of an object that is there, and is none of this fleet.
    #[error("{0} is there already, and belongs to somebody else")]
    Taken(String),
    /// A Gateway of this name was deleted, and its Secret is not gone yet.
    #[error("Secret {0} belongs to a Gateway or account that is gone: waits until it is gone, too")]
    Former(String),
    /// The trust file.
    #[error(transparent)]
    Trust(#[from] TrustFileError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
}

impl Provisioner {
    /// A provisioner for fleets that all have these settings.
    pub fn new(client: Client, settings: Settings) -> Self {
        let cluster = Cluster::new(client);
        let (inventory, trust) = (Mutex::default(), Mutex::default());
        let (keys, owners) = (Mutex::default(), Mutex::default());
        Self { cluster, settings, inventory, trust, keys, owners, front: None }
    }

    /// The same for fleets that read a store which is served here: their ServiceAccounts are known there as soon as their
    /// Gateways are, and as long; `authority` is what their relays believe.
    #[must_use]
    pub fn beside(self, accounts: Accounts, authority: Option<watch::Receiver<Option<String>>>) -> Self {
        Self { front: Some(Front { accounts, authority }), ..self }
    }

    /// The namespace of fleets of merged classes.
    fn home(&self) -> &str {
        &self.settings.merged_namespace
    }

    /// Before a snapshot is published: applies everything, but leads no Service to a port that is new, and leads them away
    /// from those that go. Costs one list request if nothing has changed. A fleet without ports stays as it is: its
    /// Gateway may be about to be mended, and its address is kept meanwhile.
    pub async fn prepare(&self, fleet: &Fleet) -> Result<Provisioned, ProvisionError> {
        self.apply(fleet, services::narrow).await
    }

    /// When the fleet's Envoys acknowledged the snapshot: leads Services to all ports.
    pub async fn open(&self, fleet: &Fleet) -> Result<Provisioned, ProvisionError> {
        self.apply(fleet, |_, _| ()).await
    }

    /// Removes fleets that are not among these, and says which. Fleets of Gateways that are there but could not be compiled
    /// belong among them.
    pub async fn prune(&self, live: &BTreeSet<FleetName>) -> Result<BTreeSet<String>, ProvisionError> {
        self.take_inventory().await?;
        let owners = self.owners().clone();
        let names: BTreeSet<String> = live.iter().map(ToString::to_string).chain(owners.clone()).collect();
        let gone = self.inventory().of_others(&names);
        let fleets = gone.iter().map(|(_, fleet)| fleet.clone()).collect();
        self.remove(gone.into_iter().map(|(key, _)| key)).await?;
        self.trust().retain(|fleet, _| live.contains(fleet));
        // Secrets of relays go with their accounts.
        self.keys().retain(|owner, _| owners.contains(owner));
        Ok(fleets)
    }

    /// Applies everything again at the next call, and looks at what is there: against changes by other hands.
    pub fn forget(&self) {
        *self.inventory() = Inventory::default();
        self.trust().clear();
        self.keys().clear();
    }

    async fn apply(
        &self,
        fleet: &Fleet,
        shape: impl Fn(&mut Value, Option<&Value>),
    ) -> Result<Provisioned, ProvisionError> {
        self.take_inventory().await?;
        let Trusted { file, reporter, .. } = self.trust_of(fleet).await?;
        let settings = Settings { trust: file, store_ca: self.authority(), ..self.settings.clone() };
        let mut live = self.cluster.services(&fleet.infrastructure.namespace, &fleet.name).await?;
        if fleet.ports.is_empty() {
            let addresses = render::addresses(&fleet.infrastructure.addresses, live.values());
            return Ok(Provisioned { addresses, reporter, waiting: false });
        }
        let mut manifests = render::manifests(fleet, &settings)?;
        self.free(fleet, &manifests).await?;
        let wanted: BTreeSet<Key> = manifests.iter().filter_map(Key::of).collect();
        let mut waiting = false;
        for service in manifests.iter_mut().filter(|manifest| manifest["kind"] == "Service") {
            let all = service["spec"]["ports"].clone();
            let name = service["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            shape(service, live.get(&name));
            waiting |= service["spec"]["ports"] != all;
        }
        for service in self.apply_in_order(&fleet.name.to_string(), manifests).await? {
            let name = service["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            live.insert(name, service);
        }
        let unneeded = self.inventory().unneeded(&fleet.name.to_string(), &wanted);
        for key in &unneeded {
            live.retain(|name, _| !key.is_service(name));
        }
        self.remove(unneeded).await?;
        let addresses = render::addresses(&fleet.infrastructure.addresses, live.values());
        Ok(Provisioned { addresses, reporter, waiting })
    }

    /// Whether objects whose names parameters choose are nobody else's: they would be taken over.
    async fn free(&self, fleet: &Fleet, manifests: &[Value]) -> Result<(), ProvisionError> {
        let chosen: BTreeSet<(&str, String)> = fleet
            .shape
            .claims(&fleet.object_name())
            .into_iter()
            .filter(|(.., chosen)| *chosen)
            .map(|(kind, name, _)| (kind, name))
            .collect();
        for key in manifests.iter().filter_map(Key::of) {
            let Some(kind) = key.kind() else { continue };
            // Further Services begin with the chosen name.
            let is_chosen =
                chosen.iter().any(|(known, name)| *known == kind.name && key.name.starts_with(name));
            if !is_chosen || self.inventory().is_of(&key, &fleet.name.to_string()) {
                continue;
            }
            let live = self.cluster.get(kind, &key.namespace, &key.name).await?;
            let own = render::fleet_label(&fleet.name);
            if live.is_some_and(|live| live["metadata"]["labels"][render::FLEET_LABEL] != own) {
                return Err(ProvisionError::Taken(format!("{} {}/{}", kind.name, key.namespace, key.name)));
            }
        }
        Ok(())
    }

    /// Applies what has changed, pods last: what they mount and who they are is there by then. Gives the Services as they are
    /// now.
    async fn apply_in_order(&self, owner: &str, manifests: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        let (pods, others): (Vec<Value>, Vec<Value>) = manifests
            .into_iter()
            .partition(|manifest| matches!(manifest["kind"].as_str(), Some("Deployment" | "DaemonSet")));
        let mut services = self.apply_all(owner, others).await?;
        services.extend(self.apply_all(owner, pods).await?);
        Ok(services)
    }

    /// Applies what has changed since it was applied last; gives the Services as they are now.
    async fn apply_all(&self, owner: &str, manifests: Vec<Value>) -> Result<Vec<Value>, ApiError> {
        let changed: Vec<Value> =
            manifests.into_iter().filter(|manifest| !self.inventory().has(manifest)).collect();
        let applied = changed.iter().map(|manifest| self.cluster.apply(manifest));
        let mut services = Vec::new();
        let mut failed = None;
        // One that is refused keeps none of the others back.
        for (manifest, answer) in changed.iter().zip(join_all(applied).await) {
            match answer {
                Ok(object) => {
                    self.inventory().applied(owner, manifest);
                    services.extend((manifest["kind"] == "Service").then_some(object));
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(services), Err)
    }

    async fn remove(&self, keys: impl IntoIterator<Item = Key>) -> Result<(), ApiError> {
        let keys: Vec<Key> = keys.into_iter().collect();
        let removed = join_all(keys.iter().map(|key| self.cluster.delete(key))).await;
        let mut failed = None;
        for (key, answer) in keys.iter().zip(removed) {
            match answer {
                Ok(()) => self.inventory().removed(key),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// What an earlier run left in the cluster.
    async fn take_inventory(&self) -> Result<(), ApiError> {
        if self.inventory().is_taken() {
            return Ok(());
        }
        let found = self.cluster.ours(&self.settings.controller_name).await?;
        self.inventory().take(found);
        Ok(())
    }

    /// Whom the fleet's relays trust.
    async fn trust_of(&self, fleet: &Fleet) -> Result<Trusted, ProvisionError> {
        if self.settings.model != Model::Sidecar {
            let reporter = self.reporter_of(fleet);
            return Ok(Trusted { uid: None, file: self.settings.trust.clone(), reporter });
        }
        if self.settings.report_secret != Some(ReportSecret::PerFleet) {
            return Ok(Trusted { uid: None, file: self.settings.trust.clone(), reporter: None });
        }
        let uid = fleet.infrastructure.uid.clone();
        if let Some(known) = self.trust().get(&fleet.name).filter(|known| known.uid == uid) {
            return Ok(known.clone());
        }
        let place = report::Place {
            namespace: &fleet.infrastructure.namespace,
            name: fleet.report_secret_name(),
            uid: uid.as_deref(),
        };
        let make = |private: &str| render::report_secret(fleet, &self.settings, private);
        let key = report::key(&self.cluster, place, make).await?;
        let (name, fleets) = (format!("reports of {}", fleet.name), vec![fleet.name.to_string()]);
        let file = report::trust(&self.settings.trust, name, fleets, &key)?;
        let trusted = Trusted { uid, file, reporter: Some(key) };
        self.trust().insert(fleet.name.clone(), trusted.clone());
        Ok(trusted)
    }

    /// What relays believe of the store.
    fn authority(&self) -> Option<String> {
        let own = self.front.as_ref().and_then(|front| front.authority.as_ref());
        own.and_then(|own| own.borrow().clone()).or_else(|| self.settings.store_ca.clone())
    }

    fn inventory(&self) -> MutexGuard<'_, Inventory> {
        self.inventory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<String, PublicKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owners(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trust(&self) -> MutexGuard<'_, BTreeMap<FleetName, Trusted>> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
