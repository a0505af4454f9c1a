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

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// What it is.
    pub kind: AddressKind,
    /// The address; empty in a request for any.
    pub value: String,
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
    let given: BTreeSet<Address> = services.into_iter().flat_map(given).collect();
    let asked: BTreeSet<&Address> = asked.iter().filter(|address| !address.value.is_empty()).collect();
    let unusable = asked.iter().filter(|address| !given.contains(address)).map(|&address| address.clone());
    Addresses {
        unusable: unusable.collect(),
        assigned: given.iter().filter(|found| asked.is_empty() || asked.contains(found)).cloned().collect(),
    }
}

fn given(service: &Value) -> Vec<Address> {
    let ip = |value: &str| Address { kind: AddressKind::IpAddress, value: value.to_owned() };
    if service["spec"]["type"] != "LoadBalancer" {
        let cluster = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
        return cluster.filter_map(Value::as_str).filter(|value| *value != "None").map(ip).collect();
    }
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    ingress
        .filter_map(|entry| {
            let hostname = || {
                let value = entry["hostname"].as_str()?.to_owned();
                Some(Address { kind: AddressKind::Hostname, value })
            };
            entry["ip"].as_str().map(ip).or_else(hostname)
        })
        .collect()
}
