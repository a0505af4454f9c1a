//! All fields of a kind, by its published schema.

use super::bundle::Bundle;
use super::schema::{Schema, same};
use super::{Channel, POLICY_GROUP, descend};
use moorgate_model::{FieldPath, Object};

/// The release of Envoy Gateway whose schemas are compiled in, such as `v1.9.0`.
pub fn envoy_gateway_version() -> &'static str {
    &Bundle::envoy_gateway().version
}

/// The kinds of Envoy Gateway whose schemas are compiled in, in the order of names, each with its fields below `spec` that
/// hold no others: `jwt.providers.issuer`. Places in lists are left out.
pub fn envoy_gateway_fields() -> Vec<(&'static str, Vec<String>)> {
    let kinds = Bundle::envoy_gateway().kinds(POLICY_GROUP).into_iter().flatten();
    let fields = |kind: &'static super::bundle::Kind| {
        let mut out = Vec::new();
        let versions = kind.served(Channel::Standard);
        for schema in versions.filter_map(|version| kind.schema(Channel::Standard, version)?.field("spec")) {
            walk(schema, "", &mut out);
        }
        out.sort();
        out.dedup();
        out
    };
    kinds.map(|(name, kind)| (&**name, fields(kind))).collect()
}

/// Whether a field of an object of Envoy Gateway's has the value that its schema gives to those who say nothing.
pub fn is_default(object: &Object, field: &FieldPath) -> bool {
    let kind = Bundle::envoy_gateway().kind(&object.reference.group, &object.reference.kind);
    let schema = kind.and_then(|kind| kind.schema(Channel::Standard, &object.version));
    let schema = schema.and_then(|schema| descend(schema, field.segments()));
    let default = schema.and_then(|schema| schema.default.as_deref());
    default.zip(object.root.at(field)).is_some_and(|(default, value)| same(default, value))
}

fn walk(schema: &Schema, at: &str, out: &mut Vec<String>) {
    if let Some(items) = &schema.items {
        return walk(items, at, out);
    }
    if schema.properties.is_empty() {
        if !at.is_empty() {
            out.push(at.to_owned());
        }
        return;
    }
    for property in &schema.properties {
        let name = if at.is_empty() { property.name.to_string() } else { format!("{at}.{}", property.name) };
        walk(&property.schema, &name, out);
    }
}
