//! Changes of headers, as policies write them.

use crate::{Lowering, operators};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutation;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::{Action, RemoveOnMatch};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// What is set, added and removed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Changes {
    #[serde(default)]
    pub(crate) set: Vec<Header>,
    #[serde(default)]
    pub(crate) add: Vec<Header>,
    #[serde(default)]
    add_if_absent: Vec<Header>,
    #[serde(default)]
    pub(crate) remove: Vec<String>,
    #[serde(default)]
    remove_on_match: Vec<Text>,
}

/// A header with its value, in which Envoy's operators are filled in.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Header {
    name: String,
    #[serde(default)]
    value: String,
}

/// A text that is compared.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Text {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: String,
}

/// Headers that are set and added, as Envoy has them; none if one is wrong.
pub(crate) fn options(
    changes: &Changes,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<Vec<HeaderValueOption>> {
    let mut out = Vec::new();
    for (list, headers, action) in [
        ("set", &changes.set, HeaderAppendAction::OverwriteIfExistsOrAdd),
        ("add", &changes.add, HeaderAppendAction::AppendIfExistsOrAdd),
        ("addIfAbsent", &changes.add_if_absent, HeaderAppendAction::AddIfAbsent),
    ] {
        for (index, header) in headers.iter().enumerate() {
            let at = at.key(list).index(index);
            if !cx.header_name(at.key("name"), &header.name) {
                return None;
            }
            let name = header.name.to_ascii_lowercase();
            if name == "host" {
                cx.invalid(at.key("name"), "Envoy does not change this header here");
                return None;
            }
            let value = checked(&header.value, &at.key("value"), cx)?;
            out.push(HeaderValueOption {
                keep_empty_value: value.is_empty(),
                header: Some(HeaderValue { key: name, value, ..Default::default() }),
                append_action: action.into(),
                ..Default::default()
            });
        }
    }
    Some(out)
}

/// A value with operators that Envoy has, and nothing that ends a header.
pub(crate) fn checked(value: &str, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<String> {
    let wrong = if value.chars().any(char::is_control) {
        Err("a header has one line".to_owned())
    } else {
        operators::check(value)
    };
    match wrong {
        Ok(()) => Some(value.to_owned()),
        Err(why) => {
            cx.invalid(at.clone(), &why);
            None
        }
    }
}

/// All changes, as Envoy has them; none if one is wrong.
pub(crate) fn mutations(
    changes: &Changes,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<Vec<HeaderMutation>> {
    let options = options(changes, at, cx)?;
    let mut out: Vec<Action> = options.into_iter().map(Action::Append).collect();
    for (index, name) in changes.remove.iter().enumerate() {
        if !cx.header_name(at.key("remove").index(index), name) {
            return None;
        }
        out.push(Action::Remove(name.to_ascii_lowercase()));
    }
    for (index, text) in changes.remove_on_match.iter().enumerate() {
        let pattern = pattern(text, &at.key("removeOnMatch").index(index), cx)?;
        // Names of headers have no case.
        let ignore_case = !matches!(pattern, MatchPattern::SafeRegex(_));
        let key_matcher = StringMatcher { match_pattern: Some(pattern), ignore_case };
        out.push(Action::RemoveOnMatch(RemoveOnMatch { key_matcher: Some(key_matcher) }));
    }
    Some(out.into_iter().map(|action| HeaderMutation { action: Some(action) }).collect())
}

/// How a text is compared; none if that is wrong.
pub(crate) fn pattern(text: &Text, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<MatchPattern> {
    let value = text.value.clone();
    let kind = text.kind.as_deref().unwrap_or("Exact");
    // Envoy takes no empty beginning or end.
    if value.is_empty() && kind != "Exact" {
        cx.invalid(at.key("value"), "an empty text fits everything");
        return None;
    }
    match kind {
        "Exact" => Some(MatchPattern::Exact(value)),
        "Prefix" => Some(MatchPattern::Prefix(value)),
        "Suffix" => Some(MatchPattern::Suffix(value)),
        "RegularExpression" => cx.expression(at.key("value"), &value),
        other => {
            cx.invalid(at.key("type"), &format!("type {other} is not known"));
            None
        }
    }
}
