//! Which route answers when several match.

use super::hostname::specificity;
use moorgate_model::ir::{PathMatch, Route};
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
/// The order is HTTPRoute's: the hostname written in the route (GatewayRouteHostnameIntersectionPrecedence), an exact
/// path, then a regular expression (left to implementations: the longer text first), then the longest prefix, a
/// method, more headers, more query parameters, the older route, and the order of rules and matches.
pub(super) fn rank<'a>(hostname: &str, age: &'a Age, route: &Route) -> impl Ord + use<'a> {
    let path = match &route.path {
        PathMatch::Exact(path) => (0, Reverse(path.chars().count())),
        PathMatch::Regex(path) => (1, Reverse(path.chars().count())),
        PathMatch::Prefix(path) => (2, Reverse(path.chars().count())),
    };
    (
        specificity(hostname),
        path,
        route.method.is_none(),
        Reverse(route.headers.len()),
        Reverse(route.query.len()),
        age,
        route.origin.rule,
        route.origin.matched,
    )
}
