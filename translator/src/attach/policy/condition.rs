//! Status of policies of Envoy Gateway's kinds: one entry for each Gateway of ours that serves a target.

use super::held::{One, State, Target};
use super::settle::Settled;
use super::{MAX_ANCESTORS, Policies};
use crate::attach::index::{Index, Key};
use crate::attach::listener::{Gateway, gateway_of};
use crate::attach::parent::Routes;
use crate::status::{self, AncestorStatus, Condition, ParentReference, Status, Statuses};
use moorgate_model::{FieldPath, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};

/// A Gateway's namespace and name.
type Name = (String, String);

/// Writes the status of all policies.
pub(super) fn report(
    index: &Index<'_>,
    policies: &Policies,
    gateways: &BTreeMap<Key<'_>, Gateway<'_>>,
    routes: &Routes<'_>,
    statuses: &mut Statuses,
) {
    if policies.held.is_empty() {
        return;
    }
    let serving = serving(routes);
    let of_target = |target: &Target| -> BTreeSet<Name> {
        let object = &target.place.0;
        let named = match &*object.kind {
            "Gateway" => Some((object.namespace.to_string(), object.name.to_string())),
            "ListenerSet" => index
                .listener_set(&object.namespace, &object.name)
                .and_then(|set| gateway_of(index, set))
                .map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
            _ => return serving.get(object).cloned().unwrap_or_default(),
        };
        named.into_iter().filter(|(namespace, name)| gateways.contains_key(&(namespace, name))).collect()
    };
    for (number, one) in policies.held.all.iter().enumerate() {
        let mut ancestors: BTreeMap<Name, Vec<&Target>> = BTreeMap::new();
        for target in &one.targets {
            for gateway in of_target(target) {
                ancestors.entry(gateway).or_default().push(target);
            }
        }
        let ancestors: Vec<AncestorStatus> = ancestors
            .into_iter()
            .take(MAX_ANCESTORS)
            .map(|(gateway, targets)| AncestorStatus {
                ancestor_ref: ParentReference::gateway(&gateway.0, &gateway.1),
                controller_name: statuses.controller_name().to_owned(),
                conditions: conditions(one, &targets, &policies.settled, &(number, gateway)),
            })
            .collect();
        if !ancestors.is_empty() {
            statuses.set(one.object.reference.clone(), Status::Policy { ancestors });
        }
    }
}

/// The Gateways that serve each route.
fn serving(routes: &Routes<'_>) -> BTreeMap<ObjectRef, BTreeSet<Name>> {
    let mut out: BTreeMap<ObjectRef, BTreeSet<Name>> = BTreeMap::new();
    for ((gateway, _), placements) in &routes.placements {
        for placement in placements {
            let request = placement.rules.http().first().map(|route| &route.origin.object);
            let stream = placement.rules.stream().map(|stream| &stream.origin.object);
            if let Some(route) = request.or(stream) {
                let name = (gateway.0.to_owned(), gateway.1.to_owned());
                out.entry(route.clone()).or_default().insert(name);
            }
        }
    }
    out
}

fn conditions(one: &One, targets: &[&Target], settled: &Settled, key: &(usize, Name)) -> Vec<Condition> {
    let generation = one.generation;
    let unmet = settled.unmet.get(key).and_then(BTreeSet::first).map(String::as_str);
    let mut out = vec![accepted(one, targets, unmet)];
    let list = |objects: &BTreeSet<ObjectRef>| {
        objects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    if let Some(others) = settled.overridden.get(key) {
        let message =
            format!("narrower policies take its place on some of its routes or listeners: {}", list(others));
        out.push(Condition { message, ..status::holds("Overridden", "Overridden", generation) });
    }
    if let Some(others) = settled.merged.get(key) {
        let message = format!("narrower policies are merged with it: {}", list(others));
        out.push(Condition { message, ..status::holds("Merged", "Merged", generation) });
    }
    if !one.compiled.ignored.is_empty() {
        let fields: Vec<_> = one.compiled.ignored.iter().map(FieldPath::to_string).collect();
        let message = format!("not supported by this version: {}", fields.join(", "));
        out.push(Condition { message, ..status::holds("PartiallyInvalid", "UnsupportedValue", generation) });
    }
    out
}

fn accepted(one: &One, targets: &[&Target], unmet: Option<&str>) -> Condition {
    let generation = one.generation;
    let fails = |reason, message: &str| status::fails("Accepted", reason, message, generation);
    let reasons = targets.iter().filter_map(|target| match &target.state {
        State::Attached => None,
        State::Conflicted(older) => {
            Some(("Conflicted", format!("{} has an older policy of this kind: {older}", target.place.0)))
        }
        State::Missing(why) => Some(("TargetNotFound", why.clone())),
    });
    let reasons: Vec<(&'static str, String)> = reasons.collect();
    if reasons.len() == targets.len()
        && let Some((reason, message)) = reasons.first()
    {
        return fails(reason, message);
    }
    if let Some(message) = &one.compiled.invalid {
        return fails("Invalid", message);
    }
    if let Some(message) = unmet {
        return fails("Invalid", message);
    }
    if one.compiled.closed {
        return fails("Invalid", "a field that restricts access is not supported: its targets are closed");
    }
    let mut message = "the policy is in effect".to_owned();
    for (_, why) in reasons {
        message.push_str("; but not everywhere: ");
        message.push_str(&why);
    }
    Condition { message, ..status::holds("Accepted", "Accepted", generation) }
}
