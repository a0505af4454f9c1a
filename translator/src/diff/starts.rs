//! What Envoys start with: they read it once, so where it changes their pods are replaced.

use super::{Change, FleetDiff, Kind, Side, redact, tree};
use moorgate_snapshot::FleetName;
use serde_json::Value;
use std::collections::BTreeMap;

/// The bootstraps of a side that is compiled, as far as fleets themselves say something of them.
pub type Starts = BTreeMap<FleetName, Value>;

/// Adds the bootstraps that differ to the differences of their fleets.
pub fn starts(fleets: &mut Vec<FleetDiff>, sides: [(&Side, &Starts); 2], show_values: bool) {
    let [(before, old), (after, new)] = sides;
    for (fleet, start) in new {
        let Some(former) = old.get(fleet).filter(|former| *former != start) else { continue };
        let mut fields = tree::compare(former, start);
        if !show_values {
            fields.iter_mut().for_each(redact::redact);
        }
        let name = "Envoys restart with it".to_owned();
        let change = Change { kind: Kind::Changed, what: "bootstrap", name, fields };
        let id = |side: &Side| side.get(fleet).map(|(id, _)| *id);
        if let Some(found) = fleets.iter_mut().find(|found| found.fleet == *fleet) {
            // What was revoked stays in front.
            let place = found.changes.iter().take_while(|change| change.kind == Kind::Revoked).count();
            found.changes.insert(place, change);
        } else {
            let (before, after) = (id(before), id(after));
            fleets.push(FleetDiff { fleet: fleet.clone(), before, after, changes: vec![change] });
        }
    }
    fleets.sort_by(|a, b| a.fleet.cmp(&b.fleet));
}
