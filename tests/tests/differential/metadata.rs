//! Names, labels and annotations, and what controllers write: what no definition describes.

use super::generate::Maker;
use serde_json::{Value, json};

fn long(length: usize) -> String {
    "a".repeat(length)
}

fn names() -> Vec<Value> {
    vec![
        json!("a.b"),
        json!("A"),
        json!("a_b"),
        json!(""),
        json!("-a"),
        json!("a."),
        json!("1a"),
        json!(1),
        json!(long(63)),
        json!(long(64)),
        json!(long(253)),
        json!(long(254)),
        Value::Null,
        json!("a..b"),
        json!("\u{e9}"),
        json!(["a"]),
        json!("a/b"),
        json!("a%2fb"),
        json!(".."),
    ]
}

fn namespaces() -> Vec<Value> {
    vec![json!(""), Value::Null, json!("A"), json!("a.b"), json!(1), json!(long(64)), json!("-"), json!({})]
}

/// Labels and annotations.
fn maps() -> Vec<Value> {
    vec![
        json!({ "a": "b" }),
        json!({ "A": "B" }),
        json!({ "a/b": "c" }),
        json!({ "a/b/c": "" }),
        json!({ "": "" }),
        json!({ "A.b/c": "" }),
        json!({ "a": "" }),
        json!({ "a": null }),
        json!({ "a": 1 }),
        json!({ "a": true }),
        json!({ "a": long(63) }),
        json!({ "a": long(64) }),
        json!({ "a": "-" }),
        json!({ "a": "a b" }),
        json!({ long(63): "" }),
        json!({ long(64): "" }),
        json!({ "-a": "" }),
        json!({ "a_b.c-d": "a_b.c-d" }),
        json!({ format!("{}/a", long(253)): "" }),
        json!({ format!("{}/a", long(254)): "" }),
        json!({ "a": {} }),
        json!({ "a": "\u{e9}" }),
        json!({ "\u{e9}": "a" }),
        json!([]),
        Value::Null,
        json!("a"),
        json!({}),
        json!({ "a": "x\ny" }),
        json!({ "a/": "x" }),
        json!({ "/a": "x" }),
        json!({ "a b": "x" }),
    ]
}

/// What the API server and controllers write.
fn others() -> Vec<(&'static str, Value)> {
    vec![
        ("unknown", json!("a")),
        ("Name", json!("a")),
        ("label", json!({})),
        ("uid", json!("a")),
        ("uid", json!(1)),
        ("generation", json!(5)),
        ("generation", json!("5")),
        ("creationTimestamp", Value::Null),
        ("creationTimestamp", json!("2026-01-31T12:00:00Z")),
        ("creationTimestamp", json!("yesterday")),
        ("finalizers", json!([])),
        ("finalizers", json!(["example.com/a"])),
        ("finalizers", json!(["a"])),
        ("finalizers", json!("a")),
        ("ownerReferences", json!([])),
        ("ownerReferences", json!([{}])),
        ("ownerReferences", json!([{ "apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b" }])),
        (
            "ownerReferences",
            json!([{ "apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "b", "odd": 1 }]),
        ),
        ("managedFields", json!([])),
        ("selfLink", json!("/a")),
        ("deletionGracePeriodSeconds", json!(3)),
        ("resourceVersion", json!(1)),
        ("generateName", json!("a-")),
    ]
}

/// Changes a field; which.
pub(crate) fn change(maker: &mut Maker, object: &mut Value) -> String {
    let (field, value) = match maker.below(7) {
        0 | 1 => ("name", maker.pick(&names()).clone()),
        2 => ("namespace", maker.pick(&namespaces()).clone()),
        3 => ("labels", maker.pick(&maps()).clone()),
        4 => ("annotations", maker.pick(&maps()).clone()),
        _ => maker.pick(&others()).clone(),
    };
    object["metadata"][field] = value;
    format!("metadata.{field}")
}
