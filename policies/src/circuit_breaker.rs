//! How much may be under way towards a backend at a time (BackendTrafficPolicy `circuitBreaker`).

use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, circuit_breakers::Thresholds, circuit_breakers::thresholds::RetryBudget,
};
use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions as Common;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::UInt32Value;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct CircuitBreaker;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    circuit_breaker: Option<Bounds>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bounds {
    max_connections: Option<i64>,
    max_pending_requests: Option<i64>,
    max_parallel_requests: Option<i64>,
    max_parallel_retries: Option<i64>,
    max_requests_per_connection: Option<i64>,
    per_endpoint: Option<PerEndpoint>,
    retry_budget: Option<Budget>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PerEndpoint {
    max_connections: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Budget {
    percent: Fraction,
    min_retry_concurrency: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Fraction {
    numerator: i32,
    denominator: Option<i32>,
}

/// What the API says where nothing is said.
const MOST: i64 = 1024;
/// `Cluster.circuit_breakers`
const FIELD: &[u32] = &[10];

impl Capability for CircuitBreaker {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "circuit_breaker",
        kind: Kind::BackendTraffic,
        fields: &["circuitBreaker"],
        except: &[],
        since: "0.1.0",
        docs: "\
Bounds on what is under way towards each backend at a time: maxConnections, maxPendingRequests, maxParallelRequests, \
maxParallelRetries (1024 each), perEndpoint.maxConnections, maxRequestsPerConnection, retryBudget. Each Envoy counts for itself. \
What is more is answered with 503.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(bounds) = &spec.circuit_breaker else { return };
        let at = FieldPath::parse("spec.circuitBreaker");
        let number = |value: i64| UInt32Value { value: u32::try_from(value.max(0)).unwrap_or(u32::MAX) };
        let most = |value: Option<i64>| Some(number(value.unwrap_or(MOST)));
        let mut budget = None;
        if let Some(found) = &bounds.retry_budget {
            let denominator = found.percent.denominator.unwrap_or(100);
            if denominator <= 0 || found.percent.numerator > denominator {
                return cx.invalid(at.key("retryBudget").key("percent"), "the fraction is more than one");
            }
            let percent = f64::from(found.percent.numerator) * 100.0 / f64::from(denominator);
            budget = Some(RetryBudget {
                budget_percent: Some(Percent { value: percent }),
                min_retry_concurrency: found.min_retry_concurrency.map(|value| UInt32Value { value }),
                ..Default::default()
            });
        }
        let all = Thresholds {
            max_connections: most(bounds.max_connections),
            max_pending_requests: most(bounds.max_pending_requests),
            max_requests: most(bounds.max_parallel_requests),
            max_retries: most(bounds.max_parallel_retries),
            retry_budget: budget,
            ..Default::default()
        };
        let each = bounds.per_endpoint.as_ref().and_then(|each| each.max_connections);
        let each =
            each.map(|value| Thresholds { max_connections: Some(number(value)), ..Default::default() });
        let breakers =
            CircuitBreakers { thresholds: vec![all], per_host_thresholds: each.into_iter().collect() };
        cx.cluster(&Cluster { circuit_breakers: Some(breakers), ..Default::default() }, &[FIELD]);
        if let Some(most) = bounds.max_requests_per_connection {
            let common = Common { max_requests_per_connection: Some(number(most)), ..Default::default() };
            cx.upstream(
                &HttpProtocolOptions { common_http_protocol_options: Some(common), ..Default::default() },
                &[],
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    fn thresholds(spec: &str) -> CircuitBreakers {
        let compiled = testing::compile(Kind::BackendTraffic, spec);
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let cluster = &compiled.parts["circuit_breaker"].cluster.cluster;
        // What the cluster has of its own must not stay beside it.
        assert_eq!(cluster[0].clear, [vec![10]]);
        patched::<Cluster>(cluster).circuit_breakers.unwrap()
    }

    #[test]
    fn bounds_and_their_defaults() {
        let plain = thresholds(r#"{"circuitBreaker": {"maxConnections": 7}}"#);
        let value = |found: &Option<UInt32Value>| found.as_ref().map(|found| found.value);
        let all = &plain.thresholds[0];
        assert_eq!((value(&all.max_connections), value(&all.max_requests)), (Some(7), Some(1024)));
        let full = thresholds(
            r#"{"circuitBreaker": {"maxPendingRequests": 0, "maxParallelRequests": 9999999999, "perEndpoint": {"maxConnections": 3},
                "retryBudget": {"percent": {"numerator": 1, "denominator": 4}, "minRetryConcurrency": 2}}}"#,
        );
        let all = &full.thresholds[0];
        assert_eq!((value(&all.max_pending_requests), value(&all.max_requests)), (Some(0), Some(u32::MAX)));
        assert_eq!(all.retry_budget.as_ref().unwrap().budget_percent, Some(Percent { value: 25.0 }));
        assert_eq!(value(&full.per_host_thresholds[0].max_connections), Some(3));
    }

    #[test]
    fn a_budget_of_more_than_everything_is_none() {
        let compiled = testing::compile(
            Kind::BackendTraffic,
            r#"{"circuitBreaker": {"retryBudget": {"percent": {"numerator": 5, "denominator": 4}}}}"#,
        );
        assert_eq!(testing::said(&compiled), ["MG4002 spec.circuitBreaker.retryBudget.percent"]);
    }
}
