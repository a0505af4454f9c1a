//! Templates of secrets, as a difference names them.

use moorgate_snapshot::template::{Entry, Form, Part};
use moorgate_snapshot::{Digest, Template};
use serde_json::{Value, json};

/// A short name for what is around the entries of Secrets: another one if any of it is different. It is that of the parts
/// as JSON, so that how this program holds them in memory has no part in it.
pub(super) fn name(template: &Template) -> String {
    Digest::of(list(&template.parts).to_string().as_bytes()).short()
}

fn list(parts: &[Part]) -> Value {
    parts.iter().map(part).collect()
}

/// As lists, which are always in the same order.
fn part(part: &Part) -> Value {
    match part {
        Part::Bytes(bytes) => json!(["bytes", Digest::of(bytes).to_string()]),
        Part::Field { number, parts } => json!(["field", number, list(parts)]),
        Part::Entry(Entry { object, key, form, or_random }) => {
            json!(["entry", object, &**key, word(*form), or_random])
        }
        Part::Each(parts) => json!(["each", list(parts)]),
        Part::Name => json!(["name"]),
        Part::Value => json!(["value"]),
    }
}

fn word(form: Form) -> &'static str {
    match form {
        Form::Opaque => "opaque",
        Form::Htpasswd => "htpasswd",
        Form::Word => "word",
        Form::Authorities => "authorities",
        Form::Revoked => "revoked",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_part_counts() {
        let entry = |object, key: &str, form, or_random| {
            Part::Entry(Entry { object, key: key.into(), form, or_random })
        };
        let field = |number, parts| Part::Field { number, parts };
        let all = [
            vec![Part::Bytes("a".into())],
            vec![Part::Bytes("b".into())],
            vec![field(1, vec![Part::Bytes("a".into())])],
            vec![field(2, vec![Part::Bytes("a".into())])],
            vec![entry(0, "a", Form::Opaque, false)],
            vec![entry(1, "a", Form::Opaque, false)],
            vec![entry(0, "b", Form::Opaque, false)],
            vec![entry(0, "a", Form::Word, false)],
            vec![entry(0, "a", Form::Opaque, true)],
            vec![Part::Each(vec![Part::Name])],
            vec![Part::Each(vec![Part::Value])],
            vec![Part::Each(vec![Part::Name, Part::Value])],
        ];
        let name = |parts: &Vec<Part>| name(&Template { objects: Vec::new(), parts: parts.clone() });
        assert_eq!(all.iter().map(name).collect::<BTreeSet<_>>().len(), all.len());
        // What is in a report of yesterday has the same name today.
        assert_eq!(name(&all[4]), "7827c7c60199");
    }
}
