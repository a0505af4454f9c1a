//! Tags of spans (EnvoyProxy `telemetry.tracing.tags` and `customTags`).

use super::{Cx, at};
use envoy_types::pb::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tag {
    literal: Option<Literal>,
    environment: Option<Named>,
    request_header: Option<Named>,
}

#[derive(Debug, Deserialize)]
struct Literal {
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name: String,
    default_value: Option<String>,
}

/// Both lists; a name in both is that of the newer list.
pub(super) fn lower(
    tags: &BTreeMap<String, String>,
    custom: &BTreeMap<String, Tag>,
    cx: &mut Cx<'_, '_>,
) -> Vec<CustomTag> {
    let mut out: BTreeMap<&str, custom_tag::Type> = BTreeMap::new();
    for (name, tag) in custom {
        let found = match tag {
            Tag { literal: Some(found), .. } => {
                custom_tag::Type::Literal(custom_tag::Literal { value: found.value.clone() })
            }
            Tag { environment: Some(found), .. } => custom_tag::Type::Environment(custom_tag::Environment {
                name: found.name.clone(),
                default_value: found.default_value.clone().unwrap_or_default(),
            }),
            Tag { request_header: Some(found), .. } => custom_tag::Type::RequestHeader(custom_tag::Header {
                name: found.name.clone(),
                default_value: found.default_value.clone().unwrap_or_default(),
            }),
            _ => continue,
        };
        out.insert(name, found);
    }
    for (name, format) in tags {
        if cx.format(format, &at("telemetry.tracing.tags").key(name), "spans lack this tag").is_some() {
            out.insert(name, custom_tag::Type::Value(format.clone()));
        }
    }
    let all = out.into_iter().map(|(name, found)| CustomTag { tag: name.to_owned(), r#type: Some(found) });
    all.filter(|tag| {
        let list = if tags.contains_key(&tag.tag) { "tags" } else { "customTags" };
        let field = at("telemetry.tracing").key(list).key(&tag.tag);
        cx.fits(tag, true, field, "spans lack this tag")
    })
    .collect()
}
