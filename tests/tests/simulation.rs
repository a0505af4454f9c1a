//! The seeded simulation: some hundred runs, each of which holds all promises, and which together met every fault.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use moorgate_tests::program::variable;
use moorgate_tests::sim::{Plan, Report, run};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs of one `make test`: seeds from 1 on. `MOORGATE_SEEDS` asks for others.
const SEEDS: u64 = 240;
/// How many times somebody acts in each.
const STEPS: u32 = 25;

fn report(seed: u64, trace: bool) -> Report {
    run(Plan { seed, steps: STEPS, trace }).unwrap()
}

#[test]
fn every_seed_holds_every_promise() {
    let seeds = variable("MOORGATE_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let (next, tally) = (AtomicU64::new(1), Mutex::new(BTreeMap::<String, u64>::new()));
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed > seeds {
                return;
            }
            let report = report(seed, false);
            for (what, count) in report.tally {
                *tally.lock().unwrap().entry(what).or_default() += count;
            }
            if !report.violations.is_empty() {
                let replay =
                    format!("cargo run -p moorgate-tests --bin simulate -- --seed {seed} --steps {STEPS}");
                failed.lock().unwrap().push(format!("{replay}\n  {}", report.violations.join("\n  ")));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let failed = failed.lock().unwrap();
    assert!(failed.is_empty(), "{} of {seeds} runs:\n{}", failed.len(), failed.join("\n"));
    let tally = tally.lock().unwrap();
    println!("{tally:#?}");
    // Nothing is worth anything that never happens. Acts that end in doubt are too rare for a few hundred runs.
    for what in [
        "act committed",
        "act unchanged",
        "act refused",
        "act crashed",
        "act read failed",
        "act write failed",
        "cache damage",
        "clock jump",
        "nack",
        "outage",
        "relay Crashed",
        "relay Stopped",
        "rot",
        "intruder a replay",
        "intruder a stranger's entry",
        "intruder a pin of nothing",
        "intruder garbage",
        "intruder an old head",
        "intruder no head",
        "intruder a broken head",
        "fault Error",
        "fault SlowDown",
        "fault Denied",
        "fault FalseConflict",
        "fault OwnConflict",
        "fault Lost",
        "fault Stall",
        "fault Cut",
        "fault Broken",
        "fault Flip",
        "fault Damage",
        "fault Stale",
        "fault Past",
        "fault CrashBefore",
        "fault CrashAfter",
    ] {
        assert!(tally.contains_key(what), "no run has: {what}");
    }
    assert!(tally["act committed"] > seeds * u64::from(STEPS) / 6, "{} entries only", tally["act committed"]);
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in [1, 77, 4_711] {
        let (first, second) = (report(seed, true), report(seed, true));
        if first.digest != second.digest {
            let differ = first.trace.iter().zip(&second.trace).find(|(one, other)| one != other);
            panic!("seed {seed}: {differ:#?}");
        }
        assert_eq!(first.trace, second.trace);
        assert!(first.trace.len() > 100, "seed {seed}: {} lines", first.trace.len());
    }
    assert_ne!(report(1, false).digest, report(2, false).digest);
}
