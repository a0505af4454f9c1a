//! Make before break on a real Envoy: routes flip under load, in five ways, and no request is lost.
//!
//! `make test` runs five hundred flips, a hundred of each kind; `make flips` (and `make soak`) a thousand.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

mod flips {
    pub(crate) mod load;
    /// The publisher that the relay's own suite uses.
    #[path = "../../../relay/tests/relay/publisher.rs"]
    #[allow(dead_code, reason = "another suite uses the rest")]
    pub(crate) mod publisher;
    pub(crate) mod stage;
}

use flips::load::{Lanes, PER_SECOND};
use flips::stage::{Kind, Stage};
use moorgate_tests::program;
use std::collections::BTreeMap;
use std::time::Instant;

/// Flips of all kinds, unless the environment says otherwise.
const FLIPS: usize = 500;

#[test]
#[allow(clippy::print_stderr, reason = "the count is the point")]
fn flips_under_load_lose_no_request() {
    let asked = program::variable("MOORGATE_FLIPS").map(|text| text.parse().unwrap());
    let flips: usize = asked.unwrap_or(FLIPS);
    let mut stage = Stage::start().unwrap();
    let lanes = Lanes::start(&stage);
    lanes.wait(2 * PER_SECOND).unwrap();
    let (start, mut done) = (Instant::now(), BTreeMap::new());
    for number in 0..flips {
        let kind = Kind::ALL[number % Kind::ALL.len()];
        stage.flip(kind).unwrap_or_else(|error| panic!("flip {number}, {kind:?}: {error:#}"));
        *done.entry(kind).or_insert(0_usize) += 1;
        // Some requests of each lane meet the new state before the next one comes.
        lanes.wait(PER_SECOND / 10).unwrap();
        stage.check().unwrap();
    }
    let seconds = start.elapsed().as_secs_f64();
    let report = lanes.stop();
    eprintln!("{flips} flips in {seconds:.0} s: {done:?}\n{report}");
    assert!(done.len() == Kind::ALL.len() && done.values().all(|count| *count >= flips / Kind::ALL.len()));
    report.nothing_lost().unwrap();
    // All of it was tried: connections were announced as closing, and clusters came and went.
    assert!(report.renewed > 0, "no connection was drained");
    stage.clusters_left().unwrap();
}
