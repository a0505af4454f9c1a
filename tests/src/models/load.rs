//! Steady requests, in plain text and over TLS, each on a connection of its own or on one that is used again: whatever has
//! no good answer is lost. A connection that was closed while it was idle takes no request, as HTTP has it; what was sent
//! on one at that very moment is sent again, and counted.

use crate::cluster::Cluster;
use crate::http::{Answer, Connection, Request, Target};
use anyhow::{Result, ensure};
use std::error::Error as _;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Between two requests of one lane.
const PAUSE: Duration = Duration::from_millis(20);

/// What [`Connection::send`] says of errors that came before the answer's head.
const BEFORE_ANSWER: [&str; 2] = ["the connection was closed", "sending"];

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
    /// Of these, those that were sent again on a new connection, because theirs was closed before any answer began.
    pub repeated: u64,
    /// What became of those without a good answer.
    pub lost: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    repeated: AtomicU64,
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
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report { sent: count(&self.0.sent), repeated: count(&self.0.repeated), lost }
    }

    async fn lane(&self, lane: &Lane) {
        let request = Request::get(&lane.host, "/");
        let mut open: Option<Connection> = None;
        while !self.0.stop.load(Ordering::Relaxed) {
            let closed = self.0.closed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if closed.as_ref() == Some(&lane.fleet) {
                return;
            }
            let answered = one(lane, &request, &mut open, &self.0.repeated).await;
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

async fn one(
    lane: &Lane,
    request: &Request,
    open: &mut Option<Connection>,
    repeated: &AtomicU64,
) -> Result<()> {
    let kept = open.take().filter(|connection| !connection.is_closed());
    let answer = match kept {
        Some(mut connection) => match connection.send(request).await {
            Ok(answer) => {
                *open = Some(connection);
                answer
            }
            Err(error) if unanswered(&error) => {
                repeated.fetch_add(1, Ordering::Relaxed);
                fresh(lane, request, open).await?
            }
            Err(error) => return Err(error),
        },
        None => fresh(lane, request, open).await?,
    };
    ensure!(answer.status == 200, "status {}", answer.status);
    if answer.header("connection") == Some("close") {
        *open = None;
    }
    Ok(())
}

/// Whether a connection ended, by hyper's word, before an answer began: it was closed as it was asked, and the request may be
/// repeated (RFC 9110 §9.2.2). A reset is the same, by a side that had not read what was sent yet. Whatever else went wrong is
/// a loss: an answer that is cut off, silence.
fn unanswered(error: &anyhow::Error) -> bool {
    // An answer that breaks off in its body is no complete message either, so it counts where `Connection::send` was.
    let before = error.downcast_ref::<&str>().is_some_and(|at| BEFORE_ANSWER.contains(at));
    let reset = |error: &hyper::Error| {
        let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        io.is_some_and(|io| matches!(io.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
    };
    let ended = |error: &hyper::Error| {
        error.is_canceled() || error.is_closed() || error.is_incomplete_message() || reset(error)
    };
    before && error.downcast_ref::<hyper::Error>().is_some_and(ended)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

    /// Answers a request well, says something to the second one on the same connection, closes it, and answers the next one
    /// well.
    async fn serve(listener: TcpListener, second: &'static [u8]) {
        for answers in [&[GOOD, second][..], &[GOOD]] {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in answers {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0, "no whole request");
                }
                stream.write_all(answer).await.unwrap();
            }
        }
    }

    /// What becomes of a second request on a connection that is closed behind this answer, and how often it is repeated.
    async fn second(answer: &'static [u8]) -> (Result<()>, u64) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = plain(listener.local_addr().unwrap());
        let lane = Lane { fleet: String::new(), target, host: "a.example".to_owned(), kept: true };
        let server = tokio::spawn(serve(listener, answer));
        let (request, repeated, mut open) = (Request::get(&lane.host, "/"), AtomicU64::new(0), None);
        one(&lane, &request, &mut open, &repeated).await.unwrap();
        assert!(open.is_some(), "the connection is kept");
        let outcome = one(&lane, &request, &mut open, &repeated).await;
        server.abort();
        (outcome, repeated.load(Ordering::Relaxed))
    }

    #[test]
    fn a_request_is_repeated_only_where_no_answer_had_begun() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (outcome, repeated) = second(b"").await;
            outcome.unwrap();
            assert_eq!(repeated, 1, "the connection was closed as it was asked");
            let (outcome, repeated) = second(GOOD).await;
            outcome.unwrap();
            assert_eq!(repeated, 0, "it was answered");
            let cut_off: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf";
            let refused: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            for answer in [cut_off, refused, b"no HTTP at all\r\n\r\n"] {
                let (outcome, repeated) = second(answer).await;
                let shown = String::from_utf8_lossy(answer);
                assert!(outcome.is_err(), "{shown} counts as an answer");
                assert_eq!(repeated, 0, "{shown} was passed over");
            }
        });
    }
}
