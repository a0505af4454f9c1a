//! Keeping secrets out of memory, messages and quoted lines.

use moorgate_model::{Mapping, Node, Value};

/// The parts of a Secret that are public: certificates.
const PUBLIC: [&str; 2] = ["tls.crt", "ca.crt"];
/// Where `kubectl apply` keeps a copy of the whole object, data included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Empties every value of a Secret that is not public. Done as soon as it is known that a document is a Secret, so
/// that no later step, message or report can show one: only whether a key is there matters, as values are bound by
/// the relay.
pub(super) fn blank_secret(root: &mut Mapping) {
    for field in ["data", "stringData"] {
        match root.get_mut(field).map(|node| &mut node.value) {
            Some(Value::Mapping(values)) => {
                for entry in values.entries_mut() {
                    if !PUBLIC.contains(&&*entry.key) {
                        blank(&mut entry.value);
                    }
                }
            }
            Some(other) => blank_value(other),
            None => {}
        }
    }
    let annotations = root.get_mut("metadata").and_then(|node| match &mut node.value {
        Value::Mapping(fields) => fields.get_mut("annotations"),
        _ => None,
    });
    if let Some(Node { value: Value::Mapping(annotations), .. }) = annotations
        && let Some(copy) = annotations.get_mut(LAST_APPLIED)
    {
        blank(copy);
    }
}

fn blank(node: &mut Node) {
    blank_value(&mut node.value);
}

/// The type stays, so that a wrong one is still reported; what was written goes.
fn blank_value(value: &mut Value) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Int(number) => *number = 0,
        Value::Float(number) => *number = 0.0,
        Value::String(text) => *text = Box::default(),
        Value::Sequence(items) => items.iter_mut().for_each(blank),
        Value::Mapping(fields) => fields.entries_mut().iter_mut().for_each(|entry| blank(&mut entry.value)),
    }
}

/// True if a text that could not be read may hold a Secret, or a private key outside of one. Rather one line too few
/// is quoted than one too many.
pub(super) fn may_hold_secret(text: &str) -> bool {
    text.contains("PRIVATE KEY")
        || (text.contains("Secret") && text.contains("kind"))
        || text.contains("stringData")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_documents_that_may_be_secrets_are_told_apart() {
        assert!(may_hold_secret("{\"kind\" : \"Secret\", \"data\": {"));
        assert!(may_hold_secret("kind:   'Secret'\ndata: [\n"));
        assert!(may_hold_secret("-----BEGIN EC PRIVATE KEY-----"));
        assert!(!may_hold_secret("kind: HTTPRoute\nspec: [\n"));
    }
}
