//! Reads back what [`super::records()`] wrote, as far as requests are decided by it: so that a snapshot explains itself
//! without the sources. What only shapes a request on its way (time limits, header changes) is left out.

use super::{
    CLUSTER_TYPE, LISTENER_TYPE, RATE_LIMIT_TYPE, ROUTE_TYPE, XdsError, canonical, quic, route, stream,
};
use envoy_types::pb::envoy::config::core::v3::{address, socket_address};
use envoy_types::pb::envoy::config::listener::v3 as listener_pb;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::listener_filter::ConfigType as ListenerFilterConfig;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    header_matcher::HeaderMatchSpecifier, query_parameter_matcher::QueryParameterMatchSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier as TcpClusters;
use envoy_types::pb::envoy::extensions::filters::udp::udp_proxy::v3::UdpProxyConfig;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use super::Reading;
use moorgate_model::ir::{
    Action, Added, ChainPolicies, ClientRanges, DownstreamTls, FilterChain, Fleet, Forward, GrpcMatch, HeaderMutation, Listener, ListenerOrigin, Patch, PathMatch,
    Redirect, Respond, Route, RouteOrigin, RouteTable, Serves, Stream, StreamBackend, Transport, ValueMatch,
    VirtualHost, WeightedBackend,
};
use moorgate_snapshot::record::MODULE_TYPE;
use moorgate_snapshot::{Record, Resource};
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Route tables by name, shared by the chains that use them.
type Tables<'r> = BTreeMap<&'r str, Arc<RouteTable>>;

/// What is not in Envoy's bytes: who wrote it.
pub trait Origins {
    /// The rule that a route of this name comes from, whose match has these bytes ([`super::match_bytes`]).
    fn route(&self, name: &str, matched: &[u8]) -> RouteOrigin;
    /// The Gateway listeners that a filter chain serves.
    fn chain(&self, listener: &str, chain: &str) -> Vec<ListenerOrigin>;
    /// The rule whose backends a filter chain, or a listener of datagrams, sends bytes to.
    fn stream(&self, listener: &str, chain: &str) -> RouteOrigin;
}

/// The listeners and routes of a snapshot. Clusters are left out: routes name them.
///
/// # Errors
/// Bytes that are no message of their type.
pub fn fleet<'r>(
    records: impl Iterator<Item = &'r Record>,
    origins: &dyn Origins,
) -> Result<Fleet, XdsError> {
    let mut tables: BTreeMap<&str, Vec<VirtualHost>> = BTreeMap::new();
    let mut listeners = Vec::new();
    for record in records {
        let Record::Resource(resource) = record else { continue };
        match &*resource.type_url {
            LISTENER_TYPE => listeners.push(decode::<listener_pb::Listener>(resource)?),
            ROUTE_TYPE => {
                let table: pb::RouteConfiguration = decode(resource)?;
                let hosts = table.virtual_hosts.iter().map(|found| host(found, origins));
                tables.entry(&resource.name).or_default().extend(hosts);
            }
            CLUSTER_TYPE | MODULE_TYPE | RATE_LIMIT_TYPE => {}
            other => return Err(XdsError::Descriptor(other.to_owned())),
        }
    }
    let tables: Tables<'_> = tables
        .into_iter()
        .map(|(name, hosts)| (name, Arc::new(RouteTable { name: name.to_owned(), hosts })))
        .collect();
    let mut fleet = Fleet::default();
    // What is beside another listener has nothing that this one lacks.
    for found in listeners.into_iter().filter(|found| !quic::is(found)) {
        let (port, transport) = address(&found);
        let chains = match transport {
            Transport::Udp => vec![datagrams(&found, origins)?],
            Transport::Tcp => {
                let chains = stream::without_others(&found.filter_chains);
                let chains = chains.map(|chain| self::chain(&found.name, chain, &tables, origins));
                chains.collect::<Result<_, _>>()?
            }
        };
        fleet.listeners.insert(found.name.clone(), Listener { port, transport, chains });
    }
    Ok(fleet)
}

fn decode<M: Message + Default>(resource: &Resource) -> Result<M, XdsError> {
    M::decode(&*resource.bytes)
        .map_err(|source| XdsError::Decode { type_url: resource.type_url.to_string(), source })
}

fn address(listener: &listener_pb::Listener) -> (u16, Transport) {
    let Some(address::Address::SocketAddress(socket)) =
        listener.address.as_ref().and_then(|address| address.address.as_ref())
    else {
        return (0, Transport::Tcp);
    };
    let port = match socket.port_specifier {
        Some(socket_address::PortSpecifier::PortValue(port)) => u16::try_from(port).unwrap_or(0),
        _ => 0,
    };
    let udp = socket.protocol() == socket_address::Protocol::Udp;
    (port, if udp { Transport::Udp } else { Transport::Tcp })
}

/// The message in an `Any`.
pub(super) fn unpack<M: Message + Default>(any: &Any) -> Result<M, XdsError> {
    M::decode(&*any.value).map_err(|source| XdsError::Decode { type_url: any.type_url.clone(), source })
}

fn chain(
    listener: &str,
    (chain, clients): (&listener_pb::FilterChain, Option<ClientRanges>),
    tables: &Tables<'_>,
    origins: &dyn Origins,
) -> Result<FilterChain, XdsError> {
    let of_type = |name: &str| {
        chain.filters.iter().find_map(|filter| match &filter.config_type {
            Some(ConfigType::TypedConfig(any)) if any.type_url.ends_with(name) => Some(any),
            _ => None,
        })
    };
    let mut policies = None;
    let serves = if let Some(any) = of_type(".HttpConnectionManager") {
        let manager = unpack::<HttpConnectionManager>(any)?;
        policies = reading(&manager);
        let name = match manager.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => rds.route_config_name,
            _ => String::new(),
        };
        let table = tables.get(name.as_str()).cloned();
        Serves::Http(table.unwrap_or_else(|| Arc::new(RouteTable { name, hosts: Vec::new() })))
    } else if let Some(any) = of_type(".TcpProxy") {
        let proxy = unpack::<TcpProxy>(any)?;
        let by_source = !proxy.hash_policy.is_empty();
        let backends = tcp_backends(proxy.cluster_specifier);
        let origin = origins.stream(listener, &chain.name);
        Serves::Stream(Stream { origin, backends, by_source, clients, policies: Vec::new() })
    } else {
        Serves::Refuse
    };
    let server_names = chain.filter_chain_match.as_ref().map(|found| found.server_names.clone());
    Ok(FilterChain {
        name: chain.name.clone(),
        server_names: server_names.unwrap_or_default(),
        // Which certificates does not matter here.
        tls: chain.transport_socket.as_ref().map(|_| DownstreamTls { secrets: Vec::new(), clients: None }),
        origins: origins.chain(listener, &chain.name),
        policies,
        serves,
        tracing: None,
    })
}

/// How requests are read, where that is not as ever.
fn reading(manager: &HttpConnectionManager) -> Added<ChainPolicies> {
    if Reading::in_manager(manager) == Reading::default() {
        return None;
    }
    let own = HttpConnectionManager {
        merge_slashes: manager.merge_slashes,
        path_with_escaped_slashes_action: manager.path_with_escaped_slashes_action,
        common_http_protocol_options: manager.common_http_protocol_options,
        ..Default::default()
    };
    // merge_slashes, path_with_escaped_slashes_action, common_http_protocol_options
    let clear = vec![vec![33], vec![45], vec![35]];
    let manager = vec![Patch { message: own.encode_to_vec(), clear, first: false }];
    Some(Arc::new(ChainPolicies { manager, ..ChainPolicies::default() }))
}

fn stream_backend(name: &str, weight: u32) -> StreamBackend {
    StreamBackend { cluster: (name != route::NO_CLUSTER).then(|| name.to_owned()), weight }
}

fn tcp_backends(found: Option<TcpClusters>) -> Vec<StreamBackend> {
    match found {
        Some(TcpClusters::Cluster(name)) => vec![stream_backend(&name, 1)],
        Some(TcpClusters::WeightedClusters(weighted)) => {
            weighted.clusters.iter().map(|one| stream_backend(&one.name, one.weight)).collect()
        }
        None => Vec::new(),
    }
}

/// The one chain of a listener of datagrams.
fn datagrams(listener: &listener_pb::Listener, origins: &dyn Origins) -> Result<FilterChain, XdsError> {
    let filter = listener.listener_filters.iter().find_map(|filter| match &filter.config_type {
        Some(ListenerFilterConfig::TypedConfig(any)) => Some(any),
        _ => None,
    });
    let proxy = filter.map(unpack::<UdpProxyConfig>).transpose()?;
    let by_source = proxy.as_ref().is_some_and(|proxy| !proxy.hash_policies.is_empty());
    let backends = proxy.map(stream::shares).transpose()?;
    let name = listener.name.clone();
    let backends = backends.unwrap_or_default();
    let backends = backends.into_iter().map(|(name, weight)| stream_backend(&name, weight)).collect();
    let origin = origins.stream(&name, &name);
    let stream = Stream { origin, backends, by_source, clients: None, policies: Vec::new() };
    let refuses = stream.backends.iter().all(|backend| backend.cluster.is_none());
    Ok(FilterChain {
        server_names: Vec::new(),
        tls: None,
        origins: origins.chain(&name, &name),
        policies: None,
        serves: if refuses { Serves::Refuse } else { Serves::Stream(stream) },
        tracing: None,
        name,
    })
}

fn host(host: &pb::VirtualHost, origins: &dyn Origins) -> VirtualHost {
    let listener = host.routes.first().and_then(route::owner_of);
    let end = host.routes.iter().rposition(|route| route.name != route::UNMATCHED).map_or(0, |last| last + 1);
    VirtualHost {
        asked: None,
        name: host.name.clone(),
        domain: host.domains.first().cloned().unwrap_or_default(),
        listener: listener.map(str::to_owned),
        routes: routes(host.routes.get(usize::from(listener.is_some())..end).unwrap_or_default(), origins),
    }
}

/// The routes of a host; shares of one rule that lie in routes of their own become one again.
fn routes(found: &[pb::Route], origins: &dyn Origins) -> Vec<Route> {
    let mut out = Vec::with_capacity(found.len());
    let (mut shares, mut sum) = (Vec::new(), 0);
    for found in found {
        let mut found = found.clone();
        let fraction = found.r#match.as_mut().and_then(|matched| matched.runtime_fraction.take());
        let mut route = self::route(&found, origins);
        let upto = fraction.and_then(|share| share.default_value).map(|share| share.numerator);
        if upto.is_none() && shares.is_empty() {
            out.push(route);
            continue;
        }
        let end = upto.unwrap_or(route::SHARES);
        let cluster = match &route.action {
            Action::Forward(forward) => forward.backends.first().and_then(|backend| backend.cluster.clone()),
            Action::Redirect(_) | Action::Respond(_) => None,
        };
        shares.push(WeightedBackend::plain(cluster, end.saturating_sub(sum)));
        sum = end;
        if upto.is_none() {
            let backends = std::mem::take(&mut shares);
            route.action = Action::Forward(Forward { backends, ..Forward::default() });
            out.push(route);
            sum = 0;
        }
    }
    out
}

fn route(found: &pb::Route, origins: &dyn Origins) -> Route {
    let matched = found.r#match.clone().unwrap_or_default();
    let mut headers = Vec::new();
    let mut method = None;
    for header in &matched.headers {
        let Some(HeaderMatchSpecifier::StringMatch(wanted)) = &header.header_match_specifier else {
            continue;
        };
        match value(wanted) {
            ValueMatch::Exact(text) if header.name == ":method" => method = Some(text),
            wanted => headers.push((header.name.clone(), wanted)),
        }
    }
    let query = matched.query_parameters.iter().filter_map(|query| {
        match query.query_parameter_match_specifier.as_ref()? {
            QueryParameterMatchSpecifier::StringMatch(wanted) => Some((query.name.clone(), value(wanted))),
            QueryParameterMatchSpecifier::PresentMatch(_) => None,
        }
    });
    let cookies = matched.cookies.iter();
    let cookies =
        cookies.filter_map(|cookie| Some((cookie.name.clone(), value(cookie.string_match.as_ref()?))));
    Route {
        origin: origins.route(&found.name, &canonical::encode(&matched)),
        path: path(matched.path_specifier.as_ref()),
        method,
        headers,
        query: query.collect(),
        cookies: cookies.collect(),
        grpc: matched.grpc.map(|_| GrpcMatch::default()),
        request_headers: HeaderMutation::default(),
        response_headers: HeaderMutation::default(),
        mirrors: Vec::new(),
        cors: None,
        auth: None,
        policies: None,
        action: action(found.action.as_ref()),
    }
}

fn path(path: Option<&PathSpecifier>) -> PathMatch {
    match path {
        Some(PathSpecifier::Path(path)) => PathMatch::Exact(path.clone()),
        Some(PathSpecifier::SafeRegex(regex)) => PathMatch::Regex(regex.regex.clone()),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => PathMatch::Prefix(prefix.clone()),
        // Only `/` is written as a plain prefix.
        _ => PathMatch::Prefix(String::new()),
    }
}

fn value(wanted: &StringMatcher) -> ValueMatch {
    match &wanted.match_pattern {
        Some(MatchPattern::SafeRegex(regex)) => ValueMatch::Regex(regex.regex.clone()),
        Some(MatchPattern::Exact(text)) => ValueMatch::Exact(text.clone()),
        _ => ValueMatch::Exact(String::new()),
    }
}

fn action(action: Option<&pb::route::Action>) -> Action {
    match action {
        Some(pb::route::Action::Route(found)) => {
            let backend = |name: &str, weight: u32| {
                WeightedBackend::plain((name != route::NO_CLUSTER).then(|| name.to_owned()), weight)
            };
            let backends = match &found.cluster_specifier {
                Some(ClusterSpecifier::Cluster(name)) => vec![backend(name, 1)],
                Some(ClusterSpecifier::WeightedClusters(weighted)) => weighted
                    .clusters
                    .iter()
                    .map(|one| backend(&one.name, one.weight.as_ref().map_or(0, |weight| weight.value)))
                    .collect(),
                _ => Vec::new(),
            };
            Action::Forward(Forward { backends, ..Forward::default() })
        }
        Some(pb::route::Action::Redirect(found)) => {
            let status = match found.response_code() {
                pb::redirect_action::RedirectResponseCode::MovedPermanently => 301,
                pb::redirect_action::RedirectResponseCode::Found => 302,
                pb::redirect_action::RedirectResponseCode::SeeOther => 303,
                pb::redirect_action::RedirectResponseCode::TemporaryRedirect => 307,
                pb::redirect_action::RedirectResponseCode::PermanentRedirect => 308,
            };
            Action::Redirect(Redirect { scheme: None, host: None, port: None, path: None, status })
        }
        Some(pb::route::Action::DirectResponse(found)) => {
            Action::Respond(Respond { status: u16::try_from(found.status).unwrap_or(500) })
        }
        _ => Action::Respond(Respond { status: 500 }),
    }
}
