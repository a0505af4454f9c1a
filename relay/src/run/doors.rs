//! The sockets of a relay: where fleets are served, and to whom.

use super::RunError;
use crate::clock::Clock;
use crate::config::{Config, Listen, MemberFile, Members, TokenKeys};
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::roster::Roster;
use crate::serve::admit::{Frontend, Membership, Proofs};
use crate::serve::listen::{Peers, TcpSocket, UnixSocket, socket_path};
use crate::serve::tls::Tls;
use crate::serve::token::{KeySource, Keys, Tokens};
use moorgate_snapshot::FleetName;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Sockets that somebody else bound and keeps: one relay after the other listens on them, and none of their clients is
/// ever turned away meanwhile.
#[derive(Debug, Default)]
pub struct Handed {
    /// Unix sockets.
    pub unix: Vec<UnixListener>,
    /// TCP sockets.
    pub tcp: Vec<TcpListener>,
}

impl Handed {
    /// Takes the Unix socket of a path.
    fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let of_path = |socket: &UnixListener| {
            socket.local_addr().is_ok_and(|address| address.as_pathname() == Some(path))
        };
        let at = self.unix.iter().position(of_path)?;
        Some(self.unix.swap_remove(at))
    }

    /// Takes the TCP socket of an address.
    fn tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let at = self.tcp.iter().position(|socket| socket.local_addr().is_ok_and(|own| own == address))?;
        Some(self.tcp.swap_remove(at))
    }
}

/// What sockets are opened with.
pub(super) struct Doors<'r> {
    pub config: &'r Config,
    pub fleets: &'r Roster,
    pub metrics: &'r Arc<Metrics>,
    pub frontend: &'r Frontend,
}

impl Doors<'_> {
    /// Opens all sockets; the TCP addresses, with the ports that were found.
    pub(super) async fn open(
        &self,
        (membership, tls, tokens): Given<'_>,
        mut handed: Handed,
    ) -> Result<Vec<SocketAddr>, RunError> {
        let mut addresses = Vec::new();
        for listen in &self.config.listen {
            match listen {
                Listen::Unix(template, peers) => {
                    for fleet in self.fleets.all() {
                        self.open_unix(template, peers, &fleet, &mut handed)?;
                    }
                }
                Listen::Tcp(address) => {
                    let socket = match handed.tcp(*address) {
                        Some(socket) => TcpSocket::handed(socket)?,
                        None => TcpSocket::bind(*address).await?,
                    };
                    tracing::info!(address = %socket.address(), "listening");
                    addresses.push(socket.address());
                    let proofs = Proofs {
                        membership: membership.clone(),
                        tls: tls.map(watch::Sender::subscribe),
                        tokens: tokens.clone(),
                        clock: Clock::default(),
                        metrics: Arc::clone(self.metrics),
                    };
                    tokio::spawn(socket.serve(proofs, self.frontend.clone()));
                }
            }
        }
        let left = handed.unix.len() + handed.tcp.len();
        if left > 0 {
            tracing::warn!(left, "sockets were handed over that no --listen names: they are closed");
        }
        Ok(addresses)
    }

    fn open_unix(
        &self,
        template: &str,
        peers: &Peers,
        fleet: &Fleet,
        handed: &mut Handed,
    ) -> Result<(), RunError> {
        let path = socket_path(template, fleet.name());
        let held = handed.unix(&path);
        let was_handed = held.is_some();
        let socket = match held {
            Some(socket) => UnixSocket::handed(socket, &path)?,
            None => UnixSocket::bind(&path, 0o660)?,
        };
        tracing::info!(fleet = %fleet.name(), path = %path.display(), handed = was_handed, "listening");
        tokio::spawn(socket.serve(Arc::clone(&fleet.hub), peers.clone(), self.frontend.clone()));
        Ok(())
    }
}

/// Who may ask for which fleet, as it is at the moment.
#[derive(Debug, Clone)]
pub(super) struct Roll {
    fleets: Roster,
    file: Option<MemberFile>,
    /// What was read last.
    read: Arc<Mutex<Read>>,
    sender: watch::Sender<Membership>,
}

/// The members, and why they could not be read anew.
#[derive(Debug, Default)]
struct Read {
    members: Members,
    error: Option<String>,
}

impl Roll {
    /// Reads the file of members, if there is one.
    pub(super) fn open(config: &Config, fleets: &Roster) -> Result<Self, RunError> {
        let members = match &config.member_file {
            None => config.members.clone(),
            Some(file) => file.read().map_err(RunError::Members)?,
        };
        let membership = match fleets.all().as_slice() {
            [only] if config.tls.is_none() => Membership::Only(Arc::clone(&only.hub)),
            _ => by_name(fleets, &members),
        };
        let (fleets, sender) = (fleets.clone(), watch::Sender::new(membership));
        let read = Arc::new(Mutex::new(Read { members, error: None }));
        Ok(Self { fleets, file: config.member_file.clone(), read, sender })
    }

    /// Tells of every change.
    pub(super) fn subscribe(&self) -> watch::Receiver<Membership> {
        self.sender.subscribe()
    }

    /// Opens the fleets that the disk has something of, where they are opened on demand.
    pub(super) async fn reopen(&self) {
        let members = self.read().members.clone();
        self.fleets.reopen(members.values().collect::<BTreeSet<_>>()).await;
    }

    /// Whether a new member waits for the file: of fleets that come and go, it is looked at often.
    pub(super) fn is_lively(&self) -> bool {
        self.file.is_some() && self.fleets.is_on_demand()
    }

    /// Reads the file again. One that cannot be taken whole changes nothing: it is reported, once.
    pub(super) fn again(&self) {
        let Some(file) = &self.file else { return };
        let mut read = self.read();
        match file.read() {
            Ok(members) => {
                read.error = None;
                if members != read.members {
                    self.sender.send_replace(by_name(&self.fleets, &members));
                    read.members = members;
                }
            }
            Err(error) => {
                let error = error.to_string();
                if read.error.as_ref() != Some(&error) {
                    tracing::error!(error, "the members that were read before stay");
                    read.error = Some(error);
                }
            }
        }
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn by_name(fleets: &Roster, members: &Members) -> Membership {
    if fleets.is_on_demand() {
        return Membership::OnDemand(members.clone(), fleets.clone());
    }
    let hub = |name: &FleetName| fleets.find(name).map(|fleet| fleet.hub);
    let of = |(name, fleet): (&String, &FleetName)| Some((name.clone(), hub(fleet)?));
    Membership::ByName(members.iter().filter_map(of).collect())
}

/// What clients on TCP are judged by.
type Given<'g> = (watch::Receiver<Membership>, Option<&'g watch::Sender<Arc<Tls>>>, Option<Arc<Tokens>>);

/// The judge of tokens, if there is to be one.
pub(super) async fn tokens(config: &Config) -> Result<Option<Arc<Tokens>>, RunError> {
    let Some(options) = &config.tokens else { return Ok(None) };
    let source = match &options.keys {
        TokenKeys::File(path) => KeySource::File(path.clone()),
        TokenKeys::Kubernetes => api_source(config).await?,
    };
    let keys = Keys::open(source).await?;
    Ok(Some(Arc::new(Tokens { issuer: options.issuer.clone(), audience: options.audience.clone(), keys })))
}

#[cfg(feature = "kubernetes")]
async fn api_source(config: &Config) -> Result<KeySource, RunError> {
    use crate::config::Kubernetes;
    let kubeconfig = match &config.kubernetes {
        Some(Kubernetes::Kubeconfig(file)) => Some(file.as_path()),
        Some(Kubernetes::Pod) | None => None,
    };
    let api = crate::bind::kubernetes::Api::connect(kubeconfig).await;
    let api = api.map_err(|error| RunError::Kubernetes(error.to_string()))?;
    if let Some(cache) = &config.cache {
        // The cache makes its own folder; that it cannot is told there.
        let _ = std::fs::create_dir_all(cache);
    }
    Ok(KeySource::Api(api, config.cache.as_ref().map(|cache| cache.join("token-keys.json"))))
}

#[cfg(not(feature = "kubernetes"))]
#[expect(clippy::unused_async, reason = "with the feature it waits")]
async fn api_source(_: &Config) -> Result<KeySource, RunError> {
    Err(RunError::Kubernetes("this relay was built without the feature kubernetes".to_owned()))
}
