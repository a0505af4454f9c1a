//! A publisher that stays with its wave, and relays that follow it, under one virtual clock.

use super::acts::{at, steps};
use super::*;
use crate::publish::{End, Rollout};
use moorgate_snapshot::RelayIdentity;
use moorgate_snapshot::channel::Hold;
use moorgate_snapshot::report::{EnvoyReport, Nack, Report};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What a relay does with a snapshot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Will {
    Take,
    Refuse,
    Unwell,
    Ignore,
}

fn nack(report: &mut Report, snapshot: Digest) {
    let nack = Nack { snapshot: Some(snapshot), type_url: "Listener".into(), text: "no way".into() };
    report.envoys = vec![EnvoyReport { node: "e".into(), acked: None, nack: Some(nack) }];
}

struct Stage {
    first: Digest,
    bench: Bench,
    start: Instant,
    said: Mutex<Vec<String>>,
}

impl Stage {
    async fn new() -> Self {
        let bench = Bench::new();
        bench.publish(1).await;
        Self { first: snapshot(1).id(), bench, start: Instant::now(), said: Mutex::new(Vec::new()) }
    }

    fn now(&self) -> OffsetDateTime {
        at(0) + time::Duration::try_from(self.start.elapsed()).unwrap()
    }

    fn publisher(&self) -> Publisher<'_> {
        let publisher = self.bench.publisher("ci");
        Publisher { meta: Meta { time: self.now(), ..publisher.meta.clone() }, ..publisher }
    }

    /// Relays `a` and `b` follow the channel and report every ten seconds.
    async fn relays(&self, wills: [Will; 2]) {
        loop {
            let tail = self.bench.reader("stable").newest(None).await.unwrap();
            let state = tail.entry.unwrap().entry.state;
            for (name, will) in ["a", "b"].into_iter().zip(wills) {
                let relay = RelayIdentity::new(name.parse().unwrap(), BTreeMap::new()).unwrap();
                let Effective::Serve { release, fallback, .. } =
                    state.effective_for(&relay, &Channel::stable())
                else {
                    continue;
                };
                let old = fallback.map_or(release.snapshot, |release| release.snapshot);
                let new = old != release.snapshot && release.snapshot != self.first;
                let serves =
                    if new && matches!(will, Will::Refuse | Will::Ignore) { old } else { release.snapshot };
                let change = |report: &mut Report| {
                    if new && will == Will::Refuse {
                        report.refused.insert(release.snapshot, "no way".into());
                        nack(report, release.snapshot);
                    }
                    report.healthy = (new && will == Will::Unwell).then_some(false);
                };
                self.bench.report(name, serves, self.now(), change).await;
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }

    async fn drive(&self, n: u32, timeout: u64, wills: [Will; 2]) -> Result<End, PublishError> {
        let publisher = || Ok(self.publisher());
        let said = |text: &str| self.said.lock().unwrap().push(text.to_owned());
        let rollout = Rollout {
            publisher: &publisher,
            snapshot: snapshot(n).id(),
            percent: 100,
            relays: Some(2),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(timeout),
            said: &said,
        };
        tokio::select! {
            end = rollout.drive() => end,
            () = self.relays(wills) => unreachable!("relays go on for ever"),
        }
    }

    async fn wave(&self, n: u32, relays: &[&str]) {
        let snapshot = snapshot(n);
        let offer = Offer { steps: steps(relays), ..offer(&snapshot) };
        Box::pin(self.publisher().publish(&offer)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_wave_that_does_well_reaches_everybody() {
    let stage = Stage::new().await;
    stage.wave(2, &["a"]).await;
    let end = Box::pin(stage.drive(2, 3600, [Will::Take; 2])).await.unwrap();
    let End::Live(progress) = end else { panic!("{end:?}") };
    assert_eq!((progress.live, progress.acked), (2, 2));
    let state = stage.bench.state().await;
    assert_eq!(state.target.unwrap().snapshot, snapshot(2).id());
    assert_eq!((state.candidate, state.previous_good.unwrap().snapshot), (None, snapshot(1).id()));
    // Two steps of ten minutes each: neither sooner, nor much later.
    let minutes = stage.start.elapsed().as_secs() / 60;
    assert!((20..22).contains(&minutes), "{minutes}");
    let said = stage.said.lock().unwrap().join("\n");
    assert!(said.contains("step 1 of 2 bakes") && said.contains("in force for all"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_wave_that_does_harm_is_pinned_back_and_others_never_see_it() {
    for will in [Will::Refuse, Will::Unwell] {
        let stage = Stage::new().await;
        stage.wave(2, &["a"]).await;
        let end = Box::pin(stage.drive(2, 3600, [will, Will::Take])).await.unwrap();
        let End::Halted { entry, why } = end else { panic!("{end:?}") };
        assert!(why.starts_with("a: "), "{why}");
        assert_eq!(entry.state.bad, [snapshot(2).id()]);
        assert_eq!(entry.state.pin.unwrap().release.snapshot, snapshot(1).id());
        assert!(stage.start.elapsed() < Duration::from_mins(1), "at once, not after the bake time");
        assert_eq!(stage.bench.served().await, Some(snapshot(1).id()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wave_that_nobody_reports_on_stands_and_the_next_job_goes_on() {
    let stage = Stage::new().await;
    stage.wave(2, &["a"]).await;
    let end = Box::pin(stage.drive(2, 1800, [Will::Ignore, Will::Take])).await.unwrap();
    let End::TimedOut(text) = end else { panic!("{end:?}") };
    assert!(text.contains("a: serves"), "{text}");
    let wave = stage.bench.state().await.candidate.unwrap();
    assert_eq!((wave.step, wave.since), (1, Some(at(0))));
    // That job is dead. Another one publishes the same and stays: it finds the wave where it stands.
    stage.wave(2, &["a"]).await;
    let end = Box::pin(stage.drive(2, 3600, [Will::Take; 2])).await.unwrap();
    assert!(matches!(end, End::Live(_)), "{end:?}");
    assert!(stage.start.elapsed() < Duration::from_mins(41), "the first step had baked already");
}

#[tokio::test(start_paused = true)]
async fn what_others_decide_ends_the_watch() {
    // Pinned while it goes out.
    let stage = Stage::new().await;
    stage.wave(2, &["a"]).await;
    let one = snapshot(1).id().to_string();
    Box::pin(stage.bench.publisher("on-call").pin(&one, None)).await.unwrap();
    let end = Box::pin(stage.drive(2, 3600, [Will::Take; 2])).await.unwrap();
    assert!(matches!(&end, End::Stopped(why) if why.contains("pinned")), "{end:?}");
    // Another release took its place.
    let stage = Stage::new().await;
    stage.wave(2, &["a"]).await;
    stage.bench.publish(3).await;
    let end = Box::pin(stage.drive(2, 3600, [Will::Take; 2])).await.unwrap();
    assert!(matches!(&end, End::Stopped(why) if why.contains("its place")), "{end:?}");
    // Held: it stands, and nobody halts or steps it.
    let stage = Stage::new().await;
    stage.wave(2, &["a"]).await;
    let publisher = stage.publisher();
    let publisher = Publisher { meta: Meta { reason: "sale".into(), ..publisher.meta.clone() }, ..publisher };
    Box::pin(publisher.hold()).await.unwrap();
    let end = Box::pin(stage.drive(2, 3600, [Will::Refuse; 2])).await.unwrap();
    assert!(matches!(&end, End::TimedOut(text) if text.contains("sale")), "{end:?}");
    let state = stage.bench.state().await;
    assert_eq!(state.hold, Some(Hold { reason: "sale".into(), by: "ci".into() }));
    assert!(state.pin.is_none() && state.candidate.unwrap().step == 1);
}

#[tokio::test(start_paused = true)]
async fn without_a_wave_it_waits_for_reports_and_pins_nothing() {
    let stage = Stage::new().await;
    stage.bench.publish(2).await;
    let end = Box::pin(stage.drive(2, 600, [Will::Take; 2])).await.unwrap();
    assert!(matches!(end, End::Live(_)), "{end:?}");
    stage.bench.publish(3).await;
    let end = Box::pin(stage.drive(3, 600, [Will::Take, Will::Refuse])).await.unwrap();
    assert!(matches!(&end, End::Refused(progress) if progress.refused[0].0 == "b"), "{end:?}");
    assert_eq!(stage.bench.state().await.pin, None);
    stage.bench.publish(4).await;
    let end = Box::pin(stage.drive(4, 600, [Will::Take, Will::Ignore])).await.unwrap();
    assert!(matches!(&end, End::TimedOut(text) if text.contains("b: serves")), "{end:?}");
}
