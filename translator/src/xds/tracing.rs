//! Tracing: what Envoy tells a collector of OpenTelemetry.
//!
//! Who samples is the tracer's own sampler and not the connection manager, whose shares know nothing of parent spans and
//! let a client force a span by a header.

use super::{header, value};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::config::core::v3::{
    GrpcService, HeaderValue, HeaderValueOption, HttpService, HttpUri, TypedExtensionConfig,
};
use envoy_types::pb::envoy::config::trace::v3::OpenTelemetryConfig;
use envoy_types::pb::envoy::config::trace::v3::tracing::{Http, http};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as pb;
use envoy_types::pb::envoy::extensions::tracers::opentelemetry::samplers::v3::{
    ParentBasedSamplerConfig, TraceIdRatioBasedSamplerConfig,
};
use envoy_types::pb::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use moorgate_model::ir::{Proxy, SpanAttribute, SpanProtocol, SpanValue, Tracing};
use prost::Message as _;

/// An export that takes longer is given up: the default of the OpenTelemetry protocol's exporters.
const TIMEOUT_SECONDS: i64 = 10;

/// Where a collector takes spans over HTTP (OTLP specification, `otlphttp-request`).
const PATH: &str = "/v1/traces";

/// What an EnvoyProxy says of spans.
pub(super) fn of_proxy(proxy: &Proxy) -> Option<pb::Tracing> {
    // It was encoded from a message.
    pb::Tracing::decode(proxy.tracing.as_deref()?).ok()
}

/// What a connection manager traces.
pub(super) fn lower(tracing: &Tracing) -> pb::Tracing {
    let mut config = OpenTelemetryConfig {
        service_name: tracing.service_name.clone(),
        sampler: Some(sampler(tracing)),
        ..Default::default()
    };
    match tracing.protocol {
        SpanProtocol::Grpc => config.grpc_service = Some(grpc(tracing)),
        SpanProtocol::Http => config.http_service = Some(http(tracing)),
    }
    pb::Tracing {
        provider: Some(Http {
            name: "envoy.tracers.opentelemetry".into(),
            config_type: Some(http::ConfigType::TypedConfig(value::any(&config))),
        }),
        operation: tracing.span_name.as_deref().map(header::literal).unwrap_or_default(),
        custom_tags: tracing.attributes.iter().map(tag).collect(),
        ..Default::default()
    }
}

fn sampler(tracing: &Tracing) -> TypedExtensionConfig {
    let (numerator, denominator) = tracing.sampling;
    let share =
        TraceIdRatioBasedSamplerConfig { sampling_percentage: Some(value::fraction(numerator, denominator)) };
    let of_new = TypedExtensionConfig {
        name: "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based".into(),
        typed_config: Some(value::any(&share)),
    };
    if !tracing.follows_parent {
        return of_new;
    }
    let config = ParentBasedSamplerConfig { wrapped_sampler: Some(of_new) };
    TypedExtensionConfig {
        name: "envoy.tracers.opentelemetry.samplers.parent_based".into(),
        typed_config: Some(value::any(&config)),
    }
}

/// Headers for the collector; none has a percent sign in its value.
fn headers(tracing: &Tracing) -> impl Iterator<Item = HeaderValue> {
    tracing.headers.iter().map(|(name, value)| HeaderValue {
        key: name.clone(),
        value: value.clone(),
        ..Default::default()
    })
}

fn grpc(tracing: &Tracing) -> GrpcService {
    GrpcService {
        timeout: value::seconds(TIMEOUT_SECONDS),
        initial_metadata: headers(tracing).collect(),
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: tracing.cluster.clone(),
            authority: tracing.authority.clone(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn http(tracing: &Tracing) -> HttpService {
    HttpService {
        http_uri: Some(HttpUri {
            // The scheme says nothing: whether there is TLS is the cluster's matter.
            uri: format!("http://{}{PATH}", tracing.authority),
            timeout: value::seconds(TIMEOUT_SECONDS),
            http_upstream_type: Some(HttpUpstreamType::Cluster(tracing.cluster.clone())),
        }),
        request_headers_to_add: headers(tracing)
            .map(|header| HeaderValueOption {
                header: Some(header),
                append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

fn tag(attribute: &SpanAttribute) -> CustomTag {
    let header = |name: &str| custom_tag::Header { name: name.to_owned(), ..Default::default() };
    CustomTag {
        tag: attribute.name.clone(),
        r#type: Some(match &attribute.value {
            SpanValue::Literal(text) => {
                custom_tag::Type::Literal(custom_tag::Literal { value: text.clone() })
            }
            SpanValue::Header(name) => custom_tag::Type::RequestHeader(header(name)),
            SpanValue::Format(format) => custom_tag::Type::Value(format.clone()),
        }),
    }
}
