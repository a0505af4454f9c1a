//! Statistics in a bootstrap: who is shown them, who they are sent to, and which there are.

use super::Address;
use crate::xds::{CLUSTER_TYPE, XdsError, canonical, cluster, json, listener};
use moorgate_model::ir::{self, BindFamily};
use serde_json::{Value, json};

/// The listener that Prometheus reads from, its statistics, and the cluster behind it, which is Envoy's admin interface.
pub(crate) const STATS: &str = "moorgate-stats";
/// The only path that is answered there.
pub const STATS_PATH: &str = "/stats/prometheus";

const COMPRESSOR: &str = "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor";
const SINK: &str = "type.googleapis.com/envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig";
const MATCHER: &str = "type.googleapis.com/envoy.type.matcher.v3.StringMatcher";

/// Where statistics are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// IPv4 addresses are mapped into IPv6.
    pub mapped: bool,
}

impl Shown {
    /// On all addresses that listeners of a fleet bind.
    pub fn everywhere(port: u16, family: BindFamily) -> Self {
        let host = listener::address_of(family).to_owned();
        Self { host, port, mapped: family == BindFamily::Dual }
    }

    /// `HOST:PORT`, with brackets around an IPv6 address; none if it is in another form.
    pub fn parse(text: &str) -> Option<Self> {
        match Address::parse(text)? {
            Address::Tcp(host, port) if text.parse::<std::net::SocketAddr>().is_ok() => {
                Some(Self { host: host.to_owned(), port, mapped: false })
            }
            Address::Tcp(..) | Address::Unix(_) => None,
        }
    }
}

/// A bootstrap with what its fleet says of statistics. They are shown at `shown`, unless the fleet says that nobody sees them.
///
/// # Errors
/// A message of the fleet is none.
pub fn with_metrics(bootstrap: Value, proxy: &ir::Proxy, shown: Option<&Shown>) -> Result<Value, XdsError> {
    let mut out = bootstrap;
    let startup = &proxy.startup;
    if let Some(shown) = shown.filter(|_| !startup.unscraped) {
        let admin = out["admin"]["address"].clone();
        push(&mut out, "clusters", admin_cluster(&admin));
        push(&mut out, "listeners", scraped(shown, startup.compressor.as_deref())?);
    }
    for sink in &startup.sinks {
        let Some(cluster) = &sink.cluster else { continue };
        push(&mut out, "clusters", collector(&sink.name, cluster, sink.authorities.as_deref(), proxy)?);
        let mut config = json::print(SINK, &sink.config, true)?;
        config["@type"] = SINK.into();
        let sink = json!({"name": "envoy.stat_sinks.open_telemetry", "typed_config": config});
        match out.get_mut("stats_sinks").and_then(Value::as_array_mut) {
            Some(sinks) => sinks.push(sink),
            None => out["stats_sinks"] = json!([sink]),
        }
    }
    if let Some(kept) = &startup.kept {
        let patterns: Vec<Value> =
            kept.iter().map(|one| json::print(MATCHER, one, true)).collect::<Result<_, _>>()?;
        out["stats_config"] = json!({"stats_matcher": {"inclusion_list": {"patterns": patterns}}});
    }
    Ok(out)
}

fn push(bootstrap: &mut Value, list: &str, item: Value) {
    let resources = &mut bootstrap["static_resources"];
    match resources.get_mut(list).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => resources[list] = json!([item]),
    }
}

/// The admin interface as a backend.
fn admin_cluster(address: &Value) -> Value {
    json!({
        "name": STATS,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": STATS,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}

/// A listener that answers `GET /stats/prometheus` from the admin interface, and nothing else: whoever reaches that can stop
/// Envoy. Who floods other listeners with connections keeps nobody from seeing it here.
fn scraped(shown: &Shown, compressor: Option<&[u8]>) -> Result<Value, XdsError> {
    const HTTP: &str = "type.googleapis.com/envoy.extensions.filters";
    let mut filters = Vec::new();
    if let Some(compressor) = compressor {
        let mut config = json::print(COMPRESSOR, compressor, true)?;
        config["@type"] = COMPRESSOR.into();
        filters.push(json!({"name": "envoy.filters.http.compressor", "typed_config": config}));
    }
    filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {
        "@type": format!("{HTTP}.http.router.v3.Router"),
    }}));
    let get = json!({"name": ":method", "string_match": {"exact": "GET"}});
    let manager = json!({
        "@type": format!("{HTTP}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": STATS,
        "normalize_path": true,
        "merge_slashes": true,
        "route_config": {
            "name": STATS,
            "virtual_hosts": [{"name": STATS, "domains": ["*"], "routes": [{
                "match": {"path": STATS_PATH, "headers": [get]},
                "route": {"cluster": STATS, "timeout": "60s"},
            }]}],
        },
        "http_filters": filters,
    });
    let mut address = json!({"address": shown.host, "port_value": shown.port});
    if shown.mapped {
        address["ipv4_compat"] = true.into();
    }
    Ok(json!({
        "name": STATS,
        "address": {"socket_address": address},
        "ignore_global_conn_limit": true,
        "bypass_overload_manager": true,
        "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
        ]}],
    }))
}

/// The cluster of a collector. The stream that brings secrets is not there yet, so CAs stand in it.
fn collector(
    name: &str,
    cluster: &ir::Cluster,
    authorities: Option<&str>,
    proxy: &ir::Proxy,
) -> Result<Value, XdsError> {
    let (message, _) = cluster::lower(name, cluster, proxy);
    let mut out = json::print(CLUSTER_TYPE, &canonical::encode(&message), true)?;
    if let Some(authorities) = authorities {
        trust(&mut out, authorities);
    }
    Ok(out)
}

/// Puts CAs where a secret would bring them.
fn trust(value: &mut Value, authorities: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| trust(item, authorities)),
        Value::Object(fields) => {
            if let Some(mut combined) = fields.remove("combined_validation_context") {
                let mut context = combined["default_validation_context"].take();
                context["trusted_ca"] = json!({"inline_string": authorities});
                fields.insert("validation_context".into(), context);
            }
            fields.values_mut().for_each(|field| trust(field, authorities));
        }
        _ => {}
    }
}
