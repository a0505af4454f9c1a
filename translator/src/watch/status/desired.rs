//! What the status of an object should say: the compiler's verdict, and what only a live cluster knows.
//!
//! `Programmed` waits for Envoys: it is `Unknown` for a generation until a snapshot of that generation is acknowledged, and
//! then stays `True` for this generation, whatever routes do meanwhile. Addresses come from the Service of the fleet.

use super::address::{self, Addresses};
use super::features;
use super::stored::{self, Verdict};
use crate::attach::GATEWAY_GROUP;
use crate::patches;
use crate::source::cluster::{Live, Objects};
use crate::watch::acks::{Acks, Standing, standing};
use crate::watch::release::{Held, Released, fleet_of};
use crate::watch::turn::Turn;
use moorgate_model::ObjectRef;
use moorgate_snapshot::{Digest, FleetName};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Snapshots of one state of an object that are remembered.
const REMEMBERED: usize = 32;
/// A condition of our own, where the newest state of a Gateway is not what is published: why. It is there only then.
pub(super) const PUBLISHED: &str = "moorgate.dev/Published";
/// The longest message in it, in characters.
const MESSAGE: usize = 1024;

/// Everything that a status is made of.
pub(super) struct Facts<'a> {
    pub(super) turn: &'a Turn,
    pub(super) objects: &'a Objects,
    pub(super) acks: &'a Acks,
    pub(super) released: &'a Released,
    /// Fleets whose newest state a gate holds back.
    pub(super) held: &'a Held,
    /// Whether fleets are provisioned here, so that a Gateway without an address is not done.
    pub(super) provisions: bool,
}

/// Which snapshots a Gateway or ListenerSet has had since it was changed last.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    objects: BTreeMap<ObjectRef, (Key, Vec<Digest>)>,
}

/// What an acknowledgement is of: one state of one object, and the listeners that shall be served.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    uid: String,
    generation: Option<i64>,
    served: Vec<String>,
}

impl Awaited {
    /// Notes the snapshots of a compile.
    pub(super) fn note(&mut self, turn: &Turn) {
        for (reference, status) in turn.compilation.statuses.iter() {
            let Some(fleet) = serving(reference, turn) else { continue };
            let snapshot = turn.compilation.fleets.get(&fleet).map(|fleet| fleet.snapshot.id());
            let status = serde_json::to_value(status).unwrap_or_default();
            let (uid, generation) = turn.compiled.get(reference).cloned().unwrap_or_default();
            let key = Key { uid: uid.to_string(), generation, served: served(&status) };
            let known = self.objects.entry(reference.clone()).or_insert_with(|| (key.clone(), Vec::new()));
            if known.0 != key {
                *known = (key, Vec::new());
            }
            if let Some(snapshot) = snapshot.filter(|id| known.1.last() != Some(id)) {
                known.1.retain(|other| *other != snapshot);
                known.1.push(snapshot);
                let excess = known.1.len().saturating_sub(REMEMBERED);
                known.1.drain(..excess);
            }
        }
        self.objects.retain(|reference, _| turn.compilation.statuses.get(reference).is_some());
    }

    fn of(&self, reference: &ObjectRef) -> &[Digest] {
        self.objects.get(reference).map_or(&[], |(_, snapshots)| snapshots)
    }
}

/// The fleet that serves the listeners of a Gateway or ListenerSet, or that an EnvoyPatchPolicy changes.
pub(super) fn serving(reference: &ObjectRef, turn: &Turn) -> Option<FleetName> {
    if (&*reference.group, &*reference.kind) == (moorgate_policies::GROUP, patches::KIND) {
        return patched(reference, turn);
    }
    if &*reference.group != GATEWAY_GROUP {
        return None;
    }
    match &*reference.kind {
        "Gateway" => Some(fleet_of(reference, turn)),
        "ListenerSet" => {
            let object = turn.compilation.objects.iter().find(|object| object.reference == *reference)?;
            let parent = |key: &str| object.at(&format!("spec.parentRef.{key}"))?.as_str();
            let namespace = parent("namespace").unwrap_or(&reference.namespace);
            Some(turn.compilation.served_by.of(namespace, parent("name")?))
        }
        _ => None,
    }
}

fn patched(reference: &ObjectRef, turn: &Turn) -> Option<FleetName> {
    let object = turn.compilation.objects.iter().find(|object| object.reference == *reference)?;
    let target = |key: &str| object.at(&format!("spec.targetRef.{key}"))?.as_str();
    let name = target("name")?;
    Some(match target("kind")? {
        "Gateway" => turn.compilation.served_by.of(&reference.namespace, name),
        _ => FleetName::Class { name: name.to_owned() },
    })
}

/// Names of the listeners that wait for an acknowledgement.
fn served(status: &Value) -> Vec<String> {
    let listeners = status["listeners"].as_array().into_iter().flatten();
    let waiting = listeners.filter(|listener| {
        let conditions = listener["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(is_pending)
    });
    waiting.filter_map(|listener| listener["name"].as_str().map(str::to_owned)).collect()
}

fn is_pending(condition: &Value) -> bool {
    condition["type"] == "Programmed" && condition["status"] == "Unknown"
}

/// The same by what others have published.
pub(super) fn desired_of_stored(
    live: &Live,
    (objects, provisions): (&Objects, bool),
    turn: &Turn,
    facts: &stored::Facts<'_>,
) -> Option<Value> {
    let reference = &live.reference;
    let fleet = stored::fleet_of_listeners(reference, turn);
    let is_gateway = &*reference.kind == "Gateway";
    let addresses = is_gateway.then(|| address::of(live, &fleet_of(reference, turn), objects, provisions));
    let mut wanted = match stored::verdict(live, fleet.as_ref(), facts) {
        Verdict::Nothing => return None,
        Verdict::Not(why) => stored::unpublished(live, &why),
        Verdict::AsPublished(mut status, standing) => {
            if (&*reference.group, &*reference.kind) == (GATEWAY_GROUP, "GatewayClass") {
                status["supportedFeatures"] = features::supported();
            }
            if let Some(standing) = standing {
                settle(&mut status, live, &standing, addresses.as_ref());
            }
            if let Some(addresses) = addresses {
                addresses.write(&mut status, live.generation);
            }
            status
        }
    };
    // Nothing of a status is null.
    wanted.as_object_mut()?.retain(|_, field| !field.is_null());
    Some(wanted)
}

/// The status of an object as it should be; none if it is none of ours.
pub(super) fn desired(live: &Live, facts: &Facts<'_>, awaited: &Awaited) -> Option<Value> {
    let reference = &live.reference;
    let Some(status) = facts.turn.compilation.statuses.get(reference) else {
        return left_behind(live, facts.turn.compilation.statuses.controller_name());
    };
    let mut wanted = serde_json::to_value(status).ok()?;
    match (&*reference.group, &*reference.kind) {
        (GATEWAY_GROUP, "GatewayClass") => {
            wanted["supportedFeatures"] = features::supported();
        }
        (GATEWAY_GROUP, "Gateway") => {
            let fleet = fleet_of(reference, facts.turn);
            let addresses = address::of(live, &fleet, facts.objects, facts.provisions);
            program(&mut wanted, live, facts, awaited, Some(&addresses));
            addresses.write(&mut wanted, live.generation);
            if let Some(why) = facts.held.get(&fleet) {
                add(&mut wanted, PUBLISHED, ("False", "HeldBack"), why);
            }
        }
        (GATEWAY_GROUP, "ListenerSet") | (moorgate_policies::GROUP, patches::KIND) => {
            program(&mut wanted, live, facts, awaited, None);
        }
        _ => {}
    }
    Some(wanted)
}

/// Entries of ours in an object that has nothing to do with us any more.
fn left_behind(live: &Live, controller_name: &str) -> Option<Value> {
    let field = ["parents", "ancestors"]
        .into_iter()
        .find(|field| super::merge::has_entries(&live.status, field, controller_name))?;
    Some(json!({field: []}))
}

/// Decides every `Programmed` that waits.
fn program(
    wanted: &mut Value,
    live: &Live,
    facts: &Facts<'_>,
    awaited: &Awaited,
    addresses: Option<&Addresses>,
) {
    let none = BTreeMap::new();
    let fleet = serving(&live.reference, facts.turn);
    let standing = match &fleet {
        Some(fleet) if facts.turn.compilation.blocked.blocks(fleet) => {
            Standing::Pending("errors in its configuration keep the fleet back".to_owned())
        }
        Some(fleet) if facts.held.contains_key(fleet) && !is_released(fleet, live, facts, awaited) => {
            Standing::Pending(
                "its configuration is held back: see the condition about its publication".to_owned(),
            )
        }
        Some(fleet) => {
            let relays = facts.acks.get(fleet).map_or(&[][..], Vec::as_slice);
            let sequences = facts.released.get(fleet).unwrap_or(&none);
            standing(relays, awaited.of(&live.reference), sequences)
        }
        None => Standing::Pending("its Gateway is not there".to_owned()),
    };
    settle(wanted, live, &standing, addresses);
}

/// Every `Programmed` that waits, of the object, of its listeners, and of what a policy changes.
pub(super) fn settle(wanted: &mut Value, live: &Live, standing: &Standing, addresses: Option<&Addresses>) {
    decide(wanted, &live.status, live.generation, standing);
    if let Some(addresses) = addresses {
        addresses.judge(wanted);
    }
    let old = live.status["listeners"].as_array();
    // An index that is written through would make a field that this kind does not have.
    let listeners = wanted.get_mut("listeners").and_then(Value::as_array_mut);
    for listener in listeners.into_iter().flatten() {
        let before = old.and_then(|old| old.iter().find(|old| old["name"] == listener["name"]));
        decide(listener, before.unwrap_or(&Value::Null), live.generation, standing);
    }
    let old = live.status["ancestors"].as_array();
    let ancestors = wanted.get_mut("ancestors").and_then(Value::as_array_mut);
    for ancestor in ancestors.into_iter().flatten() {
        let same =
            |old: &&Value| ["ancestorRef", "controllerName"].iter().all(|key| old[*key] == ancestor[*key]);
        let before = old.and_then(|old| old.iter().find(same)).cloned();
        decide(ancestor, &before.unwrap_or_default(), live.generation, standing);
    }
}

/// Whether a snapshot of this state of the object is published.
fn is_released(fleet: &FleetName, live: &Live, facts: &Facts<'_>, awaited: &Awaited) -> bool {
    let released = facts.released.get(fleet);
    awaited.of(&live.reference).iter().any(|id| released.is_some_and(|released| released.contains_key(id)))
}

/// Adds a condition of this program's own.
pub(super) fn add(wanted: &mut Value, kind: &str, (status, reason): (&str, &str), message: &str) {
    let message: String = message.chars().take(MESSAGE).collect();
    if let Some(conditions) = wanted["conditions"].as_array_mut() {
        conditions.push(json!({"type": kind, "status": status, "reason": reason, "message": message}));
    }
}

/// `Programmed` among the conditions of one place.
fn decide(place: &mut Value, before: &Value, generation: Option<i64>, standing: &Standing) {
    let old = before["conditions"].as_array();
    let old = old.and_then(|old| old.iter().find(|old| old["type"] == "Programmed"));
    let was_true =
        old.is_some_and(|old| old["status"] == "True" && old["observedGeneration"].as_i64() == generation);
    let conditions = place.get_mut("conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if !is_pending(condition) {
            continue;
        }
        let (status, reason, message) = match standing {
            Standing::Refused(why) => ("False", "Invalid", why.as_str()),
            Standing::Acked => ("True", "Programmed", ""),
            Standing::Pending(_) if was_true => ("True", "Programmed", ""),
            Standing::Pending(why) => ("Unknown", "Pending", why.as_str()),
        };
        condition["status"] = json!(status);
        condition["reason"] = json!(reason);
        condition["message"] = json!(message);
    }
}

/// Whether somebody waits for relays to acknowledge what this status is of.
pub(super) fn waits(status: &Value) -> bool {
    let pending = |place: &Value| {
        let conditions = place["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| {
            condition["type"] == "Programmed"
                && condition["status"] != "True"
                && condition["reason"] != "Invalid"
                || condition["type"] == "Programmed"
                    && condition["reason"] == "Invalid"
                    && is_refusal(condition)
        })
    };
    let within = |list: &str| status[list].as_array().into_iter().flatten().any(pending);
    pending(status) || within("listeners") || within("ancestors")
}

/// Envoys may take it after all, such as after a restart with another version.
fn is_refusal(condition: &Value) -> bool {
    condition["message"].as_str().is_some_and(|message| message.contains("Envoy refuses"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(status: &str, reason: &str) -> Value {
        json!({"conditions": [{"type": "Accepted", "status": "True"}, {"type": "Programmed", "status": status, "reason": reason}]})
    }

    #[test]
    fn programmed_waits_for_a_generation_and_then_stays() {
        let stood = |status: &str, generation: i64| json!({"conditions": [{"type": "Programmed", "status": status, "observedGeneration": generation}]});
        let pending = Standing::Pending("why".to_owned());
        let refused = Standing::Refused("relay: no".to_owned());
        let cases = [
            // What stood, how Envoys stand, what it says then.
            (json!(null), &pending, ("Unknown", "Pending")),
            (stood("True", 1), &pending, ("Unknown", "Pending")),
            (stood("True", 2), &pending, ("True", "Programmed")),
            (stood("Unknown", 2), &pending, ("Unknown", "Pending")),
            (json!(null), &Standing::Acked, ("True", "Programmed")),
            (stood("True", 2), &refused, ("False", "Invalid")),
        ];
        for (before, standing, (status, reason)) in cases {
            let mut wanted = place("Unknown", "Pending");
            decide(&mut wanted, &before, Some(2), standing);
            let programmed = &wanted["conditions"][1];
            assert_eq!(
                (&programmed["status"], &programmed["reason"]),
                (&json!(status), &json!(reason)),
                "{before}"
            );
            assert_eq!(wanted["conditions"][0], json!({"type": "Accepted", "status": "True"}));
            assert_eq!(waits(&wanted), matches!(standing, Standing::Pending(_)) && status != "True");
        }
        let thing = crate::source::cluster::Kind::new("example.com", "v1", "Thing", "things", true);
        let object = json!({"metadata": {"name": "edge", "namespace": "shop", "uid": "u1"}, "status": {}});
        let live = Live::of(serde_json::from_value(object).unwrap(), &thing).unwrap();
        // No kind gets a field of another one: it would be written again and again.
        for kind in ["listeners", "ancestors"] {
            let mut status = json!({ kind: [place("Unknown", "Pending")] });
            settle(&mut status, &live, &Standing::Acked, None);
            let fields: Vec<&str> = status.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!((fields, waits(&status)), (vec![kind], false));
        }
        // Of a policy each of its ancestors.
        let mut policy = json!({"ancestors": [place("Unknown", "Pending")]});
        assert!(waits(&policy));
        decide(&mut policy["ancestors"][0], &json!(null), Some(2), &Standing::Acked);
        assert!(!waits(&policy));
        // What the compiler refuses no Envoy makes true.
        let mut wanted = place("False", "Invalid");
        decide(&mut wanted, &json!(null), Some(2), &Standing::Acked);
        assert_eq!(wanted, place("False", "Invalid"));
    }
}
