//! Refusals: nothing twice, back to the last good configuration, one bad value costs itself only.

use super::super::Event;
use super::super::Protocol::{Delta, StateOfTheWorld};
use super::super::model::*;

#[test]
fn nack_no_resend() {
    for protocol in [Delta, StateOfTheWorld] {
        for type_url in [CDS, LDS, RDS, EDS, SDS] {
            let mut bench = Bench::new(protocol);
            bench.serve(view(&[(type_url, "x", "bad")]));
            assert_eq!(bench.ask(type_url, &["x"]).len(), 1);
            assert!(bench.nack(type_url).is_empty(), "{protocol:?} {type_url}");
            for _ in 0..10 {
                assert!(bench.after(3600).is_empty());
                assert!(
                    bench.serve(view(&[(type_url, "x", "bad")])).is_empty(),
                    "the same in another snapshot"
                );
            }
        }
    }
}

#[test]
fn nack_then_fix() {
    for protocol in [Delta, StateOfTheWorld] {
        for type_url in [CDS, LDS, RDS] {
            let mut bench = Bench::new(protocol);
            bench.serve(view(&[(type_url, "x", "bad")]));
            assert_eq!(bench.ask(type_url, &["x"]).len(), 1);
            assert!(bench.nack(type_url).is_empty(), "{protocol:?} {type_url}");
            assert!(bench.after(3600).is_empty());
            assert!(bench.serve(view(&[(type_url, "x", "bad"), (SDS, "other", "1")])).is_empty());
            assert_eq!(bench.serve(view(&[(type_url, "x", "good")])).len(), 1);
            assert!(bench.ack(type_url).is_empty());
        }
    }
}

#[test]
fn nack_with_name_change() {
    let world = [(RDS, "r", "bad"), (RDS, "s", "1")];
    let mut bench = Bench::new(StateOfTheWorld);
    bench.serve(view(&world));
    bench.ask(RDS, &["r"]);
    bench.asked.get_mut(RDS).unwrap().insert("s".into());
    assert_eq!(shown(&bench.nack(RDS)), ["RDS +s"]);
}

#[test]
fn nack_partial_resend() {
    let mut bench = Bench::new(Delta);
    bench.serve(view(&[(CDS, "a", "1"), (CDS, "b", "bad"), (CDS, "c", "1")]));
    bench.ask(CDS, &[]);
    assert!(bench.nack(CDS).is_empty());
    // Which of the three the client applied is unknown: all are sent again with the fix.
    let fixed = [(CDS, "a", "1"), (CDS, "b", "good"), (CDS, "c", "1")];
    assert_eq!(shown(&bench.serve(view(&fixed))), ["CDS +a +b +c"]);
}

#[test]
fn a_refused_snapshot_gives_way_to_the_last_good_one() {
    for protocol in [Delta, StateOfTheWorld] {
        let good: &[Entry<'_>] = &[(CDS, "a", "1"), (LDS, "l", "1")];
        let bad: &[Entry<'_>] = &[(CDS, "a", "2"), (CDS, "b", "1"), (LDS, "l", "bad")];
        let mut bench = Bench::new(protocol);
        bench.serve(view(good));
        for type_url in [CDS, LDS] {
            let responses = bench.ask(type_url, &[]);
            bench.settle(responses);
        }
        let held = bench.held.clone();
        bench.serve(view_with(bad, Some(config(good)), &[]));
        assert_eq!(shown(&bench.ack(CDS)), ["LDS +l"]);
        let back = bench.nack(LDS);
        let refused = bench.events.iter().find(|event| matches!(event, Event::Refused { .. }));
        assert!(matches!(refused, Some(Event::Refused { text, .. }) if text == "no such thing"));
        bench.settle(back);
        let responses = bench.after(60);
        bench.settle(responses);
        assert_eq!(bench.held, held, "{protocol:?}");
        // The same snapshot again, with other endpoints: the client stays where it is.
        let mut again = bad.to_vec();
        again.push((EDS, "e", "1"));
        let responses = bench.serve(view_with(bad, Some(config(good)), &[]));
        assert!(responses.is_empty());
    }
}

#[test]
fn a_client_known_to_refuse_starts_with_the_last_good_one() {
    let good: &[Entry<'_>] = &[(CDS, "a", "1")];
    let bad = view_with(&[(CDS, "a", "bad")], Some(config(good)), &[]);
    let mut bench = Bench::new(Delta);
    bench.stream.set_back(bad.config.id);
    bench.serve(bad);
    let sent = bench.ask(CDS, &[]);
    assert_eq!(sent[0].resources[0].1.version(), config(good).types[CDS].get("a").unwrap().version());
}

#[test]
fn one_bad_value_costs_itself_only() {
    for protocol in [Delta, StateOfTheWorld] {
        let entries: Vec<(String, &str)> =
            (0..9).map(|n| (format!("e{n}"), if n == 5 { "bad" } else { "1" })).collect();
        let world: Vec<Entry<'_>> =
            entries.iter().map(|(name, content)| (EDS, name.as_str(), *content)).collect();
        let names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
        let mut bench = Bench::new(protocol);
        bench.serve(view(&world));
        bench.ask(EDS, &names);
        let mut rounds = 0;
        while let Some(response) = bench.open.get(EDS) {
            let bad = response.resources.iter().any(|(name, _)| &**name == "e5");
            if bad {
                bench.nack(EDS)
            } else {
                bench.ack(EDS)
            };
            rounds += 1;
        }
        assert!(rounds < 10, "{rounds}");
        assert_eq!(bench.held[EDS].len(), 8);
        assert!(bench.after(60).is_empty());
        let better: Vec<Entry<'_>> = world.iter().map(|(t, n, _)| (*t, *n, "1")).collect();
        assert_eq!(shown(&bench.serve(view(&better))), ["EDS +e5"]);
    }
}

#[test]
fn a_second_refusal_of_one_response_is_ignored() {
    let mut bench = Bench::new(Delta);
    bench.serve(view(&[(CDS, "a", "bad")]));
    bench.ask(CDS, &[]);
    let response = bench.open[CDS].clone();
    bench.nack(CDS);
    bench.open.insert(CDS.into(), response);
    assert!(bench.nack(CDS).is_empty());
    assert_eq!(bench.events.iter().filter(|event| matches!(event, Event::Refused { .. })).count(), 1);
}
