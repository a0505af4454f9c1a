//! Which fleet serves a Gateway.

use crate::attach::{self, GATEWAY_GROUP};
use moorgate_model::Object;
use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};

/// The fleets of Gateways: each its own, but for those of merged classes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleets {
    merged: BTreeMap<FleetName, FleetName>,
}

impl Fleets {
    /// Notes which Gateways are of merged classes; one without a namespace is in this one.
    pub(super) fn new(objects: &[Object], namespace: Option<&str>, options: &attach::Options) -> Self {
        if options.merged.is_empty() {
            return Self::default();
        }
        let gateways = objects.iter().filter(|object| {
            (&*object.reference.group, &*object.reference.kind) == (GATEWAY_GROUP, "Gateway")
        });
        let merged = gateways.filter_map(|gateway| {
            let class = gateway.at("spec.gatewayClassName")?.as_str()?;
            let own = Some(&*gateway.reference.namespace).filter(|own| !own.is_empty());
            let (namespace, name) = (own.or(namespace).unwrap_or_default(), &gateway.reference.name);
            let fleet = options.fleet(class, namespace, name);
            matches!(fleet, FleetName::Class { .. }).then(|| (FleetName::gateway(namespace, name), fleet))
        });
        Self { merged: merged.collect() }
    }

    /// The fleet that serves a Gateway.
    pub fn of(&self, namespace: &str, name: &str) -> FleetName {
        self.serving(FleetName::gateway(namespace, name))
    }

    /// The fleet that serves what would be a fleet of its own.
    pub(super) fn serving(&self, fleet: FleetName) -> FleetName {
        self.merged.get(&fleet).cloned().unwrap_or(fleet)
    }

    pub(super) fn all_serving(&self, fleets: BTreeSet<FleetName>) -> BTreeSet<FleetName> {
        if self.merged.is_empty() {
            fleets
        } else {
            fleets.into_iter().map(|one| self.serving(one)).collect()
        }
    }
}
