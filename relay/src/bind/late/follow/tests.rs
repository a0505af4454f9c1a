use super::*;
use moorgate_snapshot::{FleetName, KeyPair, Signer as _, Store, Trust, layout};
use time::OffsetDateTime;

struct Scene {
    store: FleetStore,
    key: KeyPair,
    trust: watch::Sender<Anchor>,
    folder: tempfile::TempDir,
}

fn key(seed: u8) -> KeyPair {
    KeyPair::generate(&[seed; 32]).unwrap().0
}

impl Scene {
    fn new() -> Self {
        let store = Store::open("memory:///").unwrap().fleet(&FleetName::gateway("shop", "edge"));
        let key = key(1);
        let trust = watch::Sender::new(Anchor::parse(key.public().to_pem().as_bytes()).unwrap());
        Self { store, key, trust, folder: tempfile::tempdir().unwrap() }
    }

    fn follower(&self) -> Follower {
        Follower {
            stores: vec![self.store.clone()],
            channel: Channel::stable(),
            trust: self.trust.subscribe(),
            identities: None,
            file: Some(self.folder.path().join("late")),
            late: Late::default(),
            interval: Duration::from_secs(5),
            jitter: Jitter::seeded(1),
            metrics: Arc::default(),
        }
    }

    async fn put(&self, service: &str, address: &str) -> Digest {
        let text = format!(r#"{{"endpoints":[{{"service":"{service}","addresses":["{address}"]}}]}}"#);
        let trust = Trust::of([self.key.public().clone()]);
        let late = LateStore { store: &self.store, trust: &trust, channel: &Channel::stable() };
        let value = late.put(&Bytes::from(text)).await.unwrap();
        let change = |index: &mut Index| {
            index.endpoints.insert(service.to_owned(), value);
        };
        late.change(&self.key, (OffsetDateTime::UNIX_EPOCH, "me"), change).await.unwrap();
        value.digest
    }

    async fn round(&self, follower: &Follower, read: &mut Read) -> Result<(), &'static str> {
        let anchor = self.trust.borrow().clone();
        follower.poll(&anchor, read).await.map_err(|error| error.label())
    }
}

fn addresses(follower: &Follower, service: &str) -> Option<Vec<String>> {
    let found = follower.late.endpoints("shop", service, "http", 80)?;
    Some(found.iter().map(|endpoint| endpoint.address.to_string()).collect())
}

#[tokio::test]
async fn a_value_that_is_missing_costs_itself_and_comes_when_it_is_there() {
    let scene = Scene::new();
    let (follower, mut read) = (scene.follower(), Read::default());
    assert_eq!(scene.round(&follower, &mut read).await, Ok(()));
    assert!(follower.late.synced() && addresses(&follower, "cart").is_none());
    scene.put("shop/cart", "10.0.0.1:1").await;
    scene.put("shop/pay", "10.0.0.2:1").await;
    assert_eq!(scene.round(&follower, &mut read).await, Ok(()));
    assert_eq!(addresses(&follower, "cart").unwrap(), ["10.0.0.1:1"]);
    // The next value of one of them cannot be read: its last one stays, the other's new one comes.
    let gone = scene.put("shop/cart", "10.0.0.9:1").await;
    scene.put("shop/pay", "10.0.0.3:1").await;
    let name = layout::late_value(&gone);
    let bytes = scene.store.get(&name, 1 << 20).await.unwrap().unwrap();
    scene.store.delete(&name).await.unwrap();
    assert_eq!(scene.round(&follower, &mut read).await, Err("damaged"));
    assert_eq!(addresses(&follower, "cart").unwrap(), ["10.0.0.1:1"]);
    assert_eq!(addresses(&follower, "pay").unwrap(), ["10.0.0.3:1"]);
    scene.store.overwrite(&name, bytes).await.unwrap();
    assert_eq!(scene.round(&follower, &mut read).await, Ok(()));
    assert_eq!(addresses(&follower, "cart").unwrap(), ["10.0.0.9:1"]);
}

#[tokio::test]
async fn nothing_goes_back_not_even_over_a_restart_without_the_store() {
    let scene = Scene::new();
    let (follower, mut read) = (scene.follower(), Read::default());
    scene.put("shop/cart", "10.0.0.1:1").await;
    let head = layout::late_head(&Channel::stable());
    let old = scene.store.get(&head, 1 << 20).await.unwrap().unwrap();
    scene.put("shop/cart", "10.0.0.2:1").await;
    assert_eq!(scene.round(&follower, &mut read).await, Ok(()));
    scene.store.overwrite(&head, old).await.unwrap();
    // Another relay process, with what the first one kept.
    let second = scene.follower();
    let mut kept = second.kept();
    second.apply(&kept);
    assert_eq!(addresses(&second, "cart").unwrap(), ["10.0.0.2:1"]);
    assert_eq!(scene.round(&second, &mut kept).await, Err("rollback"));
    assert_eq!(addresses(&second, "cart").unwrap(), ["10.0.0.2:1"]);
    scene.store.delete(&head).await.unwrap();
    assert_eq!(scene.round(&second, &mut kept).await, Ok(()), "a head that is gone takes nothing away");
    assert_eq!(addresses(&second, "cart").unwrap(), ["10.0.0.2:1"]);
    // A stranger, and a file that was damaged.
    scene.trust.send_replace(Anchor::parse(key(2).public().to_pem().as_bytes()).unwrap());
    scene.put("shop/cart", "10.0.0.6:1").await;
    assert_eq!(scene.round(&second, &mut kept).await, Err("unknown_key"));
    let file = scene.folder.path().join("late");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"generation\":2", "\"generation\":9")).unwrap();
    assert!(scene.follower().kept().index.is_none());
}

#[tokio::test]
async fn a_set_that_speaks_of_another_service_is_not_taken() {
    let scene = Scene::new();
    let (follower, mut read) = (scene.follower(), Read::default());
    let foreign = scene.put("shop/pay", "10.0.0.2:1").await;
    let trust = scene.trust.borrow().trust();
    let late = LateStore { store: &scene.store, trust: &trust, channel: &Channel::stable() };
    let change = |index: &mut Index| {
        let value = index.endpoints["shop/pay"];
        assert_eq!(value.digest, foreign);
        index.endpoints.insert("shop/cart".to_owned(), value);
    };
    late.change(&scene.key, (OffsetDateTime::UNIX_EPOCH, "me"), change).await.unwrap();
    assert_eq!(scene.round(&follower, &mut read).await, Ok(()));
    assert_eq!((addresses(&follower, "cart"), addresses(&follower, "pay").unwrap().len()), (None, 1));
}
