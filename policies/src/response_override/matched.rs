//! Which responses are replaced.

use crate::Lowering;
use crate::headers::{self, Text};
use crate::lowering::any;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern as EnvoyPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    HttpResponseHeaderMatchInput, HttpResponseLocalReplyMatchInput, HttpResponseStatusCodeMatchInput,
};
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::Predicate;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate, single_predicate,
};
use envoy_types::pb::xds::r#type::matcher::v3::regex_matcher::{EngineType, GoogleRe2};
use envoy_types::pb::xds::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::xds::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use moorgate_model::FieldPath;
use prost::{Message, Name};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Match {
    #[serde(default)]
    status_codes: Vec<Code>,
    #[serde(default)]
    response_headers: Vec<Header>,
}

#[derive(Debug, Deserialize)]
struct Code {
    value: Option<u32>,
    range: Option<Range>,
}

#[derive(Debug, Deserialize)]
struct Range {
    start: u32,
    end: u32,
}

#[derive(Debug, Deserialize)]
struct Header {
    name: String,
    value: Text,
}

fn single<M: Message + Name>(name: &str, input: &M, pattern: MatchPattern) -> Predicate {
    let input = TypedExtensionConfig { name: name.into(), typed_config: Some(any(input)) };
    let text = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    Predicate {
        match_type: Some(MatchType::SinglePredicate(SinglePredicate {
            input: Some(input),
            matcher: Some(single_predicate::Matcher::ValueMatch(text)),
        })),
    }
}

fn expression(regex: String) -> MatchPattern {
    MatchPattern::SafeRegex(RegexMatcher { regex, engine_type: Some(EngineType::GoogleRe2(GoogleRe2 {})) })
}

/// What a response must be; none if that is wrong.
pub(super) fn predicate(
    found: &Match,
    source: Option<&str>,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<Predicate> {
    let mut all = Vec::new();
    let matched = at.key("match");
    if let Some(pattern) = statuses(&found.status_codes, &matched.key("statusCodes"), cx)? {
        all.push(single("status", &HttpResponseStatusCodeMatchInput {}, pattern));
    }
    for (index, header) in found.response_headers.iter().enumerate() {
        let at = matched.key("responseHeaders").index(index);
        if !cx.header_name(at.key("name"), &header.name) {
            return None;
        }
        let pattern = match headers::pattern(&header.value, &at.key("value"), cx)? {
            EnvoyPattern::Exact(text) => MatchPattern::Exact(text),
            EnvoyPattern::Prefix(text) => MatchPattern::Prefix(text),
            EnvoyPattern::Suffix(text) => MatchPattern::Suffix(text),
            EnvoyPattern::SafeRegex(found) => expression(found.regex),
            _ => return None,
        };
        let input = HttpResponseHeaderMatchInput { header_name: header.name.to_ascii_lowercase() };
        all.push(single("header", &input, pattern));
    }
    if all.is_empty() {
        cx.invalid(matched, "nothing says which responses are replaced");
        return None;
    }
    match source {
        None | Some("All") => {}
        Some(known @ ("Local" | "Backend")) => {
            let wanted = MatchPattern::Exact((known == "Local").to_string());
            all.push(single("local-reply", &HttpResponseLocalReplyMatchInput {}, wanted));
        }
        Some(other) => {
            cx.invalid(at.key("source"), &format!("{other:?} is neither All, Local nor Backend"));
            return None;
        }
    }
    if all.len() == 1 {
        return all.pop();
    }
    Some(Predicate { match_type: Some(MatchType::AndMatcher(PredicateList { predicate: all })) })
}

/// An expression for all codes together; the outer none if one is wrong.
#[expect(clippy::option_option, reason = "wrong and absent are two things")]
fn statuses(codes: &[Code], at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Option<MatchPattern>> {
    let mut parts = Vec::new();
    for (index, code) in codes.iter().enumerate() {
        let range = match (code.value, &code.range) {
            (Some(value), None) => Some((value, value)),
            (None, Some(range)) => Some((range.start, range.end)),
            _ => None,
        };
        let Some((start, end)) =
            range.filter(|(start, end)| (100..=599).contains(start) && (start..=&599).contains(&end))
        else {
            cx.invalid(at.index(index), "it is a status of HTTP, or a range of them, 100 to 599");
            return None;
        };
        parts.extend(numbers(start, end));
    }
    Some(match parts.as_slice() {
        [] => None,
        [only] if !only.contains('[') => Some(MatchPattern::Exact(only.clone())),
        several => Some(expression(several.join("|"))),
    })
}

/// Expressions that together fit the numbers of three digits in a range.
fn numbers(start: u32, end: u32) -> Vec<String> {
    let mut out = Vec::new();
    let mut next = start;
    while next <= end {
        let (text, count) = if next.is_multiple_of(100) && next + 99 <= end {
            (format!("{}[0-9]{{2}}", next / 100), 100)
        } else if next.is_multiple_of(10) && next + 9 <= end {
            (format!("{}[0-9]", next / 10), 10)
        } else {
            (next.to_string(), 1)
        };
        out.push(text);
        next += count;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_short_as_they_can_be() {
        assert_eq!(numbers(404, 404), ["404"]);
        assert_eq!(numbers(498, 511), ["498", "499", "50[0-9]", "510", "511"]);
        assert_eq!(numbers(400, 599), ["4[0-9]{2}", "5[0-9]{2}"]);
    }
}
