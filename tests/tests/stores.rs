//! Every backend passes one suite; what proxies and clouds do to requests does not confuse it; and a store that breaks its
//! promises is refused.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use bytes::Bytes;
use http::Method;
use moorgate_snapshot::store::{Create, Get};
use moorgate_snapshot::{FleetName, FleetStore, Store, StoreError};
use moorgate_tests::runtime;
use moorgate_tests::storage::azurite::Azurite;
use moorgate_tests::storage::cases;
use moorgate_tests::storage::gcs::{self, Gcs};
use moorgate_tests::storage::moto::Moto;
use moorgate_tests::storage::proxy::{Behaviour, Proxy};

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
