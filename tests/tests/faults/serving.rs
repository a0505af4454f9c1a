//! What a relay does when its store, its disk, its clock or its Envoy fails.

use super::{Bench, gets, is_page, pass};
use moorgate::publish::Reports;
use moorgate_relay::bind::binder::{Binder, Sources, Wanted};
use moorgate_relay::clock::Clock;
use moorgate_relay::metrics::Metrics;
use moorgate_relay::serve::stream::Event;
use moorgate_relay::serve::types;
use moorgate_snapshot::{Binding, BindingKind, BindingSource, Channel};
use moorgate_tests::certificate::Certificate;
use moorgate_tests::fault_store::{Fault, FaultStore, Kind, Verdict};
use moorgate_tests::sim::pool::{number, pool};
use moorgate_tests::sim::relays::{Running, Setup};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const YEAR: i64 = 365 * 24 * 3600;

#[tokio::test(start_paused = true)]
async fn fault_01_store_down_at_steady_state() {
    let bench = Bench::new();
    bench.publish(1).await;
    let (client, down) = bench.failing(Fault::Error);
    let relay = bench.serving(&client).await;
    down.store(true, Ordering::SeqCst);
    for _ in 0..24 {
        pass(3_600).await;
        assert_eq!(relay.served(), Some(1));
    }
    let status = relay.fleet.status.borrow().clone();
    assert!(status.store.error.is_some());
    assert!(bench.world.unix() - status.store.answered.unwrap() >= 23 * 3_600, "its age does not grow");
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_02_store_down_and_the_relay_restarts() {
    let bench = Bench::new();
    bench.publish(1).await;
    bench.serving(&bench.calm()).await.stop().await;
    let (client, down) = bench.failing(Fault::Error);
    down.store(true, Ordering::SeqCst);
    let relay = bench.relay(&client);
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!((relay.served(), relay.sequence()), (Some(1), 1));
    let view = relay.fleet.hub.view().unwrap();
    bench.world.judge(|monitor| monitor.serves("relay-a", &Channel::stable(), &view));
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_03_store_down_and_nothing_on_disk() {
    let bench = Bench::new();
    bench.publish(1).await;
    let (client, down) = bench.failing(Fault::Error);
    down.store(true, Ordering::SeqCst);
    let relay = bench.relay(&client);
    pass(600).await;
    // Not even an empty set: Envoy keeps asking, and readiness says why.
    assert!(relay.fleet.hub.view().is_none());
    assert!(relay.fleet.status.borrow().store.error.is_some());
    down.store(false, Ordering::SeqCst);
    pass(74).await;
    assert_eq!(relay.served(), Some(1));
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_04_a_store_that_stalls() {
    let bench = Bench::new();
    bench.publish(0).await;
    let (client, stalls) = bench.failing_for(Fault::Stall, gets);
    let relay = bench.serving(&client).await;
    stalls.store(true, Ordering::SeqCst);
    bench.publish(1).await;
    pass(40).await;
    // A cycle has a deadline of its own, and what is served does not wait for it.
    assert!(relay.refusals("deadline") >= 1.0);
    assert_eq!(relay.served(), Some(0));
    stalls.store(false, Ordering::SeqCst);
    pass(40 + 74).await;
    assert_eq!(relay.served(), Some(1));
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_05_errors_are_retried_ever_more_slowly() {
    let bench = Bench::new();
    bench.publish(1).await;
    for fault in [Fault::Error, Fault::SlowDown] {
        let (client, down) = bench.failing(fault);
        let relay = bench.serving(&client).await;
        down.store(true, Ordering::SeqCst);
        let before = client.requests();
        pass(3_600).await;
        let asked = client.requests() - before;
        // Full jitter below a minute: one try in half a minute or so, and not one in five seconds.
        assert!((60..300).contains(&asked), "{asked} requests in an hour");
        assert_eq!(relay.served(), Some(1));
        relay.stop().await;
    }
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_08_denied_serves_on_with_an_alarm_of_its_own() {
    let bench = Bench::new();
    bench.publish(1).await;
    let (client, denied) = bench.failing(Fault::Denied);
    let relay = bench.serving(&client).await;
    denied.store(true, Ordering::SeqCst);
    pass(300).await;
    assert_eq!(relay.served(), Some(1));
    assert!(relay.refusals("store_denied") >= 1.0, "no alarm of its own");
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_12_a_damaged_cache_gives_an_older_generation() {
    let bench = Bench::new();
    bench.publish(1).await;
    let relay = bench.serving(&bench.calm()).await;
    relay.envoy.report(Event::Synced { snapshot: pool()[1].snapshot.id() });
    pass(1).await;
    bench.publish(3).await;
    pass(65).await;
    assert_eq!(relay.served(), Some(3));
    relay.envoy.report(Event::Synced { snapshot: pool()[3].snapshot.id() });
    pass(1).await;
    relay.stop().await;
    let newest = pool()[3].snapshot.id().to_string();
    flip(&find(&bench.folder.path().join("relay-a"), &newest));
    let (client, down) = bench.failing(Fault::Error);
    down.store(true, Ordering::SeqCst);
    let relay = bench.relay(&client);
    pass(1).await;
    assert_eq!(relay.served(), Some(1), "not what was damaged, and not nothing");
    down.store(false, Ordering::SeqCst);
    pass(74).await;
    assert_eq!(relay.served(), Some(3));
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_16_freeze_is_an_alarm_and_no_end() {
    let bench = Bench::new();
    // Entries of the bench run out after an hour.
    bench.publish(1).await;
    let relay = bench.serving(&bench.calm()).await;
    assert!(!relay.fleet.status.borrow().expired);
    pass(3_700).await;
    assert!(relay.fleet.status.borrow().expired, "no alarm");
    assert_eq!(relay.served(), Some(1));
    bench.publish(3).await;
    pass(65).await;
    assert!(!relay.fleet.status.borrow().expired);
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_17_a_clock_that_jumps() {
    let bench = Bench::new();
    bench.publish(1).await;
    let off = Arc::new(AtomicI64::new(0));
    let (world, shown) = (Arc::downgrade(&bench.world), Arc::clone(&off));
    let now = move || world.upgrade().map_or(0, |world| world.unix()) + shown.load(Ordering::SeqCst);
    let setup = Setup { clock: Clock::new(now), ..Setup::new(&bench.world, "relay-a", true) };
    let relay = Running::start(&bench.world, &bench.calm(), setup);
    pass(6).await;
    for (year, alarm, published) in [(YEAR, true, 3), (-YEAR, false, 5), (0, false, 7)] {
        off.store(year, Ordering::SeqCst);
        pass(10).await;
        assert_eq!(relay.fleet.status.borrow().expired, alarm);
        assert!(relay.served().is_some());
        bench.publish(published).await;
        pass(65).await;
        assert_eq!(relay.served(), Some(published), "a clock decides nothing");
    }
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_21_power_loss_while_the_cache_is_written() {
    let bench = Bench::new();
    bench.publish(1).await;
    bench.serving(&bench.calm()).await.stop().await;
    let cache = bench.folder.path().join("relay-a");
    let state = find(&cache, "state");
    let before = std::fs::read(&state).unwrap();
    // A state half written, and the one before beside it: as after a crash on a disk that does not keep order.
    std::fs::write(state.with_file_name("state.previous"), &before).unwrap();
    std::fs::write(&state, &before[..before.len() / 2]).unwrap();
    std::fs::write(state.with_file_name("writing"), b"half of a pa").unwrap();
    let (client, down) = bench.failing(Fault::Error);
    down.store(true, Ordering::SeqCst);
    let relay = bench.relay(&client);
    pass(1).await;
    assert_eq!((relay.served(), relay.sequence()), (Some(1), 1));
    down.store(false, Ordering::SeqCst);
    bench.publish(3).await;
    pass(74).await;
    assert_eq!(relay.served(), Some(3));
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_22_a_disk_that_takes_nothing() {
    let bench = Bench::new();
    bench.publish(1).await;
    bench.serving(&bench.calm()).await.stop().await;
    let relay = bench.serving(&bench.calm()).await;
    // Every write fails from now on, whoever runs the test.
    let beside = find(&bench.folder.path().join("relay-a"), "state").with_file_name("writing");
    std::fs::create_dir(&beside).unwrap();
    bench.publish(3).await;
    pass(74).await;
    assert_eq!(relay.served(), Some(3), "served from memory");
    assert_eq!(relay.fleet.status.borrow().cache, "degraded");
    assert_eq!(relay.metrics.get("moorgate_relay_cache_degraded", &[("fleet", "shop/edge")]), Some(1.0));
    // And so is what comes while the disk is known to fail.
    bench.publish(5).await;
    pass(74).await;
    assert_eq!(relay.served(), Some(5), "served from memory");
    relay.stop().await;
    // What was served before is still there.
    let (client, down) = bench.failing(Fault::Error);
    down.store(true, Ordering::SeqCst);
    let relay = bench.relay(&client);
    pass(1).await;
    assert_eq!(relay.served(), Some(1));
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_26_a_page_is_missing() {
    let bench = Bench::new();
    bench.publish(0).await;
    let (client, missing) = bench
        .failing_for(Fault::Stale, |operation| is_page(operation) || operation.path.contains("/bundles/"));
    let relay = bench.serving(&client).await;
    missing.store(true, Ordering::SeqCst);
    bench.publish(1).await;
    pass(25).await;
    assert_eq!((relay.served(), relay.sequence()), (Some(0), 2), "the last good one stays");
    let error = relay.fleet.status.borrow().store.error.clone().unwrap_or_default();
    assert!(error.contains("/pages/") && error.contains("missing"), "{error}");
    assert!(relay.refusals("missing") >= 1.0);
    missing.store(false, Ordering::SeqCst);
    pass(74).await;
    assert_eq!(relay.served(), Some(1), "it is tried again");
    relay.stop().await;
    bench.close();
}

#[tokio::test(start_paused = true)]
async fn fault_29_envoy_refuses_one_type() {
    let bench = Bench::new();
    bench.publish(1).await;
    let report_key = Some(Arc::clone(&bench.world.keys.reporter));
    let setup = Setup { report_key, ..Setup::new(&bench.world, "relay-a", true) };
    let relay = Running::start(&bench.world, &bench.calm(), setup);
    pass(6).await;
    let [good, bad] = [1, 3].map(|number: usize| pool()[number].snapshot.id());
    relay.envoy.report(Event::Synced { snapshot: good });
    pass(1).await;
    bench.publish(3).await;
    pass(65).await;
    assert_eq!(relay.served(), Some(3));
    let text = "no such cluster".to_owned();
    let type_url = types::CLUSTER.into();
    relay.envoy.report(Event::Refused { type_url, snapshot: bad, text: text.clone(), names: Vec::new() });
    pass(1).await;
    let view = relay.fleet.hub.view().unwrap();
    assert_eq!(number(&view.config.id), Some(1), "the whole set of before");
    bench.world.judge(|monitor| monitor.serves("relay-a", &Channel::stable(), &view));
    let status = relay.fleet.status.borrow().clone();
    assert!(format!("{:?}", status.quarantined.get(&bad)).contains(&text), "{:?}", status.quarantined);
    // And whoever publishes can read it.
    pass(2).await;
    let reports = Reports::read(&bench.world.reader(&bench.calm(), &Channel::stable())).await.unwrap();
    let [reported] = &reports.relays[..] else { panic!("{reports:?}") };
    assert_eq!((&reported.untrusted, reported.report.snapshot), (&None, Some(good)));
    assert!(reported.report.refused[&bad].contains(&text), "{:?}", reported.report.refused);
    relay.stop().await;
    // A restart does not forget it.
    let relay = bench.relay(&bench.calm());
    pass(70).await;
    assert_eq!(relay.served(), Some(1));
    relay.stop().await;
    bench.close();
}

/// A thousand relays start at once, and again find a store that was away.
#[tokio::test(start_paused = true)]
async fn fault_32_a_thousand_relays_at_once() {
    const RELAYS: u64 = 1_000;
    let bench = Bench::new();
    bench.publish(0).await;
    let (down, seconds) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new(Vec::new())));
    let start = tokio::time::Instant::now();
    let client = |number: u64| {
        let (down, seconds) = (Arc::clone(&down), Arc::clone(&seconds));
        let client = FaultStore::new(&bench.world.bucket, move |_| {
            seconds.lock().unwrap().push(start.elapsed().as_secs());
            let fault = down.load(Ordering::SeqCst).then_some(Fault::Error);
            Verdict { wait: Duration::from_millis(20), fault }
        });
        let name = format!("relay-{number}");
        Running::start(
            &bench.world,
            &client,
            Setup { seed: number, ..Setup::new(&bench.world, &name, false) },
        )
    };
    let relays: Vec<Running> = (0..RELAYS).map(client).collect();
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    assert!(relays.iter().all(|relay| relay.served() == Some(0)));
    // Two documents of trust, head, the entry behind it, manifest; and the head again, if the next poll has come.
    assert!(relays.iter().all(|relay| relay.client.requests() <= 7), "a cold start asks for too much");
    down.store(true, Ordering::SeqCst);
    pass(900).await;
    down.store(false, Ordering::SeqCst);
    seconds.lock().unwrap().clear();
    pass(70).await;
    let all = seconds.lock().unwrap().clone();
    let busiest = (0..2_000).map(|second| all.iter().filter(|at| **at == second).count()).max().unwrap();
    assert!(busiest < 500, "{busiest} requests in one second, of {}", all.len());
    for relay in relays {
        assert_eq!((relay.served(), relay.client.count(Kind::List)), (Some(0), 0));
        relay.stop().await;
    }
    bench.close();
}

#[tokio::test]
async fn fault_33_a_bad_secret_costs_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let lay = |name: &str, certificate: &str, key: &str| {
        let folder = folder.path().join("shop").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("tls.crt"), certificate).unwrap();
        std::fs::write(folder.join("tls.key"), key).unwrap();
    };
    let [one, two] = ["one.example", "two.example"].map(|host| Certificate::for_names(&[host]).unwrap());
    lay("good", &one.certificate, &one.key);
    lay("mismatched", &one.certificate, &two.key);
    let binding = |name: &str| Binding {
        kind: BindingKind::Secret,
        name: name.into(),
        source: BindingSource::Object { kind: "Secret".into(), namespace: "shop".into(), name: name.into() },
    };
    let bindings = Arc::new(["good", "mismatched", "missing"].map(binding).to_vec());
    let sources = Sources { secrets: Some(folder.path().to_owned()), ..Sources::default() };
    let binder = Binder::new("shop/edge".into(), sources, None, Arc::new(Metrics::default()));
    let (wanted, wanted_in) = watch::channel(Wanted { generation: 1, bindings });
    let (out, mut bound) = watch::channel(Binder::nothing());
    let stop = CancellationToken::new();
    let task = tokio::spawn(binder.run(wanted_in, out, stop.clone()));
    let first = bound.wait_for(|bound| bound.generation == 1).await.unwrap().clone();
    let names = |set: &moorgate_relay::serve::view::TypeSet| {
        set.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&first.secrets), ["good"]);
    let version = first.secrets.get("good").unwrap().version().clone();
    // What was good and goes bad is served as it was.
    lay("good", &two.certificate, &one.key);
    wanted.send_modify(|wanted| wanted.generation = 2);
    let second = bound.wait_for(|bound| bound.generation == 2).await.unwrap().clone();
    assert_eq!(*second.secrets.get("good").unwrap().version(), version);
    assert!(second.report.secrets.iter().any(|secret| secret.state == "last-good"));
    stop.cancel();
    task.await.unwrap();
}

/// The file or folder of this name below a folder.
fn find(below: &Path, name: &str) -> PathBuf {
    let mut folders = vec![below.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().is_some_and(|found| found == name) {
                return path;
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    panic!("no {name} below {}", below.display());
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
