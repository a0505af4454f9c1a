//! Times to live: offered to who understands them, and kept alive by heartbeats.

use super::super::super::proto::{DeltaDiscoveryRequest, DiscoveryRequest, Node};
use super::super::super::types;
use super::super::model::*;
use super::super::{Protocol, Response, Settings};
use std::collections::BTreeMap;
use std::time::Duration;

const RTDS: &str = types::RUNTIME;
const BOTH: [&str; 2] = [types::TTL_FEATURE, types::WRAPPER_FEATURE];

/// A client with these features; resource `x` of this type has thirty seconds to live.
fn bench(protocol: Protocol, type_url: &str, features: &[&str]) -> Bench {
    let lives = BTreeMap::from([("x".into(), Duration::from_secs(30))]);
    let ttls = BTreeMap::from([(type_url.into(), lives)]);
    let mut bench = Bench::with(protocol, Settings { ttls, ..Settings::default() });
    bench.serve(view(&[(type_url, "x", "1"), (type_url, "y", "1")]));
    let client_features = features.iter().map(|feature| (*feature).to_owned()).collect();
    let node = Some(Node { id: "n".into(), client_features, ..Node::default() });
    let (type_url, names) = (type_url.to_owned(), vec!["x".to_owned(), "y".to_owned()]);
    bench.asked.entry(type_url.clone()).or_default().extend(names.clone());
    match protocol {
        Protocol::Delta => {
            let request = DeltaDiscoveryRequest {
                node,
                type_url,
                resource_names_subscribe: names,
                ..Default::default()
            };
            bench.stream.delta(request, bench.now).unwrap();
        }
        Protocol::StateOfTheWorld => {
            let request = DiscoveryRequest { node, type_url, resource_names: names, ..Default::default() };
            bench.stream.state_of_the_world(request, bench.now).unwrap();
        }
    }
    bench
}

fn beats(response: &Response) -> Vec<&str> {
    response.heartbeats.iter().map(|(name, _)| &**name).collect()
}

fn heartbeats_of(protocol: Protocol) {
    let mut bench = bench(protocol, RTDS, &BOTH);
    let first = bench.poll().remove(0);
    assert_eq!(
        (shown(std::slice::from_ref(&first)).concat(), first.ttls.len()),
        ("RTDS +x +y".to_owned(), 1)
    );
    assert_eq!(first.ttls["x"], Duration::from_secs(30));
    assert!(bench.after(5).is_empty());
    bench.ack(RTDS);
    let held = bench.held[RTDS].clone();
    // Three in a life, each acknowledged, without content and without its neighbour.
    let mut count = 0;
    for _ in 0..90 {
        for response in bench.after(1) {
            assert_eq!((beats(&response), response.resources.len()), (vec!["x"], 0));
            assert_eq!(*response.heartbeats[0].1, *held["x"]);
            assert_eq!(response.ttls["x"], Duration::from_secs(30));
            count += 1;
            assert!(bench.ack(RTDS).is_empty());
        }
        assert!(bench.wake.is_some_and(|wake| wake <= bench.now + Duration::from_secs(10)));
    }
    assert!((8..=9).contains(&count), "{count}");
    // A change counts as a heartbeat, and brings the time to live with it.
    let changed = bench.serve(view(&[(RTDS, "x", "2"), (RTDS, "y", "1")]));
    assert_eq!((shown(&changed).concat(), changed[0].ttls.len()), ("RTDS +x".to_owned(), 1));
    bench.ack(RTDS);
    assert!(bench.after(9).is_empty());
    assert_eq!(beats(&bench.after(1)[0]), ["x"]);
    bench.ack(RTDS);
    // What is gone has none.
    let responses = bench.serve(view(&[(RTDS, "y", "1")]));
    bench.settle(responses);
    assert!(bench.after(60).is_empty());
}

#[test]
fn ttl_heartbeat_delta() {
    heartbeats_of(Protocol::Delta);
}

#[test]
fn ttl_heartbeat_sotw() {
    heartbeats_of(Protocol::StateOfTheWorld);
    // Where a response is the full set, the others come along: what it lacks would be gone.
    let mut bench = bench(Protocol::StateOfTheWorld, LDS, &BOTH);
    bench.poll();
    bench.ack(LDS);
    let beat = bench.after(10).remove(0);
    assert_eq!((beats(&beat), shown(std::slice::from_ref(&beat)).concat()), (vec!["x"], "LDS +y".to_owned()));
}

#[test]
fn who_does_not_understand_a_time_to_live_gets_none() {
    let cases: [(Protocol, &[&str]); 4] = [
        (Protocol::Delta, &[]),
        (Protocol::Delta, &BOTH[1..]),
        (Protocol::StateOfTheWorld, &BOTH[..1]),
        (Protocol::StateOfTheWorld, &BOTH[1..]),
    ];
    for (protocol, features) in cases {
        let mut bench = bench(protocol, RTDS, features);
        assert!(bench.poll()[0].ttls.is_empty(), "{protocol:?} {features:?}");
        bench.ack(RTDS);
        assert!(bench.after(60).is_empty());
    }
}

#[test]
fn a_refused_heartbeat_is_not_repeated() {
    let mut bench = bench(Protocol::Delta, RTDS, &BOTH);
    bench.poll();
    bench.ack(RTDS);
    assert_eq!(beats(&bench.after(10)[0]), ["x"]);
    bench.nack(RTDS);
    assert!(bench.after(60).is_empty());
    assert_eq!(shown(&bench.serve(view(&[(RTDS, "x", "2"), (RTDS, "y", "1")]))), ["RTDS +x"]);
}
