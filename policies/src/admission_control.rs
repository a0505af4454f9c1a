//! Load is shed while backends fail (BackendTrafficPolicy `admissionControl`).

use crate::lowering::{milliseconds, time};
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::config::core::v3::{RuntimeDouble, RuntimeFeatureFlag, RuntimePercent, RuntimeUInt32};
use envoy_types::pb::envoy::extensions::filters::http::admission_control::v3::AdmissionControl as Filter;
use envoy_types::pb::envoy::extensions::filters::http::admission_control::v3::admission_control::success_criteria::{
    GrpcCriteria, HttpCriteria,
};
use envoy_types::pb::envoy::extensions::filters::http::admission_control::v3::admission_control::{
    EvaluationCriteria, SuccessCriteria,
};
use envoy_types::pb::envoy::r#type::v3::{Int32Range, Percent};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::time::Duration;

/// The capability.
pub(crate) struct AdmissionControl;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    admission_control: Option<Wanted>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    sampling_window: Option<String>,
    min_success_rate: Option<u32>,
    rejection_aggression: Option<u32>,
    min_request_rate: Option<u32>,
    max_rejection_percent: Option<u32>,
    success_criteria: Option<Criteria>,
}

#[derive(Debug, Deserialize)]
struct Criteria {
    http: Option<Http>,
    grpc: Option<Grpc>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Http {
    #[serde(default)]
    status_codes: Vec<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Grpc {
    #[serde(default)]
    status_codes: Vec<String>,
}

/// Codes of gRPC by their names, from 0 on (gRPC, `statuscodes.md`).
const CODES: [&str; 17] = [
    "Ok",
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

impl Capability for AdmissionControl {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "admission_control",
        kind: Kind::BackendTraffic,
        fields: &["admissionControl"],
        except: &[],
        since: "0.3.0",
        docs: "\
While fewer than minSuccessRate percent (95) of the requests of samplingWindow (30s) to a backend succeed, a share of new ones, up to maxRejectionPercent (80), is answered with \
503 at once: the more of them fail, and the higher rejectionAggression. Not below minRequestRate requests a second. successCriteria says which answers are successes. Each \
Envoy counts for itself.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(wanted) = &spec.admission_control else { return };
        let at = FieldPath::parse("spec.admissionControl");
        let window = time(cx, &at.key("samplingWindow"), wanted.sampling_window.as_deref());
        if window.is_some_and(|window| window < Duration::from_secs(1)) {
            return cx.invalid(at.key("samplingWindow"), "it takes at least 1s");
        }
        if wanted.min_success_rate.is_some_and(|rate| !(1..=100).contains(&rate)) {
            return cx.invalid(at.key("minSuccessRate"), "it lies between 1 and 100");
        }
        if wanted.max_rejection_percent.is_some_and(|percent| percent > 100) {
            return cx.invalid(at.key("maxRejectionPercent"), "it lies between 0 and 100");
        }
        let Some(criteria) = criteria(wanted.success_criteria.as_ref(), &at.key("successCriteria"), cx)
        else {
            return;
        };
        let percent = |value: Option<u32>| {
            value.map(|value| RuntimePercent {
                default_value: Some(Percent { value: f64::from(value) }),
                ..Default::default()
            })
        };
        let config = Filter {
            enabled: Some(RuntimeFeatureFlag {
                default_value: Some(BoolValue { value: true }),
                ..Default::default()
            }),
            evaluation_criteria: Some(EvaluationCriteria::SuccessCriteria(criteria)),
            sampling_window: window.map(milliseconds),
            aggression: wanted
                .rejection_aggression
                .map(|value| RuntimeDouble { default_value: f64::from(value.max(1)), ..Default::default() }),
            sr_threshold: percent(wanted.min_success_rate),
            rps_threshold: wanted
                .min_request_rate
                .map(|default_value| RuntimeUInt32 { default_value, ..Default::default() }),
            max_rejection_probability: percent(wanted.max_rejection_percent),
        };
        cx.upstream_filter("envoy.filters.http.admission_control", &config);
    }
}

fn criteria(found: Option<&Criteria>, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<SuccessCriteria> {
    let statuses = found.and_then(|found| found.http.as_ref()).map(|http| http.status_codes.as_slice());
    let statuses = statuses.unwrap_or_default();
    if let Some(index) = statuses.iter().position(|code| !(100..600).contains(code)) {
        cx.invalid(at.key("http").key("statusCodes").index(index), "that is no status of HTTP");
        return None;
    }
    let range = |code: &i32| Int32Range { start: *code, end: code + 1 };
    let names = found.and_then(|found| found.grpc.as_ref()).map(|grpc| grpc.status_codes.as_slice());
    let mut codes = Vec::new();
    for (index, name) in names.unwrap_or_default().iter().enumerate() {
        let code = CODES.iter().position(|known| known == name).and_then(|code| u32::try_from(code).ok());
        let Some(code) = code else {
            cx.invalid(
                at.key("grpc").key("statusCodes").index(index),
                &format!("{name:?} is no status of gRPC"),
            );
            return None;
        };
        codes.push(code);
    }
    Some(SuccessCriteria {
        http_criteria: (!statuses.is_empty())
            .then(|| HttpCriteria { http_success_status: statuses.iter().map(range).collect() }),
        grpc_criteria: (!codes.is_empty()).then_some(GrpcCriteria { grpc_success_status: codes }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;
    use prost::Message;

    #[test]
    fn everything_that_is_said() {
        let compiled = testing::compile(
            Kind::BackendTraffic,
            r#"{"admissionControl": {"samplingWindow": "5s", "minSuccessRate": 90, "rejectionAggression": 0, "minRequestRate": 7, "maxRejectionPercent": 50,
                "successCriteria": {"http": {"statusCodes": [200, 404]}, "grpc": {"statusCodes": ["Ok", "Unauthenticated"]}}}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let (name, config) = &compiled.parts["admission_control"].cluster.filters[0];
        assert_eq!(name, "envoy.filters.http.admission_control");
        let found = Filter::decode(config.value.as_slice()).unwrap();
        assert_eq!(found.rps_threshold.unwrap().default_value, 7);
        let Some(EvaluationCriteria::SuccessCriteria(criteria)) = found.evaluation_criteria else {
            panic!("criteria")
        };
        assert_eq!(criteria.grpc_criteria.unwrap().grpc_success_status, [0, 16]);
        assert_eq!(
            criteria.http_criteria.unwrap().http_success_status[1],
            Int32Range { start: 404, end: 405 }
        );
    }

    #[test]
    fn what_envoy_does_not_take_is_said() {
        for (spec, field) in [
            (r#"{"samplingWindow": "900ms"}"#, "samplingWindow"),
            (r#"{"minSuccessRate": 0}"#, "minSuccessRate"),
            (r#"{"maxRejectionPercent": 101}"#, "maxRejectionPercent"),
            (
                r#"{"successCriteria": {"http": {"statusCodes": [42]}}}"#,
                "successCriteria.http.statusCodes[0]",
            ),
            (
                r#"{"successCriteria": {"grpc": {"statusCodes": ["Ok", "Fine"]}}}"#,
                "successCriteria.grpc.statusCodes[1]",
            ),
        ] {
            let compiled =
                testing::compile(Kind::BackendTraffic, &format!(r#"{{"admissionControl": {spec}}}"#));
            assert_eq!(testing::said(&compiled), [format!("MG4002 spec.admissionControl.{field}")]);
            assert!(compiled.parts.is_empty() && !compiled.closed);
        }
    }
}
