//! What is to be written of a status that stands: ours replaced, everybody else's left as it is, bit for bit.
//!
//! Lists of conditions and of listeners are maps, by type and by name: whoever has one of its own there keeps it.
//! `parents` and `ancestors` are atomic: each controller has entries, told apart by `controllerName`. Pure; the time is
//! an argument.

use serde_json::{Map, Value, json};

/// Condition types that this controller sets where they apply. One that stands and applies no more is taken out; any
/// other type belongs to somebody else.
const OURS: [&str; 12] = [
    "Accepted",
    "AddressesAssigned",
    "AttachedListenerSets",
    "Conflicted",
    "InsecureFrontendValidationMode",
    "OverlappingTLSConfig",
    "Overridden",
    "PartiallyInvalid",
    "Programmed",
    "ResolvedRefs",
    "SupportedVersion",
    super::desired::PUBLISHED,
];
/// Whether a condition of this type is one that this controller sets.
pub(super) fn is_ours(kind: &Value) -> bool {
    OURS.iter().any(|ours| *kind == **ours)
}

/// The most entries that a route's `parents` may have.
const PARENTS: usize = 32;
/// The most entries that a policy's `ancestors` may have (GEP-713).
const ANCESTORS: usize = 16;

/// The most conditions that the API server takes in one place.
const CONDITIONS: usize = 8;

/// Whose verdicts, of what, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer<'a> {
    /// Our controller name.
    pub(super) controller_name: &'a str,
    /// The generation of the object that the verdict is about.
    pub(super) generation: Option<i64>,
    /// RFC 3339: when conditions changed that change now.
    pub(super) now: &'a str,
}

/// The fields of the status that have to change, whole; none if it stands as it should. A field that goes is null.
pub(super) fn changes(live: &Value, wanted: &Value, writer: Writer<'_>) -> Option<Map<String, Value>> {
    let empty = Map::new();
    let live = live.as_object().unwrap_or(&empty);
    let mut changed = Map::new();
    for (field, wanted) in wanted.as_object()? {
        let stands = live.get(field).unwrap_or(&Value::Null);
        let merged = match field.as_str() {
            "conditions" => conditions(stands, wanted, writer),
            "listeners" => listeners(stands, wanted, writer),
            "parents" => entries(stands, wanted, "parentRef", PARENTS, writer),
            "ancestors" => entries(stands, wanted, "ancestorRef", ANCESTORS, writer),
            _ => wanted.clone(),
        };
        if merged != *stands {
            changed.insert(field.clone(), merged);
        }
    }
    (!changed.is_empty()).then_some(changed)
}

/// Conditions by type: foreign ones stay where and as they are.
fn conditions(stands: &Value, wanted: &Value, writer: Writer<'_>) -> Value {
    let wanted = items(wanted);
    let mut out: Vec<Value> = Vec::new();
    for old in items(stands) {
        match wanted.iter().find(|new| new["type"] == old["type"]) {
            Some(new) => out.push(condition(Some(old), new, writer)),
            None if is_ours(&old["type"]) => {}
            None => out.push(old.clone()),
        }
    }
    let added = wanted.iter().filter(|new| !items(stands).iter().any(|old| old["type"] == new["type"]));
    // Where others left no room, the last of ours stay out: with one too many nothing at all could be written.
    let room = CONDITIONS.saturating_sub(out.len());
    out.extend(added.take(room).map(|new| condition(None, new, writer)));
    Value::Array(out)
}

/// A condition as it is to stand: its time changes with its status only (Kubernetes API conventions).
fn condition(old: Option<&Value>, new: &Value, writer: Writer<'_>) -> Value {
    let since = old.filter(|old| old["status"] == new["status"]).map(|old| &old["lastTransitionTime"]);
    let mut out = new.as_object().cloned().unwrap_or_default();
    let since = since.filter(|since| since.is_string()).cloned();
    out.insert("lastTransitionTime".to_owned(), since.unwrap_or_else(|| json!(writer.now)));
    out.entry("message").or_insert_with(|| json!(""));
    if let (Some(generation), false) = (writer.generation, out.contains_key("observedGeneration")) {
        out.insert("observedGeneration".to_owned(), json!(generation));
    }
    Value::Object(out)
}

/// Listeners by name: those that the specification has no more go, with all that stands there.
fn listeners(stands: &Value, wanted: &Value, writer: Writer<'_>) -> Value {
    let merged = items(wanted).iter().map(|new| {
        let old = items(stands).iter().find(|old| old["name"] == new["name"]);
        let mut out = new.as_object().cloned().unwrap_or_default();
        let before = old.map_or(&Value::Null, |old| &old["conditions"]);
        out.insert("conditions".to_owned(), conditions(before, &new["conditions"], writer));
        Value::Object(out)
    });
    Value::Array(merged.collect())
}

/// Entries of an atomic list: ours are replaced, each in its place; those of others stay, in their order.
fn entries(stands: &Value, wanted: &Value, reference: &str, most: usize, writer: Writer<'_>) -> Value {
    let mut wanted: Vec<&Value> = items(wanted).iter().collect();
    let mut out = Vec::new();
    let foreign = |entry: &Value| entry["controllerName"] != writer.controller_name;
    let others = items(stands).iter().filter(|entry| foreign(entry)).count();
    let mut room = most.saturating_sub(others);
    for old in items(stands) {
        if foreign(old) {
            out.push(old.clone());
        } else if let Some(position) = wanted.iter().position(|new| new[reference] == old[reference])
            && room > 0
        {
            out.push(entry(Some(old), wanted.remove(position), writer));
            room -= 1;
        }
    }
    out.extend(wanted.into_iter().take(room).map(|new| entry(None, new, writer)));
    Value::Array(out)
}

fn entry(old: Option<&Value>, new: &Value, writer: Writer<'_>) -> Value {
    let mut out = new.as_object().cloned().unwrap_or_default();
    let before = old.map_or(&Value::Null, |old| &old["conditions"]);
    out.insert("conditions".to_owned(), conditions(before, &new["conditions"], writer));
    Value::Object(out)
}

/// Whether a status has entries of this controller.
pub(super) fn has_entries(live: &Value, field: &str, controller_name: &str) -> bool {
    items(&live[field]).iter().any(|entry| entry["controllerName"] == controller_name)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-02-02T00:00:00Z";

    fn writer(generation: i64) -> Writer<'static> {
        Writer { controller_name: "ours", generation: Some(generation), now: NOW }
    }

    fn condition(kind: &str, status: &str, generation: i64, since: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "R", "message": "", "observedGeneration": generation,
               "lastTransitionTime": since})
    }

    fn wanted(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "R", "message": ""})
    }

    /// Odd on purpose: unknown fields, another order, an old generation.
    fn foreign() -> Value {
        json!({"lastTransitionTime": OLD, "observedGeneration": 1, "type": "example.com/Stale", "status": "Unknown",
               "reason": "Theirs", "message": "kept\u{a0}", "more": {"a": [1, 2.5, null]}})
    }

    #[test]
    fn foreign_conditions_come_back_bit_identical() {
        let live = json!({"conditions": [condition("Accepted", "True", 1, OLD), foreign(), condition("Programmed", "True", 1, OLD)]});
        let new = json!({"conditions": [wanted("Programmed", "Unknown"), wanted("Accepted", "True")]});
        let changed = changes(&live, &new, writer(2)).unwrap();
        let conditions = changed["conditions"].as_array().unwrap();
        assert_eq!(conditions[1].to_string(), foreign().to_string());
        // The status of one did not change, so its time did not either; all observe the new generation.
        assert_eq!(conditions[0], condition("Accepted", "True", 2, OLD));
        assert_eq!(conditions[2], condition("Programmed", "Unknown", 2, NOW));
    }

    #[test]
    fn nothing_is_written_if_nothing_changes() {
        let live = json!({
            "conditions": [foreign(), condition("Accepted", "True", 2, OLD)],
            "listeners": [{"name": "http", "attachedRoutes": 1, "supportedKinds": [],
                           "conditions": [condition("Accepted", "True", 2, OLD), foreign()]}],
            "addresses": [{"type": "IPAddress", "value": "10.0.0.1"}],
        });
        let new = json!({
            "conditions": [wanted("Accepted", "True")],
            "listeners": [{"name": "http", "attachedRoutes": 1, "supportedKinds": [],
                           "conditions": [wanted("Accepted", "True")]}],
            "addresses": [{"type": "IPAddress", "value": "10.0.0.1"}],
        });
        assert_eq!(changes(&live, &new, writer(2)), None);
        // Only the field that changes is sent.
        let changed = changes(&live, &new, writer(3)).unwrap();
        assert_eq!(changed.keys().collect::<Vec<_>>(), ["conditions", "listeners"]);
    }

    #[test]
    fn a_condition_of_ours_that_applies_no_more_goes() {
        let live = json!({"conditions": [condition("PartiallyInvalid", "True", 1, OLD), foreign(), condition("Accepted", "True", 1, OLD)]});
        let changed =
            changes(&live, &json!({"conditions": [wanted("Accepted", "True")]}), writer(1)).unwrap();
        assert_eq!(changed["conditions"], json!([foreign(), condition("Accepted", "True", 1, OLD)]));
    }

    #[test]
    fn listeners_are_a_map_by_name() {
        let listener = |name: &str, conditions: Value| json!({"name": name, "attachedRoutes": 0, "conditions": conditions});
        let live = json!({"listeners": [
            listener("gone", json!([foreign()])),
            listener("http", json!([foreign(), condition("Accepted", "True", 1, OLD)])),
        ]});
        let new = json!({"listeners": [
            listener("http", json!([wanted("Accepted", "False")])),
            listener("new", json!([wanted("Accepted", "True")])),
        ]});
        let changed = changes(&live, &new, writer(2)).unwrap();
        assert_eq!(
            changed["listeners"],
            json!([
                listener("http", json!([foreign(), condition("Accepted", "False", 2, NOW)])),
                listener("new", json!([condition("Accepted", "True", 2, NOW)])),
            ])
        );
    }

    #[test]
    fn entries_of_other_controllers_survive_in_atomic_lists() {
        for (field, reference) in [("parents", "parentRef"), ("ancestors", "ancestorRef")] {
            let entry = |controller: &str, name: &str, conditions: Value| json!({reference: {"name": name}, "controllerName": controller, "conditions": conditions});
            let stale = json!({"controllerName": "theirs", reference: {"name": "edge", "more": true}, "conditions": [foreign()]});
            let live = json!({field: [
                entry("ours", "left", json!([condition("Accepted", "True", 1, OLD)])),
                stale,
                entry("ours", "edge", json!([condition("Accepted", "True", 1, OLD)])),
            ]});
            let new = json!({field: [
                entry("ours", "added", json!([wanted("Accepted", "True")])),
                entry("ours", "edge", json!([wanted("Accepted", "True")])),
            ]});
            let changed = changes(&live, &new, writer(2)).unwrap();
            let list = changed[field].as_array().unwrap();
            assert_eq!(list.len(), 3, "{list:?}");
            assert_eq!(list[0].to_string(), live[field][1].to_string());
            assert_eq!(list[1], entry("ours", "edge", json!([condition("Accepted", "True", 2, OLD)])));
            assert_eq!(list[2], entry("ours", "added", json!([condition("Accepted", "True", 2, NOW)])));
            // Nothing of ours left: theirs stays.
            let changed = changes(&live, &json!({field: []}), writer(2)).unwrap();
            assert_eq!(changed[field].to_string(), json!([live[field][1]]).to_string());
            assert!(has_entries(&live, field, "ours") && !has_entries(&live, field, "nobody"));
        }
    }

    #[test]
    fn lists_stay_within_their_limit_and_others_go_first() {
        let entry = |controller: &str, n: usize| json!({"ancestorRef": {"name": n.to_string()}, "controllerName": controller, "conditions": []});
        let live = json!({"ancestors": (0..14).map(|n| entry("theirs", n)).collect::<Vec<_>>()});
        let new = json!({"ancestors": (0..5).map(|n| entry("ours", n)).collect::<Vec<_>>()});
        let changed = changes(&live, &new, writer(1)).unwrap();
        let list = changed["ancestors"].as_array().unwrap();
        assert_eq!(list.len(), ANCESTORS);
        assert_eq!(list[..14], live["ancestors"].as_array().unwrap()[..]);
        assert_eq!(list[15], entry("ours", 1));
        // Written again it stands.
        assert_eq!(changes(&Value::Object(changed), &new, writer(1)), None);
    }

    #[test]
    fn conditions_stay_within_their_limit() {
        let theirs: Vec<Value> =
            (0..7).map(|n| condition(&format!("example.com/N{n}"), "True", 1, OLD)).collect();
        let new = json!({"conditions": [wanted("Accepted", "True"), wanted("Programmed", "True")]});
        let changed = changes(&json!({"conditions": theirs}), &new, writer(1)).unwrap();
        let list = changed["conditions"].as_array().unwrap();
        assert_eq!(list.len(), CONDITIONS);
        assert_eq!((&list[..7], &list[7]), (&theirs[..], &condition("Accepted", "True", 1, NOW)));
    }

    #[test]
    fn an_object_without_status_gets_one() {
        for live in [json!(null), json!({}), json!({"conditions": null})] {
            let changed =
                changes(&live, &json!({"conditions": [wanted("Accepted", "True")]}), writer(1)).unwrap();
            assert_eq!(changed["conditions"], json!([condition("Accepted", "True", 1, NOW)]));
        }
    }
}
