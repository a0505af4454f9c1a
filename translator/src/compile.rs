//! The pure core: files in, fleets with their snapshots out.
//!
//! No network, no clock, no environment. The number of threads changes how fast, never what.

mod blame;
mod counts;
mod fleets;
mod last_good;
mod limits;
mod origins;
mod takes;

pub use blame::Blocked;
pub use counts::Counts;
pub use fleets::Fleets;
pub use last_good::{Commits, Former, Kept, LastGood, Waiting, compile_kept, compile_last_good};
pub use origins::content;

use crate::inputs::Wants;
use crate::load::Loaded;
use crate::ownership::{self, Ownership};
use crate::patches::{self, Patched, Touched};
use crate::source::File;
use crate::status::Statuses;
use crate::{attach, load, validate, xds};
use moorgate_model::{Diagnostics, Object, ObjectRef, ir};
use moorgate_snapshot::{FleetName, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What shapes a compile.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which CRDs to check against, and the namespace of objects that name none.
    pub validate: validate::Options,
    /// Whose Gateways are compiled, and which kinds the source holds completely.
    pub attach: attach::Options,
    /// Who may define what; without it, whoever can write a file.
    pub ownership: Option<Ownership>,
}

/// Everything that came of a source.
#[derive(Debug)]
pub struct Compilation {
    /// The fleets, by name.
    pub fleets: BTreeMap<FleetName, CompiledFleet>,
    /// Everything that is wrong, in the order of places.
    pub diagnostics: Diagnostics,
    /// Gateway API status of every object of ours.
    pub statuses: Statuses,
    /// The objects, with defaults: where origins are looked up.
    pub objects: Vec<Object>,
    /// Which fleets may not be published (DESIGN §8, whose mistake): syntax and schema errors concern them.
    pub blocked: Blocked,
    /// Which fleets errors of any class concern: `publish --strict` refuses them too.
    pub erring: Blocked,
    /// Fleets of Gateways of ours that have no snapshot: they break a limit, or their Gateway or its class is not valid.
    pub refused: BTreeSet<FleetName>,
    /// Lines of Secrets, by file: never to be quoted.
    pub redacted: BTreeMap<Arc<str>, Vec<(u32, u32)>>,
    /// Which fleet serves a Gateway.
    pub served_by: Fleets,
    /// Inputs that policies ask for, declared or not.
    pub wants: Wants,
    /// Whose mistake an error is.
    named: blame::Named,
}

/// One fleet.
#[derive(Debug)]
pub struct CompiledFleet {
    /// What its Envoys shall do.
    pub ir: ir::Fleet,
    /// The same as content-addressed bytes.
    pub snapshot: Snapshot,
    /// How many routes it has: the shrink guard compares them.
    pub routes: usize,
    /// The same by namespace and by hostname.
    pub counts: Counts,
    /// Which EnvoyPatchPolicies changed which resources.
    pub patches: Touched,
}

/// Compiles all files.
pub fn compile(files: &[File], options: &Options) -> Compilation {
    compile_objects(load::load(files), options)
}

/// Compiles objects that were loaded.
pub fn compile_objects(loaded: Loaded, options: &Options) -> Compilation {
    let Loaded { objects, mut diagnostics, redacted } = loaded;
    let namespace = options.validate.namespace.as_deref();
    let merged = fleets::merged(&objects, namespace, &options.attach);
    let asked = attach::Options { merged, ..options.attach.clone() };
    let served_by = Fleets::new(&objects, namespace, &asked);
    let named = blame::Named::new(&objects, options).served(&served_by);
    let (objects, found) = validate::validate(objects, &options.validate);
    let attaching = attach::Options { refused: validate::refused(&found), ..asked };
    diagnostics.append(found);
    let owned = options.ownership.as_ref();
    let (objects, left_out) = match owned {
        Some(ownership) => {
            let verdict = ownership::check(ownership, objects);
            diagnostics.append(verdict.diagnostics);
            (verdict.objects, verdict.holds)
        }
        None => (objects, BTreeSet::new()),
    };
    let (attachment, patched) = attached(&objects, attaching);
    diagnostics.append(attachment.diagnostics);
    diagnostics.extend(patched.findings);
    diagnostics.extend(takes::findings(&attachment.takes, &objects, owned));
    let mut fleets = BTreeMap::new();
    for (name, fleet) in attachment.fleets {
        let records = patched.records.get(&name).cloned().unwrap_or_else(|| xds::records(&fleet));
        let oldest = fleet.oldest_envoy.map(|(major, minor)| format!("{major}.{minor}"));
        match Snapshot::build_for(records, oldest.as_deref()) {
            Ok(snapshot) => {
                diagnostics.extend(limits::near(&name, &snapshot, &fleet, &objects));
                let counts = Counts::of(&fleet);
                let patches = patched.touched.get(&name).cloned().unwrap_or_default();
                let routes = counts.total();
                fleets.insert(name, CompiledFleet { ir: fleet, snapshot, routes, counts, patches });
            }
            Err(error) => {
                diagnostics.push(limits::refused(&name, &error, &fleet, &objects));
            }
        }
    }
    let diagnostics = diagnostics.finish();
    let blocked = named.blocked(&diagnostics, |found| {
        takes::holds(found) || found.object.as_ref().is_some_and(|object| left_out.contains(object))
    });
    let erring = named.erring(&diagnostics);
    let refused = named.ours().iter().filter(|fleet| !fleets.contains_key(fleet)).cloned().collect();
    Compilation {
        fleets,
        diagnostics,
        statuses: attachment.statuses,
        objects,
        blocked,
        erring,
        refused,
        redacted,
        served_by,
        wants: attachment.wants,
        named,
    }
}

/// Binds objects, and patches what comes of it. Gateways that a patch closes, because it cannot be applied, are bound again.
fn attached(objects: &[Object], mut options: attach::Options) -> (attach::Attachment, Patched) {
    let mut attachment = attach::attach(objects, &options);
    let mut patched = patches::apply(objects, &options, &attachment.fleets, xds::records);
    if !patched.denied.is_empty() {
        options.denied.clone_from(&patched.denied);
        attachment = attach::attach(objects, &options);
        let closed: BTreeSet<FleetName> = patched
            .denied
            .iter()
            .filter_map(|gateway| {
                let object = objects.iter().find(|object| object.reference == *gateway)?;
                let class = object.at("spec.gatewayClassName")?.as_str()?;
                Some(options.fleet(class, &gateway.namespace, &gateway.name))
            })
            .collect();
        // What is closed is not patched.
        patched.records.retain(|fleet, _| !closed.contains(fleet));
        patched.touched.retain(|fleet, _| !closed.contains(fleet));
    }
    patched.report(&mut attachment.statuses);
    (attachment, patched)
}

impl Compilation {
    /// Whether an object may concern a fleet; what is not known to concern others may.
    pub fn may_concern(&self, object: &ObjectRef, fleet: &FleetName) -> bool {
        self.named.fleets_of(object).is_none_or(|fleets| fleets.contains(fleet))
    }

    /// Treats every warning as an error.
    pub fn deny_warnings(&mut self) {
        self.diagnostics.deny_warnings();
        self.erring = self.named.erring(&self.diagnostics);
    }

    /// Adds what reading the source found.
    pub fn add(&mut self, found: Diagnostics) {
        self.blocked.all |= found.has_errors();
        self.erring.all |= found.has_errors();
        self.diagnostics.append(found);
        self.diagnostics = std::mem::take(&mut self.diagnostics).finish();
    }
}

#[cfg(test)]
mod tests;
