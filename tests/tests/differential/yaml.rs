//! YAML as people write it: blocks, and quotes where a word would be read as something else.

use serde_json::Value;
use std::fmt::Write as _;

/// Words that some parser takes for no text.
const WORDS: [&str; 12] = ["yes", "no", "on", "off", "y", "n", "true", "false", "null", "~", "", "nan"];

/// A text as a key or value.
fn scalar(text: &str) -> String {
    let letter = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/.-_".contains(c));
    let word = WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if letter && plain && !word { text.to_owned() } else { Value::from(text).to_string() }
}

fn write(value: &Value, indent: usize, out: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                let _ = write!(out, "\n{pad}{}:", scalar(key));
                write(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let _ = write!(out, "\n{pad}-");
                write(item, indent + 2, out);
            }
        }
        Value::String(text) => {
            let _ = write!(out, " {}", scalar(text));
        }
        other => {
            let _ = write!(out, " {other}");
        }
    }
}

/// One document.
pub(crate) fn document(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out.trim_start_matches('\n').to_owned() + "\n"
}
