//! How many requests an Envoy lets through in a time (BackendTrafficPolicy `rateLimit.local`).

use crate::lowering::milliseconds;
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::rate_limit::{Action, action};
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RateLimit, header_matcher::HeaderMatchSpecifier,
};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, rate_limit_descriptor::Entry,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as Filter;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, TokenBucket};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use moorgate_model::FieldPath;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::time::Duration;

/// The capability.
pub(crate) struct LocalRateLimit;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    rate_limit: Option<Limit>,
}

#[derive(Debug, Deserialize)]
struct Limit {
    local: Option<Local>,
    /// Another one says what of it is not supported.
    global: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Local {
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    client_selectors: Vec<Selector>,
    limit: Value,
}

#[derive(Debug, Deserialize)]
struct Selector {
    #[serde(default)]
    headers: Vec<Header>,
    #[serde(default)]
    methods: Vec<Method>,
}

#[derive(Debug, Deserialize)]
struct Header {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    value: Option<String>,
    invert: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Method {
    value: String,
    invert: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Value {
    requests: u32,
    unit: String,
}

const NAME: &str = "envoy.filters.http.local_ratelimit";
/// The name of the counters.
const PREFIX: &str = "policy_local_rate_limit";
/// What stands for a rule in what a request is told by.
const KEY: &str = "rule";

impl Capability for LocalRateLimit {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "local_rate_limit",
        kind: Kind::BackendTraffic,
        fields: &[
            "rateLimit.type",
            "rateLimit.local.rules.limit",
            "rateLimit.local.rules.clientSelectors.headers",
            "rateLimit.local.rules.clientSelectors.methods",
        ],
        except: &["rateLimit.local.rules.limit.fromMetadata"],
        since: "0.1.0",
        docs: "\
rateLimit of type Local: each Envoy lets through so many requests of a rule in a second, minute, hour and so on; more are answered with 429. \
A rule without clientSelectors is for all requests that no other rule is for; selectors are headers (exact or by expression) and methods. \
Routes of one policy have a limit each.",
        effect: Effect::Filter {
            name: NAME,
            place: place::LOCAL_RATE_LIMIT,
            why: "only requests that may pass use up a limit",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(limit) = &spec.rate_limit else { return };
        let Some(local) = &limit.local else {
            if limit.global.is_none() {
                cx.invalid(FieldPath::parse("spec.rateLimit"), "there is no limit");
            }
            return;
        };
        let at = FieldPath::parse("spec.rateLimit.local.rules");
        // What no rule is for is not limited.
        let mut rest: Option<TokenBucket> = None;
        let (mut descriptors, mut limits) = (Vec::new(), Vec::new());
        for (index, rule) in local.rules.iter().enumerate() {
            let at = at.index(index);
            let Some(bucket) = bucket(&rule.limit, &at.key("limit").key("unit"), cx) else { return };
            if rule.client_selectors.is_empty() {
                if rest.replace(bucket).is_some() {
                    return cx.unsupported(at, "one rule is for all requests");
                }
                continue;
            }
            for (number, selector) in rule.client_selectors.iter().enumerate() {
                let at = at.key("clientSelectors").index(number);
                let Some(headers) = matchers(selector, &at, cx) else { return };
                let value = format!("{index}.{number}");
                limits.push(RateLimit { actions: vec![fits(&value, headers)], ..Default::default() });
                descriptors.push(LocalRateLimitDescriptor {
                    entries: vec![Entry { key: KEY.into(), value }],
                    token_bucket: Some(bucket),
                    ..Default::default()
                });
            }
        }
        let own = Filter {
            stat_prefix: PREFIX.into(),
            token_bucket: Some(rest.unwrap_or_else(unlimited)),
            filter_enabled: Some(always()),
            filter_enforced: Some(always()),
            descriptors,
            rate_limits: limits,
            // A request that a rule is for is not counted twice.
            always_consume_default_token_bucket: Some(BoolValue { value: false }),
            ..Default::default()
        };
        cx.filter(
            (NAME, place::LOCAL_RATE_LIMIT),
            &Filter { stat_prefix: PREFIX.into(), ..Default::default() },
            &own,
        );
    }
}

fn always() -> RuntimeFractionalPercent {
    let all = FractionalPercent { numerator: 100, ..Default::default() };
    RuntimeFractionalPercent { default_value: Some(all), ..Default::default() }
}

fn unlimited() -> TokenBucket {
    let most = u32::MAX;
    TokenBucket {
        max_tokens: most,
        tokens_per_fill: Some(UInt32Value { value: most }),
        fill_interval: Some(milliseconds(Duration::from_secs(1))),
    }
}

/// The tokens of a limit: all at once, and all anew when the time is over.
fn bucket(limit: &Value, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<TokenBucket> {
    if limit.requests == 0 {
        cx.invalid(at.clone(), "a limit lets at least one request pass");
        return None;
    }
    let days = |count: u64| Duration::from_secs(count * 24 * 60 * 60);
    let time = match limit.unit.as_str() {
        "Second" => Duration::from_secs(1),
        "Minute" => Duration::from_mins(1),
        "Hour" => Duration::from_hours(1),
        "Day" => days(1),
        "Week" => days(7),
        "Month" => days(30),
        "Year" => days(365),
        other => {
            cx.invalid(at.clone(), &format!("{other:?} is no unit of time"));
            return None;
        }
    };
    Some(TokenBucket {
        max_tokens: limit.requests,
        tokens_per_fill: Some(UInt32Value { value: limit.requests }),
        fill_interval: Some(milliseconds(time)),
    })
}

fn fits(value: &str, headers: Vec<HeaderMatcher>) -> Action {
    Action {
        action_specifier: Some(action::ActionSpecifier::HeaderValueMatch(action::HeaderValueMatch {
            descriptor_key: KEY.into(),
            descriptor_value: value.to_owned(),
            expect_match: Some(BoolValue { value: true }),
            headers,
            ..Default::default()
        })),
    }
}

fn matchers(selector: &Selector, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<HeaderMatcher>> {
    let mut out = Vec::new();
    for (index, header) in selector.headers.iter().enumerate() {
        let at = at.key("headers").index(index);
        if !cx.header_name(at.key("name"), &header.name) {
            return None;
        }
        let value = header.value.clone().unwrap_or_default();
        let pattern = match header.kind.as_deref() {
            None | Some("Exact") => MatchPattern::Exact(value),
            Some("RegularExpression") => cx.expression(at.key("value"), &value)?,
            Some(other) => {
                cx.unsupported(at.key("type"), &format!("a limit for {other} values is not supported"));
                return None;
            }
        };
        out.push(matcher(&header.name.to_ascii_lowercase(), pattern, header.invert));
    }
    for method in &selector.methods {
        out.push(matcher(":method", MatchPattern::Exact(method.value.clone()), method.invert));
    }
    if out.is_empty() {
        cx.invalid(at.clone(), "the selector selects nothing that this version knows");
        return None;
    }
    Some(out)
}

fn matcher(name: &str, pattern: MatchPattern, invert: Option<bool>) -> HeaderMatcher {
    let text = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    HeaderMatcher {
        name: name.to_owned(),
        invert_match: invert.unwrap_or_default(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn a_limit_for_all_and_one_for_some() {
        let compiled = testing::compile(
            Kind::BackendTraffic,
            r#"{"rateLimit": {"type": "Local", "local": {"rules": [
                {"limit": {"requests": 3, "unit": "Hour"}},
                {"clientSelectors": [{"headers": [{"name": "X-User", "value": "a", "invert": true}], "methods": [{"value": "GET"}]}],
                 "limit": {"requests": 1, "unit": "Second"}}]}}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let own: Filter = testing::filter(&compiled, "local_rate_limit", NAME);
        let rest = own.token_bucket.unwrap();
        assert_eq!((rest.max_tokens, rest.fill_interval), (3, Some(milliseconds(Duration::from_hours(1)))));
        assert_eq!((own.descriptors.len(), own.rate_limits.len()), (1, 1));
        assert_eq!(own.descriptors[0].token_bucket.as_ref().unwrap().max_tokens, 1);
        let Some(action::ActionSpecifier::HeaderValueMatch(found)) =
            &own.rate_limits[0].actions[0].action_specifier
        else {
            panic!("headers")
        };
        assert_eq!((found.descriptor_value.as_str(), found.headers.len()), ("1.0", 2));
        assert!(
            found.headers[0].invert_match && own.filter_enabled.is_some() && own.filter_enforced.is_some()
        );
    }

    #[test]
    fn a_limit_that_would_not_bite_closes() {
        let rule =
            |text: &str| format!(r#"{{"rateLimit": {{"type": "Local", "local": {{"rules": [{text}]}}}}}}"#);
        let plain = r#"{"limit": {"requests": 3, "unit": "Hour"}}"#;
        for (spec, said) in [
            (rule(&format!("{plain}, {plain}")), "MG4105 spec.rateLimit.local.rules[1]"),
            (
                rule(
                    r#"{"clientSelectors": [{"headers": [{"type": "Distinct", "name": "a"}]}], "limit": {"requests": 1, "unit": "Hour"}}"#,
                ),
                "MG4105 spec.rateLimit.local.rules[0].clientSelectors[0].headers[0].type",
            ),
            (
                rule(r#"{"limit": {"requests": 1, "unit": "Hour"}, "shadowMode": true}"#),
                "MG4105 spec.rateLimit.local.rules[0].shadowMode",
            ),
            (
                rule(r#"{"limit": {"requests": 1, "unit": "Age"}}"#),
                "MG4002 spec.rateLimit.local.rules[0].limit.unit",
            ),
            (
                r#"{"rateLimit": {"type": "Global", "global": {"rules": []}}}"#.into(),
                "MG4105 spec.rateLimit.global",
            ),
            (r#"{"rateLimit": {}}"#.into(), "MG4002 spec.rateLimit"),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, &spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{spec}");
        }
    }
}
