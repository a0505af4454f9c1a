//! Who is let in: a connection is served if its client has proven for which fleet it may ask. What it says of itself, its
//! `node`, decides nothing.

use super::grpc::{self, Caller, Limits, Reply};
use super::hub::Hub;
use super::share::{Share, Shares};
use super::tls::{self, Proven, Tls};
use super::token::{self, Bearer, TokenError, Tokens};
use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::roster::{Pass, Roster, RosterError};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use moorgate_snapshot::FleetName;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tonic::Status;

/// A connection must have sent its first request within this time.
const FIRST_REQUEST: Duration = Duration::from_secs(30);
/// A TLS handshake must be done within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Streams on one connection: one for ADS, or one a type, and some for reconnects under way.
const STREAMS_PER_CONNECTION: u32 = 64;
/// Streams that one connection may begin in a second.
const STREAMS_PER_SECOND: usize = 100;
/// What a client may send ahead of being read, in bytes: on one stream, and on a connection.
const WINDOWS: (u32, u32) = (256 << 10, 512 << 10);
/// What waits in a stream's buffer for a client that reads slowly, in bytes; the rest are shared pieces.
const SEND_BUFFER: usize = 64 << 10;

/// Which fleet a TCP client belongs to.
#[derive(Debug, Clone)]
pub enum Membership {
    /// The only one that is served here: whoever comes.
    Only(Arc<Hub>),
    /// By a name that it proves: of its certificate, or the ServiceAccount of its token. `*` stands for every certificate.
    ByName(BTreeMap<String, Arc<Hub>>),
    /// By such a name, too, of fleets that are opened when somebody asks for them.
    OnDemand(BTreeMap<String, FleetName>, Roster),
}

/// The right to ask for a fleet.
#[derive(Debug, Clone)]
pub enum Right {
    /// One that is open.
    Open(Arc<Hub>),
    /// One that is opened for who has the right.
    OnDemand(FleetName, Roster),
}

impl Right {
    /// Whether these are rights to the same fleet.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Open(own), Self::Open(other)) => Arc::ptr_eq(own, other),
            (Self::OnDemand(own, _), Self::OnDemand(other, _)) => own == other,
            (Self::Open(_), Self::OnDemand(..)) | (Self::OnDemand(..), Self::Open(_)) => false,
        }
    }

    /// The fleet's streams.
    async fn enter(&self, pass: Option<Pass>) -> Result<Arc<Hub>, RosterError> {
        match self {
            Self::Open(hub) => Ok(Arc::clone(hub)),
            Self::OnDemand(fleet, roster) => roster.enter(fleet, pass).await,
        }
    }

    /// The pass that comes with a request, if this fleet needs one.
    async fn pass(
        &self,
        headers: &HeaderMap,
        (tokens, bearer): (&Tokens, &Bearer),
        now: i64,
    ) -> Result<Option<Pass>, TokenError> {
        if !matches!(self, Self::OnDemand(_, roster) if roster.wants_passes()) {
            return Ok(None);
        }
        let token = token::handed_over(headers)?;
        let expires = tokens.handed_over(token, bearer, now).await?;
        Ok(Some(Pass { token: token.into(), expires }))
    }
}

impl Membership {
    /// The fleet of a certificate with these names.
    pub(super) fn of_certificate(&self, names: &[String]) -> Option<Right> {
        if let Self::Only(hub) = self {
            return Some(Right::Open(Arc::clone(hub)));
        }
        // Only tokens speak for ServiceAccounts.
        let mut own = names.iter().filter(|name| !name.starts_with(token::ACCOUNT));
        own.find_map(|name| self.of_name(name)).or_else(|| self.of_name("*"))
    }

    /// The fleet of a ServiceAccount.
    fn of_account(&self, account: &str) -> Option<Right> {
        token::is_account(account).then(|| self.of_name(account)).flatten()
    }

    fn of_name(&self, name: &str) -> Option<Right> {
        match self {
            Self::Only(_) => None,
            Self::ByName(hubs) => hubs.get(name).map(|hub| Right::Open(Arc::clone(hub))),
            Self::OnDemand(fleets, roster) => {
                fleets.get(name).map(|fleet| Right::OnDemand(fleet.clone(), roster.clone()))
            }
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
    /// Connections of one client.
    pub shares: Arc<Shares>,
}

/// How clients on TCP prove who they are.
#[derive(Debug, Clone)]
pub struct Proofs {
    /// Their fleets, as they are at the moment: who loses its own is cut off.
    pub membership: watch::Receiver<Membership>,
    /// TLS as the files say at the moment; without it there are no proofs.
    pub tls: Option<watch::Receiver<Arc<Tls>>>,
    /// The judge of tokens.
    pub tokens: Option<Arc<Tokens>>,
    /// The time of day, for tokens.
    pub clock: Clock,
    /// Where refusals are counted.
    pub metrics: Arc<Metrics>,
}

/// By which names the streams of a connection were let in, and to which fleets.
#[derive(Debug, Default)]
struct Granted {
    /// Its certificate with the names, if that counted.
    certificate: Option<(Proven, Vec<String>, Right)>,
    /// Accounts of tokens.
    accounts: Mutex<BTreeMap<String, Right>>,
}

impl Granted {
    /// Whether all of it still holds.
    fn holds(&self, membership: &Membership) -> bool {
        let same = |now: Option<Right>, then: &Right| now.is_some_and(|now| now.is(then));
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        self.certificate.as_ref().is_none_or(|(_, names, then)| same(membership.of_certificate(names), then))
            && accounts.iter().all(|(account, then)| same(membership.of_account(account), then))
    }

    /// Lets an account in. That it is written down before it is looked at again leaves no gap to a change meanwhile: that
    /// is seen here, or ends the connection.
    fn account(&self, account: &str, membership: &watch::Receiver<Membership>) -> Option<Right> {
        let right = membership.borrow().of_account(account)?;
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        accounts.insert(account.to_owned(), right.clone());
        drop(accounts);
        membership.borrow().of_account(account).is_some_and(|now| now.is(&right)).then_some(right)
    }

    /// Ends when something of it holds no more: the reason.
    async fn lost(
        &self,
        mut membership: watch::Receiver<Membership>,
        mut tls: watch::Receiver<Arc<Tls>>,
    ) -> &'static str {
        loop {
            if !self.holds(&membership.borrow_and_update()) {
                return "lost_membership";
            }
            let now = Arc::clone(&tls.borrow_and_update());
            if self.certificate.as_ref().is_some_and(|(proven, ..)| !now.trusts(proven)) {
                return "lost_trust";
            }
            let changed = tokio::select! {
                changed = membership.changed() => changed,
                changed = tls.changed() => changed,
            };
            if changed.is_err() {
                // The relay ends, and its connections with it.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// For whom a connection is served.
enum Who {
    /// Known from the connection.
    Known(Right),
    /// Each stream brings a token.
    Token(Arc<Proofs>, Arc<Tokens>, Arc<Granted>),
}

impl Who {
    /// The fleet that a request may ask for, who asks, and for how long, if not for as long as the connection lasts.
    async fn of(&self, request: &Request<Incoming>, peer: &Caller) -> Result<Admitted, Status> {
        let (proofs, tokens, granted) = match self {
            Self::Known(right) => return Ok((enter(right, None, peer).await?, peer.clone(), None)),
            Self::Token(proofs, tokens, granted) => (proofs, tokens, granted),
        };
        let now = proofs.clock.unix_now();
        let judged = match token::bearer(request.headers()) {
            Ok(token) => tokens.judge(token, now).await,
            Err(error) => Err(error),
        };
        let refused = |reason: &'static str| {
            proofs.metrics.count("moorgate_relay_connections_refused", &[("reason", reason)]);
        };
        let does_not_count = |error: TokenError| {
            refused(error.label());
            tracing::info!(peer = &*peer.peer, %error, "a client's token does not count");
            Status::unauthenticated(error.to_string())
        };
        let bearer = judged.map_err(does_not_count)?;
        let Some(right) = granted.account(&bearer.account, &proofs.membership) else {
            refused("no_member");
            tracing::warn!(peer = &*peer.peer, account = bearer.account, "a client's token is of no fleet");
            return Err(Status::permission_denied("the token's account is of no fleet here"));
        };
        let pass = right.pass(request.headers(), (tokens, &bearer), now).await.map_err(does_not_count)?;
        let until = pass.as_ref().map(|pass| renewal(pass.expires, now));
        let hub = enter(&right, pass, peer).await?;
        let whose = format!("{} pod {}", bearer.account, bearer.pod);
        let name = format!("{} {whose}", peer.peer).into();
        Ok((hub, Caller { peer: name, client: Arc::clone(&peer.client), identity: whose.into() }, until))
    }
}

/// A fleet, who asks for it, and when its stream has to be begun anew.
type Admitted = (Arc<Hub>, Caller, Option<Instant>);

async fn enter(right: &Right, pass: Option<Pass>, peer: &Caller) -> Result<Arc<Hub>, Status> {
    right.enter(pass).await.map_err(|error| {
        tracing::error!(peer = &*peer.peer, %error, "a fleet cannot be opened");
        Status::unavailable(error.to_string())
    })
}

/// When a stream ends whose client handed over a token, so that it brings the next one: kubelets renew tokens when a fifth
/// of their life is left.
fn renewal(expires: i64, now: i64) -> Instant {
    let left = Duration::from_secs(u64::try_from(expires.saturating_sub(now)).unwrap_or(0));
    Instant::now() + left / 10 * 9
}

/// A place of a client among the connections.
type Place = (OwnedSemaphorePermit, Share);

/// A place for one more connection, if there is room and its client has not its share yet.
fn place(frontend: &Frontend, metrics: &Metrics, client: &Arc<str>) -> Option<Place> {
    let refused = |reason| metrics.count("moorgate_relay_connections_refused", &[("reason", reason)]);
    let Some(share) = frontend.shares.take(client, Instant::now()) else {
        refused("client_too_many");
        return None;
    };
    let Ok(permit) = Arc::clone(&frontend.connections).try_acquire_owned() else {
        refused("too_many");
        return None;
    };
    metrics.count("moorgate_relay_connections", &[]);
    Some((permit, share))
}

/// Serves a client on TCP, if it proves who it is. A handshake takes a place too, or half a handshake each would cost
/// nothing.
pub(super) async fn admit_tcp(
    proofs: Arc<Proofs>,
    stream: TcpStream,
    address: SocketAddr,
    frontend: Frontend,
) {
    let client: Arc<str> = address.ip().to_string().into();
    let Some(place) = place(&frontend, &proofs.metrics, &client) else { return };
    let Some(tls) = &proofs.tls else {
        let right = proofs.membership.borrow().of_certificate(&[]);
        if let Some(right) = right {
            let identity = Arc::clone(&client);
            let caller = Caller { peer: format!("tcp:{address}").into(), client, identity };
            connection(Who::Known(right), frontend.limits, stream, caller, true).await;
        }
        return drop(place);
    };
    let refused = |reason| proofs.metrics.count("moorgate_relay_connections_refused", &[("reason", reason)]);
    let now = Arc::clone(&tls.borrow());
    let acceptor = TlsAcceptor::from(Arc::clone(&now.config));
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%address, %error, "a TLS handshake failed");
            return refused("handshake");
        }
        Err(_) => return refused("silent"),
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let names = chain.first().map(tls::names);
    let right = names.as_ref().and_then(|names| proofs.membership.borrow().of_certificate(names));
    let counted = names.clone().zip(right.clone());
    let certificate = counted.map(|(names, right)| (now.proven(chain), names, right));
    let granted = Arc::new(Granted { certificate, ..Granted::default() });
    let who = match (right, &proofs.tokens) {
        (Some(right), _) => Who::Known(right),
        (None, Some(tokens)) if names.is_none() => {
            Who::Token(Arc::clone(&proofs), Arc::clone(tokens), Arc::clone(&granted))
        }
        (None, _) => {
            tracing::warn!(%address, ?names, "a client's certificate names no fleet");
            return refused("no_member");
        }
    };
    let names = names.unwrap_or_default().join(" ");
    let peer: Arc<str> = format!("tls:{address} {names}").trim().into();
    let identity = format!("{client} {names}").into();
    let caller = Caller { peer: Arc::clone(&peer), client, identity };
    tokio::select! {
        () = connection(who, frontend.limits, stream, caller, true) => {}
        reason = granted.lost(proofs.membership.clone(), tls.clone()) => {
            refused(reason);
            tracing::warn!(peer = &*peer, reason, "a client lost its right to ask: its connection ends");
        }
    }
    drop(place);
}

/// Serves a client on a Unix socket in a task of its own.
pub(super) fn admit_unix<S>(frontend: &Frontend, hub: &Arc<Hub>, stream: S, caller: Caller)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(place) = place(frontend, hub.metrics(), &caller.client) else { return };
    let (who, limits) = (Who::Known(Right::Open(Arc::clone(hub))), frontend.limits.clone());
    tokio::spawn(async move {
        connection(who, limits, stream, caller, false).await;
        drop(place);
    });
}

async fn connection<S>(who: Who, limits: Limits, stream: S, caller: Caller, keepalive: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(32 * 1024)
        .max_pending_accept_reset_streams(32)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .max_send_buf_size(SEND_BUFFER);
    if keepalive {
        builder.keep_alive_interval(Duration::from_secs(30)).keep_alive_timeout(Duration::from_secs(20));
    }
    let (begun, drain) = (Arc::new(AtomicBool::new(false)), limits.drain.clone());
    let seen = Arc::clone(&begun);
    // A connection begins streams no faster than this, whatever it does with them.
    let pace = Shares::new(STREAMS_PER_SECOND);
    let shared = Arc::new((who, limits, caller, pace));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        seen.store(true, Ordering::Relaxed);
        let shared = Arc::clone(&shared);
        async move { Ok::<Response<Reply>, Infallible>(answer(&shared, request).await) }
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

async fn answer(shared: &(Who, Limits, Caller, Arc<Shares>), request: Request<Incoming>) -> Response<Reply> {
    let (who, limits, caller, pace) = shared;
    if limits.drain.is_cancelled() {
        return grpc::refuse(&Status::unavailable("the relay stops"));
    }
    if pace.take(&caller.client, Instant::now()).is_none() {
        return grpc::refuse(&Status::resource_exhausted("too many streams in one second"));
    }
    match who.of(&request, caller).await {
        Ok((hub, caller, None)) => grpc::answer(&hub, limits, &caller, request),
        Ok((hub, caller, until)) => {
            let limits = Limits { until, ..limits.clone() };
            grpc::answer(&hub, &limits, &caller, request)
        }
        Err(status) => grpc::refuse(&status),
    }
}

/// Ends if no request came in time.
async fn silence(begun: &AtomicBool) {
    tokio::time::sleep(FIRST_REQUEST).await;
    if begun.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
