//! Who may connect to the fleet's pods.

use super::metadata::Metadata;
use super::port::Port;
use super::{Fleet, container};
use moorgate_model::ir::Transport;
use serde_json::{Value, json};

/// Clients to the listeners' ports, probes and scrapers to the relay's health port, nobody to anything else. What pods
/// reach stays open: backends and stores lie anywhere.
pub(super) fn policy(fleet: &Fleet, metadata: &Metadata) -> Value {
    let health = Port { number: container::health_port(&fleet.ports), transport: Transport::Tcp };
    let ports: Vec<Value> = fleet
        .ports
        .iter()
        .chain([&health])
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
