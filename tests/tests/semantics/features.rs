//! The extended features of HTTPRoute in Gateway API v1.7, one by one: what a rule asks for, and what Envoy is told.

use super::{compiled, fine, gateway, route, service};
use moorgate::xds;
use moorgate_snapshot::FleetName;
use serde_json::{Value, json};

/// The first route of a rule, as Envoy's own JSON.
fn lowered(rules: &str) -> Value {
    let spec = "parentRefs: [{name: edge}]\n  hostnames: [shop.example.com]";
    let compilation = fine(&[
        gateway("{name: http, port: 80, protocol: HTTP}", ""),
        service("shop", "web"),
        route("HTTPRoute", "name: shop, namespace: shop", spec, rules),
    ]);
    let fleet = &compilation.fleets[&FleetName::gateway("shop", "edge")];
    let resources = xds::json::resources(fleet.snapshot.records()).unwrap();
    let hosts = resources["routes"][0]["virtual_hosts"].as_array().unwrap();
    let host = hosts.iter().find(|host| host["name"] == "shop.example.com").unwrap();
    host["routes"][0].clone()
}

fn filter(filter: &str) -> String {
    format!(
        "[{{matches: [{{path: {{value: /a}}}}], filters: [{{{filter}}}], backendRefs: [{{name: web, port: 80}}]}}]"
    )
}

fn redirect(text: &str) -> String {
    format!(
        "[{{matches: [{{path: {{value: /a}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{text}}}}}]}}]"
    )
}

fn field(text: &str) -> String {
    format!("[{{backendRefs: [{{name: web, port: 80}}], {text}}}]")
}

fn mirror(share: &str) -> String {
    filter(&format!("type: RequestMirror, requestMirror: {{backendRef: {{name: web, port: 80}}{share}}}"))
}

/// Feature, rule, place in the route, value there; `null` is nothing.
#[allow(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<(&'static str, String, &'static str, Value)> {
    let matched = |text: &str| format!("[{{matches: [{{{text}}}], backendRefs: [{{name: web, port: 80}}]}}]");
    let path = |kind: &str, value: &str| {
        format!("type: URLRewrite, urlRewrite: {{path: {{type: {kind}, {value}}}}}")
    };
    let backend = |text: &str| {
        format!(
            "[{{matches: [{{path: {{value: /a}}}}], backendRefs: [{{name: web, port: 80, filters: [{{{text}}}]}}]}}]"
        )
    };
    let fraction = "/route/request_mirror_policies/0/runtime_fraction/default_value";
    vec![
        (
            "QueryParamMatching",
            matched("queryParams: [{name: A, value: b}]"),
            "/match/query_parameters/0/name",
            json!("A"),
        ),
        ("MethodMatching", matched("method: PATCH"), "/match/headers/0/string_match/exact", json!("PATCH")),
        ("PortRedirect", redirect("port: 8443"), "/redirect/port_redirect", json!(8443)),
        ("SchemeRedirect", redirect("scheme: https"), "/redirect/scheme_redirect", json!("https")),
        (
            "PathRedirect",
            redirect("path: {type: ReplaceFullPath, replaceFullPath: /b}"),
            "/redirect/path_redirect",
            json!("/b"),
        ),
        (
            "PathRedirect",
            redirect("path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}"),
            "/redirect/prefix_rewrite",
            json!("/b"),
        ),
        ("303RedirectStatusCode", redirect("statusCode: 303"), "/redirect/response_code", json!("SEE_OTHER")),
        (
            "307RedirectStatusCode",
            redirect("statusCode: 307"),
            "/redirect/response_code",
            json!("TEMPORARY_REDIRECT"),
        ),
        (
            "308RedirectStatusCode",
            redirect("statusCode: 308"),
            "/redirect/response_code",
            json!("PERMANENT_REDIRECT"),
        ),
        (
            "HostRewrite",
            filter("type: URLRewrite, urlRewrite: {hostname: b.example}"),
            "/route/host_rewrite_literal",
            json!("b.example"),
        ),
        (
            "PathRewrite",
            filter(&path("ReplacePrefixMatch", "replacePrefixMatch: /b")),
            "/route/prefix_rewrite",
            json!("/b"),
        ),
        (
            "PathRewrite",
            filter(&path("ReplaceFullPath", "replaceFullPath: /b")),
            "/route/regex_rewrite/substitution",
            json!("/b"),
        ),
        ("RequestMirror", mirror(""), "/route/request_mirror_policies/0/cluster", json!("shop/web/80")),
        ("RequestMirror", mirror(""), fraction, Value::Null),
        ("RequestPercentageMirror", mirror(", percent: 20"), fraction, json!({"numerator": 20})),
        ("RequestPercentageMirror", mirror(", percent: 0"), "/route/request_mirror_policies", Value::Null),
        (
            "RequestPercentageMirror",
            mirror(", fraction: {numerator: 1, denominator: 1000}"),
            fraction,
            json!({"denominator": "TEN_THOUSAND", "numerator": 10}),
        ),
        (
            "ResponseHeaderModification",
            filter("type: ResponseHeaderModifier, responseHeaderModifier: {remove: [X-A]}"),
            "/response_headers_to_remove/0",
            json!("x-a"),
        ),
        ("RequestTimeout", field("timeouts: {request: 500ms}"), "/route/timeout", json!("0.500s")),
        ("RequestTimeout", field("timeouts: {request: 0s}"), "/route/timeout", json!("0s")),
        (
            "BackendTimeout",
            field("timeouts: {backendRequest: 500ms}"),
            "/route/retry_policy/per_try_timeout",
            json!("0.500s"),
        ),
        ("BackendTimeout", field("timeouts: {backendRequest: 0s}"), "/route/retry_policy", Value::Null),
        (
            "RetryCodes",
            field("retry: {codes: [500, 503], attempts: 3}"),
            "/route/retry_policy/retriable_status_codes",
            json!([500, 503]),
        ),
        ("RetryCodes", field("retry: {codes: [500]}"), "/route/retry_policy/num_retries", json!(1)),
        ("RetryCodes", field("retry: {codes: [500], attempts: 0}"), "/route/retry_policy", Value::Null),
        (
            "RetryConnectionError",
            field("retry: {attempts: 100}"),
            "/route/retry_policy/num_retries",
            json!(100),
        ),
        (
            "RetryConnectionError",
            field("retry: {attempts: 100}"),
            "/route/retry_policy/retry_on",
            json!("connect-failure,refused-stream,unavailable,reset-before-request"),
        ),
        (
            "RetryCodes with BackendTimeout",
            field("retry: {codes: [500], attempts: 3}, timeouts: {request: 15s, backendRequest: 500ms}"),
            "/route/retry_policy/per_try_timeout",
            json!("0.500s"),
        ),
        (
            "BackendRequestHeaderModification",
            backend("type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: b}]}"),
            "/route/weighted_clusters/clusters/0/request_headers_to_add/0/header/key",
            json!("x-a"),
        ),
        (
            "BackendURLRewrite",
            backend(&path("ReplaceFullPath", "replaceFullPath: /b")),
            "/route/regex_rewrite/substitution",
            json!("/b"),
        ),
        (
            "BackendURLRewrite",
            backend(&path("ReplacePrefixMatch", "replacePrefixMatch: /b")),
            "/route/prefix_rewrite",
            json!("/b"),
        ),
        ("NamedRouteRule", field("name: first"), "/name", json!("httproute/shop/shop/first")),
    ]
}

#[test]
fn each_feature_reaches_envoy() {
    for (feature, rules, place, expected) in table() {
        let route = lowered(&rules);
        assert_eq!(*route.pointer(place).unwrap_or(&Value::Null), expected, "{feature}: {rules}\n{route}");
    }
}

#[test]
fn rules_with_equal_matches_keep_their_order() {
    // Lists of headers are sets, and a rule without a usable backend still stands before the next.
    let rule = |headers: &str, backend: &str| {
        format!("{{matches: [{{headers: [{headers}]}}], backendRefs: [{{name: {backend}, port: 80}}]}}")
    };
    let (ab, ba) =
        ("{name: a, value: '1'}, {name: b, value: '2'}", "{name: b, value: '2'}, {name: a, value: '1'}");
    let answers = |rules: &str| {
        let compilation = compiled(&[
            gateway("{name: http, port: 80, protocol: HTTP}", ""),
            service("shop", "web"),
            route("HTTPRoute", "name: shop, namespace: shop", "parentRefs: [{name: edge}]", rules),
        ]);
        let tables = compilation.fleets[&FleetName::gateway("shop", "edge")].ir.tables();
        let hosts = tables.values().flat_map(|table| &table.hosts).flat_map(|host| &host.routes);
        hosts.map(|route| (route.origin.rule, route.clusters().count())).collect::<Vec<_>>()
    };
    assert_eq!(answers(&format!("[{}, {}]", rule(ab, "web"), rule(ba, "web"))), [(0, 1), (1, 1)]);
    assert_eq!(answers(&format!("[{}, {}]", rule(ab, "gone"), rule(ba, "web"))), [(0, 0), (1, 1)]);
}
