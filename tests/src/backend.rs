//! Echo servers: say who answered and what they received.

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The response header that names the backend.
pub const NAME_HEADER: &str = "x-backend";

/// What a backend received; the body of its answer as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// The backend's name.
    pub backend: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Host` header or `:authority`.
    pub host: String,
    /// The headers, names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// How many bytes of body came.
    pub body: usize,
    /// The scheme that HTTP/2 names; empty in HTTP/1.
    #[serde(default)]
    pub scheme: String,
}

impl Echo {
    /// Every value of a header (lower case).
    pub fn header(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// A running echo server, HTTP/1.1 and HTTP/2 with prior knowledge; dropping it stops it.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    name: String,
    received: Arc<AtomicU64>,
    last: Arc<Mutex<Option<Echo>>>,
    task: JoinHandle<()>,
}

impl Backend {
    /// Starts one on a free local port.
    pub fn start(name: &str) -> Result<Self> {
        let listener = crate::runtime().block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let received = Arc::new(AtomicU64::new(0));
        let last = Arc::default();
        let answers =
            Answers { name: Arc::from(name), received: Arc::clone(&received), last: Arc::clone(&last) };
        let task = crate::runtime().spawn(serve(listener, answers));
        Ok(Self { address, name: name.to_owned(), received, last, task })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many requests it has received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The last request that it has answered.
    pub fn last(&self) -> Option<Echo> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a backend answers with, and what it notes.
#[derive(Clone)]
struct Answers {
    name: Arc<str>,
    received: Arc<AtomicU64>,
    last: Arc<Mutex<Option<Echo>>>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, answers: Answers) {
    // Connections end with the server: a stopped backend must look like one that is gone.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let answers = answers.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                answers.received.fetch_add(1, Ordering::Relaxed);
                answer(answers.clone(), request)
            });
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    Answers { name, last, .. }: Answers,
    request: http::Request<Incoming>,
) -> Result<http::Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let body = body.collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
    let host = head.headers.get("host").map(text);
    let echo = Echo {
        backend: name.to_string(),
        protocol: format!("{:?}", head.version),
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        host: host.or_else(|| head.uri.authority().map(ToString::to_string)).unwrap_or_default(),
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body,
        scheme: head.uri.scheme_str().unwrap_or_default().to_owned(),
    };
    let mut response = http::Response::new(Full::from(serde_json::to_vec(&echo).unwrap_or_default()));
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(echo);
    if let Ok(value) = http::HeaderValue::from_str(&name) {
        response.headers_mut().insert(NAME_HEADER, value);
        response.headers_mut().insert("x-served", http::HeaderValue::from_static("yes"));
    }
    Ok(response)
}
