//! The fields in which two JSON trees differ.

use super::FieldChange;
use serde_json::Value;
use std::collections::BTreeSet;

/// Compares field by field; lists item by item.
pub(super) fn compare(before: &Value, after: &Value) -> Vec<FieldChange> {
    let mut out = Vec::new();
    walk(String::new(), Some(before), Some(after), &mut out);
    out
}

fn walk(path: String, before: Option<&Value>, after: Option<&Value>, out: &mut Vec<FieldChange>) {
    match (before, after) {
        (a, b) if a == b => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(path, a.get(key), b.get(key), out);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                walk(format!("{path}[{index}]"), a.get(index), b.get(index), out);
            }
        }
        (before, after) => {
            out.push(FieldChange { field: path, before: before.cloned(), after: after.cloned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_the_deepest_field() {
        let changes = compare(&json!({"a": {"b": [1, 2]}, "c": 1}), &json!({"a": {"b": [1, 3, 4]}, "c": 1}));
        let fields: Vec<_> = changes.iter().map(|change| change.field.as_str()).collect();
        assert_eq!(fields, ["a.b[1]", "a.b[2]"]);
        assert_eq!((&changes[1].before, &changes[1].after), (&None, &Some(json!(4))));
    }
}
