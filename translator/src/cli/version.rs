//! `moorgate version`

use super::output::{self, json};
use super::{Exit, Failure};
use crate::report::FORMAT_VERSION;
use clap::{Args, ValueEnum};
use serde_json::json;

/// Say which versions of everything this is
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate version
  moorgate version -o json")]
pub(super) struct VersionArgs {
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For scripts
    Json,
}

/// Runs the command.
pub(super) fn run(args: &VersionArgs) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let gateway_api = crate::validate::gateway_api_version();
    let format = moorgate_snapshot::manifest::FORMAT;
    let envoy = crate::xds::ENVOY_MINORS;
    match args.output {
        Output::Text => output::print(&format!(
            "moorgate {version}\nGateway API {gateway_api}\nEnvoy {}\nsnapshot format {format}\n",
            envoy.join(", ")
        ))?,
        Output::Json => output::print(&json(&json!({
            "format_version": FORMAT_VERSION,
            "version": version,
            "gateway_api": gateway_api,
            "envoy": envoy,
            "snapshot_format": format,
        })))?,
    }
    Ok(Exit::Fine)
}
