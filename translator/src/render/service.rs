//! The Services through which clients reach a fleet.

use super::metadata::Metadata;
use super::{Address, AddressKind, Fleet, name};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// A Service has one address to ask for (`spec.loadBalancerIP`): the first that the Gateway asks for, or none, belongs to
/// the Service with the fleet's name, and each further one has a Service of its own. Without ports there is none, because
/// Kubernetes takes no Service without.
pub(super) fn services(fleet: &Fleet, metadata: &Metadata) -> Vec<Value> {
    if fleet.ports.is_empty() {
        return Vec::new();
    }
    let asked = |address: &&Address| address.kind == AddressKind::IpAddress && !address.value.is_empty();
    let mut addresses = fleet.infrastructure.addresses.iter().filter(asked).map(|address| &*address.value);
    let first = service(fleet, metadata, &metadata.name, addresses.next());
    let further = addresses.collect::<BTreeSet<_>>().into_iter().map(|address| {
        let name = name::suffixed(&metadata.name, &name::digest(&[address]));
        service(fleet, metadata, &name, Some(address))
    });
    std::iter::once(first).chain(further).collect()
}

fn service(fleet: &Fleet, metadata: &Metadata, name: &str, address: Option<&str>) -> Value {
    let shape = &fleet.shape.service;
    let mut own = metadata.named(name);
    super::shape::add(&mut own, "labels", &shape.labels);
    super::shape::add(&mut own, "annotations", &shape.annotations);
    let kind = shape.kind.as_deref().unwrap_or("LoadBalancer");
    let mut spec = Map::new();
    spec.insert("type".into(), kind.into());
    spec.insert("selector".into(), metadata.selector());
    spec.insert(
        "ports".into(),
        fleet
            .ports
            .iter()
            .map(|port| {
                json!({
                    "name": port.name(), "port": port.number, "targetPort": port.number,
                    "protocol": port.protocol(),
                })
            })
            .collect(),
    );
    if kind != "ClusterIP" {
        // Envoy sees the client's own address.
        let policy = shape.external_traffic_policy.as_deref().unwrap_or("Local");
        spec.insert("externalTrafficPolicy".into(), policy.into());
    }
    if kind == "LoadBalancer" {
        if let Some(address) = address {
            spec.insert("loadBalancerIP".into(), address.into());
        }
        spec.extend(shape.balancer.clone());
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": own, "spec": spec})
}
