//! `make conformance`: the Gateway API's conformance suite on a test cluster.

use anyhow::Result;
use clap::Parser;
use moorgate_tests::conformance::{Part, Plan, Where, conduct};
use moorgate_tests::program;
use std::process::ExitCode;

/// Runs the Gateway API's own conformance suite against `moorgate watch --cluster --provision`
#[derive(Debug, Parser)]
struct Arguments {
    /// The suite's version
    #[arg(long, default_value = "1.7.0")]
    suite: String,
    /// One test only
    #[arg(long)]
    run: Option<String>,
    /// The tests of the profiles' core only, on which `make test` insists
    #[arg(long, conflicts_with = "run")]
    core: bool,
    /// Where the fleets' store is: a folder that all share, or behind `watch --serve-store`
    #[arg(long, value_enum, default_value_t = Where::Shared)]
    store: Where,
    /// How many tests run at a time, of those that may
    #[arg(long, default_value_t = 4)]
    parallel: usize,
}

#[allow(clippy::print_stdout, reason = "a command's own output")]
fn main() -> Result<ExitCode> {
    let Arguments { suite, run, core, store, parallel } = Arguments::parse();
    let out = program::tools()?.with_file_name("conformance");
    let part = match run.filter(|test| !test.is_empty()) {
        Some(test) => Part::One(test),
        None if core => Part::Core,
        None => Part::Whole,
    };
    let plan = Plan { store, suite, part, parallel, out };
    let verdicts = conduct(&plan, |line| println!("{line}"))?;
    for (test, said) in verdicts.failures() {
        println!("\n{test}");
        for line in said {
            println!("    {line}");
        }
    }
    println!();
    for line in verdicts.lines() {
        println!("{line}");
    }
    Ok(if verdicts.are_good(plan.part.only()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
