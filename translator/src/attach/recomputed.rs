//! Routes that are looked for again behind one of their filters: once a token was read (SecurityPolicy
//! `jwt.providers.recomputeRoute`), a service was asked (`extAuth.recomputeRoute`), or a script or module wished so.
//!
//! ```text
//! request ─▶ first route ─▶ its filters, up to the one that changes the request ─▶ second route ─▶ its filters behind that
//! ```
//! Envoy decides by the first route which filters run. Those that do nothing by themselves always run in such tables (`xds`),
//! and do behind that what the second route says. What it asks for before, and filters that are only switched on by a
//! route, nobody asks any more. So whatever may be found must ask for nothing of that which the first route does not ask
//! for too; otherwise the first one is closed.

use moorgate_model::ir::{ExternalAuth, PathMatch, Recompute, Route, RouteFilter, RouteTable};
use moorgate_model::{FieldPath, ObjectRef};
use moorgate_policies::place;
use std::collections::{BTreeMap, BTreeSet};

/// Filters that keep nobody out.
const HARMLESS: [u16; 5] =
    [place::CUSTOM_RESPONSE, place::FAULT, place::CORS, place::GRPC_WEB, place::COMPRESSION];

/// Fields that cannot be carried out, and why not.
pub(super) type Unguarded = BTreeMap<(ObjectRef, FieldPath), String>;

/// What is known of the fleet.
pub(super) struct Among<'g> {
    /// Filters stand in another order than usual.
    pub(super) moved: bool,
    /// The namespaces of its Gateways. Who has them all may lead requests where he likes.
    pub(super) owners: BTreeSet<&'g str>,
}

/// What is asked for before a route can be found again, or by nobody but the first route.
#[derive(PartialEq, Eq)]
struct Before<'r> {
    filters: BTreeSet<&'r RouteFilter>,
    auth: Option<&'r ExternalAuth>,
}

impl<'r> Before<'r> {
    /// Up to the filter at a place; if filters were `moved` any may stand before it.
    fn of(route: &'r Route, place: u16, moved: bool) -> Self {
        let filters = route.policies.iter().flat_map(|added| &added.filters);
        let before = |filter: &&RouteFilter| {
            (moved || filter.place <= place || !filter.is_idle()) && !HARMLESS.contains(&filter.place)
        };
        Self { filters: filters.filter(before).collect(), auth: route.auth.as_ref() }
    }

    /// Whether everything of the other one is asked for here.
    fn covers(&self, other: &Self) -> bool {
        other.filters.is_subset(&self.filters) && (other.auth.is_none() || other.auth == self.auth)
    }
}

/// Closes the routes of a table from which a request could come to another one unasked.
pub(super) fn close(table: &mut RouteTable, among: &Among<'_>, unguarded: &mut Unguarded) {
    let asked = |route: &Route| Some(recompute(route)?.place);
    let places: BTreeSet<u16> = table.hosts.iter().flat_map(|host| &host.routes).filter_map(asked).collect();
    for place in places {
        let mut found = BTreeSet::new();
        for (number, host) in table.hosts.iter().enumerate() {
            let leading = leading(&host.routes, place, among, unguarded);
            found.extend(leading.into_iter().map(|position| (number, position)));
        }
        found.extend(straying(table, place, among, unguarded));
        for (number, position) in found {
            let host = table.hosts.get_mut(number);
            if let Some(route) = host.and_then(|host| host.routes.get_mut(position)) {
                route.refuse(500);
            }
        }
    }
}

/// Behind which filter a route is looked for again, if it is.
fn recompute(route: &Route) -> Option<&Recompute> {
    route.policies.as_ref()?.recomputes.as_ref()
}

/// The same behind the filter at a place.
fn recompute_at(route: &Route, place: u16) -> Option<&Recompute> {
    recompute(route).filter(|asked| asked.place == place)
}

/// Routes, with their positions, by what they ask for: most routes of a host ask for the same.
fn kinds<'r>(
    routes: impl Iterator<Item = &'r Route>,
    place: u16,
    moved: bool,
) -> Vec<(Before<'r>, Vec<(usize, &'r Route)>)> {
    let mut kinds: Vec<(Before<'_>, Vec<(usize, &Route)>)> = Vec::new();
    for (position, route) in routes.enumerate() {
        let before = Before::of(route, place, moved);
        match kinds.iter_mut().find(|(known, _)| *known == before) {
            Some((_, of_kind)) => of_kind.push((position, route)),
            None => kinds.push((before, vec![(position, route)])),
        }
    }
    kinds
}

/// The positions of routes of a host that are looked for again behind the filter at a place, and may lead past what
/// another one of the host asks for.
fn leading(routes: &[Route], place: u16, among: &Among<'_>, unguarded: &mut Unguarded) -> Vec<usize> {
    if !routes.iter().any(|route| recompute_at(route, place).is_some()) {
        return Vec::new();
    }
    let kinds = kinds(routes.iter(), place, among.moved);
    let mut out = Vec::new();
    for (position, first) in routes.iter().enumerate() {
        let Some(asked) = recompute_at(first, place) else { continue };
        let own = Before::of(first, place, among.moved);
        let strange = kinds.iter().filter(|(before, _)| !own.covers(before));
        let mut strange = strange.flat_map(|(_, of_kind)| of_kind);
        if let Some((_, second)) = strange.find(|second| may_follow((position, first), **second)) {
            note(asked, first, second, unguarded);
            out.push(position);
        }
    }
    out
}

/// Where in a table routes stand behind whose filter a request may be one for any host and path, so that it may lead past
/// what a route of another namespace asks for. What lies in a route's own namespace, and all of a fleet for whoever has
/// its Gateways, is a matter of trust in the own script or module.
fn straying(
    table: &RouteTable,
    place: u16,
    among: &Among<'_>,
    unguarded: &mut Unguarded,
) -> Vec<(usize, usize)> {
    let hosts = || table.hosts.iter().map(|host| &host.routes);
    let strays = |route: &Route| {
        let sources = route.policies.iter().flat_map(|added| &added.sources);
        let mut speaking = sources.filter(|source| source.overridden_by.is_none());
        recompute_at(route, place).is_some_and(|asked| asked.freely)
            && speaking.any(|source| among.owners != BTreeSet::from([&*source.object.namespace]))
    };
    if !hosts().flatten().any(strays) {
        return Vec::new();
    }
    // One route of each namespace stands for all that ask for the same.
    let of_namespace = |(_, route): (usize, _)| {
        let route: &Route = route;
        (&*route.origin.object.namespace, route)
    };
    let kinds: Vec<(Before<'_>, BTreeMap<&str, &Route>)> = kinds(hosts().flatten(), place, among.moved)
        .into_iter()
        .map(|(before, of_kind)| (before, of_kind.into_iter().map(of_namespace).collect()))
        .collect();
    let mut out = Vec::new();
    for (number, routes) in hosts().enumerate() {
        for (position, first) in routes.iter().enumerate().filter(|(_, route)| strays(route)) {
            let own = Before::of(first, place, among.moved);
            let strange = kinds.iter().filter(|(before, _)| !own.covers(before));
            let mut strange = strange.flat_map(|(_, of_kind)| of_kind);
            let second = strange.find(|(namespace, _)| **namespace != &*first.origin.object.namespace);
            if let (Some(asked), Some((_, second))) = (recompute(first), second) {
                note(asked, first, second, unguarded);
                out.push((number, position));
            }
        }
    }
    out
}

fn note(asked: &Recompute, first: &Route, second: &Route, unguarded: &mut Unguarded) {
    let message = format!(
        "a request for {} could then be one for {}, whose policies ask for more before that",
        first.origin.object, second.origin.object
    );
    unguarded.entry((asked.policy.clone(), asked.field.clone())).or_insert(message);
}

/// Whether a request that one route of a host was found for could also be one for another: only headers change in between,
/// among them cookies, and what stands behind the path's question mark. Routes are tried in their order.
fn may_follow((position, first): (usize, &Route), (other, second): (usize, &Route)) -> bool {
    let methods = match (&first.method, &second.method) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    // What is tried earlier did not fit before; what is tried later has its turn when the first one does not fit any more.
    let changes = if other < position { by_headers(second) } else { by_headers(first) };
    changes && methods && may_meet(&first.path, &second.path)
}

/// Whether anything but the path and method decides if a request is one for a route.
fn by_headers(route: &Route) -> bool {
    !route.headers.is_empty() || !route.query.is_empty() || !route.cookies.is_empty() || route.grpc.is_some()
}

fn may_meet(a: &PathMatch, b: &PathMatch) -> bool {
    let below = |prefix: &str, path: &str| {
        path.strip_prefix(prefix)
            .is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
    };
    match (a, b) {
        (PathMatch::Exact(a), PathMatch::Exact(b)) => a == b,
        (PathMatch::Prefix(prefix), PathMatch::Exact(path))
        | (PathMatch::Exact(path), PathMatch::Prefix(prefix)) => below(prefix, path),
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) => below(a, b) || below(b, a),
        (PathMatch::Regex(_), _) | (_, PathMatch::Regex(_)) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_meet() {
        let (exact, prefix) =
            (|text: &str| PathMatch::Exact(text.into()), |text: &str| PathMatch::Prefix(text.into()));
        for (a, b, meet) in [
            (exact("/a"), exact("/a"), true),
            (exact("/a"), exact("/b"), false),
            (prefix("/a"), exact("/a"), true),
            (prefix("/a"), exact("/a/b"), true),
            (prefix("/a"), exact("/ab"), false),
            (prefix(""), exact("/ab"), true),
            (prefix("/a"), prefix("/a/b"), true),
            (prefix("/a"), prefix("/ab"), false),
            (prefix(""), prefix("/b"), true),
            (PathMatch::Regex("/x.*".into()), exact("/a"), true),
        ] {
            assert_eq!((may_meet(&a, &b), may_meet(&b, &a)), (meet, meet), "{a:?} {b:?}");
        }
    }
}
