//! Rules of route rules: how many, named how, and what goes together in one.

use super::{NativeRule, exists_one, has, is, items, list, string};
use moorgate_model::Node;

/// The most matches that all rules of a route may have.
const MOST_MATCHES: usize = 128;

/// The number of rules that the published sum goes through.
const SUMMED_RULES: usize = 16;

/// A rule's text that adds up the matches of sixteen rules.
macro_rules! sum {
    ($before:tt, $after:tt, $($index:literal)*) => {
        concat!(
            "(self.size() > 0 ? ", sum!(@one $before, $after, 0), " : 0)",
            $(" + (self.size() > ", $index, " ? ", sum!(@one $before, $after, $index), " : 0)",)*
            " <= 128"
        )
    };
    (@one "", "", $index:literal) => { concat!("self[", $index, "].matches.size()") };
    (@one $before:tt, $after:tt, $index:literal) => {
        concat!($before, $index, $after, $index, "].matches.size() : 0)")
    };
}

fn few_matches(rules: &Node) -> bool {
    items(rules).iter().take(SUMMED_RULES).map(|rule| list(rule, "matches").len()).sum::<usize>()
        <= MOST_MATCHES
}

/// Whether a filter has a path that replaces the matched prefix.
fn replaces_prefix(filter: &Node, field: &str) -> bool {
    filter
        .get(field)
        .and_then(|part| part.get("path"))
        .is_some_and(|path| is(path, "type", "ReplacePrefixMatch") && has(path, "replacePrefixMatch"))
}

/// Whether a rule has exactly one match, on a path prefix.
fn one_prefix(rule: &Node) -> bool {
    match rule.get("matches").and_then(Node::as_sequence) {
        Some([only]) => only.get("path").is_some_and(|path| is(path, "type", "PathPrefix")),
        _ => false,
    }
}

/// One filter of the rule replaces the prefix: then there must be one prefix.
fn own_prefix(rule: &Node, field: &str) -> bool {
    !exists_one(list(rule, "filters"), |filter| replaces_prefix(filter, field)) || one_prefix(rule)
}

/// One backend has one such filter: then there must be one prefix.
fn backend_prefix(rule: &Node, field: &str) -> bool {
    let replaces =
        |backend: &Node| exists_one(list(backend, "filters"), |filter| replaces_prefix(filter, field));
    !exists_one(list(rule, "backendRefs"), replaces) || one_prefix(rule)
}

/// A rule about replaced prefixes, in the filters of a rule or of its backends.
macro_rules! prefix {
    ($field:literal, $test:ident, $before:literal, $after:literal) => {
        (
            concat!(
                $before,
                ".exists_one(f, has(f.",
                $field,
                ") && has(f.",
                $field,
                ".path) && f.",
                $field,
                ".path.type == 'ReplacePrefixMatch' && has(f.",
                $field,
                ".path.replacePrefixMatch))",
                $after,
                " ? ((size(self.matches) != 1 || !has(self.matches[0].path) || self.matches[0].path.type != \
                 'PathPrefix') ? false : true) : true"
            ),
            |rule| $test(rule, $field),
        )
    };
}

/// Milliseconds of a duration as the schema has it: up to four numbers with unit.
fn milliseconds(text: &str) -> u64 {
    let mut total = 0;
    let mut rest = text;
    while let Some(end) = rest.find(|letter: char| !letter.is_ascii_digit()) {
        let (number, unit) = rest.split_at(end);
        let (factor, length) = match unit.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b's', ..] => (1_000, 1),
            [b'm', ..] => (60_000, 1),
            _ => (3_600_000, 1),
        };
        total += number.parse().unwrap_or(0) * factor;
        rest = unit.get(length..).unwrap_or_default();
    }
    total
}

/// A letter as `(?i)[a-z]` has it: two more letters fold to these.
fn any_case(letter: char) -> bool {
    letter.is_ascii_alphabetic() || matches!(letter, '\u{17F}' | '\u{212A}')
}

/// An identifier, letters as given.
fn identifier(text: &str, letter: fn(char) -> bool) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(|first| first == '_' || letter(first))
        && letters.all(|next| next == '_' || letter(next) || next.is_ascii_digit())
}

/// A check of a gRPC method match's field, if the match is exact.
fn exactly(method: &Node, field: &str, test: impl Fn(&str) -> bool) -> bool {
    let exact = string(method, "type").is_none_or(|kind| kind == "Exact");
    !exact || string(method, field).is_none_or(test)
}

/// All of them.
pub(super) const RULES: &[&[(&str, NativeRule)]] = &[&[
    ("self.all(l1, !has(l1.name) || self.exists_one(l2, has(l2.name) && l1.name == l2.name))", |rules| {
        let names = || items(rules).iter().filter_map(|rule| string(rule, "name"));
        names().enumerate().all(|(index, name)| names().take(index).all(|earlier| earlier != name))
    }),
    (sum!("", "", 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15), few_matches),
    (sum!("(has(self[", "].matches) ? self[", 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15), few_matches),
    (
        "(has(self.backendRefs) && size(self.backendRefs) > 0) ? (!has(self.filters) || self.filters.all(f, \
         !has(f.requestRedirect))): true",
        |rule| {
            list(rule, "backendRefs").is_empty()
                || !list(rule, "filters").iter().any(|filter| has(filter, "requestRedirect"))
        },
    ),
    prefix!("requestRedirect", own_prefix, "(has(self.filters) && self.filters", ")"),
    prefix!("urlRewrite", own_prefix, "(has(self.filters) && self.filters", ")"),
    prefix!(
        "requestRedirect",
        backend_prefix,
        "(has(self.backendRefs) && self.backendRefs.exists_one(b, (has(b.filters) && b.filters",
        ") ))"
    ),
    prefix!(
        "urlRewrite",
        backend_prefix,
        "(has(self.backendRefs) && self.backendRefs.exists_one(b, (has(b.filters) && b.filters",
        ") ))"
    ),
    (
        "!(has(self.request) && has(self.backendRequest) && duration(self.request) != duration('0s') && \
         duration(self.backendRequest) > duration(self.request))",
        |timeouts| match (string(timeouts, "request"), string(timeouts, "backendRequest")) {
            (Some(whole), Some(part)) => {
                let whole = milliseconds(whole);
                whole == 0 || milliseconds(part) <= whole
            }
            _ => true,
        },
    ),
    ("has(self.type) ? has(self.service) || has(self.method) : true", |method| {
        !has(method, "type") || has(method, "service") || has(method, "method")
    }),
    (
        "(!has(self.type) || self.type == 'Exact') && has(self.service) ? \
         self.service.matches(r\"\"\"^(?i)\\.?[a-z_][a-z_0-9]*(\\.[a-z_][a-z_0-9]*)*$\"\"\"): true",
        |method| {
            exactly(method, "service", |service| {
                service.strip_prefix('.').unwrap_or(service).split('.').all(|part| identifier(part, any_case))
            })
        },
    ),
    (
        "(!has(self.type) || self.type == 'Exact') && has(self.method) ? \
         self.method.matches(r\"\"\"^[A-Za-z_][A-Za-z_0-9]*$\"\"\"): true",
        |method| exactly(method, "method", |name| identifier(name, |letter| letter.is_ascii_alphabetic())),
    ),
]];
