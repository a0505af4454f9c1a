//! HTTPRoute and GRPCRoute, which differ in how they match only.

use super::Metadata;
use crate::attach::GATEWAY_GROUP;
use crate::status::ParentReference;
use moorgate_policies::SessionPersistence;
use serde::Deserialize;

pub(in crate::attach) type HttpRoute = RuleRoute<RouteMatch>;
pub(in crate::attach) type GrpcRoute = RuleRoute<GrpcRouteMatch>;

/// A route with rules, which match by `M`.
#[derive(Debug, Deserialize)]
pub(in crate::attach) struct RuleRoute<M: Default> {
    pub(in crate::attach) metadata: Metadata,
    pub(in crate::attach) spec: RuleRouteSpec<M>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct RuleRouteSpec<M: Default> {
    #[serde(default)]
    pub(in crate::attach) parent_refs: Vec<ParentRef>,
    #[serde(default)]
    pub(in crate::attach) hostnames: Vec<String>,
    #[serde(default)]
    pub(in crate::attach) rules: Vec<RouteRule<M>>,
    pub(in crate::attach) use_default_gateways: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct ParentRef {
    #[serde(default)]
    pub(in crate::attach) group: Option<String>,
    #[serde(default)]
    pub(in crate::attach) kind: Option<String>,
    pub(in crate::attach) namespace: Option<String>,
    pub(in crate::attach) name: String,
    pub(in crate::attach) section_name: Option<String>,
    pub(in crate::attach) port: Option<u16>,
}

impl From<&ParentRef> for ParentReference {
    fn from(parent: &ParentRef) -> Self {
        Self {
            group: parent.group.clone().unwrap_or_else(|| GATEWAY_GROUP.into()),
            kind: parent.kind.clone().unwrap_or_else(|| "Gateway".into()),
            namespace: parent.namespace.clone(),
            name: parent.name.clone(),
            section_name: parent.section_name.clone(),
            port: parent.port,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct RouteRule<M> {
    pub(in crate::attach) name: Option<String>,
    #[serde(default)]
    pub(in crate::attach) matches: Vec<M>,
    #[serde(default)]
    pub(in crate::attach) filters: Vec<Filter>,
    #[serde(default)]
    pub(in crate::attach) backend_refs: Vec<BackendRef>,
    pub(in crate::attach) timeouts: Option<Timeouts>,
    pub(in crate::attach) retry: Option<Retry>,
    pub(in crate::attach) session_persistence: Option<SessionPersistence>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct RouteMatch {
    pub(in crate::attach) path: Option<PathMatcher>,
    #[serde(default)]
    pub(in crate::attach) headers: Vec<Matcher>,
    #[serde(default)]
    pub(in crate::attach) query_params: Vec<Matcher>,
    pub(in crate::attach) method: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
pub(in crate::attach) struct GrpcRouteMatch {
    pub(in crate::attach) method: Option<GrpcMethodMatcher>,
    #[serde(default)]
    pub(in crate::attach) headers: Vec<Matcher>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct GrpcMethodMatcher {
    #[serde(rename = "type")]
    pub(in crate::attach) kind: Option<String>,
    pub(in crate::attach) service: Option<String>,
    pub(in crate::attach) method: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct PathMatcher {
    #[serde(rename = "type")]
    pub(in crate::attach) kind: Option<String>,
    pub(in crate::attach) value: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct Matcher {
    #[serde(rename = "type")]
    pub(in crate::attach) kind: Option<String>,
    pub(in crate::attach) name: String,
    pub(in crate::attach) value: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct Filter {
    #[serde(rename = "type")]
    pub(in crate::attach) kind: String,
    pub(in crate::attach) request_header_modifier: Option<HeaderFilter>,
    pub(in crate::attach) response_header_modifier: Option<HeaderFilter>,
    pub(in crate::attach) request_mirror: Option<MirrorFilter>,
    pub(in crate::attach) request_redirect: Option<RedirectFilter>,
    pub(in crate::attach) url_rewrite: Option<RewriteFilter>,
    pub(in crate::attach) cors: Option<CorsFilter>,
    pub(in crate::attach) external_auth: Option<ExternalAuthFilter>,
    pub(in crate::attach) extension_ref: Option<ExtensionRef>,
}

/// An object of the route's own namespace.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::attach) struct ExtensionRef {
    #[serde(default)]
    pub(in crate::attach) group: String,
    pub(in crate::attach) kind: String,
    pub(in crate::attach) name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct ExternalAuthFilter {
    pub(in crate::attach) protocol: String,
    pub(in crate::attach) backend_ref: BackendRef,
    pub(in crate::attach) grpc: Option<GrpcAuth>,
    pub(in crate::attach) http: Option<HttpAuth>,
    pub(in crate::attach) forward_body: Option<ForwardBody>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct GrpcAuth {
    #[serde(default)]
    pub(in crate::attach) allowed_headers: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct HttpAuth {
    pub(in crate::attach) path: Option<String>,
    #[serde(default)]
    pub(in crate::attach) allowed_headers: Vec<String>,
    #[serde(default)]
    pub(in crate::attach) allowed_response_headers: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct ForwardBody {
    #[serde(default)]
    pub(in crate::attach) max_size: u32,
}

#[derive(Debug, Clone, Deserialize)]
pub(in crate::attach) struct HeaderFilter {
    #[serde(default)]
    pub(in crate::attach) set: Vec<Header>,
    #[serde(default)]
    pub(in crate::attach) add: Vec<Header>,
    #[serde(default)]
    pub(in crate::attach) remove: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(in crate::attach) struct Header {
    pub(in crate::attach) name: String,
    pub(in crate::attach) value: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct MirrorFilter {
    pub(in crate::attach) backend_ref: BackendRef,
    pub(in crate::attach) percent: Option<u32>,
    pub(in crate::attach) fraction: Option<Fraction>,
}

#[derive(Debug, Clone, Deserialize)]
pub(in crate::attach) struct Fraction {
    pub(in crate::attach) numerator: u32,
    #[serde(default = "hundred")]
    pub(in crate::attach) denominator: u32,
}

fn hundred() -> u32 {
    100
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct RedirectFilter {
    pub(in crate::attach) scheme: Option<String>,
    pub(in crate::attach) hostname: Option<String>,
    pub(in crate::attach) path: Option<PathModifier>,
    pub(in crate::attach) port: Option<u16>,
    pub(in crate::attach) status_code: Option<u16>,
}

#[derive(Debug, Clone, Deserialize)]
pub(in crate::attach) struct RewriteFilter {
    pub(in crate::attach) hostname: Option<String>,
    pub(in crate::attach) path: Option<PathModifier>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct PathModifier {
    pub(in crate::attach) replace_full_path: Option<String>,
    pub(in crate::attach) replace_prefix_match: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct CorsFilter {
    #[serde(default)]
    pub(in crate::attach) allow_origins: Vec<String>,
    #[serde(default)]
    pub(in crate::attach) allow_methods: Vec<String>,
    #[serde(default)]
    pub(in crate::attach) allow_headers: Vec<String>,
    #[serde(default)]
    pub(in crate::attach) expose_headers: Vec<String>,
    #[serde(default)]
    pub(in crate::attach) allow_credentials: bool,
    pub(in crate::attach) max_age: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
pub(in crate::attach) struct BackendRef {
    #[serde(default)]
    pub(in crate::attach) group: String,
    #[serde(default = "service")]
    pub(in crate::attach) kind: String,
    pub(in crate::attach) name: String,
    pub(in crate::attach) namespace: Option<String>,
    pub(in crate::attach) port: Option<u16>,
    #[serde(default = "one")]
    pub(in crate::attach) weight: u32,
    #[serde(default)]
    pub(in crate::attach) filters: Vec<Filter>,
}

impl BackendRef {
    /// A backend without a weight or filters of its own.
    pub(in crate::attach) fn named(
        (group, kind): (&str, &str),
        namespace: Option<String>,
        name: &str,
        port: Option<u16>,
    ) -> Self {
        let (group, kind, name) = (group.to_owned(), kind.to_owned(), name.to_owned());
        Self { group, kind, name, namespace, port, weight: one(), filters: Vec::new() }
    }
}

fn service() -> String {
    "Service".into()
}

fn one() -> u32 {
    1
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct Timeouts {
    pub(in crate::attach) request: Option<String>,
    pub(in crate::attach) backend_request: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(in crate::attach) struct Retry {
    #[serde(default)]
    pub(in crate::attach) codes: Vec<u32>,
    pub(in crate::attach) attempts: Option<i64>,
    pub(in crate::attach) backoff: Option<String>,
}

/// Filters of a listener, which run before a route is looked for.
#[derive(Debug, Clone, Deserialize)]
pub(in crate::attach) struct ListenerFilters {
    #[serde(default)]
    pub(in crate::attach) requests: Vec<ListenerFilter>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct ListenerFilter {
    #[serde(rename = "type")]
    pub(in crate::attach) kind: String,
    pub(in crate::attach) external_auth: Option<ExternalAuthFilter>,
}
