//! Which route answers when several match.

use super::hostname::specificity;
use moorgate_model::ir::{PathMatch, Route, ValueMatch};
use std::cmp::Reverse;

/// Who came first: creation time where present (files have none), then namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    missing: bool,
    created: String,
    namespace: String,
    name: String,
}

impl Age {
    pub(super) fn new(created: Option<&str>, namespace: &str, name: &str) -> Self {
        Self {
            missing: created.is_none(),
            created: created.unwrap_or_default().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// Compares two matches of one virtual host; the lesser answers first.
///
/// The hostname written in the route comes first (GatewayRouteHostnameIntersectionPrecedence). Then GRPCRoutes come
/// before HTTPRoutes: they match gRPC requests only, and the two are never merged (GRPCRoute `matches`). HTTPRoute goes
/// on with an exact path, then a regular expression (left to implementations: the longer text first), then the longest
/// prefix, a method, more headers, more query parameters, more cookies; GRPCRoute with the longer service, the longer method, more
/// headers; both with the older route, and the order of rules and matches.
pub(super) fn rank<'a>(hostname: &str, age: &'a Age, route: &Route) -> impl Ord + use<'a> {
    let long = |text: &str| Reverse(text.chars().count());
    let path = match (&route.grpc, &route.path) {
        (Some(grpc), _) => (0, value(grpc.service.as_ref()), value(grpc.method.as_ref())),
        (None, PathMatch::Exact(path)) => (1, long(path), Reverse(0)),
        (None, PathMatch::Regex(path)) => (2, long(path), Reverse(0)),
        (None, PathMatch::Prefix(path)) => (3, long(path), Reverse(0)),
    };
    (
        specificity(hostname),
        path,
        route.method.is_none(),
        Reverse(route.headers.len()),
        Reverse(route.query.len()),
        Reverse(route.cookies.len()),
        age,
        route.origin.rule,
        route.origin.matched,
    )
}

/// The same where an EnvoyProxy asks for `preserveRouteOrder`: the rules of a route answer in the order in which they are
/// written, and of two routes the older comes first.
pub(super) fn written<'a>(hostname: &str, age: &'a Age, route: &Route) -> impl Ord + use<'a> {
    (specificity(hostname), age, route.origin.rule, route.origin.matched)
}

/// How many characters a service or method names.
fn value(wanted: Option<&ValueMatch>) -> Reverse<usize> {
    Reverse(wanted.map_or(0, |(ValueMatch::Exact(text) | ValueMatch::Regex(text))| text.chars().count()))
}
