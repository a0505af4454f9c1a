//! Clusters.

use super::{direct, patch, tls, value};
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, circuit_breakers::Thresholds, circuit_breakers::thresholds::RetryBudget,
};
use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, Http2ProtocolOptions};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use moorgate_model::ir::{AppProtocol, Cluster, Proxy, ServerName};
use moorgate_snapshot::record::{BindingKind, Reference};

/// How long Envoy waits for endpoints before a cluster goes live without: longer than a relay withholds an answer.
const ENDPOINTS_TIMEOUT_SECONDS: i64 = 5;
const CONNECT_TIMEOUT_SECONDS: i64 = 5;
/// As in Envoy's guide for edge proxies: bounds what one connection can hold in memory.
pub(super) const BUFFER_BYTES: u32 = 32 * 1024;
pub(super) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Envoy's defaults (1024, and 3 retries) are met by ordinary load; the listener side limits what a proxy takes in.
const MAX_IN_FLIGHT: u32 = 65_536;
const MAX_RETRIES: u32 = 1024;

/// True if no connection may ever succeed: the policy that protects it was invalid.
pub(super) fn refuses(cluster: &Cluster) -> bool {
    cluster.tls.as_ref().is_some_and(|tls| {
        let nobody = tls.server_name == ServerName::Given && tls.hostname.is_empty();
        let nothing = tls.ca_bundles.is_empty() && !tls.system_roots;
        tls.refuse || !tls.unverified && (nobody || nothing)
    })
}

/// The cluster and the names that it needs.
pub(super) fn lower(name: &str, cluster: &Cluster, proxy: &Proxy) -> (pb::Cluster, Vec<Reference>) {
    let mut out = pb::Cluster {
        name: name.to_owned(),
        connect_timeout: value::seconds(CONNECT_TIMEOUT_SECONDS),
        per_connection_buffer_limit_bytes: value::number(BUFFER_BYTES),
        lb_policy: LbPolicy::LeastRequest.into(),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: value::number(MAX_IN_FLIGHT),
                max_pending_requests: value::number(MAX_IN_FLIGHT),
                max_requests: value::number(MAX_IN_FLIGHT),
                max_retries: value::number(MAX_RETRIES),
                retry_budget: cluster.retry_budget.map(|budget| RetryBudget {
                    budget_percent: Some(Percent { value: f64::from(budget.percent) }),
                    min_retry_concurrency: value::number(budget.min_retries),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        // Without healthy endpoints there is 503. The default, panic below 50 %, would send requests to pods that
        // are going away whenever half of a Deployment is replaced. Weights are those of endpoints and localities
        // as the relay sends them; locality-weighted balancing stays off, because it starves a locality without
        // a weight.
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            ..Default::default()
        }),
        ignore_health_on_host_removal: true,
        ..Default::default()
    };
    if let Some(mut options) = protocol(cluster.protocol) {
        direct::server_names(cluster, &mut options);
        patch::apply(&mut options, &cluster.policies.upstream);
        out.typed_extension_protocol_options
            .insert("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into(), value::any(&options));
    }
    if refuses(cluster) {
        // Nothing to connect to: neither plain text nor unverified TLS can pass.
        out.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
        return (out, Vec::new());
    }
    out.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    out.eds_cluster_config = Some(EdsClusterConfig {
        eds_config: Some(value::ads(ENDPOINTS_TIMEOUT_SECONDS)),
        service_name: cluster.eds_name.clone(),
    });
    let mut refs = vec![Reference { kind: BindingKind::Endpoints, name: cluster.eds_name.as_str().into() }];
    direct::apply(name, cluster, &mut out, &mut refs);
    if let Some(tls) = &cluster.tls {
        out.transport_socket = Some(tls::upstream(tls, cluster.protocol, &proxy.backend_tls));
        refs.extend(tls::upstream_references(tls));
    }
    patch::apply(&mut out, &cluster.policies.cluster);
    (out, refs)
}

/// How HTTP is spoken to the backend, if it is.
fn protocol(protocol: AppProtocol) -> Option<HttpProtocolOptions> {
    let config = match protocol {
        AppProtocol::Http1 => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        AppProtocol::Http2 => ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
            initial_stream_window_size: value::number(STREAM_WINDOW_BYTES),
            initial_connection_window_size: value::number(CONNECTION_WINDOW_BYTES),
            ..Default::default()
        }),
        AppProtocol::Tcp | AppProtocol::Udp => return None,
    };
    Some(HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(config),
        })),
        ..Default::default()
    })
}
