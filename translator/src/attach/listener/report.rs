//! The status of classes, Gateways, ListenerSets and their listeners.

use super::set::Set;
use super::{Gateway, Listener};
use crate::attach::index::{Index, Key};
use crate::attach::{GATEWAY_GROUP, parameters};
use crate::status::{self, Condition, ListenerStatus, RouteGroupKind, Status, Statuses};
use moorgate_model::ObjectRef;
use moorgate_model::diagnostic::semantic::{UNSUPPORTED_ADDRESS, UNSUPPORTED_ROUTABILITY};
use std::collections::BTreeMap;

/// The reason of GEP-1651 for an address that cannot be reached from where it should be.
const ROUTABILITY: &str = "UnsupportedRoutability";

/// Writes the status of classes, Gateways and ListenerSets.
pub(in crate::attach) fn report(
    index: &Index<'_>,
    gateways: &BTreeMap<Key<'_>, Gateway<'_>>,
    statuses: &mut Statuses,
) {
    for class in index.classes.values() {
        if class.value.spec.controller_name == index.options.controller_name {
            let generation = class.value.metadata.generation;
            let accepted = match parameters::of_class(index, class) {
                None => status::holds("Accepted", "Accepted", generation),
                Some(finding) => status::fails("Accepted", "InvalidParameters", &finding.message, generation),
            };
            statuses.set(class.object.reference.clone(), Status::Class { conditions: vec![accepted] });
        }
    }
    for gateway in gateways.values() {
        let mut attached = 0;
        for set in &gateway.sets {
            let status = set_status(gateway, set);
            let accepted = matches!(&status, Status::ListenerSet { conditions, .. }
                if conditions.iter().any(|condition| condition.kind == "Accepted" && condition.status == "True"));
            attached += usize::from(accepted);
            statuses.set(set.object.reference.clone(), status);
        }
        let listeners = listeners(gateway, &gateway.object.reference, gateway.generation);
        let status = Status::Gateway {
            conditions: gateway_conditions(gateway, &listeners),
            listeners,
            attached_listener_sets: (gateway.speaks_of_sets || !gateway.sets.is_empty()).then_some(attached),
        };
        statuses.set(gateway.object.reference.clone(), status);
    }
}

fn of<'g, 'a>(gateway: &'g Gateway<'a>, owner: &'g ObjectRef) -> impl Iterator<Item = &'g Listener<'a>> {
    gateway.listeners.iter().filter(move |listener| listener.owner.reference == *owner)
}

fn listeners(gateway: &Gateway<'_>, owner: &ObjectRef, generation: Option<i64>) -> Vec<ListenerStatus> {
    of(gateway, owner).map(|listener| listener_status(listener, generation)).collect()
}

/// Whether a listener's status says that it is accepted.
fn is_accepted(listener: &ListenerStatus) -> bool {
    let accepted = |condition: &Condition| condition.kind == "Accepted" && condition.status == "True";
    listener.conditions.iter().any(accepted)
}

fn gateway_conditions(gateway: &Gateway<'_>, listeners: &[ListenerStatus]) -> Vec<Condition> {
    let generation = gateway.generation;
    let accepted = if let Some(finding) = gateway.refused.first() {
        let reason = match finding.code.id {
            id if id == UNSUPPORTED_ADDRESS.id => "UnsupportedAddress",
            id if id == UNSUPPORTED_ROUTABILITY.id => ROUTABILITY,
            _ => "InvalidParameters",
        };
        status::fails("Accepted", reason, &finding.message, generation)
    } else if listeners.iter().all(is_accepted) {
        status::holds("Accepted", "Accepted", generation)
    } else {
        let message = "some listeners are not valid";
        let mut condition = status::fails("Accepted", "ListenersNotValid", message, generation);
        if listeners.iter().any(is_accepted) {
            condition.status = "True";
        }
        condition
    };
    let programmed = if accepted.status == "True" {
        status::pending(generation)
    } else {
        // GEP-1651 names the same reason for both.
        let reason = if accepted.reason == ROUTABILITY { ROUTABILITY } else { "Invalid" };
        status::fails("Programmed", reason, "the Gateway is not accepted", generation)
    };
    let mut conditions = vec![accepted, programmed];
    if let Some(findings) = &gateway.references {
        conditions.push(status::decide(
            "ResolvedRefs",
            "ResolvedRefs",
            findings,
            status::of_gateway,
            generation,
        ));
    }
    if let Some(fallback) = gateway.fallbacks.first() {
        let kind = "InsecureFrontendValidationMode";
        let mut insecure = status::holds(kind, "ConfigurationChanged", generation);
        insecure.message.clone_from(&fallback.message);
        conditions.push(insecure);
    }
    conditions
}

fn set_status(gateway: &Gateway<'_>, set: &Set<'_>) -> Status {
    let generation = set.generation;
    let own = || of(gateway, &set.object.reference);
    let both = |reason: [&'static str; 2], message: &str| {
        let [accepted, programmed] = reason;
        vec![
            status::fails("Accepted", accepted, message, generation),
            status::fails("Programmed", programmed, message, generation),
        ]
    };
    let conditions = if !set.allowed {
        both(["NotAllowed"; 2], "the Gateway does not allow this ListenerSet")
    } else if !gateway.is_served() {
        both(["ParentNotAccepted", "ParentNotProgrammed"], "the Gateway is not accepted")
    } else if !own().any(is_valid) {
        both(["ListenersNotValid"; 2], "no listener is valid")
    } else {
        let mut accepted = status::holds("Accepted", "Accepted", generation);
        if !own().all(is_valid) {
            accepted.reason = "ListenersNotValid";
            accepted.message = "some listeners are not valid".into();
        }
        vec![accepted, status::pending(generation)]
    };
    Status::ListenerSet { conditions, listeners: listeners(gateway, &set.object.reference, generation) }
}

fn is_valid(listener: &Listener<'_>) -> bool {
    listener.accepted && !listener.refuse
}

fn listener_status(listener: &Listener<'_>, generation: Option<i64>) -> ListenerStatus {
    let decide = |kind, good| status::decide(kind, good, &listener.findings, status::of_listener, generation);
    let mut conflicted = decide("Conflicted", "NoConflicts");
    if conflicted.reason == "NoConflicts" {
        conflicted.status = "False";
    } else if conflicted.message.contains("protocol clash") {
        conflicted.reason = "ProtocolConflict";
    }
    let mut accepted = decide("Accepted", "Accepted");
    let mut programmed = if is_valid(listener) {
        status::pending(generation)
    } else {
        let message = "the listener is not served; see its other conditions";
        status::fails("Programmed", "Invalid", message, generation)
    };
    if conflicted.status == "True" {
        accepted = status::fails("Accepted", conflicted.reason, &conflicted.message, generation);
        programmed = status::fails("Programmed", conflicted.reason, &conflicted.message, generation);
    }
    let resolved = decide("ResolvedRefs", "ResolvedRefs");
    let mut conditions = vec![accepted, programmed, resolved, conflicted];
    if let Some(message) = &listener.overlap {
        let mut overlap = status::holds("OverlappingTLSConfig", "OverlappingHostnames", generation);
        overlap.message.clone_from(message);
        conditions.push(overlap);
    }
    let kind = |kind: &&str| RouteGroupKind { group: GATEWAY_GROUP.into(), kind: (*kind).into() };
    ListenerStatus {
        name: listener.spec.name.clone(),
        supported_kinds: listener.kinds.iter().map(kind).collect(),
        attached_routes: listener.attached.len(),
        conditions,
    }
}
