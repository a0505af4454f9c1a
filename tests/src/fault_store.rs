//! A store in memory, and clients of it that break in the ways real ones do: late, refused, in doubt, cut, flipped,
//! stale, denied, silent. What breaks is decided by whoever makes the client: by a script, or by a seed.
//!
//! ```text
//! Bucket ◀── FaultStore (publisher's client) ◀── Store ◀── Publisher
//!   the     ◀── FaultStore (relay's client)   ◀── Store ◀── Fleet
//!   truth
//! ```
//! Time is tokio's: under a paused clock a stalled request costs nothing.

mod bucket;

pub use bucket::{Bucket, Change};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The deadline of a client that gets no answer.
const STALL: Duration = Duration::from_mins(2);

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An object, or whether it changed.
    Get,
    /// Write, whatever is there.
    Put,
    /// Write if there is nothing.
    Create,
    /// Names.
    List,
    /// Remove.
    Delete,
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// What is asked.
    pub kind: Kind,
    /// Of which object or folder.
    pub path: &'a str,
}

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A server error; nothing was done.
    Error,
    /// Too many requests; nothing was done.
    SlowDown,
    /// The credentials do not count; nothing was done.
    Denied,
    /// A conflict, and there is no object (S3: 409 `ConditionalRequestConflict`).
    FalseConflict,
    /// Done, the answer lost, retried inside the client: a conflict with oneself.
    OwnConflict,
    /// Done, and the answer lost.
    Lost,
    /// The condition is ignored: what is there is written over.
    Careless,
    /// No answer, until the client's own deadline passes or the faults end.
    Stall,
    /// The body ends early, without an error.
    Cut,
    /// The body breaks off with an error; a list breaks off midway.
    Broken,
    /// One bit of the body is another.
    Flip,
    /// What is stored is not what was sent, and the answer is fine.
    Damage,
    /// What was there before: an older head, a name that was not taken yet.
    Stale,
    /// What was there some minutes ago: newer slots of a log are not, and neither is the head.
    Past,
    /// The caller dies before the request leaves.
    CrashBefore,
    /// The caller dies when the request is done.
    CrashAfter,
}

/// How long a request takes, and what goes wrong with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Verdict {
    /// Before anything happens.
    pub wait: Duration,
    /// What goes wrong.
    pub fault: Option<Fault>,
}

impl From<Fault> for Verdict {
    fn from(fault: Fault) -> Self {
        Self { wait: Duration::ZERO, fault: Some(fault) }
    }
}

/// Decides what happens to each request.
pub type Decide = Box<dyn FnMut(Operation<'_>) -> Verdict + Send>;

/// One client's view of a bucket.
pub struct FaultStore {
    bucket: Arc<Bucket>,
    decide: Mutex<Decide>,
    crashed: Notify,
    counts: Mutex<BTreeMap<Kind, u64>>,
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultStore")
    }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fault store")
    }
}

impl FaultStore {
    /// A client to whom happens what `decide` says.
    pub fn new(
        bucket: &Arc<Bucket>,
        decide: impl FnMut(Operation<'_>) -> Verdict + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            bucket: Arc::clone(bucket),
            decide: Mutex::new(Box::new(decide)),
            crashed: Notify::new(),
            counts: Mutex::default(),
        })
    }

    /// A client to whom nothing happens.
    pub fn calm(bucket: &Arc<Bucket>) -> Arc<Self> {
        Self::new(bucket, |_| Verdict::default())
    }

    /// As a store of the product.
    pub fn store(self: &Arc<Self>) -> moorgate_snapshot::Store {
        moorgate_snapshot::Store::new(Arc::new(Client(Arc::clone(self))), Path::default(), "memory:///")
    }

    /// Resolves when a request says that its caller died.
    pub async fn crashed(&self) {
        self.crashed.notified().await;
    }

    /// How many requests of a kind were made.
    pub fn count(&self, kind: Kind) -> u64 {
        lock(&self.counts).get(&kind).copied().unwrap_or_default()
    }

    /// Whether anything was asked of the bucket at all.
    pub fn requests(&self) -> u64 {
        lock(&self.counts).values().sum()
    }

    /// Waits, and gives the fault that the caller has to carry out; some are carried out here.
    async fn meet(&self, kind: Kind, path: &str) -> Result<Option<Fault>> {
        *lock(&self.counts).entry(kind).or_default() += 1;
        let verdict = (lock(&self.decide))(Operation { kind, path });
        if !verdict.wait.is_zero() {
            tokio::time::sleep(verdict.wait).await;
        }
        match verdict.fault {
            Some(Fault::Error) => Err(generic("injected 503")),
            Some(Fault::SlowDown) => Err(generic("injected 429 SlowDown")),
            Some(Fault::Denied) => {
                Err(Error::PermissionDenied { path: path.into(), source: "injected 403".into() })
            }
            Some(Fault::Stall) => {
                let _ = tokio::time::timeout(STALL, self.bucket.calm()).await;
                Err(generic("injected stall"))
            }
            Some(Fault::CrashBefore) => Err(self.crash().await),
            fault => Ok(fault),
        }
    }

    /// Tells that the caller died; nothing of it happens any more.
    async fn crash(&self) -> Error {
        self.crashed.notify_one();
        std::future::pending().await
    }

    async fn write(&self, path: &Path, payload: PutPayload, create: bool) -> Result<PutResult> {
        let kind = if create { Kind::Create } else { Kind::Put };
        let fault = self.meet(kind, path.as_ref()).await?;
        let conflict = || Error::AlreadyExists { path: path.to_string(), source: "injected 409".into() };
        if fault == Some(Fault::FalseConflict) && create {
            return Err(conflict());
        }
        let mut bytes = Bytes::from(payload);
        if fault == Some(Fault::Damage) {
            bytes = flip(&bytes, self.requests());
        }
        let put = self.bucket.put(path.as_ref(), &bytes, create && fault != Some(Fault::Careless));
        match fault {
            Some(Fault::Lost) => Err(generic("injected reset after the request was done")),
            Some(Fault::OwnConflict) if create && put.is_ok() => Err(conflict()),
            Some(Fault::CrashAfter) => Err(self.crash().await),
            _ => put,
        }
    }

    async fn read(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.meet(Kind::Get, path.as_ref()).await?;
        let found = match fault {
            Some(Fault::Stale) => self.bucket.stale(path.as_ref()),
            Some(Fault::Past) => self.bucket.past(path.as_ref()),
            _ => self.bucket.get(path.as_ref()),
        };
        if fault == Some(Fault::CrashAfter) {
            return Err(self.crash().await);
        }
        let (meta, bytes) = found
            .ok_or_else(|| Error::NotFound { path: path.to_string(), source: "no such object".into() })?;
        options.check_preconditions(&meta)?;
        let half = bytes.len() / 2;
        let (first, second) = (bytes.slice(..half), bytes.slice(half..));
        let chunks = match fault {
            Some(Fault::Cut) => vec![Ok(first)],
            Some(Fault::Broken) => vec![Ok(first), Err(generic("injected end of the connection"))],
            Some(Fault::Flip) => vec![Ok(first), Ok(flip(&second, self.requests()))],
            _ => vec![Ok(first), Ok(second)],
        };
        Ok(GetResult {
            range: 0..meta.size,
            payload: GetResultPayload::Stream(stream::iter(chunks).boxed()),
            meta,
            attributes: object_store::Attributes::default(),
            extensions: object_store::Extensions::default(),
        })
    }

    async fn listed(&self, prefix: &str) -> Vec<Result<ObjectMeta>> {
        let fault = match self.meet(Kind::List, prefix).await {
            Ok(fault) => fault,
            Err(error) => return vec![Err(error)],
        };
        if fault == Some(Fault::CrashAfter) {
            return vec![Err(self.crash().await)];
        }
        let mut found: Vec<Result<ObjectMeta>> = self.bucket.list(prefix).into_iter().map(Ok).collect();
        match fault {
            Some(Fault::Broken) => {
                found.truncate(found.len() / 2);
                found.push(Err(generic("injected end of a list")));
            }
            // A page of the list that never came.
            Some(Fault::Cut) => found.truncate(found.len() / 2),
            _ => {}
        }
        found
    }

    async fn remove(&self, path: &Path) -> Result<()> {
        let fault = self.meet(Kind::Delete, path.as_ref()).await?;
        self.bucket.delete(path.as_ref());
        match fault {
            Some(Fault::Lost) => Err(generic("injected reset after the request was done")),
            Some(Fault::CrashAfter) => Err(self.crash().await),
            _ => Ok(()),
        }
    }
}

/// The client, as a value that streams can own.
#[derive(Debug)]
struct Client(Arc<FaultStore>);

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Client {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match options.mode {
            PutMode::Overwrite => self.0.write(path, payload, false).await,
            PutMode::Create => self.0.write(path, payload, true).await,
            PutMode::Update(_) => Err(Error::NotImplemented {
                operation: "compare and swap".to_owned(),
                implementer: self.to_string(),
            }),
        }
    }

    async fn put_multipart_opts(
        &self,
        _path: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".to_owned(), implementer: self.to_string() })
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.read(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let client = Arc::clone(&self.0);
        let delete = move |path: Result<Path>| {
            let client = Arc::clone(&client);
            async move {
                let path = path?;
                client.remove(&path).await.map(|()| path)
            }
        };
        paths.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let client = Arc::clone(&self.0);
        let prefix = prefix.map(ToString::to_string).unwrap_or_default();
        stream::once(async move { stream::iter(client.listed(&prefix).await) }).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let folder = prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default();
        let found: Vec<ObjectMeta> = self.list(prefix).try_collect().await?;
        let mut common_prefixes = BTreeSet::new();
        let mut objects = Vec::new();
        for meta in found {
            let below = meta.location.as_ref().strip_prefix(&folder).unwrap_or_default();
            match below.split_once('/') {
                Some((name, _)) => drop(common_prefixes.insert(Path::from(format!("{folder}{name}")))),
                None => objects.push(meta),
            }
        }
        let common_prefixes = common_prefixes.into_iter().collect();
        Ok(ListResult { common_prefixes, objects, extensions: object_store::Extensions::default() })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, _options: CopyOptions) -> Result<()> {
        let found = self.0.bucket.peek(from.as_ref());
        let bytes = found
            .ok_or_else(|| Error::NotFound { path: from.to_string(), source: "no such object".into() })?;
        self.0.write(to, bytes.into(), false).await.map(drop)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn generic(words: &str) -> Error {
    Error::Generic { store: "fault", source: words.into() }
}

/// The same bytes with one bit changed, another one each time.
fn flip(bytes: &Bytes, salt: u64) -> Bytes {
    let mut changed = bytes.to_vec();
    let at = usize::try_from(salt.wrapping_mul(7_919) % (changed.len() as u64).max(1)).unwrap_or_default();
    if let Some(byte) = changed.get_mut(at) {
        *byte ^= 1 << (salt % 8);
    }
    changed.into()
}
