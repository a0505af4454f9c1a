//! Targets of a policy (GEP-713, and Envoy Gateway's `targetRef`, `targetRefs` and `targetSelectors`).

use super::{gateway_object, held};
use crate::attach::grant::{From, To, permit};
use crate::attach::index::{Index, metadata};
use crate::attach::spec::LabelSelector;
use moorgate_model::node::decode;
use moorgate_model::{FieldPath, Node, Object, ObjectRef};
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

/// Its labels lie beside these, as in a selector of Kubernetes.
#[derive(Debug, Deserialize)]
struct TargetSelector {
    kind: String,
    namespaces: Option<Namespaces>,
}

#[derive(Debug, Deserialize)]
struct Namespaces {
    from: String,
    selector: Option<LabelSelector>,
}

/// Everything that a policy targets, existing or not; none if it does not say.
pub(super) fn targets(index: &Index<'_>, policy: &Object) -> Option<Vec<Target>> {
    let spec = decode::<Spec>(policy.root.get("spec")?).ok()?;
    if spec.one.is_none() && spec.many.is_empty() && spec.selectors.is_empty() {
        return None;
    }
    let all = all(index, policy).into_iter();
    Some(all.map(|((object, section), ..)| Target { object, section }).collect())
}

/// Everything that a policy names or selects, with the field that does, and whether it may be selected.
pub(super) fn all(index: &Index<'_>, policy: &Object) -> Vec<(held::Place, FieldPath, bool)> {
    let Some(node) = policy.root.get("spec") else { return Vec::new() };
    let Ok(spec) = decode::<Spec>(node) else { return Vec::new() };
    let at = FieldPath::root().key("spec");
    let namespace = &policy.reference.namespace;
    let single = spec.one.into_iter().map(|target| (target, at.key("targetRef")));
    let list = spec.many.into_iter().enumerate();
    let list = list.map(|(number, target)| (target, at.key("targetRefs").index(number)));
    let mut out: Vec<_> = single
        .chain(list)
        .map(|(target, field)| {
            ((gateway_object(&target.kind, namespace, &target.name), target.section_name), field, true)
        })
        .collect();
    let nodes = node.get("targetSelectors").and_then(Node::as_sequence).unwrap_or_default();
    for (number, (selector, node)) in spec.selectors.iter().zip(nodes).enumerate() {
        let Ok(labels) = decode::<LabelSelector>(node) else { continue };
        let field = at.key("targetSelectors").index(number);
        let selected = candidates(index, &selector.kind).filter(|object| {
            // Labels are read last: a namespace is cheap to compare.
            looks_at(index, policy, selector.namespaces.as_ref(), &object.reference.namespace)
                && labels.matches(&metadata(object).map(|metadata| metadata.labels).unwrap_or_default())
        });
        for object in selected {
            let reference = &object.reference;
            let from = From { group: &policy.reference.group, kind: &policy.reference.kind, namespace };
            let to = To {
                group: &reference.group,
                kind: &reference.kind,
                namespace: Some(&reference.namespace),
                name: &reference.name,
            };
            let permitted = permit(index, from, to).is_some();
            out.push(((reference.clone(), None), field.clone(), permitted));
        }
    }
    out
}

/// The objects of a kind that can be targets, in the order of names.
fn candidates<'a>(index: &Index<'a>, kind: &str) -> impl Iterator<Item = &'a Object> {
    let gateways: Vec<&'a Object> = index.gateways.values().map(|gateway| gateway.object).collect();
    let sets = index.listener_sets.values().map(|set| set.object);
    let all: Vec<&'a Object> = gateways.into_iter().chain(sets).chain(index.routes()).collect();
    let kind = kind.to_owned();
    all.into_iter().filter(move |object| *object.reference.kind == *kind)
}

/// Whether a selector looks into a namespace; by default into the policy's own.
fn looks_at(index: &Index<'_>, policy: &Object, namespaces: Option<&Namespaces>, namespace: &str) -> bool {
    match namespaces.map(|found| (found.from.as_str(), &found.selector)) {
        Some(("All", _)) => true,
        Some(("Selector", Some(selector))) => selector.matches(&index.namespace_labels(namespace)),
        _ => *namespace == *policy.reference.namespace,
    }
}
