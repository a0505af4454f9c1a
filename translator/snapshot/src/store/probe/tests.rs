use super::*;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::sync::Arc;

/// Breaks one promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vice {
    None,
    IgnoresPreconditionsOfPuts,
    IgnoresPreconditionsOfGets,
    ForgetsHalfOfAWrite,
    KeepsWhatIsRemoved,
    ShowsNothingInLists,
    MayNotList,
    MayNotDelete,
    MayNotWrite,
}

#[derive(Debug)]
struct Vicious {
    inner: Arc<InMemory>,
    vice: Vice,
}

impl fmt::Display for Vicious {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vicious")
    }
}

fn denied() -> Error {
    Error::PermissionDenied { path: String::new(), source: "not allowed".into() }
}

#[async_trait::async_trait]
impl ObjectStore for Vicious {
    async fn put_opts(&self, path: &Path, payload: PutPayload, mut options: PutOptions) -> Result<PutResult> {
        let payload = match self.vice {
            Vice::MayNotWrite => return Err(denied()),
            Vice::ForgetsHalfOfAWrite => {
                let bytes = Bytes::from(payload);
                bytes.slice(..bytes.len() / 2).into()
            }
            Vice::IgnoresPreconditionsOfPuts => {
                options.mode = PutMode::Overwrite;
                payload
            }
            _ => payload,
        };
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, mut options: GetOptions) -> Result<GetResult> {
        if self.vice == Vice::IgnoresPreconditionsOfGets {
            options.if_none_match = None;
        }
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.vice {
            Vice::MayNotDelete => paths.map(|_| Err(denied())).boxed(),
            Vice::KeepsWhatIsRemoved => paths,
            _ => self.inner.delete_stream(paths),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.vice {
            Vice::MayNotList => futures::stream::once(async { Err(denied()) }).boxed(),
            Vice::ShowsNothingInLists => futures::stream::empty().boxed(),
            _ => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn store(vice: Vice) -> (Arc<InMemory>, Store) {
    let inner = Arc::new(InMemory::new());
    let store = Store::new(Arc::new(Vicious { inner: inner.clone(), vice }), Path::default(), "memory:///");
    (inner, store)
}

#[tokio::test]
async fn each_broken_promise_is_found() {
    let stale = &[Promise::StaleCreate, Promise::RacingCreates][..];
    let most = &[
        Promise::ReadBack,
        Promise::StaleCreate,
        Promise::RacingCreates,
        Promise::ConditionalGet,
        Promise::Overwrite,
    ];
    for (vice, expected) in [
        (Vice::None, &[][..]),
        (Vice::IgnoresPreconditionsOfPuts, stale),
        (Vice::IgnoresPreconditionsOfGets, &[Promise::ConditionalGet]),
        (Vice::ForgetsHalfOfAWrite, most),
        (Vice::KeepsWhatIsRemoved, &[Promise::Delete]),
        (Vice::ShowsNothingInLists, &[Promise::List]),
        (Vice::MayNotList, &[]),
        (Vice::MayNotDelete, &[]),
    ] {
        let (inner, store) = store(vice);
        let probe = store.probe(None, "nonce").await.unwrap();
        let broken: Vec<Promise> = probe.broken().map(|(promise, _)| promise).collect();
        assert_eq!(broken, expected, "{vice:?}");
        assert!(probe.folder.ends_with("_probe/nonce"), "{}", probe.folder);
        let left = inner.list(None).count().await;
        let keeps = matches!(vice, Vice::KeepsWhatIsRemoved | Vice::MayNotDelete);
        assert_eq!(left > 0, keeps, "{vice:?}: {left} objects left behind");
        let allowed = |promise| {
            probe.checks.iter().all(|(one, verdict)| *one != promise || *verdict != Verdict::NotAllowed)
        };
        assert_eq!(allowed(Promise::List), vice != Vice::MayNotList);
        assert_eq!(allowed(Promise::Delete), vice != Vice::MayNotDelete);
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_is_an_error() {
    let (_, store) = store(Vice::MayNotWrite);
    let fleet = FleetName::gateway("shop", "edge");
    assert!(matches!(store.probe(Some(&fleet), "nonce").await, Err(StoreError::Denied { .. })));
}

#[tokio::test]
async fn the_local_disk_keeps_its_promises_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", dir.path().display())).unwrap();
    for nonce in ["one", "two"] {
        let probe = store.probe(None, nonce).await.unwrap();
        assert!(probe.checks.iter().all(|(_, verdict)| *verdict == Verdict::Kept), "{probe:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
