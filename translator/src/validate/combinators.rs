//! `allOf`, `anyOf`, `oneOf` and `not`: checks of a value that has its defaults, without a place of their own.

use super::finding::quote;
use super::schema::{Combinators, Schema, Type, same};
use moorgate_model::{Node, Value};
use std::sync::Arc;

/// Which combinator a value breaks, and what it would allow.
pub(crate) fn fault(node: &Node, combinators: &Combinators) -> Option<(String, Vec<String>)> {
    let count = |branches: &[Arc<Schema>]| branches.iter().filter(|branch| fits(node, branch)).count();
    let allowed = |branches: &[Arc<Schema>]| branches.iter().map(|branch| describe(branch)).collect();
    if count(&combinators.all_of) < combinators.all_of.len() {
        return Some(("must validate all the schemas (allOf)".into(), allowed(&combinators.all_of)));
    }
    if !combinators.any_of.is_empty() && count(&combinators.any_of) == 0 {
        return Some(("must validate at least one schema (anyOf)".into(), allowed(&combinators.any_of)));
    }
    if !combinators.one_of.is_empty() {
        let valid = count(&combinators.one_of);
        if valid != 1 {
            let found = if valid == 0 { "none" } else { "more than one" };
            let said = format!("must validate one and only one schema (oneOf), found {found} valid");
            return Some((said, allowed(&combinators.one_of)));
        }
    }
    let unwanted = combinators.not.as_ref().filter(|schema| fits(node, schema))?;
    Some((format!("must not be: {}", describe(unwanted)), Vec::new()))
}

/// Whether a value passes a schema's checks.
pub(crate) fn fits(node: &Node, schema: &Schema) -> bool {
    let own = match &node.value {
        Value::Null => schema.nullable || schema.kind == Type::Any,
        Value::Mapping(fields) => {
            matches!(schema.kind, Type::Object | Type::Any)
                && schema.size.holds(fields.len())
                && schema.fields(schema.required).all(|property| fields.get(&property.name).is_some())
                && schema.required_elsewhere.iter().all(|name| fields.get(name).is_some())
                && fields
                    .entries()
                    .iter()
                    .all(|entry| schema.field(&entry.key).is_none_or(|child| fits(&entry.value, child)))
        }
        Value::Sequence(items) => {
            matches!(schema.kind, Type::Array | Type::Any)
                && schema.size.holds(items.len())
                && schema.items.as_ref().is_none_or(|child| items.iter().all(|item| fits(item, child)))
        }
        Value::String(text) => {
            matches!(schema.kind, Type::String | Type::IntOrString | Type::Any)
                && schema.size.holds(text.chars().count())
                && schema.pattern.as_ref().is_none_or(|pattern| pattern.matches(text))
        }
        #[allow(clippy::cast_precision_loss, reason = "bounds are small")]
        Value::Int(number) => {
            matches!(schema.kind, Type::Integer | Type::Number | Type::IntOrString | Type::Any)
                && schema.range.as_ref().is_none_or(|bounds| bounds.hold(*number as f64))
        }
        Value::Float(number) => {
            matches!(schema.kind, Type::Number | Type::Any)
                && schema.range.as_ref().is_none_or(|bounds| bounds.hold(*number))
        }
        Value::Bool(_) => matches!(schema.kind, Type::Boolean | Type::Any),
    };
    own && schema.format.is_none_or(|format| format.fits(&node.value))
        && (schema.choices.is_empty() || schema.choices.iter().any(|choice| same(choice, node)))
        && schema.combinators.as_ref().is_none_or(|combinators| fault(node, combinators).is_none())
}

/// A schema in a few words: `type is "IPAddress" and value is an ipv4 or an ipv6`.
fn describe(schema: &Schema) -> String {
    let mut parts = Vec::new();
    for property in &schema.properties {
        parts.push(format!("{} {}", property.name, describe(&property.schema)));
    }
    let required = schema.fields(schema.required).map(|property| &*property.name);
    parts.extend(
        required
            .chain(schema.required_elsewhere.iter().map(|name| &**name))
            .map(|name| format!("{name} is set")),
    );
    if !schema.choices.is_empty() {
        let choices: Vec<String> = schema.choices.iter().map(quote).collect();
        parts.push(format!("is {}", choices.join(" or ")));
    }
    if let Some(format) = schema.format {
        parts.push(format!("is of format {}", format.name()));
    }
    if let Some(pattern) = &schema.pattern {
        parts.push(format!("matches '{}'", pattern.text));
    }
    if let Some(combinators) = &schema.combinators {
        let any: Vec<String> =
            combinators.any_of.iter().chain(&combinators.one_of).map(|branch| describe(branch)).collect();
        if !any.is_empty() {
            parts.push(any.join(" or "));
        }
        parts.extend(combinators.all_of.iter().map(|branch| describe(branch)));
        parts.extend(combinators.not.iter().map(|unwanted| format!("not: {}", describe(unwanted))));
    }
    parts.join(" and ")
}
