//! Another path or host for the backend (HTTPRouteFilter `urlRewrite`).

use crate::{About, Capability, Effect, Kind, Lowering, OfRule};
use envoy_types::pb::envoy::config::route::v3::RouteAction;
use envoy_types::pb::envoy::config::route::v3::route_action::HostRewriteSpecifier;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct UrlRewrite;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    url_rewrite: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    hostname: Option<Hostname>,
    path: Option<Path>,
    append_x_forwarded_host: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hostname {
    #[serde(rename = "type")]
    kind: String,
    header: Option<String>,
    path_regex: Option<Substitution>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    #[serde(rename = "type")]
    kind: String,
    replace_regex_match: Option<Substitution>,
}

#[derive(Debug, Deserialize)]
struct Substitution {
    pattern: String,
    substitution: String,
}

/// `append_x_forwarded_host` of Envoy's `RouteAction`.
const APPEND: &[u32] = &[38];

impl Capability for UrlRewrite {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "url_rewrite",
        kind: Kind::RouteFilter,
        fields: &["urlRewrite"],
        except: &[],
        since: "0.2.0",
        docs: "\
Backends see another path (path.replaceRegexMatch: what the pattern meets is replaced, with \\1 for its groups), or another host: the value of a \
header, the name of the endpoint (Backend; only endpoints with a hostname have one), or what pathRegex makes of the path. What was the host before \
stands in X-Forwarded-Host, unless appendXForwardedHost is false. A rule has one rewrite of the path and one of the host, filters of the \
Gateway API counted in.",
        effect: Effect::Route,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.url_rewrite else { return };
        let at = FieldPath::parse("spec.urlRewrite");
        let mut action = RouteAction::default();
        let mut rule = OfRule::default();
        if let Some(path) = &rules.path {
            let at = at.key("path");
            let Some(wanted) = path.replace_regex_match.as_ref().filter(|_| path.kind == "ReplaceRegexMatch")
            else {
                return cx.invalid(at, "exactly the field that the type names must be set");
            };
            let Some(found) = substitution(wanted, &at.key("replaceRegexMatch"), cx) else { return };
            (action.regex_rewrite, rule.path) = (Some(found), true);
        }
        if let Some(hostname) = &rules.hostname {
            let Some(found) = host(hostname, &at.key("hostname"), cx) else { return };
            (action.host_rewrite_specifier, rule.host) = (Some(found), true);
            action.append_x_forwarded_host = rules.append_x_forwarded_host.unwrap_or(true);
        }
        let silent = rules.append_x_forwarded_host == Some(false);
        if action != RouteAction::default() || silent {
            cx.forward(&action, if silent { &[APPEND] } else { &[] });
        }
        cx.rule(&rule);
    }
}

fn host(hostname: &Hostname, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<HostRewriteSpecifier> {
    match (hostname.kind.as_str(), &hostname.header, &hostname.path_regex) {
        ("Header", Some(name), None) => {
            let name = name.to_ascii_lowercase();
            cx.header_name(at.key("header"), &name).then_some(HostRewriteSpecifier::HostRewriteHeader(name))
        }
        ("Backend", None, None) => Some(HostRewriteSpecifier::AutoHostRewrite(BoolValue { value: true })),
        ("PathRegex", None, Some(wanted)) => {
            substitution(wanted, &at.key("pathRegex"), cx).map(HostRewriteSpecifier::HostRewritePathRegex)
        }
        _ => {
            cx.invalid(at.clone(), "exactly the field that the type names must be set");
            None
        }
    }
}

fn substitution(
    wanted: &Substitution,
    at: &FieldPath,
    cx: &mut Lowering<'_>,
) -> Option<RegexMatchAndSubstitute> {
    cx.expression(at.key("pattern"), &wanted.pattern)?;
    if let Some(why) = wrong(&wanted.substitution, groups(&wanted.pattern)) {
        cx.invalid(at.key("substitution"), why);
        return None;
    }
    Some(RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher { regex: wanted.pattern.clone(), engine_type: None }),
        substitution: wanted.substitution.clone(),
    })
}

/// How many groups an expression captures. It is known to be one.
fn groups(pattern: &str) -> u32 {
    let (mut count, mut class, mut escaped) = (0, false, false);
    for (at, byte) in pattern.bytes().enumerate() {
        if escaped {
            escaped = false;
            continue;
        }
        match byte {
            b'\\' => escaped = true,
            b'[' => class = true,
            b']' => class = false,
            b'(' if !class => {
                let after = pattern.get(at + 1..).unwrap_or_default();
                let plain = !after.starts_with('?');
                count += u32::from(plain || after.starts_with("?P<") || after.starts_with("?<"));
            }
            _ => {}
        }
    }
    count
}

/// What is wrong with the text that takes the place of what was met (RE2 `Rewrite`).
fn wrong(text: &str, groups: u32) -> Option<&'static str> {
    if text.contains(['\r', '\n', '\0']) {
        return Some("it holds characters that no header has");
    }
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            continue;
        }
        match characters.next() {
            Some('\\') => {}
            Some(digit) if digit.to_digit(10).is_some_and(|number| number <= groups) => {}
            Some(digit) if digit.is_ascii_digit() => return Some("the pattern has no such group"),
            _ => return Some("a backslash stands before the number of a group, or before another one"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    fn action(spec: &str) -> (RouteAction, bool) {
        let compiled = testing::compile(Kind::RouteFilter, &format!(r#"{{"urlRewrite": {spec}}}"#));
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let part = &compiled.parts["url_rewrite"];
        (patched(&part.forward), part.forward[0].clear.is_empty())
    }

    #[test]
    fn paths_and_hosts() {
        let (both, keeps) = action(
            r#"{"path": {"type": "ReplaceRegexMatch", "replaceRegexMatch": {"pattern": "^/s/([^/]+)(/.*)$", "substitution": "\\2/i/\\1"}},
                "hostname": {"type": "Header", "header": "X-Host"}}"#,
        );
        assert_eq!(both.regex_rewrite.unwrap().substitution, "\\2/i/\\1");
        let header = HostRewriteSpecifier::HostRewriteHeader("x-host".into());
        assert_eq!(
            (both.host_rewrite_specifier, both.append_x_forwarded_host, keeps),
            (Some(header), true, true)
        );
        let (own, keeps) = action(r#"{"hostname": {"type": "Backend"}, "appendXForwardedHost": false}"#);
        assert!(matches!(own.host_rewrite_specifier, Some(HostRewriteSpecifier::AutoHostRewrite(_))));
        assert!(!own.append_x_forwarded_host && !keeps);
        let (path, _) = action(
            r#"{"hostname": {"type": "PathRegex", "pathRegex": {"pattern": "^/t/([a-z]+)/.*", "substitution": "\\1.internal"}}}"#,
        );
        assert!(matches!(path.host_rewrite_specifier, Some(HostRewriteSpecifier::HostRewritePathRegex(_))));
    }

    #[test]
    fn groups_are_counted_and_asked_for() {
        for (pattern, expected) in
            [("a", 0), ("(a)(b)", 2), ("\\((a)", 1), ("[(](a)", 1), ("(?:a)(?P<n>b)", 1), ("(?i)a", 0)]
        {
            assert_eq!(groups(pattern), expected, "{pattern}");
        }
        assert_eq!(wrong("a\\0\\1\\\\", 1), None);
        for text in ["\\2", "\\", "\\a", "a\nb"] {
            assert!(wrong(text, 1).is_some(), "{text}");
        }
    }

    #[test]
    fn what_envoy_would_not_take_is_refused() {
        let path = |inside: &str| format!(r#"{{"path": {{"type": "ReplaceRegexMatch"{inside}}}}}"#);
        for (spec, field) in [
            (path(""), "path"),
            (
                path(r#", "replaceRegexMatch": {"pattern": "(", "substitution": ""}"#),
                "path.replaceRegexMatch.pattern",
            ),
            (
                path(r#", "replaceRegexMatch": {"pattern": "a", "substitution": "\\1"}"#),
                "path.replaceRegexMatch.substitution",
            ),
            (r#"{"hostname": {"type": "Header"}}"#.into(), "hostname"),
            (r#"{"hostname": {"type": "Header", "header": "a b"}}"#.into(), "hostname.header"),
        ] {
            let compiled = testing::compile(Kind::RouteFilter, &format!(r#"{{"urlRewrite": {spec}}}"#));
            let said = format!("MG4002 spec.urlRewrite.{field}");
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said], true), "{spec}");
        }
    }
}
