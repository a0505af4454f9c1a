use super::*;
use object_store::memory::InMemory;

fn shop() -> FleetName {
    FleetName::gateway("shop", "edge")
}

fn stores() -> (tempfile::TempDir, [FleetStore; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let local = Store::open(&format!("file://{}/store", dir.path().display())).unwrap();
    let memory = Store::open("memory:///").unwrap();
    (dir, [local.fleet(&shop()), memory.fleet(&shop())])
}

#[tokio::test]
async fn one_create_wins_and_reads_are_bounded() {
    let (_dir, stores) = stores();
    for store in stores {
        assert_eq!(store.get("log/a/1", 100).await.unwrap(), None);
        assert_eq!(store.list("log", 10).await.unwrap(), Vec::<String>::new());
        let creates = (0..16u8).map(|i| {
            let store = store.clone();
            async move { store.create("log/a/1", Bytes::from(vec![i; 10])).await.unwrap() }
        });
        let won = futures::future::join_all(creates).await;
        assert_eq!(won.iter().filter(|create| **create == Create::Created).count(), 1);
        let bytes = store.get("log/a/1", 10).await.unwrap().unwrap();
        assert!(matches!(store.get("log/a/1", 9).await, Err(StoreError::TooLarge { limit: 9, .. })));
        assert!(store.commit("log/a/1", &bytes, 100).await.unwrap());
        assert!(!store.commit("log/a/1", &Bytes::from_static(b"other"), 100).await.unwrap());
        store.overwrite("log/a/2", Bytes::new()).await.unwrap();
        assert_eq!(store.list("log", 10).await.unwrap(), ["a/1", "a/2"]);
    }
}

#[tokio::test]
async fn an_unchanged_object_is_not_sent_again() {
    let (_dir, stores) = stores();
    for store in stores {
        store.overwrite("head/stable", Bytes::from_static(b"one")).await.unwrap();
        let Get::Found(found) = store.get_if_changed("head/stable", None, 10).await.unwrap() else {
            panic!("not found")
        };
        let again = store.get_if_changed("head/stable", found.etag.as_deref(), 10).await.unwrap();
        assert_eq!(again, Get::NotModified);
        store.overwrite("head/stable", Bytes::from_static(b"other")).await.unwrap();
        let changed = store.get_if_changed("head/stable", found.etag.as_deref(), 10).await.unwrap();
        assert!(matches!(changed, Get::Found(Fetched { bytes, .. }) if bytes == "other"));
    }
}

#[tokio::test]
async fn a_damaged_blob_is_written_again() {
    let (_dir, stores) = stores();
    for store in stores {
        let good = Bytes::from_static(b"good");
        let holds = |found: &Bytes| *found == good;
        assert!(store.ensure("pages/x", &good, 10, holds).await.unwrap());
        assert!(!store.ensure("pages/x", &good, 10, holds).await.unwrap());
        store.overwrite("pages/x", Bytes::from_static(b"far too long for this")).await.unwrap();
        assert!(store.ensure("pages/x", &good, 10, holds).await.unwrap());
        assert_eq!(store.get("pages/x", 10).await.unwrap(), Some(good.clone()));
    }
}

#[tokio::test]
async fn fleets_are_found_and_have_their_own_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let local = Store::open(&format!("file://{}", dir.path().display())).unwrap();
    let memory = Store::new(Arc::new(InMemory::new()), Path::from("some/prefix"), "memory:///");
    for store in [local, memory] {
        assert_eq!(store.fleets().await.unwrap(), []);
        for fleet in ["shop/edge", "shop/inner", "class/moorgate"] {
            let fleet = store.fleet(&fleet.parse().unwrap());
            fleet.create("log/stable/1", Bytes::new()).await.unwrap();
        }
        let names: Vec<String> = store.fleets().await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["shop/edge", "shop/inner", "class/moorgate"]);
    }
    assert!(dir.path().join("fleets/gateway/shop/edge/log/stable/1").exists());
}
