//! Bad inputs, by their numbers in the catalogue that this project keeps (27 to 80: objects and semantics): what is said of
//! each, at which object, field and place, with what help; what is kept back; and that neighbours are served as before.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]
#![allow(clippy::too_many_lines, reason = "tables")]

#[path = "bad_inputs/case.rs"]
mod case;
#[path = "bad_inputs/listeners.rs"]
mod listeners;
#[path = "bad_inputs/objects.rs"]
mod objects;
#[path = "bad_inputs/published.rs"]
mod published;
#[path = "bad_inputs/rules.rs"]
mod rules;

use case::Case;
use std::collections::BTreeSet;

fn hold(cases: &[Case]) {
    let faults: Vec<String> = cases.iter().map(Case::faults).filter(|faults| !faults.is_empty()).collect();
    assert!(faults.is_empty(), "{} of {} cases:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

#[test]
fn kinds_versions_and_fields() {
    hold(&objects::kinds());
}

#[test]
fn objects_twice_and_without_namespace() {
    hold(&objects::twice());
}

#[test]
fn names_hostnames_and_ports() {
    hold(&objects::names());
}

#[test]
fn weights_and_counts() {
    hold(&objects::counts());
}

#[test]
fn routes_in_conflict_and_without_parent() {
    hold(&rules::conflicts());
}

#[test]
fn backends_that_cannot_be_used() {
    hold(&rules::backends());
}

#[test]
fn matches_that_envoy_would_refuse() {
    hold(&rules::matches());
}

#[test]
fn filters_times_and_shares() {
    hold(&rules::filters());
}

#[test]
fn listeners_that_cannot_be_served() {
    hold(&listeners::conflicts());
}

#[test]
fn certificates() {
    hold(&listeners::certificates());
}

#[test]
fn policies_and_classes() {
    hold(&listeners::policies());
}

/// The rows of the catalogue that only show at their publishing or in their size: see [`published`].
const ELSEWHERE: [u8; 6] = [40, 50, 77, 78, 79, 80];

#[test]
fn no_row_is_forgotten() {
    let tables = [
        objects::kinds(),
        objects::twice(),
        objects::names(),
        objects::counts(),
        rules::conflicts(),
        rules::backends(),
        rules::matches(),
        rules::filters(),
        listeners::conflicts(),
        listeners::certificates(),
        listeners::policies(),
    ];
    let mut rows: BTreeSet<u8> = tables.iter().flatten().map(|case| case.number).collect();
    rows.extend(ELSEWHERE);
    assert_eq!(rows, (27..=80).collect());
}
