//! HTTP/3: a listener of datagrams beside the one of connections, with the same chains as far as they speak it.

use super::cluster::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use super::listener::{MAX_STREAMS, http_filter};
use super::{header, read, tls, value};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation as Mutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, Http3ProtocolOptions, QuicProtocolOptions, UdpSocketConfig, address, socket_address,
    transport_socket,
};
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::CodecType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};
use envoy_types::pb::envoy::extensions::transport_sockets::quic::v3::QuicDownstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use moorgate_model::ir::Listener;
use std::collections::BTreeSet;

/// How long a client may remember that HTTP/3 is spoken here, in seconds.
const REMEMBERED: u32 = 86_400;

/// A filter that says in each answer where HTTP/3 is spoken (RFC 9114, section 3.1.1). The first of all, so that it sees
/// the answers of all others.
pub(super) fn advertisement(port: u16) -> HttpFilter {
    let value = header::literal(&format!("h3=\":{port}\"; ma={REMEMBERED}"));
    let append = HeaderValueOption {
        header: Some(HeaderValue { key: "alt-svc".into(), value, ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    let mutation = Mutation { action: Some(header_mutation::Action::Append(append)) };
    let mutations = Mutations { response_mutations: vec![mutation], ..Default::default() };
    let config = HeaderMutation { mutations: Some(mutations), ..Default::default() };
    http_filter("envoy.filters.http.header_mutation/alt-svc", &config)
}

/// The listener of datagrams, if a chain of this one speaks HTTP/3. `of` is the listener of connections as it is sent.
pub(super) fn beside(name: &str, listener: &Listener, of: &pb::Listener) -> Option<pb::Listener> {
    // By name: a chain of connections may have another one beside it.
    let spoken = listener.chains.iter().filter(|chain| chain.speaks_http3());
    let names: BTreeSet<&str> = spoken.map(|chain| chain.name.as_str()).collect();
    let sent = of.filter_chains.iter().filter(|chain| names.contains(chain.name.as_str()));
    let chains: Vec<_> = sent.filter_map(over).collect();
    if chains.is_empty() {
        return None;
    }
    let mut address = of.address.clone();
    if let Some(address::Address::SocketAddress(socket)) =
        address.as_mut().and_then(|address| address.address.as_mut())
    {
        socket.protocol = socket_address::Protocol::Udp.into();
    }
    let quic = pb::QuicProtocolOptions { quic_protocol_options: Some(options()), ..Default::default() };
    Some(pb::Listener {
        name: of_listener(name),
        address,
        stat_prefix: of_listener(name),
        filter_chains: chains,
        per_connection_buffer_limit_bytes: of.per_connection_buffer_limit_bytes,
        access_log: of.access_log.clone(),
        udp_listener_config: Some(pb::UdpListenerConfig {
            quic_options: Some(quic),
            downstream_socket_config: Some(UdpSocketConfig {
                prefer_gro: value::truth(true),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// The name of the listener of datagrams beside another one.
fn of_listener(name: &str) -> String {
    format!("{name}-quic")
}

fn options() -> QuicProtocolOptions {
    QuicProtocolOptions {
        max_concurrent_streams: value::number(MAX_STREAMS),
        initial_stream_window_size: value::number(STREAM_WINDOW_BYTES),
        initial_connection_window_size: value::number(CONNECTION_WINDOW_BYTES),
        ..Default::default()
    }
}

/// A chain of connections as one of datagrams: whatever policies made of it holds here too.
fn over(chain: &pb::FilterChain) -> Option<pb::FilterChain> {
    let Some(transport_socket::ConfigType::TypedConfig(found)) =
        chain.transport_socket.as_ref()?.config_type.as_ref()
    else {
        return None;
    };
    let mut context: DownstreamTlsContext = read::unpack(found).ok()?;
    context.common_tls_context.get_or_insert_default().alpn_protocols = vec!["h3".to_owned()];
    let socket = QuicDownstreamTransport {
        downstream_tls_context: Some(context),
        // What comes before the handshake is done can be sent again by anybody who saw it.
        enable_early_data: value::truth(false),
        ..Default::default()
    };
    let mut out = pb::FilterChain { transport_socket_connect_timeout: None, ..chain.clone() };
    out.transport_socket = Some(tls::socket("envoy.transport_sockets.quic", &socket));
    let last = out.filters.last_mut()?;
    let Some(pb::filter::ConfigType::TypedConfig(found)) = last.config_type.as_ref() else { return None };
    let mut manager: HttpConnectionManager = read::unpack(found).ok()?;
    manager.codec_type = CodecType::Http3.into();
    manager.http3_protocol_options =
        Some(Http3ProtocolOptions { quic_protocol_options: Some(options()), ..Default::default() });
    last.config_type = Some(pb::filter::ConfigType::TypedConfig(value::any(&manager)));
    Some(out)
}

/// Whether a listener is one of those.
pub(super) fn is(listener: &pb::Listener) -> bool {
    listener.udp_listener_config.as_ref().is_some_and(|config| config.quic_options.is_some())
}
