//! `moorgate check`

use super::input::Input;
use super::output::{self, json};
use super::{Exit, Failure};
use crate::report::{FORMAT_VERSION, github, sarif};
use clap::{Args, ValueEnum};
use serde_json::json;

/// Check a source: diagnostics only
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate check gateways/
  moorgate check . --rev HEAD --path gateways -o github
  kustomize build overlays/prod | moorgate check - -o sarif > moorgate.sarif

sarif and github name files as the repository around SOURCE does, the others as they lie in SOURCE.
Exits 1 if anything is an error.")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    input: Input,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// With the line itself, for people
    Text,
    /// `format_version` and `diagnostics`
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// Workflow commands: annotations on a pull request
    Github,
}

/// Runs the command.
pub(super) async fn run(args: CheckArgs) -> Result<Exit, Failure> {
    let compiled = args.input.reading.compile(&args.input.sources).await?;
    let diagnostics = &compiled.compilation.diagnostics;
    match args.output {
        Output::Text => output::print(&compiled.diagnostics_text())?,
        Output::Json => {
            output::print(&json(&json!({ "format_version": FORMAT_VERSION, "diagnostics": diagnostics })))?;
        }
        Output::Sarif => output::print(&json(&sarif(&compiled.of_repository())))?,
        Output::Github => output::print(&github(&compiled.of_repository()))?,
    }
    Ok(compiled.exit())
}
