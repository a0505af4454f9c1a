//! Differences for a terminal.

use super::{FieldChange, FleetDiff, Kind};
use moorgate_snapshot::Digest;
use serde_json::Value;
use std::fmt::Write as _;

/// Of a terminal; whoever prints takes them out where there is none.
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// One block a fleet, one line a difference, one line a field.
pub fn text(fleets: &[FleetDiff]) -> String {
    let mut out = String::new();
    for fleet in fleets {
        let id = |id: Option<Digest>| id.map_or_else(|| "none".to_owned(), |id| id.short());
        let _ = writeln!(out, "fleet {}  {} -> {}", fleet.fleet, id(fleet.before), id(fleet.after));
        for change in &fleet.changes {
            let (on, off) = if change.kind == Kind::Revoked { (RED, PLAIN) } else { ("", "") };
            let _ = writeln!(out, "  {on}{} {} {}{off}", sign(change.kind), change.what, change.name);
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
        Kind::Removed | Kind::Revoked => "-",
        Kind::Changed => "~",
        Kind::Shadowed => "!",
    }
}

pub(super) fn line(field: &FieldChange) -> String {
    let value =
        |value: &Option<Value>| value.as_ref().map_or_else(|| "(absent)".to_owned(), Value::to_string);
    format!("{}: {} -> {}", field.field, value(&field.before), value(&field.after))
}
