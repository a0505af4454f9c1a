//! Backends: a reference to a Service port becomes a cluster, or a reason why it cannot.

use super::GATEWAY_GROUP;
use super::grant::{From, To, permit};
use super::index::Index;
use super::kind::Building;
use super::policy::Policies;
use super::spec::{BackendRef, ServicePort};
use moorgate_model::diagnostic::semantic::{
    BACKEND_NOT_FOUND, EXTERNAL_NAME_REFUSED, INVALID_KIND, REF_NOT_PERMITTED,
};
use moorgate_model::ir::{AddressFamily, AppProtocol, Cluster, EndpointSource};
use moorgate_model::{Diagnostic, FieldPath, Object};
use std::collections::BTreeMap;

/// What a backend is used for: it decides the variant of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Requests.
    Requests,
    /// Bytes of connections.
    Stream,
    /// Bytes of connections that no policy changes: the client's own TLS goes through.
    Passthrough,
    /// Datagrams.
    Datagrams,
}

impl Use {
    /// The transport of the Service port.
    fn transport(self) -> &'static str {
        if self == Self::Datagrams { "UDP" } else { "TCP" }
    }

    /// The end of the cluster's name.
    fn variant(self) -> &'static str {
        match self {
            Self::Requests => "",
            Self::Stream => "+tcp",
            Self::Passthrough => "+passthrough",
            Self::Datagrams => "+udp",
        }
    }
}

/// As [`resolve_for`], for requests.
pub(super) fn resolve(
    index: &Index<'_>,
    route: &Object,
    at: &FieldPath,
    backend: &BackendRef,
    policies: &Policies,
    clusters: &mut BTreeMap<String, Cluster>,
) -> Result<String, Diagnostic> {
    resolve_for(Use::Requests, &mut Building { index, policies, clusters }, route, at, backend)
}

/// The cluster's name, or the diagnostic; makes the cluster when it is first asked for.
pub(super) fn resolve_for(
    usage: Use,
    cx: &mut Building<'_, '_>,
    route: &Object,
    at: &FieldPath,
    backend: &BackendRef,
) -> Result<String, Diagnostic> {
    if !backend.group.is_empty() || backend.kind != "Service" {
        let message = format!("a backend cannot be a {} of group {:?}", backend.kind, backend.group);
        return Err(route.diagnostic(&INVALID_KIND, at.key("kind"), message).help("use a Service"));
    }
    let from =
        From { group: GATEWAY_GROUP, kind: &route.reference.kind, namespace: &route.reference.namespace };
    let to = To { group: "", kind: "Service", namespace: backend.namespace.as_deref(), name: &backend.name };
    let Some(service) = permit(cx.index, from, to) else {
        let namespace = backend.namespace.as_deref().unwrap_or_default();
        let message =
            format!("Service {namespace}/{} may not be used from {}", backend.name, route.reference);
        let help = format!("add a ReferenceGrant in namespace {namespace}");
        return Err(route.diagnostic(&REF_NOT_PERMITTED, at.clone(), message).help(help));
    };
    let number = backend.port.unwrap_or_default();
    let base = format!("{}/{}/{number}", service.namespace, service.name);
    let name = format!("{base}{}", usage.variant());
    if cx.clusters.contains_key(&name) {
        return Ok(name);
    }
    let wanted =
        Wanted { namespace: &service.namespace, name: &service.name, number, transport: usage.transport() };
    let port = service_port(cx.index, route, at, &wanted)?;
    let protocol = match (usage, port.app_protocol.as_deref()) {
        (Use::Datagrams, _) => AppProtocol::Udp,
        (Use::Stream | Use::Passthrough, _) => AppProtocol::Tcp,
        (Use::Requests, Some("kubernetes.io/h2c" | "grpc" | "http2" | "h2c")) => AppProtocol::Http2,
        (Use::Requests, _) => AppProtocol::Http1,
    };
    let source = EndpointSource {
        namespace: service.namespace.clone(),
        service: service.name.clone(),
        port_name: port.name.clone(),
        port: number,
        family: AddressFamily::Any,
        weight: 1,
        hostname: None,
        addresses: Vec::new(),
    };
    let tls = match usage {
        Use::Passthrough | Use::Datagrams => None,
        Use::Requests | Use::Stream => {
            cx.policies.upstream_tls(&service.namespace, &service.name, &port.name)
        }
    };
    // A port number may stand for TCP and for UDP, with endpoints of their own.
    let eds_name = if usage == Use::Datagrams { name.clone() } else { base };
    cx.clusters.insert(name.clone(), Cluster { protocol, tls, eds_name, sources: vec![source] });
    Ok(name)
}

/// A Service port that is looked for.
struct Wanted<'w> {
    namespace: &'w str,
    name: &'w str,
    number: u16,
    transport: &'w str,
}

/// The Service's port; with Services open, one that is not in the source is taken as it is written.
fn service_port(
    index: &Index<'_>,
    route: &Object,
    at: &FieldPath,
    wanted: &Wanted<'_>,
) -> Result<ServicePort, Diagnostic> {
    let Wanted { namespace, name, number, transport } = *wanted;
    let Some(service) = index.services.get(&(namespace, name)) else {
        if index.is_open("Service") {
            return Ok(ServicePort { name: String::new(), port: number, protocol: None, app_protocol: None });
        }
        let message = format!("Service {namespace}/{name} is not in this source");
        let mut finding = route.diagnostic(&BACKEND_NOT_FOUND, at.key("name"), message);
        if let Some(near) =
            nearest(name, index.services.keys().filter(|key| key.0 == namespace).map(|key| key.1))
        {
            finding = finding.help(format!("is {near:?} meant?"));
        }
        return Err(finding);
    };
    if service.value.spec.kind.as_deref() == Some("ExternalName") {
        let message = format!("Service {namespace}/{name} is of type ExternalName");
        return Err(route.diagnostic(&EXTERNAL_NAME_REFUSED, at.key("name"), message));
    }
    let serves =
        |port: &&ServicePort| port.port == number && port.protocol.as_deref().unwrap_or("TCP") == transport;
    let Some(port) = service.value.spec.ports.iter().find(serves) else {
        let ports: Vec<_> = service.value.spec.ports.iter().map(|port| port.port.to_string()).collect();
        let message = format!("Service {namespace}/{name} has no {transport} port {number}");
        let place = service.object.root.locate(&FieldPath::parse("spec.ports")).start;
        return Err(route
            .diagnostic(&BACKEND_NOT_FOUND, at.key("port"), message)
            .help(format!("ports of the Service: {}", ports.join(", ")))
            .related(service.object.origin.file.clone(), place, "the Service's ports are here"));
    };
    Ok(ServicePort {
        name: port.name.clone(),
        port: number,
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    })
}

/// The most similar name, if one is near enough to be a slip of the hand.
pub(super) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .filter(|other| other.len().abs_diff(name.len()) <= 2)
        .map(|other| (distance(name, other), other))
        .filter(|(distance, _)| *distance <= 2 && *distance < name.len())
        .min()
        .map(|(_, other)| other)
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}
