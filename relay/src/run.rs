//! A whole relay: all fleets, all sockets, one way to stop and one to reload.

mod doors;
mod reload;
mod start;

pub use doors::Handed;

use crate::admin::Admin;
use crate::config::{Config, ConfigError};
use crate::fleet::{Fleet, FleetError, Life};
use crate::metrics::Metrics;
use crate::roster::Roster;
use crate::serve::admit::Frontend;
use crate::serve::grpc::Limits;
use crate::serve::listen::{ListenError, UnixSocket};
use crate::serve::share::Shares;
use crate::serve::tls::TlsError;
use crate::serve::token::KeysError;
use moorgate_snapshot::{Anchor, FleetName, KeyPair};
use reload::Reload;
use start::Starter;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The largest trust file.
const MAX_TRUST: u64 = 1 << 20;
/// Tasks have so long to end.
const END: Duration = Duration::from_secs(10);

/// Why a relay cannot start: the world around it is not as it should be.
#[derive(Debug, Error)]
pub enum RunError {
    /// The trust file.
    #[error("trust file {path}: {reason}")]
    Trust {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The key that signs reports.
    #[error("report key {path}: {reason}")]
    ReportKey {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A fleet.
    #[error("fleet {fleet}: {source}")]
    Fleet {
        /// The fleet.
        fleet: FleetName,
        /// Why.
        source: FleetError,
    },
    /// The Kubernetes API server.
    #[error("--kubernetes: {0}")]
    Kubernetes(String),
    /// A socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The TLS files.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file of members.
    #[error("--member-file: {0}")]
    Members(ConfigError),
    /// The keys of tokens.
    #[error("--token-keys: {0}")]
    TokenKeys(#[from] KeysError),
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    fleets: Roster,
    metrics: Arc<Metrics>,
    drain: CancellationToken,
    stop: CancellationToken,
    ended: mpsc::Receiver<()>,
    streams: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    max_streams: usize,
    drain_window: Duration,
    trust: PathBuf,
    late_trust: watch::Sender<Anchor>,
    files: Reload,
    health: Option<SocketAddr>,
    tcp: Vec<SocketAddr>,
}

impl Relay {
    /// Starts everything. What the cache holds is served at once; the store is not waited for.
    pub async fn start(config: Config) -> Result<Self, RunError> {
        Self::start_with(config, Handed::default()).await
    }

    /// The same, with sockets that somebody else holds.
    pub async fn start_with(config: Config, handed: Handed) -> Result<Self, RunError> {
        let metrics = Arc::new(Metrics::default());
        metrics.set("moorgate_relay_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        introduce(&config);
        let trust = read_trust(&config.trust)?;
        let tls = match &config.tls {
            Some(files) => Some((files.clone(), watch::Sender::new(files.load()?))),
            None => None,
        };
        let report_key = match config.report_key.clone() {
            Some(path) => {
                let key = read_key(&path)?;
                Some((path, watch::Sender::new(key)))
            }
            None => None,
        };
        let (life, ended) = Life::new();
        let stop = life.stop.clone();
        // Whatever fails below, tasks that were started end with the guard.
        let guard = stop.clone().drop_guard();
        let (live, api) = start::api_server(&config, &metrics, &life).await?;
        let late_trust = watch::Sender::new(trust);
        let starter = Starter {
            config: config.clone(),
            live,
            api,
            report_key: report_key.as_ref().map(|(_, sender)| sender.subscribe()),
            trust: late_trust.subscribe(),
            metrics: Arc::clone(&metrics),
        };
        let fleets = starter.roster(&life)?;
        let drain = stop.child_token();
        let frontend = frontend(&config, &drain);
        let (streams, connections) =
            (Arc::clone(&frontend.limits.streams), Arc::clone(&frontend.connections));
        let tokens = doors::tokens(&config).await?;
        let token_keys = tokens.as_ref().map(|tokens| Arc::clone(&tokens.keys));
        let members = doors::Roll::open(&config, &fleets)?;
        members.reopen().await;
        let admin = Admin {
            fleets: fleets.clone(),
            metrics: Arc::clone(&metrics),
            ready_acked: config.ready_acked,
            drain: drain.clone(),
        };
        let health = match config.health {
            Some(address) => Some(serve_health(address, admin.clone(), &life).await?),
            None => None,
        };
        if let Some(path) = &config.admin {
            let socket = UnixSocket::bind(path, 0o600)?;
            // Waited for, since the socket takes its file with it: not that of the relay that starts next.
            life.spawn(serve_http(socket, admin.admin(), stop.clone()));
        }
        let doors = doors::Doors { config: &config, fleets: &fleets, metrics: &metrics, frontend: &frontend };
        let proofs = (members.subscribe(), tls.as_ref().map(|(_, sender)| sender), tokens);
        let tcp = doors.open(proofs, handed).await?;
        let _ = guard.disarm();
        let files = Reload { tls, token_keys, report_key, members };
        files.watch(&stop);
        Ok(Self {
            fleets,
            metrics,
            drain,
            stop,
            ended,
            streams,
            connections,
            max_streams: config.max_streams.min(Semaphore::MAX_PERMITS),
            drain_window: config.drain,
            trust: config.trust,
            late_trust,
            files,
            health,
            tcp,
        })
    }

    /// The fleets that are open.
    pub fn fleets(&self) -> Vec<Fleet> {
        self.fleets.all()
    }

    /// The metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The health address, with the port that was found.
    pub fn health(&self) -> Option<SocketAddr> {
        self.health
    }

    /// The TCP addresses, with the ports that were found.
    pub fn tcp(&self) -> &[SocketAddr] {
        &self.tcp
    }

    /// Reads the trust file, the key of reports, the TLS files, the file of members and the keys of tokens again. What
    /// cannot be used is reported, and what was read before stays.
    pub async fn reload(&self) {
        match read_trust(&self.trust) {
            Ok(trust) => {
                // First for those that are opened meanwhile.
                self.late_trust.send_replace(trust.clone());
                for fleet in self.fleets.all() {
                    fleet.trust(trust.clone()).await;
                }
                tracing::info!("trusted keys were read again");
            }
            Err(error) => tracing::error!(%error, "the keys that were trusted before stay"),
        }
        self.files.again().await;
    }

    /// Stops: no new streams, GOAWAY, streams end one after the other, then everything else.
    pub async fn stop(mut self) {
        self.drain.cancel();
        let all = u32::try_from(self.max_streams).unwrap_or(u32::MAX);
        let grace = self.drain_window + Duration::from_secs(1);
        // A stream has ended when its client was told so: connections go last.
        let gone = async {
            let _ = self.streams.acquire_many(all).await;
            let _ = self.connections.acquire_many(all).await;
        };
        let _ = tokio::time::timeout(grace, gone).await;
        self.stop.cancel();
        // Until they have ended, tasks hold the cache.
        let _ = tokio::time::timeout(END, self.ended.recv()).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs a relay until `shutdown`, then drains it.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let relay = Relay::start(config).await?;
    shutdown.await;
    relay.stop().await;
    Ok(())
}

fn introduce(config: &Config) {
    let name = config.identity.name();
    if let Some(unfit) = &config.unfit_name {
        tracing::warn!(%name, unfit, "no name of a relay: a like one is used; give it one with --name");
    }
    tracing::info!(%name, labels = ?config.identity.labels(), "this relay");
}

/// What clients may take. One of several fleets cannot take all of it.
fn frontend(config: &Config, drain: &CancellationToken) -> Frontend {
    let most = config.max_streams;
    let limits = Limits::new(config.max_request, most, drain.clone(), config.drain);
    let many = config.on_demand.is_some() || config.fleets.len() > 1;
    let of_fleet = if many { most / 4 * 3 } else { most };
    Frontend {
        limits: Limits {
            shares: Shares::new(config.max_streams_per_client),
            fleets: Shares::new(of_fleet),
            ..limits
        },
        connections: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
        shares: Shares::new(config.max_streams_per_client),
    }
}

fn read_trust(path: &Path) -> Result<Anchor, RunError> {
    let error = |reason: String| RunError::Trust { path: path.to_owned(), reason };
    let bytes = crate::bind::file::read(path, MAX_TRUST).map_err(|cause| error(cause.to_string()))?;
    Anchor::parse(&bytes).map_err(|cause| error(cause.to_string()))
}

fn read_key(path: &Path) -> Result<Arc<KeyPair>, RunError> {
    let error = |reason: String| RunError::ReportKey { path: path.to_owned(), reason };
    let pem = crate::bind::file::read(path, MAX_TRUST).map_err(|cause| error(cause.to_string()))?;
    KeyPair::from_pem(&pem).map(Arc::new).map_err(|cause| error(cause.to_string()))
}

async fn serve_health(address: SocketAddr, admin: Admin, life: &Life) -> Result<SocketAddr, ListenError> {
    let error = |source| ListenError::Bind { address: address.to_string(), source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(error)?;
    let bound = listener.local_addr().map_err(error)?;
    life.spawn(serve_http(listener, admin.health(), life.stop.clone()));
    Ok(bound)
}

async fn serve_http<L>(listener: L, router: axum::Router, stop: CancellationToken)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let serve = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = serve.await {
        tracing::error!(%error, "an HTTP address ended");
    }
}
