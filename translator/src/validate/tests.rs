mod differential;
mod dry_run;
mod generate;
mod outcomes;
mod properties;
mod rows;

use super::bundle::{Bundle, node};
use super::{Options, validate};
use moorgate_model::origin::Position;
use moorgate_model::{Diagnostics, Object, ObjectRef, Origin};
use serde_json::{Value as Json, json};

/// An object as it would be loaded.
fn object(value: &Json) -> Object {
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let api = text(&value["apiVersion"]);
    let (group, version) = api.split_once('/').unwrap_or(("", &api));
    let metadata = &value["metadata"];
    let reference =
        ObjectRef::new(group, &text(&value["kind"]), &text(&metadata["namespace"]), &text(&metadata["name"]));
    let origin =
        Origin { file: "a.yaml".into(), start: Position { line: 1, column: 1 }, rendered_from: None };
    Object { reference, version: version.into(), origin, root: node(value) }
}

/// Validates one object.
fn one(value: &Json, options: &Options) -> (Option<Object>, Diagnostics) {
    let (mut accepted, diagnostics) = validate(vec![object(value)], options);
    (accepted.pop(), diagnostics)
}

/// A diagnostic on one line.
fn lines(diagnostics: &Diagnostics) -> Vec<String> {
    diagnostics.iter().map(|found| format!("{} {}: {}", found.code.id, found.field, found.message)).collect()
}

/// An `HTTPRoute` with a spec.
fn http_route(spec: &Json) -> Json {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "shop", "namespace": "web" }, "spec": spec,
    })
}

#[test]
fn the_data_parses_and_each_pattern_and_rule_compiles() {
    let mut rules = std::collections::BTreeSet::new();
    let (mut patterns, mut schemas) = (0, 0);
    for bundle in [Bundle::gateway_api(), Bundle::kubernetes(), Bundle::moorgate()] {
        for (path, schema) in bundle.schemas() {
            schemas += 1;
            if let Some(pattern) = &schema.pattern {
                assert!(pattern.regex().is_some(), "{path}: {}", pattern.text);
                patterns += 1;
            }
            for rule in &schema.rules {
                if let Err(error) = rule.shared().expression().program() {
                    panic!("{path}: {}: {error}", rule.text());
                }
                rules.insert(rule.text().to_owned());
            }
        }
    }
    assert!(schemas > 250 && patterns > 20, "{schemas} schemas, {patterns} patterns");
    // What stands below `status`, and transition rules, do not concern files.
    assert!(rules.len() > 110, "{} rules", rules.len());
}

#[test]
fn the_release_is_named() {
    assert_eq!(super::gateway_api_version(), "v1.7.0");
    assert_eq!(super::is_namespaced("gateway.networking.k8s.io", "GatewayClass"), Some(false));
    assert_eq!(super::is_namespaced("", "Service"), Some(true));
    assert_eq!(super::is_namespaced("apps", "Deployment"), None);
}
