//! How HTTP is spoken to backends (BackendTrafficPolicy `http2`, `useClientProtocol`).

use crate::client_http2::{self, Http2};
use crate::{About, Capability, Effect, Kind, Lowering};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct BackendHttp;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    http2: Option<Http2>,
    use_client_protocol: Option<bool>,
}

impl Capability for BackendHttp {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "backend_http",
        kind: Kind::BackendTraffic,
        fields: &["http2", "useClientProtocol"],
        except: &[],
        since: "0.3.0",
        docs: "\
http2, for backends that speak it: streams at a time on a connection, windows of a stream and of a connection, what ends at a message that is no HTTP, and \
PINGs. useClientProtocol: a backend is spoken to by HTTP/1.1 or HTTP/2, whichever the client speaks.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        if let Some(http2) = &spec.http2 {
            let Some((options, clear)) = client_http2::options(http2, &FieldPath::parse("spec.http2"), cx)
            else {
                return;
            };
            cx.upstream_http2(&options, &clear);
        }
        if spec.use_client_protocol == Some(true) {
            cx.client_protocol();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};
    use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;

    #[test]
    fn backends_are_spoken_to_as_it_is_said() {
        let compiled = testing::compile(
            Kind::BackendTraffic,
            r#"{"http2": {"maxConcurrentStreams": 9, "onInvalidMessage": "TerminateStream"}, "useClientProtocol": true}"#,
        );
        let cluster = &compiled.parts["backend_http"].cluster;
        assert!(compiled.findings.is_empty() && cluster.client_protocol);
        assert_eq!(patched::<Http2ProtocolOptions>(&cluster.http2).max_concurrent_streams.unwrap().value, 9);
        assert_eq!(cluster.http2[0].clear, [vec![14]]);
        let wrong = testing::compile(Kind::BackendTraffic, r#"{"http2": {"maxConcurrentStreams": 0}}"#);
        assert_eq!(testing::said(&wrong), ["MG4002 spec.http2.maxConcurrentStreams"]);
        let nothing = testing::compile(Kind::BackendTraffic, r#"{"useClientProtocol": false, "http2": {}}"#);
        assert!(nothing.parts.is_empty());
    }
}
