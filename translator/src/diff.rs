//! The effective difference of two configurations: what Envoy will do otherwise.
//!
//! Works on records, so that sources, revisions, snapshots and channels compare alike. Values of headers and bodies
//! show as digests unless asked for, because a diff is pasted where everybody reads it.

mod markdown;
mod redact;
mod revoked;
mod routes;
mod starts;
mod template;
mod text;
mod tree;

pub use markdown::markdown;
pub use revoked::{Refusal, mark, refusals};
pub use starts::{Starts, starts};
pub use text::text;

use crate::xds::{XdsError, json};
use moorgate_snapshot::record::MODULE_TYPE;
use moorgate_snapshot::{
    Binding, BindingSource, Digest, EndpointSource, FleetName, ObjectSource, Record, Resource,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One side: the records of each fleet, with the snapshot they make.
pub type Side = BTreeMap<FleetName, (Digest, Vec<Record>)>;

/// What happened to something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is there on both sides, and differs.
    Changed,
    /// A route is there, but an earlier one of the same match now answers all of its requests.
    Shadowed,
    /// A reference into another namespace was permitted, and is not any more.
    Revoked,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What happened.
    pub kind: Kind,
    /// `bootstrap`, `grant`, `listener`, `host`, `route`, `cluster`, `endpoints`, `secret`, `trust-bundle`, `rate-limit` or `resource`.
    pub what: &'static str,
    /// Its name; a route's is `table host match`, a grant's who may not use what.
    pub name: String,
    /// The fields that differ, if it changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// The way to it in Envoy's own JSON.
    pub field: String,
    /// The value before, if there was one.
    pub before: Option<Value>,
    /// The value after, if there is one.
    pub after: Option<Value>,
}

/// The differences of one fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FleetDiff {
    /// The fleet.
    pub fleet: FleetName,
    /// The snapshot before, if the fleet was there.
    pub before: Option<Digest>,
    /// The snapshot after, if the fleet is there.
    pub after: Option<Digest>,
    /// All differences: by what and name.
    pub changes: Vec<Change>,
}

/// Compares two sides; fleets without a difference are left out.
///
/// # Errors
/// A record that is no valid Envoy message.
pub fn diff(before: &Side, after: &Side, show_values: bool) -> Result<Vec<FleetDiff>, XdsError> {
    let fleets: BTreeSet<&FleetName> = before.keys().chain(after.keys()).collect();
    let mut out = Vec::new();
    for fleet in fleets {
        let (old, new) = (before.get(fleet), after.get(fleet));
        let id = |side: Option<&(Digest, Vec<Record>)>| side.map(|(id, _)| *id);
        if id(old) == id(new) {
            continue;
        }
        let none = Vec::new();
        let records = |side: Option<&'_ (Digest, Vec<Record>)>| {
            side.map_or(none.clone(), |(_, records)| records.clone())
        };
        let mut changes = compare(&records(old), &records(new))?;
        if !show_values {
            changes.iter_mut().flat_map(|change| &mut change.fields).for_each(redact::redact);
        }
        out.push(FleetDiff { fleet: fleet.clone(), before: id(old), after: id(new), changes });
    }
    Ok(out)
}

type Name<'r> = (&'r str, &'r str, &'r str);

fn compare(before: &[Record], after: &[Record]) -> Result<Vec<Change>, XdsError> {
    let mut changes = Vec::new();
    let (old, new) = (resources(before), resources(after));
    let names: BTreeSet<&Name<'_>> = old.keys().chain(new.keys()).collect();
    for name in names {
        match (old.get(name), new.get(name)) {
            (Some(a), Some(b)) if a.bytes == b.bytes => {}
            (a, b) => changes.extend(resource(name, a.copied(), b.copied())?),
        }
    }
    changes.extend(bindings(before, after));
    changes.sort_by(|a, b| (a.what, &a.name, a.kind).cmp(&(b.what, &b.name, b.kind)));
    Ok(changes)
}

fn resources(records: &[Record]) -> BTreeMap<Name<'_>, &Resource> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Resource(resource) => {
                Some(((&*resource.type_url, &*resource.name, &*resource.part), resource))
            }
            Record::Binding(_) => None,
        })
        .collect()
}

fn resource(
    name: &Name<'_>,
    before: Option<&Resource>,
    after: Option<&Resource>,
) -> Result<Vec<Change>, XdsError> {
    let (type_url, resource_name, part) = *name;
    if type_url == MODULE_TYPE {
        // Its name is its digest, so it comes or goes as a whole.
        let side = |side: Option<&Resource>| side.map(|_| Value::Null);
        let change = change("module", resource_name.to_owned(), side(before).as_ref(), side(after).as_ref());
        return Ok(part.is_empty().then_some(change).into_iter().collect());
    }
    let value =
        |side: Option<&Resource>| side.map(|resource| json::message(type_url, &resource.bytes)).transpose();
    let (before, after) = (value(before)?, value(after)?);
    let what = match type_url.rsplit('.').next().unwrap_or_default() {
        "Listener" => "listener",
        "Cluster" => "cluster",
        "RateLimitConfig" => "rate-limit",
        "RouteConfiguration" => return Ok(routes::compare(resource_name, before.as_ref(), after.as_ref())),
        _ => "resource",
    };
    Ok(vec![change(what, resource_name.to_owned(), before.as_ref(), after.as_ref())])
}

fn change(what: &'static str, name: String, before: Option<&Value>, after: Option<&Value>) -> Change {
    match (before, after) {
        (None, _) => Change { kind: Kind::Added, what, name, fields: Vec::new() },
        (_, None) => Change { kind: Kind::Removed, what, name, fields: Vec::new() },
        (Some(before), Some(after)) => {
            Change { kind: Kind::Changed, what, name, fields: tree::compare(before, after) }
        }
    }
}

fn bindings(before: &[Record], after: &[Record]) -> Vec<Change> {
    let table = |records: &[Record]| -> BTreeMap<(&'static str, String), Value> {
        let bindings = records.iter().filter_map(|record| match record {
            Record::Binding(binding) => {
                Some(((binding_kind(binding), binding.name.to_string()), binding_value(binding)))
            }
            Record::Resource(_) => None,
        });
        bindings.collect()
    };
    let (old, new) = (table(before), table(after));
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|name| old.get(name) != new.get(name))
        .map(|name| change(name.0, name.1.clone(), old.get(name), new.get(name)))
        .collect()
}

fn binding_kind(binding: &Binding) -> &'static str {
    match binding.kind {
        moorgate_snapshot::BindingKind::Endpoints => "endpoints",
        moorgate_snapshot::BindingKind::Extension => "extension",
        moorgate_snapshot::BindingKind::Secret => "secret",
        moorgate_snapshot::BindingKind::TrustBundle => "trust-bundle",
    }
}

fn object_value(one: &ObjectSource) -> Value {
    serde_json::json!({ "kind": &*one.kind, "namespace": &*one.namespace, "name": &*one.name })
}

fn binding_value(binding: &Binding) -> Value {
    match &binding.source {
        BindingSource::Object { kind, namespace, name } => {
            serde_json::json!({ "kind": &**kind, "namespace": &**namespace, "name": &**name })
        }
        BindingSource::Objects(objects) => objects.iter().map(object_value).collect(),
        BindingSource::Template(template) => serde_json::json!({
            "objects": template.objects.iter().map(object_value).collect::<Vec<_>>(),
            "template": template::name(template),
        }),
        BindingSource::Zoned(sources, zones) => serde_json::json!({
            "sources": sources.iter().map(source_value).collect::<Vec<_>>(),
            "zones": zones.iter().map(|zone| (zone.zone.to_string(), zone.weight)).collect::<BTreeMap<_, _>>(),
        }),
        BindingSource::Endpoints(sources) => sources.iter().map(source_value).collect(),
    }
}

fn source_value(source: &EndpointSource) -> Value {
    serde_json::json!({
        "namespace": &*source.namespace, "service": &*source.service, "portName": &*source.port_name,
        "port": source.port, "weight": source.weight, "hostname": &*source.hostname,
        "addresses": source.addresses.iter().map(|address| &**address).collect::<Vec<_>>(),
    })
}
