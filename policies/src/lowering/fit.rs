//! Whether Envoy takes what a capability asks: it refuses a whole snapshot for one field that breaks a rule of its own.

use super::{Lowered, World};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction};
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimitPerRoute;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use moorgate_model::ir::{Extension, Patch};
use prost::Name;

/// Asks of each message that is lowered; says what breaks which rule.
pub(super) fn check(out: &Lowered, world: &dyn World) -> Result<(), String> {
    let over = |patches: &[Patch], type_url: &str| {
        patches.iter().try_for_each(|patch| world.fits(type_url, &patch.message, false))
    };
    let whole = |found: &Extension| world.fits(&found.type_url, &found.value, true);
    over(&out.route, &Route::type_url())?;
    over(&out.forward, &RouteAction::type_url())?;
    for patches in [&out.cluster.cluster, &out.cluster.balancing, &out.cluster.over_http2] {
        over(patches, &Cluster::type_url())?;
    }
    over(&out.cluster.upstream, &HttpProtocolOptions::type_url())?;
    over(&out.cluster.http2, &Http2ProtocolOptions::type_url())?;
    over(&out.manager, &HttpConnectionManager::type_url())?;
    over(&out.chain, &FilterChain::type_url())?;
    over(&out.listener, &Listener::type_url())?;
    over(&out.tls, &DownstreamTlsContext::type_url())?;
    over(&out.stream, &TcpProxy::type_url())?;
    over(&out.inspector, &TlsInspector::type_url())?;
    out.cluster.filters.iter().try_for_each(|(_, filter)| whole(filter))?;
    out.on_listener.iter().try_for_each(|filter| whole(&filter.config))?;
    for filter in &out.filters {
        [&filter.base, &filter.own].into_iter().chain(&filter.off).try_for_each(whole)?;
    }
    for limits in &out.limits {
        for counts in [&limits.apart, &limits.together] {
            world.fits(&RateLimitPerRoute::type_url(), counts, false)?;
        }
    }
    Ok(())
}
