//! Backend (`gateway.envoyproxy.io`): a backend that says itself where it lies.

use super::{Use, key};
use crate::attach::grant::Permitted;
use crate::attach::index::{Index, metadata};
use crate::attach::kind::Building;
use crate::attach::policy::Policies;
use crate::attach::spec::BackendRef;
use crate::status::{self, Status, Statuses};
use moorgate_model::diagnostic::semantic::{BACKEND_NOT_FOUND, BACKEND_UNUSABLE};
use moorgate_model::ir::{
    AppProtocol, Cluster, ClusterPolicies, Direct, DirectAddress, DirectEndpoint, EndpointSource, ServerName,
};
use moorgate_model::{Diagnostic, FieldPath, Object, ObjectRef};
use moorgate_policies::{GROUP, Kind};
use std::collections::BTreeMap;

/// The kind with its group.
pub(in crate::attach) fn is(group: &str, kind: &str) -> bool {
    group == GROUP && kind == Kind::Backend.name()
}

/// Writes the status of Backends: it is their own, and no Gateway's.
pub(in crate::attach) fn report(index: &Index<'_>, policies: &Policies, statuses: &mut Statuses) {
    for (reference, compiled) in policies.backends() {
        let object = index.others.iter().find(|object| object.reference == *reference);
        let generation = object.and_then(|object| metadata(object)).and_then(|metadata| metadata.generation);
        // What validation refused, no API server has.
        let Some(compiled) = compiled else { continue };
        let accepted =
            match compiled.invalid.as_ref().or(compiled.findings.first().map(|found| &found.message)) {
                Some(why) if compiled.closed => status::fails("Accepted", "Invalid", why, generation),
                _ => status::holds("Accepted", "Accepted", generation),
            };
        statuses.set(reference.clone(), Status::Object { conditions: vec![accepted] });
    }
}

/// The cluster of a Backend, or why there is none.
pub(super) fn resolve(
    cx: &mut Building<'_, '_>,
    usage: Use,
    route: &Object,
    at: &FieldPath,
    named: &Permitted,
) -> Result<String, Diagnostic> {
    let object = ObjectRef::new(GROUP, Kind::Backend.name(), &named.namespace, &named.name);
    let Some(found) = cx.policies.referred(&object) else {
        let message = format!("{object} is not in this source");
        let finding = route.diagnostic(&BACKEND_NOT_FOUND, at.clone(), message);
        return Err(finding.help("add the Backend to the source, or correct the name"));
    };
    let unusable = |why: &str| {
        let message = format!("{object} cannot be used: {why}");
        route.diagnostic(&BACKEND_UNUSABLE, at.clone(), message)
    };
    let Some(compiled) = found.as_ref().filter(|compiled| !compiled.closed) else {
        let why = found.as_ref().and_then(|compiled| compiled.invalid.as_deref());
        let why = why.unwrap_or("it is not valid");
        return Err(unusable(why).help("see the diagnostic of that object"));
    };
    let backend = compiled.together().backend;
    let requests = matches!(usage, Use::Requests | Use::Http2);
    let dynamic = backend.sources.iter().any(|source| source.direct == Some(Direct::Request));
    if dynamic && !requests {
        // Envoy's filter for server names has nothing that would judge an address before somebody connects there.
        return Err(unusable("a DynamicResolver is for requests, which name a host that can be judged"));
    }
    let tls = if matches!(usage, Use::Passthrough | Use::Datagrams) {
        None
    } else {
        cx.policies.backend_tls(&object, port(&backend.sources)).or(backend.tls)
    };
    let nameless =
        tls.as_ref().is_some_and(|tls| tls.server_name == ServerName::OfRequest && !tls.unverified);
    if nameless && !requests {
        return Err(unusable(
            "connections name no host that a certificate could be verified by: set tls.sni",
        ));
    }
    let protocol = match (usage, backend.protocol) {
        (Use::Datagrams, _) => AppProtocol::Udp,
        (Use::Stream | Use::Passthrough, _) => AppProtocol::Tcp,
        (Use::Http2, _) => AppProtocol::Http2,
        (Use::Requests, protocol) => protocol.unwrap_or(AppProtocol::Http1),
    };
    let port = port(&backend.sources).unwrap_or_default();
    let eds_name = format!("{}/{}/{port}", named.namespace, key(&object));
    let name = format!("{eds_name}{}", usage.variant());
    let policies = ClusterPolicies::default();
    let cluster = Cluster { protocol, tls, eds_name, sources: backend.sources, retry_budget: None, policies };
    cx.clusters.entry(name.clone()).or_insert(cluster);
    Ok(name)
}

/// The port of its endpoints, if they have one.
fn port(sources: &[EndpointSource]) -> Option<u16> {
    let port = |source: &EndpointSource| match source.direct.as_ref()? {
        Direct::Endpoint(DirectEndpoint { address: DirectAddress::Ip(at), .. }) => Some(at.port),
        Direct::Endpoint(DirectEndpoint { address: DirectAddress::Host(_, port), .. }) => Some(*port),
        _ => None,
    };
    let mut ports = sources.iter().map(port);
    let first = ports.next().flatten()?;
    ports.all(|other| other == Some(first)).then_some(first)
}

/// Whether a backend is one that is asked where no other can be.
pub(in crate::attach) fn is_fallback(policies: &Policies, namespace: &str, backend: &BackendRef) -> bool {
    if !is(&backend.group, &backend.kind) {
        return false;
    }
    let namespace = backend.namespace.as_deref().unwrap_or(namespace);
    let object = ObjectRef::new(&backend.group, &backend.kind, namespace, &backend.name);
    let found = policies.referred(&object).and_then(Option::as_ref);
    found.is_some_and(|compiled| compiled.together().backend.fallback)
}

/// The cluster that stands for these: each has its turn while those before have no endpoint that is healthy.
pub(in crate::attach) fn in_turn(
    clusters: &mut BTreeMap<String, Cluster>,
    members: &[String],
) -> Option<String> {
    let first = clusters.get(members.first()?)?.clone();
    let name = members.join("|");
    let sources = members.iter().map(|name| EndpointSource::of_direct("", Direct::Cluster(name.clone())));
    let cluster = Cluster {
        tls: None,
        eds_name: String::new(),
        sources: sources.collect(),
        retry_budget: None,
        policies: ClusterPolicies::default(),
        ..first
    };
    clusters.entry(name.clone()).or_insert(cluster);
    Some(name)
}
