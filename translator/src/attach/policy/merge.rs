//! Merging a policy with one of a wider scope (`mergeType`).

use super::held::Merge;
use moorgate_model::{Entry, Mapping, Node, Object, Value};

/// Lists that a strategic merge joins, by the field that tells their items apart (`patchMergeKey` in the API's types).
const KEYED: [(&str, &str); 9] = [
    ("compression", "type"),
    ("compressor", "type"),
    ("contextExtensions", "name"),
    ("env", "name"),
    ("httpUpgrade", "type"),
    ("imagePullSecrets", "name"),
    ("initContainers", "name"),
    ("volumeMounts", "mountPath"),
    ("volumes", "name"),
];

/// The narrow policy with what it does not say taken from the wide one. To whom it speaks is its own matter.
pub(crate) fn merged_object(narrow: &Object, wide: &Object, how: Option<Merge>) -> Object {
    let mut object = narrow.clone();
    let (Some(own), Some(other)) = (narrow.root.get("spec"), wide.root.get("spec")) else { return object };
    let mut base = other.clone();
    if let Value::Mapping(fields) = &mut base.value {
        for key in ["targetRef", "targetRefs", "targetSelectors", "mergeType"] {
            fields.remove(key);
        }
    }
    if narrow.reference.namespace != wide.reference.namespace {
        stay(&mut base, &wide.reference.namespace);
    }
    let spec = merged(&base, own, how == Some(Merge::Strategic));
    if let Value::Mapping(root) = &mut object.root.value
        && let Some(place) = root.get_mut("spec")
    {
        *place = spec;
    }
    object
}

/// References of the wide policy keep meaning its own namespace.
fn stay(node: &mut Node, namespace: &str) {
    let span = node.span;
    match &mut node.value {
        Value::Sequence(items) => items.iter_mut().for_each(|item| stay(item, namespace)),
        Value::Mapping(fields) => {
            let refers = fields.get("name").is_some()
                && (fields.get("kind").is_some() || fields.get("port").is_some());
            if refers && fields.get("namespace").is_none() {
                let value = Node::new(Value::String(namespace.into()), span);
                // The name is free: it was just looked for.
                let _ = fields.insert(Entry { key: "namespace".into(), key_span: span, value });
            }
            // Manifests of an EnvoyProxy refer to nothing beyond their namespace.
            let entries = fields.entries_mut().iter_mut().filter(|entry| &*entry.key != "kubernetes");
            entries.for_each(|entry| stay(&mut entry.value, namespace));
        }
        _ => {}
    }
}

fn merged(base: &Node, own: &Node, strategic: bool) -> Node {
    let (Some(below), Some(above)) = (base.as_mapping(), own.as_mapping()) else { return own.clone() };
    let mut out = Mapping::default();
    let put = |out: &mut Mapping, entry: &Entry, value: Node| {
        // Each name is put once.
        let _ = out.insert(Entry { key: entry.key.clone(), key_span: entry.key_span, value });
    };
    for entry in below.entries() {
        match above.entry(&entry.key) {
            None => put(&mut out, entry, entry.value.clone()),
            Some(own) if matches!(own.value.value, Value::Null) => {}
            Some(own) => {
                let key = KEYED.iter().find(|(list, _)| **list == *entry.key).filter(|_| strategic);
                let lists = entry.value.as_sequence().zip(own.value.as_sequence());
                let value = match (key, lists) {
                    (Some((_, key)), Some((below, above))) => {
                        Node::new(Value::Sequence(joined(below, above, key, strategic)), own.value.span)
                    }
                    _ => merged(&entry.value, &own.value, strategic),
                };
                put(&mut out, own, value);
            }
        }
    }
    for entry in above.entries().iter().filter(|entry| below.get(&entry.key).is_none()) {
        if !matches!(entry.value.value, Value::Null) {
            put(&mut out, entry, entry.value.clone());
        }
    }
    Node::new(Value::Mapping(out), own.span)
}

/// Two lists, whose items are the same if their key is. As API servers do it, those of the narrower list come first, but for
/// what stood before one of them in the wider list: of compressors the first is preferred.
fn joined(below: &[Node], above: &[Node], key: &str, strategic: bool) -> Vec<Node> {
    let name = |node: &Node| node.get(key).and_then(Node::as_str).map(str::to_owned);
    let place = |node: &Node| below.iter().position(|item| name(item) == name(node));
    let mut rest = below.iter().filter(|item| above.iter().all(|own| name(own) != name(item))).peekable();
    let mut out = Vec::with_capacity(below.len() + above.len());
    for own in above {
        let at = place(own);
        while let Some(item) = rest.next_if(|item| at.is_some() && place(item) < at) {
            out.push(item.clone());
        }
        let base = at.and_then(|at| below.get(at));
        out.push(base.map_or_else(|| own.clone(), |base| merged(base, own, strategic)));
    }
    out.extend(rest.cloned());
    out
}
