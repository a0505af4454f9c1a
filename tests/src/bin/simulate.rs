//! Replays simulations: `simulate --seed N` with its trace, `simulate --seconds S` with fresh seeds for so long.

#![allow(clippy::print_stdout, reason = "a tool for people")]

use anyhow::{Result, bail};
use clap::Parser;
use moorgate_tests::sim::{Plan, Report, run};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Runs the seeded simulation of publishers, relays and a failing store.
#[derive(Debug, Parser)]
struct Options {
    /// The run to replay, with its trace. Without it, fresh seeds run.
    #[arg(long)]
    seed: Option<u64>,
    /// How many times somebody acts in a run.
    #[arg(long, default_value_t = 30)]
    steps: u32,
    /// For how long fresh seeds run, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many runs at one time.
    #[arg(long, default_value_t = 2)]
    jobs: u32,
}

fn main() -> Result<()> {
    let options = Options::parse();
    match options.seed {
        Some(seed) => replay(Plan { seed, steps: options.steps, trace: true }),
        None => soak(&options),
    }
}

fn replay(plan: Plan) -> Result<()> {
    let report = run(plan)?;
    for line in &report.trace {
        println!("{line}");
    }
    println!("trace {}", report.digest);
    if report.violations.is_empty() {
        return Ok(());
    }
    bail!("seed {}: {}", plan.seed, report.violations.join("; "))
}

/// Fresh seeds until the time is over; every one that fails is named.
fn soak(options: &Options) -> Result<()> {
    let first = first_seed();
    let next = AtomicU64::new(first);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let failed = Mutex::new(Vec::new());
    let tally = Mutex::new(BTreeMap::<String, u64>::new());
    let work = || -> Result<()> {
        while Instant::now() < end {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            let Report { violations, tally: seen, .. } =
                run(Plan { seed, steps: options.steps, trace: false })?;
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            for (what, count) in seen {
                *tally.entry(what).or_default() += count;
            }
            if !violations.is_empty() {
                println!("seed {seed} --steps {}: {}", options.steps, violations.join("; "));
                failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a run panicked"))??;
        }
        Ok(())
    })?;
    for (what, count) in tally.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        println!("{count:>9} {what}");
    }
    let runs = next.load(Ordering::SeqCst) - first;
    let failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{runs} runs from seed {first}, {} failed", failed.len());
    if failed.is_empty() { Ok(()) } else { bail!("replay with: simulate --steps {} --seed N", options.steps) }
}

/// Fresh by the clock: nothing is decided by it but which runs are made.
#[allow(clippy::disallowed_methods, reason = "fresh seeds are what is asked for")]
fn first_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() % 1_000_000_000 * 1_000
}
