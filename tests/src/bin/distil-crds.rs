//! Writes `translator/data/{gateway-api,envoy-gateway}.json` from published CRDs, or checks that they still fit.

use anyhow::{Context, Result};
use clap::Parser;
use moorgate_tests::distil::crds::{self, SOURCES};
use std::path::PathBuf;
use std::process::ExitCode;

/// Distil the CRDs of the Gateway API and of Envoy Gateway to the data files of the translator.
///
/// Examples:
///   distil-crds                    write the files
///   distil-crds --check            exit 1 if a file is not what its module gives
///   distil-crds --only gateway-api.json --version v1.6.1 --out /tmp/1.6.json
#[derive(Parser)]
#[command(verbatim_doc_comment)]
struct Arguments {
    /// Of the files of translator/data only this one.
    #[arg(long, value_name = "FILE")]
    only: Option<String>,
    /// Another release of the module.
    #[arg(long, requires = "only")]
    version: Option<String>,
    /// The file to write or to compare with.
    #[arg(long, requires = "only")]
    out: Option<PathBuf>,
    /// Compare only; exit 1 on a difference.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    for source in SOURCES {
        if arguments.only.as_ref().is_some_and(|only| only != source.file) {
            continue;
        }
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/../translator/data");
        let out = arguments.out.clone().unwrap_or_else(|| PathBuf::from(data).join(source.file));
        let version = arguments.version.as_deref().unwrap_or(source.version);
        let text = crds::distil(source, &crds::module(source.module, version)?)?;
        if !arguments.check {
            std::fs::write(&out, text).with_context(|| out.display().to_string())?;
            continue;
        }
        let present = std::fs::read_to_string(&out).with_context(|| out.display().to_string())?;
        if present != text {
            let line = present.lines().zip(text.lines()).take_while(|(a, b)| a == b).count() + 1;
            let out = out.display();
            anyhow::bail!("{out} differs from line {line} on: run distil-crds and look at the change");
        }
    }
    Ok(ExitCode::SUCCESS)
}
