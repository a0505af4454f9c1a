//! Whether connections of clients that are silent still stand (ClientTrafficPolicy `tcpKeepalive`).

use crate::lowering::seconds;
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::SocketOption;
use envoy_types::pb::envoy::config::core::v3::socket_option::{SocketState, Value};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientKeepalive;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    tcp_keepalive: Option<Keepalive>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Keepalive {
    pub(crate) probes: Option<u32>,
    pub(crate) idle_time: Option<String>,
    pub(crate) interval: Option<String>,
}

/// Options of a socket as Linux numbers them (`asm-generic/socket.h`, `linux/tcp.h`): level and name.
const KEEPALIVE: (i64, i64) = (1, 9);
const IDLE: (i64, i64) = (6, 4);
const INTERVAL: (i64, i64) = (6, 5);
const PROBES: (i64, i64) = (6, 6);

impl Capability for ClientKeepalive {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_keepalive",
        kind: Kind::ClientTraffic,
        fields: &["tcpKeepalive"],
        except: &[],
        since: "0.2.0",
        docs: "\
A connection that is silent for tcpKeepalive.idleTime (two hours) is probed every interval (75s), and ended after so many probes (9) without \
an answer. Times are whole seconds, at least one.",
        effect: Effect::Listener,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(keepalive) = &spec.tcp_keepalive else { return };
        let at = FieldPath::parse("spec.tcpKeepalive");
        let mut options = vec![option(KEEPALIVE, 1)];
        for (number, field, text) in
            [(IDLE, "idleTime", &keepalive.idle_time), (INTERVAL, "interval", &keepalive.interval)]
        {
            let found = seconds(cx, &at.key(field), text.as_deref());
            options.extend(found.map(|seconds| option(number, i64::from(seconds))));
        }
        options.extend(keepalive.probes.map(|probes| option(PROBES, i64::from(probes))));
        cx.listener(&Listener { socket_options: options, ..Default::default() }, false);
    }
}

fn option((level, name): (i64, i64), value: i64) -> SocketOption {
    SocketOption {
        level,
        name,
        state: SocketState::StatePrebind.into(),
        value: Some(Value::IntValue(value)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn silent_connections_are_probed() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"tcpKeepalive": {"probes": 3, "idleTime": "20m", "interval": "60s"}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let listener: Listener = patched(&compiled.parts["client_keepalive"].listener);
        let found = listener.socket_options.iter().map(|one| (one.level, one.name, one.value.clone()));
        let wanted = [(1, 9, 1), (6, 4, 1200), (6, 5, 60), (6, 6, 3)];
        assert!(found.eq(wanted.map(|(level, name, value)| (level, name, Some(Value::IntValue(value))))));
        let plain = testing::compile(Kind::ClientTraffic, r#"{"tcpKeepalive": {}}"#);
        let listener: Listener = patched(&plain.parts["client_keepalive"].listener);
        assert_eq!(listener.socket_options.len(), 1);
    }

    #[test]
    fn parts_of_seconds_are_refused() {
        for (field, text) in [("idleTime", "1500ms"), ("interval", "0s"), ("interval", "x")] {
            let compiled = testing::compile(
                Kind::ClientTraffic,
                &format!(r#"{{"tcpKeepalive": {{"{field}": "{text}"}}}}"#),
            );
            assert_eq!(testing::said(&compiled), [format!("MG4002 spec.tcpKeepalive.{field}")]);
            assert!(compiled.parts.is_empty());
        }
    }
}
