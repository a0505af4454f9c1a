//! The fields of `metadata` that the API server and controllers write. Users' files have them all the same, where they
//! were exported, and an API server reads them before it drops or keeps them.
//!
//! Source: `ObjectMeta` in `k8s.io/apimachinery/pkg/apis/meta/v1`, and `pkg/api/validation/objectmeta.go`.

use super::unknown;
use crate::validate::finding::{self, Finding};
use crate::validate::names;
use crate::validate::schema::{Format, Type};
use moorgate_model::diagnostic::schema as codes;
use moorgate_model::{Mapping, Node, Segment, Value};

/// The finalizers that exclude each other.
const EXCLUSIVE: [&str; 2] = ["orphan", "foregroundDeletion"];
/// What an owner's reference has to say.
const OWNER: [&str; 4] = ["apiVersion", "kind", "name", "uid"];

/// Checks one of these fields; paths start at its value. All others pass.
pub(super) fn check(field: &str, value: &Node, found: &mut Vec<Finding>) {
    if value.value == Value::Null {
        return;
    }
    match field {
        "generateName" | "resourceVersion" | "selfLink" | "uid" => of_type(value, Type::String, found),
        "generation" | "deletionGracePeriodSeconds" => of_type(value, Type::Integer, found),
        "creationTimestamp" | "deletionTimestamp" => time(value, found),
        "finalizers" => finalizers(value, found),
        "ownerReferences" => owners(value, found),
        "managedFields" => each(value, found, |item, found| of_type(item, Type::Object, found)),
        _ => {}
    }
}

fn of_type(value: &Node, want: Type, found: &mut Vec<Finding>) {
    let fits = match (&value.value, want) {
        (Value::String(_), Type::String)
        | (Value::Int(_), Type::Integer)
        | (Value::Bool(_), Type::Boolean)
        | (Value::Mapping(_), Type::Object)
        | (Value::Null, _) => true,
        (Value::Float(number), Type::Integer) => number.fract() == 0.0,
        _ => false,
    };
    if !fits {
        found.push(finding::wrong_type(value, want));
    }
}

fn time(value: &Node, found: &mut Vec<Finding>) {
    let before = found.len();
    of_type(value, Type::String, found);
    if found.len() == before && !Format::DateTime.fits(&value.value) {
        found.push(finding::format(&finding::quote(value), Format::DateTime));
    }
}

/// Goes through a list. Paths of what is found get the item's step.
fn each(value: &Node, found: &mut Vec<Finding>, mut visit: impl FnMut(&Node, &mut Vec<Finding>)) {
    let Value::Sequence(items) = &value.value else {
        found.push(finding::wrong_type(value, Type::Array));
        return;
    };
    for (index, item) in items.iter().enumerate() {
        let before = found.len();
        visit(item, found);
        found.iter_mut().skip(before).for_each(|finding| finding.steps.push(Segment::Index(index)));
    }
}

fn finalizers(value: &Node, found: &mut Vec<Finding>) {
    let mut exclusive = 0;
    each(value, found, |item, found| {
        let before = found.len();
        of_type(item, Type::String, found);
        if found.len() > before {
            return;
        }
        let text = item.as_str().unwrap_or_default();
        exclusive += usize::from(EXCLUSIVE.contains(&text));
        if let Some(said) = names::qualified_name(text) {
            let message = format!("Invalid value: {}: {said}", finding::quote(item));
            found.push(Finding::new(&codes::INVALID_NAME, message, None));
        }
    });
    if exclusive > 1 {
        let message = format!("Invalid value: {} exclude each other", EXCLUSIVE.join(" and "));
        found.push(Finding::new(&codes::INVALID_NAME, message, Some("write one of the two".into())));
    }
}

fn owners(value: &Node, found: &mut Vec<Finding>) {
    let mut controllers = 0;
    each(value, found, |item, found| {
        let empty = Mapping::default();
        let fields = match &item.value {
            Value::Mapping(fields) => fields,
            Value::Null => &empty,
            _ => return found.push(finding::wrong_type(item, Type::Object)),
        };
        for entry in fields.entries() {
            let before = found.len();
            match &*entry.key {
                "controller" | "blockOwnerDeletion" => of_type(&entry.value, Type::Boolean, found),
                key if OWNER.contains(&key) => of_type(&entry.value, Type::String, found),
                key => {
                    found.push(unknown(key));
                    continue;
                }
            }
            let step = || Segment::Key(entry.key.clone());
            found.iter_mut().skip(before).for_each(|finding| finding.steps.push(step()));
        }
        for field in OWNER {
            if fields.get(field).is_none_or(|value| value.value == Value::Null || value.as_str() == Some(""))
            {
                found.push(finding::required(field));
            }
        }
        controllers += usize::from(fields.get("controller").is_some_and(|on| on.value == Value::Bool(true)));
    });
    if controllers > 1 {
        let message = "Invalid value: only one owner can be the controller".to_owned();
        found.push(Finding::new(&codes::COMBINATION, message, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::bundle::node;
    use serde_json::{Value as Json, json};

    fn said(field: &str, value: &Json) -> Vec<String> {
        let mut found = Vec::new();
        check(field, &node(value), &mut found);
        found.iter().map(|finding| format!("{} {}", finding.code.id, finding.path())).collect()
    }

    #[test]
    fn what_controllers_write_has_its_types() {
        let owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b" });
        let with = |field: &str, value: Json| {
            let mut owner = owner.clone();
            owner[field] = value;
            owner
        };
        let boss = with("controller", json!(true));
        for (field, value, expected) in [
            ("uid", json!("a"), vec![]),
            ("uid", json!(1), vec!["MG2001 "]),
            ("generation", json!(5.0), vec![]),
            ("generation", json!("5"), vec!["MG2001 "]),
            ("creationTimestamp", Json::Null, vec![]),
            ("creationTimestamp", json!("2026-01-31T12:00:00Z"), vec![]),
            ("creationTimestamp", json!("yesterday"), vec!["MG2012 "]),
            ("deletionTimestamp", json!(0), vec!["MG2001 "]),
            ("finalizers", json!(["example.com/a", "a"]), vec![]),
            ("finalizers", json!(["a/b/c", 1]), vec!["MG2030 [0]", "MG2001 [1]"]),
            ("finalizers", json!("a"), vec!["MG2001 "]),
            ("finalizers", json!(EXCLUSIVE), vec!["MG2030 "]),
            ("ownerReferences", json!([owner, boss]), vec![]),
            ("ownerReferences", json!([boss, boss]), vec!["MG2013 "]),
            ("ownerReferences", json!([with("odd", json!(1))]), vec!["MG2002 [0].odd"]),
            ("ownerReferences", json!([with("name", json!(""))]), vec!["MG2004 [0].name"]),
            ("ownerReferences", json!([with("controller", json!("yes"))]), vec!["MG2001 [0].controller"]),
            ("ownerReferences", json!({}), vec!["MG2001 "]),
            ("managedFields", json!([{}, 1]), vec!["MG2001 [1]"]),
            ("whatever", json!(1), vec![]),
        ] {
            assert_eq!(said(field, &value), expected, "{field}: {value}");
        }
    }
}
