//! The seeded simulation: some hundred runs, each of which holds all promises, and which together met every fault.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use moorgate_tests::program::variable;
use moorgate_tests::sim::{Plan, Report, run};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs of one `make test`: seeds from 1 on. `MOORGATE_SEEDS` asks for others.
const SEEDS: u64 = 240;
/// Nobody needs more failing runs than so many.
const ENOUGH: usize = 3;
/// How many times somebody acts in each.
const STEPS: u32 = 25;

/// What must have happened, in some run or other. Acts that end in doubt are too rare for a few hundred runs.
const ACTS: &[&str] = &[
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
    "gc condemned",
    "gc removed",
    "gc spared",
    "gc gave way",
    "gc beside gc",
    "gc read failed",
    "gc store failed",
    "gc unclear",
    "gc at the end",
    "gc dies at its lease",
    "gc dies at a list",
    "gc dies reading",
    "gc dies condemning",
    "gc dies copying",
    "gc dies deleting",
    "written again after gc",
    "night",
    "night in a gc",
    "report",
    "renewed",
    "renew crashed",
    "renewal seen",
    "key added",
    "key revoked",
    "mirror behind",
    "mirror up to date",
    "mirrored entry",
    "relay asks the mirror",
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
];

fn report(seed: u64, trace: bool) -> Report {
    run(Plan { seed, steps: STEPS, trace }).unwrap()
}

#[test]
fn every_seed_holds_every_promise() {
    let seeds = variable("MOORGATE_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    let (next, tally) = (AtomicU64::new(1), Mutex::new(BTreeMap::<String, u64>::new()));
    let (failed, removed) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed > seeds || failed.lock().unwrap().len() >= ENOUGH {
                return;
            }
            let report = report(seed, false);
            removed.fetch_add(u64::from(report.tally.contains_key("gc removed")), Ordering::SeqCst);
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
    let tally = tally.lock().unwrap();
    println!("{tally:#?}");
    let failed = failed.lock().unwrap();
    assert!(failed.is_empty(), "{} of {seeds} runs:\n{}", failed.len(), failed.join("\n"));
    // Nothing is worth anything that never happens.
    for what in ACTS {
        assert!(tally.contains_key(*what), "no run has: {what}");
    }
    assert!(tally["act committed"] > seeds * u64::from(STEPS) / 6, "{} entries only", tally["act committed"]);
    let removed = removed.load(Ordering::SeqCst);
    assert!(removed > seeds / 5, "gc removed something in {removed} of {seeds} runs only");
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
