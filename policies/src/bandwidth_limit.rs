//! How fast bodies flow (BackendTrafficPolicy `bandwidthLimit`).

use crate::quantity::Quantity;
use crate::{About, Capability, Effect, Kind, Lowering, place};
use envoy_types::pb::envoy::extensions::filters::http::bandwidth_limit::v3::BandwidthLimit as Filter;
use envoy_types::pb::envoy::extensions::filters::http::bandwidth_limit::v3::bandwidth_limit::EnableMode;
use envoy_types::pb::google::protobuf::UInt64Value;
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct BandwidthLimit;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    bandwidth_limit: Option<Directions>,
}

#[derive(Debug, Deserialize)]
struct Directions {
    request: Option<Direction>,
    response: Option<Direction>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Direction {
    limit: Limit,
    response_trailers: Option<Trailers>,
}

#[derive(Debug, Deserialize)]
struct Limit {
    value: Quantity,
    unit: String,
}

#[derive(Debug, Deserialize)]
struct Trailers {
    prefix: Option<String>,
}

const NAME: &str = "envoy.filters.http.bandwidth_limit";
/// The name of the counters.
const PREFIX: &str = "policy_bandwidth_limit";

impl Capability for BandwidthLimit {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "bandwidth_limit",
        kind: Kind::BackendTraffic,
        fields: &["bandwidthLimit"],
        except: &[],
        since: "0.3.0",
        docs: "\
Bodies of requests, of responses, or both flow so many bytes a Second, Minute or Hour, at least 1 KiB a second; all requests of a route at one Envoy share the limit. \
response.responseTrailers tells how much later a response came, under names with prefix.",
        effect: Effect::Filter {
            name: NAME,
            place: place::BANDWIDTH,
            why: "a body is slowed down last of all that may refuse its request",
        },
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(directions) = &spec.bandwidth_limit else { return };
        let at = FieldPath::parse("spec.bandwidthLimit");
        // One filter has one limit, so each direction has a filter of its own.
        for (name, mode, direction) in [
            ("request", EnableMode::Request, &directions.request),
            ("response", EnableMode::Response, &directions.response),
        ] {
            let Some(direction) = direction else { continue };
            let at = at.key(name);
            let Some(rate) = rate(&direction.limit, &at.key("limit"), cx) else { return };
            let mut own = Filter {
                stat_prefix: PREFIX.into(),
                enable_mode: mode.into(),
                limit_kbps: Some(UInt64Value { value: rate }),
                ..Default::default()
            };
            if let Some(trailers) = &direction.response_trailers {
                let prefix = trailers.prefix.clone().unwrap_or_default();
                let field = at.key("responseTrailers").key("prefix");
                if !prefix.is_empty() && !cx.header_name(field, &prefix) {
                    return;
                }
                own.enable_response_trailers = true;
                own.response_trailer_prefix = prefix;
            }
            let idle = Filter { stat_prefix: PREFIX.into(), ..Default::default() };
            cx.filter((&format!("{NAME}.{name}"), place::BANDWIDTH), &idle, &own);
        }
    }
}

/// KiB a second.
fn rate(limit: &Limit, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<u64> {
    let seconds = match limit.unit.as_str() {
        "Second" => 1,
        "Minute" => 60,
        "Hour" => 3600,
        other => {
            cx.invalid(at.key("unit"), &format!("{other:?} is no unit of time"));
            return None;
        }
    };
    let rate = limit.value.number().map(|bytes| bytes / (seconds * 1024)).filter(|rate| *rate > 0);
    if rate.is_none() {
        cx.invalid(at.key("value"), "it is a number of bytes, at least 1 KiB a second");
    }
    rate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    #[test]
    fn each_direction_has_its_limit() {
        let compiled = testing::compile(
            Kind::BackendTraffic,
            r#"{"bandwidthLimit": {"request": {"limit": {"value": "120Ki", "unit": "Minute"}},
                "response": {"limit": {"value": "4Mi", "unit": "Second"}, "responseTrailers": {"prefix": "x-shop"}}}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let of = |direction: &str| -> Filter {
            testing::filter(&compiled, "bandwidth_limit", &format!("{NAME}.{direction}"))
        };
        assert_eq!(
            (of("request").limit_kbps.unwrap().value, of("request").enable_mode()),
            (2, EnableMode::Request)
        );
        let response = of("response");
        assert_eq!((response.limit_kbps.unwrap().value, response.enable_response_trailers), (4096, true));
        for (spec, field) in [
            (r#"{"request": {"limit": {"value": "1Ki", "unit": "Hour"}}}"#, "request.limit.value"),
            (r#"{"request": {"limit": {"value": "1Mi", "unit": "Age"}}}"#, "request.limit.unit"),
            (
                r#"{"response": {"limit": {"value": "1Mi", "unit": "Second"}, "responseTrailers": {"prefix": "a b"}}}"#,
                "response.responseTrailers.prefix",
            ),
        ] {
            let compiled =
                testing::compile(Kind::BackendTraffic, &format!(r#"{{"bandwidthLimit": {spec}}}"#));
            assert_eq!(testing::said(&compiled), [format!("MG4002 spec.bandwidthLimit.{field}")]);
            assert!(compiled.parts.is_empty());
        }
    }
}
