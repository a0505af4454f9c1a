//! The command line: one file a command, data on stdout, messages on stderr.

pub mod access;
mod exit;
pub mod keygen;
pub mod log;
mod outcome;
pub mod pin;
pub mod promote;
pub mod publish;
pub mod rollback;
pub mod status;
mod table;
pub mod unpin;
pub mod verify;

pub use exit::{Exit, Failure};

use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::process::ExitCode;

/// Compiles Gateway API resources into content-addressed Envoy xDS snapshots.
#[derive(Debug, Parser)]
#[command(name = "moorgate", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {}

/// Parses the arguments, runs the command and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Fine }.into();
        }
    };
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = writeln!(anstream::stderr(), "error: {:#}", failure.error);
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {}
}
