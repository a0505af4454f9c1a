//! GatewayClass and Gateway.

use super::{ListenerFilters, Metadata};
use moorgate_model::Node;
use moorgate_model::node::decode;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct GatewayClass {
    pub(in crate::attach) metadata: Metadata,
    pub(in crate::attach) spec: GatewayClassSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct GatewayClassSpec {
    pub(in crate::attach) controller_name: String,
    pub(in crate::attach) parameters_ref: Option<ParametersRef>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct ParametersRef {
    pub(in crate::attach) group: String,
    pub(in crate::attach) kind: String,
    pub(in crate::attach) name: String,
    /// Classes have one; a Gateway's parameters lie in its own namespace.
    pub(in crate::attach) namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct Gateway {
    pub(in crate::attach) metadata: Metadata,
    pub(in crate::attach) spec: GatewaySpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct GatewaySpec {
    pub(in crate::attach) gateway_class_name: String,
    pub(in crate::attach) listeners: Vec<Listener>,
    #[serde(default)]
    pub(in crate::attach) addresses: Vec<Address>,
    pub(in crate::attach) infrastructure: Option<Infrastructure>,
    pub(in crate::attach) tls: Option<GatewayTls>,
    pub(in crate::attach) allowed_listeners: Option<AllowedListeners>,
    pub(in crate::attach) default_scope: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct Address {
    #[serde(rename = "type")]
    pub(in crate::attach) kind: Option<String>,
    #[serde(default)]
    pub(in crate::attach) routability: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct Infrastructure {
    pub(in crate::attach) parameters_ref: Option<ParametersRef>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct GatewayTls {
    pub(in crate::attach) backend: Option<BackendClientTls>,
    pub(in crate::attach) frontend: Option<FrontendTls>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct BackendClientTls {
    pub(in crate::attach) client_certificate_ref: Option<CertificateRef>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct FrontendTls {
    pub(in crate::attach) default: Option<PortTls>,
    #[serde(default)]
    pub(in crate::attach) per_port: Vec<PerPortTls>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct PerPortTls {
    pub(in crate::attach) port: u16,
    pub(in crate::attach) tls: PortTls,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct PortTls {
    pub(in crate::attach) validation: Option<FrontendValidation>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct FrontendValidation {
    #[serde(default)]
    pub(in crate::attach) ca_certificate_refs: Vec<CaRef>,
    pub(in crate::attach) mode: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct CaRef {
    #[serde(default)]
    pub(in crate::attach) group: String,
    pub(in crate::attach) kind: String,
    pub(in crate::attach) name: String,
    pub(in crate::attach) namespace: Option<String>,
}

/// Which ListenerSets may attach; by default none.
#[derive(Debug, Deserialize)]
pub(in crate::attach) struct AllowedListeners {
    pub(in crate::attach) namespaces: Option<ListenerNamespaces>,
}

#[derive(Debug, Deserialize)]
pub(in crate::attach) struct ListenerNamespaces {
    pub(in crate::attach) from: Option<From>,
    #[serde(default)]
    pub(in crate::attach) selector: LabelSelector,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct Listener {
    pub(in crate::attach) name: String,
    #[serde(default)]
    pub(in crate::attach) hostname: String,
    pub(in crate::attach) port: u16,
    pub(in crate::attach) protocol: String,
    pub(in crate::attach) tls: Option<ListenerTls>,
    #[serde(default)]
    pub(in crate::attach) allowed_routes: AllowedRoutes,
    pub(in crate::attach) filters: Option<ListenerFilters>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct ListenerTls {
    pub(in crate::attach) mode: Option<String>,
    #[serde(default)]
    pub(in crate::attach) certificate_refs: Vec<CertificateRef>,
    #[serde(default)]
    pub(in crate::attach) options: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(in crate::attach) struct CertificateRef {
    #[serde(default)]
    pub(in crate::attach) group: String,
    #[serde(default = "secret")]
    pub(in crate::attach) kind: String,
    pub(in crate::attach) name: String,
    pub(in crate::attach) namespace: Option<String>,
}

fn secret() -> String {
    "Secret".into()
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::attach) struct AllowedRoutes {
    #[serde(default)]
    pub(in crate::attach) namespaces: NamespacesFrom,
    #[serde(default)]
    pub(in crate::attach) kinds: Vec<RouteKind>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::attach) struct NamespacesFrom {
    #[serde(default)]
    pub(in crate::attach) from: From,
    #[serde(default)]
    pub(in crate::attach) selector: LabelSelector,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(in crate::attach) enum From {
    All,
    #[default]
    Same,
    Selector,
    None,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::attach) struct LabelSelector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Requirement>,
}

#[derive(Debug, Clone, Deserialize)]
struct Requirement {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

impl LabelSelector {
    /// Why a selector cannot be read, if so.
    pub(in crate::attach) fn wrong(node: &Node) -> Option<String> {
        let selector = match decode::<Self>(node) {
            Ok(selector) => selector,
            Err(error) => return Some(error.message),
        };
        let wrong = |requirement: &Requirement| match requirement.operator.as_str() {
            "In" | "NotIn" if requirement.values.is_empty() => {
                Some(format!("{} of {} needs values", requirement.operator, requirement.key))
            }
            "Exists" | "DoesNotExist" if !requirement.values.is_empty() => {
                Some(format!("{} of {} has no values", requirement.operator, requirement.key))
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => None,
            other => Some(format!("{other:?} is no operator: In, NotIn, Exists, DoesNotExist")),
        };
        selector.match_expressions.iter().find_map(wrong)
    }

    /// Kubernetes label selector semantics; an unknown operator selects nothing.
    pub(in crate::attach) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal
            && self.match_expressions.iter().all(|requirement| {
                let value = labels.get(&requirement.key);
                let listed = value.is_some_and(|value| requirement.values.contains(value));
                match requirement.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(in crate::attach) struct RouteKind {
    #[serde(default = "gateway_group")]
    pub(in crate::attach) group: String,
    pub(in crate::attach) kind: String,
}

fn gateway_group() -> String {
    crate::attach::GATEWAY_GROUP.into()
}
