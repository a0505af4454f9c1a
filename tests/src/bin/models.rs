//! `make test-deploy`: the three deployment models with all acts, and the table of README.

use anyhow::{Result, ensure};
use clap::Parser;
use moorgate_tests::models::{Act, MOVES, Model, Played, Program, Stage, WHOLE, markdown, play};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Deploys the three models on a test cluster, does what operators do while requests flow, and prints what each costs
#[derive(Debug, Parser)]
struct Arguments {
    /// One model only
    #[arg(long, value_enum)]
    model: Option<Model>,
    /// Leave out the moves from each model to each other one
    #[arg(long)]
    stay: bool,
    /// The program of relays, if not that of this build
    #[arg(long, value_name = "PROGRAM")]
    relay: Option<PathBuf>,
    /// What relays are upgraded to, such as another release's program; if not given, the same with another version
    #[arg(long, value_name = "PROGRAM")]
    next_relay: Option<PathBuf>,
}

#[allow(clippy::print_stdout, reason = "a command's own output")]
fn main() -> Result<()> {
    let Arguments { model, stay, relay, next_relay } = Arguments::parse();
    let (stage, started) = (Stage::with(relay, next_relay)?, Instant::now());
    for (what, Program { version, size, .. }) in [("relays", &stage.first), ("upgraded to", &stage.next)] {
        println!("{what}: {version}, {} MiB", size >> 20);
    }
    let mut lost = Vec::new();
    let mut run = |model: Model, acts: &[Act]| -> Result<Played> {
        let name = model.name();
        let played = play(&stage, model, acts, |line| {
            println!("{:4} s  {name}: {line}", started.elapsed().as_secs());
        })?;
        lost.extend(played.report.lost.iter().map(|line| format!("{name}: {line}")));
        Ok(played)
    };
    let mut all = BTreeMap::new();
    for one in Model::ALL.into_iter().filter(|one| model.is_none_or(|only| only == *one)) {
        all.insert(one, run(one, WHOLE)?);
    }
    if !stay && model.is_none() {
        let moves = run(Model::Sidecar, MOVES)?;
        println!("\n{} requests while models were changed into each other", moves.report.sent);
    }
    println!("\n{}", markdown(&all));
    ensure!(lost.is_empty(), "{} requests were lost:\n{}", lost.len(), lost.join("\n"));
    Ok(())
}
