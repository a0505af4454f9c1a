//! Services, Namespaces and ReferenceGrants.

use super::Metadata;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct Service {
    #[serde(default)]
    pub(in crate::attach) spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct ServiceSpec {
    #[serde(rename = "type")]
    pub(in crate::attach) kind: Option<String>,
    #[serde(default)]
    pub(in crate::attach) ports: Vec<ServicePort>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct ServicePort {
    #[serde(default)]
    pub(in crate::attach) name: String,
    pub(in crate::attach) port: u16,
    pub(in crate::attach) protocol: Option<String>,
    pub(in crate::attach) app_protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct Namespace {
    pub(in crate::attach) metadata: Metadata,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct ReferenceGrant {
    pub(in crate::attach) spec: ReferenceGrantSpec,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct ReferenceGrantSpec {
    pub(in crate::attach) from: Vec<GrantFrom>,
    pub(in crate::attach) to: Vec<GrantTo>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct GrantFrom {
    #[serde(default)]
    pub(in crate::attach) group: String,
    pub(in crate::attach) kind: String,
    pub(in crate::attach) namespace: String,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct GrantTo {
    #[serde(default)]
    pub(in crate::attach) group: String,
    pub(in crate::attach) kind: String,
    pub(in crate::attach) name: Option<String>,
}
