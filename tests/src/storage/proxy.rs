//! An HTTP proxy before a server: counts, and misbehaves as proxies do.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One exchange as it went over the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The status that the client got; 0 for none at all.
    pub status: u16,
    /// Bytes of the request's body.
    pub up: usize,
    /// Bytes of the answer's body.
    pub down: usize,
    /// The response's `Cache-Control`.
    pub cache_control: Option<String>,
}

/// What the proxy does with an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Behaviour {
    /// Passes it on.
    #[default]
    Pass,
    /// Carries out so many requests of a method to paths that contain a text, and answers them with 500.
    LoseAnswers(Method, String, usize),
    /// Answers 403 to requests for paths that contain a text.
    Deny(String),
    /// Answers 403 where the server answers 404: as S3 does to credentials that may not list.
    HideMissing,
    /// Keeps answers to GET for ever, "not found" too, unless they say `no-store`; and asks again if the request says
    /// `no-cache`: what RFC 9111 allows a shared cache at most.
    Cache,
}

/// A running proxy; dropping it ends it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    behaviour: Behaviour,
    seen: Vec<Exchange>,
    cached: BTreeMap<String, (StatusCode, HeaderMap, Bytes)>,
}

type Answer = (StatusCode, HeaderMap, Bytes);

impl Proxy {
    /// Starts one before a local port.
    pub fn start(upstream: u16) -> Result<Self> {
        let listener = crate::runtime().block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State::default()));
        let task = crate::runtime().spawn(serve(listener, upstream, Arc::clone(&state)));
        Ok(Self { address, state, task })
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Behaves so from now on; what was cached is forgotten.
    pub fn behave(&self, behaviour: Behaviour) {
        let mut state = lock(&self.state);
        state.behaviour = behaviour;
        state.cached.clear();
    }

    /// What went over it since the last call.
    pub fn take(&self) -> Vec<Exchange> {
        std::mem::take(&mut lock(&self.state).seen)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, upstream: u16, state: Arc<Mutex<State>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(|request| answer(upstream, Arc::clone(&state), request));
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    upstream: u16,
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let (method, up) = (head.method.clone(), body.len());
    let asks_again = head.headers.get(CACHE_CONTROL).is_some_and(|value| value == "no-cache");
    let behaviour = lock(&state).behaviour.clone();
    let cached = lock(&state).cached.get(&path).cloned().filter(|_| method == Method::GET && !asks_again);
    let (mut status, mut headers, mut bytes) = match (&behaviour, cached) {
        (Behaviour::Deny(text), _) if path.contains(text) => denied(),
        (Behaviour::Cache, Some(cached)) => cached,
        _ => forward(upstream, Request::from_parts(head, Full::from(body))).await?,
    };
    match &behaviour {
        Behaviour::Cache if method == Method::GET && may_keep(status, &headers) => {
            lock(&state).cached.insert(path.clone(), (status, headers.clone(), bytes.clone()));
        }
        Behaviour::LoseAnswers(lost, text, times) if *lost == method && path.contains(text) && *times > 0 => {
            lock(&state).behaviour = Behaviour::LoseAnswers(lost.clone(), text.clone(), times - 1);
            (status, headers, bytes) = (StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new(), Bytes::new());
        }
        Behaviour::HideMissing if status == StatusCode::NOT_FOUND => (status, headers, bytes) = denied(),
        _ => {}
    }
    let cache_control = headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (method, down) = (method.to_string(), bytes.len());
    lock(&state).seen.push(Exchange { method, path, status: status.as_u16(), up, down, cache_control });
    let mut response = Response::new(Full::from(bytes));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn denied() -> Answer {
    let body = Bytes::from_static(b"<Error><Code>AccessDenied</Code></Error>");
    (StatusCode::FORBIDDEN, HeaderMap::new(), body)
}

fn may_keep(status: StatusCode, headers: &HeaderMap) -> bool {
    let whole = matches!(status, StatusCode::OK | StatusCode::NOT_FOUND);
    whole
        && !headers
            .get_all(CACHE_CONTROL)
            .iter()
            .any(|value| value.to_str().is_ok_and(|text| text.contains("no-store")))
}

/// Sends it on, on a connection of its own, and reads the answer whole.
async fn forward(port: u16, request: Request<Full<Bytes>>) -> Result<Answer> {
    let head = request.method() == Method::HEAD;
    let stream = TcpStream::connect(("127.0.0.1", port)).await.context("connecting")?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (mut answer, body) = sender.send_request(request).await?.into_parts();
    let bytes = body.collect().await?.to_bytes();
    connection.abort();
    answer.headers.remove(TRANSFER_ENCODING);
    if !head && answer.status != StatusCode::NOT_MODIFIED {
        answer.headers.insert(CONTENT_LENGTH, bytes.len().into());
    }
    Ok((answer.status, answer.headers, bytes))
}
