//! Runs the suite of stores against any store: `make test-radosgw`, or a bucket of your own.
#![allow(clippy::print_stdout, reason = "a program that says how it ended")]

use anyhow::Result;
use clap::Parser;
use moorgate_snapshot::Store;
use moorgate_tests::runtime;
use moorgate_tests::storage::cases;

/// The cases that every store has to pass, against this one
#[derive(Debug, Parser)]
struct Arguments {
    /// The store; credentials come from the environment
    store: String,
    /// The namespace of the fleets that are made there, new for each run
    #[arg(long, default_value = "suite")]
    name: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let store = Store::open(&arguments.store)?;
    runtime().block_on(cases::run(&store, &arguments.name))?;
    println!("{store}: all {} cases, and the probe", cases::CASES.len());
    Ok(())
}
