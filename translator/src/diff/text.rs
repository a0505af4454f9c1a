//! Differences for a terminal.

use super::{FieldChange, FleetDiff, Kind};
use moorgate_snapshot::Digest;
use serde_json::Value;
use std::fmt::Write as _;

/// One block a fleet, one line a difference, one line a field.
pub fn text(fleets: &[FleetDiff]) -> String {
    let mut out = String::new();
    for fleet in fleets {
        let id = |id: Option<Digest>| id.map_or_else(|| "none".to_owned(), |id| id.short());
        let _ = writeln!(out, "fleet {}  {} -> {}", fleet.fleet, id(fleet.before), id(fleet.after));
        for change in &fleet.changes {
            let _ = writeln!(out, "  {} {} {}", sign(change.kind), change.what, change.name);
            for field in &change.fields {
                let _ = writeln!(out, "      {}", line(field));
            }
        }
    }
    out
}

pub(super) fn sign(kind: Kind) -> &'static str {
    match kind {
        Kind::Added => "+",
        Kind::Removed => "-",
        Kind::Changed => "~",
        Kind::Shadowed => "!",
    }
}

pub(super) fn line(field: &FieldChange) -> String {
    let value =
        |value: &Option<Value>| value.as_ref().map_or_else(|| "(absent)".to_owned(), Value::to_string);
    format!("{}: {} -> {}", field.field, value(&field.before), value(&field.after))
}
