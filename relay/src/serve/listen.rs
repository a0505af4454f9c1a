//! Sockets: Unix sockets, one a fleet, and TCP, with mutual TLS unless it stays on the machine.

use super::grpc::{self, Limits, Reply};
use super::hub::Hub;
use super::tls;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use moorgate_snapshot::FleetName;
use rustls::ServerConfig;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tonic::Status;

/// The longest path of a Unix socket on Linux.
const MAX_SOCKET_PATH: usize = 107;
/// A connection must have sent its first request within this time.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// A TLS handshake must be done within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams on one connection: one for ADS, or one a type, and some for reconnects under way.
const STREAMS_PER_CONNECTION: u32 = 64;

/// A socket that cannot be opened.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The path is too long for a socket.
    #[error("the socket path {0} is longer than {MAX_SOCKET_PATH} bytes")]
    PathTooLong(PathBuf),
}

/// Which fleet a TCP client belongs to.
#[derive(Debug, Clone)]
pub enum Membership {
    /// The only one that is served here.
    Only(Arc<Hub>),
    /// By a name in its certificate.
    ByName(BTreeMap<String, Arc<Hub>>),
}

impl Membership {
    fn find(&self, names: &[String]) -> Option<&Arc<Hub>> {
        match self {
            Self::Only(hub) => Some(hub),
            Self::ByName(hubs) => names.iter().find_map(|name| hubs.get(name)),
        }
    }
}

/// What a connection may use.
#[derive(Debug, Clone)]
pub struct Frontend {
    /// Limits of streams, and the way to end them.
    pub limits: Limits,
    /// Connections at one time.
    pub connections: Arc<Semaphore>,
}

/// The path of a fleet's socket: `{fleet}` stands for `namespace.gateway` or `class.NAME`.
pub fn socket_path(template: &str, fleet: &FleetName) -> PathBuf {
    template.replace("{fleet}", &fleet.socket_name()).into()
}

/// A Unix socket under its final name; the file goes when it is dropped, unless another relay took the name over.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl UnixSocket {
    /// Binds beside the path and renames: a socket of a relay that died, or that hands over, is replaced in one step.
    /// `mode` says who may connect.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let error = |source| ListenError::Bind { address: format!("unix:{}", path.display()), source };
        let staging = path.with_added_extension("new");
        if staging.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(ListenError::PathTooLong(path.to_owned()));
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(error)?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(error(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file that is no socket",
                )));
            }
            _ => {}
        }
        let _ = std::fs::remove_file(&staging);
        let listener = UnixListener::bind(&staging).map_err(error)?;
        std::fs::set_permissions(&staging, std::fs::Permissions::from_mode(mode)).map_err(error)?;
        let inode = std::fs::symlink_metadata(&staging).map_err(error)?.ino();
        std::fs::rename(&staging, path).map_err(error)?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// Accepts until the drain begins.
    pub async fn serve(self, hub: Arc<Hub>, frontend: Frontend) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = frontend.limits.drain.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let peer = unix_peer(&stream);
                    admit(&frontend, &hub, stream, peer, false);
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }
}

impl axum::serve::Listener for UnixSocket {
    type Io = UnixStream;
    type Addr = String;

    async fn accept(&mut self) -> (UnixStream, String) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let peer = unix_peer(&stream);
                    return (stream, peer);
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(format!("unix:{}", self.path.display()))
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn unix_peer(stream: &UnixStream) -> String {
    match stream.peer_cred() {
        Ok(cred) => {
            let pid = cred.pid().map_or_else(|| "?".to_owned(), |pid| pid.to_string());
            format!("unix:pid={pid},uid={},gid={}", cred.uid(), cred.gid())
        }
        Err(_) => "unix".to_owned(),
    }
}

/// A TCP address that is listened on.
#[derive(Debug)]
pub struct TcpSocket {
    listener: TcpListener,
    address: SocketAddr,
}

impl TcpSocket {
    /// Binds the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let error = |source| ListenError::Bind { address: format!("tcp:{address}"), source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address })
    }

    /// The address, with the port that was found if none was given.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the drain begins. New handshakes use the TLS configuration of the moment.
    pub async fn serve(
        self,
        membership: Membership,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
        frontend: Frontend,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = frontend.limits.drain.cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    match &tls {
                        None => match membership.find(&[]) {
                            Some(hub) => admit(&frontend, hub, stream, format!("tcp:{address}"), true),
                            None => drop(stream),
                        },
                        Some(tls) => {
                            let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
                            let (frontend, membership) = (frontend.clone(), membership.clone());
                            tokio::spawn(handshake(acceptor, stream, address, membership, frontend));
                        }
                    }
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }
}

async fn handshake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    membership: Membership,
    frontend: Frontend,
) {
    let Ok(permit) = Arc::clone(&frontend.connections).try_acquire_owned() else { return };
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%address, %error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    drop(permit);
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let names = certificate.map(tls::names).unwrap_or_default();
    let peer = format!("tls:{address} {}", names.join(" "));
    if let Some(hub) = membership.find(&names) {
        admit(&frontend, hub, stream, peer, true);
    } else {
        tracing::warn!(%address, ?names, "a client's certificate names no fleet");
    }
}

/// Serves a connection in a task of its own, if there is room.
fn admit<S>(frontend: &Frontend, hub: &Arc<Hub>, stream: S, peer: String, keepalive: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(permit) = Arc::clone(&frontend.connections).try_acquire_owned() else {
        hub.metrics().count("moorgate_relay_connections_refused", &[("reason", "too_many")]);
        return;
    };
    hub.metrics().count("moorgate_relay_connections", &[]);
    let (hub, limits) = (Arc::clone(hub), frontend.limits.clone());
    tokio::spawn(async move {
        connection(hub, limits, stream, peer, keepalive).await;
        drop(permit);
    });
}

async fn connection<S>(hub: Arc<Hub>, limits: Limits, stream: S, peer: String, keepalive: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(16 * 1024)
        .max_pending_accept_reset_streams(32);
    if keepalive {
        builder.keep_alive_interval(Duration::from_secs(30)).keep_alive_timeout(Duration::from_secs(20));
    }
    let (begun, drain) = (Arc::new(AtomicBool::new(false)), limits.drain.clone());
    let seen = Arc::clone(&begun);
    let peer: Arc<str> = peer.into();
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        seen.store(true, Ordering::Relaxed);
        let response = if limits.drain.is_cancelled() {
            grpc::refuse(&Status::unavailable("the relay stops"))
        } else {
            grpc::answer(&hub, &limits, &peer, request)
        };
        std::future::ready(Ok::<http::Response<Reply>, Infallible>(response))
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let silent = silence(&begun);
    tokio::pin!(silent);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = &mut silent => return,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Ends if no request came in time.
async fn silence(begun: &AtomicBool) {
    tokio::time::sleep(FIRST_REQUEST).await;
    if begun.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Without file descriptors an accept loop would spin.
fn pause_after(error: &io::Error) -> impl Future<Output = ()> + use<> {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(200))
}
