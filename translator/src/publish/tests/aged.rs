//! A store over memory with its own clock, and with something that happens at a chosen request.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

/// Objects and the times at which they were written: shared by all clients.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) inner: InMemory,
    written: Mutex<BTreeMap<Path, i64>>,
    now: AtomicI64,
}

impl World {
    /// Lets time pass.
    pub(crate) fn pass(&self, seconds: i64) {
        self.now.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }

    fn age(&self, meta: &mut ObjectMeta) {
        let seconds = self.written.lock().unwrap().get(&meta.location).copied().unwrap_or_default();
        let time = time::OffsetDateTime::from_unix_timestamp(1_800_000_000 + seconds).unwrap();
        meta.last_modified =
            time.format(&time::format_description::well_known::Rfc3339).unwrap().parse().unwrap();
    }
}

/// What happens before a request.
pub(crate) type Hook = Box<dyn FnOnce() + Send>;

/// Runs to its end in a thread of its own, as another process would.
pub(crate) fn alone<F: Future<Output = ()>>(run: impl FnOnce() -> F + Send + 'static) -> Hook {
    Box::new(move || {
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(Box::pin(run()));
        });
        thread.join().unwrap();
    })
}

/// One client's way to the store.
pub(crate) struct Aged {
    world: Arc<World>,
    /// Requests until it happens.
    hook: Mutex<Option<(usize, Hook)>>,
    /// A list of this folder breaks off after the first object.
    broken_list: Option<&'static str>,
}

impl Aged {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        Self { world: world.clone(), hook: Mutex::new(None), broken_list: None }
    }

    pub(crate) fn breaking(self, folder: &'static str) -> Self {
        Self { broken_list: Some(folder), ..self }
    }

    pub(crate) fn interrupted(self, after: usize, hook: Hook) -> Self {
        *self.hook.lock().unwrap() = Some((after, hook));
        self
    }

    fn step(&self) {
        let due = {
            let mut hook = self.hook.lock().unwrap();
            match hook.as_mut() {
                Some((0, _)) => hook.take().map(|(_, hook)| hook),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some(due) = due {
            due();
        }
    }
}

impl fmt::Debug for Aged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("aged")
    }
}

impl fmt::Display for Aged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("aged")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Aged {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.step();
        let result = self.world.inner.put_opts(location, payload, opts).await?;
        self.world.written.lock().unwrap().insert(location.clone(), self.world.now());
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.world.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.step();
        let mut result = self.world.inner.get_opts(location, options).await?;
        self.world.age(&mut result.meta);
        Ok(result)
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.step();
        self.world.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let world = self.world.clone();
        let listed = self.world.inner.list(prefix).map(move |meta| {
            let mut meta = meta?;
            world.age(&mut meta);
            Ok(meta)
        });
        let breaks =
            self.broken_list.is_some_and(|folder| prefix.is_some_and(|path| path.as_ref().ends_with(folder)));
        if !breaks {
            return listed.boxed();
        }
        let error = || Error::Generic { store: "aged", source: "injected 503".into() };
        listed.take(1).chain(futures::stream::once(async move { Err(error()) })).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.world.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.world.inner.copy_opts(from, to, options).await
    }
}
