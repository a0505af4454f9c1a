//! Which endpoints are well (BackendTrafficPolicy `healthCheck`).

mod extra;

use crate::lowering::{milliseconds, time};
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::cluster::v3::cluster::CommonLbConfig;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::{HealthCheck as Check, RequestMethod, health_check};
use envoy_types::pb::envoy::r#type::v3::{Int64Range, Percent};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
pub(crate) use extra::{Log, logged};
use extra::{Payload, payload};
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct HealthCheck;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    health_check: Option<Checks>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checks {
    active: Option<Active>,
    passive: Option<Passive>,
    panic_threshold: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Active {
    timeout: Option<String>,
    interval: Option<String>,
    initial_jitter: Option<String>,
    unhealthy_threshold: Option<u32>,
    healthy_threshold: Option<u32>,
    #[serde(rename = "type")]
    kind: String,
    http: Option<Http>,
    tcp: Option<Tcp>,
    grpc: Option<Grpc>,
    overrides: Option<Overrides>,
    health_check_log: Option<Log>,
}

#[derive(Debug, Deserialize)]
struct Tcp {
    send: Option<Payload>,
    receive: Option<Payload>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Http {
    hostname: Option<String>,
    path: String,
    method: Option<String>,
    #[serde(default)]
    expected_statuses: Vec<i64>,
    #[serde(default)]
    retriable_statuses: Vec<i64>,
    expected_response: Option<Payload>,
    request_body: Option<Payload>,
}

#[derive(Debug, Deserialize)]
struct Grpc {
    service: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Overrides {
    port: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Passive {
    split_external_local_origin_errors: Option<bool>,
    interval: Option<String>,
    consecutive_local_origin_failures: Option<u32>,
    consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5XxErrors")]
    consecutive_errors: Option<u32>,
    base_ejection_time: Option<String>,
    max_ejection_percent: Option<u32>,
    failure_percentage_threshold: Option<u32>,
    always_eject_one_endpoint: Option<bool>,
}

/// What the API says where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(3);
/// `Cluster.common_lb_config.healthy_panic_threshold`
const PANIC: &[u32] = &[27, 1];

impl Capability for HealthCheck {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "health_check",
        kind: Kind::BackendTraffic,
        fields: &["healthCheck"],
        except: &[],
        since: "0.1.0",
        docs: "\
active asks each endpoint by itself, by HTTP (hostname, path, method, requestBody, expectedStatuses, retriableStatuses, expectedResponse), gRPC or a \
connection (type TCP, with what is sent and expected): timeout, interval, initialJitter, thresholds, another port; healthCheckLog writes what is found \
to files beside Envoy. Without http.hostname an endpoint of a Backend is asked by its own hostname, and others by that of the route (the first of several; \
health-check.example.com of *.example.com, and health-check if there is none). passive leaves endpoints out whose answers are errors: consecutive \
errors of each sort, failurePercentageThreshold, interval, baseEjectionTime, maxEjectionPercent. With fewer healthy endpoints than \
panicThreshold (percent) all are used; without it never, so that there is 503 without a healthy one.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(checks) = &spec.health_check else { return };
        let at = FieldPath::parse("spec.healthCheck");
        let mut cluster = Cluster::default();
        if let Some(found) = &checks.active {
            let Some(check) = active(found, &at.key("active"), cx) else { return };
            if matches!(check.health_checker, Some(health_check::HealthChecker::GrpcHealthCheck(_))) {
                cx.cluster_over_http2(&Cluster { health_checks: vec![check], ..Default::default() });
            } else {
                cluster.health_checks.push(check);
            }
        }
        cluster.outlier_detection =
            checks.passive.as_ref().map(|found| passive(found, &at.key("passive"), cx));
        let mut clear: Vec<&[u32]> = Vec::new();
        if let Some(percent) = checks.panic_threshold {
            clear.push(PANIC);
            cluster.common_lb_config = Some(CommonLbConfig {
                healthy_panic_threshold: Some(Percent { value: f64::from(percent.min(100)) }),
                ..Default::default()
            });
        }
        if cluster != Cluster::default() {
            cx.cluster(&cluster, &clear);
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "message fields are options, and this fills them")]
fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn active(found: &Active, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Check> {
    let timeout = time(cx, &at.key("timeout"), found.timeout.as_deref()).unwrap_or(TIMEOUT);
    let interval = time(cx, &at.key("interval"), found.interval.as_deref()).unwrap_or(INTERVAL);
    let jitter = time(cx, &at.key("initialJitter"), found.initial_jitter.as_deref());
    if timeout.is_zero() || interval.is_zero() {
        cx.invalid(at.clone(), "a check needs some time");
        return None;
    }
    let checker = match (found.kind.as_str(), &found.http) {
        ("HTTP", Some(http)) => {
            health_check::HealthChecker::HttpHealthCheck(self::http(http, &at.key("http"), cx)?)
        }
        ("HTTP", None) => {
            cx.invalid(at.key("http"), "nothing says which path is asked for");
            return None;
        }
        ("TCP", _) => {
            health_check::HealthChecker::TcpHealthCheck(tcp(found.tcp.as_ref(), &at.key("tcp"), cx)?)
        }
        ("GRPC", _) => {
            let service = found.grpc.as_ref().and_then(|grpc| grpc.service.clone());
            health_check::HealthChecker::GrpcHealthCheck(health_check::GrpcHealthCheck {
                service_name: service.unwrap_or_default(),
                ..Default::default()
            })
        }
        (other, _) => {
            cx.invalid(at.key("type"), &format!("type {other} is not known"));
            return None;
        }
    };
    let (sinks, failures, successes) = match &found.health_check_log {
        Some(log) => match logged(log) {
            Ok(logged) => logged,
            Err(index) => {
                cx.invalid(at.key("healthCheckLog").key("sinks").index(index), "a file needs a path");
                return None;
            }
        },
        None => Default::default(),
    };
    Some(Check {
        event_logger: sinks,
        always_log_health_check_failures: failures,
        always_log_health_check_success: successes,
        timeout: Some(milliseconds(timeout)),
        interval: Some(milliseconds(interval)),
        initial_jitter: jitter.map(milliseconds),
        unhealthy_threshold: number(found.unhealthy_threshold.unwrap_or(3)),
        healthy_threshold: number(found.healthy_threshold.unwrap_or(1)),
        alt_port: found.overrides.as_ref().and_then(|overrides| overrides.port).and_then(number),
        health_checker: Some(checker),
        ..Default::default()
    })
}

fn http(found: &Http, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<health_check::HttpHealthCheck> {
    let name = found.method.as_deref().unwrap_or("GET");
    let method = RequestMethod::from_str_name(name).filter(|method| *method != RequestMethod::Connect);
    let Some(method) = method else {
        cx.invalid(at.key("method"), &format!("{name:?} is no method to ask with"));
        return None;
    };
    let hosts = found.hostname.iter().chain([&found.path]);
    if found.path.is_empty() || hosts.flat_map(|text| text.chars()).any(char::is_control) {
        cx.invalid(at.key("path"), "a path needs letters, and no others");
        return None;
    }
    if found.hostname.is_none() {
        cx.checked_as_route();
    }
    let ranges =
        |codes: &[i64]| codes.iter().map(|code| Int64Range { start: *code, end: code + 1 }).collect();
    Some(health_check::HttpHealthCheck {
        // Without one it is that of the endpoint or the route, which are not known here.
        host: found.hostname.clone().unwrap_or_default(),
        path: found.path.clone(),
        method: method.into(),
        expected_statuses: ranges(&found.expected_statuses),
        retriable_statuses: ranges(&found.retriable_statuses),
        send: payload(found.request_body.as_ref(), &at.key("requestBody"), cx)?,
        receive: payload(found.expected_response.as_ref(), &at.key("expectedResponse"), cx)?
            .into_iter()
            .collect(),
        ..Default::default()
    })
}

fn tcp(found: Option<&Tcp>, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<health_check::TcpHealthCheck> {
    let send = found.and_then(|tcp| tcp.send.as_ref());
    let receive = found.and_then(|tcp| tcp.receive.as_ref());
    Some(health_check::TcpHealthCheck {
        send: payload(send, &at.key("send"), cx)?,
        receive: payload(receive, &at.key("receive"), cx)?.into_iter().collect(),
        ..Default::default()
    })
}

fn passive(found: &Passive, at: &FieldPath, cx: &mut Lowering<'_>) -> OutlierDetection {
    let interval = time(cx, &at.key("interval"), found.interval.as_deref()).unwrap_or(INTERVAL);
    let base = time(cx, &at.key("baseEjectionTime"), found.base_ejection_time.as_deref());
    let mut out = OutlierDetection {
        split_external_local_origin_errors: found.split_external_local_origin_errors.unwrap_or_default(),
        interval: Some(milliseconds(interval)),
        base_ejection_time: Some(milliseconds(base.unwrap_or(Duration::from_secs(30)))),
        max_ejection_percent: number(found.max_ejection_percent.unwrap_or(10)),
        consecutive_5xx: number(found.consecutive_errors.unwrap_or(5)),
        consecutive_local_origin_failure: found.consecutive_local_origin_failures.and_then(number),
        always_eject_one_host: found.always_eject_one_endpoint.map(|value| BoolValue { value }),
        ..Default::default()
    };
    // Envoy counts these, and does nothing unless it is told to.
    if let Some(count) = found.consecutive_gateway_errors {
        out.consecutive_gateway_failure = number(count);
        out.enforcing_consecutive_gateway_failure = number(100);
    }
    if let Some(percent) = found.failure_percentage_threshold {
        out.failure_percentage_threshold = number(percent);
        out.enforcing_failure_percentage = number(100);
        out.enforcing_failure_percentage_local_origin = number(100);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    fn cluster(spec: &str) -> Cluster {
        let compiled = testing::compile(Kind::BackendTraffic, &format!(r#"{{"healthCheck": {spec}}}"#));
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let found = &compiled.parts["health_check"].cluster;
        patched(&[found.cluster.clone(), found.over_http2.clone()].concat())
    }

    #[test]
    fn endpoints_are_asked_in_every_way() {
        let found = cluster(
            r#"{"active": {"type": "HTTP", "timeout": "2s", "interval": "5s", "unhealthyThreshold": 4, "healthyThreshold": 2,
                "http": {"path": "/up", "method": "HEAD", "expectedStatuses": [200, 204]}, "overrides": {"port": 9}}}"#,
        );
        let check = &found.health_checks[0];
        let Some(health_check::HealthChecker::HttpHealthCheck(http)) = &check.health_checker else {
            panic!("HTTP")
        };
        assert_eq!((http.path.as_str(), http.method()), ("/up", RequestMethod::Head));
        assert_eq!(http.expected_statuses[1], Int64Range { start: 204, end: 205 });
        assert_eq!((check.alt_port, check.unhealthy_threshold), (number(9), number(4)));
        for (kind, more) in [("TCP", ""), ("GRPC", r#", "grpc": {"service": "a"}"#)] {
            let found = cluster(&format!(r#"{{"active": {{"type": "{kind}"{more}}}}}"#));
            assert_eq!(found.health_checks[0].interval, Some(milliseconds(INTERVAL)), "{kind}");
        }
    }

    #[test]
    fn who_names_no_host_leaves_it_to_endpoint_and_route() {
        for (http, host, left) in [
            (r#"{"path": "/up", "hostname": "a.example"}"#, "a.example", None),
            (r#"{"path": "/up"}"#, "", Some(String::new())),
        ] {
            let spec = format!(r#"{{"healthCheck": {{"active": {{"type": "HTTP", "http": {http}}}}}}}"#);
            let compiled = testing::compile(Kind::BackendTraffic, &spec);
            let found = &compiled.parts["health_check"].cluster;
            let check = patched::<Cluster>(&found.cluster).health_checks.remove(0);
            let Some(health_check::HealthChecker::HttpHealthCheck(http)) = check.health_checker else {
                panic!("HTTP")
            };
            assert_eq!((http.host.as_str(), &found.checked_as), (host, &left));
        }
    }

    #[test]
    fn what_is_sent_expected_and_logged() {
        let found = cluster(
            r#"{"active": {"type": "HTTP", "http": {"path": "/", "requestBody": {"type": "Text", "text": "up?"}, "expectedResponse": {"type": "Binary", "binary": "eWVz"}},
                "healthCheckLog": {"sinks": [{"type": "File", "file": {"path": "/dev/stdout"}}], "matches": ["Failure", "HealthyTransition"]}}}"#,
        );
        let check = &found.health_checks[0];
        assert_eq!(
            (
                check.event_logger.len(),
                check.always_log_health_check_failures,
                check.always_log_health_check_success
            ),
            (1, true, false)
        );
        let Some(health_check::HealthChecker::HttpHealthCheck(http)) = &check.health_checker else {
            panic!("HTTP")
        };
        assert!(http.send.is_some());
        // Envoy's own form of text.
        assert_eq!(
            http.send.as_ref().unwrap().payload,
            Some(health_check::payload::Payload::Text("75703f".into()))
        );
        assert_eq!(http.receive[0].payload, Some(health_check::payload::Payload::Binary(b"yes".to_vec())));
    }

    #[test]
    fn endpoints_are_watched() {
        let found = cluster(
            r#"{"passive": {"consecutive5XxErrors": 2, "consecutiveGatewayErrors": 3, "failurePercentageThreshold": 50,
                "interval": "1s", "baseEjectionTime": "9s", "maxEjectionPercent": 100}, "panicThreshold": 20}"#,
        );
        let outlier = found.outlier_detection.unwrap();
        assert_eq!(
            (outlier.consecutive_5xx, outlier.enforcing_consecutive_gateway_failure),
            (number(2), number(100))
        );
        assert_eq!(
            (outlier.failure_percentage_threshold, outlier.max_ejection_percent),
            (number(50), number(100))
        );
        assert_eq!(found.common_lb_config.unwrap().healthy_panic_threshold, Some(Percent { value: 20.0 }));
    }

    #[test]
    fn what_is_not_carried_out_is_said() {
        for (spec, said) in [
            (r#"{"active": {"type": "HTTP"}}"#, "MG4002 spec.healthCheck.active.http"),
            (r#"{"active": {"type": "TCP", "interval": "0s"}}"#, "MG4002 spec.healthCheck.active"),
            (
                r#"{"active": {"type": "TCP", "tcp": {"send": {"type": "Binary", "binary": "*"}}}}"#,
                "MG4002 spec.healthCheck.active.tcp.send",
            ),
            (
                r#"{"active": {"type": "TCP", "healthCheckLog": {"sinks": [{"type": "File", "file": {"path": "a\u0000"}}]}}}"#,
                "MG4002 spec.healthCheck.active.healthCheckLog.sinks[0]",
            ),
            (
                r#"{"active": {"type": "HTTP", "http": {"path": "/", "method": "EAT"}}}"#,
                "MG4002 spec.healthCheck.active.http.method",
            ),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, &format!(r#"{{"healthCheck": {spec}}}"#));
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], false), "{spec}");
        }
    }
}
