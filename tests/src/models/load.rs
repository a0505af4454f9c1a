//! Steady requests, in plain text and over TLS, each on a connection of its own or on one that is used again: whatever has
//! no good answer is lost. A connection that was closed while it was idle takes no request, as HTTP has it.

use crate::cluster::Cluster;
use crate::http::{Answer, Connection, Request, Target};
use anyhow::{Result, ensure};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two requests of one lane.
const PAUSE: Duration = Duration::from_millis(20);

/// A place to send requests to.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Whose it is: requests stop when it is closed.
    pub fleet: String,
    /// Where.
    pub target: Target,
    /// The host that is asked for.
    pub host: String,
    /// One connection for many requests.
    pub kept: bool,
}

/// What happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// What became of those without a good answer.
    pub lost: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    lost: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// The act that is under way.
    during: Mutex<&'static str>,
    /// A fleet that nobody asks any more.
    closed: Mutex<Option<String>>,
}

/// Requests under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Load(Arc<Shared>);

impl Load {
    /// Sends requests along all lanes, in the cluster's network, until [`Self::stop`].
    pub(super) fn run(&self, cluster: &Cluster, lanes: &[Lane]) -> Result<()> {
        cluster.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let lanes = lanes.iter().map(|lane| self.lane(lane));
                futures::future::join_all(lanes).await;
            });
            Ok(())
        })
    }

    /// Says which act is under way, for what is lost meanwhile.
    pub(super) fn during(&self, act: &'static str) {
        *self.0.during.lock().unwrap_or_else(PoisonError::into_inner) = act;
    }

    /// Nobody asks this fleet any more.
    pub(super) fn close(&self, fleet: &str) {
        *self.0.closed.lock().unwrap_or_else(PoisonError::into_inner) = Some(fleet.to_owned());
        // What is under way comes to its end.
        std::thread::sleep(PAUSE * 20);
    }

    /// Ends.
    pub(super) fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    /// What happened so far.
    pub(super) fn report(&self) -> Report {
        let lost = self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Report { sent: self.0.sent.load(Ordering::Relaxed), lost }
    }

    async fn lane(&self, lane: &Lane) {
        let request = Request::get(&lane.host, "/");
        let mut open: Option<Connection> = None;
        while !self.0.stop.load(Ordering::Relaxed) {
            let closed = self.0.closed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if closed.as_ref() == Some(&lane.fleet) {
                return;
            }
            let answered = one(lane, &request, &mut open).await;
            self.0.sent.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = answered {
                let during = *self.0.during.lock().unwrap_or_else(PoisonError::into_inner);
                let text = format!("{} during {during}: {error:#}", lane.fleet);
                self.0.lost.lock().unwrap_or_else(PoisonError::into_inner).push(text);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn one(lane: &Lane, request: &Request, open: &mut Option<Connection>) -> Result<()> {
    let kept = open.take().filter(|connection| !connection.is_closed());
    let answer = match kept {
        // A connection that ends before it answers anything was closed as it was asked, and the request may be repeated
        // (RFC 9110 §9.2.2).
        Some(mut connection) => match connection.send(request).await {
            Ok(answer) => {
                *open = Some(connection);
                answer
            }
            Err(_) => fresh(lane, request, open).await?,
        },
        None => fresh(lane, request, open).await?,
    };
    ensure!(answer.status == 200, "status {}", answer.status);
    if answer.header("connection") == Some("close") {
        *open = None;
    }
    Ok(())
}

async fn fresh(lane: &Lane, request: &Request, open: &mut Option<Connection>) -> Result<Answer> {
    let mut connection = Connection::open(&lane.target).await?;
    let request = if lane.kept { request.clone() } else { request.clone().header("connection", "close") };
    let answer = connection.send(&request).await?;
    if lane.kept {
        *open = Some(connection);
    }
    Ok(answer)
}

/// Who answers one request: the backend.
pub(super) async fn who(target: &Target, host: &str) -> Result<String> {
    let mut connection = Connection::open(target).await?;
    let answer = connection.send(&Request::get(host, "/").header("connection", "close")).await?;
    ensure!(answer.status == 200, "status {}", answer.status);
    let said: serde_json::Value = serde_json::from_slice(&answer.body)?;
    Ok(said["pod"].as_str().unwrap_or_default().to_owned())
}

/// Where plain text is spoken at an address.
pub(super) fn plain(address: SocketAddr) -> Target {
    Target::plain(0).at(address)
}
