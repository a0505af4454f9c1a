//! Fleets: the listeners of a Gateway, put together by port.

mod stream;

use super::index::Key;
use super::kind::Mode;
use super::listener::{Gateway, Listener};
use super::parent::{Placement, Routes};
use super::policy::Policies;
use super::table::{self, Filled};
use super::takes::Takes;
use moorgate_model::ir::{
    Action, DownstreamTls, FilterChain, Fleet, ListenerOrigin, Route, RouteTable, Serves, Transport,
};
use moorgate_model::{Diagnostics, Object, ir};
use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};

/// Makes one fleet of each Gateway.
pub(super) fn assemble(
    gateways: &BTreeMap<Key<'_>, Gateway<'_>>,
    routes: &Routes<'_>,
    policies: &Policies,
    objects: &[Object],
    diagnostics: &mut Diagnostics,
) -> (BTreeMap<FleetName, Fleet>, Takes) {
    let mut fleets = BTreeMap::new();
    let mut found = table::Found::default();
    for (&key, gateway) in gateways {
        let mut fleet = Fleet::default();
        if gateway.is_served() {
            let denied = policies.denies_gateway(&gateway.object.reference);
            for ((port, transport), listeners) in by_port(key, gateway, routes) {
                let (name, chains) = chains(port, &listeners, &mut found);
                let mut listener = ir::Listener { port, transport, chains };
                for chain in &mut listener.chains {
                    if denied {
                        deny(chain);
                    }
                    close_refused(chain, &routes.clusters);
                }
                fleet.listeners.insert(name, listener);
            }
        }
        fleet.clusters = used_clusters(&fleet, &routes.clusters);
        if let Some(name) = &gateway.client_certificate {
            for tls in fleet.clusters.values_mut().filter_map(|cluster| cluster.tls.as_mut()) {
                tls.client_certificate = Some(name.clone());
            }
        }
        fleets.insert(FleetName::gateway(key.0, key.1), fleet);
    }
    if !found.shadows.is_empty() {
        let by_name = objects.iter().map(|object| (&object.reference, object)).collect();
        diagnostics.extend(found.shadows.iter().filter_map(|shadow| table::describe(shadow, &by_name)));
    }
    (fleets, found.takes)
}

fn by_port<'r>(
    key: Key<'r>,
    gateway: &'r Gateway<'_>,
    routes: &'r Routes<'_>,
) -> BTreeMap<(u16, Transport), Vec<Filled<'r>>> {
    let mut ports: BTreeMap<(u16, Transport), Vec<Filled<'r>>> = BTreeMap::new();
    for listener in gateway.listeners.iter().filter(|listener| listener.accepted) {
        let placements = routes.placements.get(&(key, listener.position));
        let placements: &[Placement] = placements.map_or(&[], Vec::as_slice);
        let transport = if listener.mode == Some(Mode::Udp) { Transport::Udp } else { Transport::Tcp };
        ports.entry((listener.spec.port, transport)).or_default().push((listener, placements));
    }
    ports
}

/// The name of a port's Envoy listener, and its chains. All that begins with TLS is `https`, whatever is inside, so that
/// a listener more on a port never renames it: Envoy cannot give an address to a second listener while a first has it.
fn chains(port: u16, listeners: &[Filled<'_>], found: &mut table::Found) -> (String, Vec<FilterChain>) {
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
            (name.clone(), vec![plain_chain(name, listeners, found)])
        }
        Some(Mode::Http | Mode::Terminate | Mode::Passthrough) | None => {
            let mut chains = Vec::new();
            for filled in listeners {
                match filled.0.mode {
                    Some(Mode::Http) => chains.push(https_chain(port, *filled, found)),
                    _ => chains.extend(stream::by_server_name(*filled, listeners)),
                }
            }
            chains.sort_by(|a, b| a.name.cmp(&b.name));
            (format!("https-{port}"), chains)
        }
    }
}

fn plain_chain(name: String, listeners: &[Filled<'_>], found: &mut table::Found) -> FilterChain {
    let routes = table::build(name.clone(), listeners, found);
    FilterChain {
        name,
        server_names: Vec::new(),
        tls: None,
        origins: listeners.iter().map(|(listener, _)| origin(listener)).collect(),
        serves: Serves::Http(routes),
    }
}

fn https_chain(port: u16, filled: Filled<'_>, found: &mut table::Found) -> FilterChain {
    let (listener, _) = filled;
    let name = listener.full_name();
    let serves = if listener.refuse {
        Serves::Refuse
    } else {
        Serves::Http(table::build(format!("https-{port}/{name}"), &[filled], found))
    };
    let server_names = server_names(&listener.spec.hostname);
    FilterChain { name, server_names, tls: tls(listener), origins: vec![origin(listener)], serves }
}

/// TLS that ends at a listener; none where connections are refused, or go on as they are.
fn tls(listener: &Listener<'_>) -> Option<DownstreamTls> {
    let (secrets, clients) = (listener.secrets.clone(), listener.clients.clone());
    (!listener.refuse && !secrets.is_empty()).then_some(DownstreamTls { secrets, clients })
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

/// A policy that restricts this Gateway could not be compiled: nothing may pass.
fn deny(chain: &mut FilterChain) {
    match &mut chain.serves {
        Serves::Http(routes) => answer_500(routes),
        Serves::Stream(stream) => stream.backends.clear(),
        Serves::Refuse => {}
    }
}

fn answer_500(routes: &mut RouteTable) {
    for route in routes.hosts.iter_mut().flat_map(|host| &mut host.routes) {
        route.action = Action::Respond(ir::Respond { status: 500 });
    }
}

/// A backend whose TLS policy could not be compiled answers 500, or closes, neither plain text nor unverified.
fn close_refused(chain: &mut FilterChain, clusters: &BTreeMap<String, ir::Cluster>) {
    let refused =
        |name: &String| clusters.get(name).and_then(|found| found.tls.as_ref()).is_some_and(|tls| tls.refuse);
    if !clusters.keys().any(refused) {
        return;
    }
    let routes = match &mut chain.serves {
        Serves::Http(routes) => routes,
        Serves::Stream(stream) => {
            for backend in &mut stream.backends {
                backend.cluster = backend.cluster.take().filter(|name| !refused(name));
            }
            return;
        }
        Serves::Refuse => return,
    };
    for route in routes.hosts.iter_mut().flat_map(|host| &mut host.routes) {
        route.mirrors.retain(|mirror| !refused(&mirror.cluster));
        let Action::Forward(forward) = &mut route.action else { continue };
        for backend in &mut forward.backends {
            backend.cluster = backend.cluster.take().filter(|name| !refused(name));
        }
        if forward.backends.iter().all(|backend| backend.cluster.is_none()) {
            route.action = Action::Respond(ir::Respond { status: 500 });
        }
    }
}

/// The clusters that a fleet's routes name: nothing that is not needed goes to its Envoys.
fn used_clusters(fleet: &Fleet, all: &BTreeMap<String, ir::Cluster>) -> BTreeMap<String, ir::Cluster> {
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for chain in fleet.listeners.values().flat_map(|listener| &listener.chains) {
        match &chain.serves {
            Serves::Http(routes) => {
                let routes = routes.hosts.iter().flat_map(|host| &host.routes);
                names.extend(routes.flat_map(cluster_names));
            }
            Serves::Stream(stream) => {
                names.extend(stream.backends.iter().filter_map(|backend| backend.cluster.as_deref()));
            }
            Serves::Refuse => {}
        }
    }
    names.into_iter().filter_map(|name| Some((name.to_owned(), all.get(name)?.clone()))).collect()
}

fn cluster_names(route: &Route) -> impl Iterator<Item = &str> {
    let forwarded = match &route.action {
        Action::Forward(forward) => forward.backends.as_slice(),
        Action::Redirect(_) | Action::Respond(_) => &[],
    };
    let mirrored = route.mirrors.iter().map(|mirror| mirror.cluster.as_str());
    forwarded.iter().filter_map(|backend| backend.cluster.as_deref()).chain(mirrored)
}
