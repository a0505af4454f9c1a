//! The Services through which clients reach a fleet.

use super::metadata::Metadata;
use super::{Address, AddressKind, Fleet, Routability, name};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// A Service has one address to ask for (`spec.loadBalancerIP`): the first that the Gateway asks for, or none, belongs to
/// the Service with the fleet's name, and each further one has a Service of its own. So does each that only the cluster
/// shall reach; a Gateway that asks for such alone has no other Service. Without ports there is none, because Kubernetes
/// takes no Service without.
pub(super) fn services(fleet: &Fleet, metadata: &Metadata) -> Vec<Value> {
    if fleet.ports.is_empty() {
        return Vec::new();
    }
    let asked = &fleet.infrastructure.addresses;
    let own = fleet.shape.names.service.as_deref().unwrap_or(&metadata.name);
    let (inside, other): (Vec<&Address>, Vec<&Address>) =
        asked.iter().partition(|address| address.routability == Routability::Cluster);
    let mut out = Vec::new();
    if inside.is_empty() || !other.is_empty() {
        let named = |address: &&&Address| address.kind == AddressKind::IpAddress && !address.value.is_empty();
        let mut addresses = other.iter().filter(named).map(|address| &*address.value);
        let kind = fleet.shape.service.kind.as_deref().unwrap_or("LoadBalancer");
        let first = addresses.next().or(fleet.shape.service.address.as_deref());
        out.push(service(fleet, metadata, own, (kind, first)));
        out.extend(addresses.collect::<BTreeSet<_>>().into_iter().map(|address| {
            let name = name::suffixed(own, &name::digest(&[address]));
            service(fleet, metadata, &name, (kind, Some(address)))
        }));
    }
    // The address of a ClusterIP never changes, so that another one is another Service.
    for address in inside.iter().map(|address| &*address.value).collect::<BTreeSet<_>>() {
        let name = name::suffixed(own, &name::digest(&["Cluster", address]));
        let address = Some(address).filter(|address| !address.is_empty());
        out.push(service(fleet, metadata, &name, ("ClusterIP", address)));
    }
    out
}

fn service(fleet: &Fleet, metadata: &Metadata, name: &str, wish: (&str, Option<&str>)) -> Value {
    let (kind, address) = wish;
    let shape = &fleet.shape.service;
    let mut own = metadata.named(name);
    super::shape::add(&mut own, "labels", &shape.labels);
    super::shape::add(&mut own, "annotations", &shape.annotations);
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
    if let (true, Some(address)) = (kind == "ClusterIP", address) {
        spec.insert("clusterIP".into(), address.into());
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": own, "spec": spec})
}
