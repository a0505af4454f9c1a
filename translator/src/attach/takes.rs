//! Matches that take requests which routes of another namespace also match.
//!
//! Found on one virtual host at a time, where matches lie in order of precedence. A match can only take from matches
//! behind it whose paths it meets, so those are looked up by path: the prefixes above it, the same path, and, where
//! routes came to the host by different hostnames, the paths below it. Regular expressions are compared by the text
//! that they start with, so for them a finding means "may take".

use super::hostname::specificity;
use super::listener::Listener;
use super::parent::Placement;
use moorgate_model::ObjectRef;
use moorgate_model::ir::{PathMatch, Route, RouteOrigin, ValueMatch};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;

/// How many pairs of matches of one host are compared besides [`PER_ROUTE`] for each.
const PAIRS: usize = 1_000_000;
/// How many pairs are compared for each match, on average.
const PER_ROUTE: usize = 64;

/// A match that answers requests which one of another namespace also matches, and would answer without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// The match that answers.
    pub winner: RouteOrigin,
    /// The match that does not.
    pub loser: RouteOrigin,
    /// The hostname, empty for all.
    pub host: String,
}

/// All takes, the first of each pair of objects. Those with equal conditions are told apart.
#[derive(Debug, Default)]
pub struct Takes {
    /// By winner, loser, and whether their conditions are equal.
    pub found: BTreeMap<(ObjectRef, ObjectRef, bool), Take>,
    /// Hosts with so many matches on the same paths that not all were compared, by namespace of one of their routes.
    pub unfinished: BTreeMap<String, RouteOrigin>,
}

type Row<'r> = (&'r Placement, &'r Route, &'r Listener<'r>);
/// Positions in the order of precedence, by namespace.
type Bucket<'r> = BTreeMap<&'r str, Vec<usize>>;

struct Host<'r> {
    rows: &'r [Row<'r>],
    /// Routes of one group came to the host by hostnames of the same specificity; groups win as a whole.
    groups: Vec<usize>,
    prefixes: BTreeMap<&'r str, Bucket<'r>>,
    exact: BTreeMap<&'r str, Bucket<'r>>,
    expressions: Bucket<'r>,
    /// Pairs that may still be compared.
    left: Cell<usize>,
}

/// Looks at the matches of one host, in order of precedence.
pub(super) fn find(host: &str, rows: &[Row<'_>], takes: &mut Takes) {
    let namespace = |row: &Row<'_>| row.1.origin.object.namespace.clone();
    let Some(first) = rows.first().map(namespace) else { return };
    if rows.iter().all(|row| row.1.origin.object.namespace == first) {
        return;
    }
    let index = Host::new(rows);
    for position in 0..rows.len() {
        if !index.winner(host, position, takes) {
            let origin = rows.get(position).map(|row| row.1.origin.clone());
            takes.unfinished.extend(origin.map(|origin| (host.to_owned(), origin)));
            return;
        }
    }
}

impl<'r> Host<'r> {
    fn new(rows: &'r [Row<'r>]) -> Self {
        let mut host = Self {
            rows,
            groups: Vec::with_capacity(rows.len()),
            prefixes: BTreeMap::new(),
            exact: BTreeMap::new(),
            expressions: BTreeMap::new(),
            left: Cell::new(rows.len().saturating_mul(PER_ROUTE).saturating_add(PAIRS)),
        };
        let mut last = None;
        for (position, (placement, route, _)) in rows.iter().enumerate() {
            let class = specificity(&placement.written);
            let group = host.groups.last().copied().unwrap_or(0);
            host.groups.push(group + usize::from(last.is_some_and(|last| last != class)));
            last = Some(class);
            let bucket = match &route.path {
                PathMatch::Prefix(path) => host.prefixes.entry(path).or_default(),
                PathMatch::Exact(path) => host.exact.entry(path).or_default(),
                PathMatch::Regex(_) => &mut host.expressions,
            };
            bucket.entry(&route.origin.object.namespace).or_default().push(position);
        }
        host
    }

    /// Notes what one match takes; false if the budget is spent.
    fn winner(&self, host: &str, position: usize, takes: &mut Takes) -> bool {
        let rows = self.rows;
        let Some((_, winner, _)) = rows.get(position) else { return true };
        let mut losers: BTreeMap<&str, usize> = BTreeMap::new();
        for bucket in self.meeting(winner, position) {
            for (namespace, positions) in bucket {
                if **namespace == *winner.origin.object.namespace || losers.contains_key(namespace) {
                    continue;
                }
                let behind = positions.partition_point(|other| *other <= position);
                for other in positions.get(behind..).unwrap_or_default() {
                    let Some(left) = self.left.get().checked_sub(1) else { return false };
                    self.left.set(left);
                    let Some((_, loser, _)) = rows.get(*other) else { continue };
                    if meet(winner, loser) {
                        losers.insert(namespace, *other);
                        break;
                    }
                }
            }
        }
        for loser in losers.into_values().filter_map(|other| rows.get(other)).map(|row| row.1) {
            let equal = (&winner.path, &winner.method, &winner.headers, &winner.query, &winner.cookies)
                == (&loser.path, &loser.method, &loser.headers, &loser.query, &loser.cookies)
                && winner.grpc.is_some() == loser.grpc.is_some();
            let key = (winner.origin.object.clone(), loser.origin.object.clone(), equal);
            takes.found.entry(key).or_insert_with(|| Take {
                winner: winner.origin.clone(),
                loser: loser.origin.clone(),
                host: host.to_owned(),
            });
        }
        true
    }

    /// The matches whose paths a match meets: the nearest path first.
    fn meeting(&self, winner: &'r Route, position: usize) -> Vec<&Bucket<'r>> {
        let mut buckets: Vec<&Bucket<'r>> = Vec::new();
        let group = self.groups.get(position);
        // GRPCRoutes stand before HTTPRoutes with longer paths.
        let mixed = group != self.groups.last() || winner.grpc.is_some();
        let (text, below) = match &winner.path {
            PathMatch::Exact(path) => {
                buckets.extend(self.exact.get(path.as_str()));
                (path.as_str(), false)
            }
            PathMatch::Prefix(path) => (path.as_str(), mixed),
            PathMatch::Regex(expression) => (lead(expression), true),
        };
        if below {
            buckets.extend(under(&self.prefixes, text));
            buckets.extend(under(&self.exact, text).filter(|_| mixed));
        }
        let ends =
            (0..=text.len()).rev().filter(|end| text.as_bytes().get(*end).is_none_or(|byte| *byte == b'/'));
        let above = ends.filter(|end| !below || *end < text.len()).filter_map(|end| text.get(..end));
        buckets.extend(above.filter_map(|prefix| self.prefixes.get(prefix)));
        if !self.expressions.is_empty() {
            buckets.push(&self.expressions);
        }
        buckets
    }
}

/// The buckets of paths that start with a text.
fn under<'b, 'r>(
    paths: &'b BTreeMap<&'r str, Bucket<'r>>,
    text: &'b str,
) -> impl Iterator<Item = &'b Bucket<'r>> {
    let range = paths.range::<str, _>((Bound::Included(text), Bound::Unbounded));
    range.take_while(move |(path, _)| path.starts_with(text)).map(|(_, bucket)| bucket)
}

/// The text that all paths of a regular expression start with, as far as it shows without compiling it.
fn lead(expression: &str) -> &str {
    if expression.contains('|') {
        return "";
    }
    let special = |c: char| ".*+?()[]{}^$\\".contains(c);
    let end = expression.find(special).unwrap_or(expression.len());
    let text = expression.get(..end).unwrap_or_default();
    // What is repeated or left out is the character before.
    match expression.get(end..).and_then(|rest| rest.chars().next()) {
        Some('*' | '?' | '{') => {
            let mut chars = text.chars();
            chars.next_back();
            chars.as_str()
        }
        _ => text,
    }
}

/// Whether some request may fit both.
fn meet(a: &Route, b: &Route) -> bool {
    let methods = a.method.is_none() || b.method.is_none() || a.method == b.method;
    methods
        && paths_meet(&a.path, &b.path)
        && values_meet(&a.headers, &b.headers)
        && values_meet(&a.query, &b.query)
        && values_meet(&a.cookies, &b.cookies)
}

fn paths_meet(a: &PathMatch, b: &PathMatch) -> bool {
    use PathMatch::{Exact, Prefix, Regex};
    let within = |path: &str, prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match (a, b) {
        (Exact(a), Exact(b)) => a == b,
        (Exact(path), Prefix(prefix)) | (Prefix(prefix), Exact(path)) => within(path, prefix),
        (Prefix(a), Prefix(b)) => within(a, b) || within(b, a),
        (Exact(path), Regex(expression)) | (Regex(expression), Exact(path)) => {
            path.starts_with(lead(expression))
        }
        (Prefix(prefix), Regex(expression)) | (Regex(expression), Prefix(prefix)) => {
            let lead = lead(expression);
            prefix.starts_with(lead) || within(lead, prefix) || prefix.is_empty()
        }
        (Regex(a), Regex(b)) => lead(a).starts_with(lead(b)) || lead(b).starts_with(lead(a)),
    }
}

/// False if one name must have two values.
fn values_meet(a: &[(String, ValueMatch)], b: &[(String, ValueMatch)]) -> bool {
    a.iter().all(|(name, value)| {
        b.iter().filter(|(other, _)| other == name).all(|(_, other)| match (value, other) {
            (ValueMatch::Exact(a), ValueMatch::Exact(b)) => a == b,
            _ => true,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_known_by_what_they_start_with() {
        for (expression, expected) in [
            ("/a/b", "/a/b"),
            ("/a/.*", "/a/"),
            ("/ab*", "/a"),
            ("/ab+", "/ab"),
            ("/ab{0,2}", "/a"),
            ("/a|/b", ""),
            ("(?i)/a", ""),
            (".*", ""),
            ("", ""),
            ("/a\\.b", "/a"),
        ] {
            assert_eq!(lead(expression), expected, "{expression}");
        }
    }

    #[test]
    fn paths_meet_if_one_request_may_fit_both() {
        let parse = |text: &str| match text.split_at(1) {
            ("=", path) => PathMatch::Exact(path.into()),
            ("~", path) => PathMatch::Regex(path.into()),
            (_, path) => PathMatch::Prefix(path.into()),
        };
        for (a, b, expected) in [
            ("=/a", "=/a", true),
            ("=/a", "=/a/", false),
            ("=/a/b", ">/a", true),
            ("=/ab", ">/a", false),
            (">/a/b", ">/a", true),
            (">/ab", ">/a", false),
            (">", "=/x", true),
            (">", "~/x.*", true),
            ("~/shop.*", ">/shop/cart", true),
            ("~/shop/.*", ">/shop", true),
            ("~/shopping", ">/shop", false),
            ("~/a.*", "~/b.*", false),
            ("~.*", ">/a", true),
            ("=/a", "~/b", false),
        ] {
            assert_eq!(paths_meet(&parse(a), &parse(b)), expected, "{a} {b}");
            assert_eq!(paths_meet(&parse(b), &parse(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn values_meet_unless_they_exclude_each_other() {
        let exact = |name: &str, value: &str| (name.to_owned(), ValueMatch::Exact(value.to_owned()));
        let regex = |name: &str| (name.to_owned(), ValueMatch::Regex(".*".to_owned()));
        assert!(values_meet(&[exact("a", "1")], &[]));
        assert!(values_meet(&[exact("a", "1")], &[exact("b", "2"), exact("a", "1")]));
        assert!(!values_meet(&[exact("a", "1")], &[exact("a", "2")]));
        assert!(values_meet(&[exact("a", "1")], &[regex("a")]));
    }
}
