//! Targets of a policy (GEP-713, and Envoy Gateway's `targetRef`, `targetRefs` and `targetSelectors`).

use super::{gateway_object, held};
use crate::attach::grant::{From, To, permit};
use crate::attach::index::{Index, metadata};
use crate::attach::spec::LabelSelector;
use moorgate_model::node::decode;
use moorgate_model::{FieldPath, Node, Object, ObjectRef};
use moorgate_policies::Kind;
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

/// A selector that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) field: FieldPath,
    pub(super) why: String,
    /// The kind that it selects; none if that is what cannot be read.
    pub(super) kind: Option<String>,
}

/// Everything that a policy targets and may target, existing or not; none if it does not say.
pub(super) fn targets(index: &Index<'_>, policy: &Object) -> Option<Vec<Target>> {
    let spec = decode::<Spec>(policy.root.get("spec")?).ok()?;
    if spec.one.is_none() && spec.many.is_empty() && spec.selectors.is_empty() {
        return None;
    }
    let all = all(index, policy).into_iter().filter(|(_, _, permitted)| *permitted);
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

/// Selectors that select nothing, whatever there is, because they cannot be read.
pub(super) fn unreadable(policy: &Object) -> Vec<Unreadable> {
    let nodes = policy.at("spec.targetSelectors").and_then(Node::as_sequence).unwrap_or_default();
    let at = FieldPath::parse("spec.targetSelectors");
    let mut out = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let at = at.index(number);
        let kind = node.get("kind").and_then(Node::as_str);
        let known = Kind::of(&policy.reference).map_or(&[][..], Kind::targets);
        let Some(kind) =
            kind.filter(|kind| known.is_empty() || known.iter().any(|known| known.kind == *kind))
        else {
            let why = format!("a {} cannot target objects of this kind", policy.reference.kind);
            out.push(Unreadable { field: at.key("kind"), why, kind: None });
            continue;
        };
        let namespaces = node.get("namespaces");
        let from = namespaces.and_then(|namespaces| namespaces.get("from")).and_then(Node::as_str);
        let inner = namespaces.and_then(|namespaces| namespaces.get("selector"));
        let wrong = match (namespaces, from) {
            (None, _) | (_, Some("All" | "Same")) => None,
            (_, Some("Selector")) => match inner.map(LabelSelector::wrong) {
                Some(found) => found,
                None => Some("there is no selector of namespaces".to_owned()),
            },
            _ => Some("from is All, Same or Selector".to_owned()),
        };
        if let Some(why) = LabelSelector::wrong(node).or(wrong) {
            out.push(Unreadable { field: at, why, kind: Some(kind.to_owned()) });
        }
    }
    out
}

/// The objects of a kind that can be targets, in the order of names.
pub(super) fn candidates<'a>(index: &Index<'a>, kind: &str) -> impl Iterator<Item = &'a Object> {
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
