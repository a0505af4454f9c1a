//! The translator's validation against what the Gateway API's project publishes as valid and invalid.
//!
//! The files come from the Go modules that the schemas come from; they are downloaded if they are not in Go's cache.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use moorgate::validate::{Channel, Options, validate};
use moorgate_model::origin::Position;
use moorgate_model::{Entry, Mapping, Node, Object, ObjectRef, Origin, Span, Value};
use moorgate_tests::distil::crds;
use moorgate_tests::manifest::files;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// What to expect of a file.
struct Case {
    file: PathBuf,
    channel: Channel,
}

/// The files of both channels below a folder.
fn cases(folder: &Path) -> Vec<Case> {
    [(Channel::Standard, "standard"), (Channel::Experimental, "experimental")]
        .into_iter()
        .flat_map(|(channel, name)| {
            files(&folder.join(name)).unwrap().into_iter().map(move |file| Case { file, channel })
        })
        .collect()
}

fn node(value: &Json) -> Node {
    let value = match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap()), Value::Int)
        }
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(items) => Value::Sequence(items.iter().map(node).collect()),
        Json::Object(fields) => {
            let mut mapping = Mapping::default();
            for (key, value) in fields {
                let entry = Entry { key: key.as_str().into(), key_span: Span::default(), value: node(value) };
                mapping.insert(entry).unwrap();
            }
            Value::Mapping(mapping)
        }
    };
    Node::new(value, Span::default())
}

/// The objects of a file. The conformance suite's names for things that each run chooses are filled in.
fn objects(file: &Path) -> Vec<Object> {
    let filled = [
        ("{GATEWAY_CLASS_NAME}", "moorgate"),
        ("{GATEWAY_CONTROLLER_NAME}", "moorgate.dev/gateway-controller"),
        ("PLACEHOLDER_UNUSABLE_ADDRS", "192.0.2.1"),
        ("PLACEHOLDER_USABLE_ADDRS", "192.0.2.2"),
    ];
    let text =
        filled.iter().fold(std::fs::read_to_string(file).unwrap(), |text, (from, to)| text.replace(from, to));
    let mut objects = Vec::new();
    for document in yaml_serde::Deserializer::from_str(&text) {
        let value: Json = serde::Deserialize::deserialize(document).unwrap();
        if value.is_null() {
            continue;
        }
        let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let api = text(&value["apiVersion"]);
        let (group, version) = api.split_once('/').unwrap_or(("", &api));
        let metadata = &value["metadata"];
        let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
        let origin = Origin {
            file: file.display().to_string().into(),
            start: Position { line: 1, column: 1 },
            rendered_from: None,
        };
        objects.push(Object {
            reference: ObjectRef::new(group, &text(&value["kind"]), &namespace, &name),
            version: version.into(),
            origin,
            root: node(&value),
        });
    }
    objects
}

/// What is said about a file; empty if all of it is accepted.
fn refusals(case: &Case) -> Vec<String> {
    let options = Options { channel: case.channel, namespace: Some("default".into()) };
    let objects = objects(&case.file);
    assert!(!objects.is_empty(), "{} holds nothing", case.file.display());
    let count = objects.len();
    let (accepted, diagnostics) = validate(objects, &options);
    assert_eq!(accepted.len() < count, diagnostics.has_errors(), "{}", case.file.display());
    diagnostics
        .iter()
        .filter(|found| found.severity == moorgate_model::Severity::Error)
        .map(|found| format!("{} {}: {}", found.code.id, found.field, found.message))
        .collect()
}

fn module(path: &str) -> PathBuf {
    crds::module(path, crds::VERSION).unwrap().dir
}

fn all_accepted(cases: &[Case], at_least: usize) {
    assert!(cases.len() >= at_least, "{} files", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .map(|case| (case, refusals(case)))
        .filter(|(_, refusals)| !refusals.is_empty())
        .map(|(case, refusals)| format!("{}\n  {}", case.file.display(), refusals.join("\n  ")))
        .collect();
    assert!(wrong.is_empty(), "refused:\n{}", wrong.join("\n"));
}

#[test]
fn the_checked_in_schemas_are_what_the_module_publishes() {
    let checked_in = [
        include_str!("../../translator/data/gateway-api.json"),
        include_str!("../../translator/data/envoy-gateway.json"),
    ];
    for (source, checked_in) in crds::SOURCES.into_iter().zip(checked_in) {
        let distilled = crds::distil(source, &crds::module(source.module, source.version).unwrap()).unwrap();
        assert!(distilled == checked_in, "run: cargo run -p moorgate-tests --bin distil-crds");
    }
}

#[test]
fn the_projects_examples_are_accepted() {
    all_accepted(&cases(&module(crds::MODULE).join("examples")), 85);
}

#[test]
fn the_projects_invalid_examples_are_refused() {
    let cases = cases(&module(crds::MODULE).join("hack/invalid-examples"));
    assert!(cases.len() >= 34, "{} files", cases.len());
    let accepted: Vec<&Path> =
        cases.iter().filter(|case| refusals(case).is_empty()).map(|case| case.file.as_path()).collect();
    assert!(accepted.is_empty(), "accepted: {accepted:?}");
}

/// The conformance suite applies its manifests to an API server, so each is valid, however wrong in other ways.
#[test]
fn the_conformance_suites_manifests_are_accepted() {
    let folder = module("sigs.k8s.io/gateway-api/conformance");
    let cases: Vec<Case> = ["base", "mesh", "tests"]
        .into_iter()
        .flat_map(|name| files(&folder.join(name)).unwrap())
        .map(|file| Case { file, channel: Channel::Experimental })
        .collect();
    all_accepted(&cases, 140);
}
