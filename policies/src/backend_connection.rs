//! Connections to backends (BackendTrafficPolicy `connection`, `tcpKeepalive`).

use crate::client_keepalive::Keepalive;
use crate::lowering::seconds;
use crate::quantity::Quantity;
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::cluster::v3::cluster::PreconnectPolicy;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, UpstreamConnectionOptions};
use envoy_types::pb::envoy::config::core::v3::socket_option::{self, SocketState};
use envoy_types::pb::envoy::config::core::v3::{BindConfig, SocketOption, TcpKeepalive};
use envoy_types::pb::google::protobuf::{DoubleValue, UInt32Value};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct BackendConnection;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    connection: Option<Connection>,
    tcp_keepalive: Option<Keepalive>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    buffer_limit: Option<Quantity>,
    socket_buffer_limit: Option<Quantity>,
    preconnect: Option<Preconnect>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Preconnect {
    per_endpoint_percent: Option<u32>,
    predictive_percent: Option<u32>,
}

impl Capability for BackendConnection {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "backend_connection",
        kind: Kind::BackendTraffic,
        fields: &["connection", "tcpKeepalive"],
        except: &[],
        since: "0.2.0",
        docs: "\
connection.bufferLimit is what Envoy holds of one connection before it reads no more, socketBufferLimit what the kernel holds each way; preconnect opens connections before they are needed: \
perEndpointPercent (100 to 300) of those that an endpoint's requests need, predictivePercent (from 100) of those of the whole backend. tcpKeepalive probes \
connections that are silent for idleTime, every interval, so many times.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let mut cluster = Cluster::default();
        if let Some(connection) = &spec.connection {
            let at = FieldPath::parse("spec.connection");
            if let Some(limit) = &connection.buffer_limit {
                let bytes =
                    limit.number().and_then(|bytes| u32::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
                let Some(value) = bytes else {
                    return cx.invalid(at.key("bufferLimit"), "it is a number of bytes, 1 to 4294967295");
                };
                cluster.per_connection_buffer_limit_bytes = Some(UInt32Value { value });
            }
            if let Some(limit) = &connection.socket_buffer_limit {
                let Some(socket_options) = kernel(limit, &at.key("socketBufferLimit"), cx) else { return };
                cluster.upstream_bind_config = Some(BindConfig { socket_options, ..Default::default() });
            }
            if let Some(preconnect) = &connection.preconnect {
                let Some(policy) = ahead(preconnect, &at.key("preconnect"), cx) else { return };
                cluster.preconnect_policy = Some(policy);
            }
        }
        if let Some(keepalive) = &spec.tcp_keepalive {
            let at = FieldPath::parse("spec.tcpKeepalive");
            let mut seconds = |field: &str, text: &Option<String>| {
                seconds(cx, &at.key(field), text.as_deref()).map(|value| UInt32Value { value })
            };
            cluster.upstream_connection_options = Some(UpstreamConnectionOptions {
                tcp_keepalive: Some(TcpKeepalive {
                    keepalive_time: seconds("idleTime", &keepalive.idle_time),
                    keepalive_interval: seconds("interval", &keepalive.interval),
                    keepalive_probes: keepalive.probes.map(|value| UInt32Value { value }),
                }),
                ..Default::default()
            });
        }
        if cluster != Cluster::default() {
            cx.cluster(&cluster, &[]);
        }
    }
}

/// Options of a socket for what the kernel holds of a connection each way; none if the number is none.
pub(crate) fn kernel(limit: &Quantity, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<SocketOption>> {
    // What Linux takes for these (`asm-generic/socket.h`).
    const LEVEL: i64 = 1;
    const OPTIONS: [(&str, i64); 2] = [("what is sent", 7), ("what is received", 8)];
    let bytes = limit.number().and_then(|bytes| i32::try_from(bytes).ok()).filter(|bytes| *bytes > 0);
    let Some(bytes) = bytes else {
        cx.invalid(at.clone(), "it is a number of bytes, 1 to 2147483647");
        return None;
    };
    let option = |(description, name): (&str, i64)| SocketOption {
        description: description.to_owned(),
        level: LEVEL,
        name,
        // Before the connection is opened: the window of TCP depends on it.
        state: SocketState::StatePrebind.into(),
        value: Some(socket_option::Value::IntValue(i64::from(bytes))),
        ..Default::default()
    };
    Some(OPTIONS.map(option).to_vec())
}

fn ahead(preconnect: &Preconnect, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<PreconnectPolicy> {
    let mut ratio = |field: &str, percent: Option<u32>, most: u32| match percent {
        None => Some(None),
        Some(percent) if (100..=most).contains(&percent) => {
            Some(Some(DoubleValue { value: f64::from(percent) / 100.0 }))
        }
        Some(_) => {
            cx.invalid(at.key(field), &format!("it lies between 100 and {most}"));
            None
        }
    };
    Some(PreconnectPolicy {
        per_upstream_preconnect_ratio: ratio("perEndpointPercent", preconnect.per_endpoint_percent, 300)?,
        predictive_preconnect_ratio: ratio("predictivePercent", preconnect.predictive_percent, u32::MAX)?,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn connections_are_bounded_opened_ahead_and_probed() {
        let compiled = testing::compile(
            Kind::BackendTraffic,
            r#"{"connection": {"bufferLimit": "64Ki", "preconnect": {"perEndpointPercent": 150, "predictivePercent": 200}},
                "tcpKeepalive": {"probes": 4, "idleTime": "1m"}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let cluster: Cluster = patched(&compiled.parts["backend_connection"].cluster.cluster);
        assert_eq!(cluster.per_connection_buffer_limit_bytes, Some(UInt32Value { value: 65_536 }));
        let policy = cluster.preconnect_policy.unwrap();
        assert_eq!(policy.per_upstream_preconnect_ratio, Some(DoubleValue { value: 1.5 }));
        assert_eq!(policy.predictive_preconnect_ratio, Some(DoubleValue { value: 2.0 }));
        let keepalive = cluster.upstream_connection_options.unwrap().tcp_keepalive.unwrap();
        assert_eq!(keepalive.keepalive_time, Some(UInt32Value { value: 60 }));
        assert_eq!(
            (keepalive.keepalive_interval, keepalive.keepalive_probes),
            (None, Some(UInt32Value { value: 4 }))
        );
    }

    #[test]
    fn what_envoy_does_not_take_is_refused() {
        for (spec, said) in [
            (r#"{"connection": {"bufferLimit": "0"}}"#, "MG4002 spec.connection.bufferLimit"),
            (r#"{"connection": {"bufferLimit": "8Gi"}}"#, "MG4002 spec.connection.bufferLimit"),
            (
                r#"{"connection": {"preconnect": {"perEndpointPercent": 301}}}"#,
                "MG4002 spec.connection.preconnect.perEndpointPercent",
            ),
            (
                r#"{"connection": {"preconnect": {"predictivePercent": 99}}}"#,
                "MG4002 spec.connection.preconnect.predictivePercent",
            ),
            (r#"{"tcpKeepalive": {"interval": "10ms"}}"#, "MG4002 spec.tcpKeepalive.interval"),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, spec);
            assert_eq!(testing::said(&compiled), [said]);
            assert!(compiled.parts.is_empty(), "{spec}");
        }
    }

    #[test]
    fn the_kernel_is_told_what_to_hold() {
        let compiled =
            testing::compile(Kind::BackendTraffic, r#"{"connection": {"socketBufferLimit": "1Mi"}}"#);
        let cluster: Cluster = patched(&compiled.parts["backend_connection"].cluster.cluster);
        let options = cluster.upstream_bind_config.unwrap().socket_options;
        let values: Vec<_> = options.iter().map(|option| (option.name, option.value.clone())).collect();
        let bytes = || Some(socket_option::Value::IntValue(1 << 20));
        assert_eq!(values, [(7, bytes()), (8, bytes())]);
        let wrong = testing::compile(Kind::BackendTraffic, r#"{"connection": {"socketBufferLimit": "3Gi"}}"#);
        assert_eq!(testing::said(&wrong), ["MG4002 spec.connection.socketBufferLimit"]);
    }
}
