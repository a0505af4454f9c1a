//! State of the world: subscriptions, answers, resumption.

use super::super::super::proto::{DiscoveryRequest, Node, Status};
use super::super::super::types;
use super::super::model::*;
use super::super::{Event, Protocol};

const TWO: &[Entry<'_>] = &[(CDS, "a", "1"), (CDS, "b", "1"), (RDS, "r", "1"), (RDS, "s", "1")];

fn bench() -> Bench {
    let mut bench = Bench::new(Protocol::StateOfTheWorld);
    bench.serve(view(TWO));
    bench
}

fn request(type_url: &str, names: &[&str], nonce: &str, version: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: "n".into(), ..Node::default() }),
        type_url: type_url.into(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: nonce.into(),
        version_info: version.into(),
        ..Default::default()
    }
}

#[test]
fn wildcard_legacy_vs_star() {
    // What a first and a second request mean, and what an update of both resources brings afterwards.
    type Case<'a> = (&'a [&'a str], Option<&'a [&'a str]>, &'a str);
    let cases: &[Case<'_>] = &[
        (&[], None, "CDS +a +b"),
        (&["*"], None, "CDS +a +b"),
        (&["*", "a"], Some(&["*"]), "CDS +a +b"),
        (&["*", "a"], Some(&["a"]), "CDS +a"),
        (&["a"], Some(&[]), ""),
        (&["a", "b"], Some(&["b"]), "CDS +b"),
        (&["a"], Some(&["*"]), "CDS +a +b"),
    ];
    for (first, second, expected) in cases {
        let mut bench = bench();
        bench.stream.state_of_the_world(request(CDS, first, "", ""), bench.now).unwrap();
        let mut nonce = bench.poll()[0].nonce.clone();
        bench.open.clear();
        for names in std::iter::once(first).chain(second) {
            bench.stream.state_of_the_world(request(CDS, names, &nonce, ""), bench.now).unwrap();
            if let Some(response) = bench.poll().first() {
                nonce.clone_from(&response.nonce);
                bench.open.clear();
                bench.stream.state_of_the_world(request(CDS, names, &nonce, ""), bench.now).unwrap();
                assert!(bench.poll().is_empty(), "{first:?} {second:?}");
            }
        }
        let update = bench.serve(view(&[(CDS, "a", "2"), (CDS, "b", "2")]));
        assert_eq!(shown(&update).concat(), *expected, "{first:?} {second:?}");
    }
}

#[test]
fn one_empty_name_names_nothing() {
    let mut bench = bench();
    bench.ask(CDS, &["a"]);
    let nonce = bench.open[CDS].nonce.clone();
    bench.ack(CDS);
    bench.stream.state_of_the_world(request(CDS, &[""], &nonce, ""), bench.now).unwrap();
    assert!(bench.poll().is_empty());
    assert!(bench.serve(view(&[(CDS, "a", "2")])).is_empty());
}

#[test]
fn an_acknowledgement_is_not_answered() {
    let mut bench = bench();
    assert_eq!(shown(&bench.ask(CDS, &[])), ["CDS +a +b"]);
    assert!(bench.ack(CDS).is_empty());
    assert!(bench.serve(view(TWO)).is_empty(), "an equal snapshot changes nothing");
}

#[test]
fn routes_are_partial_and_clusters_full() {
    let mut bench = bench();
    bench.ask(CDS, &["a", "b"]);
    bench.ack(CDS);
    bench.ask(RDS, &["r", "s"]);
    bench.ack(RDS);
    let changed = [(CDS, "a", "2"), (CDS, "b", "1"), (RDS, "r", "2"), (RDS, "s", "1")];
    let order = {
        let responses = bench.serve(view(&changed));
        bench.settle(responses)
    };
    assert_eq!(order, ["CDS +a +b", "RDS +r"]);
}

#[test]
fn missing_then_created() {
    let mut bench = bench();
    assert_eq!(shown(&bench.ask(RDS, &["r", "late"])), ["RDS +r"]);
    bench.ack(RDS);
    let mut entries = TWO.to_vec();
    entries.push((RDS, "late", "1"));
    assert_eq!(shown(&bench.serve(view(&entries))), ["RDS +late"]);
    bench.ack(RDS);
    assert_eq!(shown(&bench.ask(SDS, &["absent"])), ["SDS"], "a missing secret gets an empty answer at once");
}

#[test]
fn names_dropped_and_asked_again_are_sent_again() {
    let mut bench = bench();
    bench.ask(RDS, &["r", "s"]);
    bench.ack(RDS);
    bench.asked.get_mut(RDS).unwrap().remove("s");
    let nonce = bench.nonces.iter().max().cloned().unwrap();
    bench.stream.state_of_the_world(request(RDS, &["r"], &nonce, ""), bench.now).unwrap();
    assert!(bench.poll().is_empty());
    bench.stream.state_of_the_world(request(RDS, &["r", "s"], &nonce, ""), bench.now).unwrap();
    assert_eq!(shown(&bench.poll()), ["RDS +s"]);
}

#[test]
fn stale_nonce_sotw() {
    let mut bench = bench();
    bench.ask(RDS, &["r"]);
    let first = bench.open[RDS].nonce.clone();
    bench.ack(RDS);
    bench.serve(view(&[(RDS, "r", "2"), (RDS, "s", "1")]));
    // Written before the second response came: its names come again with the next acknowledgement.
    bench.stream.state_of_the_world(request(RDS, &["r", "s"], &first, ""), bench.now).unwrap();
    assert!(bench.poll().is_empty());
    bench.asked.get_mut(RDS).unwrap().insert("s".into());
    assert_eq!(shown(&bench.ack(RDS)), ["RDS +s"]);
}

#[test]
fn unknown_nonce_on_a_first_request_is_a_first_request() {
    let mut bench = bench();
    bench.stream.state_of_the_world(request(CDS, &[], "old-server", "x"), bench.now).unwrap();
    assert_eq!(shown(&bench.poll()), ["CDS +a +b"]);
}

#[test]
fn reconnect_sotw_same_version() {
    let world = view(TWO);
    let version = world.config.types[CDS].version().to_string();
    let mut bench = bench();
    bench.stream.state_of_the_world(request(CDS, &[], "", &version), bench.now).unwrap();
    assert!(bench.poll().is_empty());
    assert_eq!(shown(&bench.serve(view(&[(CDS, "a", "2"), (CDS, "b", "1")]))), ["CDS +a +b"]);
    // Named subscriptions are answered always: the version says nothing of the names.
    let mut bench = super::world::bench();
    bench.stream.state_of_the_world(request(CDS, &["a"], "", &version), bench.now).unwrap();
    assert_eq!(shown(&bench.poll()), ["CDS +a"]);
}

#[test]
fn empty_lds_guard() {
    let mut bench = Bench::new(Protocol::StateOfTheWorld);
    assert!(bench.ask(LDS, &[]).is_empty(), "without a snapshot nothing is said");
    assert_eq!(shown(&bench.serve(view(&[(LDS, "l", "1")]))), ["LDS +l"]);
    bench.ack(LDS);
    assert_eq!(shown(&bench.serve(view(&[]))), ["LDS"], "the snapshot says that there is none");
}

#[test]
fn unknown_types_get_no_answer() {
    let mut bench = bench();
    assert!(bench.ask("type.googleapis.com/what.is.This", &["x"]).is_empty());
}

#[test]
fn versions_are_equal_on_every_replica() {
    let versions = || {
        let mut bench = bench();
        bench.ask(CDS, &[])[0].version.to_string()
    };
    assert_eq!(versions(), versions());
    assert_eq!(versions().len(), 16);
}

/// What a rate limit service asks (envoyproxy/ratelimit): everything of one type, by no name.
#[test]
fn a_rate_limit_service_holds_all_limits_and_goes_back_after_a_refusal() {
    const RLS: &str = types::RATE_LIMIT;
    let mut bench = Bench::new(Protocol::StateOfTheWorld);
    bench.serve(view(&[(CDS, "a", "1")]));
    bench.stream.state_of_the_world(request(RLS, &[], "", ""), bench.now).unwrap();
    let none = bench.poll();
    // Without limits it is told so, or it would wait for ever.
    assert_eq!((none.len(), none[0].resources.len()), (1, 0));
    let answer = |bench: &mut Bench, error: Option<&str>| {
        let response = bench.open.remove(RLS).unwrap();
        let mut request = request(RLS, &[], &response.nonce, &response.version);
        request.error_detail = error.map(|text| Status { message: text.to_owned(), ..Default::default() });
        bench.stream.state_of_the_world(request, bench.now).unwrap();
        bench.poll()
    };
    answer(&mut bench, None);
    let two = [(CDS, "a", "1"), (RLS, "edge/public/shop/a", "1"), (RLS, "edge/public/shop/b", "1")];
    assert_eq!(shown(&bench.serve(view(&two))).concat(), "RLS +edge/public/shop/a +edge/public/shop/b");
    answer(&mut bench, None);
    let took =
        |bench: &Bench| bench.events.iter().filter(|event| matches!(event, Event::Limits { .. })).count();
    assert_eq!(took(&bench), 2);
    // All of them again if one changes: what is not there is gone.
    let good = config(&two);
    let bad = [(CDS, "a", "1"), (RLS, "edge/public/shop/a", "2")];
    let changed = bench.serve(view_with(&bad, Some(good), &[]));
    assert_eq!(shown(&changed).concat(), "RLS +edge/public/shop/a");
    let back = answer(&mut bench, Some("duplicate domain"));
    assert_eq!(shown(&back).concat(), "RLS +edge/public/shop/a +edge/public/shop/b");
    let refused = |event: &Event| matches!(event, Event::Refused { text, .. } if text == "duplicate domain");
    assert!(bench.events.iter().any(refused));
    let synced = |event: &Event| matches!(event, Event::Synced { .. });
    assert!(!bench.events.iter().any(synced), "what it takes is no word for Envoys");
}
