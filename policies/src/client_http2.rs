//! What HTTP/2 clients may do (ClientTrafficPolicy `http2`).

use crate::lowering::{milliseconds, time};
use crate::quantity::Quantity;
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::{Http2ProtocolOptions, KeepaliveSettings};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct ClientHttp2;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    http2: Option<Http2>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Http2 {
    initial_stream_window_size: Option<Quantity>,
    initial_connection_window_size: Option<Quantity>,
    max_concurrent_streams: Option<u32>,
    on_invalid_message: Option<String>,
    connection_keepalive: Option<Keepalive>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keepalive {
    interval: Option<String>,
    timeout: Option<String>,
    idle_interval: Option<String>,
    interval_jitter: Option<u32>,
}

/// Windows that Envoy takes (`Http2ProtocolOptions`), and most streams.
const WINDOWS: std::ops::RangeInclusive<u64> = 65_535..=2_147_483_647;
const MOST_STREAMS: u32 = 2_147_483_647;
/// How long an answer to a PING takes at most, if nothing is said.
const ANSWER: Duration = Duration::from_secs(5);
/// `Http2ProtocolOptions.{override_stream_error_on_invalid_http_message, connection_keepalive}`.
const REPLACED: &[&[u32]] = &[&[14], &[15]];

impl Capability for ClientHttp2 {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_http2",
        kind: Kind::ClientTraffic,
        fields: &["http2"],
        except: &[],
        since: "0.2.0",
        docs: "\
Streams at a time on a connection, windows of a stream and of a connection (64 KiB to 2 GiB), what ends at a message that is no HTTP, and PINGs: \
every interval, or after idleInterval without a frame, with an answer within timeout (5s).",
        effect: Effect::ConnectionManager,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(http2) = &spec.http2 else { return };
        let Some((options, clear)) = options(http2, &FieldPath::parse("spec.http2"), cx) else { return };
        // `HttpConnectionManager.http2_protocol_options`
        let clear: Vec<Vec<u32>> = clear.iter().map(|path| [&[9], *path].concat()).collect();
        let clear: Vec<&[u32]> = clear.iter().map(Vec::as_slice).collect();
        cx.manager(
            &HttpConnectionManager { http2_protocol_options: Some(options), ..Default::default() },
            &clear,
        );
    }
}

/// Envoy's options for these wishes, and what of those that are there they replace; none if there are no wishes, or if one
/// of them is wrong.
pub(crate) fn options(
    http2: &Http2,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<(Http2ProtocolOptions, Vec<&'static [u32]>)> {
    let stream = window(cx, at, "initialStreamWindowSize", http2.initial_stream_window_size.as_ref());
    let connection =
        window(cx, at, "initialConnectionWindowSize", http2.initial_connection_window_size.as_ref());
    let streams = http2.max_concurrent_streams;
    if streams.is_some_and(|streams| !(1..=MOST_STREAMS).contains(&streams)) {
        cx.invalid(at.key("maxConcurrentStreams"), "Envoy takes 1 to 2147483647 streams");
        return None;
    }
    let only_stream = match http2.on_invalid_message.as_deref() {
        None => None,
        Some("TerminateStream") => Some(BoolValue { value: true }),
        Some("TerminateConnection") => Some(BoolValue { value: false }),
        Some(other) => {
            let message = format!("{other:?} is neither TerminateStream nor TerminateConnection");
            cx.invalid(at.key("onInvalidMessage"), &message);
            return None;
        }
    };
    let keepalive = http2.connection_keepalive.as_ref();
    let keepalive = keepalive.and_then(|wanted| pings(wanted, &at.key("connectionKeepalive"), cx));
    let options = Http2ProtocolOptions {
        max_concurrent_streams: streams.map(|value| UInt32Value { value }),
        initial_stream_window_size: stream,
        initial_connection_window_size: connection,
        override_stream_error_on_invalid_http_message: only_stream,
        connection_keepalive: keepalive,
        ..Default::default()
    };
    if options == Http2ProtocolOptions::default() {
        return None;
    }
    let named = [only_stream.is_some(), options.connection_keepalive.is_some()];
    let clear = REPLACED.iter().zip(named).filter_map(|(path, named)| named.then_some(*path)).collect();
    Some((options, clear))
}

fn window(
    cx: &mut Lowering<'_>,
    at: &FieldPath,
    field: &str,
    quantity: Option<&Quantity>,
) -> Option<UInt32Value> {
    let found = quantity?.number().filter(|number| WINDOWS.contains(number));
    let Some(value) = found.and_then(|number| u32::try_from(number).ok()) else {
        cx.invalid(at.key(field), "Envoy takes windows of 65535 to 2147483647 bytes");
        return None;
    };
    Some(UInt32Value { value })
}

fn pings(wanted: &Keepalive, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<KeepaliveSettings> {
    let interval = time(cx, &at.key("interval"), wanted.interval.as_deref());
    let idle = time(cx, &at.key("idleInterval"), wanted.idle_interval.as_deref());
    let timeout = time(cx, &at.key("timeout"), wanted.timeout.as_deref());
    for (field, time) in [("interval", interval), ("idleInterval", idle), ("timeout", timeout)] {
        if time.is_some_and(|time| time.is_zero()) {
            cx.invalid(at.key(field), "it takes at least 1ms");
            return None;
        }
    }
    if interval.is_none() && idle.is_none() {
        cx.invalid(at.clone(), "neither interval nor idleInterval is set");
        return None;
    }
    Some(KeepaliveSettings {
        interval: interval.map(milliseconds),
        timeout: Some(milliseconds(timeout.unwrap_or(ANSWER))),
        interval_jitter: wanted.interval_jitter.map(|percent| Percent { value: f64::from(percent) }),
        connection_idle_interval: idle.map(milliseconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn every_field_reaches_envoy() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"http2": {"initialStreamWindowSize": "128Ki", "initialConnectionWindowSize": 1048576,
                "maxConcurrentStreams": 7, "onInvalidMessage": "TerminateConnection",
                "connectionKeepalive": {"interval": "30s", "idleInterval": "1m", "intervalJitter": 10}}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let part = &compiled.parts["client_http2"];
        let options = patched::<HttpConnectionManager>(&part.manager).http2_protocol_options.unwrap();
        let value = |number: Option<UInt32Value>| number.unwrap().value;
        assert_eq!(value(options.initial_stream_window_size), 128 * 1024);
        assert_eq!(value(options.initial_connection_window_size), 1 << 20);
        assert_eq!(value(options.max_concurrent_streams), 7);
        assert_eq!(options.override_stream_error_on_invalid_http_message, Some(BoolValue { value: false }));
        let keepalive = options.connection_keepalive.unwrap();
        assert_eq!(keepalive.timeout, Some(milliseconds(ANSWER)));
        assert_eq!(keepalive.interval_jitter, Some(Percent { value: 10.0 }));
        // What was there before is replaced whole, also by a value that is no value on the wire.
        assert_eq!(part.manager[0].clear, [vec![9, 14], vec![9, 15]]);
        let one = testing::compile(Kind::ClientTraffic, r#"{"http2": {"maxConcurrentStreams": 7}}"#);
        assert!(one.parts["client_http2"].manager[0].clear.is_empty());
    }

    #[test]
    fn what_envoy_does_not_take_is_refused() {
        for (spec, field) in [
            (r#"{"initialStreamWindowSize": "1Ki"}"#, "initialStreamWindowSize"),
            (r#"{"initialConnectionWindowSize": "4Gi"}"#, "initialConnectionWindowSize"),
            (r#"{"initialConnectionWindowSize": "many"}"#, "initialConnectionWindowSize"),
            (r#"{"maxConcurrentStreams": 0}"#, "maxConcurrentStreams"),
            (r#"{"onInvalidMessage": "Ignore"}"#, "onInvalidMessage"),
            (r#"{"connectionKeepalive": {}}"#, "connectionKeepalive"),
            (r#"{"connectionKeepalive": {"interval": "0s"}}"#, "connectionKeepalive.interval"),
            (r#"{"connectionKeepalive": {"interval": "1s", "timeout": "x"}}"#, "connectionKeepalive.timeout"),
        ] {
            let compiled = testing::compile(Kind::ClientTraffic, &format!(r#"{{"http2": {spec}}}"#));
            assert_eq!(testing::said(&compiled), [format!("MG4002 spec.http2.{field}")]);
            assert!(compiled.parts.is_empty(), "{spec}");
        }
    }
}
