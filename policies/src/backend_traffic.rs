//! `XBackendTrafficPolicy` (Gateway API v1.7, experimental, GEP-3388 and GEP-1619): how much a Service may be retried, and
//! how clients keep their endpoints of it.

use crate::{Context, Effects, Policy, Report, SessionPersistence, TargetKind, session};
use moorgate_model::diagnostic::policy::POLICY_APPROXIMATE;
use moorgate_model::ir::RetryBudget;
use moorgate_model::{FieldPath, duration};
use serde::Deserialize;
use std::time::Duration;

/// The policy.
#[derive(Debug)]
pub struct BackendTraffic;

/// `spec`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    retry_constraint: Option<RetryConstraint>,
    session_persistence: Option<SessionPersistence>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RetryConstraint {
    budget: Option<Budget>,
    min_retry_rate: Option<Rate>,
}

#[derive(Debug, Deserialize)]
struct Budget {
    percent: Option<u32>,
    interval: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Rate {
    count: Option<u32>,
    interval: Option<String>,
}

/// The API's own defaults.
const PERCENT: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(10);
const RETRIES: u32 = 10;
const RATE_INTERVAL: Duration = Duration::from_secs(1);

impl Policy for BackendTraffic {
    type Spec = Spec;
    const GROUP: &'static str = "gateway.networking.x-k8s.io";
    const KIND: &'static str = "XBackendTrafficPolicy";
    const VERSIONS: &'static [&'static str] = &["v1alpha1"];
    const TARGETS: &'static [TargetKind] = &[
        TargetKind { group: "", kind: "Service" },
        TargetKind { group: "gateway.networking.x-k8s.io", kind: "XBackend" },
    ];
    const SINCE: &'static str = "0.1.0";
    const FILE: &'static str = "backend_traffic";
    const DOCS: &'static str = "\
retryConstraint bounds the retries towards the targeted Service or XBackend: budget.percent of the requests in flight may \
be retries, and minRetryRate.count of them always. Envoy counts what is in flight and knows no intervals, so both \
intervals have no effect. sessionPersistence keeps a client at its endpoint of the target, by a cookie or a header; what \
a route says for itself comes first.";

    fn validate(_: &Spec, _: &mut Report<'_>) {}

    fn lower(spec: &Spec, _: &Context<'_>, report: &mut Report<'_>) -> Effects {
        let at = FieldPath::root().key("spec");
        let retry_budget = spec.retry_constraint.as_ref().map(|constraint| budget(constraint, &at, report));
        let persistence = spec.session_persistence.as_ref().and_then(|persistence| {
            let field = at.key("sessionPersistence");
            let (session, note) = session(persistence, &field, report.policy(), "");
            if let Some((field, message)) = note {
                report.find(&POLICY_APPROXIMATE, field, message, "");
            }
            session
        });
        Effects { retry_budget, session: persistence, ..Effects::default() }
    }

    /// It restricts nobody: without it, Envoy's own bound on retries stays.
    fn refused() -> Effects {
        Effects::default()
    }
}

fn budget(constraint: &RetryConstraint, at: &FieldPath, report: &mut Report<'_>) -> RetryBudget {
    let at = at.key("retryConstraint");
    let (budget, rate) = (constraint.budget.as_ref(), constraint.min_retry_rate.as_ref());
    let intervals = [
        ("budget", budget.and_then(|budget| budget.interval.as_deref()), INTERVAL),
        ("minRetryRate", rate.and_then(|rate| rate.interval.as_deref()), RATE_INTERVAL),
    ];
    for (list, text, usual) in intervals {
        if text.and_then(duration::parse).is_some_and(|interval| interval != usual) {
            let message = "Envoy counts requests in flight: the interval has no effect";
            report.find(&POLICY_APPROXIMATE, at.key(list).key("interval"), message, "");
        }
    }
    RetryBudget {
        percent: budget.and_then(|budget| budget.percent).unwrap_or(PERCENT),
        min_retries: rate.and_then(|rate| rate.count).unwrap_or(RETRIES),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Context, Outcome, TrustBundle, find};
    use moorgate_model::ir::{RetryBudget, Session};
    use moorgate_model::{Object, ObjectRef, Origin, Position};

    fn compiled(spec: &str) -> Outcome {
        let reference =
            ObjectRef::new("gateway.networking.x-k8s.io", "XBackendTrafficPolicy", "shop", "retries");
        let value: serde_json::Value = serde_json::from_str(&format!("{{\"spec\":{spec}}}")).unwrap();
        let root = crate::backend_tls::tests::node(&value);
        let origin = Origin { file: "a.yaml".into(), start: Position::default(), rendered_from: None };
        let object = Object { reference: reference.clone(), version: "v1alpha1".into(), origin, root };
        find(&reference).unwrap().compile(&object, &Context { trust_bundle: &|_| TrustBundle::Usable })
    }

    #[test]
    fn budgets_and_sessions() {
        let plain = compiled(r#"{"retryConstraint":{}}"#);
        assert_eq!(plain.effects.retry_budget, Some(RetryBudget { percent: 20, min_retries: 10 }));
        assert!(plain.diagnostics.is_empty() && plain.effects.session.is_none());
        let full = compiled(
            r#"{"retryConstraint":{"budget":{"percent":0,"interval":"1h"},"minRetryRate":{"count":3,"interval":"1s"}},
            "sessionPersistence":{"type":"Header","header":{"name":"X-Session"}}}"#,
        );
        assert_eq!(full.effects.retry_budget, Some(RetryBudget { percent: 0, min_retries: 3 }));
        assert_eq!(full.effects.session, Some(Session::Header { name: "x-session".into() }));
        assert_eq!(full.diagnostics.len(), 1, "{:?}", full.diagnostics);
        let broken = compiled(r#"{"retryConstraint":{"budget":{"percent":"many"}}}"#);
        assert!(!broken.verdict.accepted.status && broken.effects == crate::Effects::default());
    }
}
