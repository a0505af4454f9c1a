//! What a comparison with a real API server has shown; the suite `differential` compares much more.

use super::{lines, one};
use crate::validate::{Channel, Options};
use serde_json::{Value as Json, json};

fn said(object: &Json) -> Vec<String> {
    let options = Options { channel: Channel::Experimental, namespace: None };
    let (accepted, diagnostics) = one(object, &options);
    assert_eq!(accepted.is_some(), diagnostics.is_empty());
    lines(&diagnostics)
}

fn class(metadata: &Json) -> Json {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": metadata,
        "spec": { "controllerName": "example.com/a" },
    })
}

#[test]
fn a_namespace_of_what_lives_in_none_is_dropped_unread() {
    assert_eq!(said(&class(&json!({ "name": "a", "namespace": "A." }))), Vec::<String>::new());
    assert_eq!(said(&class(&json!({ "name": "a", "namespace": 1 }))).len(), 1);
}

#[test]
fn metadata_that_controllers_write_has_types_too() {
    let with = |field: &str, value: Json| {
        let mut metadata = json!({ "name": "a" });
        metadata[field] = value;
        said(&class(&metadata))
    };
    assert_eq!(
        with("uid", json!(1)),
        [r#"MG2001 metadata.uid: Invalid value: "integer": must be of type string"#]
    );
    assert!(
        with("ownerReferences", json!([{}]))[0].starts_with("MG2004 metadata.ownerReferences[0].apiVersion")
    );
    assert_eq!(with("creationTimestamp", Json::Null), Vec::<String>::new());
}

/// Of `status` the API server looks at names only, and then drops it.
#[test]
fn unknown_fields_of_status_are_refused_and_its_values_are_not() {
    let with = |status: Json| {
        let mut object = class(&json!({ "name": "a" }));
        object["status"] = status;
        said(&object)
    };
    for fine in [
        json!({ "conditions": [{ "type": 1, "status": null }], "supportedFeatures": "none" }),
        json!({ "conditions": [null] }),
        json!("done"),
        Json::Null,
    ] {
        assert_eq!(with(fine), Vec::<String>::new());
    }
    for (wrong, field) in [
        (json!({ "odd": 1 }), "status.odd"),
        (json!({ "conditions": [{ "odd": 1 }] }), "status.conditions[0].odd"),
    ] {
        let found = with(wrong);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("MG2002 {field}: ")), "{found:?}");
    }
}
