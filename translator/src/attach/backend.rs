//! Backends: a reference to a Service port or XBackend becomes a cluster, or a reason why it cannot.

pub(super) mod direct;
pub(super) mod external;
mod forbidden;

use super::filter::Context;
use super::grant::{From, Permitted, To, permit};
use super::index::Index;
use super::kind::Building;
use super::spec::{BackendRef, ServicePort};
use moorgate_model::diagnostic::semantic::{
    BACKEND_NOT_FOUND, BACKEND_UNUSABLE, EXTERNAL_NAME_REFUSED, INVALID_KIND, REF_NOT_PERMITTED,
};
use moorgate_model::ir::{AppProtocol, Cluster, ClusterPolicies, EndpointSource, Session};
use moorgate_model::{Diagnostic, FieldPath, Object, ObjectRef};

/// The API group of kinds that are on trial.
pub(super) const X_GROUP: &str = "gateway.networking.x-k8s.io";

/// Whether a text names places that can be allowed: an address, a range, a name, or the path of a socket.
pub fn is_place(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let named =
        !name.is_empty() && name.bytes().all(plain) && name.bytes().any(|byte| byte.is_ascii_alphabetic());
    text.starts_with('/') || forbidden::range(text).is_some() || named
}

/// Whether proxies may connect to an address, a name, or the path of a socket.
///
/// # Errors
/// They may not; says why.
pub(super) fn may_connect(index: &Index<'_>, place: &str) -> Result<(), String> {
    forbidden::check(place, &index.options.allowed)
}

/// The ranges of addresses that proxies do not connect to.
pub(super) fn forbidden_ranges(index: &Index<'_>) -> Vec<(std::net::IpAddr, u8)> {
    forbidden::ranges(&index.options.allowed)
}

/// What a backend is used for: it decides the variant of its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Requests, in the protocol that the Service names.
    Requests,
    /// Requests of HTTP/2, whatever the Service says of its port: gRPC is nothing else.
    Http2,
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
            Self::Http2 => "+h2",
            Self::Stream => "+tcp",
            Self::Passthrough => "+passthrough",
            Self::Datagrams => "+udp",
        }
    }
}

/// The cluster's name, or the diagnostic; makes the cluster when it is first asked for.
pub(super) fn resolve_for(
    usage: Use,
    cx: &mut Building<'_, '_>,
    route: &Object,
    at: &FieldPath,
    backend: &BackendRef,
) -> Result<String, Diagnostic> {
    let external = external::is(&backend.group, &backend.kind);
    let own = direct::is(&backend.group, &backend.kind);
    if !external && !own && (!backend.group.is_empty() || backend.kind != "Service") {
        let message = format!("a backend cannot be a {} of group {:?}", backend.kind, backend.group);
        return Err(route.diagnostic(&INVALID_KIND, at.key("kind"), message).help("use a Service"));
    }
    let ObjectRef { group, kind, namespace, .. } = &route.reference;
    let from = From { group, kind, namespace };
    let namespace = backend.namespace.as_deref();
    let to = To { group: &backend.group, kind: &backend.kind, namespace, name: &backend.name };
    let Some(service) = permit(cx.index, from, to) else {
        let (kind, namespace) = (&backend.kind, namespace.unwrap_or_default());
        let message = format!("{kind} {namespace}/{} may not be used from {}", backend.name, route.reference);
        let help = format!("add a ReferenceGrant in namespace {namespace}");
        return Err(route.diagnostic(&REF_NOT_PERMITTED, at.clone(), message).help(help));
    };
    if own {
        return direct::resolve(cx, usage, route, &at.key("name"), &service);
    }
    if external {
        return x_backend(cx, usage, route, &at.key("name"), &service);
    }
    let number = backend.port.unwrap_or_default();
    let eds_name = format!("{}/{}/{number}", service.namespace, service.name);
    // gRPC shares the cluster of a port that is HTTP/2 for everybody; other ports may serve HTTP/1.1 to other routes.
    let shared = usage == Use::Http2
        && cx.clusters.get(&eds_name).is_some_and(|cluster| cluster.protocol == AppProtocol::Http2);
    let mut name = if shared { eds_name.clone() } else { format!("{eds_name}{}", usage.variant()) };
    if cx.clusters.contains_key(&name) {
        return Ok(name);
    }
    let wanted =
        Wanted { namespace: &service.namespace, name: &service.name, number, transport: usage.transport() };
    let port = service_port(cx.index, route, at, &wanted)?;
    let protocol = match (usage, port.app_protocol.as_deref()) {
        (Use::Datagrams, _) => AppProtocol::Udp,
        (Use::Stream | Use::Passthrough, _) => AppProtocol::Tcp,
        (Use::Requests | Use::Http2, Some("kubernetes.io/h2c" | "grpc" | "http2" | "h2c")) => {
            name.clone_from(&eds_name);
            AppProtocol::Http2
        }
        (Use::Http2, _) => AppProtocol::Http2,
        (Use::Requests, _) => AppProtocol::Http1,
    };
    let source = EndpointSource::of_service(&service.namespace, &service.name, &port.name, number);
    let tls = match usage {
        Use::Passthrough | Use::Datagrams => None,
        Use::Requests | Use::Http2 | Use::Stream => {
            cx.policies.upstream_tls(&service.namespace, &service.name, &port.name)
        }
    };
    // A port number may stand for TCP and for UDP, with endpoints of their own.
    let eds_name = if usage == Use::Datagrams { name.clone() } else { eds_name };
    let object = ObjectRef::new("", "Service", &service.namespace, &service.name);
    let retry_budget = cx.policies.traffic(&object).and_then(|effects| effects.retry_budget);
    let policies = ClusterPolicies::default();
    let cluster = Cluster { protocol, tls, eds_name, sources: vec![source], retry_budget, policies };
    cx.clusters.insert(name.clone(), cluster);
    Ok(name)
}

/// How a backend stands in the names of its clusters, behind the namespace: no Service's name has such characters.
pub(super) fn key(backend: &ObjectRef) -> String {
    match &*backend.kind {
        "XBackend" | "Backend" => format!("{}={}", backend.kind, backend.name),
        _ => backend.name.to_string(),
    }
}

fn x_backend(
    cx: &mut Building<'_, '_>,
    usage: Use,
    route: &Object,
    at: &FieldPath,
    reference: &Permitted,
) -> Result<String, Diagnostic> {
    let Permitted { namespace, name } = reference;
    let Some(backend) = cx.index.x_backends.get(&(namespace.as_str(), name.as_str())) else {
        let message = format!("XBackend {namespace}/{name} is not in this source");
        let finding = route.diagnostic(&BACKEND_NOT_FOUND, at.clone(), message);
        return Err(finding.help("add the XBackend to the source, or correct the name"));
    };
    let object = &backend.object.reference;
    let eds_name = format!("{namespace}/{}/{}", key(object), backend.value.spec.port.number);
    let mut cluster = external::build(cx.index, backend, usage).map_err(|findings| {
        let why = findings.into_iter().next().map(|finding| finding.message).unwrap_or_default();
        let message = format!("XBackend {namespace}/{name} cannot be used: {why}");
        route.diagnostic(&BACKEND_UNUSABLE, at.clone(), message).help("see the diagnostic of that object")
    })?;
    let full = format!("{eds_name}{}", usage.variant());
    cluster.eds_name = eds_name;
    cluster.retry_budget = cx.policies.traffic(object).and_then(|effects| effects.retry_budget);
    cx.clusters.entry(full.clone()).or_insert(cluster);
    Ok(full)
}

/// What a policy about traffic says of how clients keep their endpoints of a backend.
pub(super) fn session(cx: &Context<'_, '_>, backend: &BackendRef) -> Option<Session> {
    let namespace = backend.namespace.as_deref().unwrap_or(&cx.route.reference.namespace);
    let object = ObjectRef::new(&backend.group, &backend.kind, namespace, &backend.name);
    let asked = cx.policies.traffic(&object).and_then(|effects| effects.session.clone());
    let own = || external::session(cx.index.x_backends.get(&(namespace, backend.name.as_str()))?);
    asked.or_else(|| if external::is(&backend.group, &backend.kind) { own() } else { None })
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
            return Ok(ServicePort {
                name: String::new(),
                port: number,
                protocol: None,
                app_protocol: None,
                target_port: None,
            });
        }
        let message = format!("Service {namespace}/{name} is not in this source");
        let finding = route.diagnostic(&BACKEND_NOT_FOUND, at.key("name"), message);
        let names = index.services.keys().filter(|key| key.0 == namespace).map(|key| key.1);
        return Err(finding.help(match nearest(name, names) {
            Some(near) => format!("is {near:?} meant?"),
            None => "add the Service to the source, or correct the name".to_owned(),
        }));
    };
    if service.value.spec.kind.as_deref() == Some("ExternalName") {
        let message = format!("Service {namespace}/{name} is of type ExternalName");
        let finding = route.diagnostic(&EXTERNAL_NAME_REFUSED, at.key("name"), message);
        return Err(finding.help("use a Service with endpoints of its own, or an XBackend"));
    }
    let serves = |port: &&ServicePort| port.port == number && port.transport() == transport;
    let Some(port) = service.value.spec.ports.iter().find(serves) else {
        let ports: Vec<_> = service.value.spec.ports.iter().map(|port| port.port.to_string()).collect();
        let message = format!("Service {namespace}/{name} has no {transport} port {number}");
        let place = service.object.root.locate(&FieldPath::parse("spec.ports")).start;
        return Err(route
            .diagnostic(&BACKEND_NOT_FOUND, at.key("port"), message)
            .help(format!("ports of the Service: {}", ports.join(", ")))
            .related(service.object.origin.file.clone(), place, "the Service's ports are here"));
    };
    Ok(port.clone())
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
