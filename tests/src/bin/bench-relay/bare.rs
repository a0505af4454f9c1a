//! A server that has its responses ready: what passes between its bytes and an answer is Envoy's own time.
//!
//! Until Envoy has its configuration, bytes go through to a relay and back, unread. From then on the relay is out of it: the
//! stream is given finished messages.

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::handshake;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use moorgate_tests::runtime;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

type Piece = Result<Frame<Bytes>, Infallible>;
type Pieces = StreamBody<UnboundedReceiver<Piece>>;

/// Bytes of one HTTP/2 frame, as the relay sends small ones together.
const FRAME: usize = 16 << 10;

/// The server.
pub(crate) struct Bare {
    accepts: JoinHandle<()>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The way to Envoy, of its newest stream.
    envoy: Mutex<Option<UnboundedSender<Piece>>>,
    /// What carries bytes between Envoy and the relay.
    ways: Mutex<Vec<JoinHandle<()>>>,
}

impl Bare {
    /// Listens, and lets bytes through to a relay.
    pub(crate) fn start(listen: &Path, relay: &Path) -> Result<Self> {
        let (state, relay) = (Arc::new(State::default()), relay.to_owned());
        let listener = {
            let _inside = runtime().enter();
            UnixListener::bind(listen).with_context(|| listen.display().to_string())?
        };
        let shared = Arc::clone(&state);
        let accepts = runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (shared, relay) = (Arc::clone(&shared), relay.clone());
                let service = service_fn(move |request| through(request, relay.clone(), Arc::clone(&shared)));
                let serve =
                    Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(serve.await) });
            }
        });
        Ok(Self { accepts, state })
    }

    /// Takes the relay out: from now on Envoy hears only what it is given here.
    pub(crate) fn take_over(&self) {
        let ways = std::mem::take(&mut *lock(&self.state.ways));
        ways.iter().for_each(JoinHandle::abort);
    }

    /// Gives Envoy a message, laid ready by [`ready`].
    pub(crate) fn give(&self, pieces: Vec<Bytes>) -> Result<()> {
        let envoy = lock(&self.state.envoy);
        let envoy = envoy.as_ref().context("Envoy is not connected")?;
        for piece in pieces {
            envoy.unbounded_send(Ok(Frame::data(piece))).context("Envoy left")?;
        }
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.accepts.abort();
        self.take_over();
    }
}

/// A message with its gRPC prefix, in pieces.
pub(crate) fn ready(message: &Bytes) -> Result<Vec<Bytes>> {
    let mut prefix = BytesMut::new();
    prefix.put_u8(0);
    prefix.put_u32(u32::try_from(message.len())?);
    let body = (0..message.len()).step_by(FRAME).map(|at| message.slice(at..message.len().min(at + FRAME)));
    Ok(std::iter::once(prefix.freeze()).chain(body).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One stream: its requests go to the relay, and the relay's responses back.
async fn through(
    request: Request<Incoming>,
    relay: PathBuf,
    state: Arc<State>,
) -> Result<Response<Pieces>, std::io::Error> {
    let io = TokioIo::new(UnixStream::connect(relay).await?);
    let (mut sender, connection) =
        handshake(TokioExecutor::new(), io).await.map_err(std::io::Error::other)?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let (parts, asked) = request.into_parts();
    let (ask, asking) = unbounded();
    let request = Request::from_parts(parts, StreamBody::new(asking));
    let answer = sender.send_request(request).await.map_err(std::io::Error::other)?;
    let (parts, told) = answer.into_parts();
    let (tell, telling) = unbounded();
    *lock(&state.envoy) = Some(tell.clone());
    let back = tokio::spawn(async move {
        carry(told, tell).await;
        drop(sender);
    });
    // Acknowledgements are read to the end, whoever cares for them: Envoy's window must not fill up.
    tokio::spawn(carry(asked, ask));
    lock(&state.ways).extend([back, connection]);
    Ok(Response::from_parts(parts, StreamBody::new(telling)))
}

async fn carry(mut from: impl Body<Data = Bytes> + Unpin, to: UnboundedSender<Piece>) {
    while let Some(Ok(frame)) = from.frame().await {
        let _ = to.unbounded_send(Ok(frame));
    }
}
