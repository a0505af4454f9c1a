//! `moorgate compile`

use super::input::{Compiled, Fleets, Input};
use super::output::{self, json};
use super::{Exit, Failure};
use crate::report::FORMAT_VERSION;
use crate::xds;
use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use moorgate_snapshot::Record;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Compile a source and print what came of it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate compile gateways/
  moorgate compile . --rev main --path gateways -o json
  helm template shop | moorgate compile -
  moorgate compile gateways/ --fleet shop/edge -o envoy > envoy.json
  moorgate compile gateways/ --out-dir store/

Exits 1 if anything is an error; what could be compiled is printed all the same.")]
pub(super) struct CompileArgs {
    #[command(flatten)]
    input: Input,
    #[command(flatten)]
    fleets: Fleets,
    /// Write snapshots in the layout of a store into this directory
    #[arg(long, value_name = "DIR")]
    out_dir: Option<PathBuf>,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// One line a fleet: name, snapshot id, counts
    Text,
    /// Fleets, diagnostics and Gateway API status
    Json,
    /// The effective configuration as Envoy's own JSON
    Envoy,
}

/// Runs the command.
pub(super) async fn run(args: CompileArgs) -> Result<Exit, Failure> {
    let compiled = args.input.reading.compile(&args.input.sources).await?;
    if let Some(fleet) = args.fleets.missing(&compiled.compilation) {
        compiled.print_diagnostics();
        return Err(Failure::new(Exit::Usage, anyhow!("the source has no fleet {fleet}")));
    }
    if let Some(directory) = &args.out_dir {
        write_store(&compiled, &args.fleets, directory).await?;
    }
    match args.output {
        Output::Text => {
            compiled.print_diagnostics();
            output::print(&text(&compiled, &args.fleets))?;
        }
        Output::Json => output::print(&json(&report(&compiled, &args.fleets)))?,
        Output::Envoy => {
            compiled.print_diagnostics();
            output::print(&json(&envoy(&compiled, &args.fleets)?))?;
        }
    }
    Ok(compiled.exit())
}

fn text(compiled: &Compiled, wanted: &Fleets) -> String {
    let mut out = String::new();
    for (name, fleet) in compiled.compilation.fleets.iter().filter(|(name, _)| wanted.wants(name)) {
        let _ = writeln!(
            out,
            "{name}  {}  {} listeners  {} routes  {} clusters  {} records",
            fleet.snapshot.id(),
            fleet.ir.listeners.len(),
            fleet.routes,
            fleet.ir.clusters.len(),
            fleet.snapshot.records().count(),
        );
    }
    out
}

fn report(compiled: &Compiled, wanted: &Fleets) -> Value {
    let fleets: Vec<Value> = compiled
        .compilation
        .fleets
        .iter()
        .filter(|(name, _)| wanted.wants(name))
        .map(|(name, fleet)| {
            let resources: Vec<Value> = fleet.snapshot.records().filter_map(resource).collect();
            json!({
                "fleet": name,
                "snapshot": fleet.snapshot.id(),
                "listeners": fleet.ir.listeners.len(),
                "routes": fleet.routes,
                "clusters": fleet.ir.clusters.len(),
                "resources": resources,
            })
        })
        .collect();
    json!({
        "format_version": FORMAT_VERSION,
        "fleets": fleets,
        "diagnostics": compiled.compilation.diagnostics,
        "status": compiled.compilation.statuses,
        "revisions": compiled.sources.revisions,
    })
}

fn resource(record: &Record) -> Option<Value> {
    let Record::Resource(resource) = record else { return None };
    let digest = moorgate_snapshot::Digest::of(&resource.bytes);
    Some(json!({
        "type": &*resource.type_url, "name": &*resource.name, "part": &*resource.part,
        "digest": digest, "size": resource.bytes.len(),
    }))
}

/// One fleet is Envoy's own document; several are a document each, by name.
fn envoy(compiled: &Compiled, wanted: &Fleets) -> Result<Value, Failure> {
    let mut documents = serde_json::Map::new();
    for (name, fleet) in compiled.compilation.fleets.iter().filter(|(name, _)| wanted.wants(name)) {
        let document = xds::envoy_json(fleet.snapshot.records()).with_context(|| format!("fleet {name}"))?;
        documents.insert(name.to_string(), document);
    }
    let only = if documents.len() == 1 { documents.values().next().cloned() } else { None };
    Ok(only.unwrap_or(Value::Object(documents)))
}

async fn write_store(
    compiled: &Compiled,
    wanted: &Fleets,
    directory: &std::path::Path,
) -> Result<(), Failure> {
    tokio::fs::create_dir_all(directory).await.with_context(|| directory.display().to_string())?;
    let directory = directory.canonicalize().with_context(|| directory.display().to_string())?;
    let store = moorgate_snapshot::Store::open(&format!("file://{}", directory.display()))?;
    for (name, fleet) in compiled.compilation.fleets.iter().filter(|(name, _)| wanted.wants(name)) {
        store.put_snapshot(name, &fleet.snapshot).await?;
    }
    Ok(())
}
