//! Native checks for the rules that most objects meet: those of routes and listeners.
//!
//! Each check is keyed by the exact text that the Gateway API publishes. A text that changes in a new release no longer
//! finds its check, and the library evaluates it: slower, never wrong. That a check says the same as its text is tested
//! on thousands of values. Checks may rely on what the schema around the rule demands: a rule is evaluated on values
//! that are structurally valid and have their defaults.

mod filters;
mod listeners;
mod parents;
mod paths;
mod routes;

use moorgate_model::Node;

/// Says whether a rule holds for a value.
pub(crate) type NativeRule = fn(&Node) -> bool;

/// The check of a rule's text.
pub(crate) fn find(text: &str) -> Option<NativeRule> {
    all().find(|(known, _)| *known == text).map(|(_, rule)| rule)
}

/// Every rule that has a check.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, NativeRule)> {
    let rooms = [filters::RULES, listeners::RULES, parents::RULES, paths::RULES, routes::RULES];
    rooms.into_iter().flatten().copied().flatten().copied()
}

/// `has(node.field)`.
fn has(node: &Node, field: &str) -> bool {
    node.get(field).is_some()
}

/// `node.field == text`.
fn is(node: &Node, field: &str, text: &str) -> bool {
    string(node, field) == Some(text)
}

/// A field that is text.
fn string<'a>(node: &'a Node, field: &str) -> Option<&'a str> {
    node.get(field)?.as_str()
}

/// The items of a list; none if it is something else.
fn items(node: &Node) -> &[Node] {
    node.as_sequence().unwrap_or_default()
}

/// The items of a list that is a field; none if there is no such field.
fn list<'a>(node: &'a Node, field: &str) -> &'a [Node] {
    node.get(field).map(items).unwrap_or_default()
}

/// `items.exists_one(item, test)`.
fn exists_one<'a>(items: impl IntoIterator<Item = &'a Node>, mut test: impl FnMut(&'a Node) -> bool) -> bool {
    let mut found = items.into_iter().filter(|item| test(item));
    found.next().is_some() && found.next().is_none()
}
