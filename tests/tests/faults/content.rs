//! What is in the store is not what it should be: damaged, missing, hidden, too large, or from the future.

use super::{Bench, gets, head_path, is_page, pass, path};
use moorgate_snapshot::channel::Release;
use moorgate_snapshot::{Channel, ReadError, Record, Resource, Snapshot, StoreError, layout, limits};
use moorgate_tests::fault_store::{Fault, FaultStore, Operation, Verdict};
use moorgate_tests::meter::Meter;
use moorgate_tests::sim::chance::Chance;
use moorgate_tests::sim::pool::{number, pool};
use moorgate_tests::sim::publishers::Act;
use std::io::Write as _;

fn is_bundle(operation: Operation<'_>) -> bool {
    operation.path.contains("/bundles/")
}

/// A page of the snapshot that the other one does not have.
fn own_page(of: usize, not: usize) -> String {
    let others: Vec<_> = pool()[not].snapshot.pages().iter().map(moorgate_snapshot::Page::digest).collect();
    let apart = pool()[of].snapshot.manifest().pages().iter().filter(|page| page.inline.is_none());
    let page = apart.map(|page| page.digest).find(|digest| !others.contains(digest)).unwrap();
    layout::page(&page)
}

#[tokio::test(start_paused = true)]
async fn fault_10_bodies_that_end_early() {
    for fault in [Fault::Cut, Fault::Broken] {
        let bench = Bench::new();
        bench.publish(1).await;
        let mut chance = Chance::new(10);
        let client = FaultStore::new(&bench.world.bucket, move |_| {
            if chance.permille(250) { fault.into() } else { Verdict::default() }
        });
        let relay = bench.relay(&client);
        pass(1_800).await;
        assert_eq!(relay.served(), Some(1), "{fault:?}");
        let view = relay.fleet.hub.view().unwrap();
        bench.world.judge(|monitor| monitor.serves("relay-a", &Channel::stable(), &view));
        relay.stop().await;
        bench.close();
    }
}

#[tokio::test(start_paused = true)]
async fn fault_11_a_corrupted_page() {
    let bench = Bench::new();
    bench.publish(1).await;
    // On the way: asked for again.
    let client = bench.once(Fault::Flip, |operation| gets(operation) && is_page(operation));
    let relay = bench.serving(&client).await;
    bench.publish(3).await;
    pass(66).await;
    assert_eq!(relay.served(), Some(3));
    relay.stop().await;
    bench.close();

    // In the store, and whole in the bundle.
    let bench = Bench::new();
    bench.publish(0).await;
    bench.publish(1).await;
    let page = path(&own_page(1, 3));
    let good = bench.world.bucket.peek(&page).unwrap();
    let mut bad = good.to_vec();
    bad[good.len() / 2] ^= 1;
    let release = bench.entry(2).await.state.target.unwrap();
    assert!(release.bundle.is_some());
    bench.world.bucket.tamper(&page, Some(bad.clone().into()));
    let reader = bench.world.reader(&bench.calm(), &Channel::stable());
    let held = pool()[3].snapshot.clone();
    let known = move |digest: &moorgate_snapshot::Digest| {
        held.pages().iter().find(|page| page.digest() == *digest).map(|page| page.raw().clone())
    };
    let read = reader.fetch(&release, &known).await.unwrap();
    assert_eq!(read, pool()[1].snapshot);

    // Nowhere whole: refused by its name, and the last good one stays.
    let relay = bench.serving(&bench.calm()).await;
    assert_eq!(relay.served(), Some(1));
    relay.stop().await;
    let (client, damaged) =
        bench.failing_for(Fault::Flip, |operation| is_page(operation) || is_bundle(operation));
    let relay = bench.serving(&client).await;
    damaged.store(true, std::sync::atomic::Ordering::SeqCst);
    bench.publish(5).await;
    pass(30).await;
    assert_eq!((relay.served(), relay.sequence()), (Some(1), 3));
    let error = relay.fleet.status.borrow().store.error.clone().unwrap_or_default();
    assert!(error.contains("/pages/") && error.contains("damaged"), "{error}");
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_23_bombs() {
    let bench = Bench::new();
    bench.publish(1).await;
    let release = bench.entry(1).await.state.target.unwrap();
    let bomb = bomb(1 << 30);
    assert!(bomb.len() < 1 << 20, "{} bytes", bomb.len());
    let before = peak_memory();
    for name in [own_page(1, 3), layout::manifest(&release.snapshot)] {
        bench.world.bucket.tamper(&path(&name), Some(bomb.clone().into()));
        let reader = bench.world.reader(&bench.calm(), &Channel::stable());
        let plain = Release { bundle: None, ..release.clone() };
        let error = reader.fetch(&plain, &|_| None).await.unwrap_err();
        // Too many stored bytes, or too many that come out of them.
        let refused =
            matches!(error, ReadError::Damaged { .. } | ReadError::Store(StoreError::TooLarge { .. }));
        assert!(refused, "{error}");
    }
    let grown = peak_memory().saturating_sub(before);
    assert!(grown < 256 << 20, "{} MiB more", grown >> 20);
    // More than may be is not even made.
    let record = |n: usize| {
        Record::Resource(Resource {
            type_url: "type.googleapis.com/x".into(),
            name: format!("{n}").into(),
            part: "".into(),
            bytes: vec![0; limits::RECORD_BYTES + 1].into(),
            refs: Vec::new(),
        })
    };
    assert!(Snapshot::build(vec![record(0)]).is_err());
    bench.close();
}

/// So many zeros, in one frame.
fn bomb(bytes: usize) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..bytes / zeros.len() {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

/// The most memory that this process ever had, in bytes.
fn peak_memory() -> usize {
    usize::try_from(Meter::own().peak().unwrap()).unwrap() << 10
}

/// A relay in a process of its own that is sent bombs keeps its memory, and what it serves.
#[test]
fn fault_23_bombs_cost_a_relay_no_memory() {
    const CHILD: &str = "MOORGATE_BOMBED";
    if moorgate_tests::program::variable(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        println!("grown by {} bytes", runtime.unwrap().block_on(bombed_relay()));
        return;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "content::fault_23_bombs_cost_a_relay_no_memory", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let grown = text.split_once("grown by ").and_then(|(_, rest)| rest.split_once(' ')).unwrap().0;
    let grown: usize = grown.parse().unwrap();
    assert!(grown < 32 << 20, "{} MiB more", grown >> 20);
}

/// Sends bombs of every size to a relay that serves; by how many bytes its memory grew at most.
async fn bombed_relay() -> usize {
    let bench = Bench::new();
    bench.publish(1).await;
    let relay = bench.serving(&bench.calm()).await;
    // Small enough on the wire for the size that is said of a page, and larger than anything may be.
    let bombs = [bomb(64 << 20), bomb(1 << 30)];
    let before = peak_memory();
    for (bomb, number) in bombs.into_iter().zip([3, 5]) {
        bench.publish(number).await;
        let names = bench.world.bucket.names();
        let manifest = path(&layout::manifest(&pool()[number].snapshot.id()));
        for name in names.iter().filter(|name| **name == manifest || name.contains("/bundles/")) {
            bench.world.bucket.tamper(name, Some(bomb.clone().into()));
        }
        for page in pool()[number].snapshot.pages() {
            let page = path(&layout::page(&page.digest()));
            if bench.world.bucket.peek(&page).is_some() {
                bench.world.bucket.tamper(&page, Some(bomb.clone().into()));
            }
        }
        pass(74).await;
        assert_eq!(relay.served(), Some(1), "what was good stays");
        assert!(relay.fleet.status.borrow().store.error.is_some());
    }
    let grown = peak_memory().saturating_sub(before);
    relay.stop().await;
    grown
}

#[tokio::test(start_paused = true)]
async fn fault_24_an_entry_from_the_future() {
    let bench = Bench::new();
    bench.publish(1).await;
    let relay = bench.serving(&bench.calm()).await;
    let change =
        |entry: &mut moorgate_snapshot::Entry| entry.features_required = vec!["sealed-pages".to_owned()];
    let forged = bench.continued(1, bench.world.publisher(), change).await;
    bench.forge(2, forged);
    let asked = relay.client.requests();
    pass(66).await;
    assert_eq!((relay.served(), relay.sequence()), (Some(1), 1));
    assert!(relay.refusals("upgrade_required") >= 1.0);
    assert!(relay.client.requests() - asked < 40, "it asks for more than the log");
    relay.stop().await;
    bench.close();
}

/// The relay knows no Envoy types: what it does not understand goes through as it is.
#[tokio::test(start_paused = true)]
async fn fault_25_resources_that_nobody_knows() {
    let bench = Bench::new();
    let bytes: Vec<u8> = (0..=255).collect();
    let record = Record::Resource(Resource {
        type_url: "type.googleapis.com/envoy.of.the.Future".into(),
        name: "unknown".into(),
        part: "".into(),
        bytes: bytes.clone().into(),
        refs: Vec::new(),
    });
    let known = pool()[0].snapshot.records().cloned().collect::<Vec<_>>();
    let snapshot = Snapshot::build(known.into_iter().chain([record]).collect()).unwrap();
    let store = bench.store();
    moorgate_snapshot::writer::write_snapshot(&store, &snapshot, &|_| false).await.unwrap();
    bench.publish(0).await;
    let id = snapshot.id();
    let change = |entry: &mut moorgate_snapshot::Entry| {
        let target = entry.state.target.as_mut().unwrap();
        (target.snapshot, target.sequence, target.bundle) = (id, 2, None);
    };
    let entry = bench.continued(1, bench.world.publisher(), change).await;
    bench.forge(2, entry);
    let relay = bench.serving(&bench.calm()).await;
    let view = relay.fleet.hub.view().unwrap();
    assert_eq!(view.config.id, id);
    let served = view.config.types["type.googleapis.com/envoy.of.the.Future"]
        .get("unknown")
        .unwrap()
        .chunks()
        .concat();
    assert_eq!(served, bytes);
    relay.stop().await;
    bench.close();
}

/// Pages go, as a lifecycle rule takes them: whoever verifies names them, and publishing mends them.
#[tokio::test(start_paused = true)]
async fn fault_34_pages_that_a_rule_took() {
    let bench = Bench::new();
    bench.publish(1).await;
    let relay = bench.serving(&bench.calm()).await;
    for name in bench.world.bucket.names() {
        if name.contains("/pages/") || name.contains("/bundles/") {
            bench.world.bucket.tamper(&name, None);
        }
    }
    let reader = bench.world.reader(&bench.calm(), &Channel::stable());
    let release = bench.entry(1).await.state.target.unwrap();
    let error = reader.fetch(&release, &|_| None).await.unwrap_err();
    assert!(matches!(&error, ReadError::Missing(path) if path.contains("/pages/")), "{error}");
    pass(600).await;
    assert_eq!(relay.served(), Some(1));
    // The next release shares most of them, and writes them again before it commits.
    bench.publish(3).await;
    pass(74).await;
    assert_eq!(relay.served(), Some(3));
    relay.stop().await;
    let cold = bench.relay(&FaultStore::calm(&bench.world.bucket));
    pass(6).await;
    assert_eq!(cold.served(), Some(3));
    cold.stop().await;
    bench.close();
}

/// A cache between store and relay that keeps the head, and for a while the news that a slot is free.
#[tokio::test(start_paused = true)]
async fn fault_35_a_cache_on_the_way() {
    let bench = Bench::new();
    bench.publish(1).await;
    let head = bench.world.bucket.peek(&head_path()).unwrap();
    let (client, stale) = bench.failing_for(Fault::Stale, |operation| operation.path.contains("/log/"));
    let relay = bench.serving(&client).await;
    stale.store(true, std::sync::atomic::Ordering::SeqCst);
    for number in [3, 5] {
        bench.publish(number).await;
        // The head that the cache keeps.
        bench.world.bucket.tamper(&head_path(), Some(head.clone()));
    }
    pass(60 + 60 + 12).await;
    assert_eq!((relay.served(), relay.sequence()), (Some(5), 3));
    relay.stop().await;
    // A publisher behind it is refused, and puts nothing over what it does not see.
    let before = bench.publish(7).await.entry;
    bench.world.bucket.tamper(&head_path(), Some(head));
    let outcome = bench.act(&client, Act::Publish(9)).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert_eq!(bench.entry(4).await, before);
    assert_eq!(number(&before.state.target.unwrap().snapshot), Some(7));
    bench.close();
}
