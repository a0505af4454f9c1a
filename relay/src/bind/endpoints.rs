//! Bindings of endpoints to EDS resources.

use super::catalog::{Catalog, Endpoint, Health};
use super::dns::Resolved;
use crate::serve::proto::{
    Address, ClusterLoadAssignment, Endpoint as EnvoyEndpoint, HealthStatus, LbEndpoint, Locality,
    LocalityLbEndpoints, SocketAddress, UInt32Value,
};
use moorgate_snapshot::{Binding, BindingSource, EndpointSource, Family};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// What a binding resolves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// An encoded `ClusterLoadAssignment`; without endpoints it answers 503.
    Ready {
        /// The message.
        bytes: Vec<u8>,
        /// How many endpoints are in it.
        endpoints: usize,
    },
    /// No source that could know was read yet.
    Unsynced,
}

/// Resolves one binding from what the sources know now. Equal inputs give equal bytes, on every relay.
pub fn resolve(binding: &Binding, catalog: Option<&Catalog>, resolved: &Resolved) -> Resolution {
    let BindingSource::Endpoints(sources) = &binding.source else { return Resolution::Unsynced };
    let mut weighted = Vec::with_capacity(sources.len());
    for source in sources {
        let Some(endpoints) = of_source(source, catalog, resolved) else { return Resolution::Unsynced };
        weighted.push((source.weight.max(1), endpoints));
    }
    let endpoints = weighted.iter().map(|(_, endpoints)| endpoints.len()).sum();
    Resolution::Ready { bytes: encode(&binding.name, weighted), endpoints }
}

/// The DNS names that bindings ask for.
pub fn names<'b>(bindings: impl Iterator<Item = &'b Binding>) -> BTreeSet<(String, u16)> {
    bindings
        .filter_map(|binding| match &binding.source {
            BindingSource::Endpoints(sources) => Some(sources),
            BindingSource::Object { .. } => None,
        })
        .flatten()
        .filter(|source| !source.hostname.is_empty())
        .map(|source| (source.hostname.to_string(), source.port))
        .collect()
}

/// `None` if nothing was read that could know.
fn of_source(
    source: &EndpointSource,
    catalog: Option<&Catalog>,
    resolved: &Resolved,
) -> Option<Vec<Endpoint>> {
    let plain =
        |address: SocketAddr| Endpoint { address, zone: String::new(), health: Health::Healthy, weight: 1 };
    let mut out: Vec<Endpoint> = if !source.addresses.is_empty() {
        source.addresses.iter().filter_map(|text| text.parse().ok()).map(plain).collect()
    } else if !source.hostname.is_empty() {
        resolved.get(&source.hostname, source.port)?.iter().copied().map(plain).collect()
    } else {
        let catalog = catalog.filter(|catalog| catalog.synced())?;
        catalog
            .endpoints(&source.namespace, &source.service, &source.port_name, source.port)
            .unwrap_or_default()
    };
    out.retain(|endpoint| match source.family {
        Family::Any => true,
        Family::V4 => endpoint.address.is_ipv4(),
        Family::V6 => endpoint.address.is_ipv6(),
    });
    Some(out)
}

/// Health and weight by address and source.
type Zone = BTreeMap<(SocketAddr, usize), (HealthStatus, u32)>;

/// One locality a zone. A locality's weight is the sum of its endpoints' shares, so that traffic spreads over
/// endpoints as if zones did not matter until Envoy is told to prefer its own.
fn encode(name: &str, sources: Vec<(u32, Vec<Endpoint>)>) -> Vec<u8> {
    let several = sources.len() > 1;
    let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
    for (position, (weight, endpoints)) in sources.into_iter().enumerate() {
        // Sources share traffic by their weights, however many endpoints each has.
        let total: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
        for endpoint in endpoints {
            let share = if several { share(weight, endpoint.weight, total) } else { endpoint.weight };
            let health = match endpoint.health {
                Health::Healthy => HealthStatus::Healthy,
                Health::Draining => HealthStatus::Draining,
                Health::Unhealthy => HealthStatus::Unhealthy,
            };
            zones.entry(endpoint.zone).or_default().insert((endpoint.address, position), (health, share));
        }
    }
    let endpoints = zones.into_iter().map(|(zone, endpoints)| locality(zone, endpoints)).collect();
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints }.encode_to_vec()
}

/// An endpoint's share of its source's weight, in thousandths, at least one.
fn share(source: u32, endpoint: u32, total: u64) -> u32 {
    let share = u64::from(source) * 1000 * u64::from(endpoint) / total.max(1);
    u32::try_from(share).unwrap_or(u32::MAX).clamp(1, 1_000_000)
}

fn locality(zone: String, endpoints: Zone) -> LocalityLbEndpoints {
    let weight =
        endpoints.values().map(|(_, weight)| u64::from(*weight)).sum::<u64>().min(u64::from(u32::MAX));
    let lb_endpoints = endpoints
        .into_iter()
        .map(|((address, _), (health, weight))| LbEndpoint {
            endpoint: Some(EnvoyEndpoint {
                address: Some(Address {
                    socket_address: Some(SocketAddress {
                        address: address.ip().to_string(),
                        port_value: Some(address.port().into()),
                    }),
                }),
            }),
            health_status: health.into(),
            load_balancing_weight: (weight != 1).then_some(UInt32Value { value: weight }),
        })
        .collect();
    LocalityLbEndpoints {
        locality: (!zone.is_empty()).then(|| Locality { zone, ..Locality::default() }),
        lb_endpoints,
        load_balancing_weight: u32::try_from(weight).ok().map(|value| UInt32Value { value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(weight: u32, addresses: &[&str]) -> EndpointSource {
        EndpointSource {
            namespace: "shop".into(),
            service: "cart".into(),
            port_name: "http".into(),
            port: 8080,
            family: Family::Any,
            weight,
            hostname: "".into(),
            addresses: addresses.iter().map(|address| (*address).into()).collect(),
        }
    }

    fn binding(sources: Vec<EndpointSource>) -> Binding {
        let kind = moorgate_snapshot::BindingKind::Endpoints;
        Binding { kind, name: "shop/cart/8080".into(), source: BindingSource::Endpoints(sources) }
    }

    fn decode(resolution: &Resolution) -> ClusterLoadAssignment {
        let Resolution::Ready { bytes, .. } = resolution else { panic!("unsynced") };
        ClusterLoadAssignment::decode(bytes.as_slice()).unwrap()
    }

    #[test]
    fn unsynced_until_a_source_was_read_then_empty() {
        let folder = tempfile::tempdir().unwrap();
        let binding = binding(vec![source(1, &[])]);
        let mut catalog = Catalog::default();
        let resolved = Resolved::default();
        assert_eq!(resolve(&binding, None, &resolved), Resolution::Unsynced);
        assert_eq!(resolve(&binding, Some(&catalog), &resolved), Resolution::Unsynced);
        assert!(catalog.reload(folder.path()).is_empty());
        let assignment = decode(&resolve(&binding, Some(&catalog), &resolved));
        assert_eq!((assignment.cluster_name.as_str(), assignment.endpoints.len()), ("shop/cart/8080", 0));
    }

    #[test]
    fn sources_share_by_weight_whatever_their_size() {
        let sources = vec![source(3, &["10.0.0.1:1"]), source(1, &["10.0.0.2:1", "10.0.0.3:1"])];
        let assignment = decode(&resolve(&binding(sources), None, &Resolved::default()));
        let weights: Vec<_> = assignment.endpoints[0]
            .lb_endpoints
            .iter()
            .map(|endpoint| endpoint.load_balancing_weight.map_or(1, |weight| weight.value))
            .collect();
        assert_eq!(weights, [3000, 500, 500]);
    }

    #[test]
    fn the_order_of_addresses_does_not_matter_and_families_are_kept_apart() {
        let bytes =
            |addresses: &[&str]| resolve(&binding(vec![source(1, addresses)]), None, &Resolved::default());
        assert_eq!(bytes(&["10.0.0.1:1", "10.0.0.2:1"]), bytes(&["10.0.0.2:1", "10.0.0.1:1"]));
        let mut only_v6 = source(1, &["10.0.0.1:1", "[2001:db8::1]:1"]);
        only_v6.family = Family::V6;
        let assignment = decode(&resolve(&binding(vec![only_v6]), None, &Resolved::default()));
        assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 1);
    }
}
