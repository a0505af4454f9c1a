//! Reports, on paused time.

use crate::bucket::{Bucket, Mood};
use moorgate_relay::FleetStatus;
use moorgate_relay::clock::Clock;
use moorgate_relay::jitter::Jitter;
use moorgate_relay::metrics::Metrics;
use moorgate_relay::report::Reporter;
use moorgate_relay::serve::hub::Hub;
use moorgate_relay::serve::proto::Node;
use moorgate_relay::serve::stream::{Protocol, Settings};
use moorgate_snapshot::{
    Channel, FleetName, KeyPair, RelayIdentity, RelayName, Report, Signer as _, Trust, layout, limits,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Stage {
    bucket: Bucket,
    key: Arc<KeyPair>,
    keys: watch::Sender<Arc<KeyPair>>,
    hub: Arc<Hub>,
    status: watch::Sender<Arc<FleetStatus>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

fn fleet() -> FleetName {
    FleetName::gateway("shop", "edge")
}

fn relay() -> RelayName {
    "relay-1".parse().unwrap()
}

impl Stage {
    fn start(bucket: Bucket) -> Self {
        let metrics = Arc::new(Metrics::default());
        let (hub, _) = Hub::new(fleet(), Settings::default(), Arc::clone(&metrics));
        let status = watch::Sender::new(Arc::new(FleetStatus::new(fleet(), Channel::stable())));
        let key = Arc::new(KeyPair::generate(&[3; 32]).unwrap().0);
        let keys = watch::Sender::new(Arc::clone(&key));
        let stop = CancellationToken::new();
        let reporter = Reporter {
            part: bucket.store().fleet(&fleet()),
            key: keys.subscribe(),
            identity: RelayIdentity::new(relay(), BTreeMap::new()).unwrap(),
            status: status.subscribe(),
            hub: Arc::clone(&hub),
            clock: Clock::new(|| 1_700_000_000),
            jitter: Jitter::seeded(1),
            metrics: Arc::clone(&metrics),
        };
        let running = tokio::spawn(reporter.run(stop.clone()));
        Self { bucket, key, keys, hub, status, metrics, stop, running }
    }

    fn sequence(&self, sequence: u64) {
        self.status.send_modify(|status| {
            let mut next = FleetStatus::clone(status);
            next.sequence = sequence;
            *status = Arc::new(next);
        });
    }

    async fn read(&self) -> Option<Report> {
        let part = self.bucket.store().fleet(&fleet());
        let stored = part.get(&layout::report(&relay()), limits::REPORT_BYTES).await.unwrap()?;
        let trust = Trust::of([self.key.public().clone()]);
        let reported = Report::read(&stored, &trust, &fleet(), &relay()).unwrap();
        assert_eq!(reported.untrusted, None);
        Some(reported.report)
    }

    fn count(&self, result: &str) -> f64 {
        let labels = [("fleet", "shop/edge"), ("result", result)];
        self.metrics.get("moorgate_relay_reports", &labels).unwrap_or_default()
    }
}

/// Lets the reporter work without letting time pass.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

async fn pass(seconds: f64) {
    settle().await;
    tokio::time::advance(Duration::from_secs_f64(seconds)).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_within_a_second_and_no_oftener_in_the_long_run() {
    let stage = Stage::start(Bucket::default());
    settle().await;
    assert_eq!(stage.read().await.unwrap().sequence, 0);
    pass(5.0).await;
    stage.sequence(1);
    settle().await;
    assert_eq!(stage.read().await.unwrap().sequence, 1, "at once");
    for sequence in 2..50 {
        stage.sequence(sequence);
        settle().await;
    }
    // Two more at once: a release is known, then in force, then acknowledged, and nobody waits a second for the last.
    assert_eq!(stage.read().await.unwrap().sequence, 3);
    pass(1.1).await;
    assert_eq!(stage.read().await.unwrap().sequence, 49, "the newest");
    assert!((stage.count("ok") - 5.0).abs() < 0.1);
    for sequence in 50..110 {
        stage.sequence(sequence);
        pass(0.25).await;
    }
    let count = stage.count("ok");
    assert!((19.0..=22.0).contains(&count), "{count}");
    pass(1.1).await;
    stage.sequence(49);
    // Envoys' doings are changes too; what only looks like one is none.
    pass(2.0).await;
    let session = stage.hub.connect("test".into(), Protocol::Delta);
    session.meet(&Node { id: "envoy-1".into(), ..Node::default() });
    settle().await;
    pass(1.1).await;
    assert_eq!(stage.read().await.unwrap().envoys[0].node, "envoy-1");
    let before = stage.count("ok");
    for _ in 0..30 {
        stage.sequence(49);
        pass(2.0).await;
    }
    assert!((stage.count("ok") - before).abs() < 0.1);
    // And the same again, so that silence means something.
    pass(301.0).await;
    assert!(stage.count("ok") > before);
    stage.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn credentials_that_may_not_write_are_not_tried_over_and_over() {
    for (mood, least, most) in [(Mood::ReadOnly, 1, 3), (Mood::Down, 59, 400)] {
        let stage = Stage::start(Bucket::default());
        stage.bucket.be(mood);
        for n in 0..3600 {
            stage.sequence(n);
            pass(1.0).await;
        }
        let count = stage.bucket.puts();
        assert!((least..=most).contains(&count), "{count} writes: {mood:?}");
        // Better times: reports come back by themselves.
        stage.bucket.be(Mood::Fine);
        pass(if mood == Mood::Down { 61.0 } else { 4400.0 }).await;
        assert_eq!(stage.read().await.unwrap().sequence, 3599);
        stage.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn another_key_signs_the_same_report_again() {
    let mut stage = Stage::start(Bucket::default());
    settle().await;
    assert!(stage.read().await.is_some());
    pass(5.0).await;
    let other = Arc::new(KeyPair::generate(&[4; 32]).unwrap().0);
    stage.keys.send_replace(Arc::clone(&other));
    pass(1.1).await;
    // Read with the new key alone.
    stage.key = other;
    assert_eq!(stage.read().await.unwrap().sequence, 0);
    assert!((stage.count("ok") - 2.0).abs() < 0.1);
    stage.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn the_last_report_says_that_none_follows() {
    let mut stage = Stage::start(Bucket::default());
    let session = stage.hub.connect("test".into(), Protocol::Delta);
    session.meet(&Node { id: "envoy-1".into(), ..Node::default() });
    settle().await;
    let first = stage.read().await.unwrap();
    assert!(!first.left && first.envoys_connected == 1);
    stage.stop.cancel();
    (&mut stage.running).await.unwrap();
    let last = stage.read().await.unwrap();
    assert!(last.left && last.envoys_connected == 0 && last.envoys.is_empty(), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stalls_keeps_no_relay_from_ending() {
    let stage = Stage::start(Bucket::default());
    settle().await;
    assert!(stage.read().await.is_some());
    stage.bucket.be(Mood::Stalled);
    stage.stop.cancel();
    let begin = tokio::time::Instant::now();
    stage.running.await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_never_reported_takes_no_leave() {
    let stage = Stage::start(Bucket::default());
    stage.bucket.be(Mood::ReadOnly);
    settle().await;
    let before = stage.bucket.puts();
    stage.stop.cancel();
    stage.running.await.unwrap();
    assert_eq!(stage.bucket.puts(), before);
}
