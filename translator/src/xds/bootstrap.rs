//! The file that an Envoy of a fleet starts with: everything else comes from its relay.

use serde_json::{Value, json};

/// The cluster through which Envoy reaches its relay.
const RELAY: &str = "moorgate-relay";

/// What differs from one Envoy to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapOptions {
    /// The fleet, such as `shop/edge`; Envoy's `node.cluster`.
    pub fleet: String,
    /// Envoy's own name among those of its fleet, such as the host's name; `node.id`.
    pub node_id: String,
    /// Where the relay listens.
    pub relay: Address,
    /// Mutual TLS towards a relay on TCP.
    pub relay_tls: Option<RelayTls>,
    /// Where Envoy's admin interface listens: a socket or a loopback address, since whoever reaches it can stop Envoy.
    pub admin: Address,
    /// The variant of the protocol.
    pub protocol: AdsProtocol,
    /// How many client connections Envoy takes at a time, over all listeners.
    pub max_connections: u64,
    /// How much memory Envoy may use, in bytes: close to the limit it gives memory back, then refuses requests.
    pub max_heap_bytes: Option<u64>,
}

/// A place to listen or connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket's path.
    Unix(String),
    /// A host (a name or an address) and a port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Files for mutual TLS, read by Envoy and watched for rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayTls {
    /// The authority that signed the relay's certificate, PEM.
    pub ca_file: String,
    /// Envoy's certificate chain, PEM; it says which fleet Envoy belongs to.
    pub certificate_file: String,
    /// The key of that certificate, PEM.
    pub key_file: String,
    /// The name that the relay's certificate must carry.
    pub server_name: String,
}

/// Variants of ADS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdsProtocol {
    /// Incremental: only what changed is sent. The default of everything new.
    Delta,
    /// State of the world.
    StateOfTheWorld,
}

impl BootstrapOptions {
    /// A bootstrap for an Envoy beside its relay: Unix sockets on both sides.
    pub fn beside_relay(fleet: &str, node_id: &str, relay_socket: &str, admin_socket: &str) -> Self {
        Self {
            fleet: fleet.to_owned(),
            node_id: node_id.to_owned(),
            relay: Address::Unix(relay_socket.to_owned()),
            relay_tls: None,
            admin: Address::Unix(admin_socket.to_owned()),
            protocol: AdsProtocol::Delta,
            max_connections: 50_000,
            max_heap_bytes: None,
        }
    }
}

/// The bootstrap as JSON, which Envoy reads like YAML.
///
/// Listeners and clusters have no fetch timeout: an Envoy whose relay is not there yet waits, and is not ready,
/// instead of serving nothing and calling itself live.
pub fn bootstrap(options: &BootstrapOptions) -> Value {
    let source = || json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    json!({
        "node": {"id": options.node_id, "cluster": options.fleet},
        "admin": {"address": address(&options.admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": match options.protocol {
                    AdsProtocol::Delta => "DELTA_GRPC",
                    AdsProtocol::StateOfTheWorld => "GRPC",
                },
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": RELAY}}],
            },
            "cds_config": source(),
            "lds_config": source(),
        },
        "static_resources": {"clusters": [relay(options)]},
        "layered_runtime": {"layers": [{"name": "moorgate", "static_layer": {
            // The translator bounds regular expressions; Envoy's own bound of 100 would refuse a whole table.
            "re2.max_program_size.error_level": 4_294_967_295_u32,
            "re2.max_program_size.warn_level": 1000,
            // A cluster that was updated keeps its endpoints while it waits for new ones.
            "envoy.restart_features.use_eds_cache_for_ads": true,
        }}]},
        "overload_manager": overload(options),
    })
}

fn address(address: &Address) -> Value {
    match address {
        Address::Unix(path) => json!({"pipe": {"path": path}}),
        Address::Tcp { host, port } => json!({"socket_address": {"address": host, "port_value": port}}),
    }
}

fn relay(options: &BootstrapOptions) -> Value {
    let numeric = match &options.relay {
        Address::Unix(_) => true,
        Address::Tcp { host, .. } => host.parse::<std::net::IpAddr>().is_ok(),
    };
    let mut cluster = json!({
        "name": RELAY,
        "type": if numeric { "STATIC" } else { "STRICT_DNS" },
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": RELAY,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(&options.relay)}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {
                    // A relay that hangs is found out, and the stream made anew.
                    "connection_keepalive": {"interval": "30s", "timeout": "5s"},
                }},
            },
        },
    });
    if let (Some(tls), Some(cluster)) = (&options.relay_tls, cluster.as_object_mut()) {
        cluster.insert("transport_socket".into(), relay_tls(tls));
    }
    cluster
}

fn relay_tls(tls: &RelayTls) -> Value {
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": tls.server_name,
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "alpn_protocols": ["h2"],
                "tls_certificates": [{
                    "certificate_chain": {"filename": tls.certificate_file},
                    "private_key": {"filename": tls.key_file},
                }],
                "validation_context": {
                    "trusted_ca": {"filename": tls.ca_file},
                    "match_typed_subject_alt_names":
                        [{"san_type": "DNS", "matcher": {"exact": tls.server_name}}],
                },
            },
        },
    })
}

fn overload(options: &BootstrapOptions) -> Value {
    let mut monitors = vec![json!({
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": options.max_connections,
        },
    })];
    let mut actions = Vec::new();
    if let Some(bytes) = options.max_heap_bytes {
        const HEAP: &str = "envoy.resource_monitors.fixed_heap";
        monitors.push(json!({
            "name": HEAP,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                "max_heap_size_bytes": bytes,
            },
        }));
        for (action, at) in [
            ("envoy.overload_actions.shrink_heap", 0.95),
            ("envoy.overload_actions.stop_accepting_requests", 0.98),
        ] {
            actions.push(json!({
                "name": action,
                "triggers": [{"name": HEAP, "threshold": {"value": at}}],
            }));
        }
    }
    json!({"refresh_interval": "0.25s", "resource_monitors": monitors, "actions": actions})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_by_name_is_resolved_and_tls_is_verified() {
        let mut options =
            BootstrapOptions::beside_relay("shop/edge", "edge-1", "/run/relay.sock", "/run/admin.sock");
        let plain = bootstrap(&options);
        assert_eq!(plain["static_resources"]["clusters"][0]["type"], "STATIC");
        assert_eq!(plain["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
        assert_eq!(plain["node"], json!({"id": "edge-1", "cluster": "shop/edge"}));
        options.relay = Address::Tcp { host: "relay.example.com".into(), port: 18_000 };
        options.protocol = AdsProtocol::StateOfTheWorld;
        options.max_heap_bytes = Some(1 << 30);
        options.relay_tls = Some(RelayTls {
            ca_file: "/ca.pem".into(),
            certificate_file: "/cert.pem".into(),
            key_file: "/key.pem".into(),
            server_name: "relay.example.com".into(),
        });
        let remote = bootstrap(&options);
        let cluster = &remote["static_resources"]["clusters"][0];
        assert_eq!(cluster["type"], "STRICT_DNS");
        assert_eq!(cluster["transport_socket"]["typed_config"]["sni"], "relay.example.com");
        assert_eq!(remote["dynamic_resources"]["ads_config"]["api_type"], "GRPC");
        assert_eq!(remote["overload_manager"]["actions"].as_array().map(Vec::len), Some(2));
    }
}
