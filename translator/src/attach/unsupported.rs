//! Kinds of the Gateway API that this version reads but does not compile: named, never passed over in silence.

use super::index::{Index, Key, metadata};
use super::listener::Gateway;
use super::spec;
use crate::status::{self, AncestorStatus, ParentReference, ParentStatus, Status, Statuses};
use moorgate_model::diagnostic::semantic::ROUTE_KIND_UNSUPPORTED;
use moorgate_model::node::decode;
use moorgate_model::{Diagnostics, FieldPath, Node, Object};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    parent_refs: Vec<spec::ParentRef>,
    /// ListenerSet has one.
    parent_ref: Option<spec::ParentRef>,
}

/// Names every such object; routes that name a Gateway of ours get a status that says so.
pub(super) fn report(
    index: &Index<'_>,
    gateways: &BTreeMap<Key<'_>, Gateway<'_>>,
    diagnostics: &mut Diagnostics,
    statuses: &mut Statuses,
) {
    for object in &index.others {
        // Policies and Envoy Gateway's kinds are `policy`'s matter.
        if &*object.reference.group == "gateway.envoyproxy.io"
            || moorgate_policies::find(&object.reference).is_some()
        {
            continue;
        }
        let message = format!("{} is not supported by this version", object.reference.kind);
        let finding = object.diagnostic(&ROUTE_KIND_UNSUPPORTED, FieldPath::root().key("kind"), message);
        let parents = parents(object, gateways, &finding, statuses.controller_name());
        if !parents.is_empty() {
            statuses.set(object.reference.clone(), Status::Route { parents });
        }
        let ancestors = ancestors(object, gateways, &finding, statuses.controller_name());
        if !ancestors.is_empty() {
            statuses.set(object.reference.clone(), Status::Policy { ancestors });
        }
        diagnostics.push(finding);
    }
}

/// What Gateways of ours say of a policy that targets them and that nobody carries out.
fn ancestors(
    object: &Object,
    gateways: &BTreeMap<Key<'_>, Gateway<'_>>,
    finding: &moorgate_model::Diagnostic,
    controller_name: &str,
) -> Vec<AncestorStatus> {
    let targets = object.at("spec.targetRefs").and_then(Node::as_sequence).unwrap_or_default();
    let text = |target: &Node, key: &str| target.get(key).and_then(Node::as_str).map(str::to_owned);
    let namespace = &*object.reference.namespace;
    let named: BTreeSet<String> = targets
        .iter()
        .filter(|target| text(target, "kind").as_deref() == Some("Gateway"))
        .filter_map(|target| text(target, "name"))
        .filter(|name| gateways.contains_key(&(namespace, name.as_str())))
        .collect();
    let generation = metadata(object).and_then(|metadata| metadata.generation);
    named
        .into_iter()
        .map(|name| AncestorStatus {
            ancestor_ref: ParentReference::gateway(namespace, &name),
            controller_name: controller_name.to_owned(),
            conditions: vec![status::fails("Accepted", "Invalid", &finding.message, generation)],
        })
        .collect()
}

fn parents(
    object: &Object,
    gateways: &BTreeMap<Key<'_>, Gateway<'_>>,
    finding: &moorgate_model::Diagnostic,
    controller_name: &str,
) -> Vec<ParentStatus> {
    let Some(spec) = object.root.get("spec").and_then(|node| decode::<Spec>(node).ok()) else {
        return Vec::new();
    };
    let generation = metadata(object).and_then(|metadata| metadata.generation);
    let ours = |parent: &spec::ParentRef| {
        let namespace = parent.namespace.as_deref().unwrap_or(&object.reference.namespace);
        gateways.contains_key(&(namespace, parent.name.as_str()))
    };
    spec.parent_refs
        .into_iter()
        .chain(spec.parent_ref)
        .filter(ours)
        .map(|parent| ParentStatus {
            parent_ref: (&parent).into(),
            controller_name: controller_name.to_owned(),
            conditions: vec![status::decide("Accepted", "Accepted", [finding], status::of_route, generation)],
        })
        .collect()
}
