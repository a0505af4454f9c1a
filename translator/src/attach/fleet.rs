//! Fleets: the listeners of a Gateway, put together by port.

use super::index::Key;
use super::listener::{Gateway, Listener};
use super::parent::{Placement, Routes};
use super::policy::Policies;
use super::table::{self, Filled};
use super::takes::Takes;
use moorgate_model::ir::{Action, DownstreamTls, FilterChain, Fleet, ListenerOrigin, Route, RouteTable};
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
            for (port, listeners) in by_port(key, gateway, routes) {
                let (name, mut listener) = listener(gateway, port, &listeners, policies, &mut found);
                for chain in &mut listener.chains {
                    close_refused(&mut chain.routes, &routes.clusters);
                }
                fleet.listeners.insert(name, listener);
            }
        }
        fleet.clusters = used_clusters(&fleet, &routes.clusters);
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
) -> BTreeMap<u16, Vec<Filled<'r>>> {
    let mut ports: BTreeMap<u16, Vec<Filled<'r>>> = BTreeMap::new();
    for (position, listener) in gateway.listeners.iter().enumerate().filter(|(_, listener)| listener.accepted)
    {
        let placements: &[Placement] = routes.placements.get(&(key, position)).map_or(&[], Vec::as_slice);
        ports.entry(listener.spec.port).or_default().push((listener, placements));
    }
    ports
}

fn listener(
    gateway: &Gateway<'_>,
    port: u16,
    listeners: &[Filled<'_>],
    policies: &Policies,
    found: &mut table::Found,
) -> (String, ir::Listener) {
    let plain = listeners.iter().any(|(listener, _)| listener.spec.protocol == "HTTP");
    let mut chains = Vec::new();
    if plain {
        let name = format!("http-{port}");
        let routes = table::build(name.clone(), listeners, found);
        let refuse = listeners.iter().any(|(listener, _)| listener.refuse);
        chains.push(FilterChain {
            name,
            server_names: Vec::new(),
            refuse,
            tls: None,
            origins: listeners.iter().map(|(listener, _)| origin(gateway, listener)).collect(),
            routes,
        });
    } else {
        for filled in listeners {
            chains.push(tls_chain(gateway, port, *filled, found));
        }
        chains.sort_by(|a, b| a.name.cmp(&b.name));
    }
    if policies.denies_gateway(&gateway.object.reference) {
        chains.iter_mut().for_each(|chain| answer_500(&mut chain.routes));
    }
    let name = format!("{}-{port}", if plain { "http" } else { "https" });
    (name, ir::Listener { port, chains })
}

fn tls_chain(gateway: &Gateway<'_>, port: u16, filled: Filled<'_>, found: &mut table::Found) -> FilterChain {
    let (listener, _) = filled;
    let name = listener.spec.name.clone();
    let hostname = &listener.spec.hostname;
    let routes = if listener.refuse {
        RouteTable::default()
    } else {
        table::build(format!("https-{port}/{name}"), &[filled], found)
    };
    FilterChain {
        name,
        server_names: if hostname.is_empty() { Vec::new() } else { vec![hostname.to_ascii_lowercase()] },
        refuse: listener.refuse,
        tls: (!listener.refuse).then(|| DownstreamTls { secrets: listener.secrets.clone() }),
        origins: vec![origin(gateway, listener)],
        routes,
    }
}

fn origin(gateway: &Gateway<'_>, listener: &Listener) -> ListenerOrigin {
    ListenerOrigin {
        gateway: gateway.object.reference.clone(),
        listener: listener.spec.name.clone(),
        index: listener.index,
        hostname: listener.spec.hostname.clone(),
    }
}

/// A policy that restricts this Gateway could not be compiled: nothing may pass.
fn answer_500(routes: &mut RouteTable) {
    for route in routes.hosts.iter_mut().flat_map(|host| &mut host.routes) {
        route.action = Action::Respond(ir::Respond { status: 500 });
    }
}

/// A backend whose TLS policy could not be compiled answers 500, neither plain text nor unverified.
fn close_refused(routes: &mut RouteTable, clusters: &BTreeMap<String, ir::Cluster>) {
    let refused =
        |name: &String| clusters.get(name).and_then(|found| found.tls.as_ref()).is_some_and(|tls| tls.refuse);
    if !clusters.keys().any(refused) {
        return;
    }
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
    let routes =
        fleet.listeners.values().flat_map(|listener| &listener.chains).flat_map(|chain| &chain.routes.hosts);
    let names: BTreeSet<&str> = routes.flat_map(|host| &host.routes).flat_map(cluster_names).collect();
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
