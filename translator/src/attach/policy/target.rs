//! Targets of a policy (GEP-713, and Envoy Gateway's `targetRef`, `targetRefs` and `targetSelectors`).

use super::gateway_object;
use crate::attach::index::{Index, metadata};
use crate::attach::spec::LabelSelector;
use moorgate_model::node::decode;
use moorgate_model::{Node, Object, ObjectRef};
use serde::Deserialize;

/// An object or one section of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) object: ObjectRef,
    pub(super) section: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Spec {
    #[serde(rename = "targetRef")]
    one: Option<TargetRef>,
    #[serde(default, rename = "targetRefs")]
    many: Vec<TargetRef>,
    #[serde(default, rename = "targetSelectors")]
    selectors: Vec<TargetSelector>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TargetRef {
    kind: String,
    name: String,
    section_name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct TargetSelector {
    kind: String,
    #[serde(flatten)]
    selector: Selector,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: std::collections::BTreeMap<String, String>,
}

/// Everything that a policy targets, existing or not; none if it does not say.
pub(super) fn targets(index: &Index<'_>, policy: &Object) -> Option<Vec<Target>> {
    let spec = policy.root.get("spec").and_then(|node: &Node| decode::<Spec>(node).ok())?;
    if spec.one.is_none() && spec.many.is_empty() && spec.selectors.is_empty() {
        return None;
    }
    let namespace = &policy.reference.namespace;
    let named = spec.one.into_iter().chain(spec.many).map(|target| Target {
        object: gateway_object(&target.kind, namespace, &target.name),
        section: target.section_name,
    });
    let selected = spec.selectors.iter().flat_map(|selector| {
        let wanted = LabelSelector::of_labels(selector.selector.match_labels.clone());
        let gateways = index.gateways.values().map(|gateway| gateway.object);
        gateways.chain(index.routes()).filter_map(move |object| {
            let fits = *object.reference.kind == *selector.kind && object.reference.namespace == *namespace;
            let labels = fits.then(|| metadata(object)).flatten()?.labels;
            wanted.matches(&labels).then(|| Target { object: object.reference.clone(), section: None })
        })
    });
    Some(named.chain(selected).collect())
}
