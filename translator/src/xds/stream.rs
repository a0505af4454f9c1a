//! Bytes as they come: connections to weighted clusters, and sessions of datagrams.

use super::listener::network_filter;
use super::read::unpack;
use super::{XdsError, access_log, route, value};
use envoy_types::pb::envoy::config::core::v3::{
    Address, CidrRange, SocketAddress, address, socket_address::PortSpecifier, socket_address::Protocol,
};
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChainMatch, ListenerFilter, UdpListenerConfig, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::direct_response::v3::Config as DirectResponse;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
};
use envoy_types::pb::envoy::extensions::filters::udp::udp_proxy::v3::udp_proxy_config::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::udp::udp_proxy::v3::{
    Route, UdpProxyConfig, udp_proxy_config,
};
use envoy_types::pb::envoy::extensions::matching::common_inputs::network::v3::SourcePortInput;
use envoy_types::pb::envoy::extensions::matching::input_matchers::consistent_hashing::v3::ConsistentHashing;
use envoy_types::pb::envoy::r#type::v3::{HashPolicy, hash_policy};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::Matcher;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::{
    FieldMatcher, Predicate, predicate, predicate::single_predicate,
};
use envoy_types::pb::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherType, OnMatch, on_match};
use ipnet::IpNet;
use moorgate_model::ir::{ClientRanges, FilterChain, Listener, Proxy, Stream, StreamBackend};
use prost::{Message, Name};
use std::collections::BTreeMap;

/// A connection on which nothing moves for so long is closed, and its backend's too.
const IDLE_SECONDS: i64 = 3600;
/// A session of datagrams is forgotten after so long without one.
const SESSION_SECONDS: i64 = 60;

/// Behind the name of a chain: the one that closes connections of clients who may not use it.
const OTHERS: &str = "+others";

/// What chooses a chain: the server name, and the client's address where not everybody may come.
pub(super) fn fits(chain: &FilterChain) -> Option<FilterChainMatch> {
    let fits = FilterChainMatch {
        server_names: chain.server_names.clone(),
        source_prefix_ranges: told_apart(chain).map(|clients| ranges(&clients.allowed)).unwrap_or_default(),
        ..Default::default()
    };
    (fits != FilterChainMatch::default()).then_some(fits)
}

/// The chain of those who may not use one, if it tells clients apart. Envoy takes the longest range of all chains of a server
/// name, so that a range inside of one that may come needs a chain too.
pub(super) fn others(chain: &FilterChain) -> Option<pb::FilterChain> {
    let denied = ranges(&told_apart(chain)?.denied);
    Some(pb::FilterChain {
        name: format!("{}{OTHERS}", chain.name),
        filter_chain_match: Some(FilterChainMatch {
            server_names: chain.server_names.clone(),
            source_prefix_ranges: denied,
            ..Default::default()
        }),
        filters: vec![closes()],
        ..Default::default()
    })
}

/// Where a chain carries the connections of some clients only.
fn told_apart(chain: &FilterChain) -> Option<&ClientRanges> {
    chain.stream()?.told_apart()
}

fn ranges(found: &[IpNet]) -> Vec<CidrRange> {
    let range = |range: &IpNet| CidrRange {
        address_prefix: range.addr().to_string(),
        prefix_len: value::number(u32::from(range.prefix_len())),
    };
    found.iter().map(range).collect()
}

/// Without an answer to write, this filter closes a connection as soon as it is open.
pub(super) fn closes() -> Filter {
    network_filter("envoy.filters.network.direct_response", &DirectResponse::default())
}

/// Takes the chains of [`others`] out of a listener's: whose connections the chain of a name closes.
pub(super) fn without_others(
    chains: &[pb::FilterChain],
) -> impl Iterator<Item = (&pb::FilterChain, Option<ClientRanges>)> {
    let named: BTreeMap<&str, &pb::FilterChain> =
        chains.iter().filter_map(|chain| Some((chain.name.strip_suffix(OTHERS)?, chain))).collect();
    chains.iter().filter(|chain| !chain.name.ends_with(OTHERS)).map(move |chain| {
        let others = named.get(chain.name.as_str());
        let clients =
            others.map(|others| ClientRanges { allowed: read_ranges(chain), denied: read_ranges(others) });
        (chain, clients)
    })
}

fn read_ranges(chain: &pb::FilterChain) -> Vec<IpNet> {
    let ranges = chain.filter_chain_match.iter().flat_map(|fits| &fits.source_prefix_ranges);
    let range = |range: &CidrRange| {
        let length = u8::try_from(range.prefix_len.as_ref().map_or(0, |length| length.value)).ok()?;
        IpNet::new(range.address_prefix.parse().ok()?, length).ok()
    };
    ranges.filter_map(range).collect()
}

/// The filter that carries connections. A share without a cluster names one that does not exist: Envoy closes the
/// connection at once.
pub(super) fn tcp_proxy(listener: &str, stream: &Stream, proxy: &Proxy) -> TcpProxy {
    let cluster_specifier = match stream.backends.as_slice() {
        [only] => ClusterSpecifier::Cluster(cluster(only).to_owned()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|backend| ClusterWeight {
                    name: cluster(backend).to_owned(),
                    weight: backend.weight,
                    ..Default::default()
                })
                .collect(),
        }),
    };
    TcpProxy {
        stat_prefix: listener.to_owned(),
        idle_timeout: value::seconds(IDLE_SECONDS),
        access_log: access_log::or_usual(proxy.connection_logs.as_deref(), access_log::connections),
        cluster_specifier: Some(cluster_specifier),
        hash_policy: if stream.by_source { vec![source()] } else { Vec::new() },
        ..Default::default()
    }
}

/// What is hashed where the client's address decides.
fn source() -> HashPolicy {
    let source = hash_policy::PolicySpecifier::SourceIp(hash_policy::SourceIp {});
    HashPolicy { policy_specifier: Some(source) }
}

fn cluster(backend: &StreamBackend) -> &str {
    backend.cluster.as_deref().unwrap_or(route::NO_CLUSTER)
}

/// A listener of datagrams.
pub(super) fn udp(name: &str, address: &str, listener: &Listener) -> pb::Listener {
    let stream = listener.chains.iter().find_map(|chain| chain.stream());
    let backends = stream.map_or(&[][..], |stream| &stream.backends);
    let proxy = UdpProxyConfig {
        stat_prefix: name.to_owned(),
        idle_timeout: value::seconds(SESSION_SECONDS),
        hash_policies: stream
            .filter(|stream| stream.by_source)
            .map(|_| source_of_datagrams())
            .into_iter()
            .collect(),
        route_specifier: Some(RouteSpecifier::Matcher(share(backends))),
        ..Default::default()
    };
    pb::Listener {
        name: name.to_owned(),
        address: Some(Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                protocol: Protocol::Udp.into(),
                address: address.to_owned(),
                port_specifier: Some(PortSpecifier::PortValue(u32::from(listener.port))),
                ..Default::default()
            })),
        }),
        stat_prefix: name.to_owned(),
        listener_filters: vec![ListenerFilter {
            name: "envoy.filters.udp_listener.udp_proxy".into(),
            config_type: Some(listener_filter::ConfigType::TypedConfig(value::any(&proxy))),
            ..Default::default()
        }],
        udp_listener_config: Some(UdpListenerConfig::default()),
        ..Default::default()
    }
}

/// The same for datagrams, in the words of their proxy.
fn source_of_datagrams() -> udp_proxy_config::HashPolicy {
    let source = udp_proxy_config::hash_policy::PolicySpecifier::SourceIp(true);
    udp_proxy_config::HashPolicy { policy_specifier: Some(source) }
}

/// Shares sessions by weight. Envoy's UDP proxy has no weighted clusters, so the client's port decides, hashed over
/// the sum of weights: what stands last takes the hashes from the weights before it on, and so forth. Ports are new
/// with each session, so sessions of one client are shared too.
fn share(backends: &[StreamBackend]) -> Matcher {
    let total = backends.iter().fold(0_u32, |sum, backend| sum.saturating_add(backend.weight));
    let mut below = total;
    let mut matchers = Vec::with_capacity(backends.len());
    for backend in backends.iter().skip(1).rev() {
        below = below.saturating_sub(backend.weight);
        matchers
            .push(FieldMatcher { predicate: Some(hashed_from(below, total)), on_match: Some(on(backend)) });
    }
    let first = backends.first().map(on);
    Matcher {
        matcher_type: (!matchers.is_empty()).then_some(MatcherType::MatcherList(MatcherList { matchers })),
        // Without a backend no cluster is named, and datagrams are dropped.
        on_no_match: Some(Box::new(first.unwrap_or_else(|| to(route::NO_CLUSTER)))),
    }
}

fn on(backend: &StreamBackend) -> OnMatch {
    to(cluster(backend))
}

fn to(cluster: &str) -> OnMatch {
    let action = extension("route", &Route { cluster: cluster.to_owned() });
    OnMatch { on_match: Some(on_match::OnMatch::Action(action)), ..Default::default() }
}

fn hashed_from(threshold: u32, modulo: u32) -> Predicate {
    let input = extension("envoy.matching.inputs.source_port", &SourcePortInput {});
    let hashing = ConsistentHashing { threshold, modulo, seed: 0 };
    let hashing = extension("envoy.matching.matchers.consistent_hashing", &hashing);
    Predicate {
        match_type: Some(predicate::MatchType::SinglePredicate(predicate::SinglePredicate {
            input: Some(input),
            matcher: Some(single_predicate::Matcher::CustomMatch(hashing)),
        })),
    }
}

fn extension<M: Message + Name>(name: &str, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(value::any(config)) }
}

/// Reads back the clusters of a listener of datagrams with their weights; `no-such-backend` for a share that is dropped.
pub(super) fn shares(proxy: UdpProxyConfig) -> Result<Vec<(String, u32)>, XdsError> {
    let Some(RouteSpecifier::Matcher(matcher)) = proxy.route_specifier else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    let mut below = None;
    if let Some(MatcherType::MatcherList(list)) = matcher.matcher_type {
        for found in list.matchers {
            let Some(hashing) = found.predicate.and_then(hashing) else { continue };
            let hashing: ConsistentHashing = unpack(&hashing)?;
            let above = below.unwrap_or(hashing.modulo);
            below = Some(hashing.threshold);
            out.extend(target(found.on_match)?.map(|name| (name, above.saturating_sub(hashing.threshold))));
        }
    }
    out.extend(target(matcher.on_no_match.map(|found| *found))?.map(|name| (name, below.unwrap_or(1))));
    out.reverse();
    Ok(out)
}

fn hashing(predicate: Predicate) -> Option<Any> {
    match predicate.match_type? {
        predicate::MatchType::SinglePredicate(predicate::SinglePredicate {
            matcher: Some(single_predicate::Matcher::CustomMatch(found)),
            ..
        }) => found.typed_config,
        _ => None,
    }
}

fn target(found: Option<OnMatch>) -> Result<Option<String>, XdsError> {
    match found.and_then(|found| found.on_match) {
        Some(on_match::OnMatch::Action(TypedExtensionConfig { typed_config: Some(any), .. })) => {
            unpack::<Route>(&any).map(|route| Some(route.cluster))
        }
        _ => Ok(None),
    }
}
