//! Waves, holds, floors and the end of a fleet, as entries.

use super::*;
use crate::publish::AUTOMATIC;
use moorgate_snapshot::channel::Step;
use moorgate_snapshot::report::{FORMAT, Report};
use moorgate_snapshot::{Action, Role};

/// Steps of ten minutes for all relays of these names, then for all.
pub(crate) fn steps(relays: &[&str]) -> Vec<Step> {
    let step = |labels: BTreeMap<String, String>| Step {
        labels,
        percent: 100,
        bake_seconds: 600,
        max_error_percent: None,
    };
    let named = relays.iter().map(|relay| step(BTreeMap::from([("relay".to_owned(), (*relay).to_owned())])));
    named.chain([step(BTreeMap::new())]).collect()
}

pub(crate) fn at(minutes: i64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(minutes)
}

impl Bench {
    /// A publisher at a time.
    pub(crate) fn publisher_at(&self, minutes: i64) -> Publisher<'_> {
        let publisher = self.publisher("ci");
        Publisher { meta: Meta { time: at(minutes), ..publisher.meta.clone() }, ..publisher }
    }

    pub(crate) async fn wave(&self, n: u32, minutes: i64, relays: &[&str]) -> Outcome {
        let snapshot = snapshot(n);
        let offer = Offer { steps: steps(relays), ..offer(&snapshot) };
        Box::pin(self.publisher_at(minutes).publish(&offer)).await.unwrap()
    }

    /// A relay's report: it serves a snapshot, and one Envoy has acknowledged it.
    pub(crate) async fn report(
        &self,
        relay: &str,
        snapshot: Digest,
        time: OffsetDateTime,
        change: impl Fn(&mut Report),
    ) {
        let mut report = Report {
            format: FORMAT,
            fleet: shop(),
            channel: Channel::stable(),
            relay: relay.parse().unwrap(),
            labels: BTreeMap::new(),
            time,
            interval_seconds: 300,
            version: "0".into(),
            features: Vec::new(),
            sequence: 1,
            entry: None,
            snapshot: Some(snapshot),
            because: "wave".into(),
            since: None,
            retired: false,
            left: false,
            refused: BTreeMap::new(),
            envoys_connected: 1,
            envoys_acked: 1,
            envoys: Vec::new(),
            healthy: None,
            secrets: Vec::new(),
            store_error: String::new(),
        };
        change(&mut report);
        let stored = report.sign(&self.key).unwrap().encode();
        let name = layout::report(&relay.parse().unwrap());
        Self::store(self.inner.clone()).overwrite(&name, stored.into()).await.unwrap();
    }

    pub(crate) async fn state(&self) -> ChannelState {
        self.reader("stable").newest(None).await.unwrap().entry.unwrap().entry.state
    }
}

#[tokio::test(start_paused = true)]
async fn a_wave_goes_on_step_by_step_and_only_when_relays_are_well() {
    let bench = Bench::new();
    bench.publish(1).await;
    let outcome = bench.wave(2, 0, &["a"]).await;
    let wave = outcome.entry.state.candidate.unwrap();
    assert_eq!((wave.step, wave.steps.len(), wave.since), (1, 2, Some(at(0))));
    assert_eq!(bench.served().await, Some(snapshot(1).id()));
    // Publishing it again neither restarts nor ends the wave: the next job finds it where it stands.
    let again = bench.wave(2, 5, &["a"]).await;
    assert_eq!((again.result, again.entry.sequence), (Done::Unchanged, 2));
    let step = async |minutes, force| Box::pin(bench.publisher_at(minutes).step(force, None)).await;
    assert!(matches!(gate(step(9, false).await), Gate::Baking { step: 1, .. }));
    assert!(matches!(gate(step(11, false).await), Gate::Unhealthy { step: 1, .. }), "silence is not health");
    bench.report("a", snapshot(1).id(), at(11), |_| {}).await;
    assert!(matches!(gate(step(11, false).await), Gate::Unhealthy { .. }));
    bench.report("a", snapshot(2).id(), at(11), |_| {}).await;
    bench.report("b", snapshot(1).id(), at(11), |_| {}).await;
    let second = step(11, false).await.unwrap();
    assert_eq!((second.entry.action, second.entry.state.candidate.unwrap().step), (Action::Step, 2));
    assert!(matches!(gate(step(30, false).await), Gate::Unhealthy { step: 2, .. }), "b lags behind");
    let forced = step(30, true).await.unwrap();
    assert_eq!(forced.entry.state.candidate, None);
    assert_eq!(forced.entry.state.previous_good.unwrap().snapshot, snapshot(1).id());
    assert_eq!(bench.served().await, Some(snapshot(2).id()));
    assert!(matches!(gate(step(60, true).await), Gate::NoCandidate(_)));
}

#[tokio::test(start_paused = true)]
async fn a_halted_wave_is_pinned_and_its_snapshot_bad() {
    let bench = Bench::new();
    bench.publish(1).await;
    bench.wave(2, 0, &["a"]).await;
    let publisher = bench.publisher_at(1);
    let publisher = Publisher { meta: Meta { reason: "5xx".into(), ..publisher.meta.clone() }, ..publisher };
    let halted = Box::pin(publisher.halt()).await.unwrap();
    assert_eq!(halted.entry.action, Action::Pin);
    assert_eq!(halted.entry.state.bad, [snapshot(2).id()]);
    let pin = halted.entry.state.pin.unwrap();
    assert_eq!((pin.release.snapshot, pin.reason.as_str()), (snapshot(1).id(), "5xx"));
    let two = snapshot(2);
    let refused = Box::pin(bench.publisher("ci").publish(&offer(&two))).await;
    assert!(matches!(gate(refused), Gate::Bad(_)));
    let id = two.id().to_string();
    let refused = Box::pin(bench.publisher("ci").unpin(&id, &[])).await.map(|(outcome, _)| outcome);
    assert!(matches!(gate(refused), Gate::Bad(_)));
    // A person may think otherwise.
    let allow = Allow { bad: true, ..Allow::default() };
    let pardoned = Box::pin(bench.publisher("ci").publish(&Offer { allow, ..offer(&two) })).await.unwrap();
    assert_eq!((pardoned.result, pardoned.entry.state.bad.len()), (Done::Committed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_rollback_in_a_wave_keeps_what_all_others_serve() {
    let bench = Bench::new();
    bench.publish(1).await;
    bench.publish(2).await;
    bench.wave(3, 0, &["a"]).await;
    let (outcome, _) = Box::pin(bench.publisher("on-call").rollback(None, None)).await.unwrap();
    assert_eq!(outcome.entry.state.pin.unwrap().release.snapshot, snapshot(2).id());
}

#[tokio::test(start_paused = true)]
async fn programs_pin_twice_an_hour_and_then_ask_a_person() {
    let bench = Bench::new();
    bench.publish(1).await;
    let one = snapshot(1).id().to_string();
    let halt = async |n: u32, minutes| {
        bench.wave(n, minutes, &["a"]).await;
        Box::pin(bench.publisher_at(minutes).halt_automatically(&snapshot(n).id(), "a: no way")).await
    };
    for (n, minutes) in [(2, 0), (3, 50)] {
        let outcome = halt(n, minutes).await.unwrap();
        assert_eq!(outcome.entry.reason, format!("{AUTOMATIC}a: no way"));
        Box::pin(bench.publisher("on-call").unpin(&one, &[])).await.unwrap();
    }
    assert!(matches!(gate(halt(4, 59).await), Gate::AskPerson { count: 2, .. }));
    let state = bench.state().await;
    assert!(
        state.pin.is_none() && state.candidate.is_some_and(|wave| wave.step == 1),
        "it stands where it is"
    );
    // Another wave took its place while the reports were read.
    let other = Box::pin(bench.publisher_at(200).halt_automatically(&snapshot(9).id(), "x")).await;
    assert!(matches!(gate(other), Gate::OtherCandidate(_)));
    assert!(halt(5, 62).await.is_ok(), "the first one is an hour ago");
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_hold_comes_out_on_demand() {
    let bench = Bench::new();
    bench.publish(1).await;
    let publisher = bench.publisher("ops");
    let hold = Publisher { meta: Meta { reason: "sale".into(), ..publisher.meta.clone() }, ..publisher };
    assert_eq!(Box::pin(hold.hold()).await.unwrap().result, Done::Committed);
    assert_eq!(Box::pin(hold.hold()).await.unwrap().result, Done::Unchanged);
    let outcome = bench.publish(2).await;
    assert!(outcome.warnings.iter().any(|warning| warning.contains("sale")), "{:?}", outcome.warnings);
    assert_eq!(bench.publish(2).await.result, Done::Unchanged);
    assert_eq!(bench.served().await, Some(snapshot(1).id()));
    let lifted = Box::pin(bench.publisher("ops").lift()).await.unwrap();
    assert!(lifted.warnings[0].contains("still waits"), "{:?}", lifted.warnings);
    assert_eq!(bench.served().await, Some(snapshot(1).id()));
    // Nothing stops it any more: publishing the same again lets it out.
    assert_eq!(bench.publish(2).await.result, Done::Committed);
    assert_eq!(bench.served().await, Some(snapshot(2).id()));
    assert!(matches!(gate(Box::pin(bench.publisher("ops").lift()).await), Gate::NotHeld(_)));
}

#[tokio::test(start_paused = true)]
async fn a_floor_forbids_the_past_and_a_retired_fleet_comes_back() {
    let bench = Bench::new();
    for n in 1..=3 {
        bench.publish(n).await;
    }
    assert!(matches!(
        gate(Box::pin(bench.publisher("ops").floor(9, false)).await),
        Gate::FloorAbove { floor: 9, sequence: 3 }
    ));
    let floored = Box::pin(bench.publisher("ops").floor(3, false)).await.unwrap();
    assert_eq!(floored.entry.state.previous_good, None, "relays do not go back behind the floor either");
    let id = snapshot(2).id().to_string();
    let refused = Box::pin(bench.publisher("ops").pin(&id, None)).await.map(|(outcome, _)| outcome);
    assert!(matches!(gate(refused), Gate::BelowFloor { sequence: 2, floor: 3, .. }));
    let none = Box::pin(bench.publisher("ops").rollback(None, None)).await.map(|(outcome, _)| outcome);
    assert!(matches!(gate(none), Gate::NothingBefore(3)));
    assert!(matches!(gate(Box::pin(bench.publisher("ops").floor(1, false)).await), Gate::LowerFloor { .. }));
    Box::pin(bench.publisher("ops").floor(1, true)).await.unwrap();
    let foreign = Box::pin(bench.publisher("ops").retire("watch", Allow::default())).await;
    assert!(matches!(gate(foreign), Gate::OtherWriter { .. }));
    let retired = Box::pin(bench.publisher("ops").retire("publish", Allow::default())).await.unwrap();
    assert_eq!((retired.entry.action, retired.entry.state.effective()), (Action::Retire, Effective::Retired));
    let again = Box::pin(bench.publisher("ops").retire("publish", Allow::default())).await.unwrap();
    assert_eq!(again.result, Done::Unchanged);
    assert_eq!(bench.publish(3).await.result, Done::Committed);
    assert_eq!(bench.served().await, Some(snapshot(3).id()));
}

#[tokio::test(start_paused = true)]
async fn each_namespace_is_compared_with_the_release_before() {
    let bench = Bench::new();
    let counted = |n: u64| {
        let counts = serde_json::json!({"namespaces": {"shop": 1000, "team": n}, "hostnames": {}});
        BTreeMap::from([("counts".to_owned(), counts)])
    };
    let (one, two) = (snapshot(1), snapshot(2));
    let publish = async |offer: Offer<'_>| Box::pin(bench.publisher("ci").publish(&offer)).await;
    publish(Offer { documents: counted(20), ..offer(&one) }).await.unwrap();
    let refused = gate(publish(Offer { documents: counted(0), ..offer(&two) }).await);
    assert!(matches!(&refused, Gate::PartShrunk { what, .. } if what == "namespace team"), "{refused}");
    let allow = Allow { shrink: true, ..Allow::default() };
    let allowed = publish(Offer { documents: counted(0), allow, ..offer(&two) }).await.unwrap();
    assert_eq!(allowed.entry.reason, "[shrink allowed: namespace team: 0 routes after 20]");
    // A release without counts: the total alone is compared, and that is said.
    let three = snapshot(3);
    publish(Offer { allow, ..offer(&three) }).await.unwrap();
    let warned = publish(Offer { documents: counted(1), ..offer(&one) }).await.unwrap();
    assert!(
        warned.warnings.iter().any(|warning| warning.contains("only their total")),
        "{:?}",
        warned.warnings
    );
}

/// A total that stays the same hides one namespace that is gone: in a promotion as in a publish.
#[tokio::test(start_paused = true)]
async fn a_promotion_is_compared_by_namespace_and_hostname_too() {
    let bench = Bench::new();
    let counted = |team: u64, host: u64| {
        let counts = serde_json::json!({
            "namespaces": {"shop": 1000, "team": team}, "hostnames": {"a.example.com": host},
        });
        BTreeMap::from([("counts".to_owned(), counts)])
    };
    let to = |channel: &str| Publisher { reader: bench.reader(channel), ..bench.publisher("ci") };
    let snapshots = [snapshot(1), snapshot(2), snapshot(3), snapshot(4)];
    let publish = async |channel: &str, at: usize, documents| {
        let offer =
            Offer { documents, allow: Allow { shrink: true, ..Allow::default() }, ..offer(&snapshots[at]) };
        Box::pin(to(channel).publish(&offer)).await.unwrap()
    };
    let next = bench.reader("next");
    let promote = async |allow: Allow| Box::pin(to("stable").promote(&next, allow, &[])).await;
    publish("stable", 0, counted(20, 20)).await;
    for (at, counts, lost) in
        [(1, counted(0, 20), "namespace team"), (2, counted(20, 15), "hostname a.example.com")]
    {
        publish("next", at, counts).await;
        let refused = gate(promote(Allow::default()).await);
        assert!(matches!(&refused, Gate::PartShrunk { what, .. } if what == lost), "{refused}");
    }
    publish("next", 3, counted(16, 16)).await;
    let taken = promote(Allow::default()).await.unwrap();
    assert!(taken.warnings.is_empty(), "{:?}", taken.warnings);
    publish("next", 1, counted(0, 16)).await;
    let allowed = promote(Allow { shrink: true, ..Allow::default() }).await.unwrap();
    assert_eq!(allowed.entry.state.target.unwrap().snapshot, snapshot(2).id());
    // Fewer than twenty may go; without counts the total alone is compared, and that is said.
    publish("next", 0, BTreeMap::new()).await;
    let warned = promote(Allow::default()).await.unwrap();
    assert!(
        warned.warnings.iter().any(|warning| warning.contains("only their total")),
        "{:?}",
        warned.warnings
    );
}

#[tokio::test(start_paused = true)]
async fn texts_that_would_burst_an_entry_are_refused_before_anything_is_written() {
    let bench = Bench::new();
    bench.publish(1).await;
    let objects = bench.count().await;
    let two = snapshot(2);
    let publish = async |change: &dyn Fn(&mut Meta), steps: Vec<Step>| {
        let mut publisher = bench.publisher("ci");
        change(&mut publisher.meta);
        Box::pin(publisher.publish(&Offer { steps, ..offer(&two) })).await
    };
    let long = publish(&|meta| meta.reason = "x".repeat(1025), Vec::new()).await;
    assert!(matches!(gate(long), Gate::TooLong { what: "the reason", bytes: 1025, limit: 1024 }));
    let long = publish(&|meta| meta.author = "x".repeat(257), Vec::new()).await;
    assert!(matches!(gate(long), Gate::TooLong { what: "the author", .. }));
    let labels = |n: usize| (0..n).map(|i| (format!("label-{i}"), "x".repeat(100))).collect();
    let wide = |count: usize, each: usize| {
        vec![Step { labels: labels(each), percent: 1, bake_seconds: 1, max_error_percent: None }; count]
    };
    let burst = publish(&|_| {}, wide(16, 16)).await;
    assert!(matches!(gate(burst), Gate::TooLong { limit: moorgate_snapshot::limits::ENTRY_BYTES, .. }));
    assert_eq!(bench.count().await, objects);
    let near = publish(&|_| {}, wide(16, 5)).await.unwrap();
    assert!(near.warnings.iter().any(|warning| warning.contains("near a limit")), "{:?}", near.warnings);
}

/// With git and CI down: a key that may pin and nothing else takes the fleet back and out again.
#[tokio::test(start_paused = true)]
async fn an_on_call_key_rolls_back_and_does_nothing_else() {
    let bench = Bench::new();
    let on_call = key(7);
    let pem = |key: &KeyPair| serde_json::to_string(&key.public().to_pem()).unwrap();
    let file = format!(
        r#"{{"format":1,"keys":[{{"public":{},"roles":["publish"]}},{{"public":{},"roles":["pin"]}}]}}"#,
        pem(&bench.key),
        pem(&on_call),
    );
    let trust = Arc::new(Trust::parse(file.as_bytes()).unwrap());
    let bench = Bench { trust, ..bench };
    for n in 1..=3 {
        bench.publish(n).await;
    }
    let by_hand = || Publisher { signer: &on_call, ..bench.publisher("on-call") };
    Box::pin(by_hand().rollback(None, None)).await.unwrap();
    assert_eq!(bench.served().await, Some(snapshot(2).id()));
    Box::pin(by_hand().unpin(&snapshot(3).id().to_string(), &[])).await.unwrap();
    assert_eq!(bench.served().await, Some(snapshot(3).id()));
    let four = snapshot(4);
    let wave = Box::pin(by_hand().rollback(None, None)).await;
    assert!(wave.is_ok());
    for refused in [
        Box::pin(by_hand().publish(&offer(&four))).await,
        Box::pin(by_hand().hold()).await,
        Box::pin(by_hand().floor(1, false)).await,
        Box::pin(by_hand().retire("publish", Allow::default())).await,
        Box::pin(by_hand().step(true, None)).await,
        Box::pin(by_hand().halt()).await,
        Box::pin(by_hand().unpin(&snapshot(3).id().to_string(), &steps(&["a"])))
            .await
            .map(|(outcome, _)| outcome),
    ] {
        assert!(matches!(gate(refused), Gate::Key(_)));
    }
    assert!(
        !bench.trust.keys().any(|key| key.key.id() == on_call.public().id()
            && key.may(Role::Publish, &shop(), &Channel::stable()))
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_tree_with_another_snapshot_is_the_translators_doing() {
    let bench = Bench::new();
    let source = |tree: &str| {
        Some(Source { repository: "r".into(), revision: "c".into(), tree: tree.into(), committed: None })
    };
    let [one, two, three] = [1, 2, 3].map(snapshot);
    let publish = async |offer: Offer<'_>| Box::pin(bench.publisher("ci").publish(&offer)).await.unwrap();
    let translators =
        |outcome: &Outcome| outcome.warnings.iter().any(|warning| warning.contains("translator"));
    assert!(!translators(&publish(Offer { source: source("t"), ..offer(&one) }).await));
    assert!(translators(&publish(Offer { source: source("t"), ..offer(&two) }).await));
    assert!(!translators(&publish(Offer { source: source("u"), ..offer(&three) }).await));
}
