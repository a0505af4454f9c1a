//! Publishing what a plan holds.

use super::{Offered, OfferedFleet, Planned, PublishArgs, last_good};
use crate::cli::{Exit, Failure};
use crate::publish::{MAGIC, PLAN_BYTES, Parent, PlanFile, PlannedFleet};
use anyhow::Context as _;
use moorgate_snapshot::FleetName;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

/// Whether a path names a plan, by how the file starts.
pub(super) fn is_plan(path: &Path) -> bool {
    let mut start = [0; MAGIC.len()];
    let file = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
    let file = file.and_then(|_| std::fs::File::open(path).ok());
    file.is_some_and(|mut file| file.read_exact(&mut start).is_ok()) && start == *MAGIC
}

/// What a plan offers.
pub(super) fn read(args: &PublishArgs, path: &Path) -> Result<Offered, Failure> {
    let name = || path.display().to_string();
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(name)?;
    file.take(PLAN_BYTES + 1).read_to_end(&mut bytes).with_context(name)?;
    let plan = PlanFile::decode(&bytes).with_context(name);
    let plan = plan.map_err(|error| Failure::new(Exit::Integrity, error))?;
    if plan.channel != args.release.channel {
        let message = format!("the plan is for channel {}: say --channel {0}", plan.channel);
        return Err(Failure::new(Exit::Usage, anyhow::anyhow!(message)));
    }
    let of_plan = |fleet: PlannedFleet| OfferedFleet {
        snapshot: fleet.snapshot,
        routes: fleet.routes,
        kept: last_good::of_documents(&fleet.documents),
        documents: fleet.documents,
        records: fleet.records,
        blocked: fleet.blocked,
        erring: fleet.erring,
        planned: Some(Planned {
            parent: Parent {
                sequence: fleet.parent.map_or(0, |parent| parent.sequence),
                digest: fleet.parent.map(|parent| parent.digest),
            },
            descends_from: fleet.descends_from,
        }),
        failure: None,
    };
    let all = plan.fleets.len();
    let wanted = plan.fleets.into_iter().filter(|(name, _)| args.fleets.wants(name));
    let fleets: BTreeMap<FleetName, OfferedFleet> =
        wanted.map(|(name, fleet)| (name, of_plan(fleet))).collect();
    Ok(Offered {
        complete: plan.complete && fleets.len() == all,
        fleets,
        refused: Vec::new(),
        unreadable: false,
        source: plan.source,
        provenance: plan.provenance,
        repositories: Vec::new(),
    })
}
