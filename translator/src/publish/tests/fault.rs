//! A store over memory that breaks in the ways real ones do.

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Barrier;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It fails, and nothing was done.
    Refused,
    /// It is done, and the answer is lost.
    Lost,
    /// It is done, and retried by the client inside: the answer is a conflict with itself.
    OwnConflict,
    /// A conflict is reported, and there is no object.
    FalseConflict,
}

/// Shared by all clients.
#[derive(Debug)]
pub(crate) struct FaultStore {
    inner: Arc<InMemory>,
    /// Pseudo-random faults from this state; none if 0.
    seed: Mutex<u64>,
    /// Puts that still work; then the process is taken to be dead.
    puts_left: AtomicU64,
    /// Where the first two writers of a log meet. Whoever loses looks again later, and alone.
    gate: Option<(Barrier, AtomicU64)>,
}

impl FaultStore {
    pub(crate) fn new(inner: Arc<InMemory>) -> Self {
        Self { inner, seed: Mutex::new(0), puts_left: AtomicU64::new(u64::MAX), gate: None }
    }

    pub(crate) fn seeded(self, seed: u64) -> Self {
        Self { seed: Mutex::new(seed), ..self }
    }

    pub(crate) fn dying_after(self, puts: u64) -> Self {
        Self { puts_left: AtomicU64::new(puts), ..self }
    }

    /// Puts that still work.
    pub(crate) fn puts_left(&self) -> u64 {
        self.puts_left.load(Ordering::SeqCst)
    }

    pub(crate) fn racing(self) -> Self {
        Self { gate: Some((Barrier::new(2), AtomicU64::new(0))), ..self }
    }

    fn roll(&self) -> Fault {
        let mut seed = self.seed.lock().unwrap();
        if *seed == 0 {
            return Fault::None;
        }
        // A step of xorshift: enough to vary the runs, the same for each seed.
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        match *seed % 12 {
            0 => Fault::Refused,
            1 => Fault::Lost,
            2 => Fault::OwnConflict,
            3 => Fault::FalseConflict,
            _ => Fault::None,
        }
    }

    fn alive(&self) -> Result<()> {
        if self.puts_left.load(Ordering::SeqCst) == 0 { Err(broken()) } else { Ok(()) }
    }
}

fn broken() -> Error {
    Error::Generic { store: "fault", source: "injected 503".into() }
}

impl fmt::Display for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fault")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if let Some((gate, met)) = self.gate.as_ref().filter(|_| location.as_ref().contains("/log/"))
            && met.fetch_add(1, Ordering::SeqCst) < 2
        {
            gate.wait().await;
        }
        self.alive()?;
        if self.puts_left.load(Ordering::SeqCst) != u64::MAX {
            self.puts_left.fetch_sub(1, Ordering::SeqCst);
        }
        let conflict =
            |path: &Path| Error::AlreadyExists { path: path.to_string(), source: "injected 409".into() };
        let create = opts.mode == object_store::PutMode::Create;
        match self.roll() {
            Fault::Refused => Err(broken()),
            Fault::FalseConflict if create => Err(conflict(location)),
            Fault::OwnConflict if create => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(conflict(location))
            }
            Fault::Lost => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(broken())
            }
            _ => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.alive()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
