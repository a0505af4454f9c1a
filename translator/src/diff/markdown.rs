//! Differences for a pull request.

use super::text::{line, sign};
use super::{FleetDiff, Kind};
use std::fmt::Write as _;

/// A heading and counts a fleet, and the differences in a code block, where no text of a tenant can become markup.
pub fn markdown(fleets: &[FleetDiff]) -> String {
    if fleets.is_empty() {
        return "No effective difference.\n".to_owned();
    }
    let mut out = String::new();
    for fleet in fleets {
        let count = |kind| fleet.changes.iter().filter(|change| change.kind == kind).count();
        let _ = writeln!(out, "### Fleet `{}`\n", fleet.fleet);
        let _ = writeln!(
            out,
            "{} added, {} removed, {} changed, {} shadowed, {} revoked\n",
            count(Kind::Added),
            count(Kind::Removed),
            count(Kind::Changed),
            count(Kind::Shadowed),
            count(Kind::Revoked)
        );
        let _ = writeln!(out, "```diff");
        for change in &fleet.changes {
            let _ = writeln!(out, "{} {} {}", sign(change.kind), change.what, fenced(&change.name));
            for field in &change.fields {
                let _ = writeln!(out, "    {}", fenced(&line(field)));
            }
        }
        let _ = writeln!(out, "```\n");
    }
    out
}

/// Text that cannot end the code block or break its line.
fn fenced(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace("```", "` ` `")
}
