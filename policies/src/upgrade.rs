//! Requests that change the protocol (BackendTrafficPolicy `httpUpgrade`).

use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::route::v3::route_action::UpgradeConfig;
use envoy_types::pb::envoy::config::route::v3::route_action::upgrade_config::ConnectConfig;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteMatch, route_match};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct Upgrade;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    #[serde(default)]
    http_upgrade: Vec<One>,
}

#[derive(Debug, Deserialize)]
struct One {
    #[serde(rename = "type")]
    kind: String,
    connect: Option<Connect>,
}

#[derive(Debug, Deserialize)]
struct Connect {
    terminate: Option<bool>,
}

/// What every listener lets pass where nothing is said.
const USUAL: &str = "websocket";
const CONNECT: &str = "CONNECT";

impl Capability for Upgrade {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "upgrade",
        kind: Kind::BackendTraffic,
        fields: &["httpUpgrade"],
        except: &[],
        since: "0.3.0",
        docs: "\
Which changes of the protocol pass to the backend, such as websocket or spdy/3.1: those that are listed and no others (without a policy: websocket). With type CONNECT the \
routes are for CONNECT requests of their hosts, whatever path they have; connect.terminate takes the tunnel's bytes out and sends them as they are.",
        effect: Effect::Route,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        if spec.http_upgrade.is_empty() {
            return;
        }
        let mut configs = Vec::new();
        for (index, one) in spec.http_upgrade.iter().enumerate() {
            let at = FieldPath::parse("spec.httpUpgrade").index(index);
            let plain = |byte: u8| byte.is_ascii_graphic() && byte != b',';
            if one.kind.is_empty() || !one.kind.bytes().all(plain) {
                return cx.invalid(at.key("type"), &format!("{:?} is no name of a protocol", one.kind));
            }
            if spec.http_upgrade[..index].iter().any(|other| other.kind.eq_ignore_ascii_case(&one.kind)) {
                return cx.invalid(at.key("type"), &format!("{:?} is listed twice", one.kind));
            }
            let connects = one.kind.eq_ignore_ascii_case(CONNECT);
            if one.connect.is_some() && !connects {
                return cx.invalid(at.key("connect"), "it is for type CONNECT");
            }
            let terminates = one.connect.as_ref().and_then(|connect| connect.terminate) == Some(true);
            configs.push(UpgradeConfig {
                upgrade_type: if connects { CONNECT.into() } else { one.kind.clone() },
                enabled: Some(BoolValue { value: true }),
                connect_config: terminates.then(ConnectConfig::default),
            });
        }
        let has = |name: &str| spec.http_upgrade.iter().any(|one| one.kind.eq_ignore_ascii_case(name));
        if has(CONNECT) {
            let specifier = route_match::PathSpecifier::ConnectMatcher(route_match::ConnectMatcher {});
            let matched = RouteMatch { path_specifier: Some(specifier), ..Default::default() };
            cx.route(&Route { r#match: Some(matched), ..Default::default() });
        }
        if !has(USUAL) {
            configs.push(without_usual());
        }
        cx.forward(&RouteAction { upgrade_configs: configs, ..Default::default() }, &[]);
    }
}

/// What keeps from a route the change of the protocol that every listener lets pass.
pub(crate) fn without_usual() -> UpgradeConfig {
    UpgradeConfig {
        upgrade_type: USUAL.into(),
        enabled: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn only_what_is_listed_passes() {
        let of = |spec: &str| {
            let compiled = testing::compile(Kind::BackendTraffic, &format!(r#"{{"httpUpgrade": {spec}}}"#));
            assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
            let part = &compiled.parts["upgrade"];
            let configs = patched::<RouteAction>(&part.forward).upgrade_configs;
            let named: Vec<_> = configs
                .iter()
                .map(|one| {
                    (one.upgrade_type.clone(), one.enabled.unwrap().value, one.connect_config.is_some())
                })
                .collect();
            (named, part.route.len())
        };
        let named = |name: &str, enabled, terminates| (name.to_owned(), enabled, terminates);
        assert_eq!(
            of(r#"[{"type": "spdy/3.1"}]"#),
            (vec![named("spdy/3.1", true, false), named("websocket", false, false)], 0)
        );
        assert_eq!(
            of(r#"[{"type": "websocket"}, {"type": "Connect", "connect": {"terminate": true}}]"#),
            (vec![named("websocket", true, false), named("CONNECT", true, true)], 1)
        );
        for (spec, field) in [
            (r#"[{"type": "a b"}]"#, "[0].type"),
            (r#"[{"type": "websocket", "connect": {}}]"#, "[0].connect"),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, &format!(r#"{{"httpUpgrade": {spec}}}"#));
            assert_eq!(testing::said(&compiled), [format!("MG4002 spec.httpUpgrade{field}")]);
        }
    }
}
