//! The scheme that backends see (ClientTrafficPolicy `scheme`).

use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::SchemeHeaderTransformation;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientScheme;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    scheme: Option<String>,
}

impl Capability for ClientScheme {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_scheme",
        kind: Kind::ClientTraffic,
        fields: &["scheme"],
        except: &[],
        since: "0.3.0",
        docs: "\
Preserve (the default): a backend sees the scheme of the client's request. MatchBackend: https if the backend is spoken to by TLS, and http if not.",
        effect: Effect::ConnectionManager,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        match spec.scheme.as_deref() {
            None | Some("Preserve") => {}
            Some("MatchBackend") => {
                let transformation =
                    SchemeHeaderTransformation { match_upstream: true, ..Default::default() };
                let manager = HttpConnectionManager {
                    scheme_header_transformation: Some(transformation),
                    ..Default::default()
                };
                cx.manager(&manager, &[]);
            }
            Some(other) => {
                let message = format!("{other:?} is neither Preserve nor MatchBackend");
                cx.invalid(FieldPath::parse("spec.scheme"), &message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn both_ways() {
        let compile =
            |scheme: &str| testing::compile(Kind::ClientTraffic, &format!(r#"{{"scheme": "{scheme}"}}"#));
        let manager: HttpConnectionManager = patched(&compile("MatchBackend").parts["client_scheme"].manager);
        assert!(manager.scheme_header_transformation.unwrap().match_upstream);
        assert!(compile("Preserve").parts.is_empty());
        assert_eq!(testing::said(&compile("Http")), ["MG4002 spec.scheme"]);
    }
}
