//! Delta: subscriptions, answers, resumption.

use super::super::super::proto::{DeltaDiscoveryRequest, Node};
use super::super::model::*;
use super::super::{Protocol, Settings, Stream, Violation};
use std::sync::Arc;
use std::time::Instant;

const TWO: &[Entry<'_>] = &[(CDS, "a", "1"), (CDS, "b", "1"), (RDS, "r", "1"), (RDS, "s", "1")];

fn bench() -> Bench {
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(view(TWO));
    bench
}

#[test]
fn node_first_only() {
    let mut stream = Stream::new(Protocol::Delta, None, Arc::new(Settings::default()));
    let request = |node| DeltaDiscoveryRequest { node, type_url: CDS.into(), ..Default::default() };
    assert_eq!(stream.delta(request(None), Instant::now()), Err(Violation::NodeMissing));
    assert_eq!(stream.delta(request(Some(Node::default())), Instant::now()), Err(Violation::NodeMissing));
    let node = Node { id: "n".into(), ..Node::default() };
    assert_eq!(stream.delta(request(Some(node)), Instant::now()), Ok(()));
    assert_eq!(stream.delta(request(None), Instant::now()), Ok(()));
}

#[test]
fn node_changed() {
    let mut stream = Stream::new(Protocol::Delta, None, Arc::new(Settings::default()));
    for id in ["first", "second"] {
        let node = Some(Node { id: id.into(), ..Node::default() });
        let request = DeltaDiscoveryRequest { node, type_url: CDS.into(), ..Default::default() };
        stream.delta(request, Instant::now()).unwrap();
    }
    assert_eq!(stream.node().unwrap().id, "first");
}

#[test]
fn a_service_of_one_type_serves_no_other_and_ads_needs_a_type() {
    let node = Some(Node { id: "n".into(), ..Node::default() });
    let request = |type_url: &str| DeltaDiscoveryRequest {
        node: node.clone(),
        type_url: type_url.into(),
        ..Default::default()
    };
    let settings = Arc::new(Settings::default());
    let mut only = Stream::new(Protocol::Delta, Some(CDS.into()), Arc::clone(&settings));
    assert_eq!(only.delta(request(""), Instant::now()), Ok(()));
    assert_eq!(only.delta(request(LDS), Instant::now()), Err(Violation::WrongType(CDS.into())));
    let mut all = Stream::new(Protocol::Delta, None, settings);
    assert_eq!(all.delta(request(""), Instant::now()), Err(Violation::TypeMissing));
}

#[test]
fn limits_hold() {
    let settings = Arc::new(Settings { max_names: 10, ..Settings::default() });
    let mut stream = Stream::new(Protocol::Delta, None, settings);
    let ask = |names: Vec<String>, type_url: &str| DeltaDiscoveryRequest {
        node: Some(Node { id: "n".into(), ..Node::default() }),
        type_url: type_url.into(),
        resource_names_subscribe: names,
        ..Default::default()
    };
    let now = Instant::now();
    assert_eq!(stream.delta(ask(vec!["x".repeat(17_000)], RDS), now), Err(Violation::TooMuch("a name")));
    let many = (0..11).map(|n| n.to_string()).collect();
    assert_eq!(stream.delta(ask(many, RDS), now), Err(Violation::TooMuch("names")));
    let mut stream = Stream::new(Protocol::Delta, None, Arc::new(Settings::default()));
    let results: Vec<_> = (0..40).map(|n| stream.delta(ask(vec![], &format!("t{n}")), now)).collect();
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 8);
}

#[test]
fn nothing_is_answered_before_there_is_a_view() {
    let mut bench = Bench::new(Protocol::Delta);
    assert!(bench.ask(CDS, &[]).is_empty());
    assert_eq!(shown(&bench.serve(view(TWO))), ["CDS +a +b"]);
}

/// The delta examples of the protocol page; those of state of the world stand in `world`.
#[test]
fn wildcard_legacy_vs_star() {
    let changed = |version: &'static str| view(&[(CDS, "a", version), (CDS, "b", version)]);
    // Nothing named is all; a name beside it leaves it be; without the star the name stays.
    let mut one = bench();
    assert_eq!(shown(&one.ask(CDS, &[])), ["CDS +a +b"]);
    one.ack(CDS);
    one.ask(CDS, &["a"]);
    one.ack(CDS);
    assert_eq!(shown(&one.serve(changed("2"))), ["CDS +a +b"]);
    one.ack(CDS);
    assert!(one.drop_names(CDS, &["*"]).is_empty());
    assert_eq!(shown(&one.serve(changed("3"))), ["CDS +a"]);
    // Nothing named is all; all and a name, less the name, is all.
    let mut two = bench();
    two.ask(CDS, &[]);
    two.ack(CDS);
    two.ask(CDS, &["a"]);
    two.ack(CDS);
    assert_eq!(shown(&two.drop_names(CDS, &["a"])), ["CDS +a"], "it must be told whether the star covers it");
    two.ack(CDS);
    assert_eq!(shown(&two.serve(changed("2"))), ["CDS +a +b"]);
    // A name, less that name, is nothing: once something was named, nothing named is no star.
    let mut three = bench();
    three.ask(CDS, &["a"]);
    three.ack(CDS);
    assert!(three.drop_names(CDS, &["a"]).is_empty());
    assert!(three.ask(CDS, &[]).is_empty());
    assert!(three.serve(changed("2")).is_empty());
}

#[test]
fn a_star_and_nothing_mean_the_same_in_a_first_request() {
    for names in [&[][..], &["*"]] {
        let mut bench = bench();
        assert_eq!(shown(&bench.ask(CDS, names)), ["CDS +a +b"], "{names:?}");
        assert!(bench.ack(CDS).is_empty());
    }
    // An empty first request means all of nothing for routes: Envoy sends one when it has no routes.
    let mut bench = bench();
    assert!(bench.ask(RDS, &[]).is_empty());
    assert_eq!(shown(&bench.ask(RDS, &["*"])), ["RDS +r +s"]);
}

#[test]
fn legacy_wildcard_survives_a_name() {
    let mut bench = bench();
    bench.ask(CDS, &[]);
    bench.ack(CDS);
    assert_eq!(shown(&bench.ask(CDS, &["a"])), ["CDS +a"]);
    bench.ack(CDS);
    let changed = [(CDS, "a", "1"), (CDS, "b", "2")];
    assert_eq!(shown(&bench.serve(view(&changed))), ["CDS +b"]);
    bench.ack(CDS);
    assert!(bench.drop_names(CDS, &["*"]).is_empty());
    assert!(bench.serve(view(&[(CDS, "a", "1"), (CDS, "b", "3")])).is_empty());
    assert_eq!(shown(&bench.serve(view(&[(CDS, "a", "2"), (CDS, "b", "3")]))), ["CDS +a"]);
}

#[test]
fn star_plus_name_unsubscribe() {
    let mut bench = bench();
    bench.ask(CDS, &["*", "a", "x"]);
    bench.ack(CDS);
    assert_eq!(shown(&bench.drop_names(CDS, &["a"])), ["CDS +a"]);
    bench.ack(CDS);
    assert_eq!(shown(&bench.drop_names(CDS, &["x"])), ["CDS -x"]);
    bench.ack(CDS);
    assert!(bench.drop_names(CDS, &["never-asked"]).is_empty());
}

#[test]
fn subscribe_to_nothing() {
    let mut bench = bench();
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: "n".into(), ..Node::default() }),
        type_url: CDS.into(),
        resource_names_subscribe: vec!["*".into()],
        resource_names_unsubscribe: vec!["*".into()],
        ..Default::default()
    };
    bench.stream.delta(request, bench.now).unwrap();
    assert!(bench.poll().is_empty());
    assert!(bench.serve(view(&[(CDS, "a", "2")])).is_empty());
}

#[test]
fn an_empty_wildcard_is_answered_once() {
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(view(&[(CDS, "a", "1")]));
    let answer = bench.ask(LDS, &[]);
    assert_eq!(shown(&answer), ["LDS"]);
    assert!(bench.ack(LDS).is_empty());
}

#[test]
fn resubscribe_held() {
    let mut bench = bench();
    bench.ask(RDS, &["r"]);
    bench.ack(RDS);
    assert_eq!(shown(&bench.ask(RDS, &["r"])), ["RDS +r"]);
    bench.ack(RDS);
    bench.drop_names(RDS, &["r"]);
    assert_eq!(shown(&bench.ask(RDS, &["r"])), ["RDS +r"]);
}

#[test]
fn missing_in_removed() {
    let mut bench = bench();
    assert_eq!(shown(&bench.ask(RDS, &["r", "late"])), ["RDS +r -late"]);
    assert!(bench.ack(RDS).is_empty());
}

#[test]
fn missing_then_created_after_removed() {
    let mut bench = bench();
    bench.ask(RDS, &["r", "late"]);
    bench.ack(RDS);
    let mut entries = TWO.to_vec();
    entries.push((RDS, "late", "1"));
    assert_eq!(shown(&bench.serve(view(&entries))), ["RDS +late"]);
}

#[test]
fn odcds_miss() {
    // On demand a cluster is asked for by its name alone, and a request waits for the answer.
    let mut bench = bench();
    assert_eq!(shown(&bench.ask(CDS, &["nowhere"])), ["CDS -nowhere"]);
    assert!(bench.ack(CDS).is_empty());
    let mut entries = TWO.to_vec();
    entries.push((CDS, "nowhere", "1"));
    assert_eq!(shown(&bench.serve(view(&entries))), ["CDS +nowhere"], "and of no other cluster");
}

#[test]
fn vhds_alias() {
    const VHDS: &str = super::super::types::VIRTUAL_HOST;
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(view(&[(VHDS, "r/known.example", "1")]));
    // Envoy holds the request up until it hears of the name by which it asked, known or not.
    let answer = bench.ask(VHDS, &["r/known.example", "r/other.example"]);
    assert_eq!(shown(&answer), ["VHDS +r/known.example"]);
    assert_eq!(answer[0].unknown, ["r/other.example".into()]);
    assert!(bench.ack(VHDS).is_empty());
    // Asked again, it is answered again; and it is pushed when it appears, and said to be gone when it goes.
    let again = bench.ask(VHDS, &["r/other.example"]);
    assert_eq!((shown(&again).concat(), again[0].unknown.len()), ("VHDS".to_owned(), 1));
    bench.ack(VHDS);
    let both = [(VHDS, "r/known.example", "1"), (VHDS, "r/other.example", "1")];
    assert_eq!(shown(&bench.serve(view(&both))), ["VHDS +r/other.example"]);
    bench.ack(VHDS);
    assert_eq!(shown(&bench.serve(view(&both[..1]))), ["VHDS -r/other.example"]);
}

#[test]
fn a_star_stands_for_no_secret() {
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(view(&[(SDS, "cert", "1")]));
    assert_eq!(shown(&bench.ask(SDS, &["*"])), ["SDS"]);
    bench.ack(SDS);
    assert!(bench.serve(view(&[(SDS, "cert", "2")])).is_empty());
    assert_eq!(shown(&bench.ask(SDS, &["cert"])), ["SDS +cert"]);
}

#[test]
fn sds_missing() {
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(view(&[(SDS, "cert", "1")]));
    assert_eq!(shown(&bench.ask(SDS, &["cert", "other"])), ["SDS +cert -other"], "at once");
    bench.ack(SDS);
    let both = [(SDS, "cert", "1"), (SDS, "other", "1")];
    assert_eq!(shown(&bench.serve(view(&both))), ["SDS +other"]);
}

#[test]
fn sds_rotate() {
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(view(&[(SDS, "cert", "1"), (SDS, "other", "1")]));
    bench.ask(SDS, &["cert", "other"]);
    bench.ack(SDS);
    assert_eq!(shown(&bench.serve(view(&[(SDS, "cert", "2"), (SDS, "other", "1")]))), ["SDS +cert"]);
    bench.ack(SDS);
    // A secret that is in use is never taken away.
    assert!(bench.serve(view(&[])).is_empty());
    assert!(bench.after(600).is_empty());
}

#[test]
fn eds_unsynced_is_waited_for() {
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(view_with(&[(EDS, "known", "1")], None, &["slow"]));
    assert_eq!(shown(&bench.ask(EDS, &["known", "slow"])), ["EDS +known"]);
    assert!(bench.ack(EDS).is_empty());
    assert!(bench.wake.is_some());
    assert!(bench.after(1).is_empty());
    assert_eq!(shown(&bench.after(1)), ["EDS -slow"]);
    bench.ack(EDS);
    assert_eq!(shown(&bench.serve(view(&[(EDS, "known", "1"), (EDS, "slow", "1")]))), ["EDS +slow"]);
}

#[test]
fn reconnect_delta_no_resend() {
    let mut first = bench();
    first.ask(CDS, &[]);
    first.ack(CDS);
    let held = first.held[CDS].clone();
    let held: Vec<(&str, &str)> = held.iter().map(|(name, version)| (&**name, &**version)).collect();
    let mut bench = bench();
    assert!(bench.resume(CDS, &[], &held).is_empty());
    assert!(bench.after(60).is_empty());
    assert_eq!(shown(&bench.resume(RDS, &["r"], &[])), ["RDS +r"], "what it does not name is sent");
}

#[test]
fn reconnect_other_replica_same_digest() {
    // Another process made its view from the same bytes.
    let replica = view(TWO);
    let version = |name: &str| replica.config.types[CDS].get(name).unwrap().version().to_string();
    let mut bench = bench();
    let held = [("a", &*version("a")), ("b", &*version("b"))];
    assert!(bench.resume(CDS, &[], &held).is_empty());
    assert_eq!(shown(&bench.serve(view(&[(CDS, "a", "2"), (CDS, "b", "1")]))), ["CDS +a"]);
}

#[test]
fn reconnect_removed_meanwhile() {
    let mut bench = bench();
    let replica = view(TWO);
    let version = replica.config.types[CDS].get("a").unwrap().version().to_string();
    let answer = bench.resume(CDS, &[], &[("a", &version), ("gone", "123")]);
    assert_eq!(shown(&answer), ["CDS +b"]);
    assert!(bench.ack(CDS).is_empty());
    assert_eq!(shown(&bench.after(31)), ["CDS -gone"]);
}

/// Endpoints that went while the client was away still serve a cluster which it holds: they leave after that.
#[test]
fn reconnect_endpoints_that_went_leave_last() {
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(view(&[(CDS, "new", "1")]));
    assert_eq!(shown(&bench.resume(CDS, &[], &[("old", "123")])), ["CDS +new"]);
    assert!(bench.resume(EDS, &["old"], &[("old", "456")]).is_empty());
    assert!(bench.ack(CDS).is_empty());
    assert_eq!(shown(&bench.after(30)), ["CDS -old"]);
    assert_eq!(shown(&bench.ack(CDS)), ["EDS -old"]);
}

#[test]
fn reconnect_eds_resent() {
    let world = view(&[(EDS, "e", "1")]);
    let version = world.endpoints.get("e").unwrap().version().to_string();
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(world);
    assert_eq!(shown(&bench.resume(EDS, &["e"], &[("e", &version)])), ["EDS +e"]);
}

#[test]
fn stale_nonce_delta_honoured() {
    let mut bench = bench();
    bench.ask(RDS, &["r"]);
    let request = DeltaDiscoveryRequest {
        type_url: RDS.into(),
        resource_names_subscribe: vec!["s".into()],
        response_nonce: "from another life".into(),
        ..Default::default()
    };
    bench.stream.delta(request, bench.now).unwrap();
    assert!(bench.poll().is_empty(), "the first response is not acknowledged");
    assert_eq!(shown(&bench.ack(RDS)), ["RDS +s"]);
}

#[test]
fn chunk_4mib() {
    let names: Vec<String> = (0..50).map(|n| format!("c{n:02}")).collect();
    let big = "x".repeat(100_000);
    let entries: Vec<Entry<'_>> = names.iter().map(|name| (CDS, name.as_str(), big.as_str())).collect();
    let mut all = entries.clone();
    all.push((LDS, "l", "1"));
    let settings = Settings { max_response: 1_000_000, ..Settings::default() };
    let mut bench = Bench::with(Protocol::Delta, settings);
    bench.serve(view(&all));
    let mut responses = bench.ask(CDS, &[]);
    assert_eq!(bench.ask(LDS, &[]).len(), 0, "listeners wait until all clusters went out");
    let mut count = 0;
    while bench.open.contains_key(CDS) {
        let response = responses.remove(0);
        let size: usize = response.resources.iter().map(|(_, value)| value.len()).sum();
        assert!(size <= 1_000_000 && size > 0);
        count += 1;
        assert_eq!(responses.len(), usize::from(count == 6), "listeners follow the last clusters");
        responses = bench.ack(CDS);
    }
    assert_eq!(count, 6);
    assert_eq!(bench.held[CDS].len(), 50);
    assert!(bench.open.contains_key(LDS));
}

#[test]
fn unknown_types_are_answered_with_nothing_and_the_stream_lives() {
    let mut bench = bench();
    let answer = bench.ask("type.googleapis.com/what.is.This", &["x"]);
    assert_eq!(answer[0].removed.len(), 1);
    assert_eq!(shown(&bench.ask(RDS, &["r"])), ["RDS +r"]);
}

#[test]
fn ecds_no_remove() {
    const ECDS: &str = super::super::types::EXTENSION;
    let mut bench = Bench::new(Protocol::Delta);
    bench.serve(view(&[(ECDS, "filter", "1")]));
    bench.ask(ECDS, &["filter", "never"]);
    // Whoever waits for a name that nobody knows hears nothing of it until somebody does.
    assert_eq!(names(&bench.open[ECDS]), " +filter");
    bench.ack(ECDS);
    assert!(bench.after(60).is_empty());
    assert_eq!(shown(&bench.serve(view(&[(ECDS, "filter", "1"), (ECDS, "never", "1")]))), ["ECDS +never"]);
    bench.ack(ECDS);
    assert!(bench.serve(view(&[])).is_empty());
    assert!(bench.after(3600).is_empty());
}
