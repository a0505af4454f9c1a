//! Sockets: Unix sockets, one a fleet, and TCP, with TLS unless it stays on the machine. Who is let in: [`super::admit`].

use super::admit::{self, Frontend, Proofs};
use super::grpc::Caller;
use super::hub::Hub;
use moorgate_snapshot::FleetName;
use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// The longest path of a Unix socket on Linux.
const MAX_SOCKET_PATH: usize = 107;
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

/// Which users may connect to a Unix socket, besides what its mode says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peers {
    /// Users by number.
    pub users: BTreeSet<u32>,
    /// Groups by number: the one that a process runs as.
    pub groups: BTreeSet<u32>,
}

impl Peers {
    /// Whether whoever is at the other end may ask. Without a list everybody may whom the mode lets in.
    fn admit(&self, stream: &UnixStream) -> bool {
        if self.users.is_empty() && self.groups.is_empty() {
            return true;
        }
        stream
            .peer_cred()
            .is_ok_and(|peer| self.users.contains(&peer.uid()) || self.groups.contains(&peer.gid()))
    }
}

/// The path of a fleet's socket: `{fleet}` stands for `namespace.gateway` or `class.NAME`.
pub fn socket_path(template: &str, fleet: &FleetName) -> PathBuf {
    template.replace("{fleet}", &fleet.socket_name()).into()
}

/// A Unix socket under its final name; the file goes when it is dropped, unless another relay took the name over, or the
/// socket was handed to this one and stays whoever's it is.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Of the file that is to go.
    inode: Option<u64>,
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
        let inode = Some(std::fs::symlink_metadata(&staging).map_err(error)?.ino());
        std::fs::rename(&staging, path).map_err(error)?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// A socket that somebody else bound and listens on, such as systemd: clients that connect while no relay runs wait.
    pub fn handed(listener: std::os::unix::net::UnixListener, path: &Path) -> Result<Self, ListenError> {
        let error = |source| ListenError::Bind { address: format!("unix:{}", path.display()), source };
        listener.set_nonblocking(true).map_err(error)?;
        let listener = UnixListener::from_std(listener).map_err(error)?;
        Ok(Self { listener, path: path.to_owned(), inode: None })
    }

    /// Accepts until the drain begins.
    pub async fn serve(self, hub: Arc<Hub>, peers: Peers, frontend: Frontend) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = frontend.limits.drain.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) if peers.admit(&stream) => {
                    let caller = unix_caller(&stream);
                    admit::admit_unix(&frontend, &hub, stream, caller);
                }
                Ok((stream, _)) => {
                    let labels = [("reason", "peer")];
                    hub.metrics().count("moorgate_relay_connections_refused", &labels);
                    tracing::warn!(
                        peer = &*unix_caller(&stream).peer,
                        "a user who may not ask is turned away"
                    );
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
                    let peer = unix_caller(&stream).peer.to_string();
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
        let there = std::fs::symlink_metadata(&self.path).map(|metadata| metadata.ino());
        if self.inode.is_some_and(|inode| there.is_ok_and(|there| there == inode)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Who is at the other end: the process counts as one client.
fn unix_caller(stream: &UnixStream) -> Caller {
    match stream.peer_cred() {
        Ok(cred) => {
            let pid = cred.pid().map_or_else(|| "?".to_owned(), |pid| pid.to_string());
            let peer = format!("unix:pid={pid},uid={},gid={}", cred.uid(), cred.gid()).into();
            Caller { client: Arc::clone(&peer), identity: Arc::clone(&peer), peer }
        }
        Err(_) => Caller { peer: "unix".into(), client: "unix".into(), identity: "unix".into() },
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

    /// A socket that somebody else bound and listens on.
    pub fn handed(listener: std::net::TcpListener) -> Result<Self, ListenError> {
        let error =
            |source| ListenError::Bind { address: "a socket that was handed over".to_owned(), source };
        listener.set_nonblocking(true).map_err(error)?;
        let listener = TcpListener::from_std(listener).map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        Ok(Self { listener, address })
    }

    /// Accepts until the drain begins. New handshakes use the TLS configuration of the moment.
    pub async fn serve(self, proofs: Proofs, frontend: Frontend) {
        let proofs = Arc::new(proofs);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = frontend.limits.drain.cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    let (proofs, frontend) = (Arc::clone(&proofs), frontend.clone());
                    tokio::spawn(admit::admit_tcp(proofs, stream, address, frontend));
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }
}

/// Without file descriptors an accept loop would spin.
fn pause_after(error: &io::Error) -> impl Future<Output = ()> + use<> {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(200))
}
