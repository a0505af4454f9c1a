//! `moorgate watch`

use super::access::{KeySource, StoreArgs, duration, nonce, now};
use super::input::{self, ClusterArgs, Crds, Reading};
use super::render::{FleetArgs, PoolArgs};
use super::serve_store::{Beside, ServeStoreArgs, Served};
use super::{Exit, Failure, provenance};
use crate::publish::Allow;
use crate::render::{Applier, ReportSecret, Settings};
use crate::source::Sources;
use crate::watch::provision::Provisioner;
use crate::watch::{self, Holder, Options, Seams, Target};
use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use moorgate_snapshot::Channel;
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

/// Watch a cluster: compile in a loop, publish what changed, write Gateway API status
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  moorgate watch --cluster --store s3://gateways --trust trust.json --key file:watch.key
  moorgate watch --cluster --store file:///var/lib/moorgate --trust trust.json --key env:MOORGATE_SIGNING_KEY
  moorgate watch --cluster --store s3://gateways --key file:watch.key --provision --store-secret bucket
  moorgate watch --cluster --store file:///var/lib/moorgate --trust trust.json --key file:watch.key \
    --serve-store 0.0.0.0:8443 --serve-store-cert tls.crt --serve-store-key tls.key --serve-store-account shop/envoy=shop/edge
  moorgate watch --cluster --store file:///var/lib/moorgate --key file:watch.key --provision --serve-store 0.0.0.0:8443
  moorgate watch --cluster --store s3://gateways --trust trust.json --status-only

Runs until it is told to stop. Of several replicas the holder of a Lease writes; all compile. Secrets are read by name, and
only those that Gateways of ours refer to. A fleet whose Gateway is deleted is retired; one whose Gateway only lost its class
goes on. Routes that are deleted in the cluster end at once; a snapshot that loses many for another reason, as a CRD that is
gone or a store that another cluster wrote, is held back, and its Gateway's condition moorgate.dev/Published says so. With
--provision and --serve-store no bucket is needed: the store lies on the disk of the replica that writes, which may be lost,
since the cluster holds what relays have been shown. Log lines go to stderr: diagnostics once when they appear, and once when
they are gone.")]
pub(super) struct WatchArgs {
    #[command(flatten)]
    live: ClusterArgs,
    #[command(flatten)]
    store: StoreArgs,
    /// The key to sign with: file:PATH, env:NAME or exec:COMMAND
    #[arg(
        long,
        value_name = "KEY",
        env = "MOORGATE_KEY",
        hide_env_values = true,
        required_unless_present = "status_only"
    )]
    key: Option<KeySource>,
    /// Never publish: write the status that others signed beside what they published, of objects that are as they were then,
    /// and what relays report. Needs --trust
    #[arg(long)]
    status_only: bool,
    /// The channel
    #[arg(long, default_value_t = Channel::stable())]
    channel: Channel,
    /// Compile GatewayClasses of this controller
    #[arg(long, value_name = "NAME", default_value = crate::attach::CONTROLLER_NAME)]
    controller_name: String,
    /// One fleet serves all Gateways of this GatewayClass, class/NAME; repeats
    #[arg(long = "merge-class", value_name = "NAME")]
    merged: Vec<String>,
    /// Apply EnvoyPatchPolicies, which change what Envoy gets behind the back of everything else
    #[arg(long)]
    envoy_patch_policy: bool,
    /// Check against these CRDs of the Gateway API [default: experimental; the API server knows its own]
    #[arg(long, value_enum)]
    crds: Option<Crds>,
    /// The cluster does not hold all objects of this kind: a missing one is no error
    #[arg(long, value_name = "KIND")]
    open: Vec<String>,
    /// Proxies may connect to this address, range, name or path of a socket though it lies in their own machine or network;
    /// repeats
    #[arg(long, value_name = "PLACE", value_parser = input::place)]
    allow_address: Vec<String>,
    /// Who does this, in the log of releases
    #[arg(long, value_name = "NAME", env = "MOORGATE_AUTHOR", default_value = "moorgate watch")]
    author: String,
    #[command(flatten)]
    allowed: Allowed,
    /// Retire a fleet so long after its Gateway was deleted
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    retire_after: time::Duration,
    #[command(flatten)]
    lease: LeaseArgs,
    #[command(flatten)]
    provision: ProvisionArgs,
    #[command(flatten)]
    front: ServeStoreArgs,
    /// The address of /livez, /readyz and /metrics, such as 0.0.0.0:8081
    #[arg(long, value_name = "ADDRESS")]
    health: Option<SocketAddr>,
    /// Log lines as text or json
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT", env = "MOORGATE_LOG_FORMAT")]
    log_format: LogFormat,
    /// What to log: error, warn, info, debug, or a filter by module
    #[arg(long, value_name = "FILTER", env = "MOORGATE_LOG", default_value = "info")]
    log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum LogFormat {
    /// A line for people
    #[default]
    Text,
    /// An object a line
    Json,
}

/// What goes beyond the usual.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "flags of a command line are independent")]
struct Allowed {
    /// Publish to another writer's channel, and make it this one's
    #[arg(long)]
    take_over: bool,
    /// Publish a state of the cluster that is older than the published one, as after a restore of etcd
    #[arg(long)]
    allow_unrelated: bool,
    /// Publish even if more than a fifth of the routes go, or all, for whatever reason. What was deleted in this cluster is
    /// published anyway, unless --guard-deletions
    #[arg(long)]
    allow_shrink: bool,
    /// Hold back a fleet that loses more than a fifth of its routes, or all, also when they were deleted in this cluster
    #[arg(long, conflicts_with = "allow_shrink")]
    guard_deletions: bool,
    /// Publish what relays report not to understand: they keep what they have
    #[arg(long)]
    allow_old_relays: bool,
}

/// Whether fleets are made too, and how.
#[derive(Debug, Args)]
struct ProvisionArgs {
    /// Make each Gateway's fleet: Envoys with their relays, Service, ServiceAccount, Roles, NetworkPolicy
    #[arg(long)]
    provision: bool,
    /// The store as relays reach it, if not by the URL of --store
    #[arg(long, value_name = "URL", value_delimiter = ',', requires = "provision")]
    relay_store: Vec<String>,
    #[command(flatten)]
    fleets: FleetArgs,
    #[command(flatten)]
    relays: PoolArgs,
}

/// Which replica writes.
#[derive(Debug, Args)]
struct LeaseArgs {
    /// The namespace of the Lease [default: that of this pod, or of the kubeconfig's context]
    #[arg(long, value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
    /// The name of the Lease
    #[arg(long, value_name = "NAME", default_value = "moorgate-watch")]
    lease_name: String,
    /// This replica's name in the Lease; random letters are added
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "moorgate")]
    identity: String,
    /// This is the only replica: take no Lease
    #[arg(long)]
    no_lease: bool,
}

impl LeaseArgs {
    /// The namespace of the Lease, and of what lies beside it.
    fn namespace<'a>(&'a self, own: &'a str) -> &'a str {
        self.lease_namespace.as_deref().unwrap_or(own)
    }
}

impl WatchArgs {
    /// The same options as those of commands that compile once.
    fn reading(&self) -> Reading {
        Reading {
            rev: None,
            path: None,
            git_token: None,
            namespace: None,
            crds: self.crds,
            controller_name: self.controller_name.clone(),
            merged: self.merged.clone(),
            envoy_patch_policy: self.envoy_patch_policy,
            open: self.open.clone(),
            allow_address: self.allow_address.clone(),
            closed: Vec::new(),
            ownership: None,
            deny_warnings: false,
            live: self.live.clone(),
        }
    }

    async fn target(&self) -> Result<Target, Failure> {
        // A key that happens to be in the environment is not taken out.
        let key = self.key.as_ref().filter(|_| !self.status_only);
        let signer = key.map(KeySource::open).transpose()?;
        let trust = self.store.trust(signer.as_ref().map(|signer| signer.public())).await?;
        let allowed = &self.allowed;
        Ok(Target {
            store: self.store.open()?,
            mirrors: self.store.open_mirrors()?,
            trust,
            reporters: watch::Reporters::default(),
            signer,
            channel: self.channel.clone(),
            author: self.author.clone(),
            allow: Allow {
                shrink: allowed.allow_shrink,
                other_writer: allowed.take_over,
                unrelated: allowed.allow_unrelated,
                bad: false,
                old_relays: allowed.allow_old_relays,
            },
            guard_deletions: allowed.guard_deletions,
            provenance: provenance::of(&self.reading(), &Sources::default()),
            retire_after: Duration::try_from(self.retire_after).unwrap_or_default(),
            seams: Seams { now, nonce: random_text },
        })
    }

    /// Fleets that follow what is published here. Their relays trust what the trust file says, or else our own key.
    fn provisioner(
        &self,
        client: &kube::Client,
        target: &Target,
        served: Option<&Served>,
    ) -> Result<Option<watch::Provision>, Failure> {
        let args = &self.provision;
        if !args.provision {
            return Ok(None);
        }
        let trust = match (&self.store.trust, &target.signer) {
            (Some(path), _) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
            (None, Some(signer)) => signer.public().to_pem(),
            (None, None) => {
                return Err(Failure::new(Exit::Usage, anyhow!("whom shall relays trust? give --trust")));
            }
        };
        let stores = match served {
            _ if !args.relay_store.is_empty() => args.relay_store.clone(),
            Some(served) => vec![served.url.clone()],
            None => self.store.store.clone(),
        };
        let common = args.fleets.settings(Applier::Watch, &self.controller_name, trust)?;
        let settings = Settings {
            model: args.relays.model()?,
            stores,
            store_tokens: common.store_tokens || served.is_some(),
            channel: self.channel.clone(),
            report_secret: Some(ReportSecret::PerFleet),
            ..common
        };
        settings.check().map_err(|error| Failure::new(Exit::Usage, error))?;
        let mut provisioner = Provisioner::new(client.clone(), settings);
        if let Some(served) = served {
            // A CA that was given takes the place of the store's own.
            let authority = served.authority.clone().filter(|_| !args.fleets.names_a_store_ca());
            provisioner = provisioner.beside(served.accounts.clone(), authority);
        }
        Ok(Some(Box::new(move |view| Box::pin(provisioner.run(view)))))
    }

    fn holder(&self, namespace: &str) -> Result<Option<Holder>, Failure> {
        let lease = &self.lease;
        if lease.no_lease {
            return Ok(None);
        }
        Ok(Some(Holder {
            namespace: lease.namespace(namespace).to_owned(),
            name: lease.lease_name.clone(),
            // Two that were given one name are two all the same.
            identity: format!("{}-{}", lease.identity, &nonce()?[..8]),
        }))
    }
}

fn random_text() -> Result<String, String> {
    nonce().map_err(|failure| failure.error.to_string())
}

/// Runs the command.
pub(super) async fn run(args: WatchArgs) -> Result<Exit, Failure> {
    if !args.live.cluster {
        return Err(Failure::new(Exit::Usage, anyhow!("what to watch? say --cluster")));
    }
    start_logging(&args)?;
    let health = match args.health {
        Some(address) => {
            Some(TcpListener::bind(address).await.with_context(|| format!("--health {address}"))?)
        }
        None => None,
    };
    if let Some(address) = health.as_ref().and_then(|listener| listener.local_addr().ok()) {
        tracing::info!(%address, "probes and metrics");
    }
    let (client, url) = args.live.connect().await?;
    let target = args.target().await?;
    let (stop_out, stop) = tokio::sync::watch::channel(false);
    let (leads, _) = tokio::sync::watch::channel(false);
    let beside = Beside {
        client: &client,
        namespace: args.lease.namespace(client.default_namespace()),
        target: &target,
        provisions: args.provision.provision.then_some(&args.provision.relay_store),
        leads: leads.subscribe(),
    };
    let store_url = args.store.store.first().map_or("", String::as_str);
    let mut served = args.front.start(&beside, store_url, stop.clone()).await?;
    let options = Options {
        compile: args.reading().options(),
        holder: args.holder(client.default_namespace())?,
        health,
        status_only: args.status_only,
        provision: args.provisioner(&client, &target, served.as_ref())?,
        takeover: served.as_mut().and_then(|served| served.takeover.take()),
        leads,
        target,
    };
    let mut running = Box::pin(watch::run(client, url, options, stop));
    tokio::select! {
        () = &mut running => return Err(Failure::new(Exit::Environment, anyhow!("a part of the loop ended"))),
        signal = told_to_stop() => signal?,
    }
    stop_out.send_replace(true);
    // The Lease is given back.
    let _ = tokio::time::timeout(Duration::from_secs(10), running).await;
    if let Some(served) = served {
        served.ended().await;
    }
    Ok(Exit::Fine)
}

fn start_logging(args: &WatchArgs) -> Result<(), Failure> {
    let filter =
        EnvFilter::try_new(&args.log).context("--log").map_err(|error| Failure::new(Exit::Usage, error))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match args.log_format {
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
    Ok(started.map_err(|error| anyhow!("cannot log: {error}"))?)
}

#[cfg(unix)]
async fn told_to_stop() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).context("signals")?;
    tokio::select! {
        _ = term.recv() => {}
        result = tokio::signal::ctrl_c() => result.context("signals")?,
    }
    Ok(())
}

#[cfg(not(unix))]
async fn told_to_stop() -> Result<(), Failure> {
    Ok(tokio::signal::ctrl_c().await.context("signals")?)
}
