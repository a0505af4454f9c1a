//! Names, labels, annotations and owners of all that is made for a Gateway.

use super::{Applier, Fleet, Settings, name};
use moorgate_snapshot::FleetName;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The label that GEP-1762 asks for; a name of more than 63 characters is cut and has a digest behind it.
pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
/// The same for a fleet that serves all Gateways of a class.
pub const CLASS_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";
/// A digest of the fleet's name: what pods are selected by.
pub const FLEET_LABEL: &str = "moorgate.dev/fleet";
/// What relays in pods of their own are selected by: a digest of their class's name, or `node`.
pub const POOL_LABEL: &str = "moorgate.dev/pool";
/// Who applies, and so who removes.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The fleet's name in full.
pub const FLEET_ANNOTATION: &str = "moorgate.dev/fleet";
/// The controller name: another translator's objects are never removed.
pub const CONTROLLER_ANNOTATION: &str = "moorgate.dev/controller";

impl Applier {
    /// The value of [`MANAGED_BY_LABEL`].
    pub fn label(self) -> &'static str {
        match self {
            Self::Render => "moorgate-render",
            Self::Watch => "moorgate-watch",
        }
    }
}

/// The metadata of a fleet's objects.
#[derive(Debug)]
pub(super) struct Metadata {
    /// Their namespace.
    pub(super) namespace: String,
    /// The name of those of which there is one.
    pub(super) name: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    selector: BTreeMap<String, String>,
    owner: Option<Value>,
}

impl Metadata {
    pub(super) fn new(fleet: &Fleet, settings: &Settings) -> Self {
        let wanted = &fleet.infrastructure;
        let (label, kind) = match &fleet.name {
            FleetName::Gateway { .. } => (GATEWAY_NAME_LABEL, "Gateway"),
            FleetName::Class { .. } => (CLASS_NAME_LABEL, "GatewayClass"),
        };
        let selector = BTreeMap::from([
            (label.to_owned(), name::label(&wanted.name)),
            (FLEET_LABEL.to_owned(), name::fleet(&fleet.name)),
        ]);
        let usual = [("app.kubernetes.io/name", "moorgate"), ("app.kubernetes.io/component", "gateway")];
        let mut labels = BTreeMap::from(usual.map(|(key, value)| (key.to_owned(), value.to_owned())));
        labels.extend(wanted.labels.clone());
        // These come last: what a Gateway asks for changes neither who is selected nor who owns.
        labels.extend(selector.clone());
        labels.insert(MANAGED_BY_LABEL.into(), settings.applier.label().into());
        let mut annotations = wanted.annotations.clone();
        annotations.insert(FLEET_ANNOTATION.into(), fleet.name.to_string());
        annotations.insert(CONTROLLER_ANNOTATION.into(), settings.controller_name.clone());
        let owner = wanted.uid.as_ref().map(|uid| {
            json!([{
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": kind,
                "name": wanted.name,
                "uid": uid,
                "controller": true,
                // The Gateway may go first: whoever deletes it need not wait for pods that drain.
                "blockOwnerDeletion": false,
            }])
        });
        let name = fleet.object_name();
        Self { namespace: wanted.namespace.clone(), name, labels, annotations, selector, owner }
    }

    /// Of relays in pods of their own, which this label selects. No Gateway owns them, and none asks anything of them.
    pub(super) fn of_relays(name: &str, selected: &str, namespace: &str, settings: &Settings) -> Self {
        let selector = BTreeMap::from([(POOL_LABEL.to_owned(), selected.to_owned())]);
        let usual = [
            ("app.kubernetes.io/name", "moorgate"),
            ("app.kubernetes.io/component", "relay"),
            (MANAGED_BY_LABEL, settings.applier.label()),
        ];
        let mut labels = BTreeMap::from(usual.map(|(key, value)| (key.to_owned(), value.to_owned())));
        labels.extend(selector.clone());
        let annotations = BTreeMap::from([(CONTROLLER_ANNOTATION.into(), settings.controller_name.clone())]);
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { namespace, name, labels, annotations, selector, owner: None }
    }

    /// The same, of one class alone.
    pub(super) fn of_class(mut self, class: &str) -> Self {
        self.labels.insert(CLASS_NAME_LABEL.into(), name::label(class));
        self
    }

    /// Of an object in the Gateway's namespace with the fleet's name.
    pub(super) fn of_fleet(&self) -> Value {
        self.named(&self.name)
    }

    /// Of an object in the Gateway's namespace.
    pub(super) fn named(&self, name: &str) -> Value {
        let mut metadata = self.bare(name);
        metadata.insert("namespace".into(), self.namespace.clone().into());
        if let Some(owner) = &self.owner {
            metadata.insert("ownerReferences".into(), owner.clone());
        }
        metadata.into()
    }

    /// Of an object elsewhere: a Gateway owns nothing beyond its namespace, so whoever applies also removes.
    /// An empty namespace is that of objects which have none.
    pub(super) fn elsewhere(&self, namespace: &str) -> Value {
        if namespace == self.namespace {
            return self.of_fleet();
        }
        // Gateways of one name in two namespaces may read in a third.
        let name = name::suffixed(&self.name, &name::digest(&[&self.namespace]));
        let mut metadata = self.bare(&name);
        if !namespace.is_empty() {
            metadata.insert("namespace".into(), namespace.into());
        }
        metadata.into()
    }

    fn bare(&self, name: &str) -> Map<String, Value> {
        let mut metadata = Map::new();
        metadata.insert("name".into(), name.into());
        metadata.insert("labels".into(), json!(self.labels));
        metadata.insert("annotations".into(), json!(self.annotations));
        metadata
    }

    /// What selects the fleet's pods. A Deployment's selector can never be changed, so nothing that may change is in it.
    pub(super) fn selector(&self) -> Value {
        json!(self.selector)
    }

    /// Labels of pods.
    pub(super) fn pod_labels(&self) -> BTreeMap<String, String> {
        self.labels.clone()
    }

    /// Annotations of pods.
    pub(super) fn pod_annotations(&self) -> BTreeMap<String, String> {
        self.annotations.clone()
    }
}
