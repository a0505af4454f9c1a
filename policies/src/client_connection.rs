//! How many connections there may be, and how long one lasts (ClientTrafficPolicy `connection.connectionLimit`).

use crate::backend_connection::kernel;
use crate::lowering::{any, milliseconds, time};
use crate::quantity::Quantity;
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter::ConfigType};
use envoy_types::pb::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::{UInt32Value, UInt64Value};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientConnection;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    connection: Option<Connection>,
    http1: Option<Http1>,
}

/// What another capability names, and this one needs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Http1 {
    disable_safe_max_connection_duration: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    #[serde(rename = "connectionLimit")]
    limit: Option<Limit>,
    buffer_limit: Option<Quantity>,
    socket_buffer_limit: Option<Quantity>,
    max_accept_per_socket_event: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limit {
    value: Option<i64>,
    close_delay: Option<String>,
    max_connection_duration: Option<String>,
    max_requests_per_connection: Option<u32>,
    max_stream_duration: Option<String>,
}

impl Capability for ClientConnection {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_connection",
        kind: Kind::ClientTraffic,
        fields: &["connection"],
        except: &[],
        since: "0.1.0",
        docs: "\
connection.connectionLimit: value bounds how many connections a listener has at a time (each Envoy counts for itself; more are closed, after \
closeDelay); maxConnectionDuration, maxRequestsPerConnection and maxStreamDuration bound one of them. An older connection of HTTP/1 is closed with its next \
answer, or at once with http1.disableSafeMaxConnectionDuration. bufferLimit is what Envoy holds of one connection (32 KiB without a policy), socketBufferLimit what \
the kernel holds each way, maxAcceptPerSocketEvent how many new connections a thread takes at a time (1 once there is a connection field; 0: all).",
        effect: Effect::Listener,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(connection) = &spec.connection else { return };
        if !listener(connection, &FieldPath::parse("spec.connection"), cx) {
            return;
        }
        let Some(limit) = &connection.limit else { return };
        let disabled = spec.http1.as_ref().and_then(|http1| http1.disable_safe_max_connection_duration);
        let at = FieldPath::parse("spec.connection.connectionLimit");
        let delay = time(cx, &at.key("closeDelay"), limit.close_delay.as_deref());
        let oldest = time(cx, &at.key("maxConnectionDuration"), limit.max_connection_duration.as_deref());
        let longest = time(cx, &at.key("maxStreamDuration"), limit.max_stream_duration.as_deref());
        if let Some(value) = limit.value {
            let Some(value) = u64::try_from(value).ok().filter(|value| *value > 0) else {
                return cx.invalid(at.key("value"), "at least one connection is needed");
            };
            let config = ConnectionLimit {
                stat_prefix: "policy_connection_limit".into(),
                max_connections: Some(UInt64Value { value }),
                delay: delay.map(milliseconds),
                ..Default::default()
            };
            let filter = Filter {
                name: "envoy.filters.network.connection_limit".into(),
                config_type: Some(ConfigType::TypedConfig(any(&config))),
            };
            // Before what reads from the connection.
            cx.chain(&FilterChain { filters: vec![filter], ..Default::default() }, true);
        }
        let common = HttpProtocolOptions {
            max_connection_duration: oldest.map(milliseconds),
            max_stream_duration: longest.map(milliseconds),
            max_requests_per_connection: limit.max_requests_per_connection.map(|value| UInt32Value { value }),
            ..Default::default()
        };
        if common != HttpProtocolOptions::default() {
            let manager = HttpConnectionManager {
                http1_safe_max_connection_duration: oldest.is_some() && disabled != Some(true),
                common_http_protocol_options: Some(common),
                ..Default::default()
            };
            cx.manager(&manager, &[]);
        }
    }
}

/// What concerns the whole listener; false if something is wrong.
fn listener(connection: &Connection, at: &FieldPath, cx: &mut Lowering<'_>) -> bool {
    let mut out = Listener::default();
    if let Some(limit) = &connection.buffer_limit {
        let bytes = limit.number().and_then(|bytes| u32::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
        let Some(value) = bytes else {
            cx.invalid(at.key("bufferLimit"), "it is a number of bytes, 1 to 4294967295");
            return false;
        };
        out.per_connection_buffer_limit_bytes = Some(UInt32Value { value });
    }
    if let Some(limit) = &connection.socket_buffer_limit {
        let Some(options) = kernel(limit, &at.key("socketBufferLimit"), cx) else { return false };
        out.socket_options = options;
    }
    // An API server writes 1 where nothing is said.
    let accepted = connection.max_accept_per_socket_event.unwrap_or(1);
    out.max_connections_to_accept_per_socket_event =
        (accepted > 0).then_some(UInt32Value { value: accepted });
    if out != Listener::default() {
        cx.listener(&out, false);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn connections_are_bounded() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"connection": {"connectionLimit": {"value": 3, "closeDelay": "1s", "maxConnectionDuration": "1h",
                "maxRequestsPerConnection": 9, "maxStreamDuration": "1m"}}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let part = &compiled.parts["client_connection"];
        assert!(part.chain[0].first);
        assert_eq!(
            patched::<FilterChain>(&part.chain).filters[0].name,
            "envoy.filters.network.connection_limit"
        );
        let common = patched::<HttpConnectionManager>(&part.manager).common_http_protocol_options.unwrap();
        assert_eq!(common.max_requests_per_connection, Some(UInt32Value { value: 9 }));
        let listener: Listener = patched(&part.listener);
        assert_eq!(listener.max_connections_to_accept_per_socket_event, Some(UInt32Value { value: 1 }));
        for (spec, said) in [
            (
                r#"{"connection": {"connectionLimit": {"value": 0}}}"#,
                "MG4002 spec.connection.connectionLimit.value",
            ),
            (r#"{"connection": {"bufferLimit": 0}}"#, "MG4002 spec.connection.bufferLimit"),
            (r#"{"connection": {"socketBufferLimit": "x"}}"#, "MG4002 spec.connection.socketBufferLimit"),
        ] {
            let compiled = testing::compile(Kind::ClientTraffic, spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], false));
        }
    }

    #[test]
    fn buffers_and_the_end_of_old_connections() {
        let of = |more: &str| {
            let spec = format!(
                r#"{{"connection": {{"bufferLimit": "1Mi", "socketBufferLimit": "64Ki", "maxAcceptPerSocketEvent": 0,
                "connectionLimit": {{"maxConnectionDuration": "1h"}}}}, "http1": {{{more}}}}}"#
            );
            let compiled = testing::compile(Kind::ClientTraffic, &spec);
            assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
            let part = compiled.parts["client_connection"].clone();
            let manager: HttpConnectionManager = patched(&part.manager);
            (patched::<Listener>(&part.listener), manager.http1_safe_max_connection_duration)
        };
        let (listener, safe) = of("");
        assert_eq!(
            (listener.per_connection_buffer_limit_bytes, safe),
            (Some(UInt32Value { value: 1 << 20 }), true)
        );
        assert_eq!(
            (listener.socket_options.len(), listener.max_connections_to_accept_per_socket_event),
            (2, None)
        );
        assert!(!of(r#""disableSafeMaxConnectionDuration": true"#).1);
    }
}
