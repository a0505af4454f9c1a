//! The client's address for backends (BackendTrafficPolicy `proxyProtocol`).

use crate::{About, Capability, Effect, Kind, Lowering};
use moorgate_model::FieldPath;
use moorgate_model::ir::ProxyHeader;
use serde::Deserialize;

/// The capability.
pub(crate) struct BackendProxyProtocol;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    proxy_protocol: Option<Wanted>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    version: String,
}

impl Capability for BackendProxyProtocol {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "backend_proxy_protocol",
        kind: Kind::BackendTraffic,
        fields: &["proxyProtocol"],
        except: &[],
        since: "0.3.0",
        docs: "\
Connections to backends begin with the PROXY protocol's header (version V1, as text, or V2), which names the address of the client; before TLS, if there is any. \
A backend that does not expect it takes it for a broken request.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(wanted) = &spec.proxy_protocol else { return };
        match wanted.version.as_str() {
            "V1" => cx.proxy_header(ProxyHeader::V1),
            "V2" => cx.proxy_header(ProxyHeader::V2),
            other => {
                let at = FieldPath::parse("spec.proxyProtocol.version");
                cx.invalid(at, &format!("{other:?} is no version of the PROXY protocol"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn both_versions() {
        let compile = |version: &str| {
            testing::compile(
                Kind::BackendTraffic,
                &format!(r#"{{"proxyProtocol": {{"version": "{version}"}}}}"#),
            )
        };
        for (version, header) in [("V1", ProxyHeader::V1), ("V2", ProxyHeader::V2)] {
            assert_eq!(compile(version).parts["backend_proxy_protocol"].cluster.proxy_header, Some(header));
        }
        assert_eq!(testing::said(&compile("V3")), ["MG4002 spec.proxyProtocol.version"]);
    }
}
