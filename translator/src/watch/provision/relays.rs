//! Relays in pods of their own: one Deployment for each class, or one DaemonSet, whichever fleets there are.

use super::inventory::Key;
use super::{ProvisionError, Provisioner, report};
use crate::render::{self, Fleet, Model, Relays, Settings};
use moorgate_snapshot::{FleetName, PublicKey};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Fleets whose relays are made, as they were compiled last: one that cannot be compiled for a while keeps its relays as
/// long as its Gateway is there, for its Envoys go on.
#[derive(Debug, Default)]
pub(super) struct Members {
    fleets: BTreeMap<FleetName, Fleet>,
    /// What was applied, by owner.
    applied: BTreeMap<String, Vec<Fleet>>,
}

/// Whose objects these are, in the inventory, where those of fleets have the fleet's name.
pub(super) fn owner(selected: &str) -> String {
    format!("relays {selected}")
}

impl Members {
    /// Takes note of what was compiled, and of which Gateways are there.
    pub(super) fn see(&mut self, compiled: impl IntoIterator<Item = Fleet>, there: &BTreeSet<FleetName>) {
        let served = compiled.into_iter().filter(|fleet| !fleet.ports.is_empty());
        self.fleets.extend(served.map(|fleet| (fleet.name.clone(), fleet)));
        self.fleets.retain(|name, _| there.contains(name));
    }

    /// The fleets of each class; of all classes together where relays serve all of them.
    fn groups(&self, settings: &Settings) -> BTreeMap<String, Vec<Fleet>> {
        let mut groups: BTreeMap<String, Vec<Fleet>> = BTreeMap::new();
        for fleet in self.fleets.values() {
            let class = match &settings.model {
                Model::Sidecar => continue,
                Model::Pool(_) => fleet.infrastructure.class.clone(),
                Model::Node(_) => String::new(),
            };
            groups.entry(class).or_default().push(fleet.clone());
        }
        groups
    }
}

impl Provisioner {
    /// Brings all relays to where these fleets want them; `false` if something has to be tried again.
    pub(super) async fn make_relays(&self, members: &mut Members) -> bool {
        let groups = members.groups(&self.settings);
        let mut owners = BTreeSet::new();
        let mut fine = true;
        for (class, fleets) in groups {
            let Some(relays) = Relays::of(&class, &self.settings) else { continue };
            let owner = owner(&relays.selected());
            owners.insert(owner.clone());
            if members.applied.get(&owner) == Some(&fleets) {
                continue;
            }
            match self.relays(relays, &fleets).await {
                Ok(()) => {
                    members.applied.insert(owner, fleets);
                }
                Err(error) => {
                    fine = false;
                    let name = relays.object_name();
                    tracing::warn!(relays = %name, error = %super::drive::error_text(&error), "not provisioned");
                }
            }
        }
        members.applied.retain(|owner, _| owners.contains(owner));
        *self.owners() = owners;
        fine
    }

    /// Applies relays for these fleets.
    ///
    /// # Errors
    /// The API server, the key of reports or the trust file.
    pub async fn relays(&self, relays: Relays<'_>, fleets: &[Fleet]) -> Result<(), ProvisionError> {
        self.take_inventory().await?;
        let owner = owner(&relays.selected());
        let key = self.key_of_relays(relays).await?;
        // A node's relays are the same whichever fleets there are, so that a new one restarts none.
        let believed: Vec<String> = match relays {
            Relays::OfNodes(_) => vec!["*".to_owned()],
            Relays::OfClass(..) => fleets.iter().map(|fleet| fleet.name.to_string()).collect(),
        };
        let name = format!("reports of {}", relays.object_name());
        let trust = report::trust(&self.settings.trust, name, believed, &key)?;
        let settings = Settings { trust, store_ca: self.authority(), ..self.settings.clone() };
        let manifests = relays.manifests(fleets, &settings)?;
        let wanted: BTreeSet<Key> = manifests.iter().filter_map(Key::of).collect();
        self.apply_in_order(&owner, manifests).await?;
        let unneeded = self.inventory().unneeded(&owner, &wanted);
        self.remove(unneeded).await?;
        Ok(())
    }

    /// The key that signs the reports of a fleet's relays, if they have one together and it is known.
    pub(super) fn reporter_of(&self, fleet: &Fleet) -> Option<PublicKey> {
        let relays = Relays::of(&fleet.infrastructure.class, &self.settings)?;
        self.keys().get(&owner(&relays.selected())).cloned()
    }

    async fn key_of_relays(&self, relays: Relays<'_>) -> Result<PublicKey, ProvisionError> {
        let owner = owner(&relays.selected());
        let known = self.keys().get(&owner).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        // Their Secret goes with their account, so that has to be there.
        let account = relays.service_account(&self.settings);
        let applied = self.cluster.apply(&account).await?;
        self.inventory().applied(&owner, &account);
        let uid = applied["metadata"]["uid"].as_str().unwrap_or_default();
        let (namespace, name) = (relays.namespace(), relays.report_secret_name());
        let place = report::Place { namespace, name, uid: Some(uid) };
        let make = |private: &str| relays.report_secret(&self.settings, private, uid);
        let key = report::key(&self.cluster, place, make).await?;
        self.keys().insert(owner, key.clone());
        Ok(key)
    }
}

/// The ServiceAccount whose token the store is shown for a fleet.
pub(super) fn account(fleet: &Fleet, settings: &Settings) -> (String, String) {
    match Relays::of(&fleet.infrastructure.class, settings) {
        Some(relays) => (relays.namespace().to_owned(), relays.object_name()),
        None => (fleet.infrastructure.namespace.clone(), fleet.object_name()),
    }
}

/// Whose an object is that is none of a fleet's.
pub(super) fn owner_of(labels: &Value) -> Option<String> {
    Some(owner(labels[render::POOL_LABEL].as_str()?))
}
