//! What gc must not take, whoever needs it and whatever fails meanwhile.

use super::{Bench, path};
use moorgate_relay::serve::stream::Event;
use moorgate_snapshot::gc::{self, GcError, Mode, Outcome, Policy};
use moorgate_snapshot::{Action, Channel, Digest, Pin, layout, writer};
use moorgate_tests::fault_store::{Fault, FaultStore, Kind, Verdict};
use moorgate_tests::sim::pool::pool;
use moorgate_tests::sim::relays::{Running, Setup};
use moorgate_tests::sim::world::World;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const HOUR: i64 = 3_600;

const POLICY: Policy = Policy {
    keep_for: Duration::from_hours(24),
    keep_last: 2,
    grace: Duration::from_hours(6),
    delay: Duration::from_hours(6),
    lease: Duration::from_hours(1),
};

impl Bench {
    async fn gc(&self, client: &Arc<FaultStore>) -> Result<Outcome, GcError> {
        let mode = Mode::Apply { nonce: self.world.nonce() };
        gc::collect(&client.store().fleet(&World::fleet()), &self.world.trust(), &POLICY, &mode).await
    }

    /// Three snapshots of which the first is named by no young entry any more, and a run has condemned it.
    async fn condemned(&self) {
        self.publish(1).await;
        for number in [0, 2, 6, 8] {
            self.publish(number).await;
        }
        self.world.sleep(48 * HOUR);
        assert!(self.gc(&self.calm()).await.unwrap().condemned.objects > 0);
        self.world.sleep(7 * HOUR);
    }

    fn has(&self, number: usize) -> bool {
        self.world.bucket.peek(&path(&layout::manifest(&pool()[number].snapshot.id()))).is_some()
    }

    fn marks(&self) -> usize {
        self.world.bucket.names().iter().filter(|name| name.contains("/gc/condemned/")).count()
    }
}

/// A publisher may be at work on what no entry names yet.
#[tokio::test(start_paused = true)]
async fn gc_leaves_what_is_young() {
    let bench = Bench::new();
    bench.publish(1).await;
    writer::write_snapshot(&bench.store(), &pool()[3].snapshot, &|_| false).await.unwrap();
    bench.world.sleep(5 * HOUR);
    let outcome = bench.gc(&bench.calm()).await.unwrap();
    assert!(outcome.young.objects > 0 && outcome.condemned.objects == 0, "{outcome:?}");
    assert_eq!(bench.marks(), 0);
    bench.world.sleep(2 * HOUR);
    assert!(bench.gc(&bench.calm()).await.unwrap().condemned.objects > 0);
    bench.close();
}

/// A mark is a warning of some hours.
#[tokio::test(start_paused = true)]
async fn gc_waits_between_mark_and_delete() {
    let bench = Bench::new();
    bench.condemned().await;
    bench.world.sleep(-2 * HOUR);
    assert_eq!(bench.gc(&bench.calm()).await.unwrap().deleted.objects, 0);
    bench.world.sleep(2 * HOUR);
    assert!(bench.gc(&bench.calm()).await.unwrap().deleted.objects > 0);
    assert!(!bench.has(1));
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn gc_keeps_what_a_pin_holds() {
    let bench = Bench::new();
    for number in [1, 0, 2] {
        bench.publish(number).await;
    }
    bench.pin(1).await;
    for number in [6, 8, 10] {
        bench.publish(number).await;
    }
    for _ in 0..3 {
        bench.world.sleep(48 * HOUR);
        bench.gc(&bench.calm()).await.unwrap();
    }
    let relay = bench.serving(&bench.calm()).await;
    assert_eq!(relay.served(), Some(1));
    relay.stop().await;
    bench.close();
}

/// A relay that is cut off from the log runs what nobody else names, and says so.
#[tokio::test(start_paused = true)]
async fn gc_keeps_what_a_report_names() {
    let bench = Bench::new();
    bench.publish(1).await;
    let (client, blind) = bench.failing_for(Fault::Error, |operation| operation.kind == Kind::Get);
    let report_key = Some(Arc::clone(&bench.world.keys.reporter));
    let setup = || Setup { report_key: report_key.clone(), ..Setup::new(&bench.world, "relay-a", true) };
    let relay = Running::start(&bench.world, &client, setup());
    super::pass(6).await;
    relay.envoy.report(Event::Synced { snapshot: pool()[1].snapshot.id() });
    blind.store(true, Ordering::SeqCst);
    for number in [0, 2, 6, 8] {
        bench.publish(number).await;
    }
    for _ in 0..4 {
        bench.world.sleep(12 * HOUR);
        super::pass(400).await;
        assert_eq!(relay.served(), Some(1));
        bench.gc(&bench.calm()).await.unwrap();
    }
    assert!(bench.has(1));
    relay.stop().await;
    // When it says nothing any more, nothing keeps it.
    for _ in 0..2 {
        bench.world.sleep(48 * HOUR);
        bench.gc(&bench.calm()).await.unwrap();
    }
    assert!(!bench.has(1));
    bench.close();
}

/// What cannot be read may be what names the rest: the run ends, and nothing is removed.
#[tokio::test(start_paused = true)]
async fn gc_ends_at_whatever_it_cannot_read() {
    // One that an older entry names, and not the newest.
    let older = layout::manifest(&pool()[2].snapshot.id());
    for folder in ["/log/", "/head/", &*older, "/status/", "/gc/"] {
        let (bench, part) = (Bench::new(), folder.to_owned());
        bench.condemned().await;
        bench.store().overwrite("status/relay-a.json", "{}".into()).await.unwrap();
        let before = bench.world.bucket.names();
        let fits = move |operation: moorgate_tests::fault_store::Operation<'_>| {
            operation.kind == Kind::Get && operation.path.contains(&part)
        };
        let (client, broken) = bench.failing_for(Fault::Error, fits);
        broken.store(true, Ordering::SeqCst);
        let result = bench.gc(&client).await;
        assert!(result.is_err(), "{folder}: {result:?}");
        let kept = |names: &[String]| names.iter().filter(|name| !name.contains("/gc/")).count();
        assert_eq!(kept(&bench.world.bucket.names()), kept(&before), "{folder}");
        bench.world.sleep(2 * HOUR);
        assert!(bench.gc(&bench.calm()).await.unwrap().deleted.objects > 0);
        bench.close();
    }
}

/// A report that is only damaged on the way may name what is needed.
#[tokio::test(start_paused = true)]
async fn gc_reads_again_what_does_not_verify() {
    for fault in [Fault::Flip, Fault::Cut] {
        let bench = Bench::new();
        bench.condemned().await;
        let setup = Setup {
            report_key: Some(Arc::clone(&bench.world.keys.reporter)),
            ..Setup::new(&bench.world, "relay-a", true)
        };
        let relay = Running::start(&bench.world, &bench.calm(), setup);
        super::pass(6).await;
        let client =
            bench.once(fault, |operation| operation.kind == Kind::Get && operation.path.contains("/status/"));
        let result = bench.gc(&client).await;
        assert!(matches!(result, Err(GcError::Unclear { .. })), "{fault:?}: {result:?}");
        relay.stop().await;
        bench.close();
    }
}

/// Dead right after a delete, at a moment at which somebody came to need the object: the next run puts it back.
#[tokio::test(start_paused = true)]
async fn gc_puts_back_what_a_dead_run_took() {
    let bench = Bench::new();
    bench.condemned().await;
    let (mut deletes, dies_at) = (0, 5);
    let client = FaultStore::new(&bench.world.bucket, move |operation| {
        deletes += u32::from(operation.kind == Kind::Delete && !operation.path.contains("/gc/"));
        if deletes == dies_at { Fault::CrashAfter.into() } else { Verdict::default() }
    });
    tokio::select! {
        biased;
        () = client.crashed() => {}
        result = bench.gc(&client) => panic!("it lives: {result:?}"),
    }
    assert!(!bench.has(1));
    // One who had read all of it back a moment ago, and has died since.
    let id = pool()[1].snapshot.id();
    let entry = bench.continued(5, bench.world.publisher(), |entry| {
        let mut release = entry.state.target.clone().unwrap();
        (release.snapshot, release.sequence, release.bundle) = (id, 1, None);
        entry.action = Action::Pin;
        entry.state.pin = Some(Pin { release, reason: "race".into(), by: "ci".into(), expires: None });
    });
    bench.forge(6, entry.await);
    bench.world.sleep(2 * HOUR);
    let outcome = bench.gc(&bench.calm()).await.unwrap();
    assert!(outcome.warnings.iter().any(|warning| warning.contains("are back")), "{outcome:?}");
    let relay = bench.serving(&bench.calm()).await;
    assert_eq!(relay.served(), Some(1));
    relay.stop().await;
    // The copies go when their time has come.
    for _ in 0..4 {
        bench.world.sleep(7 * HOUR);
        bench.gc(&bench.calm()).await.unwrap();
    }
    assert!(!bench.world.bucket.names().iter().any(|name| name.contains("/gc/removed/")));
    let whole = bench.world.reader(&bench.calm(), &Channel::stable()).newest(None).await.unwrap();
    let pinned: Option<Digest> =
        whole.entry.and_then(|entry| entry.entry.state.serving().map(|one| one.snapshot));
    assert_eq!(pinned, Some(id));
    bench.close();
}
