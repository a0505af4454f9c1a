//! XBackend (Gateway API v1.7, experimental).

use super::{CertificateRef, Metadata};
use moorgate_policies::{SessionPersistence, Validation};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct XBackend {
    pub(in crate::attach) metadata: Metadata,
    pub(in crate::attach) spec: XBackendSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct XBackendSpec {
    pub(in crate::attach) port: XBackendPort,
    pub(in crate::attach) external_hostname: Option<ExternalHostname>,
    pub(in crate::attach) endpoint_selector: Option<EndpointSelector>,
    pub(in crate::attach) protocol: Option<String>,
    pub(in crate::attach) tls: Option<XBackendTls>,
    pub(in crate::attach) session_persistence: Option<SessionPersistence>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct XBackendPort {
    #[serde(default)]
    pub(in crate::attach) number: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct EndpointSelector {
    #[serde(default)]
    pub(in crate::attach) match_labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct ExternalHostname {
    pub(in crate::attach) hostname: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct XBackendTls {
    pub(in crate::attach) mode: String,
    pub(in crate::attach) client_certificate_ref: Option<CertificateRef>,
    pub(in crate::attach) validation: Option<Validation>,
}
