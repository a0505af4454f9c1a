//! The fields of Gateway API and core objects that Moorgate acts on, decoded from trees whose defaults are applied.
//!
//! Only what has a meaning here stands here: `validate` has already refused what an API server would refuse, so a
//! field that is required there is plain here.

mod backend;
mod gateway;
mod listener_set;
mod route;
mod service;
mod stream;

pub(super) use backend::{EndpointSelector, XBackend};
pub(super) use gateway::{
    CaRef, CertificateRef, From, FrontendValidation, Gateway, GatewayClass, GatewaySpec, LabelSelector,
    Listener, NamespacesFrom, ParametersRef, PortTls,
};
pub(super) use listener_set::ListenerSet;
pub(super) use route::{
    BackendRef, CorsFilter, ExternalAuthFilter, Filter, Fraction, GrpcRoute, GrpcRouteMatch, HeaderFilter,
    HttpRoute, ListenerFilters, Matcher, ParentRef, PathModifier, RedirectFilter, RouteMatch, RouteRule,
    RuleRoute,
};
pub(super) use service::{Namespace, ReferenceGrant, Service, ServicePort};
pub(super) use stream::{StreamRoute, TcpRoute, TlsRoute, UdpRoute};

use serde::Deserialize;

/// The metadata that decides anything.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Metadata {
    /// RFC 3339 with second precision, as API servers write it: compares as text.
    #[serde(default, rename = "creationTimestamp")]
    pub(super) creation_timestamp: Option<String>,
    #[serde(default)]
    pub(super) generation: Option<i64>,
    #[serde(default)]
    pub(super) labels: std::collections::BTreeMap<String, String>,
}
