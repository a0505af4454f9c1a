//! What holds for every object, however odd.

use super::generate::{Chance, value};
use super::node;
use crate::validate::bundle::Bundle;
use crate::validate::schema::same;
use crate::validate::{Channel, Options, validate};
use moorgate_model::origin::Position;
use moorgate_model::{Entry, Node, Object, ObjectRef, Origin, Span, Value};
use proptest::prelude::*;
use serde_json::json;

/// Every kind and version that is checked.
fn kinds() -> Vec<(String, String, String)> {
    let mut kinds = Vec::new();
    for bundle in [Bundle::gateway_api(), Bundle::kubernetes()] {
        for group in bundle.groups() {
            for (kind, known) in bundle.kinds(group).into_iter().flatten() {
                for version in known.served(Channel::Experimental) {
                    kinds.push((group.to_owned(), kind.to_string(), version.to_string()));
                }
            }
        }
    }
    kinds
}

/// An object of a kind, made by chance after its schema.
fn made(group: &str, kind: &str, version: &str, chance: &mut Chance) -> Object {
    let bundle = if group.starts_with("gateway.") { Bundle::gateway_api() } else { Bundle::kubernetes() };
    let schema = bundle.kind(group, kind).unwrap().schema(Channel::Experimental, version).unwrap();
    let mut root = value(schema, chance);
    if let Value::Mapping(fields) = &mut root.value {
        fields.remove("metadata");
        let metadata = node(&json!({ "name": "a", "namespace": "b" }));
        fields.insert(Entry { key: "metadata".into(), key_span: Span::default(), value: metadata }).unwrap();
    }
    let origin =
        Origin { file: "a.yaml".into(), start: Position { line: 1, column: 1 }, rendered_from: None };
    Object { reference: ObjectRef::new(group, kind, "b", "a"), version: version.into(), origin, root }
}

/// Puts something else somewhere.
fn spoil(node: &mut Node, chance: &mut Chance) {
    let odd = [
        Value::Null,
        Value::Bool(true),
        Value::Int(-1),
        Value::Int(i64::MAX),
        Value::Float(f64::NAN),
        Value::Float(80.0),
        Value::String("\u{0}\u{430}".into()),
        Value::Sequence(Vec::new()),
        Value::Mapping(moorgate_model::Mapping::default()),
    ];
    let odd = odd[chance.below(odd.len())].clone();
    match &mut node.value {
        Value::Mapping(fields) if !fields.is_empty() && !chance.once_in(6) => {
            let index = chance.below(fields.len());
            spoil(&mut fields.entries_mut()[index].value, chance);
        }
        Value::Sequence(items) if !items.is_empty() && !chance.once_in(6) => {
            let index = chance.below(items.len());
            spoil(&mut items[index], chance);
        }
        Value::Mapping(fields) if chance.once_in(2) => {
            let _ = fields.insert(Entry {
                key: "odd".into(),
                key_span: Span::default(),
                value: Node::new(odd, Span::default()),
            });
        }
        value => *value = odd,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// What is accepted is accepted again, unchanged: defaults are complete, and themselves valid.
    #[test]
    fn accepted_objects_stay_as_they_are(seed in any::<u64>(), index in any::<prop::sample::Index>()) {
        let kinds = kinds();
        let (group, kind, version) = index.get(&kinds);
        let options = Options { channel: Channel::Experimental, namespace: None };
        let object = made(group, kind, version, &mut Chance(seed));
        let (mut first, _) = validate(vec![object], &options);
        for object in &mut first {
            // An alpha version may allow more than the version that it is handled as.
            object.version = version.as_str().into();
        }
        let (second, diagnostics) = validate(first.clone(), &options);
        prop_assert!(!diagnostics.has_errors(), "{diagnostics:?}");
        prop_assert_eq!(first.len(), second.len());
        for (a, b) in first.iter().zip(&second) {
            prop_assert!(same(&a.root, &b.root));
        }
    }

    /// Nothing makes the walk fail, and an object is refused exactly if something is said about it.
    #[test]
    fn spoilt_objects_are_refused_with_a_reason(seed in any::<u64>(), index in any::<prop::sample::Index>()) {
        let kinds = kinds();
        let (group, kind, version) = index.get(&kinds);
        let mut chance = Chance(seed);
        let mut object = made(group, kind, version, &mut chance);
        for _ in 0..=chance.below(3) {
            spoil(&mut object.root, &mut chance);
        }
        for channel in [Channel::Standard, Channel::Experimental] {
            let (accepted, diagnostics) = validate(vec![object.clone()], &Options { channel, namespace: None });
            prop_assert_eq!(accepted.is_empty(), diagnostics.has_errors(), "{:?}", diagnostics);
            for found in &diagnostics {
                prop_assert!(!found.message.is_empty());
            }
        }
    }
}
