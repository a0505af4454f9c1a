use super::*;
use crate::lowering::testing;
use envoy_types::pb::envoy::config::route::v3::RateLimit as Row;

fn compile(rules: &str) -> crate::Compiled {
    testing::compile(
        Kind::BackendTraffic,
        &format!(r#"{{"rateLimit": {{"type": "Global", "global": {{"rules": [{rules}]}}}}}}"#),
    )
}

fn limits(rules: &str) -> SharedLimits {
    let compiled = compile(rules);
    assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
    compiled.parts["global_rate_limit"].limits[0].clone()
}

fn service() -> LimitService {
    LimitService {
        fleet: "edge/public".into(),
        cluster: "limits/ratelimit/8081+h2".into(),
        authority: "ratelimit".into(),
        timeout: Some(Duration::from_millis(50)),
        closes: true,
    }
}

/// Each row of entries that has a limit, with it.
fn rows(descriptors: &[RateLimitDescriptor], above: &str, out: &mut Vec<String>) {
    for one in descriptors {
        let own = format!("{above}{}={} ", one.key, one.value);
        if let Some(limit) = &one.rate_limit {
            let unit = RateLimitUnit::try_from(limit.unit).unwrap();
            let shadow = if one.shadow_mode { " in shadow" } else { "" };
            out.push(format!("{own}{} a {}{shadow}", limit.requests_per_unit, unit.as_str_name()));
        }
        rows(&one.descriptors, &own, out);
    }
}

fn configured(limits: &SharedLimits) -> Vec<String> {
    let mut out = Vec::new();
    rows(&RateLimitConfig::decode(&*limits.config).unwrap().descriptors, "", &mut out);
    out
}

/// The keys of the entries that a row of actions gives, and the value of the first.
fn asked(limits: &SharedLimits) -> Vec<Row> {
    let (filter, _) = limited(limits, &service(), "httproute/shop/cart#0");
    RateLimitPerRoute::decode(filter.own.value.as_slice()).unwrap().rate_limits
}

#[test]
fn each_rule_has_a_row_of_entries_and_its_limit() {
    let limits = limits(
        r#"{"limit": {"requests": 3, "unit": "Hour"}},
           {"clientSelectors": [{"headers": [{"name": "x-user", "type": "Distinct"}], "path": {"value": "/pay"},
              "sourceCIDR": {"type": "Distinct", "value": "10.1.2.3/8"}, "methods": [{"value": "PUT"}, {"value": "POST"}]}],
            "limit": {"requests": 0, "unit": "Week"}, "shadowMode": true},
           {"limit": {"requests": 9, "unit": "Month"}, "shared": true}"#,
    );
    assert_eq!(
        configured(&limits),
        [
            "rule-2=rule-2 9 a MONTH",
            "route= rule-0=rule-0 3 a HOUR",
            "route= rule-1=rule-1 rule-1-match-0= rule-1-match-1=rule-1-match-1 masked_remote_address=10.0.0.0/8 \
             remote_address= rule-1-method=rule-1-method 0 a WEEK in shadow",
        ]
    );
    let rows = asked(&limits);
    // Each of the two methods has a row of its own, and both give the same entries.
    let lengths: Vec<usize> = rows.iter().map(|row| row.actions.len()).collect();
    assert_eq!(lengths, [2, 7, 7, 1]);
    let first = |row: &Row| match row.actions[0].action_specifier.clone() {
        Some(ActionSpecifier::GenericKey(key)) => (key.descriptor_key, key.descriptor_value),
        other => panic!("{other:?}"),
    };
    assert_eq!(first(&rows[0]), ("route".into(), "httproute/shop/cart#0".into()));
    assert_eq!(first(&rows[3]), ("rule-2".into(), "rule-2".into()));
}

#[test]
fn what_stands_at_a_listener_and_whose_counts_they_are() {
    let limits = limits(r#"{"limit": {"requests": 3, "unit": "Hour"}}"#);
    let (filter, domain) = limited(&limits, &service(), "httproute/shop/cart#0");
    assert_eq!((domain.as_str(), limits.of.as_str()), ("edge/public/shop/guard", "shop/guard"));
    let base = RateLimit::decode(filter.base.value.as_slice()).unwrap();
    assert!(base.failure_mode_deny && base.rate_limits.is_empty());
    assert_eq!(base.timeout, Some(milliseconds(Duration::from_millis(50))));
    let other = LimitService { fleet: "edge/other".into(), ..service() };
    assert_ne!(limited(&limits, &other, "httproute/shop/cart#0").1, domain);
}

#[test]
fn costs_and_limits_that_filters_note() {
    let limits = limits(
        r#"{"limit": {"requests": 3, "unit": "Hour", "fromMetadata": {"namespace": "plans", "key": "limit"}},
            "cost": {"request": {"from": "Number", "number": 0}, "response": {"from": "Metadata", "metadata": {"namespace": "ai", "key": "tokens"}}},
            "xRateLimitHeaders": "Off"}"#,
    );
    assert_eq!(limits.oldest_envoy, Some((1, 39)));
    let rows = asked(&limits);
    let [request, response] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!(request.actions, response.actions);
    assert!(!request.apply_on_stream_done && response.apply_on_stream_done && request.limit.is_some());
    assert_eq!(request.limit, response.limit);
    let (number, noted) = (request.hits_addend.clone().unwrap(), response.hits_addend.clone().unwrap());
    assert_eq!((number.number.unwrap().value, noted.format.as_str()), (0, "%DYNAMIC_METADATA(ai:tokens)%"));
    assert_eq!((request.x_ratelimit_option, response.x_ratelimit_option), (1, 1));
}

#[test]
fn a_limit_that_cannot_be_told_closes() {
    let hour = r#""limit": {"requests": 1, "unit": "Hour"}"#;
    for (rule, said) in [
        (r#"{"limit": {"requests": 1, "unit": "Age"}}"#.to_owned(), "limit.unit"),
        (r#"{"limit": {"requests": 1, "unit": "Unknown"}}"#.to_owned(), "limit.unit"),
        (format!(r#"{{{hour}, "cost": {{"response": {{"from": "Metadata"}}}}}}"#), "cost.response"),
        (format!(r#"{{{hour}, "clientSelectors": [{{}}]}}"#), "clientSelectors[0]"),
        (format!(r#"{{{hour}, "xRateLimitHeaders": "Both"}}"#), "xRateLimitHeaders"),
    ] {
        let compiled = compile(&rule);
        let said = format!("MG4002 spec.rateLimit.global.rules[0].{said}");
        assert_eq!((testing::said(&compiled), compiled.closed), (vec![said], true), "{rule}");
    }
    // No rule is no limit.
    let compiled = compile("");
    assert!(compiled.parts.is_empty() && compiled.findings.is_empty());
}

#[test]
fn shadow_mode_and_noted_limits_do_not_go_together() {
    let compiled = compile(
        r#"{"limit": {"requests": 3, "unit": "Hour", "fromMetadata": {"namespace": "plans", "key": "limit"}}, "shadowMode": true}"#,
    );
    assert_eq!(testing::said(&compiled), ["MG4011 spec.rateLimit.global.rules[0].shadowMode"]);
    assert!(!compiled.closed);
}
