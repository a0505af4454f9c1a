//! HTTP/3 (ClientTrafficPolicy `http3`).

use crate::{About, Capability, Effect, Kind, Lowering};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientHttp3;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    http3: Option<Http3>,
    // What other capabilities carry out, and what cannot hold over QUIC.
    tls: Option<Tls>,
    proxy_protocol: Option<serde::de::IgnoredAny>,
    enable_proxy_protocol: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Http3 {}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tls {
    max_version: Option<String>,
    client_validation: Option<serde::de::IgnoredAny>,
}

impl Capability for ClientHttp3 {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_http3",
        kind: Kind::ClientTraffic,
        fields: &["http3"],
        except: &[],
        since: "0.3.0",
        docs: "\
HTTPS listeners also speak HTTP/3, over QUIC on the UDP port of the same number, and say so in each answer (alt-svc). Services that render and \
watch make have that port too. Early data is not taken. Where something of a listener cannot hold over QUIC, it is not spoken there, and a \
diagnostic says so: certificates of clients (not all supported Envoys check them), the PROXY protocol, tls.maxVersion below 1.3, and a UDP \
port that another listener has.",
        effect: Effect::Listener,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        if spec.http3.is_none() {
            return;
        }
        let tls = spec.tls.as_ref();
        let old = tls
            .and_then(|tls| tls.max_version.as_deref())
            .is_some_and(|version| !matches!(version, "1.3" | "Auto"));
        let why = if tls.is_some_and(|tls| tls.client_validation.is_some()) {
            "not all supported Envoys check certificates of clients over QUIC, so that HTTP/3 is not spoken"
        } else if spec.proxy_protocol.is_some() || spec.enable_proxy_protocol == Some(true) {
            "QUIC has no PROXY protocol, and clients would have other addresses than over TCP: HTTP/3 is not spoken"
        } else if old {
            "QUIC has TLS 1.3 and no other, which tls.maxVersion forbids: HTTP/3 is not spoken"
        } else {
            return cx.http3();
        };
        cx.unsupported(FieldPath::parse("spec.http3"), why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn it_is_spoken_where_all_holds_that_holds_over_tcp() {
        let compile =
            |more: &str| testing::compile(Kind::ClientTraffic, &format!(r#"{{"http3": {{}}{more}}}"#));
        for more in [
            "",
            r#", "tls": {"maxVersion": "1.3", "minVersion": "1.2"}"#,
            r#", "enableProxyProtocol": false"#,
        ] {
            let compiled = compile(more);
            assert!(compiled.parts["client_http3"].http3 && compiled.findings.is_empty(), "{more}");
        }
        let certificates = r#", "tls": {"clientValidation": {"caCertificateRefs": [{"kind": "ConfigMap", "group": "", "name": "ca"}]}}"#;
        for more in [certificates, r#", "tls": {"maxVersion": "1.2"}"#, r#", "proxyProtocol": {}"#] {
            let compiled = compile(more);
            assert!(!compiled.parts.contains_key("client_http3"), "{more}");
            assert_eq!(testing::said(&compiled), ["MG4104 spec.http3"], "{more}");
        }
        assert!(testing::compile(Kind::ClientTraffic, "{}").parts.is_empty());
    }
}
