use super::*;

fn hub() -> (Arc<Hub>, mpsc::UnboundedReceiver<Notice>) {
    Hub::new(FleetName::gateway("shop", "edge"), Settings::default(), Arc::default())
}

fn envoy(hub: &Arc<Hub>, node: &str) -> Session {
    let session = hub.connect("test".into(), Protocol::Delta);
    session.meet(&Node { id: node.into(), ..Node::default() });
    session
}

fn refused(snapshot: Digest, type_url: &str) -> Event {
    Event::Refused { type_url: type_url.into(), snapshot, text: "no".into(), names: vec![] }
}

#[test]
fn a_refusal_of_what_nobody_took_withdraws_the_snapshot() {
    let (hub, mut notices) = hub();
    let (a, snapshot) = (envoy(&hub, "a"), Digest::of(b"s"));
    a.report(refused(snapshot, types::LISTENER));
    let notice = notices.try_recv().unwrap();
    assert!(matches!(notice, Notice::Refused { snapshot: s, kind: "LDS", .. } if s == snapshot));
}

#[test]
fn one_envoy_has_no_veto_and_is_remembered() {
    let (hub, mut notices) = hub();
    let (a, b, snapshot) = (envoy(&hub, "a"), envoy(&hub, "b"), Digest::of(b"s"));
    b.report(Event::Acked { type_url: types::LISTENER.into(), snapshot });
    a.report(refused(snapshot, types::LISTENER));
    assert_eq!(notices.try_recv(), Ok(Notice::SetBack { node: "a".into(), snapshot }));
    assert!(notices.try_recv().is_err(), "the snapshot stays");
    drop(a);
    let again = hub.connect("test".into(), Protocol::Delta);
    let node = Node { id: "a".into(), ..Node::default() };
    assert_eq!(again.meet(&node), Some(snapshot));
    hub.forgive();
    assert_eq!(again.meet(&node), None);
}

#[test]
fn an_envoy_that_is_too_old_is_told_apart_and_nobody_else() {
    let (hub, _notices) = hub();
    let (old, new) = (Digest::of(b"old"), Digest::of(b"new"));
    hub.need([(old, "1.38"), (new, "1.40"), (Digest::of(b"odd"), "x")].into_iter());
    let client = |agent: &str, minor| {
        use super::super::proto::{BuildVersion, SemanticVersion};
        let session = hub.connect("test".into(), Protocol::Delta);
        let version = Some(SemanticVersion { major: 1, minor, patch: 9 });
        let user_agent_build_version = Some(BuildVersion { version });
        session.meet(&Node {
            id: "n".into(),
            user_agent_name: agent.into(),
            user_agent_build_version,
            ..Node::default()
        });
        session
    };
    let envoy = client("envoy", 39);
    assert!(envoy.is_too_old(&new) && hub.clients()[0].unfit.as_deref().unwrap().contains("Envoy 1.40"));
    assert!(!envoy.is_too_old(&old) && hub.clients()[0].unfit.is_none());
    assert!(!envoy.is_too_old(&Digest::of(b"odd")));
    assert!(!client("envoy", 40).is_too_old(&new));
    assert!(!client("grpc-go", 1).is_too_old(&new), "versions of other programs say nothing");
}

#[test]
fn words_of_clients_mean_nothing_to_a_terminal() {
    assert_eq!(clip("a\u{1b}[2Jb\n\u{202e}c"), "a [2Jb  c");
    let (hub, mut notices) = hub();
    let event = Event::Refused {
        type_url: types::CLUSTER.into(),
        snapshot: Digest::of(b"s"),
        text: "no\r\n2026 INFO all is fine".into(),
        names: vec![],
    };
    envoy(&hub, "a").report(event);
    let Ok(Notice::Refused { text, .. }) = notices.try_recv() else { panic!("no notice") };
    assert_eq!(text, "no  2026 INFO all is fine");
}

#[test]
fn a_refused_value_is_not_the_snapshots_fault() {
    let (hub, mut notices) = hub();
    let a = envoy(&hub, "a");
    a.report(refused(Digest::of(b"s"), types::SECRET));
    assert!(notices.try_recv().is_err());
    assert_eq!(hub.clients()[0].types["SDS"].nack.as_deref(), Some("no"));
    drop(a);
    assert!(hub.clients().is_empty());
}

/// A thousand Envoys that take a snapshot say it once, and again when it may matter again.
#[test]
fn that_a_snapshot_is_taken_is_told_once() {
    let (hub, mut notices) = hub();
    let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
    let sessions: Vec<Session> = (0..1_000).map(|n| envoy(&hub, &format!("e{n}"))).collect();
    let mut told = |snapshot: Digest| {
        sessions.iter().for_each(|session| session.report(Event::Synced { snapshot }));
        std::iter::from_fn(|| notices.try_recv().ok()).collect::<Vec<_>>()
    };
    let notice = |snapshot| vec![Notice::Synced { snapshot }];
    assert_eq!(told(one), notice(one));
    assert_eq!(told(one), []);
    assert_eq!(told(other), notice(other));
    assert_eq!(told(one), notice(one), "it is the newest good one again");
    hub.forgive();
    assert_eq!(told(one), notice(one));
    assert!(hub.is_synced(&one));
}

/// What a rate limit service takes or refuses: its own word about limits, and none about what Envoys take.
#[test]
fn a_rate_limit_service_speaks_of_limits_only() {
    let (hub, mut notices) = hub();
    let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
    let (service, proxy) = (envoy(&hub, "limits"), envoy(&hub, "proxy"));
    service.report(Event::Limits { snapshot: first });
    assert_eq!((hub.envoys(Some(&first)), hub.is_synced(&first)), ((2, 1), false));
    assert!(notices.try_recv().is_err());
    proxy.report(Event::Synced { snapshot: first });
    assert_eq!((hub.envoys(Some(&first)), hub.is_synced(&first)), ((2, 2), true));
    assert_eq!(notices.try_recv().unwrap(), Notice::Synced { snapshot: first });
    // An Envoy took all that Envoys are sent; the limits are as bad as before.
    proxy.report(Event::Synced { snapshot: second });
    let _ = notices.try_recv();
    service.report(refused(second, types::RATE_LIMIT));
    assert!(matches!(notices.try_recv(), Ok(Notice::Refused { snapshot, .. }) if snapshot == second));
}
