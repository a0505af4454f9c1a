//! Limits that translator and relay share, met here first: a fleet near one gets a warning, and a fleet over one fails
//! alone, with the object that takes most of it.

use moorgate_model::diagnostic::semantic::{NEAR_LIMIT, SNAPSHOT_REFUSED};
use moorgate_model::ir::{self, Action, FilterChain, HeaderMutation, PathMatch, Route, Stream, ValueMatch};
use moorgate_model::{Diagnostic, FieldPath, Object, ObjectRef};
use moorgate_snapshot::{FleetName, Snapshot, SnapshotError};
use std::collections::BTreeMap;

/// Says that a fleet cannot be a snapshot.
pub(super) fn refused(
    name: &FleetName,
    error: &SnapshotError,
    fleet: &ir::Fleet,
    objects: &[Object],
) -> Diagnostic {
    let message = format!("fleet {name} cannot be a snapshot: {error}");
    let help = "split what is largest: over more hostnames, more routes of fewer matches, or another Gateway";
    pointed(about(name, Diagnostic::new(&SNAPSHOT_REFUSED, message), objects), fleet, objects).help(help)
}

/// Says of which limits a snapshot uses 80 % or more.
pub(super) fn near(
    name: &FleetName,
    snapshot: &Snapshot,
    fleet: &ir::Fleet,
    objects: &[Object],
) -> Vec<Diagnostic> {
    let say = |limit: moorgate_snapshot::limits::LimitUse| {
        let message = format!("fleet {name} is near a limit: {limit}");
        pointed(about(name, Diagnostic::new(&NEAR_LIMIT, message), objects), fleet, objects)
    };
    snapshot.usage().warnings().into_iter().map(say).collect()
}

/// The diagnostic at the fleet's Gateway.
fn about(name: &FleetName, diagnostic: Diagnostic, objects: &[Object]) -> Diagnostic {
    let FleetName::Gateway { namespace, name } = name else { return diagnostic };
    let gateway = ObjectRef::new(crate::attach::GATEWAY_GROUP, "Gateway", namespace, name);
    match objects.iter().find(|object| object.reference == gateway) {
        Some(object) => {
            let span = object.root.locate(&FieldPath::root());
            diagnostic.about(gateway, FieldPath::root()).at(object.origin.file.clone(), span)
        }
        None => diagnostic,
    }
}

/// How many objects are named as those that take most.
const MOST_NAMED: usize = 3;

/// Points at the objects whose matches take most bytes, if the fleet has routes at all.
fn pointed(diagnostic: Diagnostic, fleet: &ir::Fleet, objects: &[Object]) -> Diagnostic {
    let mut sizes: BTreeMap<&ObjectRef, (usize, usize)> = BTreeMap::new();
    let hosts = fleet.tables().into_values().flat_map(|table| &table.hosts);
    let requests = hosts.flat_map(|host| &host.routes).map(|route| (&route.origin.object, size(route)));
    let chains = fleet.listeners.values().flat_map(|listener| &listener.chains);
    let streams = chains.filter_map(|chain| Some((chain, chain.stream()?)));
    let streams = streams.map(|(chain, stream)| (&stream.origin.object, stream_size(chain, stream)));
    for (object, size) in requests.chain(streams) {
        let (bytes, routes) = sizes.entry(object).or_default();
        *bytes += size;
        *routes += 1;
    }
    let total: usize = sizes.values().map(|(bytes, _)| bytes).sum();
    // The first by name of equals.
    let mut largest: Vec<_> = sizes.into_iter().collect();
    largest.sort_by_key(|(_, (bytes, _))| std::cmp::Reverse(*bytes));
    let mut diagnostic = diagnostic;
    for (reference, (bytes, routes)) in largest.into_iter().take(MOST_NAMED) {
        let Some(object) = objects.iter().find(|object| object.reference == *reference) else { continue };
        let share = bytes.saturating_mul(100) / total.max(1);
        let message =
            format!("{reference} takes {share} % of the routes' bytes: {routes} matches on its hostnames");
        diagnostic = diagnostic.related(object.origin.file.clone(), object.origin.start, message);
    }
    diagnostic
}

/// The text of a route, in bytes: what grows with what was written.
fn size(route: &Route) -> usize {
    let (PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Regex(path)) = &route.path;
    let matched = route.headers.iter().chain(&route.query).chain(&route.cookies).map(|(name, value)| {
        let (ValueMatch::Exact(value) | ValueMatch::Regex(value)) = value;
        name.len() + value.len()
    });
    let backends = match &route.action {
        Action::Forward(forward) => forward.backends.as_slice(),
        Action::Redirect(_) | Action::Respond(_) => &[],
    };
    let of_backends = backends.iter().map(|backend| {
        backend.cluster.as_ref().map_or(0, String::len)
            + mutation(&backend.request_headers)
            + mutation(&backend.response_headers)
    });
    path.len()
        + matched.sum::<usize>()
        + of_backends.sum::<usize>()
        + mutation(&route.request_headers)
        + mutation(&route.response_headers)
}

/// A range of addresses, about.
const RANGE_BYTES: usize = 20;

/// The text of a chain that carries bytes, with that of the chain for others beside it.
fn stream_size(chain: &FilterChain, stream: &Stream) -> usize {
    let clusters = stream.backends.iter().filter_map(|backend| backend.cluster.as_ref());
    let ranges = stream.clients.iter().map(|clients| clients.allowed.len() + clients.denied.len());
    let names = chain.server_names.iter().chain(clusters).map(String::len);
    names.sum::<usize>() + ranges.sum::<usize>() * RANGE_BYTES
}

fn mutation(headers: &HeaderMutation) -> usize {
    let pairs = headers.set.iter().chain(&headers.add).map(|(name, value)| name.len() + value.len());
    pairs.sum::<usize>() + headers.remove.iter().map(String::len).sum::<usize>()
}
