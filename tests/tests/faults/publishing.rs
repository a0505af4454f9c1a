//! What a publisher does when its store, its rival or its own machine fails.

use super::{Bench, creates, gets, head_path, is_entry, is_page, pass, path};
use moorgate::publish::{Allow, Done, Gate, Offer, Outcome, PublishError, Publisher};
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::channel::Source;
use moorgate_snapshot::gc::{self, Mode, Policy};
use moorgate_snapshot::{Channel, ReadError, Slot, StoreError};
use moorgate_tests::fault_store::{Fault, FaultStore, Kind, Verdict};
use moorgate_tests::sim::pool::pool;
use moorgate_tests::sim::publishers::{Act, meta};
use moorgate_tests::sim::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn refused<T: std::fmt::Debug>(result: Result<T, PublishError>) -> Gate {
    match result {
        Err(PublishError::Refused(gate)) => gate,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn fault_05_a_publisher_gives_up_and_says_so() {
    let bench = Bench::new();
    bench.publish(1).await;
    let (client, down) = bench.failing_for(Fault::SlowDown, creates);
    down.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = bench.act(&client, Act::Publish(3)).await.unwrap_err();
    assert!(matches!(error, PublishError::Write(_)), "{error}");
    assert!(error.to_string().contains("nothing was committed"), "{error}");
    assert!((2..400).contains(&client.count(Kind::Create)), "{} tries", client.count(Kind::Create));
    assert_eq!(bench.slot(2).await, Slot::Empty);
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_06_the_answer_to_the_commit_is_lost() {
    for fault in [Fault::Lost, Fault::OwnConflict] {
        let bench = Bench::new();
        let client = bench.once(fault, |operation| creates(operation) && is_entry(operation));
        let outcome = bench.act(&client, Act::Publish(1)).await.unwrap();
        assert_eq!((outcome.result, outcome.entry.sequence), (Done::Committed, 1));
        assert_eq!(bench.entry(1).await, outcome.entry);
        assert_eq!(bench.publish(1).await.result, Done::Unchanged);
        assert_eq!(bench.slot(2).await, Slot::Empty, "an entry is there twice");
        bench.close();
    }
    // Whoever was in doubt and is then denied does not know, and says so.
    let bench = Bench::new();
    let mut creates_seen = 0;
    let client = FaultStore::new(&bench.world.bucket, move |operation| {
        if !is_entry(operation) {
            return Verdict::default();
        }
        creates_seen += u64::from(operation.kind == Kind::Create);
        match creates_seen {
            0 => Verdict::default(),
            1 if operation.kind == Kind::Create => Fault::Lost.into(),
            _ => Fault::Denied.into(),
        }
    });
    let error = bench.act(&client, Act::Publish(1)).await.unwrap_err();
    assert!(matches!(error, PublishError::Uncertain { sequence: 1, .. }), "{error}");
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_07_a_conflict_about_nothing() {
    let bench = Bench::new();
    let client = bench.once(Fault::FalseConflict, |operation| creates(operation) && is_entry(operation));
    assert_eq!(bench.act(&client, Act::Publish(1)).await.unwrap().result, Done::Committed);
    let client = bench.once(Fault::FalseConflict, |operation| creates(operation) && is_page(operation));
    assert_eq!(bench.act(&client, Act::Publish(3)).await.unwrap().entry.sequence, 2);
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_08_a_denied_publisher_committed_nothing() {
    let bench = Bench::new();
    let client = bench.once(Fault::Denied, |operation| creates(operation) && is_entry(operation));
    let error = bench.act(&client, Act::Publish(1)).await.unwrap_err();
    assert!(matches!(&error, PublishError::Write(cause) if cause.to_string().contains("denied")), "{error}");
    assert_eq!(bench.slot(1).await, Slot::Empty);
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_09_a_list_that_breaks_off_is_no_list() {
    let bench = Bench::new();
    for number in [1, 3, 5] {
        bench.publish(number).await;
    }
    let (client, broken) = bench.failing_for(Fault::Broken, |operation| operation.kind == Kind::List);
    let store = client.store().fleet(&World::fleet());
    assert_eq!(store.list("log/stable", 1_000).await.unwrap().len(), 3);
    broken.store(true, std::sync::atomic::Ordering::SeqCst);
    let error = store.list("log/stable", 1_000).await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    // A relay needs no list at all.
    let before = client.count(Kind::List);
    let relay = bench.serving(&client).await;
    pass(300).await;
    assert_eq!((relay.served(), client.count(Kind::List)), (Some(5), before));
    relay.stop().await;
    bench.close();
}

/// A list that breaks off ends gc before it deletes anything; a whole one lets it delete what nobody needs, and no more.
#[tokio::test(start_paused = true)]
async fn fault_09_gc_deletes_nothing_after_half_a_list() {
    let bench = Bench::new();
    bench.publish(1).await;
    for round in 0..24 {
        bench.publish([0, 2, 6, 8][round % 4]).await;
    }
    let (client, broken) = bench.failing_for(Fault::Broken, |operation| operation.kind == Kind::List);
    let store = client.store().fleet(&World::fleet());
    let collect = async |nonce: &str| {
        let mode = Mode::Apply { nonce: nonce.to_owned() };
        gc::collect(&store, &bench.world.trust(), &Policy::default(), &mode).await
    };
    let objects =
        || bench.world.bucket.names().into_iter().filter(|name| !name.contains("/gc/")).collect::<Vec<_>>();
    pass(40 * 86_400).await;
    collect("01").await.unwrap();
    pass(2 * 86_400).await;
    let before = objects();
    broken.store(true, std::sync::atomic::Ordering::SeqCst);
    collect("02").await.unwrap_err();
    assert_eq!(objects(), before);
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    pass(86_400).await;
    collect("03").await.unwrap();
    assert!(objects().len() < before.len(), "nothing was to be deleted");
    let relay = bench.serving(&bench.calm()).await;
    assert_eq!(relay.served(), Some(8));
    relay.stop().await;
    bench.close();
}

/// A store that takes a create for a put has two winners: nothing is published there.
#[tokio::test(start_paused = true)]
async fn fault_28_a_store_without_preconditions() {
    let bench = Bench::new();
    let (client, careless) = bench.failing_for(Fault::Careless, creates);
    careless.store(true, std::sync::atomic::Ordering::SeqCst);
    let probe = client.store().fleet(&World::fleet()).probe("01").await.unwrap();
    assert!(probe.broken().count() >= 1);
    let refused = bench.act(&client, Act::Publish(1)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(bench.slot(1).await, Slot::Empty);
    careless.store(false, std::sync::atomic::Ordering::SeqCst);
    let probe = client.store().fleet(&World::fleet()).probe("02").await.unwrap();
    assert_eq!(probe.broken().count(), 0, "{probe:?}");
    bench.act(&client, Act::Publish(1)).await.unwrap();
    bench.close();
}

/// Both have read the same end of the log when they come to commit.
#[tokio::test(start_paused = true)]
async fn fault_18_two_publishers_race() {
    let bench = Bench::new();
    bench.publish(1).await;
    let slow = |seconds: u64| {
        FaultStore::new(&bench.world.bucket, move |operation| {
            let wait = if creates(operation) && is_entry(operation) { seconds } else { 0 };
            Verdict { wait: Duration::from_secs(wait), fault: None }
        })
    };
    let (fast, late) = (slow(10), slow(20));
    let (won, lost) = tokio::join!(
        bench.act_as("alice", &fast, Act::Publish(3)),
        bench.act_as("bob", &late, Act::Publish(5)),
    );
    let won = won.unwrap();
    assert_eq!((won.result, won.entry.sequence), (Done::Committed, 2));
    let Gate::Moved { sequence: 2, by, .. } = refused(lost) else { panic!("not told who won") };
    assert!(by.contains("alice") && by.contains(&pool()[3].snapshot.id().short()), "{by}");
    assert_eq!(bench.entry(2).await, won.entry);
    assert_eq!(bench.slot(3).await, Slot::Empty);
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_19_a_publisher_that_slept_for_hours() {
    let bench = Bench::new();
    bench.publish(1).await;
    let asleep = FaultStore::new(&bench.world.bucket, |operation| {
        let wait = if creates(operation) && is_entry(operation) { 5 * 3_600 } else { 0 };
        Verdict { wait: Duration::from_secs(wait), fault: None }
    });
    let wakes = bench.act_as("sleeper", &asleep, Act::Publish(3));
    let others = async {
        pass(600).await;
        for number in [5, 7, 9] {
            bench.publish(number).await;
        }
    };
    let (woke, ()) = tokio::join!(wakes, others);
    assert!(matches!(refused(woke), Gate::Moved { sequence: 2, .. }));
    let newest = bench.entry(4).await;
    assert_eq!(newest.state.target.unwrap().snapshot, pool()[9].snapshot.id());
    assert_eq!(bench.slot(5).await, Slot::Empty);
    bench.close();
}

/// Killed before and after each request in turn: readers see the old release or the new one, whole, and the next run
/// comes through.
#[tokio::test(start_paused = true)]
async fn fault_20_a_crash_at_every_step() {
    let mut seen = BTreeSet::new();
    for step in 0..2_000 {
        let bench = Bench::new();
        bench.publish(0).await;
        let mut left = step / 2;
        let fault = if step % 2 == 0 { Fault::CrashBefore } else { Fault::CrashAfter };
        let client = FaultStore::new(&bench.world.bucket, move |_| {
            let now = left == 0;
            left = if now { u64::MAX } else { left.saturating_sub(1) };
            if now { fault.into() } else { Verdict::default() }
        });
        let ended = tokio::select! {
            biased;
            () = client.crashed() => None,
            result = bench.act(&client, Act::Publish(1)) => Some(result),
        };
        // What a new relay finds; the judge looks whether an entry names what is not there.
        let relay = bench.serving(&bench.calm()).await;
        let (served, sequence) = (relay.served(), relay.sequence());
        assert!(
            [(Some(0), 1), (Some(1), 2)].contains(&(served, sequence)),
            "step {step}: {served:?} {sequence}"
        );
        seen.insert(sequence);
        relay.stop().await;
        let again = bench.publish(1).await;
        assert_eq!(again.entry.sequence, 2, "step {step}");
        assert_eq!(again.result == Done::Unchanged, sequence == 2, "step {step}");
        bench.close();
        if ended.is_some() {
            assert!(step > 40, "only {step} steps");
            break;
        }
    }
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

#[tokio::test(start_paused = true)]
async fn fault_27_a_pin_of_what_was_collected() {
    let bench = Bench::new();
    for number in [1, 2] {
        bench.publish(number).await;
    }
    let id = pool()[1].snapshot.id();
    let manifest = path(&moorgate_snapshot::layout::manifest(&id));
    bench.world.bucket.tamper(&manifest, None);
    let error = bench.act(&bench.calm(), Act::Pin(id.to_string())).await.unwrap_err();
    assert!(
        matches!(&error, PublishError::Read(ReadError::Missing(path)) if path.contains("manifests")),
        "{error}"
    );
    assert_eq!(bench.slot(3).await, Slot::Empty);
    bench.close();
}

/// Publishes a snapshot with so many routes, from this tree.
async fn offer(
    bench: &Bench,
    number: usize,
    routes: u64,
    tree: &str,
    shrink: bool,
) -> Result<Outcome, PublishError> {
    let publisher = Publisher {
        reader: bench.world.reader(&bench.calm(), &Channel::stable()),
        signer: bench.world.publisher(),
        meta: meta(&bench.world, "ci", 0),
        dry_run: false,
        step_over: false,
        mirrors: Vec::new(),
    };
    let (repository, revision) = ("https://git.example/shop".to_owned(), tree.to_owned());
    let offer = Offer {
        snapshot: &pool()[number].snapshot,
        routes,
        source: Some(Source { repository, revision, tree: tree.to_owned(), committed: None }),
        documents: BTreeMap::new(),
        provenance: Provenance::default(),
        records: moorgate::history::Records::default(),
        steps: Vec::new(),
        writer: "publish".into(),
        allow: Allow { shrink, ..Allow::default() },
        parent: None,
        descends: &|_, _| Some(true),
    };
    Box::pin(publisher.publish(&offer)).await
}

#[tokio::test(start_paused = true)]
async fn fault_31_a_compile_that_lost_its_routes() {
    let bench = Bench::new();
    offer(&bench, 1, 100, "a", false).await.unwrap();
    for routes in [0, 1, 79] {
        let gate = refused(offer(&bench, 3, routes, "b", false).await);
        assert!(matches!(gate, Gate::Shrunk { before: 100, .. }), "{routes}: {gate}");
    }
    assert_eq!(bench.slot(2).await, Slot::Empty);
    offer(&bench, 3, 80, "b", false).await.unwrap();
    offer(&bench, 5, 0, "c", true).await.unwrap();
    bench.close();
}

/// The same tree, compiled by another translator, gives another snapshot: that is said.
#[tokio::test(start_paused = true)]
async fn fault_36_another_translator() {
    let bench = Bench::new();
    let says =
        |outcome: &Outcome| outcome.warnings.iter().any(|warning| warning.contains("another translator"));
    assert!(!says(&offer(&bench, 1, 100, "a", false).await.unwrap()));
    let outcome = offer(&bench, 3, 100, "a", false).await.unwrap();
    assert!(says(&outcome), "{:?}", outcome.warnings);
    assert!(!says(&offer(&bench, 5, 100, "b", false).await.unwrap()));
    bench.close();
}

/// A flipped bit on the way must not make the newest entry look void: what it decided would be lost.
#[tokio::test(start_paused = true)]
async fn fault_10_a_cut_entry_is_read_again() {
    for fault in [Fault::Cut, Fault::Flip, Fault::Broken, Fault::Stale] {
        // Whichever time the entry is read: to find the end of the log, and for what it says.
        for after in 0..4 {
            let bench = Bench::new();
            for number in [1, 3] {
                bench.publish(number).await;
            }
            bench.pin(1).await;
            bench.world.bucket.tamper(&head_path(), None);
            let client =
                bench.at(after, fault, |operation| gets(operation) && operation.path.ends_with("03"));
            // It comes through or it fails; it does not forget the pin.
            let _ = bench.act(&client, Act::Publish(5)).await;
            let relay = bench.serving(&bench.calm()).await;
            assert_eq!(relay.served(), Some(1), "{fault:?} {after}: the pin is lost");
            relay.stop().await;
            bench.close();
        }
    }
}
