//! What becomes of some headers of clients (ClientTrafficPolicy `headers`).

use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimit;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, SetCurrentClientCertDetails,
};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientHeaders;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    headers: Option<Headers>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Headers {
    with_underscores_action: Option<String>,
    #[serde(rename = "requestID")]
    request_id: Option<String>,
    #[serde(rename = "preserveXRequestID")]
    preserve_request_id: Option<bool>,
    x_forwarded_client_cert: Option<Certificate>,
    host: Option<Host>,
    #[serde(rename = "enableEnvoyHeaders")]
    envoys_own: Option<bool>,
    #[serde(rename = "disableRateLimitHeaders")]
    without_limits: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    mode: Option<String>,
    #[serde(default)]
    cert_details_to_add: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    strip_trailing_host_dot: Option<bool>,
}

/// `common_http_protocol_options.headers_with_underscores_action`, which Moorgate sets by itself.
const UNDERSCORES: &[u32] = &[35, 5];
/// Filters that stand on listeners, and of the second `enable_x_ratelimit_headers`.
const ROUTER: &str = "envoy.filters.http.router";
const RATE_LIMIT: &str = "envoy.filters.http.ratelimit";
const LIMIT_HEADERS: &[u32] = &[8];

impl Capability for ClientHeaders {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_headers",
        kind: Kind::ClientTraffic,
        fields: &["headers"],
        except: &[],
        since: "0.2.0",
        docs: "\
withUnderscoresAction: a request with `_` in the name of a header is refused (RejectRequest, the default), loses the header (DropHeader), or \
passes. requestID (or the older preserveXRequestID): whose X-Request-ID counts. xForwardedClientCert: whether that header is taken out (Sanitize, the \
default), passed on, or says what the client's certificate says; modes that pass on what a client wrote are for listeners that only trusted \
proxies reach. host.stripTrailingHostDot: `example.com.` is `example.com`. enableEnvoyHeaders: false leaves Envoy's own headers out of requests and responses. \
disableRateLimitHeaders leaves out those of global limits, unless a rule asks for them.",
        effect: Effect::ConnectionManager,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(headers) = &spec.headers else { return };
        let at = FieldPath::parse("spec.headers");
        let mut manager = HttpConnectionManager::default();
        let mut clear: Vec<&[u32]> = Vec::new();
        if let Some(action) = headers.with_underscores_action.as_deref() {
            let action = match action {
                "Allow" => HeadersWithUnderscoresAction::Allow,
                "RejectRequest" => HeadersWithUnderscoresAction::RejectRequest,
                "DropHeader" => HeadersWithUnderscoresAction::DropHeader,
                other => {
                    return cx.invalid(at.key("withUnderscoresAction"), &format!("{other:?} is no action"));
                }
            };
            manager.common_http_protocol_options = Some(HttpProtocolOptions {
                headers_with_underscores_action: action.into(),
                ..Default::default()
            });
            clear.push(UNDERSCORES);
        }
        let request_id = match (headers.request_id.as_deref(), headers.preserve_request_id) {
            (Some(_), Some(true)) => {
                return cx.invalid(at.key("requestID"), "preserveXRequestID says something else");
            }
            (None, Some(true)) => "PreserveOrGenerate",
            (found, _) => found.unwrap_or("Generate"),
        };
        let (generates, preserves) = match request_id {
            "Generate" => (true, false),
            "PreserveOrGenerate" => (true, true),
            "Preserve" => (false, true),
            "Disable" => (false, false),
            other => return cx.invalid(at.key("requestID"), &format!("{other:?} is no way to treat it")),
        };
        manager.generate_request_id = (!generates).then_some(BoolValue { value: false });
        manager.preserve_external_request_id = preserves;
        if let Some(certificate) = &headers.x_forwarded_client_cert {
            let Some((mode, details)) = forward(certificate, &at.key("xForwardedClientCert"), cx) else {
                return;
            };
            manager.forward_client_cert_details = mode.into();
            manager.set_current_client_cert_details = details;
        }
        if headers.envoys_own == Some(false) {
            cx.change_filter(ROUTER, &Router { suppress_envoy_headers: true, ..Default::default() }, &[]);
            let silent = RateLimit { disable_x_envoy_ratelimited_header: true, ..Default::default() };
            cx.change_filter(RATE_LIMIT, &silent, &[]);
        }
        if headers.without_limits == Some(true) {
            cx.change_filter(RATE_LIMIT, &RateLimit::default(), &[LIMIT_HEADERS]);
        }
        let dot = headers.host.as_ref().and_then(|host| host.strip_trailing_host_dot);
        manager.strip_trailing_host_dot = dot.unwrap_or_default();
        if manager != HttpConnectionManager::default() {
            cx.manager(&manager, &clear);
        }
    }
}

fn forward(
    certificate: &Certificate,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<(ForwardClientCertDetails, Option<SetCurrentClientCertDetails>)> {
    let mode = match certificate.mode.as_deref().unwrap_or("Sanitize") {
        "Sanitize" => ForwardClientCertDetails::Sanitize,
        "ForwardOnly" => ForwardClientCertDetails::ForwardOnly,
        "AppendForward" => ForwardClientCertDetails::AppendForward,
        "SanitizeSet" => ForwardClientCertDetails::SanitizeSet,
        "AlwaysForwardOnly" => ForwardClientCertDetails::AlwaysForwardOnly,
        other => {
            cx.invalid(at.key("mode"), &format!("{other:?} is no mode"));
            return None;
        }
    };
    let sets =
        matches!(mode, ForwardClientCertDetails::AppendForward | ForwardClientCertDetails::SanitizeSet);
    let wanted = &certificate.cert_details_to_add;
    if !sets && !wanted.is_empty() {
        cx.invalid(at.key("certDetailsToAdd"), "details are added with AppendForward or SanitizeSet");
        return None;
    }
    let mut details = SetCurrentClientCertDetails::default();
    for (index, name) in wanted.iter().enumerate() {
        match name.as_str() {
            "Subject" => details.subject = Some(BoolValue { value: true }),
            "Cert" => details.cert = true,
            "Chain" => details.chain = true,
            "DNS" => details.dns = true,
            "URI" => details.uri = true,
            other => {
                cx.invalid(at.key("certDetailsToAdd").index(index), &format!("{other:?} is no detail"));
                return None;
            }
        }
    }
    Some((mode, sets.then_some(details)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};
    use prost::Message as _;

    fn manager(headers: &str) -> Option<HttpConnectionManager> {
        let compiled = testing::compile(Kind::ClientTraffic, &format!(r#"{{"headers": {headers}}}"#));
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        Some(patched(&compiled.parts.get("client_headers")?.manager))
    }

    #[test]
    fn underscores_are_refused_unless_it_is_said_otherwise() {
        let compiled =
            testing::compile(Kind::ClientTraffic, r#"{"headers": {"withUnderscoresAction": "Allow"}}"#);
        // Allow is no value on the wire: what Moorgate sets by itself has to go.
        assert_eq!(compiled.parts["client_headers"].manager[0].clear, [vec![35, 5]]);
        let dropped = manager(r#"{"withUnderscoresAction": "DropHeader"}"#).unwrap();
        let action = dropped.common_http_protocol_options.unwrap().headers_with_underscores_action;
        assert_eq!(action, i32::from(HeadersWithUnderscoresAction::DropHeader));
    }

    #[test]
    fn request_ids_are_made_or_kept() {
        let found = |headers: &str| {
            manager(headers)
                .map(|manager| (manager.generate_request_id, manager.preserve_external_request_id))
        };
        let off = Some(BoolValue { value: false });
        assert_eq!(found(r#"{"requestID": "Generate"}"#), None);
        assert_eq!(found(r#"{"requestID": "PreserveOrGenerate"}"#), Some((None, true)));
        assert_eq!(found(r#"{"preserveXRequestID": true}"#), Some((None, true)));
        assert_eq!(found(r#"{"requestID": "Preserve"}"#), Some((off, true)));
        assert_eq!(found(r#"{"requestID": "Disable"}"#), Some((off, false)));
    }

    #[test]
    fn certificates_are_told_as_it_is_asked() {
        let set = manager(
            r#"{"xForwardedClientCert": {"mode": "SanitizeSet", "certDetailsToAdd": ["Subject", "URI"]},
            "host": {"stripTrailingHostDot": true}}"#,
        )
        .unwrap();
        assert_eq!(set.forward_client_cert_details, i32::from(ForwardClientCertDetails::SanitizeSet));
        let details = set.set_current_client_cert_details.unwrap();
        assert!(details.subject.is_some() && details.uri && !details.chain && set.strip_trailing_host_dot);
        assert_eq!(manager(r#"{"xForwardedClientCert": {}}"#), None);
    }

    #[test]
    fn contradictions_are_refused() {
        for (headers, field) in [
            (r#"{"requestID": "Disable", "preserveXRequestID": true}"#, "requestID"),
            (r#"{"requestID": "Maybe"}"#, "requestID"),
            (r#"{"withUnderscoresAction": "Hide"}"#, "withUnderscoresAction"),
            (
                r#"{"xForwardedClientCert": {"certDetailsToAdd": ["URI"]}}"#,
                "xForwardedClientCert.certDetailsToAdd",
            ),
            (r#"{"xForwardedClientCert": {"mode": "All"}}"#, "xForwardedClientCert.mode"),
        ] {
            let compiled = testing::compile(Kind::ClientTraffic, &format!(r#"{{"headers": {headers}}}"#));
            assert_eq!(testing::said(&compiled), [format!("MG4002 spec.headers.{field}")]);
            assert!(compiled.parts.is_empty());
        }
    }

    #[test]
    fn envoys_own_headers_are_left_out() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"headers": {"enableEnvoyHeaders": false, "disableRateLimitHeaders": true}}"#,
        );
        let changes = &compiled.parts["client_headers"].changes;
        let names: Vec<&str> = changes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [ROUTER, RATE_LIMIT, RATE_LIMIT]);
        let silent = RateLimit::decode(changes[1].1.message.as_slice()).unwrap();
        assert!(silent.disable_x_envoy_ratelimited_header);
        assert_eq!(changes[2].1.clear, [vec![8]]);
        // That is what Envoy does without being asked.
        let nothing = testing::compile(Kind::ClientTraffic, r#"{"headers": {"enableEnvoyHeaders": true}}"#);
        assert!(nothing.parts.is_empty() && nothing.findings.is_empty());
    }
}
