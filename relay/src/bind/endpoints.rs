//! Bindings of endpoints to EDS resources.

use super::catalog::{Catalog, Endpoint, Health};
use super::dns::Resolved;
use super::late::Late;
use super::live::Live;
use crate::serve::proto::{
    Address, ClusterLoadAssignment, Endpoint as EnvoyEndpoint, HealthStatus, LbEndpoint, Locality,
    LocalityLbEndpoints, SocketAddress, UInt32Value,
};
use moorgate_snapshot::{Binding, BindingSource, EndpointSource, Family, ZoneWeight};
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

/// What the sources know now.
#[derive(Debug, Clone, Copy)]
pub struct Known<'k> {
    /// Files, if there are to be any. What they say of a Service counts before what a cluster says.
    pub catalog: Option<&'k Catalog>,
    /// The store's own, if they are read. What they say of a Service counts before what a cluster says.
    pub late: Option<&'k Late>,
    /// A cluster, if one is asked.
    pub live: Option<&'k Live>,
    /// Names.
    pub resolved: &'k Resolved,
}

/// Resolves one binding from what the sources know now. Equal inputs give equal bytes, on every relay.
pub fn resolve(binding: &Binding, known: Known<'_>) -> Resolution {
    let (sources, zones): (_, &[ZoneWeight]) = match &binding.source {
        BindingSource::Endpoints(sources) => (sources, &[]),
        BindingSource::Zoned(sources, zones) => (sources, zones.as_slice()),
        BindingSource::Object { .. } | BindingSource::Objects(_) | BindingSource::Template(_) => {
            return Resolution::Unsynced;
        }
    };
    let mut weighted = Vec::with_capacity(sources.len());
    for source in sources {
        let Some(endpoints) = known.of_source(source) else { return Resolution::Unsynced };
        weighted.push((source.weight.max(1), endpoints));
    }
    let endpoints = weighted.iter().map(|(_, endpoints)| endpoints.len()).sum();
    Resolution::Ready { bytes: encode(&binding.name, weighted, zones), endpoints }
}

/// The DNS names that bindings ask for.
pub fn names<'b>(bindings: impl Iterator<Item = &'b Binding>) -> BTreeSet<String> {
    bindings
        .filter_map(|binding| binding.source.endpoints())
        .flatten()
        .filter(|source| !source.hostname.is_empty())
        .map(|source| source.hostname.to_string())
        .collect()
}

impl Known<'_> {
    /// `None` if nothing was read that could know.
    fn of_source(self, source: &EndpointSource) -> Option<Vec<Endpoint>> {
        let plain = |address: SocketAddr| Endpoint {
            address,
            zone: String::new(),
            health: Health::Healthy,
            weight: 1,
        };
        let mut out: Vec<Endpoint> = if !source.addresses.is_empty() {
            source.addresses.iter().filter_map(|text| text.parse().ok()).map(plain).collect()
        } else if !source.hostname.is_empty() {
            self.resolved.get(&source.hostname, source.port)?.into_iter().map(plain).collect()
        } else {
            self.of_service(source)?
        };
        out.retain(|endpoint| match source.family {
            Family::Any => true,
            Family::V4 => endpoint.address.is_ipv4(),
            Family::V6 => endpoint.address.is_ipv6(),
        });
        Some(out)
    }

    fn of_service(self, source: &EndpointSource) -> Option<Vec<Endpoint>> {
        let (namespace, service) = (&source.namespace, &source.service);
        let told = self
            .catalog
            .and_then(|files| files.endpoints(namespace, service, &source.port_name, source.port))
            .or_else(|| self.late?.endpoints(namespace, service, &source.port_name, source.port));
        match (told, self.live) {
            (Some(told), _) => Some(told),
            (None, Some(live)) => live.endpoints(namespace, service, &source.port_name, source.port),
            (None, None) => {
                let read = [self.catalog.map(Catalog::synced), self.late.map(Late::synced)];
                // Who could know was read, and does not.
                let mut read = read.into_iter().flatten().peekable();
                (read.peek().is_some() && read.all(|synced| synced)).then(Vec::new)
            }
        }
    }
}

/// Health and weight by address and source.
type Zone = BTreeMap<(SocketAddr, usize), (HealthStatus, u32)>;

/// One locality a zone. A locality's weight is the sum of its endpoints' shares, so that traffic spreads over
/// endpoints as if zones did not matter until Envoy is told to prefer its own; or it is that of the zone, if zones have some.
fn encode(name: &str, sources: Vec<(u32, Vec<Endpoint>)>, weights: &[ZoneWeight]) -> Vec<u8> {
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
    let weighed = |(zone, endpoints): (String, Zone)| {
        let own = weights.iter().find(|one| *one.zone == *zone).map_or(1, |one| one.weight);
        let mut out = locality(zone, endpoints);
        if !weights.is_empty() {
            out.load_balancing_weight = Some(UInt32Value { value: own });
        }
        out
    };
    let endpoints = zones.into_iter().map(weighed).collect();
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
        // Always there, if only an empty one: gRPC refuses endpoints that are in none.
        locality: Some(Locality { zone, ..Locality::default() }),
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

    fn alone(binding: &Binding) -> Resolution {
        resolve(binding, Known { catalog: None, late: None, live: None, resolved: &Resolved::default() })
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
        let none = Known { catalog: None, late: None, live: None, resolved: &resolved };
        assert_eq!(resolve(&binding, none), Resolution::Unsynced);
        let unread = Known { catalog: Some(&catalog), ..none };
        assert_eq!(resolve(&binding, unread), Resolution::Unsynced);
        assert!(catalog.reload(folder.path()).is_empty());
        let assignment = decode(&resolve(&binding, Known { catalog: Some(&catalog), ..none }));
        assert_eq!((assignment.cluster_name.as_str(), assignment.endpoints.len()), ("shop/cart/8080", 0));
    }

    #[test]
    fn a_cluster_is_asked_where_no_file_speaks_of_the_service() {
        let slice = |service: &str, address: &str| {
            let object = serde_json::json!({
                "metadata": { "name": service, "labels": { "kubernetes.io/service-name": service } },
                "addressType": "IPv4",
                "ports": [{ "name": "http", "port": 3000 }, { "name": "other", "port": 9 }],
                "endpoints": [{ "addresses": [address], "zone": "eu-1a", "conditions": { "ready": true } }],
            });
            crate::bind::catalog::slice(object).unwrap().unwrap()
        };
        let folder = tempfile::tempdir().unwrap();
        let mut catalog = Catalog::default();
        let (live, resolved) = (Live::default(), Resolved::default());
        let ask = |catalog: &Catalog| {
            let known = Known { catalog: Some(catalog), late: None, live: Some(&live), resolved: &resolved };
            resolve(&binding(vec![source(1, &[])]), known)
        };
        let first = |resolution: &Resolution| {
            let locality = decode(resolution).endpoints.remove(0);
            let socket =
                locality.lb_endpoints[0].endpoint.clone().unwrap().address.unwrap().socket_address.unwrap();
            (locality.locality.map(|locality| locality.zone), socket.address, socket.port_value)
        };
        assert!(catalog.reload(folder.path()).is_empty());
        assert_eq!(ask(&catalog), Resolution::Unsynced, "the files are read, the cluster is not");
        live.begin(&crate::bind::live::Subject::Slices("shop".into()));
        live.list(&"shop".into(), vec![slice("cart", "10.0.0.1"), slice("pay", "10.0.0.2")]).unwrap();
        assert_eq!(first(&ask(&catalog)), (Some("eu-1a".into()), "10.0.0.1".into(), Some(3000)));
        let sets = r#"{"endpoints":[{"service":"shop/cart","addresses":["127.0.0.1:7"]}]}"#;
        std::fs::write(folder.path().join("sets.json"), sets).unwrap();
        assert!(catalog.reload(folder.path()).is_empty());
        assert_eq!(first(&ask(&catalog)), (Some(String::new()), "127.0.0.1".into(), Some(7)));
        live.list(&"shop".into(), Vec::new()).unwrap();
        std::fs::remove_file(folder.path().join("sets.json")).unwrap();
        assert!(catalog.reload(folder.path()).is_empty());
        assert!(decode(&ask(&catalog)).endpoints.is_empty());
    }

    #[test]
    fn sources_share_by_weight_whatever_their_size() {
        let sources = vec![source(3, &["10.0.0.1:1"]), source(1, &["10.0.0.2:1", "10.0.0.3:1"])];
        let assignment = decode(&alone(&binding(sources)));
        let weights: Vec<_> = assignment.endpoints[0]
            .lb_endpoints
            .iter()
            .map(|endpoint| endpoint.load_balancing_weight.map_or(1, |weight| weight.value))
            .collect();
        assert_eq!(weights, [3000, 500, 500]);
    }

    #[test]
    fn the_order_of_addresses_does_not_matter_and_families_are_kept_apart() {
        let bytes = |addresses: &[&str]| alone(&binding(vec![source(1, addresses)]));
        assert_eq!(bytes(&["10.0.0.1:1", "10.0.0.2:1"]), bytes(&["10.0.0.2:1", "10.0.0.1:1"]));
        let mut only_v6 = source(1, &["10.0.0.1:1", "[2001:db8::1]:1"]);
        only_v6.family = Family::V6;
        let assignment = decode(&alone(&binding(vec![only_v6])));
        assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 1);
    }
}
