//! The listener: TLS, bounded connections, an orderly end.

use super::answer::Front;
use super::tls::Shown;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Connections at one time.
const CONNECTIONS: usize = 4096;
/// A handshake, and the head of a request, have so long.
const SHORT: Duration = Duration::from_secs(10);
/// One connection lives so long, so that relays spread over replicas that came later.
const LIFE: Duration = Duration::from_mins(10);
/// Connections have so long to end when the server does.
const END: Duration = Duration::from_secs(5);
/// A pause after the system had no more connections to give.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` says so, with the certificate that is shown at the time; without one nobody gets in.
pub async fn serve(
    listener: TcpListener,
    shown: watch::Receiver<Shown>,
    front: Arc<Front>,
    mut stop: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let (end_out, end) = watch::channel(false);
    let mut tasks = JoinSet::new();
    loop {
        let free = Arc::clone(&connections).acquire_owned();
        tokio::select! {
            biased;
            () = told(&mut stop) => break,
            Some(_) = tasks.join_next() => {}
            accepted = async { (free.await, listener.accept().await) } => match accepted {
                (Ok(permit), Ok((stream, _))) => {
                    let Some(config) = shown.borrow().clone() else { continue };
                    let (front, end) = (Arc::clone(&front), end.clone());
                    tasks.spawn(async move {
                        connection(stream, config, front, end).await;
                        drop(permit);
                    });
                }
                (_, Err(error)) => {
                    tracing::warn!(%error, "no connection could be taken");
                    tokio::time::sleep(PAUSE).await;
                }
                (Err(_), Ok(_)) => break,
            },
        }
    }
    end_out.send_replace(true);
    let _ = tokio::time::timeout(END, async { while tasks.join_next().await.is_some() {} }).await;
}

/// Waits until it is said, or nobody can say it any more.
async fn told(what: &mut watch::Receiver<bool>) {
    let _ = what.wait_for(|said| *said).await;
}

async fn connection(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    front: Arc<Front>,
    mut end: watch::Receiver<bool>,
) {
    let _ = stream.set_nodelay(true);
    let handshake = tokio::time::timeout(SHORT, TlsAcceptor::from(config).accept(stream)).await;
    let Ok(Ok(stream)) = handshake else { return };
    let service = service_fn(move |request| {
        let front = Arc::clone(&front);
        async move { Ok::<_, Infallible>(front.answer(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(SHORT * 6).max_buf_size(64 << 10);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = &mut serving => return,
        () = told(&mut end) => {}
        () = tokio::time::sleep(LIFE) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(Duration::from_mins(1), serving).await;
}
