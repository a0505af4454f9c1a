//! XBackend: a backend with its own protocol and TLS: a server outside, by name, or pods, by labels.

use super::{Use, X_GROUP, forbidden, key};
use crate::attach::index::{Index, Indexed, Key};
use crate::attach::listener::{gateway_of, secret};
use crate::attach::parent::Routes;
use crate::attach::spec::{EndpointSelector, Service, ServicePort, XBackend};
use crate::attach::trust;
use crate::status::{self, AncestorStatus, ParentReference, Status, Statuses};
use moorgate_model::diagnostic::semantic::{ADDRESS_REFUSED, UNSUPPORTED_VALUE};
use moorgate_model::ir::{AppProtocol, Cluster, ClusterPolicies, EndpointSource, Session, UpstreamTls};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Node, ObjectRef, Value};
use moorgate_policies::{Context, upstream_tls};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// How many ancestors the status of an XBackend has at most.
const MAX_ANCESTORS: usize = 32;

/// Names what is wrong with XBackends themselves, whoever refers to them, and writes the status of those that are served.
pub(in crate::attach) fn report(
    index: &Index<'_>,
    routes: &Routes<'_>,
    diagnostics: &mut Diagnostics,
    statuses: &mut Statuses,
) {
    for backend in index.x_backends.values() {
        let reference = &backend.object.reference;
        let findings = build(index, backend, Use::Requests).err().unwrap_or_default();
        let generation = backend.value.metadata.generation;
        let (accepted, gateways) = match findings.first() {
            None => {
                let served = (reference.namespace.to_string(), key(reference));
                let gateways = routes.ancestors.get(&served).into_iter().flatten().copied().collect();
                (status::holds("Accepted", "Accepted", generation), gateways)
            }
            Some(first) => {
                let accepted = status::fails("Accepted", "Invalid", &first.message, generation);
                (accepted, asking(index, reference, statuses))
            }
        };
        diagnostics.extend(findings);
        if let (_, Some((field, message))) = own_session(backend) {
            let finding = backend.object.diagnostic(&UNSUPPORTED_VALUE, field, message);
            diagnostics.extend([finding.help("requests are balanced without it")]);
        }
        let ancestors = gateways.into_iter().take(MAX_ANCESTORS).map(|gateway| AncestorStatus {
            ancestor_ref: ParentReference::gateway(gateway.0, gateway.1),
            controller_name: statuses.controller_name().to_owned(),
            conditions: vec![accepted.clone()],
        });
        let ancestors: Vec<_> = ancestors.collect();
        if !ancestors.is_empty() {
            statuses.set(reference.clone(), Status::Policy { ancestors });
        }
    }
}

/// The Gateways of routes that name a backend; where it cannot be used, no cluster says which these are.
fn asking<'a>(index: &Index<'a>, backend: &ObjectRef, statuses: &Statuses) -> BTreeSet<Key<'a>> {
    let mut gateways = BTreeSet::new();
    for route in index.routes() {
        let own = &*route.reference.namespace;
        let Some(Status::Route { parents }) = statuses.get(&route.reference) else { continue };
        if !refers(&route.root, own, backend) {
            continue;
        }
        gateways.extend(parents.iter().filter_map(|parent| {
            let ParentReference { kind, namespace, name, .. } = &parent.parent_ref;
            let namespace = namespace.as_deref().unwrap_or(own);
            if kind == "ListenerSet" {
                return gateway_of(index, index.listener_set(namespace, name)?);
            }
            index.gateway_key(namespace, name)
        }));
    }
    gateways
}

/// Whether an object of this namespace refers to a backend somewhere.
fn refers(node: &Node, namespace: &str, backend: &ObjectRef) -> bool {
    match &node.value {
        Value::Sequence(items) => items.iter().any(|item| refers(item, namespace, backend)),
        Value::Mapping(fields) => {
            let text = |key: &str| node.get(key).and_then(Node::as_str);
            let is_it = text("kind") == Some(&*backend.kind)
                && text("name") == Some(&*backend.name)
                && text("namespace").unwrap_or(namespace) == &*backend.namespace;
            is_it || fields.entries().iter().any(|entry| refers(&entry.value, namespace, backend))
        }
        _ => false,
    }
}

/// The cluster; without a name yet.
pub(super) fn build(
    index: &Index<'_>,
    backend: &Indexed<'_, XBackend>,
    usage: Use,
) -> Result<Cluster, Vec<Diagnostic>> {
    let spec = &backend.value.spec;
    let at = FieldPath::root().key("spec");
    let unsupported = |field: FieldPath, message: &str| {
        let finding = backend.object.diagnostic(&UNSUPPORTED_VALUE, field, message);
        vec![finding.help("requests for it are answered with 500")]
    };
    let source = match (&spec.external_hostname, &spec.endpoint_selector) {
        (Some(external), _) => outside(index, backend, &external.hostname)?,
        (None, Some(selector)) => selected(index, backend, selector)?,
        (None, None) => return Err(unsupported(at, "neither externalHostname nor endpointSelector is set")),
    };
    let protocol = match (spec.protocol.as_deref(), usage) {
        (None | Some("TCP"), Use::Stream) => AppProtocol::Tcp,
        (Some("HTTP2" | "H2C" | "GRPC"), Use::Requests) | (_, Use::Http2) => AppProtocol::Http2,
        (None | Some("HTTP" | "HTTP11" | "WSS" | "MCP"), Use::Requests) => AppProtocol::Http1,
        (other, _) => {
            let message =
                format!("protocol {} is not supported by this kind of route", other.unwrap_or("none"));
            return Err(unsupported(at.key("protocol"), &message));
        }
    };
    let tls = tls(index, backend, &unsupported)?;
    Ok(Cluster {
        protocol,
        tls,
        eds_name: String::new(),
        sources: vec![source],
        retry_budget: None,
        policies: ClusterPolicies::default(),
    })
}

/// A server outside, by its name.
fn outside(
    index: &Index<'_>,
    backend: &Indexed<'_, XBackend>,
    hostname: &str,
) -> Result<EndpointSource, Vec<Diagnostic>> {
    let (namespace, port) = (&backend.object.reference.namespace, backend.value.spec.port.number);
    source(index, namespace, hostname, port).map_err(|message| {
        let field = FieldPath::parse("spec.externalHostname.hostname");
        let finding = backend.object.diagnostic(&ADDRESS_REFUSED, field, message);
        vec![finding.help("use a Service for what is in the cluster")]
    })
}

/// The pods with these labels, on this port. Relays read EndpointSlices and no pods: those of a Service that selects the same
/// pods, and leads to the same port of them, hold exactly these endpoints. Of several, the first by name.
fn selected(
    index: &Index<'_>,
    backend: &Indexed<'_, XBackend>,
    selector: &EndpointSelector,
) -> Result<EndpointSource, Vec<Diagnostic>> {
    let namespace = &*backend.object.reference.namespace;
    let wanted = backend.value.spec.port.number;
    let same = |service: &Service| {
        service.spec.selector == selector.match_labels && service.spec.kind.as_deref() != Some("ExternalName")
    };
    let leads = |port: &&ServicePort| port.target() == Some(wanted) && port.transport() == "TCP";
    let services =
        index.services.iter().filter(|((own, _), service)| *own == namespace && same(&service.value));
    let found = services.flat_map(|((_, name), service)| {
        service.value.spec.ports.iter().filter(leads).map(move |port| (*name, port))
    });
    let Some((service, port)) = found.min_by_key(|(name, port)| (*name, port.port)) else {
        let message = format!(
            "no Service of namespace {namespace} has this selector and leads to port {wanted} of its pods by number"
        );
        let finding =
            backend.object.diagnostic(&UNSUPPORTED_VALUE, FieldPath::parse("spec.endpointSelector"), message);
        let help = "add one, headless if it needs no address: endpoints are those that its controller computes; \
                    until then requests for it are answered with 500";
        return Err(vec![finding.help(help)]);
    };
    Ok(EndpointSource::of_service(namespace, service, &port.name, port.port))
}

/// How clients keep their endpoints of a backend, as it says itself, and what of that Envoy cannot do.
fn own_session(backend: &Indexed<'_, XBackend>) -> (Option<Session>, Option<(FieldPath, &'static str)>) {
    let Some(spec) = &backend.value.spec.session_persistence else { return (None, None) };
    let at = FieldPath::parse("spec.sessionPersistence");
    moorgate_policies::session(spec, &at, &backend.object.reference, "")
}

/// How clients keep their endpoints of a backend, as it says itself.
pub(super) fn session(backend: &Indexed<'_, XBackend>) -> Option<Session> {
    own_session(backend).0
}

fn tls(
    index: &Index<'_>,
    backend: &Indexed<'_, XBackend>,
    unsupported: &dyn Fn(FieldPath, &str) -> Vec<Diagnostic>,
) -> Result<Option<UpstreamTls>, Vec<Diagnostic>> {
    let Some(tls) = backend.value.spec.tls.as_ref().filter(|tls| tls.mode != "None") else { return Ok(None) };
    let at = FieldPath::root().key("spec").key("tls");
    if !["ServerOnly", "ClientAndServer"].contains(&tls.mode.as_str()) {
        let message = format!("TLS mode {} is not supported", tls.mode);
        return Err(unsupported(at.key("mode"), &message));
    }
    let certificate = match &tls.client_certificate_ref {
        Some(reference) => {
            let (at, mut findings) = (at.key("clientCertificateRef"), Vec::new());
            let name = secret(index, backend.object, &at, reference, None, &mut findings);
            // Without it the backend would meet somebody else than it is meant to.
            Some(name.ok_or(findings)?)
        }
        None => None,
    };
    let Some(validation) = &tls.validation else {
        return Err(unsupported(at, "TLS without validation is not supported"));
    };
    let trust_bundle = |reference: &_| trust::bundle(index, reference);
    let cx = Context { trust_bundle: &trust_bundle };
    let (made, findings) = upstream_tls(backend.object, validation, &at.key("validation"), &cx);
    if made.refuse {
        Err(findings)
    } else {
        Ok(Some(UpstreamTls { client_certificate: certificate, ..made }))
    }
}

/// A server outside, by its name, for an object of this namespace; why not, if it is none.
pub(in crate::attach) fn source(
    index: &Index<'_>,
    namespace: &str,
    hostname: &str,
    port: u16,
) -> Result<EndpointSource, String> {
    let allowed = &index.options.allowed;
    if is_inside(hostname) && (allowed.is_empty() || forbidden::check(hostname, allowed).is_err()) {
        return Err(format!("{hostname:?} is a name of the machine or network that the proxy runs in"));
    }
    Ok(EndpointSource::of_host(namespace, hostname, port))
}

/// Names that mean the proxy's own machine or network, whoever resolves them, and addresses in place of a name.
pub(super) fn is_inside(hostname: &str) -> bool {
    let name = hostname.to_ascii_lowercase();
    let last = name.rsplit('.').next().unwrap_or_default();
    // A last label of digits is an address in some form (WHATWG URL, "ends in a number").
    let address = name.parse::<IpAddr>().is_ok() || last.bytes().all(|byte| byte.is_ascii_digit());
    address
        || ["localhost", "local", "internal", "svc"].contains(&last)
        || ["metadata", "instance-data"].contains(&name.as_str())
}

/// The kind with its group, for messages.
pub(in crate::attach) fn is(group: &str, kind: &str) -> bool {
    group == X_GROUP && kind == "XBackend"
}

#[cfg(test)]
mod tests {
    use super::is_inside;

    #[test]
    fn names_of_the_proxys_own_network() {
        for name in [
            "localhost",
            "a.localhost",
            "127.0.0.1",
            "169.254.169.254",
            "10.1",
            "0",
            "metadata",
            "metadata.google.internal",
            "cart.shop.svc",
            "kubernetes.default.svc.cluster.local",
            "printer.local",
        ] {
            assert!(is_inside(name), "{name}");
        }
        for name in
            ["api.example.com", "localhost.example.com", "svc.example.com", "internal.example.com", "a1.b2"]
        {
            assert!(!is_inside(name), "{name}");
        }
    }
}
