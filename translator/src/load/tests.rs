//! Whole files in, objects and diagnostics out. Tests of hostile input carry the number of the row that they hold.

use super::*;
use moorgate_model::{FieldPath, Severity, Value};

mod hostile;
mod objects;
mod property;

pub(super) const ROUTE: &str =
    "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: shop\n  namespace: team\n";

pub(super) fn file(name: &str, bytes: impl AsRef<[u8]>) -> File {
    File { name: name.into(), bytes: bytes.as_ref().into() }
}

/// Loads one YAML file.
pub(super) fn yaml(text: impl AsRef<[u8]>) -> Loaded {
    load(&[file("a.yaml", text)])
}

/// `code line:column` of each diagnostic.
pub(super) fn findings(loaded: &Loaded) -> Vec<String> {
    let place = |d: &moorgate_model::Diagnostic| {
        format!("{} {}:{}", d.code.id, d.span.start.line, d.span.start.column)
    };
    loaded.diagnostics.iter().map(place).collect()
}

pub(super) fn names(loaded: &Loaded) -> Vec<String> {
    loaded.objects.iter().map(|object| object.reference.to_string()).collect()
}

/// A route with lines under `spec:`.
pub(super) fn with_spec(lines: &str) -> String {
    format!("{ROUTE}spec:\n{lines}")
}

pub(super) fn json_of(loaded: &Loaded) -> String {
    serde_json::to_string(&loaded.objects[0].root.get("spec").unwrap().to_json()).unwrap()
}
