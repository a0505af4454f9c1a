//! Spans (EnvoyProxy `telemetry.tracing`) and ids of requests.

use super::access_log::{COLLECTOR, Header};
use super::sink::{Found, Named, Sink};
use super::{Cx, at, grpc};
use crate::BackendRef;
use crate::lowering::any;
use crate::operators;
use crate::span_tags::{self, Tag};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::trace::v3::tracing::{Http, http};
use envoy_types::pb::envoy::config::trace::v3::{DatadogConfig, OpenTelemetryConfig, ZipkinConfig, zipkin_config};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, RequestIdExtension,
};
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use envoy_types::pb::envoy::extensions::tracers::opentelemetry::resource_detectors::v3::StaticConfigResourceDetectorConfig;
use envoy_types::pb::envoy::extensions::tracers::opentelemetry::samplers::v3::{
    AlwaysOnSamplerConfig, ParentBasedSamplerConfig, TraceIdRatioBasedSamplerConfig,
};
use envoy_types::pb::envoy::r#type::tracing::v3::CustomTag;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Percent};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use prost::Message as _;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    provider: Provider,
    sampling_rate: Option<u32>,
    sampling_fraction: Option<Fraction>,
    client_sampling_fraction: Option<Fraction>,
    overall_sampling_fraction: Option<Fraction>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
    #[serde(default)]
    custom_tags: BTreeMap<String, Tag>,
    span_name: Option<SpanName>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Fraction {
    numerator: u32,
    denominator: Option<u32>,
}

impl Fraction {
    /// In percent, at most all.
    fn percent(self) -> Percent {
        let denominator = self.denominator.filter(|found| *found > 0).unwrap_or(100);
        Percent { value: (f64::from(self.numerator) * 100.0 / f64::from(denominator)).min(100.0) }
    }

    /// In millionths.
    fn fractional(self) -> FractionalPercent {
        let denominator = u64::from(self.denominator.filter(|found| *found > 0).unwrap_or(100));
        let millionths = (u64::from(self.numerator) * 1_000_000 / denominator).min(1_000_000);
        FractionalPercent {
            numerator: u32::try_from(millionths).unwrap_or(1_000_000),
            denominator: DenominatorType::Million.into(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct SpanName {
    server: Option<String>,
    client: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    r#type: String,
    backend_ref: Option<BackendRef>,
    #[serde(default)]
    backend_refs: Vec<Sink>,
    service_name: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    zipkin: Option<Zipkin>,
    open_telemetry: Option<OpenTelemetry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Zipkin {
    #[serde(rename = "enable128BitTraceId")]
    long_ids: Option<bool>,
    disable_shared_span_context: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpenTelemetry {
    #[serde(default)]
    headers: Vec<Header>,
    #[serde(default)]
    resource_attributes: BTreeMap<String, String>,
    sampler: Option<Sampler>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sampler {
    r#type: String,
    sampling_percentage: Option<Fraction>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RequestId {
    tracing: Option<String>,
}

/// Where Zipkin takes spans (its API, version 2).
const ZIPKIN_PATH: &str = "/api/v2/spans";

/// An encoded `Tracing`; none if there is nobody to tell.
pub(super) fn lower(spec: &Spec, cx: &mut Cx<'_, '_>) -> Option<Vec<u8>> {
    let provider = &spec.provider;
    let field = at("telemetry.tracing.provider");
    let named = Named {
        one: provider.backend_ref.as_ref(),
        several: &provider.backend_refs,
        outside: provider.host.as_deref().map(|host| (host, provider.port.unwrap_or(COLLECTOR))),
        http2: provider.r#type == "OpenTelemetry",
    };
    let Found { cluster, authority } = cx.sink(&field, &named)?;
    let service = provider.service_name.clone().unwrap_or_else(|| cx.around.service.clone());
    let (name, config) = match provider.r#type.as_str() {
        "Zipkin" => {
            let zipkin = provider.zipkin.as_ref();
            let shared = !zipkin.and_then(|zipkin| zipkin.disable_shared_span_context).unwrap_or(false);
            let config = ZipkinConfig {
                collector_cluster: cluster,
                collector_endpoint: ZIPKIN_PATH.into(),
                collector_endpoint_version: zipkin_config::CollectorEndpointVersion::HttpJson.into(),
                collector_hostname: authority,
                trace_id_128bit: zipkin.and_then(|zipkin| zipkin.long_ids).unwrap_or(false),
                shared_span_context: Some(BoolValue { value: shared }),
                ..Default::default()
            };
            ("envoy.tracers.zipkin", any(&config))
        }
        "Datadog" => {
            let config = DatadogConfig {
                collector_cluster: cluster,
                service_name: service,
                collector_hostname: authority,
                ..Default::default()
            };
            ("envoy.tracers.datadog", any(&config))
        }
        _ => {
            let own = provider.open_telemetry.as_ref();
            let headers = own.map(|own| own.headers.iter().map(Header::lower).collect()).unwrap_or_default();
            let config = OpenTelemetryConfig {
                grpc_service: Some(grpc(cluster, &authority, headers)),
                service_name: service,
                resource_detectors: own.and_then(resources).into_iter().collect(),
                sampler: own.and_then(|own| own.sampler.as_ref()).and_then(|own| sampler(own, &field, cx)),
                ..Default::default()
            };
            ("envoy.tracers.opentelemetry", any(&config))
        }
    };
    let rate = spec.sampling_rate.map(|rate| Percent { value: f64::from(rate.min(100)) });
    let custom_tags = custom_tags(spec, cx);
    let mut tracing = Tracing {
        random_sampling: spec.sampling_fraction.map(Fraction::percent).or(rate),
        // A client forces no span unless that is asked for.
        client_sampling: Some(spec.client_sampling_fraction.map(Fraction::percent).unwrap_or_default()),
        overall_sampling: spec.overall_sampling_fraction.map(Fraction::percent),
        custom_tags,
        provider: Some(Http { name: name.into(), config_type: Some(http::ConfigType::TypedConfig(config)) }),
        ..Default::default()
    };
    if let Some(names) = &spec.span_name {
        for (side, given) in [("server", &names.server), ("client", &names.client)] {
            let Some(format) = given else { continue };
            let field = at("telemetry.tracing.spanName").key(side);
            if cx.format(format, operators::spanned, &field, "spans are named as ever").is_none() {
                continue;
            }
            // As the API has it: the client's name is that of the span as such, the server's that of the one upstream.
            let to = if side == "client" { &mut tracing.operation } else { &mut tracing.upstream_operation };
            to.clone_from(format);
        }
    }
    cx.fits(&tracing, true, at("telemetry.tracing"), "no spans are sent").then(|| tracing.encode_to_vec())
}

/// The tags of spans that Envoy takes; what is wrong with another costs that one.
fn custom_tags(spec: &Spec, cx: &mut Cx<'_, '_>) -> Vec<CustomTag> {
    let judged = |text: &str| cx.judged(text, operators::spanned).map(drop);
    let (found, refused) = span_tags::lower(&spec.tags, &spec.custom_tags, &at("telemetry.tracing"), judged);
    for (field, why) in refused {
        cx.find(field, why, "spans lack this tag");
    }
    found
}

fn resources(own: &OpenTelemetry) -> Option<TypedExtensionConfig> {
    let attributes = own.resource_attributes.iter().map(|(name, value)| (name.clone(), value.clone()));
    let config = StaticConfigResourceDetectorConfig { attributes: attributes.collect() };
    (!config.attributes.is_empty()).then(|| TypedExtensionConfig {
        name: "envoy.tracers.opentelemetry.resource_detectors.static_config".into(),
        typed_config: Some(any(&config)),
    })
}

/// Who samples besides the connection manager.
fn sampler(own: &Sampler, at: &FieldPath, cx: &mut Cx<'_, '_>) -> Option<TypedExtensionConfig> {
    let extension = |name: &str, config| TypedExtensionConfig {
        name: format!("envoy.tracers.opentelemetry.samplers.{name}"),
        typed_config: Some(config),
    };
    let ratio = |fraction: Fraction| {
        let share = TraceIdRatioBasedSamplerConfig { sampling_percentage: Some(fraction.fractional()) };
        extension("trace_id_ratio_based", any(&share))
    };
    let never = Fraction { numerator: 0, denominator: None };
    let always = || extension("always_on", any(&AlwaysOnSamplerConfig {}));
    let share = own.sampling_percentage.unwrap_or(Fraction { numerator: 100, denominator: None });
    let (parent, inner) = match own.r#type.as_str() {
        "AlwaysOn" => (false, always()),
        "AlwaysOff" => (false, ratio(never)),
        "TraceIdRatio" => (false, ratio(share)),
        "ParentBasedAlwaysOn" => (true, always()),
        "ParentBasedAlwaysOff" => (true, ratio(never)),
        "ParentBasedTraceIdRatio" => (true, ratio(share)),
        other => {
            let field = at.key("openTelemetry").key("sampler").key("type");
            cx.find(
                field,
                format!("a sampler {other:?} is not known"),
                "all that the connection manager lets pass is sampled",
            );
            return None;
        }
    };
    Some(if parent {
        extension("parent_based", any(&ParentBasedSamplerConfig { wrapped_sampler: Some(inner) }))
    } else {
        inner
    })
}

/// What ids of requests say of spans.
pub(super) fn request_id(spec: &RequestId) -> HttpConnectionManager {
    let (pack, sample) = match spec.tracing.as_deref() {
        Some("Sample") => (false, true),
        Some("Pack") => (true, false),
        Some("Disable") => (false, false),
        _ => (true, true),
    };
    let config = UuidRequestIdConfig {
        pack_trace_reason: Some(BoolValue { value: pack }),
        use_request_id_for_trace_sampling: Some(BoolValue { value: sample }),
    };
    HttpConnectionManager {
        request_id_extension: Some(RequestIdExtension { typed_config: Some(any(&config)) }),
        ..Default::default()
    }
}
