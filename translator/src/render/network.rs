//! Who may connect to the fleet's pods.

use super::metadata::Metadata;
use super::port::Port;
use super::{Fleet, container};
use moorgate_model::ir::Transport;
use serde_json::{Value, json};

/// Clients to the listeners' ports, probes and scrapers to the relay's health port and that of Envoy's statistics, nobody to
/// anything else. What pods
/// reach stays open: backends and stores lie anywhere.
pub(super) fn policy(fleet: &Fleet, metadata: &Metadata) -> Value {
    let of = |number| Port { number, transport: Transport::Tcp };
    let health = of(container::health_port(&fleet.ports));
    let stats = container::stats_port(fleet).map(of);
    let ports: Vec<Value> = fleet
        .ports
        .iter()
        .chain([&health])
        .chain(&stats)
        .map(|port| json!({"port": port.number, "protocol": port.protocol()}))
        .collect();
    ingress(metadata, &[json!({"ports": ports})])
}

/// What lets these in, and nobody else.
pub(super) fn ingress(metadata: &Metadata, rules: &[Value]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata.of_fleet(),
        "spec": {
            "podSelector": {"matchLabels": metadata.selector()},
            "policyTypes": ["Ingress"],
            "ingress": rules,
        },
    })
}
