//! Fleets: the listeners of a Gateway, or of all Gateways of a merged class, put together by port.

mod stream;

use super::Options;
use super::index::Key;
use super::kind::Mode;
use super::listener::{Gateway, Listener};
use super::parent::{Placement, Routes};
use super::policy::{Policies, by_service};
use super::proxy::Proxies;
use super::table::{self, Filled};
use super::takes::Takes;
use super::{recomputed, stat_names};
use moorgate_model::ir::{
    DownstreamTls, FilterChain, Fleet, ListenerOrigin, Route, RouteTable, Serves, Tracing, Transport,
};
use moorgate_model::{Diagnostics, Object, ir};
use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The Gateways of each fleet, the oldest first.
type Members<'g, 'a> = BTreeMap<FleetName, Vec<(Key<'a>, &'g Gateway<'a>)>>;

/// Makes one fleet of each Gateway, and of each merged class.
pub(super) fn assemble(
    gateways: &BTreeMap<Key<'_>, Gateway<'_>>,
    (routes, mut proxies): (&Routes<'_>, Proxies),
    policies: &Policies,
    (objects, options): (&[Object], &Options),
    diagnostics: &mut Diagnostics,
) -> (BTreeMap<FleetName, Fleet>, Takes) {
    let mut fleets = BTreeMap::new();
    let mut found = table::Found::default();
    for (name, members) in members(gateways, options) {
        let mut fleet = Fleet { proxy: proxies.remove(&name).unwrap_or_default(), ..Fleet::default() };
        let served: Vec<_> = members.into_iter().filter(|(_, gateway)| gateway.is_served()).collect();
        if !served.is_empty() {
            let denied =
                |(_, gateway): &(Key<'_>, &Gateway<'_>)| policies.denies_gateway(&gateway.object.reference);
            let closed = Closed {
                keeps_order: fleet.proxy.keeps_order,
                among: recomputed::Among {
                    moved: !fleet.proxy.order.is_empty(),
                    owners: served.iter().map(|((namespace, _), _)| *namespace).collect(),
                },
                all: served.iter().all(denied),
                clusters: routes
                    .clusters
                    .iter()
                    .filter(|(_, cluster)| refuses(cluster))
                    .map(|(name, _)| name.as_str())
                    .collect(),
            };
            for ((port, transport), listeners) in by_port(&served, routes) {
                let (name, mut chains) = chains(port, &listeners, &closed, &mut found);
                chains.iter_mut().for_each(|chain| closed.stream(chain));
                fleet.listeners.insert(name, ir::Listener { port, transport, chains });
            }
        }
        let called = stat_names::apply(&mut fleet, &routes.clusters, objects);
        fleet.clusters = used_clusters(&fleet, &routes.clusters, &called);
        if fleet.proxy.by_service {
            let services = fleet.clusters.values_mut().filter(|cluster| of_service(cluster));
            // A policy that says either comes first.
            services.filter(|cluster| cluster.policies.by_service.is_none()).for_each(by_service);
        }
        ask(&mut fleet);
        // Those that share a fleet agree on it.
        let own = served.first().and_then(|(_, gateway)| gateway.client_certificate.as_ref());
        if let Some(certificate) = own.or(fleet.proxy.client_certificate.as_ref()) {
            for tls in fleet.clusters.values_mut().filter_map(|cluster| cluster.tls.as_mut()) {
                // A backend's own comes first.
                tls.client_certificate.get_or_insert_with(|| certificate.clone());
            }
        }
        fleets.insert(name, fleet);
    }
    diagnostics.extend(found.passed.iter().filter_map(table::passed));
    diagnostics.extend(table::unguarded(objects, &found.unguarded));
    if !found.shadows.is_empty() {
        let by_name = objects.iter().map(|object| (&object.reference, object)).collect();
        diagnostics.extend(found.shadows.iter().filter_map(|shadow| table::describe(shadow, &by_name)));
    }
    (fleets, found.takes)
}

fn members<'g, 'a>(gateways: &'g BTreeMap<Key<'a>, Gateway<'a>>, options: &Options) -> Members<'g, 'a> {
    let mut members = Members::new();
    for (&key, gateway) in gateways {
        members.entry(options.fleet(gateway.class, key.0, key.1)).or_default().push((key, gateway));
    }
    for gateways in members.values_mut() {
        gateways.sort_by(|(_, a), (_, b)| a.age.cmp(&b.age));
    }
    members
}

fn by_port<'r>(
    gateways: &[(Key<'r>, &'r Gateway<'r>)],
    routes: &'r Routes<'r>,
) -> BTreeMap<(u16, Transport), Vec<Filled<'r>>> {
    let mut ports: BTreeMap<(u16, Transport), Vec<Filled<'r>>> = BTreeMap::new();
    let listeners = gateways.iter().flat_map(|(key, gateway)| {
        let accepted = gateway.listeners.iter().filter(|listener| listener.accepted);
        accepted.map(|listener| (*key, listener))
    });
    for (key, listener) in listeners {
        let placements = routes.placements.get(&(key, listener.position));
        let mut placements: &[Placement] = placements.map_or(&[], Vec::as_slice);
        if listener.refuse && matches!(listener.mode, Some(Mode::Tcp | Mode::Udp)) {
            // Without a route nothing passes.
            placements = &[];
        }
        let transport = if listener.mode == Some(Mode::Udp) { Transport::Udp } else { Transport::Tcp };
        ports.entry((listener.spec.port, transport)).or_default().push((listener, placements));
    }
    ports
}

/// The name of a port's Envoy listener, and its chains. All that begins with TLS is `https`, whatever is inside, so that
/// a listener more on a port never renames it: Envoy cannot give an address to a second listener while a first has it.
fn chains(
    port: u16,
    listeners: &[Filled<'_>],
    closed: &Closed<'_>,
    found: &mut table::Found,
) -> (String, Vec<FilterChain>) {
    // Conflicts are out: what shares a port is of one sort.
    let first = listeners.first().map(|(listener, _)| *listener);
    let plain = first.is_some_and(|listener| listener.spec.protocol == "HTTP");
    match first.and_then(|listener| listener.mode) {
        Some(Mode::Tcp) => {
            let name = format!("tcp-{port}");
            (name.clone(), stream::whole_port(&name, listeners))
        }
        Some(Mode::Udp) => {
            let name = format!("udp-{port}");
            (name.clone(), stream::whole_port(&name, listeners))
        }
        Some(Mode::Http) if plain => {
            let name = format!("http-{port}");
            (name.clone(), vec![plain_chain(name, listeners, closed, found)])
        }
        Some(Mode::Http | Mode::Terminate | Mode::Passthrough) | None => {
            let name = format!("https-{port}");
            let owners = table::Owners::new(listeners);
            // One table for all: in it Envoy finds out to which of them a host belongs.
            let table =
                listeners.iter().any(|(listener, _)| listener.mode == Some(Mode::Http) && !listener.refuse);
            let table = table.then(|| {
                let table = table::build(name.clone(), listeners, closed.keeps_order, found);
                Arc::new(closed.table(table, found))
            });
            let mut chains = Vec::new();
            for filled in listeners {
                match filled.0.mode {
                    Some(Mode::Http) => chains.push(https_chain(filled.0, table.as_ref())),
                    _ => chains.extend(stream::by_server_name(*filled, &owners)),
                }
            }
            chains.sort_by(|a, b| a.name.cmp(&b.name));
            (name, chains)
        }
    }
}

fn plain_chain(
    name: String,
    listeners: &[Filled<'_>],
    closed: &Closed<'_>,
    found: &mut table::Found,
) -> FilterChain {
    let table = table::build(name.clone(), listeners, closed.keeps_order, found);
    let routes = Arc::new(closed.table(table, found));
    FilterChain {
        name,
        server_names: Vec::new(),
        tls: None,
        origins: listeners.iter().map(|(listener, _)| origin(listener)).collect(),
        // Those that share a port without TLS agree, or have none.
        policies: listeners.iter().find_map(|(listener, _)| listener.policies.clone()),
        serves: Serves::Http(routes),
        tracing: same_tracing(listeners),
    }
}

fn https_chain(listener: &Listener<'_>, table: Option<&Arc<RouteTable>>) -> FilterChain {
    let table = table.filter(|_| !listener.refuse);
    FilterChain {
        name: listener.full_name(),
        server_names: server_names(&listener.spec.hostname),
        tls: tls(listener),
        origins: vec![origin(listener)],
        policies: listener.policies.clone(),
        serves: table.map_or(Serves::Refuse, |table| Serves::Http(Arc::clone(table))),
        tracing: listener.tracing.clone().filter(|_| table.is_some()),
    }
}

/// TLS that ends at a listener; none where connections are refused, or go on as they are.
fn tls(listener: &Listener<'_>) -> Option<DownstreamTls> {
    let (secrets, clients) = (listener.secrets.clone(), listener.clients.clone());
    (!listener.refuse && !secrets.is_empty()).then_some(DownstreamTls { secrets, clients })
}

/// What a collector is told of a port's requests: all of its listeners agree on it, or nobody is told anything.
fn same_tracing(listeners: &[Filled<'_>]) -> Option<Arc<Tracing>> {
    let mut all = listeners.iter().map(|(listener, _)| listener.tracing.as_ref());
    let first = all.next().flatten()?;
    all.all(|other| other == Some(first)).then(|| Arc::clone(first))
}

fn server_names(hostname: &str) -> Vec<String> {
    if hostname.is_empty() { Vec::new() } else { vec![hostname.to_ascii_lowercase()] }
}

fn origin(listener: &Listener<'_>) -> ListenerOrigin {
    ListenerOrigin {
        owner: listener.owner.reference.clone(),
        listener: listener.spec.name.clone(),
        index: listener.index,
        hostname: listener.spec.hostname.clone(),
    }
}

/// What must not be reached, because a policy that restricts it could not be compiled.
struct Closed<'c> {
    /// The rules of a route are tried as they are written.
    keeps_order: bool,
    /// What routes may lead to each other.
    among: recomputed::Among<'c>,
    /// Everything of the Gateway.
    all: bool,
    /// Clusters, neither in plain text nor unverified.
    clusters: BTreeSet<&'c str>,
}

impl Closed<'_> {
    fn table(&self, mut table: RouteTable, found: &mut table::Found) -> RouteTable {
        recomputed::close(&mut table, &self.among, &mut found.unguarded);
        for route in table.hosts.iter_mut().flat_map(|host| &mut host.routes) {
            if self.all {
                route.refuse(500);
            } else if !self.clusters.is_empty() {
                route.close(|name| self.clusters.contains(name));
            }
        }
        table
    }

    fn stream(&self, chain: &mut FilterChain) {
        let Serves::Stream(stream) = &mut chain.serves else { return };
        if self.all {
            stream.backends.clear();
        }
        for backend in &mut stream.backends {
            backend.cluster = backend.cluster.take().filter(|name| !self.clusters.contains(name.as_str()));
        }
    }
}

fn of_service(cluster: &ir::Cluster) -> bool {
    cluster.sources.iter().any(|source| !source.service.is_empty())
}

fn refuses(cluster: &ir::Cluster) -> bool {
    cluster.tls.as_ref().is_some_and(|tls| tls.refuse)
}

/// What policies of its routes ask of the fleet as a whole: what its rate limit service has to know, and how new Envoys are.
fn ask(fleet: &mut Fleet) {
    let tables = fleet.tables();
    let routes = tables.values().flat_map(|table| &table.hosts).flat_map(|host| &host.routes);
    let policies: Vec<_> = routes.filter_map(|route| route.policies.as_ref()).collect();
    let oldest = policies.iter().filter_map(|added| added.oldest_envoy).max();
    let limits = policies.iter().flat_map(|added| added.counted.iter().cloned()).collect();
    (fleet.limits, fleet.oldest_envoy) = (limits, oldest);
}

/// The clusters that a fleet's routes name: nothing that is not needed goes to its Envoys.
fn used_clusters(
    fleet: &Fleet,
    all: &BTreeMap<String, ir::Cluster>,
    called: &BTreeMap<String, ir::Cluster>,
) -> BTreeMap<String, ir::Cluster> {
    let find = |name: &str| called.get(name).or_else(|| all.get(name));
    let tables = fleet.tables();
    let hosts = || tables.values().flat_map(|table| &table.hosts);
    let mut names: BTreeSet<&str> = hosts().flat_map(|host| &host.routes).flat_map(Route::clusters).collect();
    names.extend(hosts().filter_map(|host| host.asked.as_ref()).flatten().map(|auth| auth.cluster.as_str()));
    let chains = fleet.listeners.values().flat_map(|listener| &listener.chains);
    let streams = chains.filter_map(FilterChain::stream).flat_map(|stream| &stream.backends);
    names.extend(streams.filter_map(|backend| backend.cluster.as_deref()));
    let chains = fleet.listeners.values().flat_map(|listener| &listener.chains);
    names.extend(chains.filter_map(|chain| chain.tracing.as_ref()).map(|tracing| tracing.cluster.as_str()));
    names.extend(fleet.proxy.clusters.iter().map(String::as_str));
    let members: Vec<&str> =
        names.iter().filter_map(|name| find(name)).flat_map(ir::Cluster::members).collect();
    names.extend(members);
    names.into_iter().filter_map(|name| Some((name.to_owned(), find(name)?.clone()))).collect()
}
