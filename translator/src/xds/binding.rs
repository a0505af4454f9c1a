//! Bindings: where the values behind EDS and SDS names come from.

use super::{cluster, direct, template, tls};
use moorgate_model::ir::{self, AddressFamily, Cluster, LateService, Listener, RouteTable};
use moorgate_snapshot::Template;
use moorgate_snapshot::record::{
    Binding, BindingKind, BindingSource, EndpointSource, Family, ObjectSource, Record, Reference, ZoneWeight,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Collects the bindings of a fleet: one for each distinct name.
#[derive(Default)]
pub(super) struct Bindings {
    endpoints: BTreeMap<Arc<str>, BTreeSet<EndpointSource>>,
    zones: BTreeMap<Arc<str>, Vec<ZoneWeight>>,
    objects: BTreeSet<(BindingKind, Arc<str>)>,
    made: BTreeMap<(BindingKind, Arc<str>), Template>,
}

impl Bindings {
    /// The endpoints and trust bundles of a cluster. Clusters that share an EDS name share its sources.
    pub(super) fn cluster(&mut self, cluster: &Cluster) {
        if cluster::refuses(cluster) {
            return;
        }
        if !direct::is(cluster) && cluster::by_dns(cluster).is_none() {
            let sources = self.endpoints.entry(cluster.eds_name.as_str().into()).or_default();
            sources.extend(cluster.sources.iter().map(source));
            if !cluster.policies.zones.is_empty() {
                let zones = cluster.policies.zones.iter();
                let zones =
                    zones.map(|(zone, weight)| ZoneWeight { zone: zone.as_str().into(), weight: *weight });
                self.zones.insert(cluster.eds_name.as_str().into(), zones.collect());
            }
        }
        let objects = cluster.tls.iter().flat_map(tls::upstream_references);
        self.objects.extend(objects.map(|reference| (reference.kind, reference.name)));
    }

    /// The secrets and trust bundles that a listener refers to.
    pub(super) fn objects(&mut self, refs: &[Reference]) {
        self.objects.extend(refs.iter().map(|reference| (reference.kind, reference.name.clone())));
    }

    /// What relays make of Secrets for the filters of a table.
    pub(super) fn made(&mut self, table: &RouteTable) {
        let routes = table.hosts.iter().flat_map(|host| &host.routes);
        let values = routes.filter_map(|route| route.policies.as_ref()).flat_map(|added| &added.late);
        for value in values {
            let kind = match value.service {
                LateService::Secret => BindingKind::Secret,
                LateService::Extension => BindingKind::Extension,
            };
            let known = self.made.entry((kind, value.name.as_str().into()));
            known.or_insert_with(|| template::of(value));
        }
    }

    /// What clients of a listener are checked by, where that is more than bundles.
    pub(super) fn clients(&mut self, listener: &Listener) {
        let chains = listener.chains.iter().filter(|chain| !chain.refuses());
        let clients = chains.filter_map(|chain| chain.tls.as_ref()?.clients.as_ref());
        for clients in clients.filter(|clients| !clients.revoked.is_empty()) {
            let Some(name) = tls::trust_of(clients) else { continue };
            let known = self.made.entry((BindingKind::Secret, name.as_str().into()));
            known.or_insert_with(|| template::validation(&name, clients));
        }
    }

    /// All bindings.
    pub(super) fn finish(self) -> impl Iterator<Item = Record> {
        let Self { endpoints, mut zones, objects, made } = self;
        let endpoints = endpoints.into_iter().map(move |(name, sources)| {
            let sources = sources.into_iter().collect();
            let source = match zones.remove(&name) {
                Some(zones) => BindingSource::Zoned(sources, zones),
                None => BindingSource::Endpoints(sources),
            };
            Binding { kind: BindingKind::Endpoints, name, source }
        });
        let objects = objects.into_iter().map(|(kind, name)| {
            let source = object(kind, &name);
            Binding { kind, name, source }
        });
        let made = made.into_iter().map(|((kind, name), template)| {
            let source = BindingSource::Template(template);
            Binding { kind, name, source }
        });
        endpoints.chain(objects).chain(made).map(Record::Binding)
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

pub(super) fn one(kind: BindingKind, name: &str) -> ObjectSource {
    let (kind, rest) = match (kind, name.split_once('/')) {
        (BindingKind::TrustBundle, Some((kind, rest))) => (kind, rest),
        (BindingKind::TrustBundle, None) => ("ConfigMap", name),
        (BindingKind::Secret | BindingKind::Extension | BindingKind::Endpoints, _) => ("Secret", name),
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
