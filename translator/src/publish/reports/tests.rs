use super::*;
use moorgate_snapshot::channel::{Release, Step};
use moorgate_snapshot::report::{EnvoyReport, FORMAT, Nack};
use moorgate_snapshot::{FleetName, TrustError};
use std::collections::BTreeMap;

fn new() -> Digest {
    Digest::of(b"new")
}

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap()
}

/// A relay of zone eu-1 with two Envoys that serves the new snapshot, and well.
fn relay(name: &str) -> Reported {
    let report = Report {
        format: FORMAT,
        fleet: FleetName::gateway("shop", "edge"),
        channel: Channel::stable(),
        relay: name.parse().unwrap(),
        labels: BTreeMap::from([("zone".into(), "eu-1".into())]),
        time: now(),
        interval_seconds: 300,
        version: "0.1.0".into(),
        features: Vec::new(),
        sequence: 2,
        entry: None,
        snapshot: Some(new()),
        because: "wave".into(),
        since: None,
        retired: false,
        left: false,
        refused: BTreeMap::new(),
        envoys_connected: 2,
        envoys_acked: 2,
        envoys: Vec::new(),
        healthy: Some(true),
        secrets: Vec::new(),
        store_error: String::new(),
    };
    Reported { report, untrusted: None }
}

fn change(name: &str, change: impl Fn(&mut Reported)) -> Reported {
    let mut reported = relay(name);
    change(&mut reported);
    reported
}

fn refuses(name: &str) -> Reported {
    change(name, |relay| {
        relay.report.snapshot = Some(Digest::of(b"old"));
        relay.report.refused.insert(new(), "too many 5xx".into());
    })
}

fn nacks(reported: &mut Reported, of: Option<Digest>) {
    let nack = Nack { snapshot: of, type_url: "type.googleapis.com/Listener".into(), text: "no".into() };
    reported.report.envoys.push(EnvoyReport { node: "e1".into(), acked: None, nack: Some(nack) });
}

fn candidate(steps: &[&str], done: u32) -> Candidate {
    let step = |labels: &&str| Step {
        labels: labels.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).into_iter().collect(),
        percent: 100,
        bake_seconds: 300,
        max_error_percent: None,
    };
    let release = Release::new(new(), 2, now());
    Candidate { release, step: done, steps: steps.iter().map(step).collect(), since: Some(now()) }
}

fn word(candidate: &Candidate, relays: Vec<Reported>) -> String {
    let reports = Reports { relays, unreadable: Vec::new() };
    match judge(candidate, &Channel::stable(), &reports, now()) {
        Verdict::Ready(progress) => format!("ready {}", progress.live),
        Verdict::Pending(progress) => format!("pending: {}", progress.missing(1)),
        Verdict::Halt(why) => format!("halt: {why}"),
    }
}

#[test]
fn a_step_is_ready_when_all_of_its_relays_are_well() {
    let first = candidate(&["relay=a", "zone=eu-1"], 1);
    let old = |name: &str| change(name, |relay| relay.report.snapshot = Some(Digest::of(b"old")));
    let lazy = |name: &str| change(name, |relay| relay.report.envoys_acked = 1);
    let silent = change("a", |relay| relay.report.time -= time::Duration::seconds(700));
    let gone = change("b", |relay| relay.report.time -= time::Duration::hours(2));
    let forged = change("a", |relay| relay.untrusted = Some(TrustError::UnknownKey("x".into())));
    let other = change("b", |relay| relay.report.channel = "next".parse().unwrap());
    let empty = change("a", |relay| {
        relay.report.envoys_acked = 0;
        relay.report.envoys_connected = 0;
    });
    let last = candidate(&["relay=a", "zone=eu-1"], 2);
    for (wave, relays, expected) in [
        (&first, vec![relay("a")], "ready 1"),
        // Others do not count yet.
        (&first, vec![relay("a"), old("b")], "ready 1"),
        (&last, vec![relay("a"), old("b")], "pending: b: serves "),
        (&last, vec![relay("a"), relay("b")], "ready 2"),
        (&last, vec![relay("a"), gone, other], "ready 1"),
        (&first, vec![old("a")], "pending: a: serves "),
        (&first, vec![lazy("a")], "pending: a: 1 of 2 Envoys"),
        (&first, vec![silent], "pending: a: silent for 11 min"),
        (&first, vec![forged], "pending: a: its report is not believed"),
        // A typo in a label must not make a wave without a canary.
        (&first, vec![old("b")], "pending: no relay that reports: has the labels of this step"),
        (&first, vec![], "pending: no relay: reports"),
        (&first, vec![empty.clone()], "ready 1"),
        (&last, vec![empty], "pending: no Envoy: has acknowledged"),
    ] {
        let found = word(wave, relays.clone());
        assert!(found.starts_with(expected), "{found}, not {expected}: {relays:?}");
    }
}

#[test]
fn a_share_that_selects_nobody_passes() {
    let mut wave = candidate(&["", ""], 1);
    wave.steps[0].percent = 1;
    // Whether this one relay is in the first percent follows from its name: find one that is not.
    let outside = (0..100)
        .map(|n| format!("r{n}"))
        .find(|name| !wave.taken_by(&relay(name).report.identity().unwrap(), &Channel::stable()));
    assert_eq!(word(&wave, vec![relay(&outside.unwrap())]), "ready 0");
}

#[test]
fn unknown_health_is_not_health_where_a_step_has_a_bound() {
    let unknown = || change("u", |relay| relay.report.healthy = None);
    let mut wave = candidate(&["zone=eu-1"], 1);
    assert_eq!(word(&wave, vec![unknown()]), "ready 1");
    wave.steps[0].max_error_percent = Some(2);
    let found = word(&wave, vec![unknown()]);
    assert!(found.starts_with("pending: u: it is not known how its Envoys answer"), "{found}");
    assert_eq!(word(&wave, vec![relay("a")]), "ready 1");
}

#[test]
fn a_relay_without_envoys_keeps_no_bounded_step_back() {
    let idle = |name: &str| {
        change(name, |relay| {
            (relay.report.envoys_connected, relay.report.envoys_acked) = (0, 0);
            relay.report.healthy = None;
        })
    };
    let mut wave = candidate(&["zone=eu-1"], 1);
    wave.steps[0].max_error_percent = Some(2);
    assert_eq!(word(&wave, vec![relay("a"), idle("i")]), "ready 2");
    // Alone they show nothing.
    let found = word(&wave, vec![idle("i"), idle("j")]);
    assert!(found.starts_with("pending: no Envoy: has acknowledged"), "{found}");
}

#[test]
fn who_has_left_is_not_waited_for() {
    let left = |name: &str| {
        change(name, |relay| {
            relay.report.left = true;
            relay.report.snapshot = Some(Digest::of(b"old"));
            (relay.report.envoys_connected, relay.report.envoys_acked) = (0, 0);
        })
    };
    let wave = candidate(&["zone=eu-1"], 1);
    let progress = |relays: Vec<Reported>| {
        let reports = Reports { relays, unreadable: Vec::new() };
        reports.progress(&new(), &Channel::stable(), now(), GONE_AFTER, None)
    };
    assert_eq!(word(&wave, vec![relay("a"), left("b")]), "ready 1");
    let found = progress(vec![relay("a"), left("b")]);
    assert_eq!((found.live, found.expected), (1, 1));
    assert!(found.reached(100));
    // Of nobody no share is live.
    assert_eq!(word(&wave, vec![left("b")]), "pending: no relay: reports");
    assert!(!progress(vec![left("b")]).reached(1));
    // Nobody signed it: that would move a wave on.
    let forged = || {
        let mut forged = left("b");
        forged.untrusted = Some(TrustError::UnknownKey("x".into()));
        forged
    };
    assert!(word(&wave, vec![relay("a"), forged()]).starts_with("pending: b: "));
    assert!(!progress(vec![relay("a"), forged()]).reached(100));
    // What it refused stays refused.
    let mut refused = left("b");
    refused.report.refused.insert(new(), "too many 5xx".into());
    let mut more = refused.clone();
    more.report.relay = "c".parse().unwrap();
    assert!(word(&wave, vec![relay("a"), refused.clone(), more]).starts_with("halt: b: too many"));
    assert_eq!(progress(vec![relay("a"), refused]).refused.len(), 1);
    // Nor is a feature missing that it lacked.
    let reports = Reports { relays: vec![left("b")], unreadable: Vec::new() };
    assert_eq!(reports.lacking(&["new".into()], now()), None);
}

#[test]
fn harm_halts_and_one_of_many_has_no_veto() {
    let wave = candidate(&["zone=eu-1"], 1);
    let well = |count: usize| (0..count).map(|n| relay(&format!("w{n}")));
    let with = |count: usize, bad: Vec<Reported>| well(count).chain(bad).collect::<Vec<_>>();
    let nack = change("n", |relay| nacks(relay, Some(new())));
    assert_eq!(
        word(&wave, with(50, vec![nack])),
        "halt: n: Envoy e1 refuses type.googleapis.com/Listener: no"
    );
    // Of an endpoint set or another snapshot: not the candidate's fault.
    for of in [None, Some(Digest::of(b"old"))] {
        assert_eq!(word(&wave, vec![change("n", |relay| nacks(relay, of))]), "ready 1");
    }
    let unwell = change("u", |relay| relay.report.healthy = Some(false));
    assert!(word(&wave, with(50, vec![unwell])).starts_with("halt: u: its Envoys answer"));
    assert_eq!(word(&wave, vec![refuses("r")]), "halt: r: too many 5xx");
    assert_eq!(word(&wave, with(9, vec![refuses("r")])), "pending: r: too many 5xx");
    assert!(word(&wave, with(8, vec![refuses("r"), refuses("s")])).starts_with("halt: r:"));
    let three: Vec<_> = ["r", "s", "t"].map(refuses).into();
    assert!(word(&wave, with(147, three.clone())).starts_with("pending"), "3 of 150 are 2 %");
    assert!(word(&wave, with(140, three)).starts_with("halt"));
    // Nobody signed it: it may halt.
    let forged = change("n", |relay| {
        nacks(relay, Some(new()));
        relay.untrusted = Some(TrustError::UnknownKey("x".into()));
    });
    assert!(word(&wave, with(3, vec![forged])).starts_with("halt"));
}

#[test]
fn progress_counts_who_is_live_and_names_the_others() {
    let reports = Reports {
        relays: vec![relay("a"), refuses("b"), change("c", |relay| relay.report.envoys_acked = 0)],
        unreadable: Vec::new(),
    };
    let progress = |relays| reports.progress(&new(), &Channel::stable(), now(), GONE_AFTER, relays);
    let found = progress(None);
    assert_eq!((found.live, found.expected, found.acked), (1, 3, 2));
    assert_eq!((found.refused.len(), found.laggards.len()), (1, 1));
    assert!(!found.reached(34) && found.reached(33));
    // Two of three can still be live, and not all.
    assert!(found.hopeless(100) && !found.hopeless(66));
    let nobody = Progress::default();
    assert!(!nobody.reached(1) && !nobody.hopeless(100), "of no relays no share is live");
    assert_eq!(progress(Some(10)).expected, 10);
    assert_eq!(progress(Some(1)).expected, 3);
}

#[test]
fn relays_that_lack_a_feature_are_named() {
    let with = |name: &str, feature: &str| change(name, |relay| relay.report.features = vec![feature.into()]);
    let forged = change("f", |relay| relay.untrusted = Some(TrustError::UnknownKey("x".into())));
    let reports = Reports { relays: vec![with("a", "new"), with("b", "old"), forged], unreadable: vec![] };
    assert_eq!(reports.lacking(&["new".into()], now()), Some(("b".into(), "new".into())));
    assert_eq!(reports.lacking(&["new".into()], now() + time::Duration::hours(2)), None, "gone");
    let plain = change("p", |relay| relay.report.features = moorgate_snapshot::report::understood());
    let own = ["manifest/1".to_owned(), "entry/1".to_owned()];
    assert_eq!(Reports { relays: vec![plain], unreadable: vec![] }.lacking(&own, now()), None);
    let reports = Reports { relays: vec![with("a", "new")], unreadable: vec![] };
    assert_eq!(reports.lacking(&["new".into()], now()), None);
}
