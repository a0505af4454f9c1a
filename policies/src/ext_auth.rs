//! A service that is asked whether a request may pass (SecurityPolicy `extAuth`).

use crate::lowering::{Asked, LISTENER, Provider, digest, milliseconds, time};
use crate::{About, BackendRef, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutationRules;
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
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, StatusCode};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct ExtAuth;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    ext_auth: Option<Rules>,
    jwt: Option<Tokens>,
}

/// What the same policy does with tokens, later.
#[derive(Debug, Deserialize)]
struct Tokens {
    #[serde(default)]
    providers: Vec<TokenProvider>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TokenProvider {
    recompute_route: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
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
    include_route_metadata: Option<bool>,
    status_on_error: Option<i32>,
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
#[serde(rename_all = "camelCase")]
struct ContextExtension {
    name: String,
    value: Option<String>,
    value_ref: Option<ValueRef>,
}

#[derive(Debug, Deserialize)]
struct ValueRef {
    kind: String,
    name: String,
    key: String,
}

/// Filters of their own beside those of HTTPRoute's ExternalAuth: a request that both concern asks both. What a route cannot
/// say for itself is the filter's own matter: one over HTTP shows what every service is shown, to which a route adds by name,
/// and one over gRPC shows all headers. Who wants it otherwise gets a filter whose name tells what it does by a digest.
const HTTP: &str = "envoy.filters.http.ext_authz.policy";
const GRPC: &str = "envoy.filters.http.ext_authz.policy.grpc";
/// The header that Envoy shows to every service that is asked over HTTP, and so does a filter that could.
const CREDENTIALS: &str = "authorization";
/// A cluster that is not there: a filter that no route tells whom to ask lets nothing pass.
const NOBODY: &str = "no-such-backend";
/// Where a route says what it is, under the name that services know from Envoy Gateway.
pub(crate) const ROUTE: &str = "envoy-gateway";
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
        except: &[],
        since: "0.1.0",
        docs: "\
A service is asked whether a request may pass, over HTTP (status 200 means yes; path, pathOverride, headersToBackend) or over gRPC \
(envoy.service.auth.v3): backendRefs by their weights, reached as backendSettings say. headersToExtAuth are shown to it (HTTP: besides \
those that it always sees; gRPC: in place of all), bodyToExtAuth, contextExtensions (values, and those of a ConfigMap; a Secret is refused, \
because its value would lie in the snapshot), and by includeRouteMetadata kind, name, namespace and rule of the route. A service that has \
not answered within timeout lets nothing pass, and statusOnError says with which answer (403); with failOpen everything passes that it \
does not answer. A policy that cannot be carried out lets nothing pass, also with failOpen. With recomputeRoute the route is looked for \
again by the headers that the service gave (over gRPC it can then change neither path nor host); what the one that is found asks for before (csrf, extAuth) is not asked any more, so a route that \
could lead to one that asks for more is closed.",
        effect: Effect::Filter {
            name: HTTP,
            place: place::EXTERNAL_AUTH,
            why: "the service may change what tokens and rights are read from",
        },
    };

    const READS: &'static [&'static str] = &["jwt"];

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.ext_auth else { return };
        let at = FieldPath::parse("spec.extAuth");
        if rules.recompute_route == Some(true) {
            cx.recomputes(place::EXTERNAL_AUTH, &at.key("recomputeRoute"));
        }
        let (name, service, key) = match (&rules.http, &rules.grpc) {
            (Some(service), None) => (HTTP, service, "http"),
            (None, Some(service)) => (GRPC, service, "grpc"),
            _ => return cx.invalid(at, "extAuth has either http or grpc"),
        };
        let grpc = name == GRPC;
        if !is_sound(rules, service, &at.key(key), cx) {
            return;
        }
        let asked = Asked {
            one: service.backend_ref.as_ref(),
            several: &service.backend_refs,
            outside: None,
            named_by: "",
            http2: grpc,
        };
        let Some(provider) = cx.provider(&at.key(key), asked, "ext_auth") else { return };
        let timeout = time(cx, &at.key("timeout"), rules.timeout.as_deref());
        let timeout = timeout.or(provider.timeout).unwrap_or(TIMEOUT);
        let Some(context_extensions) = context(rules, &at.key("contextExtensions"), cx) else { return };
        let asked = if grpc {
            check_settings::ServiceOverride::GrpcService(self::grpc(provider, timeout))
        } else {
            let shown = &rules.headers_to_ext_auth;
            check_settings::ServiceOverride::HttpService(http(service, shown, provider, timeout))
        };
        let with_request_body = rules.body_to_ext_auth.as_ref().map(|body| BufferSettings {
            max_request_bytes: body.max_request_bytes,
            pack_as_bytes: grpc,
            ..Default::default()
        });
        let settings = CheckSettings {
            context_extensions: context_extensions.into_iter().collect(),
            with_request_body,
            service_override: Some(asked),
            ..Default::default()
        };
        if rules.include_route_metadata == Some(true) {
            cx.describe_route();
        }
        let own =
            ExtAuthzPerRoute { r#override: Some(ext_authz_per_route::Override::CheckSettings(settings)) };
        let off = ExtAuthzPerRoute { r#override: Some(ext_authz_per_route::Override::Disabled(true)) };
        let tokens = spec.jwt.iter().flat_map(|tokens| &tokens.providers);
        let (plain, mut base) = (base(grpc, &Rules::default()), base(grpc, rules));
        if grpc && (base.clear_route_cache || tokens.filter_map(|token| token.recompute_route).any(|it| it)) {
            base.decoder_header_mutation_rules = Some(mutations());
        }
        let name = if base == plain { name.to_owned() } else { format!("{name}.{}", digest(&base)) };
        cx.busy_filter((&name, place::EXTERNAL_AUTH), &base, &own, &off);
    }
}

/// Whether names, paths and codes are some that Envoy takes.
fn is_sound(rules: &Rules, service: &Service, at: &FieldPath, cx: &mut Lowering<'_>) -> bool {
    let above = FieldPath::parse("spec.extAuth");
    let shown = |name: &String| cx.header_name(above.key("headersToExtAuth"), name);
    if !rules.headers_to_ext_auth.iter().all(shown) {
        return false;
    }
    let taken = |name: &String| cx.foreign_header(at.key("headersToBackend"), name);
    if !service.headers_to_backend.iter().all(taken) {
        return false;
    }
    for (field, path) in [("path", &service.path), ("pathOverride", &service.path_override)] {
        if path.as_ref().is_some_and(|path| !path.is_empty() && !path.starts_with('/')) {
            cx.invalid(at.key(field), "a path begins with a slash");
            return false;
        }
    }
    let known = |code: i32| (400..600).contains(&code) && StatusCode::try_from(code).is_ok();
    if rules.status_on_error.is_some_and(|code| !known(code)) {
        cx.invalid(above.key("statusOnError"), "it is no status of an error that Envoy knows");
        return false;
    }
    true
}

/// What the service is told besides. The value of a Secret would lie in the snapshot, so it is not taken.
fn context(rules: &Rules, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<(String, String)>> {
    let mut out = Vec::new();
    for (index, entry) in rules.context_extensions.iter().enumerate() {
        let at = at.index(index).key("valueRef");
        let value = match &entry.value_ref {
            None => entry.value.clone().unwrap_or_default(),
            Some(reference) if reference.kind == "ConfigMap" => {
                cx.config_map_entry(&at.key("key"), &reference.name, &reference.key)?
            }
            Some(_) => {
                cx.unsupported(
                    at.key("kind"),
                    "the value of a Secret would lie in the snapshot: use a ConfigMap",
                );
                return None;
            }
        };
        out.push((entry.name.clone(), value));
    }
    Some(out)
}

/// What stands on listeners: it asks nobody who is there.
fn base(grpc: bool, rules: &Rules) -> ExtAuthz {
    let every = MatchPattern::SafeRegex(RegexMatcher { regex: ".*".into(), engine_type: None });
    let every = StringMatcher { match_pattern: Some(every), ..Default::default() };
    let shown = match rules.headers_to_ext_auth.as_slice() {
        [] => ListStringMatcher { patterns: vec![every] },
        shown => names(shown.iter().map(String::as_str)),
    };
    let listed = |name: &String| name.eq_ignore_ascii_case(CREDENTIALS);
    let unasked = (grpc && !rules.headers_to_ext_auth.is_empty())
        .then_some(CREDENTIALS)
        .filter(|_| !rules.headers_to_ext_auth.iter().any(listed));
    let described = rules.include_route_metadata == Some(true);
    ExtAuthz {
        transport_api_version: ApiVersion::V3.into(),
        services: Some(ext_authz::Services::HttpService(HttpService {
            server_uri: Some(uri(NOBODY, TIMEOUT)),
            ..Default::default()
        })),
        allowed_headers: grpc.then_some(shown),
        // Which listener a request came by is Envoy's own matter. To a list of those that are shown Envoy adds one by itself.
        disallowed_headers: Some(names([LISTENER].into_iter().chain(unasked))),
        failure_mode_allow: rules.fail_open == Some(true),
        clear_route_cache: rules.recompute_route == Some(true),
        status_on_error: rules.status_on_error.map(|code| HttpStatus { code }),
        route_metadata_context_namespaces: described.then(|| ROUTE.to_owned()).into_iter().collect(),
        ..Default::default()
    }
}

/// What a service over gRPC may change where the route is looked for again: headers. Host and method it cannot change by
/// Envoy's own rules; with the path, or as another listener's, a request would come past what others ask for.
fn mutations() -> HeaderMutationRules {
    HeaderMutationRules {
        disallow_system: Some(BoolValue { value: true }),
        disallow_expression: Some(RegexMatcher { regex: LISTENER.to_owned(), engine_type: None }),
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

fn grpc(provider: Provider, timeout: Duration) -> GrpcService {
    GrpcService {
        timeout: Some(milliseconds(timeout)),
        retry_policy: provider.retry,
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: provider.cluster,
            authority: HOST.into(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn http(service: &Service, shown: &[String], provider: Provider, timeout: Duration) -> HttpService {
    let shown = shown.iter().map(|name| name.to_ascii_lowercase());
    let shown = shown.filter(|name| !GIVEN.contains(&name.as_str())).map(|name| HeaderValue {
        value: format!("%REQ({name})%"),
        key: name,
        ..Default::default()
    });
    let headers_to_add: Vec<_> = shown.collect();
    HttpService {
        server_uri: Some(uri(&provider.cluster, timeout)),
        retry_policy: provider.retry,
        path_prefix: service.path.clone().unwrap_or_default(),
        path_override: service.path_override.clone().unwrap_or_default(),
        authorization_request: (!headers_to_add.is_empty())
            .then(|| AuthorizationRequest { headers_to_add, ..Default::default() }),
        authorization_response: (!service.headers_to_backend.is_empty()).then(|| AuthorizationResponse {
            allowed_upstream_headers: Some(names(service.headers_to_backend.iter().map(String::as_str))),
            ..Default::default()
        }),
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
    use prost::Message as _;

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
    fn who_wants_it_otherwise_gets_a_filter_of_its_own() {
        let names = |more: &str| {
            let spec = format!(r#"{{"extAuth": {{"grpc": {{"backendRefs": [{{"name": "a"}}]}}{more}}}}}"#);
            let compiled = testing::compile(Kind::Security, &spec);
            assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
            let part = &compiled.parts["ext_auth"];
            let [filter] = part.filters.as_slice() else { panic!("one filter") };
            let base = ExtAuthz::decode(filter.base.value.as_slice()).unwrap();
            (filter.name.clone(), base, part.describes)
        };
        let (plain, base, describes) = names("");
        assert_eq!((plain.as_str(), base.failure_mode_allow, describes), (GRPC, false, false));
        let (open, base, _) = names(r#", "failOpen": true"#);
        assert!(open.starts_with(&format!("{GRPC}.")) && base.failure_mode_allow, "{open}");
        let (again, base, _) = names(r#", "recomputeRoute": true"#);
        assert!(again.starts_with(&format!("{GRPC}.")) && base.clear_route_cache, "{again}");
        // It then leads nobody to another host, path or listener, nor does it where tokens lead to another route behind it.
        let rules = base.decoder_header_mutation_rules.unwrap();
        assert_eq!(
            (rules.disallow_system, rules.disallow_expression.map(|own| own.regex), rules.allow_all_routing),
            (Some(BoolValue { value: true }), Some(LISTENER.to_owned()), None)
        );
        let tokens = |more: &str| {
            let spec = format!(
                r#"{{"extAuth": {{"grpc": {{"backendRefs": [{{"name": "a"}}]}}}}, "jwt": {{"providers": [{{"name": "p",
                    "remoteJWKS": {{"uri": "https://a.example/k"}}{more}}}]}}}}"#
            );
            let filters = testing::compile(Kind::Security, &spec).parts["ext_auth"].filters.clone();
            ExtAuthz::decode(filters[0].base.value.as_slice()).unwrap().decoder_header_mutation_rules
        };
        assert!(tokens("").is_none() && tokens(r#", "recomputeRoute": true"#).is_some());
        let (late, base, _) = names(r#", "statusOnError": 503"#);
        assert!(late != open && base.status_on_error == Some(HttpStatus { code: 503 }));
        let (_, base, _) = names(r#", "headersToExtAuth": ["X-Token"]"#);
        assert_eq!(base.allowed_headers, Some(super::names(["x-token"])));
        let (_, base, describes) = names(r#", "includeRouteMetadata": true"#);
        assert!(describes && base.route_metadata_context_namespaces == [ROUTE]);
        let context = r#", "contextExtensions": [{"name": "a", "type": "ValueRef", "valueRef": {"group": "", "kind": "ConfigMap", "name": "here", "key": "jwks"}}]"#;
        assert_eq!(names(context).0, GRPC, "what a route says for itself needs none");
    }

    #[test]
    fn what_would_let_pass_closes() {
        let http = |more: &str| {
            format!(r#"{{"extAuth": {{"http": {{"backendRefs": [{{"name": "auth", "port": 80}}]}}{more}}}}}"#)
        };
        for (spec, said) in [
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
            (http(r#", "statusOnError": 200"#), "MG4002 spec.extAuth.statusOnError"),
            (
                http(
                    r#", "contextExtensions": [{"name": "a", "type": "ValueRef", "valueRef": {"group": "", "kind": "Secret", "name": "s", "key": "k"}}]"#,
                ),
                "MG4105 spec.extAuth.contextExtensions[0].valueRef.kind",
            ),
            (
                http(
                    r#", "contextExtensions": [{"name": "a", "type": "ValueRef", "valueRef": {"group": "", "kind": "ConfigMap", "name": "here", "key": "other"}}]"#,
                ),
                "MG4002 spec.extAuth.contextExtensions[0].valueRef.key",
            ),
        ] {
            let compiled = testing::compile(Kind::Security, &spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{spec}");
        }
    }
}
