//! The zone in which an Envoy runs.

use serde_json::{Value, json};

/// The cluster that stands for the fleet itself.
pub(crate) const LOCAL: &str = "moorgate-local";

/// What a bootstrap has besides where Envoy knows its zone. It looks for endpoints there only if a cluster stands for its
/// fleet; where requests are kept in the zone, of that nothing counts but that it has an endpoint in the zone, which is
/// never asked.
pub fn zone(zone: &str) -> Value {
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 1}});
    let endpoints = json!([{
        "locality": {"zone": zone},
        "lb_endpoints": [{"endpoint": {"address": address}}],
    }]);
    json!({
        "node": {"locality": {"zone": zone}},
        "cluster_manager": {"local_cluster_name": LOCAL},
        "static_resources": {"clusters": [{
            "name": LOCAL,
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": LOCAL, "endpoints": endpoints},
        }]},
    })
}

/// Puts that into a bootstrap.
pub(super) fn add(bootstrap: &mut Value, name: &str) {
    let mut own = zone(name);
    for path in ["/node/locality", "/cluster_manager"] {
        let (folder, field) = path.rsplit_once('/').unwrap_or_default();
        if let (Some(into), Some(value)) = (bootstrap.pointer_mut(folder), own.pointer_mut(path)) {
            into[field] = value.take();
        }
    }
    let clusters = own.pointer_mut("/static_resources/clusters").and_then(Value::as_array_mut);
    if let Some(Value::Array(into)) = bootstrap.pointer_mut("/static_resources/clusters") {
        into.extend(clusters.map(std::mem::take).unwrap_or_default());
    }
}
