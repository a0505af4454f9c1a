//! What is told of requests to backends (BackendTrafficPolicy `telemetry`).

use crate::span_tags::{self, Tag};
use crate::{About, Capability, Effect, Kind, Lowering, operators};
use envoy_types::pb::envoy::config::route::v3::{Route, Tracing};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use moorgate_model::FieldPath;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The capability.
pub(crate) struct BackendTelemetry;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    telemetry: Option<Wanted>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    tracing: Option<Traces>,
    metrics: Option<Metrics>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metrics {
    route_stat_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Traces {
    sampling_fraction: Option<Fraction>,
    client_sampling_fraction: Option<Fraction>,
    overall_sampling_fraction: Option<Fraction>,
    #[serde(default)]
    custom_tags: BTreeMap<String, Tag>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    span_name: Option<Names>,
}

#[derive(Debug, Deserialize)]
struct Fraction {
    numerator: u32,
    denominator: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Names {
    client: String,
    server: String,
}

/// What may stand for parts of a route's name in the name of its counters.
const PARTS: [&str; 4] = ["%ROUTE_KIND%", "%ROUTE_NAMESPACE%", "%ROUTE_NAME%", "%ROUTE_RULE_NAME%"];

impl Capability for BackendTelemetry {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "backend_telemetry",
        kind: Kind::BackendTraffic,
        fields: &["telemetry"],
        except: &[],
        since: "0.3.0",
        docs: "\
metrics.routeStatName gives routes counters of their own, under a name in which %ROUTE_KIND%, %ROUTE_NAMESPACE%, %ROUTE_NAME% and %ROUTE_RULE_NAME% stand for their names. tracing, where spans are told to a \
collector: which share of the requests (samplingFraction, clientSamplingFraction of those that the client wants traced, overallSamplingFraction of both), tags and customTags \
(Literal, Environment, RequestHeader) of their spans, and spanName.",
        effect: Effect::Route,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(wanted) = &spec.telemetry else { return };
        let at = FieldPath::parse("spec.telemetry");
        let mut route = Route::default();
        if let Some(name) = wanted.metrics.as_ref().and_then(|metrics| metrics.route_stat_name.as_ref()) {
            let rest = PARTS.iter().fold(name.clone(), |rest, part| rest.replace(part, ""));
            if rest.contains('%') || rest.chars().any(|letter| letter.is_control() || letter == ' ') {
                let known = PARTS.join(", ");
                return cx.invalid(
                    at.key("metrics").key("routeStatName"),
                    &format!("what stands for parts of a name is {known}"),
                );
            }
            route.stat_prefix.clone_from(name);
        }
        if let Some(wanted) = &wanted.tracing {
            let Some(tracing) = tracing(wanted, &at.key("tracing"), cx) else { return };
            route.tracing = Some(tracing);
        }
        if route != Route::default() {
            cx.route(&route);
        }
    }
}

fn tracing(wanted: &Traces, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Tracing> {
    let mut share = |field: &str, fraction: &Option<Fraction>| match fraction {
        None => Some(None),
        Some(Fraction { numerator, denominator }) => {
            let denominator = u64::from(denominator.unwrap_or(100));
            let millionths = (u64::from(*numerator) * 1_000_000).checked_div(denominator);
            let Some(numerator) =
                millionths.and_then(|all| u32::try_from(all).ok()).filter(|all| *all <= 1_000_000)
            else {
                cx.invalid(at.key(field), "the fraction is more than one");
                return None;
            };
            Some(Some(FractionalPercent { numerator, denominator: DenominatorType::Million.into() }))
        }
    };
    let random = share("samplingFraction", &wanted.sampling_fraction)?;
    let client = share("clientSamplingFraction", &wanted.client_sampling_fraction)?;
    let overall = share("overallSamplingFraction", &wanted.overall_sampling_fraction)?;
    let (custom_tags, refused) =
        span_tags::lower(&wanted.tags, &wanted.custom_tags, at, |text| judged(text, cx));
    for (field, why) in &refused {
        cx.invalid(field.clone(), why);
    }
    if !refused.is_empty() {
        return None;
    }
    let (operation, upstream_operation) = match &wanted.span_name {
        Some(names) => {
            let at = at.key("spanName");
            (
                formatted(&names.client, &at.key("client"), cx)?,
                formatted(&names.server, &at.key("server"), cx)?,
            )
        }
        None => Default::default(),
    };
    // Without a share of its own no client makes Envoy trace its request.
    let client = client.or(Some(FractionalPercent::default()));
    Some(Tracing {
        client_sampling: client,
        random_sampling: random,
        overall_sampling: overall,
        custom_tags,
        operation,
        upstream_operation,
    })
}

/// Whether Envoy takes a text in spans.
fn judged(text: &str, cx: &Lowering<'_>) -> Result<(), String> {
    operators::judged(text, operators::spanned, |expression| cx.parsed(expression).map(drop)).map(drop)
}

fn formatted(text: &str, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<String> {
    judged(text, cx).map_err(|why| cx.invalid(at.clone(), &why)).ok()?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};
    use envoy_types::pb::envoy::r#type::tracing::v3::custom_tag;

    #[test]
    fn counters_and_spans_as_it_is_said() {
        let compiled = testing::compile(
            Kind::BackendTraffic,
            r#"{"telemetry": {"metrics": {"routeStatName": "%ROUTE_KIND%/%ROUTE_NAMESPACE%/%ROUTE_NAME%"}, "tracing": {"samplingFraction": {"numerator": 1, "denominator": 8},
                "customTags": {"a": {"type": "Literal", "literal": {"value": "x"}}, "e": {"type": "Environment", "environment": {"name": "POD", "defaultValue": "none"}},
                "h": {"type": "RequestHeader", "requestHeader": {"name": "X-User"}}}, "tags": {"a": "%PROTOCOL%"}, "spanName": {"client": "in", "server": "%UPSTREAM_CLUSTER%"}}}}"#,
        );
        assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
        let route: Route = patched(&compiled.parts["backend_telemetry"].route);
        let tracing = route.tracing.unwrap();
        assert_eq!(
            (tracing.random_sampling.unwrap().numerator, tracing.client_sampling.unwrap().numerator),
            (125_000, 0)
        );
        assert_eq!(tracing.custom_tags.len(), 3);
        assert_eq!(tracing.custom_tags[0].r#type, Some(custom_tag::Type::Value("%PROTOCOL%".into())));
        assert_eq!(
            (tracing.operation.as_str(), tracing.upstream_operation.as_str()),
            ("in", "%UPSTREAM_CLUSTER%")
        );
    }

    #[test]
    fn what_envoy_does_not_take_is_said() {
        for (spec, field) in [
            (r#"{"metrics": {"routeStatName": "%ROUTE%"}}"#, "metrics.routeStatName"),
            (
                r#"{"tracing": {"samplingFraction": {"numerator": 3, "denominator": 2}}}"#,
                "tracing.samplingFraction",
            ),
            (
                r#"{"tracing": {"overallSamplingFraction": {"numerator": 3, "denominator": 0}}}"#,
                "tracing.overallSamplingFraction",
            ),
            (r#"{"tracing": {"tags": {"a": "50%"}}}"#, "tracing.tags.a"),
            (r#"{"tracing": {"customTags": {"a": {"type": "Environment"}}}}"#, "tracing.customTags.a"),
            (
                r#"{"tracing": {"customTags": {"a": {"type": "RequestHeader", "requestHeader": {"name": "a b"}}}}}"#,
                "tracing.customTags.a.requestHeader.name",
            ),
            (r#"{"tracing": {"spanName": {"client": "%", "server": "a"}}}"#, "tracing.spanName.client"),
        ] {
            let compiled = testing::compile(Kind::BackendTraffic, &format!(r#"{{"telemetry": {spec}}}"#));
            assert_eq!(testing::said(&compiled), [format!("MG4002 spec.telemetry.{field}")]);
            assert!(compiled.parts.is_empty() && !compiled.closed);
        }
    }
}
