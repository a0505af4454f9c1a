//! The command line: one file a command, data on stdout, messages on stderr.

mod access;
mod audit;
mod bootstrap;
mod check;
mod compile;
mod completions;
mod diff;
mod endpoints;
mod exit;
mod explain;
mod floor;
mod gc;
mod hold;
mod input;
mod inputs;
mod keygen;
mod log;
mod outcome;
mod output;
mod ownership;
mod pin;
mod plan;
mod policies;
mod promote;
mod provenance;
mod publish;
mod rebuild;
mod render;
mod renew;
mod retire;
mod rollback;
mod rollout;
mod seal;
mod serve_store;
mod status;
mod step;
mod store;
mod table;
mod trust;
mod unpin;
mod verify;
mod version;
mod wait;
mod watch;
mod wave;

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
enum Command {
    Compile(compile::CompileArgs),
    Check(check::CheckArgs),
    Diff(diff::DiffArgs),
    Explain(explain::ExplainArgs),
    Plan(plan::PlanArgs),
    Publish(Box<publish::PublishArgs>),
    Promote(promote::PromoteArgs),
    Pin(pin::PinArgs),
    Unpin(unpin::UnpinArgs),
    Rollback(rollback::RollbackArgs),
    Step(step::StepArgs),
    Hold(hold::HoldArgs),
    Floor(floor::FloorArgs),
    Retire(retire::RetireArgs),
    Log(log::LogArgs),
    Status(status::StatusArgs),
    Wait(wait::WaitArgs),
    Watch(Box<watch::WatchArgs>),
    Store(store::StoreCommand),
    Verify(verify::VerifyArgs),
    Trust(trust::TrustArgs),
    Render(Box<render::RenderArgs>),
    Renew(renew::RenewArgs),
    Gc(gc::GcArgs),
    Seal(Box<seal::SealArgs>),
    Endpoints(endpoints::EndpointsArgs),
    Inputs(inputs::InputsArgs),
    Keygen(keygen::KeygenArgs),
    Bootstrap(Box<bootstrap::BootstrapArgs>),
    Policies(policies::PoliciesArgs),
    Completions(completions::CompletionsArgs),
    Version(version::VersionArgs),
}

/// Parses the arguments, runs the command and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Fine }.into();
        }
    };
    init_tls();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(anstream::stderr(), "error: cannot start: {error}");
            return Exit::Environment.into();
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = writeln!(anstream::stderr(), "error: {:#}", failure.error);
            failure.exit.into()
        }
    }
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.command {
        Command::Compile(args) => compile::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::Diff(args) => diff::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Publish(args) => publish::run(*args).await,
        Command::Promote(args) => promote::run(args).await,
        Command::Pin(args) => pin::run(args).await,
        Command::Unpin(args) => unpin::run(args).await,
        Command::Rollback(args) => rollback::run(args).await,
        Command::Step(args) => step::run(args).await,
        Command::Hold(args) => hold::run(args).await,
        Command::Floor(args) => floor::run(args).await,
        Command::Retire(args) => retire::run(args).await,
        Command::Log(args) => log::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Wait(args) => wait::run(args).await,
        Command::Watch(args) => watch::run(*args).await,
        Command::Store(args) => store::run(args).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Trust(args) => trust::run(args).await,
        Command::Render(args) => render::run(*args).await,
        Command::Renew(args) => renew::run(args).await,
        Command::Gc(args) => gc::run(args).await,
        Command::Seal(args) => seal::run(*args).await,
        Command::Endpoints(args) => endpoints::run(args).await,
        Command::Inputs(args) => inputs::run(args).await,
        Command::Keygen(args) => keygen::run(&args),
        Command::Bootstrap(args) => bootstrap::run(*args).await,
        Command::Policies(args) => policies::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Version(args) => version::run(&args),
    }
}

/// One TLS backend for everything that dials: rustls with ring.
fn init_tls() {
    // A second call in one process finds the provider in place.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
