//! Fault 32: a thousand relays that start at once, and a store that comes back, on paused time.

use crate::bucket::{Bucket, Mood};
use crate::publisher::Publisher;
use crate::relay::world;
use moorgate_relay::jitter::Jitter;
use moorgate_relay::pull::{Pulled, Puller};
use moorgate_snapshot::{Anchor, Channel, Reader, RelayIdentity};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const RELAYS: usize = 1000;
const POLL: Duration = Duration::from_secs(5);

struct Herd {
    bucket: Bucket,
    events: Vec<mpsc::UnboundedReceiver<Pulled>>,
    stop: CancellationToken,
}

impl Herd {
    async fn start(mood: Mood) -> Self {
        let bucket = Bucket::default();
        let mut publisher = Publisher::new(bucket.store());
        publisher.publish(world("1")).await;
        let anchor = Anchor::parse(publisher.trust().as_bytes()).unwrap();
        bucket.be(mood);
        let (stop, mut events) = (CancellationToken::new(), Vec::new());
        for number in 0..RELAYS {
            let (tell, told) = mpsc::unbounded_channel();
            let name = format!("relay-{number}").parse().unwrap();
            let puller = Puller {
                readers: vec![Reader::new(publisher.part(), anchor.trust(), Channel::stable())],
                seed: None,
                anchor: anchor.clone(),
                identity: RelayIdentity::new(name, BTreeMap::new()).unwrap(),
                interval: POLL,
                remembered: None,
                held: Arc::new(|_| None),
                known: Arc::new(|_| None),
                kept: Arc::new(|_| None),
                jitter: Jitter::seeded(number as u64),
                metrics: Arc::default(),
                events: tell,
            };
            // Nobody asks these pullers for anything: the sender only has to live.
            let (requests, asked) = mpsc::channel(1);
            let run = puller.run(asked, stop.clone());
            tokio::spawn(async move {
                run.await;
                drop(requests);
            });
            events.push(told);
        }
        Self { bucket, events, stop }
    }

    /// Requests in each of the next seconds.
    async fn seconds(&self, count: usize) -> Vec<u64> {
        let mut seconds = Vec::new();
        for _ in 0..count {
            let before = self.bucket.gets();
            tokio::time::sleep(Duration::from_secs(1)).await;
            seconds.push(self.bucket.gets() - before);
        }
        seconds
    }

    /// How many have the snapshot.
    fn served(&mut self) -> usize {
        let mut served = 0;
        for events in &mut self.events {
            let mut has = false;
            while let Ok(event) = events.try_recv() {
                has |= matches!(event, Pulled::Snapshot { .. });
            }
            served += usize::from(has);
        }
        served
    }
}

#[tokio::test(start_paused = true)]
async fn f32_a_thousand_cold_relays_spread_over_a_poll() {
    let mut herd = Herd::start(Mood::Fine).await;
    let seconds = herd.seconds(6).await;
    assert_eq!(herd.served(), RELAYS, "all are served after one poll");
    let (most, total): (u64, u64) = (seconds.iter().copied().max().unwrap_or_default(), seconds.iter().sum());
    // Head, the slot behind it, manifest: a fifth of the relays each second, and some that poll again.
    assert!(most <= 1000, "{seconds:?}");
    assert!(total <= 4 * RELAYS as u64 + RELAYS as u64 / 2, "{seconds:?}");
    // In calm: one conditional get a poll.
    let calm = herd.seconds(40).await;
    assert!(calm.iter().all(|second| *second <= 450), "{calm:?}");
    herd.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn f32_a_store_that_comes_back_is_not_trampled() {
    let mut herd = Herd::start(Mood::Down).await;
    let down = herd.seconds(300).await;
    assert!(down.iter().all(|second| *second <= 500), "{down:?}");
    // Backed off: each asks about twice a minute.
    assert!(down[180..].iter().sum::<u64>() <= 120 * RELAYS as u64 / 20, "{down:?}");
    assert_eq!(herd.served(), 0);
    herd.bucket.be(Mood::Fine);
    let back = herd.seconds(65).await;
    assert_eq!(herd.served(), RELAYS, "all are served after the longest wait and a poll");
    assert!(back.iter().all(|second| *second <= 450), "{back:?}");
    herd.stop.cancel();
}
