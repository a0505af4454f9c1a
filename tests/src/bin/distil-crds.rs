//! Writes `translator/data/gateway-api.json` from the Gateway API's published CRDs, or checks that it still fits.

use anyhow::{Context, Result};
use clap::Parser;
use moorgate_tests::distil::crds;
use std::path::PathBuf;
use std::process::ExitCode;

/// Distil the Gateway API's CRDs to the data file of the translator.
///
/// Examples:
///   distil-crds                    write the file
///   distil-crds --check            exit 1 if the file is not what the module gives
///   distil-crds --version v1.6.1 --out /tmp/1.6.json
#[derive(Parser)]
#[command(verbatim_doc_comment)]
struct Arguments {
    /// The release of sigs.k8s.io/gateway-api.
    #[arg(long, default_value = crds::VERSION)]
    version: String,
    /// The file to write or to compare with.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Compare only; exit 1 on a difference.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let out = arguments.out.unwrap_or_else(|| {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../translator/data/gateway-api.json"))
    });
    let text = crds::distil(&crds::module(crds::MODULE, &arguments.version)?)?;
    if !arguments.check {
        std::fs::write(&out, text).with_context(|| out.display().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let present = std::fs::read_to_string(&out).with_context(|| out.display().to_string())?;
    if present == text {
        return Ok(ExitCode::SUCCESS);
    }
    let line = present.lines().zip(text.lines()).take_while(|(a, b)| a == b).count() + 1;
    anyhow::bail!("{} differs from line {line} on: run distil-crds and look at the change", out.display());
}
