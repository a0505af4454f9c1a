//! Places that a Backend names (Backend `type`, `endpoints`, `appProtocols`, `fallback`).

use crate::lowering::OfBackend;
use crate::{About, Capability, Effect, Kind, Lowering};
use moorgate_model::FieldPath;
use moorgate_model::ir::{
    AppProtocol, Direct, DirectAddress, DirectEndpoint, EndpointSource, StaticEndpoint,
};
use serde::Deserialize;
use std::net::IpAddr;

/// The capability.
pub(crate) struct Address;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    #[serde(default)]
    app_protocols: Vec<String>,
    fallback: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    hostname: Option<String>,
    zone: Option<String>,
    fqdn: Option<Fqdn>,
    ip: Option<Ip>,
    unix: Option<Unix>,
}

#[derive(Debug, Deserialize)]
struct Fqdn {
    hostname: String,
    port: u16,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: String,
    port: u16,
}

#[derive(Debug, Deserialize)]
struct Unix {
    path: String,
}

/// The longest path of a socket on Linux, in bytes (`sun_path`, with its end).
const LONGEST_PATH: usize = 107;

impl Capability for Address {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "address",
        kind: Kind::Backend,
        fields: &["appProtocols", "endpoints", "fallback", "type"],
        except: &[],
        since: "0.2.0",
        docs: "\
Endpoints are addresses, Unix sockets of the proxy's machine, or names, which Envoy itself looks up; hostname is what an endpoint is called (for \
rewrites and server names), zone where it lies. appProtocols: h2c is HTTP/2, ws and wss are HTTP/1.1; without one the route decides. fallback: \
the backend gets requests of a rule only while its other backends have no endpoint that is healthy; several fallbacks in their order. Type \
DynamicResolver connects to whatever host a request names. Loopback, link-local addresses, metadata services, names of the proxy's own network \
and the sockets of relays and container runtimes are refused, unless --allow-address names them; of what a DynamicResolver finds, forbidden addresses \
are refused by Envoy.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let at = FieldPath::parse("spec");
        let mut backend = OfBackend {
            protocol: protocol(&spec.app_protocols, &at.key("appProtocols"), cx),
            fallback: spec.fallback == Some(true),
            ..OfBackend::default()
        };
        match (spec.kind.as_deref().unwrap_or("Endpoints"), spec.endpoints.as_slice()) {
            ("DynamicResolver", []) => {
                let namespace = cx.namespace().to_owned();
                backend.sources.push(EndpointSource::of_direct(&namespace, Direct::Request));
            }
            ("Endpoints", [_, ..]) => {
                for (index, endpoint) in spec.endpoints.iter().enumerate() {
                    let at = at.key("endpoints").index(index);
                    let Some(found) = place(endpoint, &at, cx) else { return };
                    let named = matches!(found.address, DirectAddress::Host(..));
                    let first = spec.endpoints.first().is_some_and(|first| first.fqdn.is_some());
                    if named != first {
                        return cx.invalid(at, "names and addresses cannot be mixed in one Backend");
                    }
                    let namespace = cx.namespace().to_owned();
                    backend.sources.push(EndpointSource::of_direct(&namespace, Direct::Endpoint(found)));
                }
            }
            ("Endpoints", []) => return cx.invalid(at.key("endpoints"), "there is no endpoint"),
            ("DynamicResolver", _) => {
                return cx.invalid(at.key("endpoints"), "a DynamicResolver has no endpoints of its own");
            }
            (other, _) => return cx.invalid(at.key("type"), &format!("{other:?} is no type of Backend")),
        }
        cx.of_backend(&backend);
    }
}

/// What the backend speaks, if it says so.
fn protocol(named: &[String], at: &FieldPath, cx: &mut Lowering<'_>) -> Option<AppProtocol> {
    let mut found = None;
    for (index, name) in named.iter().enumerate() {
        found = Some(match name.as_str() {
            "gateway.envoyproxy.io/h2c" => AppProtocol::Http2,
            // HTTP/2 has no upgrades that backends of WebSockets commonly know.
            "gateway.envoyproxy.io/ws" | "gateway.envoyproxy.io/wss" => return Some(AppProtocol::Http1),
            other => {
                cx.invalid(at.index(index), &format!("{other:?} is no protocol that is known"));
                return None;
            }
        });
    }
    found
}

fn place(endpoint: &Endpoint, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<DirectEndpoint> {
    let port = |port: u16, at: FieldPath, cx: &mut Lowering<'_>| {
        if port == 0 {
            cx.invalid(at.key("port"), "nobody listens on port 0");
        }
        (port > 0).then_some(port)
    };
    let address = match (&endpoint.fqdn, &endpoint.ip, &endpoint.unix) {
        (Some(fqdn), None, None) => {
            let at = at.key("fqdn");
            let port = port(fqdn.port, at.clone(), cx)?;
            cx.allowed(&at.key("hostname"), &fqdn.hostname).then(|| {
                // The name is whole: nothing is put behind it.
                DirectAddress::Host(fqdn.hostname.trim_end_matches('.').to_ascii_lowercase(), port)
            })?
        }
        (None, Some(ip), None) => {
            let at = at.key("ip");
            let port = port(ip.port, at.clone(), cx)?;
            let Ok(address) = ip.address.parse::<IpAddr>() else {
                cx.invalid(at.key("address"), "that is no address");
                return None;
            };
            let place = address.to_string();
            let address = StaticEndpoint { address, port };
            cx.allowed(&at.key("address"), &place).then_some(DirectAddress::Ip(address))?
        }
        (None, None, Some(unix)) => {
            let at = at.key("unix").key("path");
            let path = &unix.path;
            let plain = path.starts_with('/') && !path.split('/').any(|part| part == "..");
            if !plain || path.len() > LONGEST_PATH || path.chars().any(char::is_control) {
                let why = format!("it is a whole path of at most {LONGEST_PATH} bytes without `..`");
                cx.invalid(at, &why);
                return None;
            }
            cx.allowed(&at, path).then(|| DirectAddress::Pipe(path.clone()))?
        }
        _ => {
            cx.invalid(at.clone(), "an endpoint has one of fqdn, ip and unix");
            return None;
        }
    };
    Some(DirectEndpoint { address, hostname: endpoint.hostname.clone(), zone: endpoint.zone.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing;

    fn backend(spec: &str) -> OfBackend {
        let compiled = testing::compile(Kind::Backend, spec);
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        compiled.parts["address"].backend.clone()
    }

    fn addresses(backend: &OfBackend) -> Vec<DirectAddress> {
        let endpoint = |source: &EndpointSource| match source.direct.clone() {
            Some(Direct::Endpoint(endpoint)) => endpoint.address,
            other => panic!("{other:?}"),
        };
        backend.sources.iter().map(endpoint).collect()
    }

    #[test]
    fn places_of_each_kind() {
        let found = backend(
            r#"{"endpoints": [{"fqdn": {"hostname": "API.example.com.", "port": 443}, "hostname": "api", "zone": "a"}],
                "appProtocols": ["gateway.envoyproxy.io/h2c"], "fallback": true}"#,
        );
        assert_eq!(addresses(&found), [DirectAddress::Host("api.example.com".into(), 443)]);
        assert_eq!((found.protocol, found.fallback), (Some(AppProtocol::Http2), true));
        let Some(Direct::Endpoint(endpoint)) = &found.sources[0].direct else { panic!("an endpoint") };
        assert_eq!((endpoint.hostname.as_deref(), endpoint.zone.as_deref()), (Some("api"), Some("a")));
        let found = backend(
            r#"{"endpoints": [{"ip": {"address": "10.1.2.3", "port": 80}}, {"unix": {"path": "/run/app.sock"}}]}"#,
        );
        let address = StaticEndpoint { address: [10, 1, 2, 3].into(), port: 80 };
        assert_eq!(
            addresses(&found),
            [DirectAddress::Ip(address), DirectAddress::Pipe("/run/app.sock".into())]
        );
        assert_eq!((found.protocol, found.fallback), (None, false));
        let found = backend(r#"{"type": "DynamicResolver", "appProtocols": ["gateway.envoyproxy.io/ws"]}"#);
        assert_eq!(found.sources[0].direct, Some(Direct::Request));
        assert_eq!(found.protocol, Some(AppProtocol::Http1));
    }

    #[test]
    fn what_is_no_place_is_no_backend() {
        let one = |endpoint: &str| format!(r#"{{"endpoints": [{endpoint}]}}"#);
        for (spec, field) in [
            (one(r#"{"fqdn": {"hostname": "localhost", "port": 80}}"#), "endpoints[0].fqdn.hostname"),
            (one(r#"{"fqdn": {"hostname": "a.example", "port": 0}}"#), "endpoints[0].fqdn.port"),
            (one(r#"{"ip": {"address": "10.1", "port": 80}}"#), "endpoints[0].ip.address"),
            (one(r#"{"unix": {"path": "app.sock"}}"#), "endpoints[0].unix.path"),
            (one(r#"{"unix": {"path": "/run/../app.sock"}}"#), "endpoints[0].unix.path"),
            (one("{}"), "endpoints[0]"),
            (
                one(
                    r#"{"ip": {"address": "10.0.0.1", "port": 1}}, {"fqdn": {"hostname": "a.example", "port": 1}}"#,
                ),
                "endpoints[1]",
            ),
            (r#"{"endpoints": []}"#.into(), "endpoints"),
            (r#"{"type": "DynamicResolver", "endpoints": [{}]}"#.into(), "endpoints"),
            (r#"{"type": "Other", "endpoints": [{}]}"#.into(), "type"),
        ] {
            let compiled = testing::compile(Kind::Backend, &spec);
            assert_eq!(
                (testing::said(&compiled), compiled.closed),
                (vec![format!("MG4002 spec.{field}")], true),
                "{spec}"
            );
        }
    }
}
