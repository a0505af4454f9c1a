//! Listeners, after Envoy's guide for edge proxies.

use super::cluster::{BUFFER_BYTES, CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use super::{access_log, auth, cors, header, patch, quic, route, session, stream, tls, tracing, value};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use envoy_types::pb::envoy::config::core::v3::{
    Address, CidrRange, HeaderValue, HeaderValueOption, Http2ProtocolOptions, HttpProtocolOptions, SocketAddress,
    TypedExtensionConfig, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::config::listener::v3::{Filter, ListenerFilter, filter, listener_filter};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    InternalAddressConfig, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
    UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyHeaderMutation;
use moorgate_policies::place;
use moorgate_model::ir::{BindFamily, FilterChain, Listener, Move, Proxy, RouteTable, Serves, Transport};
use moorgate_snapshot::record::Reference;
use prost::{Message, Name};
use std::collections::BTreeMap;

/// All IPv4 addresses. `::` with IPv4 mapped would serve both families, but Envoy cannot bind it where the kernel has
/// IPv6 switched off, and one set of bytes serves all machines of a fleet: the address that every machine has wins.
pub(super) const BIND_ADDRESS: &str = "0.0.0.0";

/// The address that listeners bind. With IPv4 mapped, `::` is both.
pub(super) fn address_of(family: BindFamily) -> &'static str {
    match family {
        BindFamily::V4 => BIND_ADDRESS,
        BindFamily::V6 | BindFamily::Dual => "::",
    }
}

/// A TLS handshake that is not done by then is given up.
const HANDSHAKE_SECONDS: i64 = 10;
/// Whoever decides where clients may come from, and whoever finds out where they come from.
const RIGHTS_FILTER: &str = "envoy.filters.http.rbac";
const LOCATION_FILTER: &str = "envoy.filters.http.geoip";
const HEADERS_SECONDS: i64 = 10;
const IDLE_SECONDS: i64 = 3600;
pub(super) const MAX_STREAMS: u32 = 100;
/// The relay sends tables with the listeners that need them: a listener without its table waits instead of
/// answering 404 to everything.
const ROUTES_TIMEOUT_SECONDS: i64 = 0;

/// The listener and the names that it needs.
pub(super) fn lower(name: &str, listener: &Listener, proxy: &Proxy) -> (pb::Listener, Vec<Reference>) {
    if listener.transport == Transport::Udp {
        return (stream::udp(name, address_of(proxy.family), listener), Vec::new());
    }
    // Once for all chains that share a table.
    let mut filters: BTreeMap<&str, Vec<(u16, HttpFilter)>> = BTreeMap::new();
    for routes in listener.chains.iter().filter_map(FilterChain::routes) {
        filters.entry(&routes.name).or_insert_with(|| http_filters(routes));
    }
    let inspects = listener.chains.iter().any(|chain| chain.tls.is_some() || !chain.server_names.is_empty());
    let mut inspector = TlsInspector::default();
    for added in listener.chains.iter().filter_map(|chain| chain.policies.as_ref()) {
        patch::apply(&mut inspector, &added.inspector);
    }
    let inspector = ListenerFilter {
        name: "envoy.filters.listener.tls_inspector".into(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(value::any(&inspector))),
        ..Default::default()
    };
    let chains = listener.chains.iter().flat_map(|chain| {
        [Some(filter_chain((name, listener.port), chain, &filters, proxy)), stream::others(chain)]
    });
    let usual = inspects || proxy.listener_logs.is_some();
    let mut out = pb::Listener {
        name: name.to_owned(),
        address: Some(Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: address_of(proxy.family).into(),
                ipv4_compat: proxy.family == BindFamily::Dual,
                port_specifier: Some(PortSpecifier::PortValue(u32::from(listener.port))),
                ..Default::default()
            })),
        }),
        stat_prefix: name.to_owned(),
        filter_chains: chains.flatten().collect(),
        per_connection_buffer_limit_bytes: value::number(BUFFER_BYTES),
        listener_filters: inspects.then_some(inspector).into_iter().collect(),
        access_log: if usual {
            access_log::or_usual(proxy.listener_logs.as_deref(), access_log::unmatched_connections)
        } else {
            Vec::new()
        },
        ..Default::default()
    };
    if let Some(added) = listener.chains.iter().find_map(|chain| chain.policies.as_ref()) {
        patch::apply(&mut out, &added.listener);
    }
    let tls = listener.chains.iter().filter(|chain| !chain.refuses()).filter_map(|chain| chain.tls.as_ref());
    (out, tls.flat_map(tls::references).collect())
}

fn filter_chain(
    (listener, port): (&str, u16),
    chain: &FilterChain,
    filters: &BTreeMap<&str, Vec<(u16, HttpFilter)>>,
    proxy: &Proxy,
) -> pb::FilterChain {
    let socket = chain.tls.as_ref().map(|tls| match chain.serves {
        Serves::Stream(_) => tls::downstream(tls, &[], chain.policies.as_deref()),
        Serves::Http(_) | Serves::Refuse => {
            tls::downstream(tls, &tls::HTTP_PROTOCOLS, chain.policies.as_deref())
        }
    });
    let (filter, socket) = match &chain.serves {
        Serves::Http(routes) => {
            let mut filters = filters.get(routes.name.as_str()).cloned().unwrap_or_default();
            if let Some(calls) = &proxy.counts_calls {
                let filter = patch::http_filter(&(calls.name.clone(), calls.config.clone()));
                let place = filters.partition_point(|(place, _)| *place <= calls.place);
                filters.insert(place, (calls.place, filter));
            }
            let mut filters = patch::listener_filters(filters, chain.policies.as_deref());
            proxy.order.iter().for_each(|step| reorder(&mut filters, step));
            look_first(&mut filters);
            if chain.speaks_http3() {
                filters.insert(0, quic::advertisement(port));
            }
            let manager = connection_manager(listener, (chain, routes), filters, proxy);
            (network_filter("envoy.filters.network.http_connection_manager", &manager), socket)
        }
        Serves::Stream(found) if !found.backends.is_empty() => {
            let mut filter = stream::tcp_proxy(listener, found, proxy);
            if let Some(added) = &chain.policies {
                patch::apply(&mut filter, &added.stream);
            }
            (network_filter("envoy.filters.network.tcp_proxy", &filter), socket)
        }
        Serves::Stream(_) | Serves::Refuse => (stream::closes(), None),
    };
    let mut out = pb::FilterChain {
        name: chain.name.clone(),
        filter_chain_match: stream::fits(chain),
        filters: vec![filter],
        transport_socket_connect_timeout: socket.as_ref().and_then(|_| value::seconds(HANDSHAKE_SECONDS)),
        transport_socket: socket,
        ..Default::default()
    };
    if let Some(added) = &chain.policies {
        patch::apply(&mut out, &added.chain);
    }
    out
}

pub(super) fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(value::any(config))) }
}

pub(super) fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(value::any(config))),
        ..Default::default()
    }
}

/// A filter that only runs on routes that configure it.
fn idle_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter { disabled: true, ..http_filter(name, config) }
}

/// Notes the chain's name before a route is looked for, in place of whatever the client sent under that name.
fn listener_note(chain: &str) -> TypedExtensionConfig {
    let append = HeaderValueOption {
        header: Some(HeaderValue {
            key: header::LISTENER.into(),
            value: header::literal(chain),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    early(vec![header_mutation::Action::Append(append)])
}

/// Takes out what a client sends under names that only filters set, before a route is looked for: a filter that finds nothing
/// out leaves such a header as it is.
fn nobodys(routes: &RouteTable) -> Option<TypedExtensionConfig> {
    let names = patch::reserved(routes);
    (!names.is_empty()).then(|| {
        early(names.iter().map(|name| header_mutation::Action::Remove((*name).to_owned())).collect())
    })
}

fn early(actions: Vec<header_mutation::Action>) -> TypedExtensionConfig {
    let mutations = actions.into_iter().map(|action| HeaderMutation { action: Some(action) });
    let mutations = EarlyHeaderMutation { mutations: mutations.collect() };
    TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.header_mutation".into(),
        typed_config: Some(value::any(&mutations)),
    }
}

/// No client is internal, wherever its address lies: none may steer Envoy by x-envoy- headers. An empty list would
/// stand for the private networks, so it names an address that no client has.
fn nobody() -> InternalAddressConfig {
    let range = CidrRange { address_prefix: "0.0.0.0".into(), prefix_len: value::number(32) };
    InternalAddressConfig { unix_sockets: false, cidr_ranges: vec![range] }
}

/// Filters of requests, in the order in which they run: those that every listener has do nothing on routes without rules
/// of their own, so that listeners do not change when the first route has some; those of policies are there once a route
/// of the table has one. A preflight carries no credentials, so it is answered before a rule asks anybody.
fn http_filters(routes: &RouteTable) -> Vec<(u16, HttpFilter)> {
    let asked = routes.hosts.iter().filter_map(|host| host.asked.as_ref()).map(Vec::len).max();
    let own = (0..asked.unwrap_or(0)).flat_map(|position| {
        auth::FILTERS
            .map(|name| idle_filter(&auth::of_listener(name, position), &auth::listener_filter(name)))
    });
    let mut filters: Vec<(u16, HttpFilter)> = own.map(|filter| (place::LISTENER, filter)).collect();
    filters.push((place::CORS, http_filter(cors::FILTER, &Cors::default())));
    let auth = auth::FILTERS.map(|name| (place::EXTERNAL_AUTH, idle_filter(name, &auth::filter(name))));
    let session = (place::SESSION, idle_filter(session::FILTER, &session::filter()));
    let mut idle: Vec<(u16, HttpFilter)> = auth.into_iter().chain([session]).collect();
    idle.extend(patch::filters(routes, &[cors::FILTER, session::FILTER]));
    // Where a redirect leads to another route, it gives the answer its status there.
    idle.iter_mut()
        .filter(|(place, _)| *place == place::CUSTOM_RESPONSE)
        .for_each(|(_, filter)| filter.disabled = false);
    if let Some(again) = patch::again(routes) {
        let late = |name: &str| name == session::FILTER || again.contains(name);
        idle.iter_mut()
            .filter(|(_, filter)| late(&filter.name))
            .for_each(|(_, filter)| filter.disabled = false);
    }
    if asked.is_some() {
        // The route is not yet known when Envoy decides which filters run.
        let whole = patch::whole(routes);
        let others = idle.iter_mut().filter(|(_, filter)| !whole.contains(filter.name.as_str()));
        others.for_each(|(_, filter)| filter.disabled = false);
    }
    filters.extend(idle);
    // Stable: those of one place stay in their order.
    filters.sort_by_key(|(place, _)| *place);
    let router = http_filter("envoy.filters.http.router", &Router::default());
    filters.push((u16::MAX, router));
    filters
}

/// Moves a filter before or behind another one (EnvoyProxy `filterOrder`), with all that have its name before their own.
fn reorder(filters: &mut Vec<HttpFilter>, step: &Move) {
    // The router stays the last one.
    let router = filters.pop();
    let is = |filter: &HttpFilter, name: &str| {
        filter.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
    };
    if !filters.iter().any(|filter| is(filter, &step.other)) || step.filter == step.other {
        filters.extend(router);
        return;
    }
    let (moved, mut rest): (Vec<_>, Vec<_>) =
        std::mem::take(filters).into_iter().partition(|filter| is(filter, &step.filter));
    let place = if step.before {
        rest.iter().position(|filter| is(filter, &step.other))
    } else {
        rest.iter().rposition(|filter| is(filter, &step.other)).map(|last| last + 1)
    };
    let place = place.unwrap_or(rest.len());
    rest.splice(place..place, moved);
    rest.extend(router);
    *filters = rest;
}

/// Keeps those who find out where a client is before those who decide by it, wherever these were moved: without an answer a rule
/// that keeps a country out would let it in.
fn look_first(filters: &mut Vec<HttpFilter>) {
    let Some(decides) = filters.iter().position(|filter| filter.name.starts_with(RIGHTS_FILTER)) else {
        return;
    };
    let late = filters.split_off(decides);
    let (looks, rest): (Vec<_>, Vec<_>) =
        late.into_iter().partition(|filter| filter.name.starts_with(LOCATION_FILTER));
    filters.extend(looks);
    filters.extend(rest);
}

fn connection_manager(
    listener: &str,
    (chain, routes): (&FilterChain, &RouteTable),
    http_filters: Vec<HttpFilter>,
    proxy: &Proxy,
) -> HttpConnectionManager {
    let mut manager = HttpConnectionManager {
        stat_prefix: listener.to_owned(),
        http_filters,
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: value::seconds(IDLE_SECONDS),
            headers_with_underscores_action: HeadersWithUnderscoresAction::RejectRequest.into(),
            ..Default::default()
        }),
        http2_protocol_options: Some(Http2ProtocolOptions {
            max_concurrent_streams: value::number(MAX_STREAMS),
            initial_stream_window_size: value::number(STREAM_WINDOW_BYTES),
            initial_connection_window_size: value::number(CONNECTION_WINDOW_BYTES),
            ..Default::default()
        }),
        // A backend that names itself is not renamed.
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        stream_idle_timeout: Some(value::duration(route::STREAM_IDLE)),
        request_headers_timeout: value::seconds(HEADERS_SECONDS),
        access_log: access_log::or_usual(proxy.request_logs.as_deref(), access_log::requests),
        tracing: chain.tracing.as_deref().map(tracing::lower).or_else(|| tracing::of_proxy(proxy)),
        // The peer is the client: what it says in X-Forwarded-For is not believed, only added to.
        use_remote_address: value::truth(true),
        internal_address_config: Some(nobody()),
        generate_request_id: value::truth(true),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".into(), ..Default::default() }],
        normalize_path: value::truth(true),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::UnescapeAndRedirect.into(),
        early_header_mutation_extensions: chain
            .tls
            .iter()
            .map(|_| listener_note(&chain.name))
            .chain(nobodys(routes))
            .collect(),
        // `example.com.` is the same name.
        strip_trailing_host_dot: true,
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(value::ads(ROUTES_TIMEOUT_SECONDS)),
            route_config_name: routes.name.clone(),
        })),
        ..Default::default()
    };
    patch::apply(&mut manager, &proxy.manager);
    if let Some(added) = &chain.policies {
        patch::apply(&mut manager, &added.manager);
        if let Some(host) = added.default_host.as_ref().filter(|host| !host.is_empty()) {
            let options = manager.http_protocol_options.get_or_insert_default();
            options.default_host_for_http_10.clone_from(host);
        }
    }
    manager
}
