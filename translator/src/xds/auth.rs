//! External authorization: the filters that stand on every listener and do nothing, and what a route makes of them.

use super::{header, route, value};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutationRules;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService, HeaderValue, HttpUri};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, CheckSettings, ExtAuthz, ExtAuthzPerRoute,
    HttpService, check_settings, ext_authz, ext_authz_per_route,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListStringMatcher, RegexMatcher, StringMatcher, string_matcher,
};
use moorgate_model::ir::{AuthProtocol, ExternalAuth};
use std::fmt::Write as _;

/// The names of the two filters, under which a route keeps what it asks. Which headers a service is shown is the filter's
/// own matter: one shows what every service is shown, to which a route adds by name, and one, for gRPC, all.
pub(super) const FILTERS: [&str; 2] = [FEW, ALL];
const FEW: &str = "envoy.filters.http.ext_authz";
const ALL: &str = "envoy.filters.http.ext_authz.grpc";

/// A service that has not answered by then has not said yes.
const TIMEOUT_SECONDS: i64 = 5;
/// As what an authorization service is addressed.
const HOST: &str = "authorization";

/// Headers of an authorization service's answer that are never copied into a request: they frame the answer itself.
const NOT_COPIED: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "host",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "x-envoy-upstream-service-time",
];

/// Of the two filters the one that asks this service.
pub(super) fn filter_of(auth: &ExternalAuth) -> &'static str {
    match auth.protocol {
        AuthProtocol::Grpc => ALL,
        AuthProtocol::Http { .. } => FEW,
    }
}

/// A filter as listeners have it: switched off, and closed where a route's own service were missing.
pub(super) fn filter(name: &str) -> ExtAuthz {
    let every = RegexMatcher { regex: ".*".into(), engine_type: None };
    let every = StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::SafeRegex(every)),
        ..Default::default()
    };
    ExtAuthz {
        transport_api_version: ApiVersion::V3.into(),
        services: Some(ext_authz::Services::HttpService(http(route::NO_CLUSTER))),
        allowed_headers: (name == ALL).then(|| ListStringMatcher { patterns: vec![every] }),
        // Which listener a request came by is Envoy's own matter.
        disallowed_headers: Some(names([header::LISTENER])),
        ..Default::default()
    }
}

/// The name of a filter in this place of a listener's own, under which a virtual host keeps whom it asks.
pub(super) fn of_listener(name: &str, position: usize) -> String {
    format!("{name}.listener.{position}")
}

/// A filter of a listener: what it changes about a request decides which route is taken. Host and scheme it cannot change,
/// as Envoy's own rules have it; they would lead past the listener that the client chose.
pub(super) fn listener_filter(name: &str) -> ExtAuthz {
    let by_listener = RegexMatcher { regex: header::LISTENER.to_owned(), engine_type: None };
    let rules = HeaderMutationRules { disallow_expression: Some(by_listener), ..Default::default() };
    ExtAuthz { clear_route_cache: true, decoder_header_mutation_rules: Some(rules), ..filter(name) }
}

/// Nobody is asked here.
pub(super) fn nobody() -> ExtAuthzPerRoute {
    ExtAuthzPerRoute { r#override: Some(ext_authz_per_route::Override::Disabled(true)) }
}

fn http(cluster: &str) -> HttpService {
    HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{HOST}"),
            timeout: value::seconds(TIMEOUT_SECONDS),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.to_owned())),
        }),
        ..Default::default()
    }
}

/// What a route asks of whom.
pub(super) fn lower(auth: &ExternalAuth) -> ExtAuthzPerRoute {
    let service = match &auth.protocol {
        AuthProtocol::Grpc => check_settings::ServiceOverride::GrpcService(GrpcService {
            timeout: value::seconds(TIMEOUT_SECONDS),
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: auth.cluster.clone(),
                // Envoy would send the cluster's name, which is none for a host: strict servers end the stream.
                authority: HOST.into(),
                ..Default::default()
            })),
            ..Default::default()
        }),
        AuthProtocol::Http { prefix, request_headers, response_headers } => {
            let response = names(response_headers.iter().map(String::as_str));
            check_settings::ServiceOverride::HttpService(HttpService {
                path_prefix: prefix.clone(),
                authorization_request: (!request_headers.is_empty()).then(|| shown(request_headers)),
                authorization_response: Some(AuthorizationResponse {
                    allowed_upstream_headers: Some(if response_headers.is_empty() {
                        all_but(&NOT_COPIED)
                    } else {
                        response
                    }),
                    ..Default::default()
                }),
                ..http(&auth.cluster)
            })
        }
    };
    let with_request_body = auth.body.map(|max_request_bytes| BufferSettings {
        max_request_bytes,
        // Bodies are bytes; as text, gRPC refuses those that are not UTF-8.
        pack_as_bytes: true,
        ..Default::default()
    });
    ExtAuthzPerRoute {
        r#override: Some(ext_authz_per_route::Override::CheckSettings(CheckSettings {
            with_request_body,
            service_override: Some(service),
            ..Default::default()
        })),
    }
}

/// Headers of the request by their names; one that it does not have is not sent.
fn shown(headers: &[String]) -> AuthorizationRequest {
    let shown = |name: &String| HeaderValue {
        key: name.clone(),
        value: format!("%REQ({name})%"),
        ..Default::default()
    };
    AuthorizationRequest { headers_to_add: headers.iter().map(shown).collect(), ..Default::default() }
}

fn names<'n>(names: impl IntoIterator<Item = &'n str>) -> ListStringMatcher {
    ListStringMatcher { patterns: names.into_iter().map(route::exact).collect() }
}

/// Matches every header name but these, and no pseudo header.
fn all_but(names: &[&str]) -> ListStringMatcher {
    let mut regex = String::new();
    other_than(names, true, &mut regex);
    let matcher = RegexMatcher { regex, engine_type: None };
    let match_pattern = Some(string_matcher::MatchPattern::SafeRegex(matcher));
    ListStringMatcher { patterns: vec![StringMatcher { match_pattern, ..Default::default() }] }
}

/// A regular expression for every text but these, which RE2 has no operator for: the text leaves their tree of letters
/// somewhere, or ends before a word does. At the top it neither is empty nor starts with a colon.
fn other_than(words: &[&str], top: bool, out: &mut String) {
    let mut firsts: Vec<char> = words.iter().filter_map(|word| word.chars().next()).collect();
    firsts.sort_unstable();
    firsts.dedup();
    out.push_str("(?:");
    if !top && words.iter().all(|word| !word.is_empty()) {
        out.push('|');
    }
    out.push_str("[^");
    if top {
        out.push(':');
    }
    for first in firsts.iter().filter(|first| **first != '-') {
        out.push(*first);
    }
    // A hyphen between others would be a range.
    if firsts.contains(&'-') {
        out.push('-');
    }
    if firsts.is_empty() && !top {
        // Behind a whole word anything may follow.
        out.truncate(out.len() - 2);
        out.push_str(".+");
    } else {
        out.push_str("].*");
    }
    for first in firsts {
        let rests: Vec<&str> = words.iter().filter_map(|word| word.strip_prefix(first)).collect();
        let _ = write!(out, "|{first}");
        other_than(&rests, false, out);
    }
    out.push(')');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_some_names() {
        let mut text = String::new();
        other_than(&NOT_COPIED, true, &mut text);
        let regex = regex::Regex::new(&format!("^{text}$")).unwrap();
        for name in NOT_COPIED {
            assert!(!regex.is_match(name), "{name}");
        }
        for name in [":status", ""] {
            assert!(!regex.is_match(name), "{name}");
        }
        for name in [
            "x-user",
            "authorization",
            "content-type",
            "content-lengt",
            "content-lengths",
            "hos",
            "hosts",
            "c",
            "connection-",
            "x-envoy",
            "upgrade-insecure-requests",
            "keep",
            "keep-alive2",
            "set-cookie",
        ] {
            assert!(regex.is_match(name), "{name}");
        }
    }
}
