//! Bindings: where the values behind EDS and SDS names come from.

use super::{cluster, tls};
use moorgate_model::ir::{self, AddressFamily, Cluster};
use moorgate_snapshot::record::{
    Binding, BindingKind, BindingSource, EndpointSource, Family, ObjectSource, Record, Reference,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Collects the bindings of a fleet: one for each distinct name.
#[derive(Default)]
pub(super) struct Bindings {
    endpoints: BTreeMap<Arc<str>, BTreeSet<EndpointSource>>,
    objects: BTreeSet<(BindingKind, Arc<str>)>,
}

impl Bindings {
    /// The endpoints and trust bundles of a cluster. Clusters that share an EDS name share its sources.
    pub(super) fn cluster(&mut self, cluster: &Cluster) {
        if cluster::refuses(cluster) {
            return;
        }
        let sources = self.endpoints.entry(cluster.eds_name.as_str().into()).or_default();
        sources.extend(cluster.sources.iter().map(source));
        let objects = cluster.tls.iter().flat_map(tls::upstream_references);
        self.objects.extend(objects.map(|reference| (reference.kind, reference.name)));
    }

    /// The secrets and trust bundles that a listener refers to.
    pub(super) fn objects(&mut self, refs: &[Reference]) {
        self.objects.extend(refs.iter().map(|reference| (reference.kind, reference.name.clone())));
    }

    /// All bindings, sorted by kind and name.
    pub(super) fn finish(self) -> impl Iterator<Item = Record> {
        let endpoints = self.endpoints.into_iter().map(|(name, sources)| Binding {
            kind: BindingKind::Endpoints,
            name,
            source: BindingSource::Endpoints(sources.into_iter().collect()),
        });
        let objects = self.objects.into_iter().map(|(kind, name)| {
            let source = object(kind, &name);
            Binding { kind, name, source }
        });
        endpoints.chain(objects).map(Record::Binding)
    }
}

/// The object behind an SDS name: `namespace/secret` for certificates, `Kind/namespace/name` for trust bundles, with plus
/// signs between several. The two never meet, because no namespace has a capital letter and SDS has one space of names.
fn object(kind: BindingKind, name: &str) -> BindingSource {
    if kind == BindingKind::TrustBundle && name.contains('+') {
        return BindingSource::Objects(name.split('+').map(|name| one(kind, name)).collect());
    }
    let ObjectSource { kind, namespace, name } = one(kind, name);
    BindingSource::Object { kind, namespace, name }
}

fn one(kind: BindingKind, name: &str) -> ObjectSource {
    let (kind, rest) = match (kind, name.split_once('/')) {
        (BindingKind::TrustBundle, Some((kind, rest))) => (kind, rest),
        (BindingKind::TrustBundle, None) => ("ConfigMap", name),
        (BindingKind::Secret | BindingKind::Endpoints, _) => ("Secret", name),
    };
    let (namespace, name) = rest.split_once('/').unwrap_or(("", rest));
    ObjectSource { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

fn source(source: &ir::EndpointSource) -> EndpointSource {
    let address = |at: &ir::StaticEndpoint| SocketAddr::new(at.address, at.port).to_string().into();
    EndpointSource {
        namespace: source.namespace.as_str().into(),
        service: source.service.as_str().into(),
        port_name: source.port_name.as_str().into(),
        port: source.port,
        family: match source.family {
            AddressFamily::Any => Family::Any,
            AddressFamily::V4 => Family::V4,
            AddressFamily::V6 => Family::V6,
        },
        weight: source.weight,
        hostname: source.hostname.as_deref().unwrap_or_default().into(),
        addresses: source.addresses.iter().map(address).collect(),
    }
}
