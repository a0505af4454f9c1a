//! Clusters.

use super::{direct, patch, tls, value};
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, CustomClusterType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, circuit_breakers::Thresholds, circuit_breakers::thresholds::RetryBudget,
};
use envoy_types::pb::envoy::config::core::v3::health_check::HealthChecker;
use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version;
use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, ProxyProtocolConfig, TransportSocket,
};
use envoy_types::pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use envoy_types::pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use envoy_types::pb::envoy::extensions::filters::http::upstream_codec::v3::UpstreamCodec;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use moorgate_model::ir::{
    AppProtocol, Cluster, Direct, DirectAddress, Dns, DnsFamily, EndpointSource, Patch, Proxy, ProxyHeader,
    ServerName,
};
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

/// What health checks ask for where nobody has a name.
const CHECKED_AS: &str = "health-check";

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
    if let Some(options) = protocol(cluster) {
        out.typed_extension_protocol_options
            .insert("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into(), value::any(&options));
    }
    if refuses(cluster) {
        // Nothing to connect to: neither plain text nor unverified TLS can pass.
        out.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into()));
        return (out, Vec::new());
    }
    let mut refs = Vec::new();
    let looked_for = by_dns(cluster).map(names).map(ClusterDiscoveryType::ClusterType);
    if direct::is(cluster) {
        direct::apply(name, cluster, looked_for, &mut out);
    } else if looked_for.is_some() {
        out.cluster_discovery_type = looked_for;
        out.load_assignment = Some(direct::by_names(name, cluster));
    } else {
        out.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
        out.eds_cluster_config = Some(EdsClusterConfig {
            eds_config: Some(value::ads(ENDPOINTS_TIMEOUT_SECONDS)),
            service_name: cluster.eds_name.clone(),
        });
        refs.push(Reference { kind: BindingKind::Endpoints, name: cluster.eds_name.as_str().into() });
    }
    if let Some(tls) = &cluster.tls {
        out.transport_socket = Some(tls::upstream(tls, cluster, &proxy.backend_tls));
        refs.extend(tls::upstream_references(tls));
    }
    if let Some(version) = cluster.policies.proxy_header {
        out.transport_socket = Some(proxy_header(version, out.transport_socket));
    }
    patch::apply(&mut out, &proxy.cluster);
    patch::apply(&mut out, &cluster.policies.cluster);
    // Envoy refuses both elsewhere.
    if !cluster.is_dynamic() {
        patch::apply(&mut out, &cluster.policies.balancing);
    }
    if cluster.speaks_http2() {
        patch::apply(&mut out, &cluster.policies.over_http2);
    }
    log_checks(&mut out, proxy);
    name_checks(&mut out, cluster);
    (out, refs)
}

/// The host of health checks that have none of their own: Envoy would ask for the cluster's name, which is none.
fn name_checks(out: &mut pb::Cluster, cluster: &Cluster) {
    let named = cluster.policies.checked_as.as_deref().filter(|name| !name.is_empty());
    for check in &mut out.health_checks {
        if let Some(HealthChecker::HttpHealthCheck(http)) = &mut check.health_checker
            && http.host.is_empty()
        {
            named.unwrap_or(CHECKED_AS).clone_into(&mut http.host);
        }
    }
}

/// Where findings of health checks are written, if only the fleet says it.
fn log_checks(cluster: &mut pb::Cluster, proxy: &Proxy) {
    let Some(log) = &proxy.health_log else { return };
    let over = [Patch { message: log.clone(), ..Patch::default() }];
    let silent = cluster.health_checks.iter_mut().filter(|check| check.event_logger.is_empty());
    silent.for_each(|check| patch::apply(check, &over));
}

/// How Envoy looks for the addresses itself, if a policy says how and there are only names: then there is no binding.
pub(super) fn by_dns(cluster: &Cluster) -> Option<Dns> {
    let is_name = |source: &EndpointSource| match &source.direct {
        Some(Direct::Endpoint(endpoint)) => matches!(endpoint.address, DirectAddress::Host(..)),
        Some(Direct::Cluster(_) | Direct::Request) => false,
        None => source.hostname.is_some(),
    };
    let names = !cluster.sources.is_empty() && cluster.sources.iter().all(is_name);
    cluster.policies.dns.filter(|_| names)
}

fn names(dns: Dns) -> CustomClusterType {
    let family = match dns.family {
        DnsFamily::V4 => DnsLookupFamily::V4Only,
        DnsFamily::V6 => DnsLookupFamily::V6Only,
        DnsFamily::PreferV4 => DnsLookupFamily::V4Preferred,
        DnsFamily::PreferV6 => DnsLookupFamily::Auto,
        DnsFamily::All => DnsLookupFamily::All,
    };
    let cluster = DnsCluster {
        dns_refresh_rate: Some(value::duration(dns.refresh)),
        respect_dns_ttl: dns.respect_ttl,
        dns_lookup_family: family.into(),
        ..Default::default()
    };
    CustomClusterType { name: "envoy.cluster.dns".into(), typed_config: Some(value::any(&cluster)) }
}

/// The socket with the client's address before everything that it writes.
fn proxy_header(version: ProxyHeader, inner: Option<TransportSocket>) -> TransportSocket {
    let plain = || tls::socket("envoy.transport_sockets.raw_buffer", &RawBuffer::default());
    let version = match version {
        ProxyHeader::V1 => Version::V1,
        ProxyHeader::V2 => Version::V2,
    };
    let config = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig { version: version.into(), ..Default::default() }),
        transport_socket: Some(inner.unwrap_or_else(plain)),
        ..Default::default()
    };
    tls::socket("envoy.transport_sockets.upstream_proxy_protocol", &config)
}

/// How HTTP is spoken to the backend, if it is.
fn protocol(cluster: &Cluster) -> Option<HttpProtocolOptions> {
    let policies = &cluster.policies;
    let http2 = || {
        let mut options = Http2ProtocolOptions {
            initial_stream_window_size: value::number(STREAM_WINDOW_BYTES),
            initial_connection_window_size: value::number(CONNECTION_WINDOW_BYTES),
            ..Default::default()
        };
        patch::apply(&mut options, &policies.http2);
        options
    };
    let config = match cluster.protocol {
        AppProtocol::Http1 if !policies.speaks_http2 => {
            ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())
        }
        AppProtocol::Http1 | AppProtocol::Http2 => ProtocolConfig::Http2ProtocolOptions(http2()),
        AppProtocol::Tcp | AppProtocol::Udp => return None,
    };
    let spoken = if policies.client_protocol {
        UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(http2()),
            ..Default::default()
        })
    } else {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(config) })
    };
    let mut options = HttpProtocolOptions { upstream_protocol_options: Some(spoken), ..Default::default() };
    direct::server_names(cluster, &mut options);
    patch::apply(&mut options, &policies.upstream);
    if !policies.filters.is_empty() {
        options.http_filters = policies.filters.iter().map(patch::http_filter).collect();
        let codec = ("envoy.filters.http.upstream_codec", value::any(&UpstreamCodec::default()));
        options.http_filters.push(HttpFilter {
            name: codec.0.into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(codec.1)),
            ..Default::default()
        });
    }
    Some(options)
}
