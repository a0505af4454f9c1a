//! Tags of spans, as EnvoyProxy and BackendTrafficPolicy have them in two lists: `customTags`, and the newer `tags`.
//!
//! Envoy refuses a whole listener or table of routes for one tag that it does not take, so each is looked at by itself.

use crate::lowering::is_header_name;
use envoy_types::pb::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::collections::BTreeMap;

/// One of `customTags`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tag {
    #[serde(rename = "type")]
    kind: Option<String>,
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

/// What Envoy would not take: the field, and why.
pub(crate) type Refused = (FieldPath, String);

/// The tags of both lists below a field, by name, and those that are none: of formats, as it is `judged`. A name in both lists
/// is that of the newer one.
pub(crate) fn lower(
    tags: &BTreeMap<String, String>,
    custom: &BTreeMap<String, Tag>,
    at: &FieldPath,
    judged: impl Fn(&str) -> Result<(), String>,
) -> (Vec<CustomTag>, Vec<Refused>) {
    let (mut found, mut refused) = (BTreeMap::new(), Vec::new());
    let older = custom.iter().map(|(name, tag)| {
        let at = at.key("customTags").key(name);
        (name, tag.lower(&at), at)
    });
    let newer = tags.iter().map(|(name, text)| {
        let at = at.key("tags").key(name);
        let value = judged(text).map(|()| custom_tag::Type::Value(text.clone()));
        (name, value.map_err(|why| (at.clone(), why)), at)
    });
    for (name, tag, at) in older.chain(newer) {
        match tag {
            Ok(_) if name.is_empty() => refused.push((at, "a tag needs a name".to_owned())),
            Ok(tag) => drop(found.insert(name.clone(), tag)),
            Err(why) => refused.push(why),
        }
    }
    let named = |(tag, found)| CustomTag { tag, r#type: Some(found) };
    (found.into_iter().map(named).collect(), refused)
}

impl Tag {
    /// What its type says it is.
    fn lower(&self, at: &FieldPath) -> Result<custom_tag::Type, Refused> {
        let kind = self.kind.as_deref().unwrap_or("Literal");
        match (kind, &self.literal, &self.environment, &self.request_header) {
            ("Literal", Some(literal), ..) if !literal.value.is_empty() => {
                Ok(custom_tag::Type::Literal(custom_tag::Literal { value: literal.value.clone() }))
            }
            ("Environment", _, Some(variable), _) if !variable.name.is_empty() => {
                Ok(custom_tag::Type::Environment(custom_tag::Environment {
                    name: variable.name.clone(),
                    default_value: variable.default_value.clone().unwrap_or_default(),
                }))
            }
            ("RequestHeader", .., Some(header)) if is_header_name(&header.name) => {
                Ok(custom_tag::Type::RequestHeader(custom_tag::Header {
                    name: header.name.to_ascii_lowercase(),
                    default_value: header.default_value.clone().unwrap_or_default(),
                }))
            }
            ("RequestHeader", .., Some(header)) => {
                let why = format!("{:?} is no name of a header", header.name);
                Err((at.key("requestHeader").key("name"), why))
            }
            _ => {
                let why =
                    "its type says Literal, Environment or RequestHeader, and the field of that name what";
                Err((at.clone(), why.to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators;

    #[test]
    fn each_tag_stands_or_falls_by_itself() {
        let custom: BTreeMap<String, Tag> = serde_json::from_str(
            r#"{"both": {"type": "Literal", "literal": {"value": "old"}}, "pod": {"type": "Environment", "environment": {"name": "POD"}},
                "user": {"type": "RequestHeader", "requestHeader": {"name": "X-User", "defaultValue": "nobody"}},
                "": {"type": "Literal", "literal": {"value": "x"}}, "none": {"type": "Environment", "environment": {"name": ""}},
                "odd": {"type": "RequestHeader", "requestHeader": {"name": "a b"}}, "other": {"type": "Environment", "literal": {"value": "x"}}}"#,
        )
        .unwrap();
        let tags: BTreeMap<String, String> =
            [("both", "%PROTOCOL%"), ("place", "%ENVIRONMENT(ZONE)%"), ("half", "50%")]
                .map(|(name, text)| (name.to_owned(), text.to_owned()))
                .into();
        let (found, refused) =
            lower(&tags, &custom, &FieldPath::parse("tracing"), |text| operators::spanned(text).map(drop));
        let header = custom_tag::Header { name: "x-user".into(), default_value: "nobody".into() };
        let pod = custom_tag::Environment { name: "POD".into(), default_value: String::new() };
        let expected = [
            ("both", custom_tag::Type::Value("%PROTOCOL%".into())),
            ("place", custom_tag::Type::Value("%ENVIRONMENT(ZONE)%".into())),
            ("pod", custom_tag::Type::Environment(pod)),
            ("user", custom_tag::Type::RequestHeader(header)),
        ];
        let expected = expected.map(|(tag, found)| CustomTag { tag: tag.into(), r#type: Some(found) });
        assert_eq!(found, expected);
        let fields: Vec<String> = refused.iter().map(|(field, _)| field.to_string()).collect();
        let custom = |name: &str| FieldPath::parse("tracing.customTags").key(name).to_string();
        let odd = FieldPath::parse("tracing.customTags.odd.requestHeader.name").to_string();
        assert_eq!(fields, [custom(""), custom("none"), odd, custom("other"), "tracing.tags.half".into()]);
    }
}
