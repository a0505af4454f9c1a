//! Where each route and cluster was written: signed beside the manifest, so that history answers without the sources.

use super::{Compilation, CompiledFleet};
use moorgate_model::ir::{Action, Route};
use moorgate_model::{FieldPath, Object, ObjectRef};
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Compilation {
    /// Origins of a fleet's routes and the objects they came from: file, line, object and rule.
    pub fn origins(&self, fleet: &CompiledFleet) -> Value {
        let objects: BTreeMap<&ObjectRef, &Object> =
            self.objects.iter().map(|object| (&object.reference, object)).collect();
        let mut routes = Vec::new();
        for chain in fleet.ir.listeners.values().flat_map(|listener| &listener.chains) {
            for host in &chain.routes.hosts {
                routes.extend(
                    host.routes
                        .iter()
                        .map(|route| route_origin(&objects, &chain.routes.name, &host.name, route)),
                );
            }
        }
        json!({ "format_version": 1, "routes": routes })
    }

    /// The place of an object's field, as `file:line:column`.
    pub fn place(&self, object: &ObjectRef, field: &FieldPath) -> Option<String> {
        let object = self.objects.iter().find(|candidate| candidate.reference == *object)?;
        let start = object.root.locate(field).start;
        Some(format!("{}:{}:{}", object.origin.file, start.line, start.column))
    }
}

fn route_origin(objects: &BTreeMap<&ObjectRef, &Object>, table: &str, host: &str, route: &Route) -> Value {
    let origin = &route.origin;
    let field = FieldPath::root().key("spec").key("rules").index(origin.rule);
    let object = objects.get(&origin.object);
    let clusters: Vec<&str> = match &route.action {
        Action::Forward(forward) => {
            forward.backends.iter().filter_map(|backend| backend.cluster.as_deref()).collect()
        }
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    };
    json!({
        "table": table,
        "host": host,
        "object": origin.object,
        "rule": origin.rule,
        "match": origin.matched,
        "file": object.map(|object| &object.origin.file),
        "line": object.map(|object| object.root.locate(&field).start.line),
        "rendered_from": object.and_then(|object| object.origin.rendered_from.as_ref()),
        "clusters": clusters,
    })
}
