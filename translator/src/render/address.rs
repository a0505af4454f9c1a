//! Addresses: what a Gateway asks for, and what its Services were given.

use serde_json::Value;
use std::collections::BTreeSet;

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressKind {
    /// An IP address.
    IpAddress,
    /// A DNS name.
    Hostname,
}

impl AddressKind {
    /// As the Gateway API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IpAddress => "IPAddress",
            Self::Hostname => "Hostname",
        }
    }
}

/// From where an address is reached (GEP-1651).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Routability {
    /// From wherever the Service of the fleet lets clients in.
    #[default]
    Default,
    /// From inside of the cluster: the address of a Service of type ClusterIP.
    Cluster,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// What it is.
    pub kind: AddressKind,
    /// The address; empty in a request for any.
    pub value: String,
    /// From where it is, or should be, reached.
    pub routability: Routability,
}

/// What became of a Gateway's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Addresses {
    /// Where the fleet is reached: `status.addresses`.
    pub assigned: Vec<Address>,
    /// What was asked for and not given: reason `AddressNotUsable` of condition `Programmed`. Without any and without one
    /// assigned, it is `AddressNotAssigned`.
    pub unusable: Vec<Address>,
}

/// Reads the addresses off a fleet's Services as the API shows them. If the Gateway asks for some, no others count: a
/// load balancer that gives another address has not done what it was asked for.
pub fn addresses<'s>(asked: &[Address], services: impl IntoIterator<Item = &'s Value>) -> Addresses {
    // Without a wish for the inside of the cluster, the address of a ClusterIP is as good as any.
    let inside = asked.iter().any(|address| address.routability == Routability::Cluster);
    let given: BTreeSet<Address> = services.into_iter().flat_map(|service| given(service, inside)).collect();
    let counts = |found: &&Address| {
        let mut wishes = asked.iter().filter(|address| address.routability == found.routability).peekable();
        let named = wishes.clone().any(|address| !address.value.is_empty());
        match wishes.peek() {
            None => asked.is_empty(),
            Some(_) => !named || wishes.any(|address| address == *found),
        }
    };
    let missing = |address: &&Address| !address.value.is_empty() && !given.contains(*address);
    let unusable: BTreeSet<&Address> = asked.iter().filter(missing).collect();
    Addresses {
        unusable: unusable.into_iter().cloned().collect(),
        assigned: given.iter().filter(counts).cloned().collect(),
    }
}

fn given(service: &Value, inside: bool) -> Vec<Address> {
    let kind = &service["spec"]["type"];
    let routability = if inside && kind == "ClusterIP" { Routability::Cluster } else { Routability::Default };
    let ip = |value: &str| Address { kind: AddressKind::IpAddress, value: value.to_owned(), routability };
    if kind != "LoadBalancer" {
        let cluster = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
        return cluster.filter_map(Value::as_str).filter(|value| *value != "None").map(ip).collect();
    }
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    ingress
        .filter_map(|entry| {
            let hostname = || {
                let value = entry["hostname"].as_str()?.to_owned();
                Some(Address { kind: AddressKind::Hostname, value, routability })
            };
            entry["ip"].as_str().map(ip).or_else(hostname)
        })
        .collect()
}
