//! Manifests as YAML: block style, keys in order, and quotes around whatever any reader of YAML 1.1 or 1.2 might take for
//! something else than text.

use serde_json::Value;
use std::fmt::Write as _;

/// Words that some readers take for truth values, null or numbers.
const WORDS: [&str; 11] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"];

/// A document for each manifest, each behind `---`.
pub fn documents(manifests: &[Value]) -> String {
    let mut out = String::new();
    for manifest in manifests {
        out.push_str("---\n");
        block(&mut out, manifest, 0);
    }
    out
}

/// A mapping or list on lines of its own, or anything else followed by a line end.
fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (number, (key, value)) in fields.iter().enumerate() {
                // The first field of a list's item stands behind its dash.
                if number > 0 || !out.ends_with("- ") {
                    pad(out, indent);
                }
                scalar(out, key);
                out.push(':');
                nested(out, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (number, item) in items.iter().enumerate() {
                if number > 0 || !out.ends_with("- ") {
                    pad(out, indent);
                }
                out.push_str("- ");
                match item {
                    Value::Object(_) | Value::Array(_) => block(out, item, indent + 2),
                    _ => inline(out, item, indent + 2),
                }
            }
        }
        _ => inline(out, value, indent),
    }
}

/// The value of a field, behind its colon.
fn nested(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            out.push('\n');
            block(out, value, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(out, value, indent);
        }
        _ => {
            out.push(' ');
            inline(out, value, indent + 2);
        }
    }
}

fn inline(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::String(text) if is_block(text) => literal(out, text, indent),
        Value::String(text) => {
            scalar(out, text);
            out.push('\n');
        }
        _ => {
            let _ = writeln!(out, "{value}");
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Whether a text can stand as a literal block: lines of printable characters, one line end at the end.
fn is_block(text: &str) -> bool {
    let printable = |c: char| {
        c == '\n' || !(c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}'))
    };
    text.ends_with('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
        && text.chars().all(printable)
}

fn literal(out: &mut String, text: &str, indent: usize) {
    out.push_str("|\n");
    for line in text.lines() {
        if !line.is_empty() {
            pad(out, indent);
            out.push_str(line);
        }
        out.push('\n');
    }
}

/// A text as it is where that can only be read as text, else in quotes, which JSON and YAML share.
fn scalar(out: &mut String, text: &str) {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._/".contains(c))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        out.push_str(text);
    } else {
        let _ = write!(out, "{}", Value::from(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::load;
    use crate::source::File;
    use proptest::prelude::*;
    use serde_json::json;

    fn read_back(value: &Value) -> Value {
        let manifest = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}, "data": value,
        });
        let text = documents(std::slice::from_ref(&manifest));
        let file = File { name: "test.yaml".into(), bytes: text.clone().into_bytes().into() };
        let loaded = load(&[file]);
        assert_eq!(loaded.objects.len(), 1, "{text}\n{:?}", loaded.diagnostics);
        let found = serde_json::to_value(loaded.objects[0].root.to_json()).unwrap();
        assert_eq!(found["metadata"], manifest["metadata"], "{text}");
        found["data"].clone()
    }

    #[test]
    fn what_looks_like_something_else_is_quoted() {
        for text in [
            "yes", "No", "on", "y", "~", "null", "1", "1e3", "0x1f", "1_0", "12:30", ".5", "-", "", "a: b",
            "#", "NaN",
        ] {
            let out = documents(&[json!({"a": text})]);
            assert_eq!(out, format!("---\na: \"{text}\"\n"));
        }
        assert_eq!(documents(&[json!({"a": "plain-text"})]), "---\na: plain-text\n");
    }

    #[test]
    fn nests_as_people_write_it() {
        let value = json!({"list": [{"a": 1, "b": ["x", []]}, "y", {}], "text": "one\n  two\n\nthree\n", "none": null});
        let text = "---\nlist:\n- a: 1\n  b:\n  - x\n  - []\n- \"y\"\n- {}\nnone: null\ntext: |\n  one\n    two\n\n  three\n";
        assert_eq!(documents(std::slice::from_ref(&value)), text);
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[ -~]{0,12}",
            "(([a-z:#{} \\-]{0,8})\n){1,4}",
            "\\PC{0,6}",
            Just("a\r\nb\n".to_owned()),
            Just("\tx\n".to_owned()),
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{1,8}", inner, 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_is_read_back(value in value()) {
            prop_assert_eq!(read_back(&value), value);
        }
    }
}
