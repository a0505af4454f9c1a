//! gRPC by hand on top of hyper: requests are decoded, responses are shared bytes that nothing copies.

mod methods;

use super::frame::Message;
use super::hub::{Hub, Session};
use super::meter::Metered;
use super::modules;
use super::proto::{DeltaDiscoveryRequest, DiscoveryRequest};
use super::share::{Share, Shares};
use super::stream::{Protocol, Stream, Violation};
use super::{frame, meter};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use hyper::body::Incoming;
use methods::METHODS;
use moorgate_snapshot::record::module_of;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder, Streaming};

/// The first message must come within this time.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);
/// A client that acknowledges nothing for so long is let go; it comes back if it lives.
const UNACKNOWLEDGED: Duration = Duration::from_mins(15);
/// Bytes that each stream has ready for requests: an acknowledgement is shorter, and what is longer grows the buffer.
const READ_AHEAD: usize = 512;
/// Requests a second that one stream may make; more wait.
const REQUESTS_PER_SECOND: u32 = 500;

/// Requests of the largest size that may come in at one time.
const LARGE_REQUESTS: usize = 8;
/// Messages that wait for a client that does not read. A poll may add one a type.
const WAITING: usize = 2 * ROUND;
/// The most messages that one poll brings.
const ROUND: usize = 40;

/// What all streams share.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest request, in bytes. The first delta request after a reconnect names every resource with its version.
    pub max_request: usize,
    /// Streams at one time.
    pub streams: Arc<Semaphore>,
    /// Streams of one client.
    pub shares: Arc<Shares>,
    /// Streams of one fleet.
    pub fleets: Arc<Shares>,
    /// Bytes of large requests that are coming in, see [`super::meter`].
    pub incoming: Arc<Semaphore>,
    /// Ends all streams, each after a share of the window.
    pub drain: CancellationToken,
    /// Over how long streams end when the relay drains.
    pub drain_window: Duration,
    /// When a stream ends because its client has to prove again who it is.
    pub until: Option<Instant>,
}

impl Limits {
    /// Room for so many streams, which one client alone may fill.
    pub fn new(max_request: usize, streams: usize, drain: CancellationToken, drain_window: Duration) -> Self {
        Self {
            max_request,
            streams: Arc::new(Semaphore::new(streams.min(Semaphore::MAX_PERMITS))),
            shares: Shares::new(streams),
            fleets: Shares::new(streams),
            incoming: meter::budget(max_request.saturating_mul(LARGE_REQUESTS)),
            drain,
            drain_window,
            until: None,
        }
    }
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// For people: where it comes from, and what it has proven.
    pub peer: Arc<str>,
    /// What counts as one client, for limits: a process, or an address.
    pub client: Arc<str>,
    /// Who it has proven to be: the same when it comes back on another connection.
    pub identity: Arc<str>,
}

/// A place among the streams of the relay, of a client and of a fleet.
pub(super) type Permit = (OwnedSemaphorePermit, Share, Share);

impl Limits {
    /// A place for one more.
    fn place(&self, hub: &Hub, caller: &Caller) -> Result<Permit, &'static str> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| "too many streams")?;
        let now = Instant::now();
        let share = self.shares.take(&caller.client, now).ok_or("too many streams of one client")?;
        let fleet = hub.fleet().to_string().into();
        let of_fleet = self.fleets.take(&fleet, now).ok_or("too many streams of one fleet")?;
        Ok((permit, share, of_fleet))
    }
}

/// Answers one HTTP/2 request: a stream, a module, or a refusal.
pub fn answer(
    hub: &Arc<Hub>,
    limits: &Limits,
    caller: &Caller,
    request: Request<Incoming>,
) -> Response<Reply> {
    if let Some(digest) = module_of(request.uri().path()) {
        return match limits.place(hub, caller) {
            Ok(permit) => modules::answer(hub, request.method(), digest, permit),
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE),
        };
    }
    if request.method() != Method::POST {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    let grpc =
        request.headers().get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"));
    if !grpc {
        return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let path = request.uri().path();
    let Some((_, protocol, only)) = METHODS.iter().find(|(known, _, _)| *known == path) else {
        return refuse(&Status::unimplemented(
            "no such method: streams of the xDS v3 services are served here",
        ));
    };
    let permit = match limits.place(hub, caller) {
        Ok(permit) => permit,
        Err(reason) => return refuse(&Status::resource_exhausted(reason)),
    };
    let (sender, receiver) = mpsc::channel(WAITING);
    let session = hub.connect(caller.peer.to_string(), *protocol);
    let stream = Stream::new(*protocol, only.map(Into::into), Arc::clone(&hub.settings));
    let identity = Arc::clone(&caller.identity);
    let conversation = Conversation { stream, session, identity, limits: limits.clone(), sender };
    let max = Some(limits.max_request);
    let body = Metered::new(request.into_body(), Arc::clone(&limits.incoming), limits.max_request);
    match protocol {
        Protocol::Delta => {
            let requests = Streaming::new_request(Prost::<DeltaDiscoveryRequest>::default(), body, None, max);
            tokio::spawn(async move {
                conversation.run(requests).await;
                drop(permit);
            });
        }
        Protocol::StateOfTheWorld => {
            let requests = Streaming::new_request(Prost::<DiscoveryRequest>::default(), body, None, max);
            tokio::spawn(async move {
                conversation.run(requests).await;
                drop(permit);
            });
        }
    }
    reply(receiver)
}

/// An answer whose messages come out of this end, and then the status.
pub(crate) fn reply(receiver: mpsc::Receiver<Outgoing>) -> Response<Reply> {
    grpc_response(Reply { receiver: Some(receiver), sending: None, _permit: None })
}

fn grpc_response(body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// An answer without a body.
pub(super) fn plain(status: StatusCode) -> Response<Reply> {
    let mut response = Response::new(Reply::empty());
    *response.status_mut() = status;
    response
}

/// A refusal without a stream.
pub fn refuse(status: &Status) -> Response<Reply> {
    let mut response = grpc_response(Reply::empty());
    response.headers_mut().extend(trailers(status));
    response
}

fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::new();
    // A status always fits headers: its message is percent-encoded.
    let _ = status.add_header(&mut map);
    map
}

/// What goes out on a stream.
pub(crate) enum Outgoing {
    /// A gRPC message.
    Message(Box<Message>),
    /// The last.
    End(Status),
}

/// The body of an answer: messages as they come, then the status.
pub struct Reply {
    receiver: Option<mpsc::Receiver<Outgoing>>,
    /// A message, and how many of its pieces went out.
    sending: Option<(Box<Message>, usize)>,
    /// What it takes of the limits, if it is no stream.
    _permit: Option<Permit>,
}

impl Reply {
    fn empty() -> Self {
        Self { receiver: None, sending: None, _permit: None }
    }

    /// One message, and nothing behind it.
    pub(super) fn of(message: Message, permit: Permit) -> Self {
        Self { receiver: None, sending: Some((Box::new(message), 0)), _permit: Some(permit) }
    }
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(piece) = frame::next_piece(&mut self.sending) {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(receiver) = &mut self.receiver else { return Poll::Ready(None) };
            match std::task::ready!(receiver.poll_recv(context)) {
                Some(Outgoing::Message(message)) => self.sending = Some((message, 0)),
                Some(Outgoing::End(status)) => {
                    self.receiver = None;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
                }
                None => {
                    self.receiver = None;
                    let status = Status::internal("the stream ended");
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.receiver.is_none() && self.sending.is_none()
    }
}

/// Decodes messages.
pub(crate) struct Prost<M>(std::marker::PhantomData<M>);

impl<M> Default for Prost<M> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<M: prost::Message + Default> Decoder for Prost<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        M::decode(source).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(READ_AHEAD, READ_AHEAD)
    }
}

/// A request that a stream takes.
trait Ask: prost::Message + Default + 'static {
    fn give(self, stream: &mut Stream, now: Instant) -> Result<(), Violation>;
}

impl Ask for DeltaDiscoveryRequest {
    fn give(self, stream: &mut Stream, now: Instant) -> Result<(), Violation> {
        stream.delta(self, now)
    }
}

impl Ask for DiscoveryRequest {
    fn give(self, stream: &mut Stream, now: Instant) -> Result<(), Violation> {
        stream.state_of_the_world(self, now)
    }
}

/// A stream and the world around it.
struct Conversation {
    stream: Stream,
    session: Session,
    identity: Arc<str>,
    limits: Limits,
    sender: mpsc::Sender<Outgoing>,
}

impl Conversation {
    async fn run<M: Ask>(mut self, requests: Streaming<M>) {
        let status = self.talk(requests).await;
        // A client that reads nothing need not be told.
        let _ = self.sender.try_send(Outgoing::End(status));
    }

    /// Reads requests and views until one side ends. What waits for the client is bounded: one response a type.
    async fn talk<M: Ask>(&mut self, mut requests: Streaming<M>) -> Status {
        let mut views = self.session.hub().views();
        let mut pace = Pace::new(Instant::now());
        let started = Instant::now();
        let mut leave: Option<Instant> = None;
        let mut stuck: Option<Instant> = None;
        if let Some(view) = views.borrow_and_update().clone() {
            self.stream.set_view(view);
        }
        loop {
            // A client that does not read gets nothing more to read, and is not read either: what changes meanwhile
            // comes in its newest form. Acknowledging what it cannot know yet does not help it.
            let full = self.sender.capacity() < ROUND;
            let wake = match if full { Ok(None) } else { self.send() } {
                Ok(wake) => wake,
                Err(error) => return Status::resource_exhausted(error.to_string()),
            };
            stuck = full.then(|| stuck.unwrap_or_else(Instant::now));
            let deadline = match self.stream.oldest_unacknowledged() {
                _ if self.stream.node().is_none() => Some(started + FIRST_MESSAGE),
                oldest => oldest.into_iter().chain(stuck).min().map(|oldest| oldest + UNACKNOWLEDGED),
            };
            let pause = pace.pause(Instant::now());
            tokio::select! {
                request = requests.message(), if pause.is_none() && !full => match request {
                    Ok(Some(request)) => {
                        pace.count();
                        if let Err(violation) = self.take(request) {
                            return Status::invalid_argument(violation.to_string());
                        }
                    }
                    Ok(None) => return Status::ok(""),
                    Err(status) => return status,
                },
                changed = views.changed() => {
                    if changed.is_err() {
                        return Status::unavailable("the relay stops");
                    }
                    // The borrow ends here: whoever holds one while another is waited for stops all who publish.
                    let view = views.borrow_and_update().clone();
                    if let Some(view) = view {
                        self.stream.set_view(view);
                        self.mind_age();
                    }
                }
                () = room(&self.sender), if full => {}
                () = until(wake) => {}
                () = until(pause) => {}
                () = until(deadline) => return Status::deadline_exceeded("the client is silent"),
                () = self.limits.drain.cancelled(), if leave.is_none() => {
                    leave = Some(Instant::now() + crate::jitter::Jitter::default().share_of(self.limits.drain_window));
                }
                () = until(leave) => return Status::ok("the relay stops"),
                () = until(self.limits.until) => return Status::ok("the client's token is to be renewed"),
                () = self.sender.closed() => return Status::cancelled("the client left"),
            }
        }
    }

    fn take<M: Ask>(&mut self, request: M) -> Result<(), Violation> {
        let known = self.stream.node().is_some();
        request.give(&mut self.stream, Instant::now())?;
        if let Some(node) = self.stream.node().filter(|_| !known) {
            if let Some(snapshot) = self.session.meet(node) {
                self.stream.set_back(snapshot);
            }
            self.stream.remember(self.session.refusals(&self.identity));
            self.mind_age();
        }
        Ok(())
    }

    /// An Envoy that is too old for the snapshot in force gets the one before.
    fn mind_age(&mut self) {
        let snapshot = self.session.hub().view().map(|view| view.config.id);
        if let Some(snapshot) = snapshot.filter(|snapshot| self.session.is_too_old(snapshot)) {
            self.stream.set_back(snapshot);
        }
    }

    fn send(&mut self) -> Result<Option<Instant>, frame::TooLarge> {
        let output = self.stream.poll(Instant::now());
        output.events.into_iter().for_each(|event| self.session.report(event));
        output.refused.into_iter().for_each(|refusal| self.session.refuse(&self.identity, refusal));
        for response in &output.responses {
            let _span = self.session.span(response).entered();
            let _ = self.sender.try_send(Outgoing::Message(Box::new(frame::message(response)?)));
        }
        Ok(output.wake)
    }
}

/// Waits until the client has read enough for another round. That it left is noticed elsewhere.
async fn room(sender: &mpsc::Sender<Outgoing>) {
    if sender.reserve_many(ROUND).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for a moment, or for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Bounds how fast a client is read.
struct Pace {
    window: Instant,
    count: u32,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { window: now, count: 0 }
    }

    fn count(&mut self) {
        self.count += 1;
    }

    /// Until when not to read.
    fn pause(&mut self, now: Instant) -> Option<Instant> {
        let end = self.window + Duration::from_secs(1);
        if now >= end {
            *self = Self::new(now);
            return None;
        }
        (self.count >= REQUESTS_PER_SECOND).then_some(end)
    }
}

#[cfg(test)]
mod tests;
