//! The file that an Envoy of a fleet starts with: everything else comes from its relay.

mod metrics;
mod zone;

use moorgate_policies::RELAY_CLUSTER as RELAY;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};

pub(crate) use metrics::STATS;
pub use metrics::{STATS_PATH, Shown, with_metrics};
pub(crate) use zone::LOCAL;
pub use zone::zone;

/// Client connections that Envoy takes at a time, over all listeners: without a bound, a flood ends in lack of memory.
const MAX_CONNECTIONS: u32 = 50_000;

/// What differs from one Envoy to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapOptions {
    /// The fleet, such as `shop/edge`; Envoy's `node.cluster`.
    pub fleet: String,
    /// Where the relay listens: `unix:PATH` or `HOST:PORT`, with brackets around an IPv6 address.
    pub relay: String,
    /// Where Envoy's admin interface listens, in the same forms. Whoever reaches it can stop Envoy: a socket or a
    /// loopback address.
    pub admin: String,
    /// Envoy's own name among those of its fleet, such as the host's name; `node.id`.
    pub node: String,
    /// The variant of the protocol.
    pub protocol: AdsProtocol,
    /// The zone in which it runs, for policies that keep requests there; `node.locality.zone`.
    pub zone: Option<String>,
}

/// Variants of ADS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdsProtocol {
    /// Incremental: only what changed is sent. The default of everything new.
    Delta,
    /// State of the world.
    StateOfTheWorld,
}

/// The bootstrap as JSON, which Envoy reads like YAML.
///
/// Listeners and clusters have no fetch timeout: an Envoy whose relay is not there yet waits, and is not ready,
/// instead of serving nothing and calling itself live. `None` if an address is in neither form.
pub fn bootstrap(options: &BootstrapOptions) -> Option<Value> {
    let (relay, admin) = (Address::parse(&options.relay)?, Address::parse(&options.admin)?);
    let source = || json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    let mut out = json!({
        "node": {"id": options.node, "cluster": options.fleet},
        // Who floods the listeners keeps nobody from seeing it.
        "admin": {"address": admin.json(), "ignore_global_conn_limit": true},
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
        "static_resources": {"clusters": [relay_cluster(&relay)]},
        "layered_runtime": {"layers": [{"name": "moorgate", "static_layer": {
            // The translator bounds regular expressions; Envoy's own bound of 100 would refuse a whole table.
            "re2.max_program_size.error_level": u32::MAX,
            "re2.max_program_size.warn_level": 1000,
        }}]},
        "overload_manager": {
            "resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": MAX_CONNECTIONS,
                },
            }],
        },
    });
    if let Some(zone) = &options.zone {
        zone::add(&mut out, zone);
    }
    Some(out)
}

/// How an Envoy proves to a relay on TCP which pod it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayToken {
    /// The file of a projected token of its ServiceAccount. Envoy reads it again for every stream.
    pub file: String,
    /// The CA of the relay's certificate, PEM.
    pub ca: String,
    /// The file of a second token of the same pod, for the API server: with it the relay reads what the fleet binds.
    pub hands_over: Option<String>,
}

/// The header of that token; the relay knows it by the same name.
const HANDED_OVER: &str = "moorgate-kubernetes-token";

/// As [`bootstrap()`], for a relay at `HOST:PORT` that knows its clients by their tokens. `None` also for a socket.
///
/// Of Envoy's two gRPC clients only Google's reads a credential from a file that is replaced
/// (`envoy.grpc_credentials.file_based_metadata`); so it is used here, over TLS with the relay's CA. Modules of code come over
/// HTTP, by a cluster whose requests get the same tokens from a script.
pub fn bootstrap_with_token(options: &BootstrapOptions, token: &RelayToken) -> Option<Value> {
    let relay = Address::parse(&options.relay)?;
    if !matches!(relay, Address::Tcp(..)) {
        return None;
    }
    let mut out = bootstrap(options)?;
    let factory = "envoy.grpc_credentials.file_based_metadata";
    let credential = |header: &str, file: &str| {
        json!({"from_plugin": {"name": factory, "typed_config": {
            "@type": "type.googleapis.com/envoy.config.grpc_credential.v3.FileBasedMetadataConfig",
            "secret_data": {"filename": file},
            "header_key": header,
            "header_prefix": "Bearer ",
        }}})
    };
    let further = token.hands_over.as_ref().map(|file| credential(HANDED_OVER, file));
    let credentials: Vec<Value> =
        [credential("authorization", &token.file)].into_iter().chain(further).collect();
    let service = json!({"google_grpc": {
        "target_uri": options.relay,
        "stat_prefix": RELAY,
        "channel_credentials": {"ssl_credentials": {"root_certs": {"filename": token.ca}}},
        "credentials_factory_name": factory,
        "call_credentials": credentials,
        "channel_args": {"args": {
            // A state-of-the-world response is one message, however large.
            "grpc.max_receive_message_length": {"int_value": -1},
            // A relay that hangs is found out, and the stream made anew.
            "grpc.keepalive_time_ms": {"int_value": 30_000},
            "grpc.keepalive_timeout_ms": {"int_value": 5000},
            "grpc.http2.max_pings_without_data": {"int_value": 0},
        }},
    }});
    *out.pointer_mut("/dynamic_resources/ads_config/grpc_services")? = json!([service]);
    let further = token.hands_over.as_ref().map(|file| (HANDED_OVER, file.as_str()));
    let tokens: Vec<(&str, &str)> =
        [("authorization", token.file.as_str())].into_iter().chain(further).collect();
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "validation_context": {
                "trusted_ca": {"filename": token.ca},
                "match_typed_subject_alt_names": names(&relay),
            },
        },
    });
    let cluster = out.pointer_mut("/static_resources/clusters/0")?;
    let http = cluster.pointer_mut(HTTP)?;
    // Of several relays one may have a module that another has not yet: each try may meet another one.
    http["common_http_protocol_options"] = json!({"max_requests_per_connection": 1});
    http["http_filters"] = json!([
        {"name": "envoy.filters.http.lua", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": bearer_script(&tokens)},
        }},
        {"name": "envoy.filters.http.upstream_codec", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec",
        }},
    ]);
    cluster["transport_socket"] = with_sni(context, &relay);
    Some(out)
}

/// Where the protocol of the relay's cluster stands in it.
const HTTP: &str = "/typed_extension_protocol_options/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A script that reads tokens from files, each time anew, and says them in headers: Envoy's own ways to inject a credential
/// into a request read a file once.
fn bearer_script(tokens: &[(&str, &str)]) -> String {
    let mut script = "local function token(file)\n  local opened = io.open(file, \"r\")\n  if not opened then return \"\" end\n  \
                      local text = opened:read(\"*a\")\n  opened:close()\n  return \"Bearer \" .. text:gsub(\"%s+$\", \"\")\nend\n\n\
                      function envoy_on_request(handle)\n"
        .to_owned();
    for (header, file) in tokens {
        // Each byte by its number, so that no path can say anything else than itself.
        let file: String = file.bytes().fold(String::new(), |text, byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                text + &char::from(byte).to_string()
            }
            other => format!("{text}\\{other:03}"),
        });
        let _ = writeln!(script, "  handle:headers():replace(\"{header}\", token(\"{file}\"))");
    }
    script + "end\n"
}

/// The name that the relay's certificate must have.
fn names(relay: &Address<'_>) -> Value {
    let (Address::Tcp(host, _) | Address::Unix(host)) = relay;
    json!([{"san_type": if relay.is_name() { "DNS" } else { "IP_ADDRESS" }, "matcher": {"exact": host}}])
}

/// TLS towards a relay, by its name if it has one.
fn with_sni(mut context: Value, relay: &Address<'_>) -> Value {
    if let Address::Tcp(host, _) = relay
        && relay.is_name()
    {
        context["sni"] = json!(host);
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

/// How an Envoy proves to a relay on TCP who it is, by a certificate: files that it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayCertificate {
    /// Its own certificate chain, PEM.
    pub certificate: String,
    /// The key of that, PEM.
    pub key: String,
    /// The CA of the relay's certificate, PEM.
    pub ca: String,
    /// The folder in which [`client_secret`] lies as `client.json` and [`relay_authority`] as `ca.json`, if files that are
    /// renewed are to be taken without a restart: Envoy watches only what comes by SDS, each secret from a file of its own.
    pub secrets: Option<String>,
}

/// The names of the client's certificate and of the relay's CA among secrets.
const CLIENT_SECRETS: (&str, &str) = ("moorgate-relay-client", "moorgate-relay-ca");

/// As [`bootstrap()`], for a relay at `HOST:PORT` that knows its clients by their certificates. The relay's own must name
/// HOST. `None` also for a socket.
pub fn bootstrap_with_certificate(options: &BootstrapOptions, tls: &RelayCertificate) -> Option<Value> {
    let relay = Address::parse(&options.relay)?;
    let Address::Tcp(..) = relay else { return None };
    let mut out = bootstrap(options)?;
    let name = names(&relay);
    let mut common = match &tls.secrets {
        None => json!({
            "tls_certificates": [certificate_of(tls)],
            "validation_context": {"trusted_ca": {"filename": tls.ca}, "match_typed_subject_alt_names": name},
        }),
        Some(folder) => {
            let from = |secret: &str, file: &str| {
                json!({"name": secret, "sds_config": {
                    "path_config_source": {"path": format!("{}/{file}", folder.trim_end_matches('/'))},
                    "resource_api_version": "V3",
                }})
            };
            json!({
                "tls_certificate_sds_secret_configs": [from(CLIENT_SECRETS.0, "client.json")],
                "combined_validation_context": {
                    "default_validation_context": {"match_typed_subject_alt_names": name},
                    "validation_context_sds_secret_config": from(CLIENT_SECRETS.1, "ca.json"),
                },
            })
        }
    };
    common["alpn_protocols"] = json!(["h2"]);
    let context = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": common,
    });
    out.pointer_mut("/static_resources/clusters/0")?["transport_socket"] = with_sni(context, &relay);
    Some(out)
}

/// The file `client.json`, by which Envoy finds its certificate: paths, and nothing secret.
pub fn client_secret(tls: &RelayCertificate) -> Value {
    let mut certificate = certificate_of(tls);
    certificate["watched_directory"] = json!({"path": folder(&tls.certificate)});
    secret(CLIENT_SECRETS.0, "tls_certificate", certificate)
}

/// The file `ca.json`, by which Envoy finds the CA of the relay's certificate.
pub fn relay_authority(tls: &RelayCertificate) -> Value {
    let ca = json!({"trusted_ca": {"filename": tls.ca}, "watched_directory": {"path": folder(&tls.ca)}});
    secret(CLIENT_SECRETS.1, "validation_context", ca)
}

fn secret(name: &str, kind: &str, value: Value) -> Value {
    let mut secret = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": name,
    });
    secret[kind] = value;
    json!({"resources": [secret]})
}

fn certificate_of(tls: &RelayCertificate) -> Value {
    json!({"certificate_chain": {"filename": tls.certificate}, "private_key": {"filename": tls.key}})
}

/// The folder of a file.
fn folder(file: &str) -> &str {
    match file.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((folder, _)) => folder,
        None => ".",
    }
}

enum Address<'o> {
    Unix(&'o str),
    Tcp(&'o str, u16),
}

impl<'o> Address<'o> {
    fn parse(text: &'o str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then_some(Self::Unix(path));
        }
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            return address.parse::<Ipv6Addr>().is_ok().then_some(Self::Tcp(address, port));
        }
        let named = !host.is_empty() && !host.contains([':', '/', '[', ']', ' ']);
        named.then_some(Self::Tcp(host, port))
    }

    fn json(&self) -> Value {
        match self {
            Self::Unix(path) => json!({"pipe": {"path": path}}),
            Self::Tcp(host, port) => json!({"socket_address": {"address": host, "port_value": port}}),
        }
    }

    fn is_name(&self) -> bool {
        matches!(self, Self::Tcp(host, _) if host.parse::<IpAddr>().is_err())
    }
}

fn relay_cluster(relay: &Address<'_>) -> Value {
    json!({
        "name": RELAY,
        "type": if relay.is_name() { "STRICT_DNS" } else { "STATIC" },
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": RELAY,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": relay.json()}}]}],
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(relay: &str) -> BootstrapOptions {
        BootstrapOptions {
            fleet: "shop/edge".into(),
            relay: relay.into(),
            admin: "unix:/run/admin.sock".into(),
            node: "edge-1".into(),
            protocol: AdsProtocol::Delta,
            zone: None,
        }
    }

    #[test]
    fn an_envoy_says_in_which_zone_it_is() {
        let plain = bootstrap(&options("unix:/run/relay.sock")).unwrap();
        assert_eq!((&plain["node"]["locality"], &plain["cluster_manager"]), (&Value::Null, &Value::Null));
        let zone = Some("eu-1a".to_owned());
        let made = bootstrap(&BootstrapOptions { zone, ..options("unix:/run/relay.sock") }).unwrap();
        assert_eq!(made["node"]["locality"]["zone"], "eu-1a");
        let local = &made["static_resources"]["clusters"][1];
        assert_eq!(local["name"], made["cluster_manager"]["local_cluster_name"]);
        assert_eq!(local["load_assignment"]["endpoints"][0]["locality"]["zone"], "eu-1a");
    }

    #[test]
    fn a_relay_by_name_is_resolved() {
        let plain = bootstrap(&options("unix:/run/relay.sock")).unwrap();
        assert_eq!(plain["static_resources"]["clusters"][0]["type"], "STATIC");
        assert_eq!(plain["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
        assert_eq!(plain["node"], json!({"id": "edge-1", "cluster": "shop/edge"}));
        assert_eq!(plain["admin"]["address"]["pipe"]["path"], "/run/admin.sock");
        let protocol = AdsProtocol::StateOfTheWorld;
        let remote = bootstrap(&BootstrapOptions { protocol, ..options("relay.example:18000") }).unwrap();
        let cluster = &remote["static_resources"]["clusters"][0];
        assert_eq!(cluster["type"], "STRICT_DNS");
        assert_eq!(remote["dynamic_resources"]["ads_config"]["api_type"], "GRPC");
        let six = bootstrap(&options("[::1]:18000")).unwrap();
        let cluster = &six["static_resources"]["clusters"][0];
        let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
        assert_eq!(endpoint["address"]["socket_address"], json!({"address": "::1", "port_value": 18000}));
        assert_eq!(cluster["type"], "STATIC");
    }

    #[test]
    fn a_token_goes_over_tls_and_from_a_file() {
        let token =
            RelayToken { file: "/var/run/secrets/token".into(), ca: "/etc/ca.crt".into(), hands_over: None };
        let made = bootstrap_with_token(&options("relay.example:18000"), &token).unwrap();
        let service = &made["dynamic_resources"]["ads_config"]["grpc_services"][0]["google_grpc"];
        assert_eq!(
            service["channel_credentials"]["ssl_credentials"]["root_certs"]["filename"],
            "/etc/ca.crt"
        );
        let config = &service["call_credentials"][0]["from_plugin"]["typed_config"];
        assert_eq!(config["secret_data"]["filename"], "/var/run/secrets/token");
        assert_eq!(service["call_credentials"].as_array().unwrap().len(), 1);
        let both = RelayToken { hands_over: Some("/var/run/secrets/other".into()), ..token.clone() };
        let made = bootstrap_with_token(&options("relay.example:18000"), &both).unwrap();
        let service = &made["dynamic_resources"]["ads_config"]["grpc_services"][0]["google_grpc"];
        let headers = service["call_credentials"].as_array().unwrap().iter();
        let headers: Vec<&Value> =
            headers.map(|one| &one["from_plugin"]["typed_config"]["header_key"]).collect();
        assert_eq!(headers, ["authorization", HANDED_OVER]);
        let cluster = &made["static_resources"]["clusters"][0];
        let tls = &cluster["transport_socket"]["typed_config"];
        assert_eq!((&cluster["name"], &tls["sni"]), (&json!("moorgate-relay"), &json!("relay.example")));
        let script =
            &cluster.pointer(HTTP).unwrap()["http_filters"][0]["typed_config"]["default_source_code"];
        let script = script["inline_string"].as_str().unwrap();
        assert!(script.contains("replace(\"authorization\", token(\"/var/run/secrets/token\"))"), "{script}");
        assert!(script.contains(&format!("replace(\"{HANDED_OVER}\", token(")), "{script}");
        assert!(bearer_script(&[("a", "/x\")\\\n")]).contains("token(\"/x\\034\\041\\092\\010\")"));
        assert_eq!(bootstrap_with_token(&options("unix:/run/relay.sock"), &token), None);
    }

    #[test]
    fn a_certificate_is_shown_to_the_relay_that_has_the_name() {
        let tls = |secrets: Option<&str>| RelayCertificate {
            certificate: "/tls/tls.crt".into(),
            key: "/tls/tls.key".into(),
            ca: "/ca.crt".into(),
            secrets: secrets.map(Into::into),
        };
        let context = |relay: &str, secrets| {
            let made = bootstrap_with_certificate(&options(relay), &tls(secrets)).unwrap();
            made["static_resources"]["clusters"][0]["transport_socket"]["typed_config"].clone()
        };
        let fixed = context("relay.example:18000", None);
        assert_eq!(fixed["sni"], "relay.example");
        let common = &fixed["common_tls_context"];
        assert_eq!(common["tls_certificates"][0]["private_key"]["filename"], "/tls/tls.key");
        let validation = &common["validation_context"];
        assert_eq!(validation["trusted_ca"]["filename"], "/ca.crt");
        let name = &validation["match_typed_subject_alt_names"][0];
        assert_eq!(*name, json!({"san_type": "DNS", "matcher": {"exact": "relay.example"}}));
        // An address is no name for SNI, and is written as addresses are in certificates.
        let renewed = context("[::1]:18000", Some("/etc/relay/"));
        assert_eq!(renewed["sni"], Value::Null);
        let combined = &renewed["common_tls_context"]["combined_validation_context"];
        let name = &combined["default_validation_context"]["match_typed_subject_alt_names"][0];
        assert_eq!(*name, json!({"san_type": "IP_ADDRESS", "matcher": {"exact": "::1"}}));
        let from = &renewed["common_tls_context"]["tls_certificate_sds_secret_configs"][0];
        assert_eq!(from["sds_config"]["path_config_source"]["path"], "/etc/relay/client.json");
        // What it names is in that file.
        let secret = &client_secret(&tls(None))["resources"][0];
        assert_eq!(secret["name"], from["name"]);
        assert_eq!(secret["tls_certificate"]["watched_directory"]["path"], "/tls");
        let secret = &relay_authority(&tls(None))["resources"][0];
        assert_eq!(secret["name"], combined["validation_context_sds_secret_config"]["name"]);
        assert_eq!(secret["validation_context"]["watched_directory"]["path"], "/");
        assert_eq!(bootstrap_with_certificate(&options("unix:/run/relay.sock"), &tls(None)), None);
    }

    #[test]
    fn other_addresses_are_refused() {
        for address in
            ["", "unix:", "relay", "relay:", "relay:0", "relay:70000", ":18000", "::1:18000", "a/b:1"]
        {
            assert_eq!(bootstrap(&options(address)), None, "{address}");
        }
    }
}
