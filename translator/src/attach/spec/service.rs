//! Services, Namespaces and ReferenceGrants.

use super::Metadata;
use serde::Deserialize;
use std::collections::BTreeMap;

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
    #[serde(default)]
    pub(in crate::attach) selector: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct ServicePort {
    #[serde(default)]
    pub(in crate::attach) name: String,
    pub(in crate::attach) port: u16,
    pub(in crate::attach) protocol: Option<String>,
    pub(in crate::attach) app_protocol: Option<String>,
    pub(in crate::attach) target_port: Option<TargetPort>,
}

/// The port of the pods: its number, or the name that a container gives it.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(in crate::attach) enum TargetPort {
    Number(u16),
    Name(String),
}

impl ServicePort {
    /// What carries it, as Kubernetes writes it.
    pub(in crate::attach) fn transport(&self) -> &str {
        self.protocol.as_deref().unwrap_or("TCP")
    }

    /// The number of the pods' port, if it is written; pods may give one name to different numbers.
    pub(in crate::attach) fn target(&self) -> Option<u16> {
        match &self.target_port {
            None => Some(self.port),
            Some(TargetPort::Number(number)) => Some(*number),
            Some(TargetPort::Name(name)) => name.parse().ok(),
        }
    }
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
