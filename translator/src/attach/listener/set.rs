//! ListenerSets: which of them a Gateway lets in (GEP-1713).

use super::{Gateway, judge};
use crate::attach::GATEWAY_GROUP;
use crate::attach::index::{Index, Indexed, Key};
use crate::attach::precedence::Age;
use crate::attach::spec::{self, From};
use moorgate_model::diagnostic::semantic::{PARENT_NOT_FOUND, SET_NOT_ALLOWED};
use moorgate_model::{Diagnostics, FieldPath, Object};
use std::collections::BTreeMap;

/// A ListenerSet that names a Gateway of ours.
#[derive(Debug)]
pub(super) struct Set<'a> {
    pub(super) object: &'a Object,
    pub(super) generation: Option<i64>,
    /// The Gateway lets it in.
    pub(super) allowed: bool,
}

/// The Gateway that a ListenerSet names, if the source has it.
pub(in crate::attach) fn gateway_of<'a>(
    index: &Index<'a>,
    set: &Indexed<'a, spec::ListenerSet>,
) -> Option<Key<'a>> {
    let parent = &set.value.spec.parent_ref;
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.as_deref().unwrap_or(&set.object.reference.namespace);
    if (group, kind) == (GATEWAY_GROUP, "Gateway") {
        index.gateway_key(namespace, &parent.name)
    } else {
        None
    }
}

/// Adds the listeners of ListenerSets to their Gateways: older sets first, then by namespace and name.
pub(super) fn attach<'a>(
    index: &Index<'a>,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    diagnostics: &mut Diagnostics,
) {
    let mut sets: Vec<(Age, &Indexed<'a, spec::ListenerSet>)> = index
        .listener_sets
        .values()
        .map(|set| {
            let reference = &set.object.reference;
            let created = set.value.metadata.creation_timestamp.as_deref();
            (Age::new(created, &reference.namespace, &reference.name), set)
        })
        .collect();
    sets.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, set) in sets {
        let at = FieldPath::parse("spec.parentRef");
        let Some(key) = gateway_of(index, set) else {
            if !index.is_open("Gateway") {
                let message = format!("Gateway {:?} is not in this source", set.value.spec.parent_ref.name);
                diagnostics.push(set.object.diagnostic(&PARENT_NOT_FOUND, at.key("name"), message));
            }
            continue;
        };
        let (Some(gateway), Some(indexed)) = (gateways.get_mut(&key), index.gateways.get(&key)) else {
            continue;
        };
        let allowed = allows(index, &indexed.value.spec, gateway.object, set.object);
        if allowed {
            judge::all(index, indexed, set.object, &set.value.spec.listeners, &mut gateway.listeners);
        } else {
            let message = format!("{} does not allow {}", gateway.object.reference, set.object.reference);
            let help = "see allowedListeners of the Gateway: by default no ListenerSet attaches";
            diagnostics.push(set.object.diagnostic(&SET_NOT_ALLOWED, at, message).help(help));
        }
        let generation = set.value.metadata.generation;
        gateway.sets.push(Set { object: set.object, generation, allowed });
    }
}

fn allows(index: &Index<'_>, gateway: &spec::GatewaySpec, object: &Object, set: &Object) -> bool {
    let allowed = gateway.allowed_listeners.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
    let Some(allowed) = allowed else { return false };
    let namespace = &set.reference.namespace;
    match allowed.from {
        Some(From::All) => true,
        Some(From::Same) => *namespace == object.reference.namespace,
        Some(From::Selector) => allowed.selector.matches(&index.namespace_labels(namespace)),
        Some(From::None) | None => false,
    }
}
