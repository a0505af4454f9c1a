//! How many connections there may be, and how long one lasts (ClientTrafficPolicy `connection.connectionLimit`).

use crate::lowering::{any, milliseconds, time};
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, filter::ConfigType};
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
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    connection_limit: Option<Limit>,
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
        fields: &["connection.connectionLimit"],
        except: &[],
        since: "0.1.0",
        docs: "\
connection.connectionLimit: value bounds how many connections a listener has at a time (each Envoy counts for itself; more are closed, after \
closeDelay); maxConnectionDuration, maxRequestsPerConnection and maxStreamDuration bound one of them.",
        effect: Effect::Listener,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let limit = spec.connection.as_ref().and_then(|connection| connection.connection_limit.as_ref());
        let Some(limit) = limit else { return };
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
            let manager =
                HttpConnectionManager { common_http_protocol_options: Some(common), ..Default::default() };
            cx.manager(&manager, &[]);
        }
    }
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
        for (spec, said) in [
            (
                r#"{"connection": {"connectionLimit": {"value": 0}}}"#,
                "MG4002 spec.connection.connectionLimit.value",
            ),
            (r#"{"connection": {"bufferLimit": "1Mi"}}"#, "MG4104 spec.connection.bufferLimit"),
        ] {
            let compiled = testing::compile(Kind::ClientTraffic, spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], false));
        }
    }
}
