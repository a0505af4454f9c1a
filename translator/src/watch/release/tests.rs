use super::*;
use crate::compile::{Options, compile};
use crate::source::{File, Sources};
use futures::stream::BoxStream;
use moorgate_snapshot::KeyPair;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use tokio::sync::{Notify, Semaphore};

const YAML: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: moorgate}
spec: {controllerName: moorgate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: moorgate, listeners: [{name: http, port: 80, protocol: HTTP}]}
";

/// A store that stops before it commits, until its door is opened.
#[derive(Debug)]
struct Stopping {
    inner: InMemory,
    door: Semaphore,
    came: Notify,
    left: Notify,
}

/// Says that a commit ended, however it did.
struct Left<'a>(&'a Notify);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl fmt::Display for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopping")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Stopping {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if location.as_ref().contains("/log/") {
            let _left = Left(&self.left);
            self.came.notify_one();
            let _open = self.door.acquire().await;
            return self.inner.put_opts(location, payload, opts).await;
        }
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
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

fn target(store: Arc<dyn ObjectStore>) -> Target {
    let (key, _) = KeyPair::generate(&[5; 32]).unwrap();
    Target {
        store: Store::new(store, Path::default(), "memory:///"),
        mirrors: Vec::new(),
        trust: Arc::new(Trust::of([key.public().clone()])),
        reporters: Reporters::default(),
        signer: Some(Box::new(key)),
        channel: Channel::stable(),
        author: "watch".to_owned(),
        allow: Allow::default(),
        guard_deletions: false,
        provenance: Provenance::default(),
        retire_after: Duration::from_secs(30),
        seams: Seams { now: || OffsetDateTime::UNIX_EPOCH, nonce: || Ok("nonce".to_owned()) },
    }
}

fn turn() -> Turn {
    let file = File { name: "shop.yaml".into(), bytes: YAML.as_bytes().into() };
    Turn {
        compilation: compile(&[file], &Options::default()),
        stand: cluster::Stand {
            cluster: "uid-1".into(),
            resource_version: 7,
            digest: Digest::of(b"objects"),
        },
        compiled: BTreeMap::new(),
        sources: Sources::default(),
    }
}

#[tokio::test]
async fn whoever_loses_the_lease_commits_nothing_any_more() {
    let store = Arc::new(Stopping {
        inner: InMemory::new(),
        door: Semaphore::new(0),
        came: Notify::new(),
        left: Notify::new(),
    });
    let (_turns, turns) = watch::channel(Some(Arc::new(turn())));
    let (leads_out, leads) = watch::channel(true);
    let (released_out, mut released) = watch::channel(Released::new());
    let (held_out, _held) = watch::channel(Held::new());
    let target = Arc::new(target(store.clone()));
    let releases = Releases::new(target.clone(), Arc::default(), turns, leads, (released_out, held_out));
    let entry = async || target.reader(&FleetName::gateway("shop", "edge")).newest(None).await.unwrap().entry;
    let test = async {
        // It is about to commit when somebody else may begin to write.
        store.came.notified().await;
        leads_out.send_replace(false);
        store.left.notified().await;
        store.door.add_permits(1);
        assert!(entry().await.is_none() && released.borrow().is_empty());
        // Leading again, it publishes what there is now.
        leads_out.send_replace(true);
        released.changed().await.unwrap();
        let found = entry().await.unwrap().entry;
        assert_eq!((found.sequence, found.state.writer.as_str()), (1, WRITER));
    };
    tokio::select! {
        () = test => {}
        () = releases.run() => panic!("it ended"),
    }
}

#[test]
fn what_was_deleted_in_this_cluster_is_no_accident() {
    let stand = |cluster: &str, version: u64| cluster::Stand {
        cluster: cluster.into(),
        resource_version: version,
        digest: Digest::of(b"objects"),
    };
    let release = |source: Option<moorgate_snapshot::channel::Source>| Release {
        source,
        routes: Some(30),
        ..Release::new(Digest::of(b"1"), 1, OffsetDateTime::UNIX_EPOCH)
    };
    let now = stand("uid-1", 100);
    let is = |source| is_earlier(Some(&release(source)), &now);
    assert!(is(Some(stand("uid-1", 99).source())) && is(Some(now.source())));
    // Another cluster; one that was restored; a commit; somebody who did not say.
    assert!(!is(Some(stand("uid-2", 99).source())) && !is(Some(stand("uid-1", 101).source())));
    let commit = moorgate_snapshot::channel::Source { revision: "f00".to_owned(), ..now.source() };
    assert!(!is(Some(commit)) && !is(None) && !is_earlier(None, &now));
}

#[test]
fn old_releases_are_forgotten_first() {
    let fleet = FleetName::gateway("shop", "edge");
    let mut released = Released::new();
    for n in 0..100u8 {
        remember(&mut released, &fleet, Digest::of(&[n]), n.into());
    }
    let known = &released[&fleet];
    assert_eq!(known.len(), REMEMBERED);
    assert_eq!(known.values().min(), Some(&36));
}
