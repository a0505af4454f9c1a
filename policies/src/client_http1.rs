//! What HTTP/1 clients may do (ClientTrafficPolicy `http1`).

use crate::headers::{self, Text};
use crate::lowering::any;
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::http1_protocol_options::HeaderKeyFormat;
use envoy_types::pb::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientHttp1;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    http1: Option<Http1>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Http1 {
    enable_trailers: Option<bool>,
    preserve_header_case: Option<bool>,
    http10: Option<Http10>,
    #[serde(default)]
    ignored_upgrade_types: Vec<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Http10 {
    use_default_host: Option<bool>,
}

impl Capability for ClientHttp1 {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_http1",
        kind: Kind::ClientTraffic,
        fields: &["http1"],
        except: &[],
        since: "0.2.0",
        docs: "\
enableTrailers passes trailers on, preserveHeaderCase writes names of headers as the other side wrote them (towards clients), http10 takes \
requests of HTTP/1.0 that name a host, or with useDefaultHost stand for the hostname of their listener, or else of the only route that names one. Requests that \
want another protocol of ignoredUpgradeTypes are answered as if they did not.",
        effect: Effect::ConnectionManager,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(http1) = &spec.http1 else { return };
        let format = (http1.preserve_header_case == Some(true)).then(|| HeaderKeyFormat {
            header_format: Some(HeaderFormat::StatefulFormatter(TypedExtensionConfig {
                name: "preserve_case".into(),
                typed_config: Some(any(&PreserveCaseFormatterConfig::default())),
            })),
        });
        let mut ignored = Vec::new();
        for (index, text) in http1.ignored_upgrade_types.iter().enumerate() {
            let at = FieldPath::parse("spec.http1.ignoredUpgradeTypes").index(index);
            let Some(pattern) = headers::pattern(text, &at, cx) else { return };
            let ignore_case = !matches!(pattern, MatchPattern::SafeRegex(_));
            ignored.push(StringMatcher { match_pattern: Some(pattern), ignore_case });
        }
        if http1.http10.as_ref().is_some_and(|http10| http10.use_default_host == Some(true)) {
            cx.default_host();
        }
        let options = Http1ProtocolOptions {
            ignore_http_11_upgrade: ignored,
            enable_trailers: http1.enable_trailers.unwrap_or_default(),
            accept_http_10: http1.http10.is_some(),
            header_key_format: format,
            ..Default::default()
        };
        if options != Http1ProtocolOptions::default() {
            let manager =
                HttpConnectionManager { http_protocol_options: Some(options), ..Default::default() };
            cx.manager(&manager, &[]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn each_wish_is_one_of_envoys() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"http1": {"enableTrailers": true, "preserveHeaderCase": true, "http10": {}}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let manager: HttpConnectionManager = patched(&compiled.parts["client_http1"].manager);
        let options = manager.http_protocol_options.unwrap();
        assert!(options.enable_trailers && options.accept_http_10 && options.header_key_format.is_some());
        let nothing = testing::compile(Kind::ClientTraffic, r#"{"http1": {"enableTrailers": false}}"#);
        assert!(nothing.parts.is_empty() && nothing.findings.is_empty());
    }

    #[test]
    fn hosts_and_other_protocols() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"http1": {"http10": {"useDefaultHost": true}, "ignoredUpgradeTypes": [{"type": "Prefix", "value": "TLS/"}]}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let part = &compiled.parts["client_http1"];
        let options = patched::<HttpConnectionManager>(&part.manager).http_protocol_options.unwrap();
        assert!(part.default_host && options.ignore_http_11_upgrade[0].ignore_case);
        let wrong = testing::compile(
            Kind::ClientTraffic,
            r#"{"http1": {"ignoredUpgradeTypes": [{"type": "Suffix", "value": ""}]}}"#,
        );
        assert_eq!(testing::said(&wrong), ["MG4002 spec.http1.ignoredUpgradeTypes[0].value"]);
    }
}
