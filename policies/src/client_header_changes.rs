//! Headers that listeners change for all routes (ClientTrafficPolicy `headers.earlyRequestHeaders`, `lateResponseHeaders`).

use crate::headers::{Changes, mutations};
use crate::lowering::any;
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{HeaderMutation, Mutations};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as Early;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientHeaderChanges;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    headers: Option<Headers>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Headers {
    early_request_headers: Option<Changes>,
    late_response_headers: Option<Changes>,
}

const NAME: &str = "envoy.filters.http.header_mutation";

impl Capability for ClientHeaderChanges {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_header_changes",
        kind: Kind::ClientTraffic,
        fields: &["headers.earlyRequestHeaders", "headers.lateResponseHeaders"],
        except: &[],
        since: "0.3.0",
        docs: "\
earlyRequestHeaders changes headers of all requests before a route is looked for, lateResponseHeaders those of all responses, Envoy's own too, before they leave: \
set, add, addIfAbsent, remove, removeOnMatch. Envoy's operators, such as %TLS_JA4_FINGERPRINT%, are filled into values; a percent sign is written %%.",
        effect: Effect::Filter {
            name: NAME,
            place: place::LATE_HEADERS,
            why: "responses pass backwards: the first filter sees every response, whoever gave it",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(headers) = &spec.headers else { return };
        let at = FieldPath::parse("spec.headers");
        if let Some(early) = &headers.early_request_headers {
            let Some(mutations) = mutations(early, &at.key("earlyRequestHeaders"), cx) else { return };
            if !mutations.is_empty() {
                let extension = TypedExtensionConfig {
                    name: "envoy.http.early_header_mutation.header_mutation".into(),
                    typed_config: Some(any(&Early { mutations })),
                };
                let early_header_mutation_extensions = vec![extension];
                // What Envoy notes for itself comes after it.
                cx.manager_first(&HttpConnectionManager {
                    early_header_mutation_extensions,
                    ..Default::default()
                });
            }
        }
        if let Some(late) = &headers.late_response_headers {
            let Some(response_mutations) = mutations(late, &at.key("lateResponseHeaders"), cx) else {
                return;
            };
            if !response_mutations.is_empty() {
                let mutations = Some(Mutations { response_mutations, ..Default::default() });
                cx.listener_filter(
                    (NAME, place::LATE_HEADERS),
                    &HeaderMutation { mutations, ..Default::default() },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};
    use prost::Message as _;

    #[test]
    fn headers_are_changed_early_and_late() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"headers": {"earlyRequestHeaders": {"set": [{"name": "X-Ja4", "value": "%TLS_JA4_FINGERPRINT%"}], "addIfAbsent": [{"name": "x-tenant", "value": ""}],
                "remove": ["X-Secret"], "removeOnMatch": [{"type": "Prefix", "value": "x-internal-"}]}, "lateResponseHeaders": {"add": [{"name": "x-served-by", "value": "edge"}]}}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let part = &compiled.parts["client_header_changes"];
        assert!(part.manager[0].first);
        let manager: HttpConnectionManager = patched(&part.manager);
        let config = manager.early_header_mutation_extensions[0].typed_config.clone().unwrap();
        assert_eq!(Early::decode(config.value.as_slice()).unwrap().mutations.len(), 4);
        let late = HeaderMutation::decode(part.on_listener[0].config.value.as_slice()).unwrap();
        assert_eq!(late.mutations.unwrap().response_mutations.len(), 1);
        for (changes, field) in [
            (r#"{"set": [{"name": "host", "value": "a"}]}"#, "set[0].name"),
            (r#"{"add": [{"name": "a", "value": "%NO%"}]}"#, "add[0].value"),
            (r#"{"add": [{"name": "a", "value": "b\nc"}]}"#, "add[0].value"),
            (r#"{"remove": ["a:"]}"#, "remove[0]"),
            (r#"{"removeOnMatch": [{"type": "RegularExpression", "value": "("}]}"#, "removeOnMatch[0].value"),
        ] {
            let compiled = testing::compile(
                Kind::ClientTraffic,
                &format!(r#"{{"headers": {{"lateResponseHeaders": {changes}}}}}"#),
            );
            assert_eq!(
                testing::said(&compiled),
                [format!("MG4002 spec.headers.lateResponseHeaders.{field}")]
            );
            assert!(compiled.parts.is_empty());
        }
    }
}
