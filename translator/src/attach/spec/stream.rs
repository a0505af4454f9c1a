//! TLSRoute, TCPRoute and UDPRoute.

use super::{BackendRef, Metadata, ParentRef};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(in crate::attach) struct TlsRoute(pub(in crate::attach) StreamRoute);

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(in crate::attach) struct TcpRoute(pub(in crate::attach) StreamRoute);

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(in crate::attach) struct UdpRoute(pub(in crate::attach) StreamRoute);

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct StreamRoute {
    pub(in crate::attach) metadata: Metadata,
    pub(in crate::attach) spec: StreamRouteSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct StreamRouteSpec {
    #[serde(default)]
    pub(in crate::attach) parent_refs: Vec<ParentRef>,
    pub(in crate::attach) use_default_gateways: Option<String>,
    #[serde(default)]
    pub(in crate::attach) hostnames: Vec<String>,
    #[serde(default)]
    pub(in crate::attach) rules: Vec<StreamRule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct StreamRule {
    pub(in crate::attach) name: Option<String>,
    #[serde(default)]
    pub(in crate::attach) backend_refs: Vec<BackendRef>,
}
