//! A listener of Envoy's own, for probes of a pod in which nobody else could answer them.

use serde_json::{Value, json};

/// Its name, and that of its statistics.
pub(crate) const NAME: &str = "moorgate-ready";

/// A bootstrap with a listener on this port that answers `/ready` and nothing else.
///
/// Envoy opens no listener before its first clusters and listeners have come from the relay, so who is answered 200 has an
/// Envoy that serves; 503 after `/healthcheck/fail`.
pub fn answering_probes(mut bootstrap: Value, port: u16) -> Value {
    const HTTP: &str = "type.googleapis.com/envoy.extensions.filters";
    let manager = json!({
        "@type": format!("{HTTP}.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": NAME,
        "route_config": {"name": NAME, "virtual_hosts": []},
        "http_filters": [
            {"name": "envoy.filters.http.health_check", "typed_config": {
                "@type": format!("{HTTP}.http.health_check.v3.HealthCheck"),
                "pass_through_mode": false,
                "headers": [{"name": ":path", "string_match": {"exact": "/ready"}}],
            }},
            {"name": "envoy.filters.http.router", "typed_config": {
                "@type": format!("{HTTP}.http.router.v3.Router"),
            }},
        ],
    });
    let listener = json!({
        "name": NAME,
        "address": {"socket_address": {"address": super::listener::BIND_ADDRESS, "port_value": port}},
        "ignore_global_conn_limit": true,
        "filter_chains": [{"filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
        ]}],
    });
    match bootstrap["static_resources"].get_mut("listeners").and_then(Value::as_array_mut) {
        Some(listeners) => listeners.push(listener),
        None => bootstrap["static_resources"]["listeners"] = json!([listener]),
    }
    bootstrap
}
