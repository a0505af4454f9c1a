//! The pure core: files in, fleets with their snapshots out.
//!
//! No network, no clock, no environment. The number of threads changes how fast, never what.

mod blame;
mod origins;

pub use blame::Blocked;

use crate::load::Loaded;
use crate::source::File;
use crate::status::Statuses;
use crate::{attach, load, validate, xds};
use moorgate_model::diagnostic::semantic::SNAPSHOT_REFUSED;
use moorgate_model::{Diagnostic, Diagnostics, Object, ir};
use moorgate_snapshot::{FleetName, Snapshot};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What shapes a compile.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which CRDs to check against, and the namespace of objects that name none.
    pub validate: validate::Options,
    /// Whose Gateways are compiled, and which kinds the source holds completely.
    pub attach: attach::Options,
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
    /// Which fleets may not be published (DESIGN §8, whose mistake).
    pub blocked: Blocked,
    /// Lines of Secrets, by file: never to be quoted.
    pub redacted: BTreeMap<Arc<str>, Vec<(u32, u32)>>,
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
}

/// Compiles all files.
pub fn compile(files: &[File], options: &Options) -> Compilation {
    let Loaded { objects, mut diagnostics, redacted } = load::load(files);
    let named = blame::Named::new(&objects);
    let (objects, found) = validate::validate(objects, &options.validate);
    diagnostics.append(found);
    let blocked = named.blocked(&diagnostics);
    let attachment = attach::attach(&objects, &options.attach);
    diagnostics.append(attachment.diagnostics);
    let mut fleets = BTreeMap::new();
    for (name, fleet) in attachment.fleets {
        match Snapshot::build(xds::records(&fleet)) {
            Ok(snapshot) => {
                let routes = count_routes(&fleet);
                fleets.insert(name, CompiledFleet { ir: fleet, snapshot, routes });
            }
            Err(error) => {
                diagnostics.push(Diagnostic::new(
                    &SNAPSHOT_REFUSED,
                    format!("fleet {name} cannot be a snapshot: {error}"),
                ));
            }
        }
    }
    let diagnostics = diagnostics.finish();
    Compilation { fleets, diagnostics, statuses: attachment.statuses, objects, blocked, redacted }
}

impl Compilation {
    /// Adds what reading the source found.
    pub fn add(&mut self, found: Diagnostics) {
        self.blocked.all |= found.has_errors();
        self.diagnostics.append(found);
        self.diagnostics = std::mem::take(&mut self.diagnostics).finish();
    }
}

fn count_routes(fleet: &ir::Fleet) -> usize {
    let chains = fleet.listeners.values().flat_map(|listener| &listener.chains);
    chains.flat_map(|chain| &chain.routes.hosts).map(|host| host.routes.len()).sum()
}
