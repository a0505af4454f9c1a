//! Clusters that need no binding: their endpoints stand in the configuration itself, or are other clusters, or whatever host
//! a request names.

use super::value;
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CustomClusterType, DiscoveryType, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::{
    Address, Locality, Pipe, SocketAddress, UpstreamHttpProtocolOptions, address,
    socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, endpoint::HealthCheckConfig,
    lb_endpoint::HostIdentifier,
};
use envoy_types::pb::envoy::extensions::clusters::aggregate::v3::ClusterConfig as Aggregate;
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::{
    ClusterConfig as Dynamic, cluster_config::ClusterImplementationSpecifier,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::google::protobuf::UInt32Value;
use moorgate_model::ir::{Cluster, Direct, DirectAddress, DirectEndpoint, EndpointSource, ServerName};
use prost::{Message, Name};
use std::collections::BTreeMap;

/// How often Envoy looks for names whose records do not say how long they hold.
const REFRESH_SECONDS: i64 = 30;

/// True if no relay has to know anything of its endpoints.
pub(super) fn is(cluster: &Cluster) -> bool {
    !cluster.sources.is_empty() && cluster.sources.iter().all(|source| source.direct.is_some())
}

/// Puts the endpoints into such a cluster; a policy may have said how names are looked for.
pub(super) fn apply(
    name: &str,
    cluster: &Cluster,
    looked_for: Option<ClusterDiscoveryType>,
    out: &mut pb::Cluster,
) {
    let members: Vec<String> = cluster.members().map(str::to_owned).collect();
    if !members.is_empty() {
        out.cluster_discovery_type =
            Some(custom("envoy.clusters.aggregate", &Aggregate { clusters: members }));
        out.set_lb_policy(LbPolicy::ClusterProvided);
        return;
    }
    if cluster.is_dynamic() {
        let cache = moorgate_policies::dns_cache();
        let dynamic = Dynamic {
            cluster_implementation_specifier: Some(ClusterImplementationSpecifier::DnsCacheConfig(cache)),
            // The host of a request is what decides: who asks for one gets no other's connection.
            allow_insecure_cluster_options: cluster.tls.as_ref().is_some_and(insecure),
            ..Default::default()
        };
        out.cluster_discovery_type = Some(custom("envoy.clusters.dynamic_forward_proxy", &dynamic));
        out.set_lb_policy(LbPolicy::ClusterProvided);
        return;
    }
    out.cluster_discovery_type = looked_for.or_else(|| {
        let names =
            endpoints(cluster).any(|(_, endpoint)| matches!(endpoint.address, DirectAddress::Host(..)));
        Some(if names {
            custom(
                "envoy.cluster.dns",
                &DnsCluster {
                    dns_refresh_rate: value::seconds(REFRESH_SECONDS),
                    respect_dns_ttl: true,
                    dns_lookup_family: DnsLookupFamily::V4Preferred.into(),
                    ..Default::default()
                },
            )
        } else {
            ClusterDiscoveryType::Type(DiscoveryType::Static.into())
        })
    });
    out.load_assignment = Some(assignment(name, cluster));
}

/// A dynamic cluster verifies by the host of each request, unless it is told not to.
fn insecure(tls: &moorgate_model::ir::UpstreamTls) -> bool {
    tls.unverified || tls.server_name != ServerName::OfRequest
}

fn custom<M: Message + Name>(name: &str, config: &M) -> ClusterDiscoveryType {
    ClusterDiscoveryType::ClusterType(CustomClusterType {
        name: name.to_owned(),
        typed_config: Some(value::any(config)),
    })
}

fn endpoints(cluster: &Cluster) -> impl Iterator<Item = (u32, &DirectEndpoint)> {
    cluster.sources.iter().filter_map(|source| match source.direct.as_ref()? {
        Direct::Endpoint(endpoint) => Some((source.weight, endpoint)),
        Direct::Cluster(_) | Direct::Request => None,
    })
}

/// One locality a zone, in the order of zones.
fn assignment(name: &str, cluster: &Cluster) -> ClusterLoadAssignment {
    let mut zones: BTreeMap<&str, Vec<LbEndpoint>> = BTreeMap::new();
    for (weight, endpoint) in endpoints(cluster) {
        let zone = endpoint.zone.as_deref().unwrap_or_default();
        let mut found = lb_endpoint(weight, endpoint);
        if let Some(HostIdentifier::Endpoint(found)) = &mut found.host_identifier
            && let Some(hostname) =
                endpoint.hostname.clone().filter(|_| cluster.policies.checked_as.is_some())
        {
            // It comes before what the check itself says, so it is for checks that leave it to others.
            found.health_check_config = Some(HealthCheckConfig { hostname, ..Default::default() });
        }
        zones.entry(zone).or_default().push(found);
    }
    let locality = |(zone, lb_endpoints): (&str, Vec<LbEndpoint>)| LocalityLbEndpoints {
        locality: (!zone.is_empty()).then(|| Locality { zone: zone.to_owned(), ..Default::default() }),
        lb_endpoints,
        load_balancing_weight: match cluster.policies.zones.get(zone) {
            Some(weight) => value::number(*weight),
            None if cluster.policies.zones.is_empty() => None,
            None => value::number(1),
        },
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: zones.into_iter().map(locality).collect(),
        ..Default::default()
    }
}

fn lb_endpoint(weight: u32, endpoint: &DirectEndpoint) -> LbEndpoint {
    let (address, named) = match &endpoint.address {
        DirectAddress::Ip(at) => (socket(at.address.to_string(), at.port), String::new()),
        DirectAddress::Host(host, port) => (socket(host.clone(), *port), host.clone()),
        DirectAddress::Pipe(path) => {
            (address::Address::Pipe(Pipe { path: path.clone(), ..Default::default() }), String::new())
        }
    };
    let hostname = endpoint.hostname.clone().unwrap_or(named);
    at(address, hostname, (weight > 1).then(|| value::number(weight)).flatten())
}

/// The endpoints of a cluster that has only the names of Services outside. Envoy calls such an endpoint by its name, and
/// takes no weight for a weight of one: that it is written here stays as it is, because it is in snapshots' ids.
pub(super) fn by_names(name: &str, cluster: &Cluster) -> ClusterLoadAssignment {
    let endpoint = |source: &EndpointSource| {
        let host = source.hostname.clone().unwrap_or_default();
        at(socket(host, source.port), String::new(), value::number(source.weight))
    };
    let lb_endpoints = cluster.sources.iter().map(endpoint).collect();
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints, ..Default::default() }],
        ..Default::default()
    }
}

fn socket(address: String, port: u16) -> address::Address {
    address::Address::SocketAddress(SocketAddress {
        address,
        port_specifier: Some(PortSpecifier::PortValue(u32::from(port))),
        ..Default::default()
    })
}

fn at(address: address::Address, hostname: String, weight: Option<UInt32Value>) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address { address: Some(address) }),
            hostname,
            ..Default::default()
        })),
        load_balancing_weight: weight,
        ..Default::default()
    }
}

/// Server names that are those of requests, where HTTP is spoken. A dynamic cluster has to say so even in plain text.
pub(super) fn server_names(cluster: &Cluster, options: &mut HttpProtocolOptions) {
    let verified = match &cluster.tls {
        Some(tls) if tls.server_name == ServerName::OfRequest => !tls.unverified,
        None if cluster.is_dynamic() => true,
        Some(_) | None => return,
    };
    options.upstream_http_protocol_options = Some(UpstreamHttpProtocolOptions {
        auto_sni: true,
        auto_san_validation: verified,
        ..Default::default()
    });
}
