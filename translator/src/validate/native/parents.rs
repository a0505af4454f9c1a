//! Rules of references: to parents and to backends.

use super::{NativeRule, exists_one, has, is, items, string};
use moorgate_model::{Node, Value};

/// Whether a text field is missing or empty.
fn blank(node: &Node, field: &str) -> bool {
    string(node, field).is_none_or(str::is_empty)
}

/// Whether no port is named.
fn portless(node: &Node) -> bool {
    node.get("port").is_none_or(|port| port.value == Value::Int(0))
}

/// Whether a field is left out of both, or has the same text in both.
fn agree(a: &Node, b: &Node, field: &str) -> bool {
    (blank(a, field) && blank(b, field)) || (has(a, field) && string(a, field) == string(b, field))
}

/// Whether two references name the same object.
fn same_parent(a: &Node, b: &Node) -> bool {
    string(a, "name") == string(b, "name")
        && string(a, "group") == string(b, "group")
        && string(a, "kind") == string(b, "kind")
        && agree(a, b, "namespace")
}

/// Whether two references name the same port, or none.
fn same_port(a: &Node, b: &Node) -> bool {
    let port = |node: &Node| node.get("port").and_then(Node::as_int);
    (portless(a) && portless(b)) || (port(a).is_some() && port(a) == port(b))
}

/// `self.all(p1, self.all(p2, same parent ? test : true))`.
fn each_pair(references: &Node, test: impl Fn(&Node, &Node) -> bool) -> bool {
    let references = items(references);
    references.len() < 2
        || references.iter().all(|a| references.iter().all(|b| !same_parent(a, b) || test(a, b)))
}

/// `self.all(p1, self.exists_one(p2, same parent && test))`.
fn each_unique(references: &Node, test: impl Fn(&Node, &Node) -> bool) -> bool {
    let references = items(references);
    references.len() < 2
        || references.iter().all(|a| exists_one(references, |b| same_parent(a, b) && test(a, b)))
}

/// All of them. The texts differ in blanks where the published ones do.
pub(super) const RULES: &[&[(&str, NativeRule)]] = &[&[
    (
        "self.all(p1, self.all(p2, p1.group == p2.group && p1.kind == p2.kind && p1.name == p2.name && \
         (((!has(p1.__namespace__) || p1.__namespace__ == '') && (!has(p2.__namespace__) || p2.__namespace__ == '')) \
         || (has(p1.__namespace__) && has(p2.__namespace__) && p1.__namespace__ == p2.__namespace__ )) ? \
         ((!has(p1.sectionName) || p1.sectionName == '') == (!has(p2.sectionName) || p2.sectionName == '')) : true))",
        |references| each_pair(references, |a, b| blank(a, "sectionName") == blank(b, "sectionName")),
    ),
    (
        "self.all(p1, self.all(p2, p1.group == p2.group && p1.kind == p2.kind && p1.name == p2.name && \
         (((!has(p1.__namespace__) || p1.__namespace__ == '') && (!has(p2.__namespace__) || p2.__namespace__ == '')) \
         || (has(p1.__namespace__) && has(p2.__namespace__) && p1.__namespace__ == p2.__namespace__)) ? \
         ((!has(p1.sectionName) || p1.sectionName == '') == (!has(p2.sectionName) || p2.sectionName == '') && \
         (!has(p1.port) || p1.port == 0) == (!has(p2.port) || p2.port == 0)): true))",
        |references| {
            each_pair(references, |a, b| {
                blank(a, "sectionName") == blank(b, "sectionName") && portless(a) == portless(b)
            })
        },
    ),
    (
        "self.all(p1, self.exists_one(p2, p1.group == p2.group && p1.kind == p2.kind && p1.name == p2.name && \
         (((!has(p1.__namespace__) || p1.__namespace__ == '') && (!has(p2.__namespace__) || p2.__namespace__ == '')) \
         || (has(p1.__namespace__) && has(p2.__namespace__) && p1.__namespace__ == p2.__namespace__ )) && \
         (((!has(p1.sectionName) || p1.sectionName == '') && (!has(p2.sectionName) || p2.sectionName == '')) || \
         (has(p1.sectionName) && has(p2.sectionName) && p1.sectionName == p2.sectionName))))",
        |references| each_unique(references, |a, b| agree(a, b, "sectionName")),
    ),
    (
        "self.all(p1, self.exists_one(p2, p1.group == p2.group && p1.kind == p2.kind && p1.name == p2.name && \
         (((!has(p1.__namespace__) || p1.__namespace__ == '') && (!has(p2.__namespace__) || p2.__namespace__ == '')) \
         || (has(p1.__namespace__) && has(p2.__namespace__) && p1.__namespace__ == p2.__namespace__ )) && \
         (((!has(p1.sectionName) || p1.sectionName == '') && (!has(p2.sectionName) || p2.sectionName == '')) || \
         ( has(p1.sectionName) && has(p2.sectionName) && p1.sectionName == p2.sectionName)) && (((!has(p1.port) || \
         p1.port == 0) && (!has(p2.port) || p2.port == 0)) || (has(p1.port) && has(p2.port) && p1.port == \
         p2.port))))",
        |references| each_unique(references, |a, b| agree(a, b, "sectionName") && same_port(a, b)),
    ),
    ("(size(self.group) == 0 && self.kind == 'Service') ? has(self.port) : true", |backend| {
        !(is(backend, "group", "") && is(backend, "kind", "Service")) || has(backend, "port")
    }),
    (
        "(self.group == 'gateway.networking.x-k8s.io' && self.kind == 'XBackend') ? !has(self.port) : true",
        |backend| {
            let ours = is(backend, "group", "gateway.networking.x-k8s.io") && is(backend, "kind", "XBackend");
            !ours || !has(backend, "port")
        },
    ),
]];
