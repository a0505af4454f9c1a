//! One request and its answer.

use super::account::Account;
use super::ask::{Ask, Unasked, ask};
use super::gate::Gate;
use super::ledger::Ledger;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, ETAG, IF_NONE_MATCH, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body, Frame, SizeHint};
use moorgate_snapshot::store::{Fetched, Get};
use moorgate_snapshot::{FleetName, FleetStore, Store, StoreError, layout, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Objects that are being answered take at most so much memory together, in KiB.
const MEMORY: usize = 256 << 10;
/// Requests of one account at one time.
const AT_ONCE: usize = 64;
/// Relays of one fleet that may report: a bound on what a fleet can fill its part of the store with.
const REPORTERS: usize = 10_000;
/// A body has so long to arrive.
const BODY: Duration = Duration::from_secs(20);

/// The store lies on the disk of whoever writes, and nowhere else.
pub struct House {
    /// Whether that is this replica.
    pub leads: watch::Receiver<bool>,
    /// What relays were shown.
    pub ledger: Arc<Ledger>,
}

/// Answers requests from a store.
pub struct Front {
    store: Store,
    gate: Gate,
    memory: Arc<Semaphore>,
    active: Arc<Mutex<BTreeMap<Account, usize>>>,
    reporters: Mutex<BTreeMap<FleetName, BTreeSet<String>>>,
    house: Option<House>,
}

/// The body of an answer; its memory is free when it was sent.
#[derive(Debug)]
pub struct Held {
    bytes: Full<Bytes>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.bytes).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes.size_hint()
    }
}

/// One request of an account that is being answered.
struct Active {
    account: Account,
    all: Arc<Mutex<BTreeMap<Account, usize>>>,
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.account);
            }
        }
    }
}

impl Front {
    /// Serves this store to those whom the gate knows.
    pub fn new(store: Store, gate: Gate) -> Self {
        Self {
            store,
            gate,
            memory: Arc::new(Semaphore::new(MEMORY)),
            active: Arc::default(),
            reporters: Mutex::default(),
            house: None,
        }
    }

    /// The same of a store that no other replica has.
    #[must_use]
    pub fn in_house(self, house: House) -> Self {
        Self { house: Some(house), ..self }
    }

    /// Whether there is anything to be said yet: whoever is refused stays away for a while.
    fn is_open(&self) -> bool {
        self.gate.accounts().are_known() && self.house.as_ref().is_none_or(|house| *house.leads.borrow())
    }

    /// Answers a request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Held>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        match self.answer_or_refuse(request).await {
            Ok(response) => response,
            Err(status) => refusal(status),
        }
    }

    async fn answer_or_refuse<B>(&self, request: Request<B>) -> Result<Response<Held>, StatusCode>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        if !self.is_open() {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let account = self.account(&request).await?;
        let _active = self.begin(&account)?;
        let asked = ask(request.method(), request.uri().path()).map_err(|unasked| match unasked {
            Unasked::Forbidden => StatusCode::FORBIDDEN,
            Unasked::Method => StatusCode::METHOD_NOT_ALLOWED,
        })?;
        let fits = |fleet: &FleetName| {
            let fits = self.gate.accounts().fits(&account, fleet);
            if fits { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
        };
        match asked {
            Ask::Read { fleet, name, limit } => {
                fits(&fleet)?;
                self.read(&request, &self.store.fleet(&fleet), &name, limit).await
            }
            Ask::Trust(number) => {
                if !self.gate.accounts().is_known(&account) {
                    return Err(StatusCode::FORBIDDEN);
                }
                let found = self.store.trust_document(number).await.map_err(|error| failed(&error))?;
                let bytes = found.ok_or(StatusCode::NOT_FOUND)?;
                Ok(found_object(Fetched { bytes, etag: None }, "no-store", None))
            }
            Ask::Report { fleet, name } => {
                fits(&fleet)?;
                self.admit(&fleet, &name)?;
                self.write(request, &self.store.fleet(&fleet), &name).await
            }
        }
    }

    async fn account<B>(&self, request: &Request<B>) -> Result<Account, StatusCode> {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|text| text.strip_prefix("Bearer ")).ok_or(StatusCode::UNAUTHORIZED)?;
        let account = self.gate.account(token).await.map_err(|error| {
            tracing::warn!(%error, "a request is not answered");
            StatusCode::SERVICE_UNAVAILABLE
        })?;
        account.ok_or(StatusCode::UNAUTHORIZED)
    }

    fn begin(&self, account: &Account) -> Result<Active, StatusCode> {
        let mut all = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(account.clone()).or_default();
        if *count >= AT_ONCE {
            return Err(StatusCode::TOO_MANY_REQUESTS);
        }
        *count += 1;
        Ok(Active { account: account.clone(), all: Arc::clone(&self.active) })
    }

    async fn read<B>(
        &self,
        request: &Request<B>,
        part: &FleetStore,
        name: &str,
        limit: usize,
    ) -> Result<Response<Held>, StatusCode> {
        let cached = if layout::is_immutable(name) { "max-age=31536000, immutable" } else { "no-store" };
        if request.method() == Method::HEAD {
            let found =
                part.stat(name).await.map_err(|error| failed(&error))?.ok_or(StatusCode::NOT_FOUND)?;
            let mut response = empty(StatusCode::OK);
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(found.size));
            return Ok(response);
        }
        let memory = self.hold(limit).await?;
        let tag = request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        match part.get_if_changed(name, tag, limit).await.map_err(|error| failed(&error))? {
            Get::Found(found) => {
                self.note(part.fleet(), name, &found.bytes).await?;
                Ok(found_object(found, cached, Some(memory)))
            }
            Get::NotModified => Ok(empty(StatusCode::NOT_MODIFIED)),
            Get::Missing => Err(StatusCode::NOT_FOUND),
        }
    }

    /// Writes down what a relay is about to see, if it is the end of a log.
    async fn note(&self, fleet: &FleetName, name: &str, bytes: &Bytes) -> Result<(), StatusCode> {
        let Some(house) = &self.house else { return Ok(()) };
        house.ledger.show(fleet, name, bytes).await.map_err(|error| {
            tracing::warn!(%fleet, %error, "an entry is not shown");
            StatusCode::SERVICE_UNAVAILABLE
        })?;
        // Whoever took over meanwhile may have written down something else.
        if *house.leads.borrow() { Ok(()) } else { Err(StatusCode::SERVICE_UNAVAILABLE) }
    }

    /// Memory for an object that may be so large, as soon as there is some.
    async fn hold(&self, limit: usize) -> Result<OwnedSemaphorePermit, StatusCode> {
        let kib = u32::try_from(limit.div_ceil(1024).clamp(1, MEMORY)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.memory).acquire_many_owned(kib).await;
        permit.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
    }

    fn admit(&self, fleet: &FleetName, name: &str) -> Result<(), StatusCode> {
        let mut reporters = self.reporters.lock().unwrap_or_else(PoisonError::into_inner);
        let known = reporters.entry(fleet.clone()).or_default();
        if !known.contains(name) && known.len() >= REPORTERS {
            return Err(StatusCode::INSUFFICIENT_STORAGE);
        }
        known.insert(name.to_owned());
        Ok(())
    }

    async fn write<B>(
        &self,
        request: Request<B>,
        part: &FleetStore,
        name: &str,
    ) -> Result<Response<Held>, StatusCode>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send,
    {
        let body = Box::pin(Limited::new(request.into_body(), limits::REPORT_BYTES));
        let read =
            tokio::time::timeout(BODY, body.collect()).await.map_err(|_| StatusCode::REQUEST_TIMEOUT)?;
        let bytes = read.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?.to_bytes();
        part.overwrite(name, bytes).await.map_err(|error| failed(&error))?;
        Ok(empty(StatusCode::NO_CONTENT))
    }
}

/// What the store's failure is to a reader: never that it is the reader who may not.
fn failed(error: &StoreError) -> StatusCode {
    tracing::warn!(%error, "the store behind fails");
    StatusCode::BAD_GATEWAY
}

fn found_object(
    found: Fetched,
    cached: &'static str,
    memory: Option<OwnedSemaphorePermit>,
) -> Response<Held> {
    let tag = found.etag.and_then(|tag| HeaderValue::from_str(&tag).ok());
    let mut response = Response::new(Held { bytes: Full::new(found.bytes), _memory: memory });
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cached));
    response.headers_mut().extend(tag.map(|tag| (ETAG, tag)));
    response
}

fn empty(status: StatusCode) -> Response<Held> {
    let mut response = Response::new(Held { bytes: Full::default(), _memory: None });
    *response.status_mut() = status;
    response
}

fn refusal(status: StatusCode) -> Response<Held> {
    let mut response = empty(status);
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
