//! Limits that each Envoy counts for itself (BackendTrafficPolicy `rateLimit.local`).

use crate::limit::{Rule, Told, Value, told};
use crate::lowering::{digest, milliseconds};
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::LocalRateLimitDescriptor;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as Filter;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, TokenBucket};
use envoy_types::pb::google::protobuf::{Any, BoolValue, UInt32Value};
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

const NAME: &str = "envoy.filters.http.local_ratelimit";
/// The name of the counters.
const PREFIX: &str = "policy_local_rate_limit";
/// So many values are counted apart at a time; the longest unused is forgotten first.
const VALUES: u32 = 10_000;

impl Capability for LocalRateLimit {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "local_rate_limit",
        kind: Kind::BackendTraffic,
        fields: &["rateLimit.type", "rateLimit.local"],
        except: &["rateLimit.local.rules.limit.fromMetadata", "rateLimit.local.rules.cost.response"],
        since: "0.1.0",
        docs: "\
rateLimit.local: each Envoy lets through so many requests of a rule in a second, minute, hour and so on; more are answered with 429. Of several rules \
that are for a request the strictest counts. A rule without clientSelectors is for all requests that no other rule is for. All conditions of a rule's selectors have to \
hold: headers and queryParams (exact, by expression, or Distinct, which counts each value for itself), methods (one of them), path, sourceCIDR (all addresses of a range together, or \
Distinct); invert turns one around. cost.request says what a request counts for (a number, or what a filter noted), shadowMode counts and refuses nothing, xRateLimitHeaders tells clients \
(not unless a rule asks for it). Routes of one policy have a count each, or one together at each listener with shared. limit.fromMetadata and cost.response are for global limits: \
Envoy has nothing of the kind for its own.",
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
        // What no rule is for is not limited. Only one rule can be for the rest, and only a plain one.
        let for_all = local.rules.iter().filter(|rule| rule.is_for_all()).count();
        let rest_alone = for_all == 1 && local.rules.iter().all(|rule| !rule.is_for_all() || rule.is_plain());
        let (mut own, mut shared) = (Filter::default(), Filter::default());
        for (index, rule) in local.rules.iter().enumerate() {
            let at = at.index(index);
            let Some(bucket) = bucket(&rule.limit, &at.key("limit").key("unit"), cx) else { return };
            if rule.is_for_all() && rest_alone {
                own.token_bucket = Some(bucket);
                continue;
            }
            let Some(told) = told(rule, &format!("rule-{index}"), &at, cx) else { return };
            let filter = if rule.shared == Some(true) { &mut shared } else { &mut own };
            add(filter, told, bucket, rule.shadow_mode == Some(true));
        }
        if own != Filter::default() {
            let idle = Filter { stat_prefix: PREFIX.into(), ..Default::default() };
            cx.filter((NAME, place::LOCAL_RATE_LIMIT), &idle, &whole(own));
        }
        if shared != Filter::default() {
            // What stands on the listener has one count for all routes that switch it on.
            let base = whole(shared);
            let name = format!("{NAME}.shared.{}", digest(&base));
            let switch = |disabled: bool| FilterConfig {
                config: (!disabled).then(Any::default),
                disabled,
                ..Default::default()
            };
            cx.busy_filter((&name, place::LOCAL_RATE_LIMIT), &base, &switch(false), &switch(true));
        }
    }
}

fn add(filter: &mut Filter, told: Told, bucket: TokenBucket, shadow_mode: bool) {
    let Told { rows, entries } = told;
    if entries.iter().any(|(_, value)| value.is_none()) {
        filter.max_dynamic_descriptors = Some(UInt32Value { value: VALUES });
    }
    let entry = |(key, value): (String, Option<String>)| Entry { key, value: value.unwrap_or_default() };
    filter.rate_limits.extend(rows);
    filter.descriptors.push(LocalRateLimitDescriptor {
        entries: entries.into_iter().map(entry).collect(),
        token_bucket: Some(bucket),
        shadow_mode,
    });
}

/// The filter with what all of them have.
fn whole(filter: Filter) -> Filter {
    Filter {
        stat_prefix: PREFIX.into(),
        token_bucket: Some(filter.token_bucket.unwrap_or_else(unlimited)),
        filter_enabled: Some(always()),
        filter_enforced: Some(always()),
        // A request that a rule is for is not counted twice.
        always_consume_default_token_bucket: Some(BoolValue { value: false }),
        ..filter
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    fn compile(rules: &str) -> crate::Compiled {
        testing::compile(
            Kind::BackendTraffic,
            &format!(r#"{{"rateLimit": {{"local": {{"rules": [{rules}]}}}}}}"#),
        )
    }

    #[test]
    fn a_limit_for_all_and_one_for_some() {
        let compiled = compile(
            r#"{"limit": {"requests": 3, "unit": "Hour"}},
               {"clientSelectors": [{"headers": [{"name": "X-User", "value": "a", "invert": true}], "methods": [{"value": "GET"}, {"value": "PUT"}]}],
                "limit": {"requests": 1, "unit": "Second"}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let own: Filter = testing::filter(&compiled, "local_rate_limit", NAME);
        let rest = own.token_bucket.unwrap();
        assert_eq!((rest.max_tokens, rest.fill_interval), (3, Some(milliseconds(Duration::from_hours(1)))));
        // Each method has a row, and both have one count.
        assert_eq!((own.descriptors.len(), own.rate_limits.len()), (1, 2));
        let keys: Vec<&str> = own.descriptors[0].entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["rule-1", "rule-1-match-0", "rule-1-method"]);
        assert!(
            own.filter_enabled.is_some()
                && own.filter_enforced.is_some()
                && own.max_dynamic_descriptors.is_none()
        );
    }

    #[test]
    fn every_condition_and_what_is_shared() {
        let compiled = compile(
            r#"{"clientSelectors": [{"path": {"type": "Exact", "value": "/a.b"}, "sourceCIDR": {"type": "Distinct", "value": "10.1.2.3/8"},
                  "queryParams": [{"name": "q", "type": "Distinct"}, {"name": "r", "type": "RegularExpression", "value": "x+"}], "headers": [{"type": "Distinct", "name": "A"}]}],
                "limit": {"requests": 1, "unit": "Day"}, "cost": {"request": {"from": "Metadata", "metadata": {"namespace": "n.s", "key": "k"}}}, "shadowMode": true, "xRateLimitHeaders": "Off"},
               {"clientSelectors": [{"sourceCIDR": {"value": "2001:db8::1/32", "invert": true}}], "limit": {"requests": 2, "unit": "Week"}, "shared": true}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let own: Filter = testing::filter(&compiled, "local_rate_limit", NAME);
        let entries: Vec<String> =
            own.descriptors[0].entries.iter().map(|entry| format!("{}={}", entry.key, entry.value)).collect();
        assert_eq!(
            entries,
            [
                "rule-0=rule-0",
                "rule-0-match-0=",
                "rule-0-match-1=",
                "rule-0-match-2=rule-0-match-2",
                "rule-0-match-3=rule-0-match-3",
                "masked_remote_address=10.0.0.0/8",
                "remote_address=",
            ]
        );
        assert!(own.descriptors[0].shadow_mode && own.max_dynamic_descriptors.is_some());
        let addend = own.rate_limits[0].hits_addend.clone().unwrap();
        assert_eq!(
            (addend.format.as_str(), own.rate_limits[0].x_ratelimit_option),
            ("%DYNAMIC_METADATA(n.s:k)%", 1)
        );
        let filters = &compiled.parts["local_rate_limit"].filters;
        let shared = filters.iter().find(|filter| filter.name.contains("shared")).unwrap();
        assert!(shared.off.is_some() && filters.len() == 2);
    }

    #[test]
    fn a_limit_that_would_not_bite_closes() {
        let hour = r#""limit": {"requests": 1, "unit": "Hour"}"#;
        let rule = |text: &str| format!(r#"{{"rateLimit": {{"local": {{"rules": [{text}]}}}}}}"#);
        let selected = |text: &str| rule(&format!(r#"{{"clientSelectors": [{text}], {hour}}}"#));
        let at = "spec.rateLimit.local.rules[0]";
        for (spec, said) in [
            (
                selected(r#"{"headers": [{"type": "Prefix", "name": "a"}]}"#),
                format!("MG4002 {at}.clientSelectors[0].headers[0].type"),
            ),
            (
                selected(r#"{"headers": [{"name": "a b"}]}"#),
                format!("MG4002 {at}.clientSelectors[0].headers[0].name"),
            ),
            (
                selected(r#"{"sourceCIDR": {"value": "10.0.0.0/33"}}"#),
                format!("MG4002 {at}.clientSelectors[0].sourceCIDR.value"),
            ),
            (
                selected(r#"{"path": {"type": "RegularExpression", "value": "("}}"#),
                format!("MG4002 {at}.clientSelectors[0].path.value"),
            ),
            (selected("{}"), format!("MG4002 {at}.clientSelectors[0]")),
            (
                rule(&format!(r#"{{{hour}, "cost": {{"request": {{"from": "Number"}}}}}}"#)),
                format!("MG4002 {at}.cost.request"),
            ),
            (
                rule(&format!(r#"{{{hour}, "cost": {{"response": {{"from": "Number", "number": 1}}}}}}"#)),
                format!("MG4105 {at}.cost.response"),
            ),
            (rule(r#"{"limit": {"requests": 1, "unit": "Age"}}"#), format!("MG4002 {at}.limit.unit")),
            (r#"{"rateLimit": {}}"#.into(), "MG4002 spec.rateLimit".into()),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, &spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said], true), "{spec}");
        }
    }
}
