use super::*;
use moorgate_snapshot::late::{Index, LateStore, Polled};
use moorgate_snapshot::mirror::Mirrored;

/// A bench and a mirror of its fleet.
fn mirrored() -> (Bench, Bench) {
    (Bench::new(), Bench::new())
}

fn mirrors(to: &Bench) -> Vec<FleetStore> {
    vec![Bench::store(to.inner.clone())]
}

async fn publish(bench: &Bench, to: &Bench, n: u32) -> Outcome {
    let snapshot = snapshot(n);
    let publisher = Publisher { mirrors: mirrors(to), ..bench.publisher("ci") };
    Box::pin(publisher.publish(&offer(&snapshot))).await.unwrap()
}

fn copied(outcome: &Outcome) -> Mirrored {
    outcome.mirrors[0].result.clone().unwrap()
}

async fn raw(bench: &Bench, name: &str) -> Option<bytes::Bytes> {
    Bench::store(bench.inner.clone()).get(name, 1 << 20).await.unwrap()
}

/// Everything of the fleet in a store, by name.
async fn everything(bench: &Bench) -> Vec<(String, bytes::Bytes)> {
    let store = Bench::store(bench.inner.clone());
    let mut all = Vec::new();
    for folder in ["pages", "manifests", "bundles", "att", "log", "head"] {
        for name in store.list(folder, 10_000).await.unwrap() {
            let name = format!("{folder}/{name}");
            let bytes = store.get(&name, 1 << 24).await.unwrap().unwrap();
            all.push((name, bytes));
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_mirror_holds_what_the_first_store_holds() {
    let (bench, to) = mirrored();
    let first = publish(&bench, &to, 1).await;
    assert_eq!(copied(&first).entries, 1);
    assert_eq!(to.served().await, Some(snapshot(1).id()));
    let second = publish(&bench, &to, 2).await;
    // One page, the manifest, and the records: what is there already is not sent again.
    let done = copied(&second);
    assert_eq!(done.entries, 1);
    assert!(done.objects <= 5, "{done:?}");
    assert!(second.warnings.is_empty(), "{:?}", second.warnings);
    assert_eq!(everything(&bench).await, everything(&to).await);
    // Nothing changed: nothing is copied.
    let again = publish(&bench, &to, 2).await;
    assert_eq!((again.result, copied(&again)), (Done::Unchanged, Mirrored::default()));
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_was_away_catches_up() {
    let (bench, to) = mirrored();
    publish(&bench, &to, 1).await;
    for n in 2..=4 {
        bench.publish(n).await;
    }
    assert_eq!(to.served().await, Some(snapshot(1).id()));
    let outcome = publish(&bench, &to, 4).await;
    assert_eq!((outcome.result, copied(&outcome).entries), (Done::Unchanged, 3));
    assert_eq!(everything(&bench).await, everything(&to).await);
    // A late one gets all of it.
    let late = Bench::new();
    assert_eq!(copied(&publish(&bench, &late, 4).await).entries, 4);
    assert_eq!(everything(&bench).await, everything(&late).await);
}

#[tokio::test(start_paused = true)]
async fn a_mirror_that_fails_is_a_warning() {
    let (bench, to) = mirrored();
    let dead: Arc<dyn ObjectStore> = Arc::new(FaultStore::new(to.inner.clone()).dying_after(0));
    let publisher = Publisher { mirrors: vec![Bench::store(dead)], ..bench.publisher("ci") };
    let one = snapshot(1);
    let outcome = Box::pin(publisher.publish(&offer(&one))).await.unwrap();
    assert_eq!(outcome.result, Done::Committed);
    assert!(!outcome.mirrors[0].result.clone().unwrap_err().integrity);
    assert!(
        outcome.warnings.iter().any(|warning| warning.contains("not up to date")),
        "{:?}",
        outcome.warnings
    );
    assert_eq!(bench.served().await, Some(one.id()));
}

/// Fault 15, for mirrors: no second entry with the same number is ever written.
#[tokio::test(start_paused = true)]
async fn a_mirror_that_contradicts_is_never_written_to() {
    let (bench, to) = mirrored();
    publish(&bench, &to, 1).await;
    // Somebody published to the mirror itself, as one does with the order of stores turned round.
    to.publish(7).await;
    bench.publish(2).await;
    let before = everything(&to).await;
    let outcome = publish(&bench, &to, 3).await;
    assert_eq!(outcome.result, Done::Committed);
    let behind = outcome.mirrors[0].result.clone().unwrap_err();
    assert!(behind.integrity && behind.message.contains("entry 2 of stable"), "{behind:?}");
    assert_eq!(everything(&to).await, before);
    // A mirror that is ahead is no better: the first store may have been restored.
    let restored = Bench::new();
    let outcome = publish(&restored, &to, 1).await;
    let behind = outcome.mirrors[0].result.clone().unwrap_err();
    assert!(behind.integrity && behind.message.contains("goes on to entry 2"), "{behind:?}");
    assert_eq!(everything(&to).await, before);
}

/// Killed at any write, a mirror never names what it does not have, and the next act completes it.
#[tokio::test(start_paused = true)]
async fn an_interrupted_copy_is_completed() {
    let (bench, _) = mirrored();
    bench.publish(1).await;
    bench.publish(2).await;
    let mut puts = 0;
    loop {
        let to = Bench::new();
        let dying: Arc<dyn ObjectStore> = Arc::new(FaultStore::new(to.inner.clone()).dying_after(puts));
        let done = Mirror::update(&bench.reader("stable"), &Bench::store(dying)).await.result.is_ok();
        let served = to.served().await;
        let known = [None, Some(snapshot(1).id()), Some(snapshot(2).id())];
        assert!(known.contains(&served), "{puts} puts: {served:?}");
        Mirror::update(&bench.reader("stable"), &mirrors(&to)[0]).await.result.unwrap();
        assert_eq!(everything(&bench).await, everything(&to).await, "{puts} puts");
        if done {
            break;
        }
        puts += 1;
    }
    assert!(puts > 8, "{puts}");
}

#[tokio::test(start_paused = true)]
async fn what_gc_took_from_the_first_store_holds_nothing_up() {
    let (bench, to) = mirrored();
    for n in 1..=4 {
        bench.publish(n).await;
    }
    let gone = layout::manifest(&snapshot(1).id());
    Bench::store(bench.inner.clone()).delete(&gone).await.unwrap();
    let outcome = publish(&bench, &to, 4).await;
    // It is named twice: as target of the first entry, and as what was good before the second.
    assert_eq!((copied(&outcome).entries, copied(&outcome).gone), (4, 2));
    assert_eq!(to.served().await, Some(snapshot(4).id()));
    assert_eq!(raw(&to, &gone).await, None);
}

/// A relay that starts at a mirror has endpoints and sealed secrets, too.
#[tokio::test(start_paused = true)]
async fn a_mirror_holds_late_values() {
    let (bench, to) = mirrored();
    publish(&bench, &to, 1).await;
    let (store, there) = (Bench::store(bench.inner.clone()), Bench::store(to.inner.clone()));
    let channel = "stable".parse().unwrap();
    let late = LateStore { store: &store, trust: &bench.trust, channel: &channel };
    let at_mirror = LateStore { store: &there, trust: &bench.trust, channel: &channel };
    let now = (OffsetDateTime::UNIX_EPOCH, "ci");
    for text in ["one", "two"] {
        let value = late.put(&text.into()).await.unwrap();
        let change = |index: &mut Index| {
            index.endpoints.insert("shop/cart".to_owned(), value);
            index.secrets.insert("shop/tls".to_owned(), value);
        };
        let index = late.change(&bench.key, now, change).await.unwrap();
        // The value, which both name, twice; and the index.
        let done = copied(&publish(&bench, &to, 1).await);
        assert_eq!((done.entries, done.objects), (0, 3));
        let Polled::Index(copy, ..) = at_mirror.poll(0, None).await.unwrap() else { panic!("no index") };
        assert_eq!(*copy, index);
        for value in copy.values() {
            assert_eq!(at_mirror.value(value).await.unwrap(), text);
        }
    }
    assert_eq!(copied(&publish(&bench, &to, 1).await), Mirrored::default());
    // A writer that ended before its head: what it committed counts.
    let value = late.put(&"three".into()).await.unwrap();
    let change = |index: &mut Index| {
        index.endpoints.insert("shop/cart".to_owned(), value);
    };
    let head = store.get(&layout::late_head(&channel), 1 << 20).await.unwrap().unwrap();
    late.change(&bench.key, now, change).await.unwrap();
    store.overwrite(&layout::late_head(&channel), head).await.unwrap();
    copied(&publish(&bench, &to, 1).await);
    let Polled::Index(copy, ..) = at_mirror.poll(0, None).await.unwrap() else { panic!("no index") };
    assert_eq!((copy.generation, copy.endpoints["shop/cart"]), (3, value));
    // A value that the first store lost is told, after all else was copied.
    store.delete(&layout::late_value(&value.digest)).await.unwrap();
    let late_one = Bench::new();
    let outcome = publish(&bench, &late_one, 2).await;
    let behind = outcome.mirrors[0].result.clone().unwrap_err();
    assert!(behind.integrity && behind.message.contains("late values"), "{behind:?}");
    assert_eq!(late_one.served().await, Some(snapshot(2).id()));
}

/// What a co-signer says goes along, whenever it comes; what nobody trusted signed does not.
#[tokio::test(start_paused = true)]
async fn a_mirror_holds_the_cosignatures_too() {
    let (bench, to) = mirrored();
    let (second, third) = (key(8), key(9));
    let pem = |key: &KeyPair| serde_json::to_string(&key.public().to_pem()).unwrap();
    let file = format!(
        r#"{{"format":1,"keys":[{{"public":{},"roles":["publish"]}},{{"public":{},"roles":["cosign"]}}]}}"#,
        pem(&bench.key),
        pem(&second),
    );
    let bench = Bench { trust: Arc::new(Trust::parse(file.as_bytes()).unwrap()), ..bench };
    publish(&bench, &to, 1).await;
    let (store, id) = (Bench::store(bench.inner.clone()), snapshot(1).id());
    for signer in [&second, &third] {
        moorgate_snapshot::writer::write_cosignature(&store, &id, signer).await.unwrap();
    }
    let name = |key: &KeyPair| layout::cosignature(&id, &key.public().id());
    // One of another snapshot under this name is none.
    let honest = raw(&bench, &name(&second)).await.unwrap();
    let other = moorgate_snapshot::cosign::sign(&shop(), &snapshot(2).id(), &second).unwrap().encode();
    store.overwrite(&name(&second), other.into()).await.unwrap();
    assert_eq!(copied(&publish(&bench, &to, 1).await).objects, 0);
    assert_eq!(raw(&to, &name(&second)).await, None);
    store.overwrite(&name(&second), honest.clone()).await.unwrap();
    assert_eq!(copied(&publish(&bench, &to, 1).await).objects, 1);
    assert_eq!(raw(&to, &name(&second)).await, Some(honest));
    assert_eq!(raw(&to, &name(&third)).await, None);
    assert_eq!(copied(&publish(&bench, &to, 1).await), Mirrored::default());
}
