//! Reading an Envoy's statistics at its admin address. What it answers is bounded in size and time, and believed only as
//! far as it can be read.

use super::tally::Counts;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use moorgate_snapshot::FleetName;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// An Envoy must have answered within this time.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer. Two lines a listener are asked for.
const MAX_BODY: usize = 1 << 20;
/// `^http\..*\.downstream_rq_(5xx|completed)$`: one line each a stream of HTTP that a listener takes.
const QUERY: &str = "/stats?filter=%5Ehttp%5C..*%5C.downstream_rq_%285xx%7Ccompleted%29%24";

/// Where an Envoy shows its statistics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// `http://HOST:PORT`.
    Tcp(String),
    /// `unix:PATH`, in which `{fleet}` stands for the fleet.
    Unix(String),
}

/// Text that is no such address.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("write http://ADDRESS:PORT or unix:/path")]
pub struct AddressError;

/// Why statistics cannot be read.
#[derive(Debug, Error)]
pub enum StatsError {
    /// Nobody answers there.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// No answer in time.
    #[error("no answer in time")]
    Deadline,
    /// It is no HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// Another status than 200.
    #[error("status {0}")]
    Status(u16),
    /// Too long or broken off.
    #[error("the answer cannot be read to its end")]
    Body,
    /// A value that is no number.
    #[error("a counter is no number")]
    Number,
}

impl FromStr for AdminAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Unix(path.to_owned())) } else { Err(AddressError) };
        }
        let authority = text.strip_prefix("http://").ok_or(AddressError)?.trim_end_matches('/');
        let authority: http::uri::Authority = authority.parse().map_err(|_| AddressError)?;
        if authority.port_u16().is_none() || authority.as_str().contains('@') {
            return Err(AddressError);
        }
        Ok(Self::Tcp(authority.to_string()))
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl AdminAddress {
    /// Whether the address differs from fleet to fleet.
    pub fn names_the_fleet(&self) -> bool {
        matches!(self, Self::Unix(path) if path.contains("{fleet}"))
    }

    /// The address for one fleet.
    #[must_use]
    pub fn of(&self, fleet: &FleetName) -> Self {
        match self {
            Self::Tcp(_) => self.clone(),
            Self::Unix(path) => Self::Unix(path.replace("{fleet}", &fleet.socket_name())),
        }
    }

    /// Reads the counters of all HTTP listeners together, those for Envoy's own matters apart.
    pub async fn read(&self) -> Result<Counts, StatsError> {
        tokio::time::timeout(DEADLINE, self.ask()).await.map_err(|_| StatsError::Deadline)?
    }

    async fn ask(&self) -> Result<Counts, StatsError> {
        counts(&self.exchange(http::Method::GET, QUERY).await?)
    }

    /// What Envoy answers to a request for this path and query: GET reads, POST acts.
    ///
    /// # Errors
    /// Nobody answers in time, or with another status than 200, or with too much.
    pub async fn send(&self, method: http::Method, path: &str) -> Result<Vec<u8>, StatsError> {
        tokio::time::timeout(DEADLINE, self.exchange(method, path)).await.map_err(|_| StatsError::Deadline)?
    }

    async fn exchange(&self, method: http::Method, path: &str) -> Result<Vec<u8>, StatsError> {
        match self {
            Self::Tcp(authority) => exchange(TcpStream::connect(authority).await?, method, path).await,
            Self::Unix(socket) => exchange(UnixStream::connect(socket).await?, method, path).await,
        }
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: http::Method,
    path: &str,
) -> Result<Vec<u8>, StatsError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::builder().method(method).uri(path).header(http::header::HOST, "envoy");
    let exchange = async move {
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(|_| StatsError::Body)?;
        let response = sender.send_request(request).await?;
        if response.status() != http::StatusCode::OK {
            return Err(StatsError::Status(response.status().as_u16()));
        }
        let collected = Limited::new(response.into_body(), MAX_BODY).collect().await;
        Ok(collected.map_err(|_| StatsError::Body)?.to_bytes().to_vec())
    };
    tokio::pin!(exchange, connection);
    // The connection does the work of the exchange, and may end first.
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

/// Lines of `name: value`. What is asked for is counted, and all else is read over.
fn counts(text: &[u8]) -> Result<Counts, StatsError> {
    let mut counts = Counts::default();
    for line in text.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        let Some((name, value)) = line.trim_end().rsplit_once(": ") else { continue };
        let Some(name) = name.strip_prefix("http.") else { continue };
        let sum = match name.rsplit_once('.') {
            // What Envoys answer probes and scrapers says nothing of how a candidate does.
            Some(("admin" | "moorgate-ready" | "moorgate-stats", _)) => continue,
            Some((_, "downstream_rq_completed")) => &mut counts.completed,
            Some((_, "downstream_rq_5xx")) => &mut counts.errors,
            _ => continue,
        };
        let value: u64 = value.parse().map_err(|_| StatsError::Number)?;
        *sum = sum.saturating_add(value);
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[test]
    fn addresses_are_read() {
        for text in ["http://127.0.0.1:9901", "http://localhost:9901", "unix:/run/envoy/{fleet}.sock"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
        let fleet = FleetName::gateway("shop", "edge");
        let address: AdminAddress = "unix:/run/{fleet}.sock".parse().unwrap();
        assert_eq!(address.of(&fleet).to_string(), "unix:/run/shop.edge.sock");
        for text in ["", "127.0.0.1:9901", "http://127.0.0.1", "unix:run", "https://a:1", "http://u:p@a:1"] {
            assert_eq!(text.parse::<AdminAddress>(), Err(AddressError), "{text}");
        }
    }

    #[test]
    fn counters_of_listeners_are_summed_and_hostile_text_is_read_over() {
        let text = b"http.edge-http.downstream_rq_5xx: 3\nhttp.edge-http.downstream_rq_completed: 90\n\
            http.a.b.c.downstream_rq_completed: 10\nhttp.admin.downstream_rq_completed: 7\n\
            http.admin.downstream_rq_5xx: 7\nhttp.moorgate-stats.downstream_rq_completed: 6\nhttp.x.downstream_rq_4xx: 5\nlistener.x.http.y.downstream_rq_5xx: 9\n\
            \xff\xfe\x00\n: \nhttp.: \n\n";
        assert_eq!(counts(text).unwrap(), Counts { completed: 100, errors: 3 });
        assert!(matches!(counts(b"http.x.downstream_rq_5xx: -1\n"), Err(StatsError::Number)));
        assert!(matches!(
            counts(b"http.x.downstream_rq_5xx: 99999999999999999999\n"),
            Err(StatsError::Number)
        ));
        let most = format!("http.x.downstream_rq_5xx: {0}\nhttp.y.downstream_rq_5xx: {0}\n", u64::MAX);
        assert_eq!(counts(most.as_bytes()).unwrap().errors, u64::MAX);
    }

    /// An Envoy that answers so, once.
    async fn envoy(answer: Vec<u8>) -> AdminAddress {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /stats?filter="));
            let _ = stream.write_all(&answer).await;
        });
        address
    }

    #[tokio::test]
    async fn answers_are_bounded() {
        let fine =
            b"HTTP/1.1 200 OK\r\ncontent-length: 36\r\n\r\nhttp.a.downstream_rq_completed: 12\n\n".to_vec();
        assert_eq!(envoy(fine).await.read().await.unwrap(), Counts { completed: 12, errors: 0 });
        let other = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec();
        assert!(matches!(envoy(other).await.read().await, Err(StatsError::Status(503))));
        let cut = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhttp".to_vec();
        assert!(envoy(cut).await.read().await.is_err());
        let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        endless.resize(MAX_BODY + 100, b'x');
        assert!(matches!(envoy(endless).await.read().await, Err(StatsError::Body)));
        assert!(envoy(b"no HTTP at all\r\n\r\n".to_vec()).await.read().await.is_err());
        let gone: AdminAddress = "unix:/nonexistent/envoy.sock".parse().unwrap();
        assert!(matches!(gone.read().await, Err(StatsError::Io(_))));
    }
}
