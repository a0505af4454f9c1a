//! What runs in a cluster's namespaces: control plane, nodes and load balancer, until the one who wanted them is gone.

use super::kubelet::Kubelet;
use super::names::Folder;
use super::{Options, balancer, control::Control, credentials, definitions, dns, network};
use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::io::AsyncReadExt as _;

/// A line of the cluster's own log.
#[allow(clippy::print_stderr, reason = "standard error is the cluster's log")]
pub(super) fn say(line: &str) {
    eprintln!("{} {line}", super::names::now());
}

/// A client with the credentials of a kubeconfig.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    // Another part of the process may have chosen it already; there is one to choose only.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Kubeconfig::read_from(kubeconfig).with_context(|| kubeconfig.display().to_string())?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// What `cluster run` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Run {
    /// An empty folder for everything that it writes
    #[arg(long)]
    folder: PathBuf,
    /// The control plane's program
    #[arg(long)]
    kubernetes: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// Runs a cluster; writes `ready` when it is; returns when standard input ends.
pub async fn run(run: Run) -> Result<()> {
    let started = Instant::now();
    let folder = Folder(run.folder);
    std::fs::create_dir_all(folder.path("logs/pods"))?;
    std::fs::create_dir_all(folder.path("pods"))?;
    network::prepare(run.options.nodes).await?;
    credentials::make(&folder)?;
    let mut control = Control::start(&folder, &run.kubernetes).await?;
    say(&format!("the API server is ready after {:.1} s", started.elapsed().as_secs_f64()));
    let client = client(&folder.path("kubeconfig")).await?;
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    let work = async {
        let kubelet = Kubelet::start(client.clone(), folder.clone(), run.options.nodes).await?;
        balancer::start(&client);
        dns::serve_services(&client).await?;
        definitions::install(&client, &run.options.gateway_api, run.options.channel).await?;
        std::fs::write(folder.path("ready"), "")?;
        say(&format!("the cluster is ready after {:.1} s", started.elapsed().as_secs_f64()));
        let mut byte = [0_u8; 1];
        let mut stdin = tokio::io::stdin();
        while stdin.read(&mut byte).await? > 0 {
            ask.send(byte[0]).await?;
        }
        drop(kubelet);
        anyhow::Ok(())
    };
    tokio::select! {
        done = work => done,
        ended = control.hold(asked) => ended,
    }
}
