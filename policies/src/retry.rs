//! Retries of requests that failed (BackendTrafficPolicy `retry`).

use crate::lowering::{any, milliseconds, time};
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::route::v3::{RetryPolicy, RouteAction, retry_policy};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::google::protobuf::UInt32Value;
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct Retry;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    retry: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    num_retries: Option<u32>,
    num_attempts_per_priority: Option<i32>,
    retry_on: Option<On>,
    per_retry: Option<Each>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct On {
    triggers: Option<Vec<String>>,
    http_status_codes: Option<Vec<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Each {
    timeout: Option<String>,
    back_off: Option<BackOff>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BackOff {
    base_interval: Option<String>,
    max_interval: Option<String>,
}

/// What the API's own documentation says is retried if nothing is said, and how often.
const TRIGGERS: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const CODES: [u32; 1] = [503];
/// The trigger without which Envoy does not look at status codes.
const BY_CODE: &str = "retriable-status-codes";
const RETRIES: u32 = 2;
/// Envoy's own first interval between tries.
const BACK_OFF: Duration = Duration::from_millis(25);
/// So often Envoy looks for an endpoint that was not tried yet.
const SELECTIONS: i64 = 5;
/// `RouteAction.retry_policy`
const FIELD: &[u32] = &[9];

impl Capability for Retry {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "retry",
        kind: Kind::BackendTraffic,
        fields: &["retry"],
        except: &[],
        since: "0.1.0",
        docs: "\
Requests that fail are tried again: numRetries (2), perRetry.timeout, perRetry.backOff. retryOn.triggers says upon what (connect-failure, \
refused-stream, unavailable, cancelled and retriable-status-codes if none is named), retryOn.httpStatusCodes upon which status codes (503 without retryOn), which \
count where retriable-status-codes is a trigger. An endpoint that was tried is not tried again while there are others; after numAttemptsPerPriority tries those of the next priority \
(fallback) are. \
A rule's own retry comes first, and so does its own timeouts.backendRequest for each try.",
        effect: Effect::Route,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = &spec.retry else { return };
        let at = FieldPath::parse("spec.retry");
        let each = rules.per_retry.as_ref();
        let back_off = each.and_then(|each| each.back_off.as_ref());
        let timeout =
            time(cx, &at.key("perRetry").key("timeout"), each.and_then(|each| each.timeout.as_deref()));
        let back = at.key("perRetry").key("backOff");
        let base =
            time(cx, &back.key("baseInterval"), back_off.and_then(|back| back.base_interval.as_deref()));
        let most = time(cx, &back.key("maxInterval"), back_off.and_then(|back| back.max_interval.as_deref()));
        if base.is_some_and(|base| base.is_zero() || most.is_some_and(|most| most < base)) {
            return cx.invalid(back, "baseInterval is zero, or more than maxInterval");
        }
        // Envoy takes no greatest interval without a first one: its own first one is this.
        let base = base.or(most.map(|most| most.min(BACK_OFF)));
        if base.is_some_and(|base| base.is_zero()) {
            return cx.invalid(back, "maxInterval is zero");
        }
        let attempts = rules.num_attempts_per_priority.unwrap_or_default();
        if attempts < 0 {
            return cx.invalid(at.key("numAttemptsPerPriority"), "it is 0, or so many tries");
        }
        let (retry_on, codes) = conditions(rules.retry_on.as_ref());
        if !codes.is_empty() && retry_on.split(',').all(|trigger| trigger != BY_CODE) {
            let message = format!("status codes are retried only if {BY_CODE} is among the triggers");
            cx.approximate(at.key("retryOn").key("httpStatusCodes"), &message);
        }
        let previous = PreviousHostsPredicate {};
        let policy = RetryPolicy {
            retry_on,
            num_retries: Some(UInt32Value { value: rules.num_retries.unwrap_or(RETRIES) }),
            retriable_status_codes: codes,
            per_try_timeout: timeout.map(milliseconds),
            retry_back_off: base.map(|base| retry_policy::RetryBackOff {
                base_interval: Some(milliseconds(base)),
                max_interval: most.map(milliseconds),
            }),
            retry_priority: (attempts > 0).then(|| retry_policy::RetryPriority {
                name: "envoy.retry_priorities.previous_priorities".into(),
                config_type: Some(retry_policy::retry_priority::ConfigType::TypedConfig(any(
                    &PreviousPrioritiesConfig { update_frequency: attempts },
                ))),
            }),
            retry_host_predicate: vec![retry_policy::RetryHostPredicate {
                name: "envoy.retry_host_predicates.previous_hosts".into(),
                config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(
                    &previous,
                ))),
            }],
            host_selection_retry_max_attempts: SELECTIONS,
            ..Default::default()
        };
        cx.forward(&RouteAction { retry_policy: Some(policy), ..Default::default() }, &[FIELD]);
    }
}

/// What is retried, as Envoy writes it. Whoever names no triggers has the usual ones; whoever names some has no others.
fn conditions(on: Option<&On>) -> (String, Vec<u32>) {
    let Some(On { triggers, http_status_codes }) =
        on.filter(|on| on.triggers.is_some() || on.http_status_codes.is_some())
    else {
        return (TRIGGERS.into(), CODES.into());
    };
    let named = triggers.as_ref().filter(|triggers| !triggers.is_empty());
    let named = named.map_or_else(|| TRIGGERS.to_owned(), |triggers| triggers.join(","));
    (named, http_status_codes.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    fn policy(spec: &str) -> RetryPolicy {
        let compiled = testing::compile(Kind::BackendTraffic, spec);
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        patched::<RouteAction>(&compiled.parts["retry"].forward).retry_policy.unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_api() {
        let plain = policy(r#"{"retry": {}}"#);
        assert_eq!((plain.num_retries.unwrap().value, plain.retriable_status_codes), (2, vec![503]));
        assert_eq!(plain.retry_on, TRIGGERS);
    }

    #[test]
    fn a_greatest_interval_has_a_first_one_before_it() {
        for (most, first) in [("1s", 25), ("10ms", 10)] {
            let spec = format!(r#"{{"retry": {{"perRetry": {{"backOff": {{"maxInterval": "{most}"}}}}}}}}"#);
            let back_off = policy(&spec).retry_back_off.unwrap();
            assert_eq!(back_off.base_interval, Some(milliseconds(Duration::from_millis(first))), "{most}");
        }
        let none = testing::compile(
            Kind::BackendTraffic,
            r#"{"retry": {"perRetry": {"backOff": {"maxInterval": "0s"}}}}"#,
        );
        assert_eq!(testing::said(&none), ["MG4002 spec.retry.perRetry.backOff"]);
    }

    #[test]
    fn everything_that_is_said() {
        let full = policy(
            r#"{"retry": {"numRetries": 5, "retryOn": {"triggers": ["reset", "retriable-status-codes"], "httpStatusCodes": [418]},
            "perRetry": {"timeout": "250ms", "backOff": {"baseInterval": "100ms", "maxInterval": "10s"}}}}"#,
        );
        assert_eq!((full.num_retries.unwrap().value, full.retriable_status_codes), (5, vec![418]));
        assert_eq!(full.retry_on, "reset,retriable-status-codes");
        assert_eq!(full.per_try_timeout, Some(milliseconds(Duration::from_millis(250))));
        assert_eq!(full.retry_back_off.unwrap().max_interval, Some(milliseconds(Duration::from_secs(10))));
    }

    #[test]
    fn triggers_that_are_not_named_are_the_usual_ones_and_named_ones_have_no_others() {
        for (on, triggers, codes) in [
            ("{}", TRIGGERS, vec![503]),
            (r#"{"httpStatusCodes": [502, 504]}"#, TRIGGERS, vec![502, 504]),
            (r#"{"triggers": []}"#, TRIGGERS, vec![]),
            (r#"{"triggers": ["5xx"]}"#, "5xx", vec![]),
        ] {
            let found = policy(&format!(r#"{{"retry": {{"retryOn": {on}}}}}"#));
            assert_eq!((found.retry_on.as_str(), found.retriable_status_codes), (triggers, codes), "{on}");
        }
        let spec = r#"{"retry": {"retryOn": {"triggers": ["5xx"], "httpStatusCodes": [418]}}}"#;
        let compiled = testing::compile(Kind::BackendTraffic, spec);
        assert_eq!(testing::said(&compiled), ["MG4011 spec.retry.retryOn.httpStatusCodes"]);
        let found = patched::<RouteAction>(&compiled.parts["retry"].forward).retry_policy.unwrap();
        assert_eq!((found.retry_on.as_str(), found.retriable_status_codes), ("5xx", vec![418]));
    }

    #[test]
    fn tries_move_on_to_the_next_priority() {
        let found =
            policy(r#"{"retry": {"numAttemptsPerPriority": 1, "numRetries": 1}}"#).retry_priority.unwrap();
        assert_eq!(found.name, "envoy.retry_priorities.previous_priorities");
        assert_eq!(policy(r#"{"retry": {"numAttemptsPerPriority": 0}}"#).retry_priority, None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (spec, field) in [
            (r#"{"retry": {"perRetry": {"timeout": "x"}}}"#, "perRetry.timeout"),
            (r#"{"retry": {"numAttemptsPerPriority": -1}}"#, "numAttemptsPerPriority"),
        ] {
            let broken = testing::compile(Kind::BackendTraffic, spec);
            assert_eq!(testing::said(&broken), [format!("MG4002 spec.retry.{field}")]);
            assert!(broken.parts.is_empty() && !broken.closed);
        }
    }
}
