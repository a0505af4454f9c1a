//! Which fleet serves a Gateway.

use crate::attach::{self, GATEWAY_GROUP};
use crate::parameters;
use moorgate_model::{Node, Object};
use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};

/// The classes whose Gateways one fleet serves: those that the caller names, and those whose parameters ask for it (EnvoyProxy
/// `mergeGateways`).
pub(super) fn merged(
    objects: &[Object],
    namespace: Option<&str>,
    options: &attach::Options,
) -> BTreeSet<String> {
    let text = |object: &Object, path: &str| object.at(path).and_then(Node::as_str).map(str::to_owned);
    let classes = objects.iter().filter(|object| {
        (&*object.reference.group, &*object.reference.kind) == (GATEWAY_GROUP, "GatewayClass")
            && text(object, "spec.controllerName").is_some_and(|name| name == options.controller_name)
    });
    let asks = |class: &&Object| -> Option<bool> {
        let part = |name: &str| text(class, &format!("spec.parametersRef.{name}"));
        let (group, kind, name) = (part("group")?, part("kind")?, part("name")?);
        let wanted = parameters::reference(&group, &kind, part("namespace").as_deref(), &name).ok()?;
        let is_wanted = |object: &&Object| {
            let found = &object.reference;
            let own = Some(&*found.namespace).filter(|own| !own.is_empty()).or(namespace);
            (&found.group, &found.kind, &found.name) == (&wanted.group, &wanted.kind, &wanted.name)
                && own == Some(&*wanted.namespace)
        };
        let object = objects.iter().find(is_wanted)?;
        parameters::read(object).ok()?.spec.get("mergeGateways")?.as_bool()
    };
    let asking = classes.filter(|class| asks(class) == Some(true));
    let asking = asking.map(|class| class.reference.name.to_string());
    options.merged.iter().cloned().chain(asking).collect()
}

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
