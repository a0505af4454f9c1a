//! Backends: a reference to a Service port becomes a cluster, or a reason why it cannot.

use super::GATEWAY_GROUP;
use super::grant::{From, To, permit};
use super::index::Index;
use super::policy::Policies;
use super::spec::{BackendRef, ServicePort};
use moorgate_model::diagnostic::semantic::{
    BACKEND_NOT_FOUND, EXTERNAL_NAME_REFUSED, INVALID_KIND, REF_NOT_PERMITTED,
};
use moorgate_model::ir::{AddressFamily, AppProtocol, Cluster, EndpointSource};
use moorgate_model::{Diagnostic, FieldPath, Object};
use std::collections::BTreeMap;

/// The cluster's name, or the diagnostic; makes the cluster when it is first asked for.
pub(super) fn resolve(
    index: &Index<'_>,
    route: &Object,
    at: &FieldPath,
    backend: &BackendRef,
    policies: &Policies,
    clusters: &mut BTreeMap<String, Cluster>,
) -> Result<String, Diagnostic> {
    if !backend.group.is_empty() || backend.kind != "Service" {
        let message = format!("a backend cannot be a {} of group {:?}", backend.kind, backend.group);
        return Err(route.diagnostic(&INVALID_KIND, at.key("kind"), message).help("use a Service"));
    }
    let from =
        From { group: GATEWAY_GROUP, kind: &route.reference.kind, namespace: &route.reference.namespace };
    let to = To { group: "", kind: "Service", namespace: backend.namespace.as_deref(), name: &backend.name };
    let Some(service) = permit(index, from, to) else {
        let namespace = backend.namespace.as_deref().unwrap_or_default();
        let message =
            format!("Service {namespace}/{} may not be used from {}", backend.name, route.reference);
        let help = format!("add a ReferenceGrant in namespace {namespace}");
        return Err(route.diagnostic(&REF_NOT_PERMITTED, at.clone(), message).help(help));
    };
    let number = backend.port.unwrap_or_default();
    let name = format!("{}/{}/{number}", service.namespace, service.name);
    if clusters.contains_key(&name) {
        return Ok(name);
    }
    let port = service_port(index, route, at, &service.namespace, &service.name, number)?;
    let protocol = match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c" | "grpc" | "http2" | "h2c") => AppProtocol::Http2,
        _ => AppProtocol::Http1,
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
    let tls = policies.upstream_tls(&service.namespace, &service.name, &port.name);
    clusters.insert(name.clone(), Cluster { protocol, tls, eds_name: name.clone(), sources: vec![source] });
    Ok(name)
}

/// The Service's port; with Services open, one that is not in the source is taken as it is written.
fn service_port(
    index: &Index<'_>,
    route: &Object,
    at: &FieldPath,
    namespace: &str,
    name: &str,
    number: u16,
) -> Result<ServicePort, Diagnostic> {
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
        |port: &&ServicePort| port.port == number && port.protocol.as_deref().unwrap_or("TCP") == "TCP";
    let Some(port) = service.value.spec.ports.iter().find(serves) else {
        let ports: Vec<_> = service.value.spec.ports.iter().map(|port| port.port.to_string()).collect();
        let message = format!("Service {namespace}/{name} has no TCP port {number}");
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
