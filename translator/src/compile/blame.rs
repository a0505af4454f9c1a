//! Whose mistake: which fleets a syntax or schema error keeps from being published.

use moorgate_model::{Class, Diagnostics, Object, ObjectRef, Severity};
use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};

/// Fleets that may not be published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocked {
    /// A file could not be read, or an object that could concern any fleet is invalid.
    pub all: bool,
    /// Fleets that an invalid object names.
    pub fleets: BTreeSet<FleetName>,
}

impl Blocked {
    /// True if this fleet may not be published.
    pub fn blocks(&self, fleet: &FleetName) -> bool {
        self.all || self.fleets.contains(fleet)
    }
}

/// The fleets that each object names, noted before invalid objects are dropped.
pub(super) struct Named(BTreeMap<ObjectRef, Vec<FleetName>>);

impl Named {
    pub(super) fn new(objects: &[Object]) -> Self {
        Self(objects.iter().filter_map(|object| Some((object.reference.clone(), named(object)?))).collect())
    }

    /// Syntax and schema errors block the fleets that their object names; all, if it names none or could not be read.
    pub(super) fn blocked(&self, diagnostics: &Diagnostics) -> Blocked {
        let mut blocked = Blocked::default();
        for diagnostic in diagnostics {
            if diagnostic.severity != Severity::Error || diagnostic.code.class == Class::Semantic {
                continue;
            }
            match diagnostic.object.as_ref().and_then(|object| self.0.get(object)) {
                Some(fleets) if !fleets.is_empty() => blocked.fleets.extend(fleets.iter().cloned()),
                _ => blocked.all = true,
            }
        }
        blocked
    }
}

fn named(object: &Object) -> Option<Vec<FleetName>> {
    let reference = &object.reference;
    match &*reference.kind {
        "Gateway" => Some(vec![FleetName::gateway(&reference.namespace, &reference.name)]),
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" | "UDPRoute" => {
            let parents = object.at("spec.parentRefs")?.as_sequence()?;
            let fleet = |parent: &moorgate_model::Node| {
                let text = |field: &str| parent.get(field).and_then(|node| node.as_str());
                Some(FleetName::gateway(text("namespace").unwrap_or(&reference.namespace), text("name")?))
            };
            Some(parents.iter().filter_map(fleet).collect())
        }
        _ => None,
    }
}
