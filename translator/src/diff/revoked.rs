//! References into other namespaces that were permitted before and are not any more: somebody took a ReferenceGrant away.
//!
//! In Envoy's configuration this looks like any backend that is gone. It is told apart because it is meant: nobody should
//! have to find out by the errors that follow.

use super::{Change, FleetDiff, Kind, Side};
use crate::compile::Compilation;
use crate::xds::{ROUTE_TYPE, XdsError, json};
use moorgate_model::diagnostic::semantic::REF_NOT_PERMITTED;
use moorgate_model::{Node, ObjectRef};
use moorgate_snapshot::{Binding, BindingSource, Record, Template};
use serde_json::Value;

/// A reference that no grant permits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The object that refers.
    pub by: ObjectRef,
    /// What it refers to, whether it is there or not.
    pub to: ObjectRef,
}

/// The references of a compiled source that no grant permits, sorted.
pub fn refusals(compilation: &Compilation) -> Vec<Refusal> {
    let refused = compilation.diagnostics.iter().filter(|found| found.code.id == REF_NOT_PERMITTED.id);
    let mut all: Vec<Refusal> = refused
        .filter_map(|found| {
            let by = found.object.clone()?;
            let object = compilation.objects.iter().find(|object| object.reference == by)?;
            let reference = object.root.at(&found.field)?;
            let text = |key: &str| reference.get(key).and_then(Node::as_str);
            let to = ObjectRef::new(
                text("group").unwrap_or_default(),
                text("kind").unwrap_or("Service"),
                text("namespace")?,
                text("name")?,
            );
            Some(Refusal { by, to })
        })
        .collect();
    all.sort();
    all.dedup();
    all
}

/// Puts those refusals before the other differences of a fleet that it did not have before.
///
/// # Errors
/// A record that is no valid Envoy message.
pub fn mark(fleets: &mut [FleetDiff], before: &Side, refusals: &[Refusal]) -> Result<(), XdsError> {
    for fleet in fleets {
        let Some((_, records)) = before.get(&fleet.fleet) else { continue };
        let mut revoked = Vec::new();
        for refusal in refusals {
            if used(records, refusal)? {
                let name = format!("{} to {} (revoked)", refusal.by, refusal.to);
                revoked.push(Change { kind: Kind::Revoked, what: "grant", name, fields: Vec::new() });
            }
        }
        fleet.changes.splice(0..0, revoked);
    }
    Ok(())
}

/// Whether a fleet used a reference. Routes of requests are known by their names; what else refers is known by what a fleet
/// asks its relay for.
fn used(records: &[Record], Refusal { by, to }: &Refusal) -> Result<bool, XdsError> {
    if !matches!(&*by.kind, "HTTPRoute" | "GRPCRoute") {
        return Ok(records
            .iter()
            .any(|record| matches!(record, Record::Binding(binding) if binds(binding, to))));
    }
    let route = format!("{}/{}/{}", by.kind.to_ascii_lowercase(), by.namespace, by.name);
    let named = |value: &Value| {
        let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
        name == route || name.strip_prefix(&route).is_some_and(|rest| rest.starts_with('/'))
    };
    let of_kind = if &*to.kind == "XBackend" { "XBackend=" } else { "" };
    let cluster = format!("\"{}/{of_kind}{}/", to.namespace, to.name);
    for record in records {
        let Record::Resource(resource) = record else { continue };
        if &*resource.type_url != ROUTE_TYPE {
            continue;
        }
        let table = json::message(ROUTE_TYPE, &resource.bytes)?;
        let hosts = table.get("virtualHosts").and_then(Value::as_array).into_iter().flatten();
        let mut routes = hosts.filter_map(|host| host.get("routes")?.as_array()).flatten();
        if routes.any(|found| named(found) && found.to_string().contains(&cluster)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn binds(binding: &Binding, to: &ObjectRef) -> bool {
    match &binding.source {
        BindingSource::Object { kind, namespace, name } => {
            (&**kind, &**namespace, &**name) == (&*to.kind, &*to.namespace, &*to.name)
        }
        BindingSource::Template(Template { objects: sources, .. }) | BindingSource::Objects(sources) => {
            sources.iter().any(|source| {
                (&*source.kind, &*source.namespace, &*source.name) == (&*to.kind, &*to.namespace, &*to.name)
            })
        }
        BindingSource::Endpoints(sources) | BindingSource::Zoned(sources, _) => {
            let service = |service: &str| service == &*to.name && &*to.kind == "Service";
            sources.iter().any(|source| *source.namespace == *to.namespace && service(&source.service))
        }
    }
}
