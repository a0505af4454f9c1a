//! Faults on purpose (BackendTrafficPolicy `faultInjection`).

use crate::lowering::{milliseconds, time};
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct Fault;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    fault_injection: Option<Faults>,
}

#[derive(Debug, Deserialize)]
struct Faults {
    delay: Option<Delay>,
    abort: Option<Abort>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delay {
    fixed_delay: String,
    percentage: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Abort {
    http_status: Option<u32>,
    grpc_status: Option<u32>,
    percentage: Option<f64>,
}

const NAME: &str = "envoy.filters.http.fault";

impl Capability for Fault {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "fault",
        kind: Kind::BackendTraffic,
        fields: &["faultInjection"],
        except: &[],
        since: "0.1.0",
        docs: "\
A share of the requests is late (delay.fixedDelay) or answered by Envoy with an error (abort.httpStatus, abort.grpcStatus); percentage is \
100 if nothing is said.",
        effect: Effect::Filter {
            name: NAME,
            place: place::FAULT,
            why: "a fault comes before anything that costs",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(faults) = &spec.fault_injection else { return };
        let at = FieldPath::parse("spec.faultInjection");
        let fixed = faults.delay.as_ref().map(|delay| delay.fixed_delay.as_str());
        let fixed = time(cx, &at.key("delay").key("fixedDelay"), fixed);
        let delay = faults.delay.as_ref().zip(fixed).map(|(delay, fixed)| FaultDelay {
            percentage: Some(share(delay.percentage)),
            fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(milliseconds(fixed))),
        });
        let abort = faults.abort.as_ref().and_then(|abort| {
            let http = abort.http_status.map(fault_abort::ErrorType::HttpStatus);
            let error_type = http.or_else(|| abort.grpc_status.map(fault_abort::ErrorType::GrpcStatus));
            error_type.is_some().then(|| FaultAbort {
                percentage: Some(share(abort.percentage)),
                error_type,
                ..Default::default()
            })
        });
        if fixed.is_some_and(|fixed| fixed.is_zero()) {
            return cx.invalid(at.key("delay").key("fixedDelay"), "a delay takes some time");
        }
        let status = faults.abort.as_ref().and_then(|abort| abort.http_status);
        if status.is_some_and(|status| !(200..600).contains(&status)) {
            return cx
                .invalid(at.key("abort").key("httpStatus"), "that is no status that Envoy answers with");
        }
        if delay.is_none() && abort.is_none() {
            return cx.invalid(at, "there is no fault");
        }
        cx.filter(
            (NAME, place::FAULT),
            &HttpFault::default(),
            &HttpFault { delay, abort, ..Default::default() },
        );
    }
}

/// A percentage in millionths.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it lies between 0 and a million"
)]
fn share(percentage: Option<f64>) -> FractionalPercent {
    let numerator = (percentage.unwrap_or(100.0).clamp(0.0, 100.0) * 10_000.0).round() as u32;
    FractionalPercent { numerator, denominator: DenominatorType::Million.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;
    use std::time::Duration;

    #[test]
    fn delays_and_aborts() {
        let compiled = testing::compile(
            Kind::BackendTraffic,
            r#"{"faultInjection": {"delay": {"fixedDelay": "250ms", "percentage": 5}, "abort": {"httpStatus": 503}}}"#,
        );
        let fault: HttpFault = testing::filter(&compiled, "fault", NAME);
        let (delay, abort) = (fault.delay.unwrap(), fault.abort.unwrap());
        assert_eq!(delay.percentage.unwrap().numerator, 50_000);
        assert_eq!(
            delay.fault_delay_secifier,
            Some(fault_delay::FaultDelaySecifier::FixedDelay(milliseconds(Duration::from_millis(250))))
        );
        assert_eq!(abort.error_type, Some(fault_abort::ErrorType::HttpStatus(503)));
        assert_eq!(abort.percentage.unwrap().numerator, 1_000_000);
    }

    #[test]
    fn no_fault_is_said() {
        for (spec, said) in [
            (r#"{"faultInjection": {}}"#, "MG4002 spec.faultInjection"),
            (
                r#"{"faultInjection": {"delay": {"fixedDelay": "x"}}}"#,
                "MG4002 spec.faultInjection.delay.fixedDelay",
            ),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, spec);
            assert_eq!(testing::said(&compiled).first().map(String::as_str), Some(said));
            assert!(compiled.parts.is_empty() && !compiled.closed);
        }
    }
}
