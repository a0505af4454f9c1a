//! Five hundred requests a second: HTTP/1.1 and HTTP/2 in plain text, and both over TLS.
//!
//! A client obeys what it is told: a connection that was announced as closing takes no new request, and a request that
//! such a connection has not begun goes out on a new one. Everything else without a good answer is lost.

use super::stage::{HOSTS, Stage};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use moorgate_tests::{runtime, wait};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsConnector;

/// Requests a second, all lanes together.
pub(crate) const PER_SECOND: u64 = 500;
/// No answer within this time is a lost request.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A client that is told again and again to try another connection gives up.
const ATTEMPTS: usize = 5;

/// A variant of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
}

/// Where a lane sends its requests: a variant of HTTP, with or without TLS.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    version: Version,
    address: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
}

/// What happened so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    /// Requests sent, by lane.
    pub(crate) sent: BTreeMap<String, u64>,
    /// Connections that were announced as closing.
    pub(crate) renewed: u64,
    /// Requests that such a connection had not begun, and that went out on another.
    pub(crate) retried: u64,
    /// Requests answered 421: that connection was for another listener, and they went out on one of their own.
    pub(crate) misdirected: u64,
    /// Requests without a good answer.
    pub(crate) lost: Vec<String>,
}

impl Report {
    pub(crate) fn nothing_lost(&self) -> Result<()> {
        let first: Vec<_> = self.lost.iter().take(10).collect();
        ensure!(self.lost.is_empty(), "{} requests were lost: {first:#?}", self.lost.len());
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests {:?}, {} lost; {} connections were announced as closing, {} requests not begun on one went out on \
             another, {} were sent to a connection of another listener (421)",
            self.sent.values().sum::<u64>(),
            self.sent,
            self.lost.len(),
            self.renewed,
            self.retried,
            self.misdirected
        )
    }
}

type Shared = Arc<Mutex<Report>>;

fn note(report: &Shared, change: impl FnOnce(&mut Report)) {
    change(&mut report.lock().unwrap_or_else(PoisonError::into_inner));
}

/// The running load.
pub(crate) struct Lanes {
    report: Shared,
    stop: watch::Sender<bool>,
    running: Vec<JoinHandle<()>>,
}

impl Lanes {
    /// Four lanes for each host, at equal rates.
    pub(crate) fn start(stage: &Stage) -> Self {
        let report = Shared::default();
        let (stop, stopped) = watch::channel(false);
        let mut running = Vec::new();
        for (port, tls) in [(stage.http, None), (stage.https, Some(&stage.client))] {
            for version in [Version::One, Version::Two] {
                for host in HOSTS {
                    let address = SocketAddr::from(([127, 0, 0, 1], port));
                    let target = Target { version, address, tls: tls.map(|tls| with_protocol(tls, version)) };
                    let lane = Lane { target, host, report: Arc::clone(&report), open: None };
                    running.push(runtime().spawn(lane.run(stopped.clone())));
                }
            }
        }
        Self { report, stop, running }
    }

    pub(crate) fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many more requests were sent.
    pub(crate) fn wait(&self, count: u64) -> Result<()> {
        let sent = || self.report().sent.values().sum::<u64>();
        let before = sent();
        wait::until(&format!("{count} requests"), || {
            let now = sent();
            if now >= before + count { Ok(()) } else { bail!("{} of them were sent", now - before) }
        })
    }

    /// Lets the requests under way end.
    pub(crate) fn stop(self) -> Report {
        let _ = self.stop.send(true);
        for lane in self.running {
            runtime().block_on(lane).unwrap();
        }
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn with_protocol(config: &Arc<ClientConfig>, version: Version) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(config);
    let protocol: &[u8] = if version == Version::Two { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

type Body = Empty<Bytes>;

#[derive(Clone)]
enum Sender {
    // Taken by one request at a time.
    One(Arc<tokio::sync::Mutex<http1::SendRequest<Body>>>),
    Two(http2::SendRequest<Body>),
}

/// How one attempt ended.
enum Attempt {
    Answered(u16, String),
    /// The connection took no more requests before it had begun this one.
    NotBegun,
    Lost(String),
}

/// Requests of one host in one variant, on one connection at a time.
struct Lane {
    target: Target,
    host: &'static str,
    report: Shared,
    open: Option<Sender>,
}

impl Lane {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        let lanes = 4 * HOSTS.len() as u64;
        let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 * lanes / PER_SECOND));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut running = JoinSet::new();
        while !*stopped.borrow() {
            ticks.tick().await;
            match self.connection().await {
                Err(error) => note(&self.report, |report| report.lost.push(format!("connecting: {error:#}"))),
                // HTTP/2 carries several at a time, HTTP/1.1 one after the other.
                Ok(sender) => match self.target.version {
                    Version::Two => drop(running.spawn(self.request(sender).run())),
                    Version::One => {
                        if self.request(sender).run().await {
                            self.open = None;
                        }
                    }
                },
            }
            while let Some(ended) = running.try_join_next() {
                if ended.unwrap_or(true) {
                    self.open = None;
                }
            }
        }
        running.join_all().await;
    }

    /// The open connection, or a new one.
    async fn connection(&mut self) -> Result<Sender> {
        let closed = match &self.open {
            Some(Sender::One(sender)) => sender.lock().await.is_closed(),
            Some(Sender::Two(sender)) => sender.is_closed(),
            None => false,
        };
        if closed {
            note(&self.report, |report| report.renewed += 1);
            self.open = None;
        }
        if self.open.is_none() {
            self.open = Some(connect(&self.target, self.host).await?);
        }
        self.open.clone().context("a connection")
    }

    fn request(&self, sender: Sender) -> Request {
        Request { sender, target: self.target.clone(), host: self.host, report: Arc::clone(&self.report) }
    }
}

/// One request until it is answered or lost.
struct Request {
    sender: Sender,
    target: Target,
    host: &'static str,
    report: Shared,
}

impl Request {
    /// Whether the lane should open another connection.
    async fn run(self) -> bool {
        let lane =
            format!("{:?}{}", self.target.version, if self.target.tls.is_some() { " TLS" } else { "" });
        note(&self.report, |report| *report.sent.entry(lane).or_default() += 1);
        let mut sender = self.sender;
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            let ended =
                tokio::time::timeout(TIMEOUT, send(&mut sender, self.host, self.target.tls.is_some())).await;
            match ended.unwrap_or_else(|_| Attempt::Lost("no answer in time".to_owned())) {
                Attempt::Answered(200, _) => return attempt > 0,
                Attempt::Answered(421, _) => {
                    note(&self.report, |report| report.misdirected += 1);
                    "421".clone_into(&mut last);
                }
                Attempt::NotBegun => {
                    note(&self.report, |report| report.retried += 1);
                    "not begun".clone_into(&mut last);
                }
                Attempt::Answered(status, text) => {
                    last = format!("status {status}: {text}");
                    break;
                }
                Attempt::Lost(error) => {
                    last = error;
                    break;
                }
            }
            match connect(&self.target, self.host).await {
                Ok(next) => sender = next,
                Err(error) => last = format!("connecting again: {error:#}"),
            }
        }
        let text =
            format!("{} {:?} TLS={}: {last}", self.host, self.target.version, self.target.tls.is_some());
        note(&self.report, |report| report.lost.push(text));
        true
    }
}

async fn connect(target: &Target, host: &'static str) -> Result<Sender> {
    let connecting = async {
        let stream = TcpStream::connect(target.address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        match &target.tls {
            None => speak(target.version, stream).await,
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let name = ServerName::try_from(host)?;
                speak(target.version, connector.connect(name, stream).await.context("TLS handshake")?).await
            }
        }
    };
    tokio::time::timeout(TIMEOUT, connecting).await.context("no connection in time")?
}

async fn speak(
    version: Version,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Sender> {
    match version {
        Version::One => {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(Sender::One(Arc::new(tokio::sync::Mutex::new(sender))))
        }
        Version::Two => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(Sender::Two(sender))
        }
    }
}

async fn send(sender: &mut Sender, host: &str, tls: bool) -> Attempt {
    let scheme = if tls { "https" } else { "http" };
    let builder = http::Request::builder();
    let built = match sender {
        Sender::One(_) => builder.uri("/").header("host", host),
        Sender::Two(_) => builder.version(http::Version::HTTP_2).uri(format!("{scheme}://{host}/")),
    };
    let Ok(request) = built.body(Body::new()) else { return Attempt::Lost("no request".to_owned()) };
    let answer = match sender {
        Sender::One(sender) => {
            let mut sender = sender.lock().await;
            if sender.ready().await.is_err() {
                return Attempt::NotBegun;
            }
            sender.try_send_request(request).await
        }
        Sender::Two(sender) => {
            if sender.ready().await.is_err() {
                return Attempt::NotBegun;
            }
            sender.try_send_request(request).await
        }
    };
    let answer = match answer {
        Ok(answer) => answer,
        // A request that comes back was never written.
        Err(mut error) if error.message().is_some() => {
            drop(error.take_message());
            return Attempt::NotBegun;
        }
        Err(error) => return failed(&error.into_error()),
    };
    let (head, body) = answer.into_parts();
    match body.collect().await {
        Ok(body) => {
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            Attempt::Answered(head.status.as_u16(), text)
        }
        Err(error) => Attempt::Lost(format!("reading the body: {error:?}")),
    }
}

/// In HTTP/2 the peer says of each stream above the last one of its GOAWAY, and by REFUSED_STREAM, that it has not begun it
/// (RFC 9113 8.7).
fn failed(error: &hyper::Error) -> Attempt {
    let text = format!("{error:?}");
    if text.contains("REFUSED_STREAM") || (text.contains("GoAway") && text.contains("NO_ERROR")) {
        return Attempt::NotBegun;
    }
    Attempt::Lost(text)
}
