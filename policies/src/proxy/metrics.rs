//! Statistics (EnvoyProxy `telemetry.metrics`): who reads them, which there are, and what they are called.
//!
//! Who reads them stands in the bootstrap (`ir::Startup`): Envoy makes its sinks before its relay says anything. What is
//! counted of hosts, clusters and calls stands in the snapshot.

use super::access_log::{COLLECTOR, Header};
use super::sink::{Found, Named, Sink};
use super::{Cx, at, grpc, patch};
use crate::BackendRef;
use crate::compression;
use crate::lowering::any;
use crate::{place, quantity::Quantity};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, TrackClusterStats};
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::{Compressor, compressor};
use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3::{FilterConfig, filter_config};
use envoy_types::pb::envoy::extensions::stat_sinks::open_telemetry::v3::{SinkConfig, sink_config};
use envoy_types::pb::envoy::extensions::tracers::opentelemetry::resource_detectors::v3::StaticConfigResourceDetectorConfig;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use moorgate_model::FieldPath;
use moorgate_model::ir::{ListenerFilter, MetricSink, Patch};
use prost::Message as _;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_excessive_bools, reason = "they are fields of the API")]
pub(super) struct Spec {
    prometheus: Option<Prometheus>,
    sinks: Vec<Where>,
    matches: Option<Vec<Match>>,
    enable_virtual_host_stats: bool,
    enable_per_endpoint_stats: bool,
    enable_request_response_sizes_stats: bool,
    #[serde(rename = "enableGRPCStats")]
    enable_grpc_stats: bool,
    cluster_stat_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Prometheus {
    #[serde(default)]
    disable: bool,
    compression: Option<Compression>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Compression {
    r#type: String,
    min_content_length: Option<Quantity>,
}

#[derive(Debug, Deserialize)]
struct Match {
    r#type: Option<String>,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Where {
    open_telemetry: Option<OpenTelemetry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OpenTelemetry {
    backend_ref: Option<BackendRef>,
    #[serde(default)]
    backend_refs: Vec<Sink>,
    host: Option<String>,
    port: Option<u16>,
    #[serde(default)]
    report_counters_as_deltas: bool,
    #[serde(default)]
    report_histograms_as_deltas: bool,
    #[serde(default)]
    headers: Vec<Header>,
    #[serde(default)]
    resource_attributes: BTreeMap<String, String>,
}

/// Names of what Moorgate itself and Envoy live by: a list of matches does not take them away. A relay reads answers of
/// listeners while a wave bakes; what Envoy Gateway's API asks to keep counts members of clusters, by which Envoy decides.
const NEEDED: [&str; 3] = [
    r"http\..*\.downstream_rq_(5xx|completed)",
    r"cluster_manager\.warming_clusters",
    r"cluster\..*\.membership_(total|healthy|degraded)",
];

/// Operators of `clusterStatName`; a route's clusters get them filled in.
const OPERATORS: [&str; 6] =
    ["BACKEND_REFS", "ROUTE_KIND", "ROUTE_NAME", "ROUTE_NAMESPACE", "ROUTE_RULE_NAME", "ROUTE_RULE_NUMBER"];

pub(super) fn lower(spec: &Spec, cx: &mut Cx<'_, '_>) {
    if let Some(prometheus) = &spec.prometheus {
        cx.out.proxy.startup.unscraped = prometheus.disable;
        cx.out.proxy.startup.compressor = prometheus.compression.as_ref().and_then(|own| compressed(own, cx));
    }
    if let Some(list) = &spec.matches {
        cx.out.proxy.startup.kept = Some(kept(list, cx));
    }
    for (index, sink) in spec.sinks.iter().enumerate() {
        let field = at("telemetry.metrics.sinks").index(index).key("openTelemetry");
        // Without one the schema has nothing to say but its type.
        let Some(collector) = &sink.open_telemetry else { continue };
        let found = sink_of(collector, index, &field, cx);
        cx.out.proxy.startup.sinks.extend(found);
    }
    if spec.enable_per_endpoint_stats || spec.enable_request_response_sizes_stats {
        let tracked = TrackClusterStats {
            per_endpoint_stats: spec.enable_per_endpoint_stats,
            request_response_sizes: spec.enable_request_response_sizes_stats,
            ..Default::default()
        };
        let cluster = Cluster { track_cluster_stats: Some(tracked), ..Default::default() };
        cx.out.proxy.cluster.push(patch(&cluster, &[]));
    }
    cx.out.proxy.counts_hosts = spec.enable_virtual_host_stats;
    cx.out.proxy.counts_calls = spec.enable_grpc_stats.then(calls);
    cx.out.proxy.cluster_stat_name = spec.cluster_stat_name.as_ref().and_then(|name| stat_name(name, cx));
}

/// What a cluster is called in statistics.
pub fn named_cluster(stat_name: &str) -> Patch {
    patch(&Cluster { alt_stat_name: stat_name.to_owned(), ..Default::default() }, &[])
}

/// The filter that counts calls of gRPC, each method apart.
fn calls() -> ListenerFilter {
    let config = FilterConfig {
        emit_filter_state: true,
        per_method_stat_specifier: Some(filter_config::PerMethodStatSpecifier::StatsForAllMethods(
            BoolValue { value: true },
        )),
        ..Default::default()
    };
    ListenerFilter {
        place: place::CALL_COUNTS,
        name: "envoy.filters.http.grpc_stats".into(),
        config: crate::lowering::extension(&config),
    }
}

/// An encoded `Compressor` of one library.
fn compressed(own: &Compression, cx: &mut Cx<'_, '_>) -> Option<Vec<u8>> {
    let field = at("telemetry.metrics.prometheus.compression");
    let help = "statistics are shown without compression";
    let Some((_, library)) = compression::library_of(&own.r#type) else {
        cx.find(field.key("type"), format!("type {} is not known", own.r#type), help);
        return None;
    };
    let mut least = None;
    if let Some(written) = &own.min_content_length {
        let Some(value) = written.number().and_then(|number| u32::try_from(number).ok()) else {
            cx.find(field.key("minContentLength"), "that is no number of bytes", help);
            return None;
        };
        least = Some(UInt32Value { value });
    }
    let common = compressor::CommonDirectionConfig { min_content_length: least, ..Default::default() };
    let config = Compressor {
        compressor_library: Some(library),
        response_direction_config: Some(compressor::ResponseDirectionConfig {
            common_config: Some(common),
            ..Default::default()
        }),
        ..Default::default()
    };
    Some(config.encode_to_vec())
}

/// Encoded `StringMatcher`s, with what is needed anyway.
fn kept(list: &[Match], cx: &mut Cx<'_, '_>) -> Vec<Vec<u8>> {
    let matcher =
        |pattern| StringMatcher { match_pattern: Some(pattern), ..Default::default() }.encode_to_vec();
    let regex =
        |text: &str| MatchPattern::SafeRegex(RegexMatcher { regex: text.to_owned(), ..Default::default() });
    let mut out = Vec::new();
    for (index, one) in list.iter().enumerate() {
        let field = at("telemetry.metrics.matches").index(index);
        let text = || one.value.clone();
        let pattern = match one.r#type.as_deref() {
            None | Some("Exact") => MatchPattern::Exact(text()),
            Some("Prefix") => MatchPattern::Prefix(text()),
            Some("Suffix") => MatchPattern::Suffix(text()),
            Some("RegularExpression") => match cx.around.world.regex(&one.value) {
                Ok(()) => regex(&one.value),
                Err(why) => {
                    let message = format!("{:?} is not a valid expression: {why}", one.value);
                    cx.find(field.key("value"), message, "no statistics are kept because of it");
                    continue;
                }
            },
            Some(other) => {
                let message = format!("type {other} is not known");
                cx.find(field.key("type"), message, "no statistics are kept because of it");
                continue;
            }
        };
        out.push(matcher(pattern));
    }
    out.extend(NEEDED.map(|text| matcher(regex(text))));
    out
}

fn sink_of(own: &OpenTelemetry, index: usize, at: &FieldPath, cx: &mut Cx<'_, '_>) -> Option<MetricSink> {
    let outside = own.host.as_deref().map(|host| (host, own.port.unwrap_or(COLLECTOR)));
    let named = Named { one: own.backend_ref.as_ref(), several: &own.backend_refs, outside, http2: true };
    let Found { cluster, authority } = cx.sink(at, &named)?;
    // It stands in the bootstrap, and the relay has nothing to say of it.
    cx.out.proxy.clusters.pop();
    let name = format!("moorgate-metrics-{index}");
    let attributes = own.resource_attributes.iter().map(|(name, value)| (name.clone(), value.clone()));
    let attributes = StaticConfigResourceDetectorConfig { attributes: attributes.collect() };
    let detector = (!attributes.attributes.is_empty()).then(|| TypedExtensionConfig {
        name: "envoy.tracers.opentelemetry.resource_detectors.static_config".into(),
        typed_config: Some(any(&attributes)),
    });
    let mut headers = Vec::new();
    for (number, header) in own.headers.iter().enumerate() {
        let lowered = header.plain();
        if lowered.is_none() {
            let field = at.key("headers").index(number).key("value");
            cx.find(
                field,
                "Envoy sends no percent sign to a collector of statistics",
                "the header is not sent",
            );
        }
        headers.extend(lowered);
    }
    let config = SinkConfig {
        protocol_specifier: Some(sink_config::ProtocolSpecifier::GrpcService(grpc(
            name.clone(),
            &authority,
            headers,
        ))),
        resource_detectors: detector.into_iter().collect(),
        report_counters_as_deltas: own.report_counters_as_deltas,
        report_histograms_as_deltas: own.report_histograms_as_deltas,
        ..Default::default()
    };
    let config = config.encode_to_vec();
    Some(MetricSink { index, config, name, backend: cluster, cluster: None, authorities: None })
}

/// A name whose operators are all known.
fn stat_name(name: &str, cx: &mut Cx<'_, '_>) -> Option<String> {
    let parts: Vec<&str> = name.split('%').collect();
    // Between two percent signs there is an operator.
    let unknown = parts.iter().skip(1).step_by(2).find(|part| !OPERATORS.contains(part));
    let message = if let Some(unknown) = unknown {
        format!("operator %{unknown}% is not known: there are {}", OPERATORS.join(", "))
    } else if parts.len().is_multiple_of(2) {
        "a percent sign begins an operator that does not end".to_owned()
    } else {
        return (!name.is_empty()).then(|| name.to_owned());
    };
    cx.find(at("telemetry.metrics.clusterStatName"), message, "clusters are called as ever");
    None
}
