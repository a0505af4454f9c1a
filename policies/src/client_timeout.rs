//! Time limits towards clients (ClientTrafficPolicy `timeout`).

use crate::lowering::{milliseconds, time};
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientTimeout;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    timeout: Option<Limits>,
}

#[derive(Debug, Deserialize)]
struct Limits {
    tcp: Option<Tcp>,
    http: Option<Http>,
}

#[derive(Debug, Deserialize)]
struct Tcp {
    #[serde(rename = "connectionInspectionTimeout")]
    inspection: Option<String>,
    #[serde(rename = "idleTimeout")]
    idle: Option<String>,
    #[serde(rename = "tlsHandshakeTimeout")]
    handshake: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Http {
    #[serde(rename = "requestReceivedTimeout")]
    request: Option<String>,
    #[serde(rename = "requestHeadersReceivedTimeout")]
    headers: Option<String>,
    #[serde(rename = "idleTimeout")]
    idle: Option<String>,
    #[serde(rename = "streamIdleTimeout")]
    stream: Option<String>,
}

/// Of the connection manager: `stream_idle_timeout`, `request_headers_timeout`, `common_http_protocol_options.idle_timeout`
const STREAM_IDLE: &[u32] = &[24];
const HEADERS: &[u32] = &[41];
const IDLE: &[u32] = &[35, 1];
/// `TcpProxy.idle_timeout`, `FilterChain.transport_socket_connect_timeout`
const STREAM: &[u32] = &[8];
const HANDSHAKE: &[u32] = &[9];

impl Capability for ClientTimeout {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_timeout",
        kind: Kind::ClientTraffic,
        fields: &["timeout"],
        except: &[],
        since: "0.1.0",
        docs: "\
How long clients may take: http.requestHeadersReceivedTimeout for the headers of a request (10s without a policy), \
http.requestReceivedTimeout for all of it, http.idleTimeout between requests of a connection (1h), http.streamIdleTimeout while nothing of \
a request moves (5m), tcp.connectionInspectionTimeout until what is needed to choose a listener is there, tcp.tlsHandshakeTimeout for a handshake of TLS (10s), \
tcp.idleTimeout while nothing moves on a connection of a TCP or TLS listener (1h). 0s switches a limit off.",
        effect: Effect::ConnectionManager,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(limits) = &spec.timeout else { return };
        let at = FieldPath::parse("spec.timeout");
        if let Some(tcp) = &limits.tcp {
            connections(tcp, &at.key("tcp"), cx);
        }
        let inspection = limits.tcp.as_ref().and_then(|tcp| tcp.inspection.as_deref());
        if let Some(limit) = time(cx, &at.key("tcp").key("connectionInspectionTimeout"), inspection) {
            cx.listener(
                &Listener { listener_filters_timeout: Some(milliseconds(limit)), ..Default::default() },
                false,
            );
        }
        let Some(http) = &limits.http else { return };
        let at = at.key("http");
        let mut limit =
            |field: &str, text: &Option<String>| time(cx, &at.key(field), text.as_deref()).map(milliseconds);
        let whole = limit("requestReceivedTimeout", &http.request);
        let headers = limit("requestHeadersReceivedTimeout", &http.headers);
        let idle = limit("idleTimeout", &http.idle);
        let stream = limit("streamIdleTimeout", &http.stream);
        let set = [(headers.is_some(), HEADERS), (idle.is_some(), IDLE), (stream.is_some(), STREAM_IDLE)];
        let clear: Vec<&[u32]> = set.into_iter().filter(|(set, _)| *set).map(|(_, field)| field).collect();
        let manager = HttpConnectionManager {
            request_timeout: whole,
            request_headers_timeout: headers,
            stream_idle_timeout: stream,
            common_http_protocol_options: idle
                .map(|idle| HttpProtocolOptions { idle_timeout: Some(idle), ..Default::default() }),
            ..Default::default()
        };
        if manager != HttpConnectionManager::default() {
            cx.manager(&manager, &clear);
        }
    }
}

/// Limits of connections, before and without requests.
fn connections(tcp: &Tcp, at: &FieldPath, cx: &mut Lowering<'_>) {
    if let Some(idle) = time(cx, &at.key("idleTimeout"), tcp.idle.as_deref()) {
        let proxy = TcpProxy { idle_timeout: Some(milliseconds(idle)), ..Default::default() };
        cx.stream(&proxy, &[STREAM]);
    }
    if let Some(limit) = time(cx, &at.key("tlsHandshakeTimeout"), tcp.handshake.as_deref()) {
        let chain =
            FilterChain { transport_socket_connect_timeout: Some(milliseconds(limit)), ..Default::default() };
        cx.chain_over(&chain, &[HANDSHAKE]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};
    use std::time::Duration;

    #[test]
    fn each_limit_has_its_place() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"timeout": {"tcp": {"connectionInspectionTimeout": "1s"}, "http": {"requestReceivedTimeout": "2s",
                "requestHeadersReceivedTimeout": "3s", "idleTimeout": "4s", "streamIdleTimeout": "0s"}}}"#,
        );
        let part = &compiled.parts["client_timeout"];
        let seconds = |count| Some(milliseconds(Duration::from_secs(count)));
        assert_eq!(patched::<Listener>(&part.listener).listener_filters_timeout, seconds(1));
        let manager: HttpConnectionManager = patched(&part.manager);
        assert_eq!((manager.request_timeout, manager.request_headers_timeout), (seconds(2), seconds(3)));
        assert_eq!(manager.common_http_protocol_options.unwrap().idle_timeout, seconds(4));
        assert_eq!(manager.stream_idle_timeout, seconds(0));
        assert_eq!(part.manager[0].clear, [vec![41], vec![35, 1], vec![24]]);
    }

    #[test]
    fn connections_have_limits_of_their_own() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"timeout": {"tcp": {"idleTimeout": "500ms", "tlsHandshakeTimeout": "3s"}}}"#,
        );
        let part = &compiled.parts["client_timeout"];
        let idle = patched::<TcpProxy>(&part.stream).idle_timeout;
        assert_eq!(
            (idle, &part.stream[0].clear),
            (Some(milliseconds(Duration::from_millis(500))), &vec![vec![8]])
        );
        let limit = patched::<FilterChain>(&part.chain).transport_socket_connect_timeout;
        assert_eq!(
            (limit, &part.chain[0].clear),
            (Some(milliseconds(Duration::from_secs(3))), &vec![vec![9]])
        );
    }

    #[test]
    fn what_is_not_carried_out_is_said() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"timeout": {"tcp": {"idleTimeout": "y"}, "http": {"idleTimeout": "x"}}}"#,
        );
        let said = ["MG4002 spec.timeout.tcp.idleTimeout", "MG4002 spec.timeout.http.idleTimeout"];
        assert_eq!((testing::said(&compiled), compiled.closed), (said.map(String::from).to_vec(), false));
    }
}
