//! Clients that are behind a load balancer which speaks the PROXY protocol (ClientTrafficPolicy `proxyProtocol`).

use crate::lowering::any;
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::listener::v3::{Listener, ListenerFilter, listener_filter::ConfigType};
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientProxyProtocol;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    proxy_protocol: Option<Wanted>,
    enable_proxy_protocol: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    optional: Option<bool>,
}

impl Capability for ClientProxyProtocol {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_proxy_protocol",
        kind: Kind::ClientTraffic,
        fields: &["enableProxyProtocol", "proxyProtocol"],
        except: &[],
        since: "0.2.0",
        docs: "\
Connections begin with a header of the PROXY protocol, version 1 or 2, and the address in it is the client's. A connection without one is \
closed, or with proxyProtocol.optional served as it comes: then whoever reaches the listener past the load balancer can say any address. \
enableProxyProtocol is the older way to write proxyProtocol: {}.",
        effect: Effect::Listener,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let optional = match (&spec.proxy_protocol, spec.enable_proxy_protocol) {
            (Some(wanted), _) => wanted.optional == Some(true),
            (None, Some(true)) => false,
            (None, _) => return,
        };
        let config = ProxyProtocol { allow_requests_without_proxy_protocol: optional, ..Default::default() };
        let filter = ListenerFilter {
            name: "envoy.filters.listener.proxy_protocol".into(),
            config_type: Some(ConfigType::TypedConfig(any(&config))),
            ..Default::default()
        };
        // Before anything that reads what comes behind the header.
        cx.listener(&Listener { listener_filters: vec![filter], ..Default::default() }, true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};
    use prost::Message as _;

    fn optional(spec: &str) -> Option<bool> {
        let compiled = testing::compile(Kind::ClientTraffic, spec);
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let part = compiled.parts.get("client_proxy_protocol")?;
        assert!(part.listener[0].first);
        let listener: Listener = patched(&part.listener);
        let Some(ConfigType::TypedConfig(any)) = &listener.listener_filters[0].config_type else { panic!() };
        Some(ProxyProtocol::decode(any.value.as_slice()).unwrap().allow_requests_without_proxy_protocol)
    }

    #[test]
    fn the_header_is_wanted_unless_it_may_be_missing() {
        assert_eq!(optional(r#"{"proxyProtocol": {}}"#), Some(false));
        assert_eq!(optional(r#"{"enableProxyProtocol": true}"#), Some(false));
        assert_eq!(
            optional(r#"{"proxyProtocol": {"optional": true}, "enableProxyProtocol": true}"#),
            Some(true)
        );
        assert_eq!(optional(r#"{"enableProxyProtocol": false}"#), None);
    }
}
