//! HTTP for probes: `/livez`, `/readyz` and `/metrics`. Alive is a loop that moves; ready is one that has seen the whole
//! cluster and compiled it once. An API server or a store that is away makes it neither dead nor unready.

use super::meter::{INFO, Meter};
use super::turn::Turn;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// A loop that has not moved for so long is stuck.
const STUCK: Duration = Duration::from_secs(30);
/// The loop says so often that it moves.
const BEAT: Duration = Duration::from_secs(1);
/// Connections at one time.
const CONNECTIONS: usize = 64;
/// A connection lives so long at the most.
const LIFE: Duration = Duration::from_mins(1);
/// The head of a request has so long.
const HEAD: Duration = Duration::from_secs(10);
/// A pause after the system had no more connections to give.
const PAUSE: Duration = Duration::from_millis(100);

/// What the answers are made of.
struct Health {
    meter: Arc<Meter>,
    stop: watch::Receiver<bool>,
    pulse: Mutex<Instant>,
    compiled: AtomicBool,
}

impl Health {
    fn new(meter: Arc<Meter>, stop: watch::Receiver<bool>) -> Self {
        meter.set(INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1);
        Self { meter, stop, pulse: Mutex::new(Instant::now()), compiled: AtomicBool::new(false) }
    }

    /// A part of the loop: as long as it runs, the others get their turns.
    async fn beat(&self, mut turns: watch::Receiver<Option<Arc<Turn>>>) {
        loop {
            *self.pulse.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            if turns.borrow_and_update().is_some() {
                self.compiled.store(true, Ordering::Relaxed);
            }
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                Ok(()) = turns.changed() => {}
            }
        }
    }

    fn answer(&self, method: &Method, path: &str) -> (StatusCode, &'static str, String) {
        const TEXT: &str = "text/plain; charset=utf-8";
        if *method != Method::GET && *method != Method::HEAD {
            return (StatusCode::METHOD_NOT_ALLOWED, TEXT, String::new());
        }
        let verdict = match path {
            "/livez" => self.is_stuck().then_some("the loop is stuck"),
            "/readyz" => self.unready(),
            "/metrics" => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                return (StatusCode::OK, kind, self.meter.render());
            }
            _ => return (StatusCode::NOT_FOUND, TEXT, "there are /livez, /readyz and /metrics\n".to_owned()),
        };
        match verdict {
            None => (StatusCode::OK, TEXT, "ok\n".to_owned()),
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        }
    }

    fn is_stuck(&self) -> bool {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > STUCK
    }

    fn unready(&self) -> Option<&'static str> {
        if *self.stop.borrow() {
            return Some("it stops");
        }
        let compiled = self.compiled.load(Ordering::Relaxed);
        (!compiled).then_some("the cluster has not been read and compiled yet")
    }
}

/// A part of the loop: says that it moves, and has probes answered if they are to be.
pub(super) async fn run(
    listener: Option<TcpListener>,
    meter: Arc<Meter>,
    turns: watch::Receiver<Option<Arc<Turn>>>,
    stop: watch::Receiver<bool>,
) {
    let health = Arc::new(Health::new(meter, stop));
    // Not a part of the loop, so that it answers also when that is stuck; it ends with it.
    let mut served = JoinSet::new();
    if let Some(listener) = listener {
        served.spawn(serve(listener, health.clone()));
    }
    health.beat(turns).await;
}

async fn serve(listener: TcpListener, health: Arc<Health>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(LIFE, connection(stream, health)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection could be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, health: Arc<Health>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (status, kind, text) = health.answer(request.method(), request.uri().path());
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(16 << 10);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alive_is_what_moves_and_ready_what_has_compiled_and_does_not_stop() {
        let (stop_out, stop) = watch::channel(false);
        let health = Health::new(Arc::default(), stop);
        let code = |path: &str| health.answer(&Method::GET, path).0.as_u16();
        assert_eq!([code("/livez"), code("/readyz"), code("/metrics"), code("/")], [200, 503, 200, 404]);
        assert_eq!(health.answer(&Method::POST, "/livez").0, StatusCode::METHOD_NOT_ALLOWED);
        health.compiled.store(true, Ordering::Relaxed);
        assert_eq!(code("/readyz"), 200);
        stop_out.send_replace(true);
        assert_eq!((code("/readyz"), code("/livez")), (503, 200));
        if let Some(past) = Instant::now().checked_sub(STUCK + BEAT) {
            *health.pulse.lock().unwrap() = past;
            assert_eq!(code("/livez"), 503);
        }
    }
}
