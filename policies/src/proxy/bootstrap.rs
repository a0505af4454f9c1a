//! A user's own bootstrap (EnvoyProxy `bootstrap`). Whether it can be used is checked where bootstraps are made.

use moorgate_model::Node;
use moorgate_model::ir::{BootstrapPatch, OwnBootstrap};

/// What stands in the field; nothing if it says nothing.
pub fn read(spec: &Node) -> Option<OwnBootstrap> {
    let text = |field: &str| spec.get(field).and_then(Node::as_str);
    match text("type") {
        Some("JSONPatch") => {
            let patches = spec.get("jsonPatches").and_then(Node::as_sequence).unwrap_or_default();
            Some(OwnBootstrap::Patch(patches.iter().map(patch).collect()))
        }
        Some("Merge") => text("value").map(|value| OwnBootstrap::Merge(value.to_owned())),
        // The schema's default.
        None | Some(_) => text("value").map(|value| OwnBootstrap::Replace(value.to_owned())),
    }
}

fn patch(written: &Node) -> BootstrapPatch {
    let text = |field: &str| written.get(field).and_then(Node::as_str).map(str::to_owned);
    BootstrapPatch {
        op: text("op").unwrap_or_default(),
        path: text("path"),
        json_path: text("jsonPath"),
        from: text("from"),
        // A node always has JSON.
        value: written.get("value").and_then(|value| serde_json::to_string(&value.to_json()).ok()),
    }
}
