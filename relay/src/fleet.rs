//! One fleet: ties pulling, cache, bindings and serving together, and decides which snapshot is in force.
//!
//! ```text
//! pull ─entry, snapshots─▶ ┌───────┐ ─bindings─▶ binder
//! Envoys ─took, refused──▶ │ fleet │ ◀─endpoints, secrets─┘
//! pin file, admin ───────▶ └───┬───┘
//!                              └─view─▶ hub ─▶ streams
//! ```

mod choice;
mod loaded;
mod status;
mod task;

pub use choice::Because;
pub use status::{Status, Store as StoreStatus};

use crate::bind::binder::Sources;
use crate::canary::AdminAddress;
use crate::clock::Clock;
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use crate::serve::hub::Hub;
use crate::serve::stream::Settings;
use moorgate_snapshot::{Anchor, Channel, Digest, FleetName, KeyPair, RelayIdentity, Store};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// What a fleet needs to run.
#[derive(Debug, Clone)]
pub struct FleetConfig {
    /// Its name.
    pub fleet: FleetName,
    /// The channel that it follows.
    pub channel: Channel,
    /// Who this relay is, for waves and reports.
    pub identity: RelayIdentity,
    /// The key that signs its reports, as it was read last; without one there are none.
    pub report_key: Option<watch::Receiver<Arc<KeyPair>>>,
    /// Where its Envoys show their statistics.
    pub envoy_admins: Vec<AdminAddress>,
    /// Where it pulls from; a later one is asked when an earlier one fails.
    pub stores: Vec<Store>,
    /// A store that came with the machine, for a start without any other.
    pub seed: Option<Store>,
    /// Whose releases it believes.
    pub trust: Anchor,
    /// The root of the disk cache; none keeps everything in memory.
    pub cache: Option<PathBuf>,
    /// Where an operator may pin besides the cache.
    pub pin_file: Option<PathBuf>,
    /// Where endpoints and secrets come from.
    pub sources: Sources,
    /// The time between polls.
    pub poll_interval: Duration,
    /// How streams behave.
    pub settings: Settings,
    /// The time of day.
    pub clock: Clock,
    /// Spreads polls and retries.
    pub jitter: Jitter,
}

/// A fleet that cannot be started.
#[derive(Debug, Error)]
pub enum FleetError {
    /// Another relay has the cache.
    #[error(transparent)]
    Cache(#[from] crate::cache::CacheError),
}

/// A command that was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CommandError {
    /// The snapshot is not in this relay's cache.
    #[error("snapshot {0} is not in this relay's cache: only what it has served can be pinned")]
    NotCached(Digest),
    /// The operator's own file pins, and is not this relay's to change.
    #[error("{0} pins this fleet: change or remove that file")]
    PinFile(PathBuf),
    /// The file cannot be written or removed.
    #[error("the pin cannot be changed: {0}")]
    Io(String),
    /// The fleet has ended.
    #[error("the relay stops")]
    Stopped,
}

/// What an operator asks a fleet.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve this snapshot until further notice, whatever the channel says.
    Pin(Digest, oneshot::Sender<Result<(), CommandError>>),
    /// Follow the channel again.
    Unpin(oneshot::Sender<Result<(), CommandError>>),
    /// Try again what was refused.
    Forgive(oneshot::Sender<Result<(), CommandError>>),
    /// Judge releases by these keys from now on.
    Trust(Box<Anchor>),
}

/// How tasks are told to end, and how it is known that they did.
#[derive(Debug, Clone)]
pub struct Life {
    /// Cancelled when they are to end.
    pub stop: CancellationToken,
    /// Each task holds one until it has ended.
    pub alive: mpsc::Sender<()>,
}

impl Life {
    /// A new life, and what closes when all tasks have ended and this value is gone.
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (alive, ended) = mpsc::channel(1);
        (Self { stop: CancellationToken::new(), alive }, ended)
    }

    /// Spawns a task that lives until it ends by itself.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self.alive.clone();
        tokio::spawn(async move {
            task.await;
            drop(alive);
        });
    }
}

/// A running fleet.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Its streams.
    pub hub: Arc<Hub>,
    /// What it does.
    pub status: watch::Receiver<Arc<Status>>,
    commands: mpsc::Sender<Command>,
}

impl Fleet {
    /// Starts the tasks of a fleet. What the cache holds is served before the first poll.
    pub fn start(config: FleetConfig, metrics: Arc<Metrics>, life: &Life) -> Result<Self, FleetError> {
        task::start(config, metrics, life)
    }

    /// Its name.
    pub fn name(&self) -> &FleetName {
        self.hub.fleet()
    }

    /// Serves a snapshot of the cache until it is unpinned, whatever the channel says.
    pub async fn pin(&self, snapshot: Digest) -> Result<(), CommandError> {
        self.ask(|reply| Command::Pin(snapshot, reply)).await
    }

    /// Follows the channel again.
    pub async fn unpin(&self) -> Result<(), CommandError> {
        self.ask(Command::Unpin).await
    }

    /// Forgets what Envoys refused: it is tried again.
    pub async fn forgive(&self) -> Result<(), CommandError> {
        self.ask(Command::Forgive).await
    }

    /// Judges releases by these keys from now on.
    pub async fn trust(&self, trust: Anchor) {
        let _ = self.commands.send(Command::Trust(Box::new(trust))).await;
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), CommandError>>) -> Command,
    ) -> Result<(), CommandError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| CommandError::Stopped)?;
        answer.await.unwrap_or(Err(CommandError::Stopped))
    }
}
