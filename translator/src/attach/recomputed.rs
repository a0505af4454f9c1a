//! Routes that are looked for again once a token was read (SecurityPolicy `jwt.providers.recomputeRoute`).
//!
//! ```text
//! request ─▶ first route ─▶ its filters, up to the one that reads tokens ─▶ second route ─▶ its filters behind that
//! ```
//! What the second route asks for before tokens are read, nobody asks any more. So whatever may be found must ask for
//! nothing there that the first route does not ask for too; otherwise the first one is closed.

use moorgate_model::ir::{ExternalAuth, PathMatch, Route, RouteFilter};
use moorgate_model::{FieldPath, ObjectRef};
use moorgate_policies::place;
use std::collections::{BTreeMap, BTreeSet};

/// Filters before that one which keep nobody out.
const HARMLESS: [u16; 3] = [place::FAULT, place::CORS, place::GRPC_WEB];

/// Fields that cannot be carried out, and why not.
pub(super) type Unguarded = BTreeMap<(ObjectRef, FieldPath), String>;

/// What is asked for before a route can be found again.
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
            (moved || filter.place <= place || filter.is_whole()) && !HARMLESS.contains(&filter.place)
        };
        Self { filters: filters.filter(before).collect(), auth: route.auth.as_ref() }
    }

    /// Whether everything of the other one is asked for here.
    fn covers(&self, other: &Self) -> bool {
        other.filters.is_subset(&self.filters) && (other.auth.is_none() || other.auth == self.auth)
    }
}

/// Closes the routes of a host from which a request could come to another one unasked.
pub(super) fn close(routes: &mut [Route], moved: bool, unguarded: &mut Unguarded) {
    let places: BTreeSet<u16> = routes.iter().filter_map(place).collect();
    for place in places {
        for position in leading(routes, place, moved, unguarded) {
            if let Some(route) = routes.get_mut(position) {
                route.refuse(500);
            }
        }
    }
}

/// Behind which filter a route is looked for again, if it is.
fn place(route: &Route) -> Option<u16> {
    Some(route.policies.as_ref()?.recomputes.as_ref()?.0)
}

/// The positions of routes that are looked for again behind the filter at a place, and may lead past what another one asks for.
fn leading(routes: &[Route], place: u16, moved: bool, unguarded: &mut Unguarded) -> Vec<usize> {
    // Most routes of a host ask for the same.
    let mut kinds: Vec<(Before<'_>, Vec<&Route>)> = Vec::new();
    for route in routes {
        let before = Before::of(route, place, moved);
        match kinds.iter_mut().find(|(known, _)| *known == before) {
            Some((_, of_kind)) => of_kind.push(route),
            None => kinds.push((before, vec![route])),
        }
    }
    let mut out = Vec::new();
    for (position, first) in routes.iter().enumerate() {
        let asked = first.policies.as_ref().and_then(|added| added.recomputes.clone());
        let Some((_, policy, field)) = asked.filter(|(of, ..)| *of == place) else { continue };
        let own = Before::of(first, place, moved);
        let strange = kinds.iter().filter(|(before, _)| !own.covers(before));
        let mut strange = strange.flat_map(|(_, of_kind)| of_kind);
        if let Some(second) = strange.find(|second| may_follow(first, second)) {
            let message = format!(
                "a request for {} could then be one for {}, whose policies ask for more before that",
                first.origin.object, second.origin.object
            );
            unguarded.entry((policy, field)).or_insert(message);
            out.push(position);
        }
    }
    out
}

/// Whether a request that one route was found for could also be one for another: only headers change in between.
fn may_follow(first: &Route, second: &Route) -> bool {
    let methods = match (&first.method, &second.method) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    methods && may_meet(&first.path, &second.path)
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
