//! The status of an object by what others have published: what was signed beside the snapshot, if the object is still as it was
//! then. One that was changed since keeps the status of its older generation, and says that it is not published.

use super::desired::{self, PUBLISHED, add};
use super::merge::is_ours;
use crate::attach::GATEWAY_GROUP;
use crate::history;
use crate::source::cluster::Live;
use crate::watch::acks::{Acks, Standing, standing};
use crate::watch::release::fleet_of;
use crate::watch::stored::{Published, Results};
use crate::watch::turn::Turn;
use moorgate_model::ObjectRef;
use moorgate_snapshot::FleetName;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a status is made of here.
pub(super) struct Facts<'a> {
    pub(super) results: &'a Results,
    pub(super) acks: &'a Acks,
    /// What each object says, as history tells contents apart.
    pub(super) contents: &'a BTreeMap<ObjectRef, String>,
}

/// What there is to say of an object.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// It is published as it stands here: its status, and how Envoys stand to it.
    AsPublished(Value, Option<Standing>),
    /// A Gateway or ListenerSet of ours that is not published as it stands: why.
    Not(String),
    /// Nothing.
    Nothing,
}

/// The verdict on an object; `fleet` is that whose listeners it has, if it has any.
pub(super) fn verdict(live: &Live, fleet: Option<&FleetName>, facts: &Facts<'_>) -> Verdict {
    let key = history::key(&live.reference);
    let content = facts.contents.get(&live.reference).map(String::as_str);
    let item = |published: &Published| published.records.objects.get(&key).cloned();
    if let Some(fleet) = fleet {
        let Some(published) = facts.results.get(fleet) else {
            return Verdict::Not("nothing is published of this fleet yet".to_owned());
        };
        let revision = &published.revision;
        return match item(published) {
            None => Verdict::Not(format!("it is not part of what is published ({revision})")),
            Some(item) if Some(item.content.as_str()) != content => {
                Verdict::Not(format!("what is published ({revision}) has it otherwise"))
            }
            Some(item) => {
                let relays = facts.acks.get(fleet).map_or(&[][..], Vec::as_slice);
                let sequences = BTreeMap::from([(published.snapshot, published.sequence())]);
                let standing = standing(relays, &[published.snapshot], &sequences);
                item.status
                    .map_or(Verdict::Nothing, |status| Verdict::AsPublished(bare(status), Some(standing)))
            }
        };
    }
    // A route or policy may be part of several fleets; each says what its own Gateways make of it.
    let mut merged: Option<Value> = None;
    for published in facts.results.values() {
        let Some(item) = item(published) else { continue };
        if Some(item.content.as_str()) != content {
            return Verdict::Nothing;
        }
        let Some(status) = item.status.map(bare) else { continue };
        merged = Some(match merged {
            None => status,
            Some(known) => joined(known, &status),
        });
    }
    merged.map_or(Verdict::Nothing, |status| Verdict::AsPublished(status, None))
}

/// Entries of both, each once.
fn joined(mut known: Value, more: &Value) -> Value {
    for field in ["parents", "ancestors"] {
        let list = known.get_mut(field).and_then(Value::as_array_mut);
        let (Some(list), Some(more)) = (list, more.get(field).and_then(Value::as_array)) else { continue };
        for entry in more {
            if !list.contains(entry) {
                list.push(entry.clone());
            }
        }
    }
    known
}

/// Generations are those of whoever compiled it: here they are those of this cluster.
fn bare(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.remove("observedGeneration");
            fields.values_mut().for_each(|field| *field = bare(field.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = bare(item.take())),
        _ => {}
    }
    value
}

/// What each object of a compile says, by the mark that records have of it.
pub(super) fn contents(turn: &Turn) -> BTreeMap<ObjectRef, String> {
    let objects = turn.compilation.objects.iter();
    objects.map(|object| (object.reference.clone(), crate::compile::content(object))).collect()
}

/// The status that a Gateway or ListenerSet should have that is not published as it stands: what it has, of an older
/// generation, and why. One that has none yet waits.
pub(super) fn unpublished(live: &Live, why: &str) -> Value {
    let stands = live.status["conditions"].as_array().into_iter().flatten();
    let ours = stands.filter(|old| is_ours(&old["type"]) && old["type"] != PUBLISHED);
    let mut conditions: Vec<Value> = ours.cloned().collect();
    // The defaults of the Gateway API's definitions are nobody's verdict.
    if !conditions.iter().any(|old| old["observedGeneration"].is_i64()) {
        let waits = |kind| json!({"type": kind, "status": "Unknown", "reason": "Pending", "message": why});
        conditions = ["Accepted", "Programmed"].map(waits).to_vec();
    }
    let mut wanted = json!({"conditions": conditions});
    add(&mut wanted, PUBLISHED, ("False", "NotPublished"), why);
    wanted
}

/// The fleet whose listeners an object has, if it is a Gateway or ListenerSet.
pub(super) fn fleet_of_listeners(reference: &ObjectRef, turn: &Turn) -> Option<FleetName> {
    if &*reference.group == GATEWAY_GROUP && &*reference.kind == "Gateway" {
        let fleet = fleet_of(reference, turn);
        let compilation = &turn.compilation;
        let ours = compilation.fleets.contains_key(&fleet) || compilation.refused.contains(&fleet);
        return ours.then_some(fleet);
    }
    desired::serving(reference, turn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Item, Records};
    use crate::source::cluster::Kind;
    use crate::watch::acks::Relay;
    use moorgate_snapshot::Digest;
    use std::sync::Arc;

    fn live(kind: &str, status: &Value) -> Live {
        let kind = Kind::new(GATEWAY_GROUP, "v1", kind, "things", true);
        let object = json!({"metadata": {"name": "edge", "namespace": "shop", "uid": "u1", "generation": 7},
                            "spec": {}, "status": status});
        Live::of(serde_json::from_value(object).unwrap(), &kind).unwrap()
    }

    fn published(live: &Live, content: &str, status: &Value) -> Arc<Published> {
        let item = Item {
            file: "a.yaml".to_owned(),
            line: 1,
            rendered_from: None,
            content: content.to_owned(),
            effective: String::new(),
            parts: Vec::new(),
            status: Some(status.clone()),
        };
        let objects = BTreeMap::from([(history::key(&live.reference), item)]);
        let records = Records { objects, ..Records::default() };
        Arc::new(Published::unstored(Digest::of(b"1"), "f00d", records))
    }

    fn judge(
        live: &Live,
        fleet: Option<&FleetName>,
        results: &Results,
        acks: &Acks,
        content: &str,
    ) -> Verdict {
        let contents = BTreeMap::from([(live.reference.clone(), content.to_owned())]);
        verdict(live, fleet, &Facts { results, acks, contents: &contents })
    }

    #[test]
    fn a_gateway_has_the_status_that_was_published_if_it_is_the_same() {
        let gateway = live("Gateway", &json!(null));
        let fleet = FleetName::gateway("shop", "edge");
        let stored = json!({"conditions": [{"type": "Accepted", "status": "True", "observedGeneration": 3}]});
        let results = Results::from([(fleet.clone(), published(&gateway, "same", &stored))]);
        let nobody = Acks::new();
        // Generations are those of the cluster that it stands in.
        let said = json!({"conditions": [{"type": "Accepted", "status": "True"}]});
        let Verdict::AsPublished(status, Some(Standing::Pending(_))) =
            judge(&gateway, Some(&fleet), &results, &nobody, "same")
        else {
            panic!("a Gateway as it was published waits for Envoys");
        };
        assert_eq!(status, said);
        let relay = Relay {
            name: "a".to_owned(),
            acked: Some(Digest::of(b"1")),
            idle: false,
            sequence: 1,
            refused: BTreeMap::new(),
        };
        let acks = Acks::from([(fleet.clone(), vec![relay])]);
        assert_eq!(
            judge(&gateway, Some(&fleet), &results, &acks, "same"),
            Verdict::AsPublished(said, Some(Standing::Acked))
        );
        for (results, content, why) in [
            (&results, "newer", "what is published (f00d) has it otherwise"),
            (&Results::new(), "same", "nothing is published of this fleet yet"),
        ] {
            assert_eq!(judge(&gateway, Some(&fleet), results, &acks, content), Verdict::Not(why.to_owned()));
        }
        // Not a Gateway that git has.
        let mut other = gateway.clone();
        other.reference = ObjectRef::new(GATEWAY_GROUP, "Gateway", "shop", "other");
        let verdict = judge(&other, Some(&fleet), &results, &acks, "same");
        assert!(matches!(verdict, Verdict::Not(why) if why.contains("not part")));
    }

    #[test]
    fn a_route_has_what_each_fleet_says_of_it_and_nothing_new_if_it_was_changed() {
        let route = live("HTTPRoute", &json!(null));
        let entry =
            |name: &str| json!({"parentRef": {"name": name}, "controllerName": "ours", "conditions": []});
        let of = |name: &str| published(&route, "same", &json!({"parents": [entry(name)]}));
        let results = Results::from([
            (FleetName::gateway("shop", "a"), of("a")),
            (FleetName::gateway("shop", "b"), of("b")),
        ]);
        let acks = Acks::new();
        let both = json!({"parents": [entry("a"), entry("b")]});
        assert_eq!(judge(&route, None, &results, &acks, "same"), Verdict::AsPublished(both, None));
        assert_eq!(judge(&route, None, &results, &acks, "newer"), Verdict::Nothing);
        assert_eq!(judge(&route, None, &Results::new(), &acks, "same"), Verdict::Nothing);
    }

    #[test]
    fn one_that_was_changed_keeps_its_older_status_and_says_why() {
        let accepted = json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                              "observedGeneration": 6, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let theirs = json!({"type": "example.com/Theirs", "status": "True"});
        let gateway = live("Gateway", &json!({"conditions": [accepted, theirs]}));
        let wanted = unpublished(&gateway, "why");
        // What others have there is none of this one's business, and stays by itself.
        assert_eq!(wanted["conditions"][0], accepted);
        assert_eq!(wanted["conditions"][1]["type"], PUBLISHED);
        // The default of the definition is nobody's verdict.
        let default = json!({"type": "Accepted", "status": "Unknown", "reason": "Pending", "message": "Waiting for controller"});
        for status in [json!(null), json!({"conditions": [default]})] {
            let wanted = unpublished(&live("Gateway", &status), "why");
            let kinds: Vec<&Value> =
                wanted["conditions"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
            assert_eq!(kinds, ["Accepted", "Programmed", PUBLISHED]);
            assert_eq!(wanted["conditions"][1]["reason"], "Pending");
        }
    }
}
