//! What a Gateway asks of the infrastructure that serves it.

use crate::attach::GATEWAY_GROUP;
use moorgate_model::node::decode;
use moorgate_model::{Object, ObjectRef};
use moorgate_snapshot::FleetName;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What a Gateway asks of infrastructure (Gateway `spec.infrastructure` and `spec.addresses`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Infrastructure {
    /// The Gateway's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity in the cluster, if it was read from one: what objects are owned by.
    pub uid: Option<String>,
    /// Its class.
    pub class: String,
    /// Labels of all that is made for it.
    pub labels: BTreeMap<String, String>,
    /// Annotations of all that is made for it.
    pub annotations: BTreeMap<String, String>,
    /// The object with more parameters.
    pub parameters: Option<ObjectRef>,
    /// That of the class, where the Gateway has its own: they may ask to be merged with it.
    pub class_parameters: Option<ObjectRef>,
    /// Addresses that it asks for: kind and value. One without a value asks for any.
    pub addresses: Vec<super::Address>,
}

#[derive(Deserialize)]
struct Gateway {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    gateway_class_name: String,
    #[serde(default)]
    addresses: Vec<Address>,
    #[serde(default)]
    infrastructure: Option<Wanted>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    routability: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    parameters_ref: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    group: String,
    kind: String,
    name: String,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct Class {
    metadata: Metadata,
    spec: ClassSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClassSpec {
    #[serde(default)]
    parameters_ref: Option<Parameters>,
}

impl Infrastructure {
    /// That of a fleet's Gateway, or of the class whose Gateways it serves; `None` if that is not among the objects. A class
    /// asks by its parameters only: what single Gateways ask of infrastructure cannot be had by all.
    pub fn find(fleet: &FleetName, objects: &[Object], home: &str) -> Option<Self> {
        match fleet {
            FleetName::Gateway { namespace, name } => Self::of_gateway(namespace, name, objects),
            FleetName::Class { name } => Self::of_class(name, objects, home),
        }
    }

    fn of_class(name: &str, objects: &[Object], home: &str) -> Option<Self> {
        let class: Class = read(&ObjectRef::new(GATEWAY_GROUP, "GatewayClass", "", name), objects)?;
        let gateways = objects.iter().filter(|object| {
            (&*object.reference.group, &*object.reference.kind) == (GATEWAY_GROUP, "Gateway")
        });
        let mut own = gateways
            .filter_map(|object| decode::<Gateway>(&object.root).ok())
            .filter(|gateway| gateway.spec.gateway_class_name == name)
            .peekable();
        own.peek()?;
        // Every address that one of them asks for is asked for; each says for itself whether it has its own.
        let asked: BTreeSet<_> = own.flat_map(|gateway| addresses(gateway.spec.addresses)).collect();
        Some(Self {
            namespace: home.to_owned(),
            name: name.to_owned(),
            uid: class.metadata.uid,
            class: name.to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            class_parameters: None,
            parameters: class.spec.parameters_ref.map(|found| {
                let namespace = found.namespace.clone().unwrap_or_default();
                found.object(&namespace)
            }),
            addresses: asked.into_iter().collect(),
        })
    }

    fn of_gateway(namespace: &str, name: &str, objects: &[Object]) -> Option<Self> {
        let gateway: Gateway = read(&ObjectRef::new(GATEWAY_GROUP, "Gateway", namespace, name), objects)?;
        let wanted = gateway.spec.infrastructure.unwrap_or_default();
        let class = gateway.spec.gateway_class_name;
        let own = wanted.parameters_ref.map(|found| found.object(namespace));
        let of_class = || {
            let class: Class = read(&ObjectRef::new(GATEWAY_GROUP, "GatewayClass", "", &class), objects)?;
            class.spec.parameters_ref.map(|found| {
                let namespace = found.namespace.clone().unwrap_or_default();
                found.object(&namespace)
            })
        };
        let class_parameters = own.as_ref().and_then(|_| of_class());
        // The Gateway's own parameters take the place of its class's as a whole, unless they ask to be merged.
        let parameters = own.or_else(of_class);
        Some(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: gateway.metadata.uid,
            class,
            labels: wanted.labels,
            annotations: wanted.annotations,
            parameters,
            class_parameters,
            addresses: addresses(gateway.spec.addresses).collect(),
        })
    }
}

fn addresses(asked: Vec<Address>) -> impl Iterator<Item = super::Address> {
    asked.into_iter().map(|address| super::Address {
        kind: match address.kind.as_deref() {
            Some("Hostname") => super::AddressKind::Hostname,
            _ => super::AddressKind::IpAddress,
        },
        value: address.value.unwrap_or_default(),
        routability: match address.routability.as_deref() {
            Some("Cluster") => super::Routability::Cluster,
            _ => super::Routability::Default,
        },
    })
}

impl Parameters {
    fn object(&self, namespace: &str) -> ObjectRef {
        ObjectRef::new(&self.group, &self.kind, namespace, &self.name)
    }
}

fn read<T: serde::de::DeserializeOwned>(reference: &ObjectRef, objects: &[Object]) -> Option<T> {
    let object = objects.iter().find(|object| object.reference == *reference)?;
    decode(&object.root).ok()
}
