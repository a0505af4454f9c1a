//! A store in memory that counts what it is asked, and fails as told.

use futures::stream::BoxStream;
use moorgate_snapshot::Store;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mood {
    Fine,
    Down,
    ReadOnly,
    /// No write is answered.
    Stalled,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Bucket {
    inner: Arc<InMemory>,
    gets: Arc<AtomicU64>,
    puts: Arc<AtomicU64>,
    mood: Arc<AtomicU8>,
}

impl Bucket {
    pub(crate) fn store(&self) -> Store {
        Store::new(Arc::new(self.clone()), Path::default(), "bucket:///")
    }

    pub(crate) fn be(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    pub(crate) fn gets(&self) -> u64 {
        self.gets.load(Ordering::SeqCst)
    }

    pub(crate) fn puts(&self) -> u64 {
        self.puts.load(Ordering::SeqCst)
    }

    fn check(&self, path: &Path, write: bool) -> Result<()> {
        let mood = self.mood.load(Ordering::SeqCst);
        if mood == Mood::Down as u8 {
            return Err(Error::Generic { store: "bucket", source: "down".into() });
        }
        if write && mood == Mood::ReadOnly as u8 {
            return Err(Error::PermissionDenied { path: path.to_string(), source: "read only".into() });
        }
        Ok(())
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bucket")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        if self.mood.load(Ordering::SeqCst) == Mood::Stalled as u8 {
            std::future::pending::<()>().await;
        }
        self.check(path, true)?;
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check(path, true)?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        self.check(path, false)?;
        self.inner.get_opts(path, options).await
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
