//! A service that is asked whether a request may pass (SecurityPolicy `extAuth`).

use crate::lowering::{milliseconds, time};
use crate::{About, BackendRef, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService, HeaderValue, HttpUri};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, CheckSettings, ExtAuthz, ExtAuthzPerRoute,
    HttpService, check_settings, ext_authz, ext_authz_per_route,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{
    ListStringMatcher, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct ExtAuth;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    ext_auth: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    grpc: Option<Service>,
    http: Option<Service>,
    #[serde(default)]
    headers_to_ext_auth: Vec<String>,
    body_to_ext_auth: Option<Body>,
    timeout: Option<String>,
    fail_open: Option<bool>,
    recompute_route: Option<bool>,
    #[serde(default)]
    context_extensions: Vec<ContextExtension>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    backend_ref: Option<BackendRef>,
    #[serde(default)]
    backend_refs: Vec<BackendRef>,
    path: Option<String>,
    path_override: Option<String>,
    #[serde(default)]
    headers_to_backend: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    max_request_bytes: u32,
}

#[derive(Debug, Deserialize)]
struct ContextExtension {
    name: String,
    value: Option<String>,
}

/// Filters of their own beside those of HTTPRoute's ExternalAuth: a request that both concern asks both. Which headers a
/// service is shown is the filter's own matter: one shows what every service is shown, to which a route adds by name, and one,
/// for gRPC, all.
const HTTP: &str = "envoy.filters.http.ext_authz.policy";
const GRPC: &str = "envoy.filters.http.ext_authz.policy.grpc";
/// A cluster that is not there: a filter that no route tells whom to ask lets nothing pass.
const NOBODY: &str = "no-such-backend";
/// As what a service is addressed.
const HOST: &str = "authorization";
/// As the API says, a service that has not answered by then has not said yes.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Headers that frame a message, or that every service is shown.
const GIVEN: [&str; 6] =
    ["authorization", "connection", "content-length", "host", "transfer-encoding", "upgrade"];

impl Capability for ExtAuth {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "ext_auth",
        kind: Kind::Security,
        fields: &["extAuth"],
        except: &[
            "extAuth.grpc.backendSettings",
            "extAuth.http.backendSettings",
            "extAuth.includeRouteMetadata",
            "extAuth.statusOnError",
            "extAuth.contextExtensions.valueRef",
        ],
        since: "0.1.0",
        docs: "\
A service is asked whether a request may pass, over HTTP (status 200 means yes; path, pathOverride, headersToBackend) or over gRPC \
(envoy.service.auth.v3): one of backendRefs, headersToExtAuth (HTTP; over gRPC it sees all), bodyToExtAuth, timeout, \
contextExtensions with values. A service that does not answer lets nothing pass: failOpen is refused, as is recomputeRoute, \
because the route that is found then has filters that have run already.",
        effect: Effect::Filter {
            name: HTTP,
            place: place::EXTERNAL_AUTH,
            why: "the service may change what tokens and rights are read from",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.ext_auth else { return };
        let at = FieldPath::parse("spec.extAuth");
        for (field, said) in [("failOpen", rules.fail_open), ("recomputeRoute", rules.recompute_route)] {
            if said == Some(true) {
                cx.unsupported(at.key(field), "this cannot be switched on");
            }
        }
        let (name, service, key) = match (&rules.http, &rules.grpc) {
            (Some(service), None) => (HTTP, service, "http"),
            (None, Some(service)) => (GRPC, service, "grpc"),
            _ => return cx.invalid(at, "extAuth has either http or grpc"),
        };
        let grpc = name == GRPC;
        if grpc && !rules.headers_to_ext_auth.is_empty() {
            return cx.unsupported(at.key("headersToExtAuth"), "over gRPC a service is shown all headers");
        }
        for (list, names) in [
            ("headersToExtAuth", &rules.headers_to_ext_auth),
            ("headersToBackend", &service.headers_to_backend),
        ] {
            if !names.iter().all(|name| cx.header_name(at.key(list), name)) {
                return;
            }
        }
        for (field, path) in [("path", &service.path), ("pathOverride", &service.path_override)] {
            if path.as_ref().is_some_and(|path| !path.is_empty() && !path.starts_with('/')) {
                return cx.invalid(at.key(key).key(field), "a path begins with a slash");
            }
        }
        let Some(cluster) = backend(service, &at.key(key), grpc, cx) else { return };
        let timeout = time(cx, &at.key("timeout"), rules.timeout.as_deref()).unwrap_or(TIMEOUT);
        let asked = if grpc {
            check_settings::ServiceOverride::GrpcService(GrpcService {
                timeout: Some(milliseconds(timeout)),
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                    cluster_name: cluster,
                    authority: HOST.into(),
                    ..Default::default()
                })),
                ..Default::default()
            })
        } else {
            check_settings::ServiceOverride::HttpService(http(
                service,
                &rules.headers_to_ext_auth,
                &cluster,
                timeout,
            ))
        };
        let with_request_body = rules.body_to_ext_auth.as_ref().map(|body| BufferSettings {
            max_request_bytes: body.max_request_bytes,
            pack_as_bytes: grpc,
            ..Default::default()
        });
        let context = rules.context_extensions.iter();
        let context = context.map(|entry| (entry.name.clone(), entry.value.clone().unwrap_or_default()));
        let settings = CheckSettings {
            context_extensions: context.collect(),
            with_request_body,
            service_override: Some(asked),
            ..Default::default()
        };
        let own =
            ExtAuthzPerRoute { r#override: Some(ext_authz_per_route::Override::CheckSettings(settings)) };
        let off = ExtAuthzPerRoute { r#override: Some(ext_authz_per_route::Override::Disabled(true)) };
        cx.busy_filter((name, place::EXTERNAL_AUTH), &base(grpc), &own, &off);
    }
}

/// The one service that is asked.
fn backend(service: &Service, at: &FieldPath, grpc: bool, cx: &mut Lowering<'_>) -> Option<String> {
    match (&service.backend_ref, service.backend_refs.as_slice()) {
        (Some(one), []) => cx.backend(&at.key("backendRef"), one, grpc),
        (None, [one]) => cx.backend(&at.key("backendRefs").index(0), one, grpc),
        (_, [_, _, ..]) => {
            cx.unsupported(at.key("backendRefs").index(1), "one service is asked");
            None
        }
        _ => {
            cx.invalid(at.clone(), "there is no backend to ask");
            None
        }
    }
}

/// What stands on listeners: it asks nobody who is there.
fn base(grpc: bool) -> ExtAuthz {
    let every = MatchPattern::SafeRegex(RegexMatcher { regex: ".*".into(), engine_type: None });
    let every = StringMatcher { match_pattern: Some(every), ..Default::default() };
    ExtAuthz {
        transport_api_version: ApiVersion::V3.into(),
        services: Some(ext_authz::Services::HttpService(HttpService {
            server_uri: Some(uri(NOBODY, TIMEOUT)),
            ..Default::default()
        })),
        allowed_headers: grpc.then(|| ListStringMatcher { patterns: vec![every] }),
        // Which listener a request came by is Envoy's own matter.
        disallowed_headers: Some(names(["x-moorgate-listener"])),
        ..Default::default()
    }
}

fn uri(cluster: &str, timeout: Duration) -> HttpUri {
    HttpUri {
        uri: format!("http://{HOST}"),
        timeout: Some(milliseconds(timeout)),
        http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.to_owned())),
    }
}

fn http(service: &Service, shown: &[String], cluster: &str, timeout: Duration) -> HttpService {
    let shown = shown.iter().map(|name| name.to_ascii_lowercase());
    let shown = shown.filter(|name| !GIVEN.contains(&name.as_str())).map(|name| HeaderValue {
        value: format!("%REQ({name})%"),
        key: name,
        ..Default::default()
    });
    let headers_to_add: Vec<_> = shown.collect();
    HttpService {
        server_uri: Some(uri(cluster, timeout)),
        path_prefix: service.path.clone().unwrap_or_default(),
        path_override: service.path_override.clone().unwrap_or_default(),
        authorization_request: (!headers_to_add.is_empty())
            .then(|| AuthorizationRequest { headers_to_add, ..Default::default() }),
        authorization_response: (!service.headers_to_backend.is_empty()).then(|| AuthorizationResponse {
            allowed_upstream_headers: Some(names(service.headers_to_backend.iter().map(String::as_str))),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn names<'n>(names: impl IntoIterator<Item = &'n str>) -> ListStringMatcher {
    let exact = |name: &str| StringMatcher {
        match_pattern: Some(MatchPattern::Exact(name.to_ascii_lowercase())),
        ..Default::default()
    };
    ListStringMatcher { patterns: names.into_iter().map(exact).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    fn settings(spec: &str, name: &str) -> CheckSettings {
        let compiled = testing::compile(Kind::Security, spec);
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let own: ExtAuthzPerRoute = testing::filter(&compiled, "ext_auth", name);
        match own.r#override {
            Some(ext_authz_per_route::Override::CheckSettings(settings)) => settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_service_over_http() {
        let found = settings(
            r#"{"extAuth": {"http": {"backendRefs": [{"name": "auth", "port": 80}], "path": "/check", "headersToBackend": ["X-User"]},
                "headersToExtAuth": ["X-Token", "Authorization"], "timeout": "2s", "bodyToExtAuth": {"maxRequestBytes": 10}}}"#,
            HTTP,
        );
        let Some(check_settings::ServiceOverride::HttpService(service)) = found.service_override else {
            panic!("HTTP")
        };
        let uri = service.server_uri.unwrap();
        assert_eq!(uri.http_upstream_type, Some(HttpUpstreamType::Cluster("shop/auth/80".into())));
        assert_eq!(
            (uri.timeout, service.path_prefix.as_str()),
            (Some(milliseconds(Duration::from_secs(2))), "/check")
        );
        let shown = service.authorization_request.unwrap().headers_to_add;
        assert_eq!(shown.iter().map(|header| header.key.as_str()).collect::<Vec<_>>(), ["x-token"]);
        assert_eq!(found.with_request_body.unwrap().max_request_bytes, 10);
    }

    #[test]
    fn a_service_over_grpc() {
        let found = settings(
            r#"{"extAuth": {"grpc": {"backendRef": {"name": "auth", "port": 9000}},
                "contextExtensions": [{"name": "a", "type": "Value", "value": "b"}]}}"#,
            GRPC,
        );
        let Some(check_settings::ServiceOverride::GrpcService(service)) = found.service_override else {
            panic!("gRPC")
        };
        let Some(TargetSpecifier::EnvoyGrpc(target)) = service.target_specifier else { panic!("by Envoy") };
        assert_eq!(target.cluster_name, "shop/auth/9000+h2");
        assert_eq!(found.context_extensions["a"], "b");
    }

    #[test]
    fn what_would_let_pass_closes() {
        let http = |more: &str| {
            format!(r#"{{"extAuth": {{"http": {{"backendRefs": [{{"name": "auth", "port": 80}}]}}{more}}}}}"#)
        };
        for (spec, said) in [
            (http(r#", "failOpen": true"#), "MG4105 spec.extAuth.failOpen"),
            (http(r#", "recomputeRoute": true"#), "MG4105 spec.extAuth.recomputeRoute"),
            (http(r#", "timeout": "x""#), "MG4002 spec.extAuth.timeout"),
            (http(r#", "headersToExtAuth": ["%a"]"#), "MG4002 spec.extAuth.headersToExtAuth"),
            (
                r#"{"extAuth": {"http": {"backendRefs": [{"name": "a"}], "path": "check"}}}"#.into(),
                "MG4002 spec.extAuth.http.path",
            ),
            (r#"{"extAuth": {}}"#.into(), "MG4002 spec.extAuth"),
            (
                r#"{"extAuth": {"http": {"backendRefs": [{"name": "gone"}]}}}"#.into(),
                "MG4002 spec.extAuth.http.backendRefs[0]",
            ),
            (
                r#"{"extAuth": {"grpc": {"backendRefs": [{"name": "a"}]}, "headersToExtAuth": ["x"]}}"#
                    .into(),
                "MG4105 spec.extAuth.headersToExtAuth",
            ),
        ] {
            let compiled = testing::compile(Kind::Security, &spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{spec}");
        }
    }
}
