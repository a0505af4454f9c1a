//! The test cluster's own program. `cluster up` is for people: it holds a cluster until it is interrupted. The others
//! are run by the library.

use anyhow::Result;
use clap::{Parser, Subcommand};
use moorgate_tests::cluster::{Cluster, Options, container, dns, inside};
use std::path::PathBuf;

#[derive(Debug, Parser)]
#[command(name = "cluster", about = "A Kubernetes cluster on one machine, without containers")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster and holds it until standard input ends
    Up(Options),
    /// Runs a cluster in the namespaces of this process
    #[command(hide = true)]
    Run(inside::Run),
    /// Becomes a container
    #[command(hide = true)]
    Container { spec: PathBuf },
    /// Is the image `coredns`
    #[command(hide = true)]
    Dns {
        /// What that program would be told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        ignored: Vec<String>,
    },
}

#[allow(clippy::print_stdout, reason = "a command's own output")]
fn up(options: &Options) -> Result<()> {
    let cluster = Cluster::start(options)?;
    println!(
        "KUBECONFIG={} nsenter --net=/proc/{}/ns/net",
        cluster.kubeconfig().display(),
        cluster.process()
    );
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Up(options) => up(&options),
        Command::Run(run) => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let done = runtime.block_on(inside::run(run));
            // Nothing in it needs an orderly end: all processes in here die with this one.
            runtime.shutdown_background();
            done
        }
        Command::Container { spec } => container::become_it(&spec),
        Command::Dns { .. } => dns::serve(),
    }
}
