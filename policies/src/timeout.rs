//! Time limits towards backends (BackendTrafficPolicy `timeout`).

use crate::lowering::{milliseconds, time};
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions as Common;
use envoy_types::pb::envoy::config::route::v3::{RouteAction, route_action};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct Timeout;

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
#[serde(rename_all = "camelCase")]
struct Tcp {
    connect_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Http {
    connection_idle_timeout: Option<String>,
    max_connection_duration: Option<String>,
    request_timeout: Option<String>,
    max_stream_duration: Option<String>,
    stream_idle_timeout: Option<String>,
}

/// `Cluster.connect_timeout`, `RouteAction.timeout`, `RouteAction.idle_timeout`
const CONNECT: &[u32] = &[4];
const REQUEST: &[u32] = &[8];
const IDLE: &[u32] = &[24];

impl Capability for Timeout {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "timeout",
        kind: Kind::BackendTraffic,
        fields: &["timeout"],
        except: &[],
        since: "0.1.0",
        docs: "\
tcp.connectTimeout bounds how long a connection to a backend may take to open; http.requestTimeout a whole request, http.streamIdleTimeout \
a request on which nothing moves, http.maxStreamDuration a request of whatever kind; http.connectionIdleTimeout and \
http.maxConnectionDuration how long connections are kept. 0s switches a limit off. A rule's own timeouts.request comes first. A request that may take \
longer than five minutes, or as long as it likes, may be silent for as long, unless streamIdleTimeout says otherwise.",
        effect: Effect::Route,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let at = FieldPath::parse("spec.timeout");
        let Some(limits) = &spec.timeout else { return };
        let tcp = limits.tcp.as_ref().and_then(|tcp| tcp.connect_timeout.as_deref());
        if let Some(connect) = time(cx, &at.key("tcp").key("connectTimeout"), tcp) {
            if connect.is_zero() {
                return cx.invalid(at.key("tcp").key("connectTimeout"), "a connection needs some time");
            }
            cx.cluster(
                &Cluster { connect_timeout: Some(milliseconds(connect)), ..Default::default() },
                &[CONNECT],
            );
        }
        let Some(http) = &limits.http else { return };
        let at = at.key("http");
        let mut limit =
            |field: &str, text: &Option<String>| time(cx, &at.key(field), text.as_deref()).map(milliseconds);
        let kept = limit("connectionIdleTimeout", &http.connection_idle_timeout);
        let oldest = limit("maxConnectionDuration", &http.max_connection_duration);
        let request = limit("requestTimeout", &http.request_timeout);
        let stream = limit("maxStreamDuration", &http.max_stream_duration);
        let idle = limit("streamIdleTimeout", &http.stream_idle_timeout);
        if kept.is_some() || oldest.is_some() {
            let common = Common { idle_timeout: kept, max_connection_duration: oldest, ..Default::default() };
            cx.upstream(
                &HttpProtocolOptions { common_http_protocol_options: Some(common), ..Default::default() },
                &[],
            );
        }
        let clear: Vec<&[u32]> =
            [request.as_ref().map(|_| REQUEST), idle.as_ref().map(|_| IDLE)].into_iter().flatten().collect();
        if request.is_some() || idle.is_some() || stream.is_some() {
            let longest = |longest| route_action::MaxStreamDuration {
                max_stream_duration: Some(longest),
                ..Default::default()
            };
            let action = RouteAction {
                timeout: request,
                idle_timeout: idle,
                max_stream_duration: stream.map(longest),
                ..Default::default()
            };
            cx.forward(&action, &clear);
        }
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
            Kind::BackendTraffic,
            r#"{"timeout": {"tcp": {"connectTimeout": "1s"}, "http": {"connectionIdleTimeout": "2s", "maxConnectionDuration": "3s",
                "requestTimeout": "0s", "maxStreamDuration": "5s", "streamIdleTimeout": "6s"}}}"#,
        );
        let part = &compiled.parts["timeout"];
        let seconds = |count| Some(milliseconds(Duration::from_secs(count)));
        assert_eq!(patched::<Cluster>(&part.cluster.cluster).connect_timeout, seconds(1));
        let common =
            patched::<HttpProtocolOptions>(&part.cluster.upstream).common_http_protocol_options.unwrap();
        assert_eq!((common.idle_timeout, common.max_connection_duration), (seconds(2), seconds(3)));
        let action: RouteAction = patched(&part.forward);
        assert_eq!((action.timeout, action.idle_timeout), (seconds(0), seconds(6)));
        assert_eq!(part.forward[0].clear, [vec![8], vec![24]]);
        assert_eq!(action.max_stream_duration.unwrap().max_stream_duration, seconds(5));
    }

    #[test]
    fn what_is_no_time_takes_the_capability_away() {
        for (spec, said) in [
            (
                r#"{"timeout": {"http": {"requestTimeout": "1 s"}}}"#,
                "MG4002 spec.timeout.http.requestTimeout",
            ),
            (r#"{"timeout": {"tcp": {"connectTimeout": "0s"}}}"#, "MG4002 spec.timeout.tcp.connectTimeout"),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, spec);
            assert_eq!(testing::said(&compiled), [said]);
            assert!(compiled.parts.is_empty() && !compiled.closed);
        }
    }
}
