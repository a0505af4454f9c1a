//! Every backend passes one suite; what proxies and clouds do to requests does not confuse it; and a store that breaks its
//! promises is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use bytes::Bytes;
use http::Method;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use moorgate_snapshot::store::{Create, Get};
use moorgate_snapshot::{FleetName, FleetStore, Store, StoreError};
use moorgate_tests::program::{moorgate, run};
use moorgate_tests::storage::azurite::Azurite;
use moorgate_tests::storage::cases;
use moorgate_tests::storage::front::Front;
use moorgate_tests::storage::gcs::{self, Gcs};
use moorgate_tests::storage::moto::{self, Moto};
use moorgate_tests::storage::proxy::{Behaviour, Proxy};
use moorgate_tests::{manifest, runtime};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};

fn suite(store: &Store) {
    runtime().block_on(cases::run(store, "suite")).unwrap();
}

#[test]
fn the_local_disk_passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    suite(&Store::open(&format!("file://{}/store", dir.path().display())).unwrap());
}

#[test]
fn memory_passes_the_suite() {
    suite(&Store::open("memory:///").unwrap());
}

#[test]
fn s3_passes_the_suite() {
    let moto = Moto::start().unwrap();
    moto.bucket("bucket").unwrap();
    suite(&Store::open_with("s3://bucket/some/prefix", &moto.settings()).unwrap());
    suite(&Store::open_with("s3://bucket", &moto.settings()).unwrap());
}

#[test]
fn azure_passes_the_suite() {
    let azurite = Azurite::start().unwrap();
    azurite.container("container").unwrap();
    suite(&Store::open_with("az://container/some/prefix", &azurite.settings()).unwrap());
}

#[test]
fn the_double_of_google_cloud_storage_passes_the_suite() {
    let gcs = Gcs::start().unwrap();
    suite(&Store::open_with(&format!("gs://{}/some/prefix", gcs::BUCKET), &gcs.settings()).unwrap());
}

/// What `watch --serve-store` serves is a store as good as the one behind it, for whoever reads.
#[test]
fn a_store_behind_https_passes_the_half_of_the_suite_that_reads() {
    let folder = tempfile::tempdir().unwrap();
    let front = Front::start(folder.path()).unwrap();
    let behind = Store::open(&format!("file://{}/store", folder.path().display())).unwrap();
    let fleet = FleetName::gateway("shop", "edge");
    let store = front.store().unwrap();
    runtime().block_on(cases::run_reads(&behind, &store, &fleet)).unwrap();
}

/// Fault 28: an S3 server that ignores conditions. It is found out, and gets no release.
#[test]
fn a_store_that_breaks_its_promises_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("store/bucket");
    std::fs::create_dir_all(&bucket).unwrap();
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path().join("store")).unwrap());
    service.set_auth(SimpleAuth::from_single("test", "test"));
    let server = BadStore::start(service.build());
    let mut command = moorgate().unwrap();
    command.args(["store", "probe", "shop/edge", "--store", "s3://bucket/prefix", "-o", "json"]);
    let outcome = run(command.envs(moto::variables(server.port))).unwrap().ended_with(&[5]).unwrap();
    let probe = outcome.json().unwrap();
    assert_eq!(probe["kept"], false);
    let broken = |check: &&serde_json::Value| check["result"] == "broken";
    let checks = probe["checks"].as_array().unwrap();
    let broken: Vec<&str> =
        checks.iter().filter(broken).filter_map(|check| check["promise"].as_str()).collect();
    assert!(broken.contains(&"conditional-get") || broken.contains(&"racing-creates"), "{probe}");
    // Nothing is published to it.
    let key = folder.path().join("publish.key");
    run(moorgate().unwrap().arg("keygen").arg(&key)).unwrap().ended_with(&[0]).unwrap();
    let source = folder.path().join("source.yaml");
    let listeners = [manifest::Listener::http("http", 80)];
    let documents = [manifest::gateway_class(), manifest::gateway("shop", "edge", &listeners)];
    std::fs::write(&source, manifest::documents(&documents)).unwrap();
    let mut command = moorgate().unwrap();
    command.args(["publish", "--channel", "stable", "--store", "s3://bucket/prefix"]).arg(&source);
    command.arg("--key").arg(format!("file:{}", key.display())).envs(moto::variables(server.port));
    let outcome = run(&mut command).unwrap().ended_with(&[4]).unwrap();
    assert!(outcome.stderr.contains("breaks promises"), "{}", outcome.stderr);
    let prefix = bucket.join("prefix").join(FleetName::gateway("shop", "edge").prefix());
    for folder in ["pages", "manifests", "log", "head"] {
        assert!(!prefix.join(folder).exists(), "{folder} was written");
    }
}

/// An S3 server over a folder, in this process; dropping it ends it.
struct BadStore {
    port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl BadStore {
    fn start(service: S3Service) -> Self {
        let listener = runtime().block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = runtime().spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, task }
    }
}

impl Drop for BadStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A fleet's store on moto behind a proxy.
fn behind_a_proxy() -> (Moto, Proxy, FleetStore) {
    let moto = Moto::start().unwrap();
    moto.bucket("bucket").unwrap();
    let proxy = Proxy::start(moto.port()).unwrap();
    let store = Store::open_with("s3://bucket/prefix", &Moto::settings_through(proxy.port())).unwrap();
    (moto, proxy, store.fleet(&FleetName::gateway("shop", "edge")))
}

/// Fault 6: applied, and the answer lost. The client asks again inside and is told that the object is there.
#[test]
fn a_commit_whose_answer_was_lost_is_recognised() {
    let (_moto, proxy, store) = behind_a_proxy();
    let (own, other) = (Bytes::from_static(b"own"), Bytes::from_static(b"other"));
    for (slot, times) in [("log/a/1", 1), ("log/a/2", 3), ("log/a/3", 5)] {
        proxy.behave(Behaviour::LoseAnswers(Method::PUT, "log/a".to_owned(), times));
        assert!(runtime().block_on(store.commit(slot, &own, 100)).unwrap(), "{slot}");
        let puts = proxy.take().iter().filter(|seen| seen.method == "PUT").count();
        assert!(puts > times.min(2), "{puts} puts: nothing was lost");
        assert!(!runtime().block_on(store.commit(slot, &other, 100)).unwrap(), "{slot}");
        assert_eq!(runtime().block_on(store.get(slot, 100)).unwrap(), Some(own.clone()));
    }
}

/// Fault 8: denied is not missing, though S3 says "denied" for what is missing to those who may not list.
#[test]
fn missing_is_told_apart_from_denied() {
    let (_moto, proxy, store) = behind_a_proxy();
    let get = |name: &str| runtime().block_on(store.get(name, 100));
    runtime().block_on(store.overwrite("head/stable", Bytes::from_static(b"head"))).unwrap();
    proxy.behave(Behaviour::HideMissing);
    // Before anything was read there is no telling.
    assert!(matches!(get("log/stable/1"), Err(StoreError::Denied { .. })));
    assert!(get("head/stable").unwrap().is_some());
    assert_eq!(get("log/stable/1").unwrap(), None);
    proxy.behave(Behaviour::Deny("prefix".to_owned()));
    let error = get("log/stable/1").unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }) && error.label() == "store_denied", "{error}");
    assert!(matches!(get("head/stable"), Err(StoreError::Denied { .. })));
}

/// Fault 35: a cache on the way keeps neither heads nor log entries, nor that one was not there; it may keep pages.
#[test]
fn a_caching_proxy_hides_no_release() {
    let (_moto, proxy, store) = behind_a_proxy();
    proxy.behave(Behaviour::Cache);
    let get = |name: &str| runtime().block_on(store.get(name, 100)).unwrap();
    let put = |name: &str, text: &'static str| {
        runtime().block_on(store.overwrite(name, Bytes::from_static(text.as_bytes()))).unwrap();
    };
    assert_eq!(get("log/stable/1"), None);
    assert_eq!(get("head/stable"), None);
    let created = runtime().block_on(store.create("log/stable/1", Bytes::from_static(b"entry"))).unwrap();
    assert_eq!(created, Create::Created);
    for text in ["one", "two"] {
        put("head/stable", text);
        assert_eq!(get("head/stable").unwrap(), text);
        let found = runtime().block_on(store.get_if_changed("head/stable", None, 100)).unwrap();
        assert!(matches!(found, Get::Found(found) if found.bytes == text));
    }
    assert_eq!(get("log/stable/1").unwrap(), "entry");
    let controls: Vec<_> = proxy.take().into_iter().filter_map(|seen| seen.cache_control).collect();
    assert!(controls.iter().all(|value| value == "no-store"), "{controls:?}");
    // The second read of a page is the cache's.
    put("pages/x", "page");
    for _ in 0..2 {
        assert_eq!(get("pages/x").unwrap(), "page");
    }
    let seen = proxy.take();
    assert!(seen.iter().filter(|seen| seen.method == "GET").all(|seen| {
        seen.status == 200 && seen.cache_control.as_deref() == Some("max-age=31536000, immutable")
    }));
}

/// `--store` repeats: a commit goes to the first store, and the mirror in another kind of store gets it too.
#[test]
fn a_mirror_in_another_kind_of_store_is_brought_up_to_date() {
    let moto = Moto::start().unwrap();
    moto.bucket("bucket").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("publish.key");
    run(moorgate().unwrap().arg("keygen").arg(&key)).unwrap().ended_with(&[0]).unwrap();
    let source = folder.path().join("source.yaml");
    let first = format!("file://{}/first", folder.path().display());
    let publish = |port: u16, store: &str| {
        let listeners = [manifest::Listener::http("http", port)];
        let documents = [manifest::gateway_class(), manifest::gateway("shop", "edge", &listeners)];
        std::fs::write(&source, manifest::documents(&documents)).unwrap();
        let mut command = moorgate().unwrap();
        command.args(["publish", "--channel", "stable", "-o", "json"]).arg(&source);
        command.arg("--key").arg(format!("file:{}", key.display())).env("MOORGATE_STORE", store);
        let outcome = run(command.envs(moto::variables(moto.port()))).unwrap().ended_with(&[0]).unwrap();
        outcome.json().unwrap()["fleets"][0].clone()
    };
    let stores = format!("{first},s3://bucket/mirror");
    let published = publish(80, &stores);
    assert_eq!(published["mirrors"][0]["result"], "up-to-date", "{published}");
    assert_eq!(published["mirrors"][0]["copied"]["entries"], 1);
    // The mirror is away: the release is published all the same, and the mirror told apart.
    let published = publish(81, &format!("{first},s3://no-such-bucket/mirror"));
    assert_eq!(
        (&published["result"], &published["mirrors"][0]["result"]),
        (&"committed".into(), &"failed".into())
    );
    let mut command = moorgate().unwrap();
    command.args(["store", "mirror", "-o", "json"]).arg("--trust").arg(key.with_extension("pub"));
    command.env("MOORGATE_STORE", &stores).envs(moto::variables(moto.port()));
    let outcome = run(&mut command).unwrap().ended_with(&[0]).unwrap();
    assert_eq!(outcome.json().unwrap()["mirrors"][0]["copied"]["entries"], 1);
    // The first store is gone: what only reads takes the mirror.
    std::fs::remove_dir_all(folder.path().join("first")).unwrap();
    std::fs::write(folder.path().join("first"), b"no folder").unwrap();
    let mut command = moorgate().unwrap();
    command.args(["status", "shop/edge", "-o", "json"]).arg("--trust").arg(key.with_extension("pub"));
    command.env("MOORGATE_STORE", &stores).envs(moto::variables(moto.port()));
    let outcome = run(&mut command).unwrap().ended_with(&[0]).unwrap();
    assert_eq!(outcome.json().unwrap()["channels"][0]["sequence"], 2, "{}", outcome.stdout);
}
