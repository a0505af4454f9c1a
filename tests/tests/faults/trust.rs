//! Attacks: what is not signed, not in its place, not new, or not for everybody.

use super::{Bench, entry_path, head_path, pass};
use moorgate::publish::{AUTOMATIC, Publisher, Reports, Verdict, judge};
use moorgate_relay::serve::stream::Event;
use moorgate_relay::serve::types;
use moorgate_snapshot::channel::{Candidate, Step};
use moorgate_snapshot::head::Head;
use moorgate_snapshot::{Action, Channel, Entry, Slot, writer};
use moorgate_tests::sim::pool::pool;
use moorgate_tests::sim::publishers::meta;
use moorgate_tests::sim::relays::{Running, Setup};
use std::collections::BTreeMap;
use std::sync::Arc;

#[tokio::test(start_paused = true)]
async fn fault_13_entries_that_nobody_signed() {
    let bench = Bench::new();
    bench.publish(1).await;
    let stranger = bench.continued(1, &*bench.world.keys.stranger, |_| {}).await;
    let good = bench.continued(1, bench.world.publisher(), |entry| entry.author = "mallory".into()).await;
    let mut tampered = moorgate_snapshot::envelope::Envelope::decode(&good, 1 << 20).unwrap();
    let text = String::from_utf8(tampered.payload.clone()).unwrap().replace("mallory", "bob-bob");
    tampered.payload = text.into_bytes();
    for (label, bytes) in [("unknown_key", stranger), ("bad_signature", tampered.encode())] {
        let bench = Bench::new();
        bench.publish(1).await;
        let relay = bench.serving(&bench.calm()).await;
        bench.forge(2, bytes);
        pass(66).await;
        assert_eq!((relay.served(), relay.sequence()), (Some(1), 1), "{label}");
        assert!(relay.refusals(label) >= 1.0, "no alarm {label}");
        relay.stop().await;
        bench.close();
    }
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_14_replays() {
    let bench = Bench::new();
    bench.publish(1).await;
    let Slot::Entry(first) = bench.slot(1).await else { panic!("no entry") };
    bench.publish(3).await;
    let relay = bench.serving(&bench.calm()).await;
    // An old entry in a new slot, and an old head.
    bench.forge(3, first.envelope.encode());
    bench.world.bucket.tamper(&head_path(), Some(Head::of(first.envelope.clone()).encode().into()));
    pass(66).await;
    assert_eq!((relay.served(), relay.sequence()), (Some(3), 2));
    assert!(relay.refusals("replay") >= 1.0);
    // A bucket that was restored: the log ends before what the relay has read, also after a restart.
    for sequence in [2, 3] {
        bench.world.bucket.tamper(&entry_path(sequence), None);
    }
    pass(130).await;
    relay.stop().await;
    let relay = bench.relay(&bench.calm());
    pass(130).await;
    assert_eq!((relay.served(), relay.sequence()), (Some(3), 2));
    assert!(relay.refusals("rollback") >= 1.0);
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_15_two_entries_for_one_slot() {
    let bench = Bench::new();
    bench.publish(1).await;
    let other = bench.continued(1, bench.world.publisher(), |entry| entry.author = "another".into()).await;
    bench.publish(3).await;
    let relay = bench.serving(&bench.calm()).await;
    bench.world.bucket.tamper(&entry_path(2), Some(other.clone().into()));
    let head = moorgate_snapshot::envelope::Envelope::decode(&other, 1 << 20).unwrap();
    bench.world.bucket.tamper(&head_path(), Some(Head::of(head).encode().into()));
    pass(200).await;
    assert_eq!((relay.served(), relay.sequence()), (Some(3), 2));
    assert!(relay.refusals("equivocation") >= 1.0);
    relay.stop().await;
    bench.close();
}

/// A candidate that Envoys refuse: the relay in the wave gives it back, and nobody else ever saw it.
#[tokio::test(start_paused = true)]
async fn fault_30_a_refusal_in_a_wave() {
    let bench = Bench::new();
    bench.publish(1).await;
    let report_key = Some(Arc::clone(&bench.world.keys.reporter));
    let start = |name: &str| {
        let setup = Setup { report_key: report_key.clone(), ..Setup::new(&bench.world, name, true) };
        Running::start(&bench.world, &bench.calm(), setup)
    };
    let (canary, other) = (start("canary"), start("other"));
    let others_views = other.fleet.hub.views();
    pass(6).await;
    let good = pool()[1].snapshot.id();
    canary.envoy.report(Event::Synced { snapshot: good });
    writer::write_snapshot(&bench.store(), &pool()[3].snapshot, &|_| false).await.unwrap();
    let bad = pool()[3].snapshot.id();
    let candidate = |entry: &mut Entry| {
        let mut release = entry.state.target.clone().unwrap();
        (release.snapshot, release.sequence, release.bundle) = (bad, 2, None);
        let labels = BTreeMap::from([("relay".to_owned(), "canary".to_owned())]);
        let step = Step { labels, percent: 100, bake_seconds: 300, max_error_percent: None };
        entry.action = Action::Publish;
        entry.state.candidate = Some(Candidate { release, step: 1, steps: vec![step], since: None });
    };
    let entry = bench.continued(1, bench.world.publisher(), candidate).await;
    bench.world.bucket.put(&entry_path(2), &entry.into(), true).unwrap();
    pass(66).await;
    assert_eq!((canary.served(), other.served()), (Some(3), Some(1)));
    let type_url = types::CLUSTER.into();
    canary.envoy.report(Event::Refused { type_url, snapshot: bad, text: "no".into(), names: Vec::new() });
    pass(1).await;
    assert_eq!(canary.served(), Some(1));
    pass(3_600).await;
    assert_eq!((canary.served(), other.served()), (Some(1), Some(1)), "it comes back by itself");
    assert_eq!(canary.sequence(), 2);
    // The publisher's loop reads that, and pins what was good: the wave is over.
    let reader = bench.world.reader(&bench.calm(), &Channel::stable());
    let reports = Reports::read(&reader).await.unwrap();
    let waiting = bench.entry(2).await.state.candidate.unwrap();
    let now = meta(&bench.world, "ci", 0).time;
    let Verdict::Halt(why) = judge(&waiting, &Channel::stable(), &reports, now) else {
        panic!("the wave goes on: {reports:?}")
    };
    assert!(why.contains("canary"), "{why}");
    let publisher = Publisher {
        reader,
        signer: bench.world.publisher(),
        meta: meta(&bench.world, "ci", 0),
        dry_run: false,
        step_over: false,
        mirrors: Vec::new(),
    };
    let halted = Box::pin(publisher.halt_automatically(&bad, &why)).await.unwrap();
    assert_eq!(halted.entry.state.pin.as_ref().map(|pin| pin.release.snapshot), Some(good));
    assert!(halted.entry.reason.starts_with(AUTOMATIC), "{}", halted.entry.reason);
    pass(66).await;
    assert_eq!((canary.sequence(), other.sequence()), (3, 3));
    assert!(
        !others_views.has_changed().unwrap() || others_views.borrow().as_ref().unwrap().config.id == good
    );
    canary.stop().await;
    other.stop().await;
    bench.close();
}
