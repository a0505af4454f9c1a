//! Make before break: the order of types, and removals last.

use super::super::Protocol::{Delta, StateOfTheWorld};
use super::super::model::*;
use super::super::{Event, Protocol};
use crate::serve::proto::{DiscoveryRequest, Node};
use crate::serve::view::View;

const BEFORE: &[Entry<'_>] =
    &[(CDS, "old", "eds:old"), (EDS, "old", "1"), (LDS, "l", "1"), (RDS, "r", "to old")];
const AFTER: &[Entry<'_>] =
    &[(CDS, "new", "eds:new"), (EDS, "new", "1"), (EDS, "old", "1"), (LDS, "l", "2"), (RDS, "r", "to new")];

/// A client that holds `BEFORE`.
fn envoy(protocol: Protocol) -> Bench {
    let mut bench = Bench::new(protocol);
    bench.serve(view(BEFORE));
    for (type_url, names) in [(CDS, &[][..]), (EDS, &["old"]), (LDS, &[]), (RDS, &["r"])] {
        let responses = bench.ask(type_url, names);
        bench.settle(responses);
    }
    bench
}

#[test]
fn order_add() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut bench = envoy(protocol);
        let kept = if protocol == Delta { "CDS +new" } else { "CDS +new +old" };
        assert_eq!(shown(&bench.serve(view(AFTER))), [kept], "{protocol:?}");
        // Envoy asks for the new endpoints while the cluster warms, before it acknowledges anything.
        let answer = bench.ask(EDS, &["new"]);
        assert_eq!(shown(&answer), ["EDS +new"]);
        assert!(bench.ack(CDS).is_empty(), "listeners wait for the endpoints of new clusters");
        assert_eq!(shown(&bench.ack(EDS)), ["LDS +l"]);
        assert_eq!(shown(&bench.ack(LDS)), ["RDS +r"]);
        assert!(bench.ack(RDS).is_empty());
    }
}

#[test]
fn removal_last() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut bench = envoy(protocol);
        bench.serve(view(AFTER));
        bench.ask(EDS, &["new"]);
        // However long a client takes to take the listener and the table, the old cluster waits for it.
        for type_url in [CDS, EDS, LDS, RDS] {
            let held = |bench: &Bench| bench.held[CDS].contains_key("old");
            assert!(held(&bench), "{type_url}");
            bench.after(if type_url == RDS { 600 } else { 1 });
            assert!(held(&bench), "{type_url}");
            bench.ack(type_url);
        }
        let responses = bench.after(30);
        assert_eq!(responses[0].type_url, CDS.into());
        bench.settle(responses);
        assert!(!bench.held[CDS].contains_key("old"));
    }
}

#[test]
fn removal_linger() {
    let mut bench = envoy(Delta);
    let responses = bench.serve(view(AFTER));
    bench.settle(responses);
    assert!(bench.held[CDS].contains_key("old"));
    assert!(bench.wake.is_some());
    assert!(bench.after(29).is_empty());
    assert_eq!(shown(&bench.after(1)), ["CDS -old"]);
    assert!(bench.ack(CDS).is_empty());

    let mut bench = envoy(StateOfTheWorld);
    let responses = bench.serve(view(AFTER));
    bench.settle(responses);
    assert_eq!(bench.held[CDS].len(), 2);
    assert_eq!(shown(&bench.after(30)), ["CDS +new"]);
    bench.ack(CDS);
    assert_eq!(bench.held[CDS].len(), 1);
}

#[test]
fn a_name_that_comes_back_during_the_linger_is_not_sent_again() {
    let mut bench = envoy(Delta);
    let responses = bench.serve(view(AFTER));
    bench.settle(responses);
    let responses = bench.serve(view(BEFORE));
    assert!(!shown(&responses).concat().contains("CDS"), "the old cluster is still there");
    bench.settle(responses);
    assert_eq!(shown(&bench.after(40)), ["CDS -new"]);
}

/// It left, came back for a moment in which the table named it, and left again: the linger starts anew.
#[test]
fn a_name_that_came_back_and_left_again_lingers_anew() {
    let mut bench = envoy(Delta);
    let responses = bench.serve(view(AFTER));
    bench.settle(responses);
    assert!(bench.after(29).is_empty());
    // The table goes back to the old cluster, and before that was taken away again.
    assert_eq!(shown(&bench.serve(view(BEFORE))), ["LDS +l"]);
    bench.ack(LDS);
    let responses = bench.serve(view(AFTER));
    bench.settle(responses);
    assert!(!shown(&bench.after(2)).concat().contains("-old"));
    assert_eq!(shown(&bench.after(28)), ["CDS -old"]);
}

/// The snapshot before still names endpoints, so they are kept up until their cluster left; then they are gone, too.
#[test]
fn endpoints_that_only_the_snapshot_before_names_leave_after_their_cluster() {
    let after = |old: &'static str, leftover: &[&str]| {
        let entries = [
            (CDS, "new", "eds:new"),
            (EDS, "new", "1"),
            (EDS, "old", old),
            (LDS, "l", "2"),
            (RDS, "r", "to new"),
        ];
        let leftover = leftover.iter().map(|name| (*name).into()).collect();
        let view = view_with(&entries, Some(config(BEFORE)), &[]);
        std::sync::Arc::new(View {
            leftover: std::sync::Arc::new(leftover),
            ..std::sync::Arc::into_inner(view).unwrap()
        })
    };
    let mut bench = envoy(Delta);
    let responses = bench.serve(after("1", &["old"]));
    bench.ask(EDS, &["new"]);
    bench.settle(responses);
    assert_eq!(
        shown(&bench.serve(after("2", &["old"]))),
        ["EDS +old"],
        "a pod of the old one moves in the meantime"
    );
    bench.ack(EDS);
    assert_eq!(shown(&bench.after(30)), ["CDS -old"]);
    assert_eq!(shown(&bench.ack(CDS)), ["EDS -old"]);
    bench.ack(EDS);
    assert!(bench.serve(after("3", &["old"])).is_empty());
    assert!(bench.after(60).is_empty());
    // A snapshot names it again, or the client asks again: it is there.
    assert_eq!(shown(&bench.ask(EDS, &["old"])), ["EDS +old"]);
    bench.ack(EDS);
    assert_eq!(shown(&bench.after(30)), ["EDS -old"]);
    bench.ack(EDS);
    assert_eq!(shown(&bench.serve(after("3", &[]))), ["EDS +old"]);
}

/// A change of other endpoints is under way when the client asks for those of a new cluster: the table waits for both.
#[test]
fn a_table_waits_for_endpoints_that_are_asked_for_behind_others() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut bench = envoy(protocol);
        let mut moved = BEFORE.to_vec();
        moved[1] = (EDS, "old", "2");
        assert_eq!(shown(&bench.serve(view(&moved))), ["EDS +old"]);
        let mut after = AFTER.to_vec();
        after[2] = (EDS, "old", "2");
        bench.serve(view(&after));
        assert!(bench.ask(EDS, &["new"]).is_empty(), "one response at a time");
        assert!(bench.ack(CDS).is_empty(), "{protocol:?}: ahead of the endpoints");
        assert_eq!(shown(&bench.ack(EDS)), ["EDS +new"]);
        assert_eq!(shown(&bench.ack(EDS)), ["LDS +l"]);
    }
}

/// On a new stream tables are asked for last: what they name does not leave before they are known to be another's.
#[test]
fn after_a_reconnect_the_linger_starts_when_tables_are_known() {
    let mut bench = Bench::new(Delta);
    bench.serve(view(AFTER));
    assert_eq!(shown(&bench.resume(CDS, &[], &[("old", "123")])), ["CDS +new"]);
    assert!(bench.ack(CDS).is_empty());
    assert!(bench.after(29).is_empty());
    let responses = bench.resume(RDS, &["r"], &[("r", "456")]);
    bench.settle(responses);
    assert!(bench.after(29).is_empty());
    assert_eq!(shown(&bench.after(1)), ["CDS -old"]);
}

/// Endpoints are to be sent again because their cluster changed, and went before it was their turn: they leave last.
#[test]
fn endpoints_that_are_to_be_sent_again_and_went_leave_last() {
    let mut bench = envoy(Delta);
    let mut moved = BEFORE.to_vec();
    moved[1] = (EDS, "old", "2");
    assert_eq!(shown(&bench.serve(view(&moved))), ["EDS +old"]);
    moved[0] = (CDS, "old", "changed eds:old");
    assert_eq!(shown(&bench.serve(view(&moved))), ["CDS +old"], "its endpoints are under way already");
    bench.serve(view(&[(CDS, "new", "1"), (LDS, "l", "1"), (RDS, "r", "to new")]));
    assert!(bench.ack(EDS).is_empty(), "a table names them still");
    let order = bench.settle(Vec::new());
    assert_eq!(order, ["CDS +new", "RDS +r"]);
    assert_eq!(shown(&bench.after(30)), ["CDS -old"]);
    assert_eq!(shown(&bench.ack(CDS)), ["EDS -old"]);
}

/// A client of state of the world comes back from the snapshot before: what it holds is known, and leaves last.
#[test]
fn reconnect_sotw_from_the_snapshot_before_keeps_what_leaves_last() {
    let before = config(BEFORE);
    let version = before.types[CDS].version().to_string();
    let mut bench = Bench::new(StateOfTheWorld);
    bench.serve(view_with(AFTER, Some(before), &[]));
    let request = |type_url: &str, names: &[&str], version: &str| DiscoveryRequest {
        node: Some(Node { id: "envoy-1".into(), ..Node::default() }),
        type_url: type_url.into(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        version_info: version.into(),
        ..Default::default()
    };
    bench.stream.state_of_the_world(request(CDS, &[], &version), bench.now).unwrap();
    assert_eq!(shown(&bench.poll()), ["CDS +new +old"]);
    bench.asked.insert(CDS.into(), std::collections::BTreeSet::new());
    assert!(bench.ack(CDS).is_empty());
    assert_eq!(shown(&bench.ask(EDS, &["new"])), ["EDS +new"]);
    bench.ack(EDS);
    assert_eq!(shown(&bench.after(30)), ["CDS +new"]);
}

#[test]
fn a_stream_of_changes_does_not_put_off_removals_for_ever() {
    let mut bench = envoy(Delta);
    let mut removed = false;
    for round in 0..10 {
        let content = format!("{round}");
        let mut entries = AFTER.to_vec();
        entries.push((RDS, "r2", &content));
        let responses = bench.serve(view(&entries));
        removed |= bench.settle(responses).iter().any(|text| text.contains("-old"));
        let responses = bench.after(5);
        removed |= bench.settle(responses).iter().any(|text| text.contains("-old"));
    }
    assert!(removed);
}

#[test]
fn phase_timeout() {
    let mut bench = envoy(Delta);
    bench.serve(view(AFTER));
    assert!(bench.after(14).is_empty());
    assert_eq!(shown(&bench.after(1)), ["LDS +l"], "a silent client does not hold up the rest for ever");
    assert!(bench.after(14).is_empty());
    assert_eq!(shown(&bench.after(1)), ["RDS +r"]);
    assert!(bench.after(600).is_empty(), "and without acknowledgements nothing is removed");
}

#[test]
fn eds_after_cds() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut bench = envoy(protocol);
        let mut entries = BEFORE.to_vec();
        entries[0] = (CDS, "old", "changed eds:old");
        assert_eq!(shown(&bench.serve(view(&entries))), ["CDS +old", "EDS +old"], "{protocol:?}");
    }
}

#[test]
fn two_clusters_one_service_name() {
    let mut bench = Bench::new(Delta);
    bench.serve(view(&[(CDS, "a", "eds:e"), (EDS, "e", "1")]));
    let responses = bench.ask(CDS, &[]);
    bench.settle(responses);
    let responses = bench.ask(EDS, &["e"]);
    bench.settle(responses);
    // The client does not ask again for a name that it is subscribed to (envoy #47302).
    let responses = bench.serve(view(&[(CDS, "a", "eds:e"), (CDS, "b", "eds:e"), (EDS, "e", "1")]));
    assert_eq!(shown(&responses), ["CDS +b", "EDS +e"]);
}

#[test]
fn a_pod_moves_and_only_its_endpoints_are_sent() {
    let mut bench = envoy(Delta);
    let mut entries = BEFORE.to_vec();
    entries[1] = (EDS, "old", "2");
    let responses = bench.serve(view(&entries));
    assert_eq!(shown(&responses), ["EDS +old"]);
}

#[test]
fn a_listener_takes_the_address_of_one_that_leaves_in_one_response() {
    let mut bench = envoy(Delta);
    let mut entries = BEFORE.to_vec();
    entries[2] = (LDS, "l2", "1");
    assert_eq!(shown(&bench.serve(view(&entries))), ["LDS +l2 -l"]);
}

#[test]
fn newest_only_when_the_client_is_slow() {
    let mut bench = envoy(Delta);
    for version in ["2", "3", "4"] {
        let mut entries = BEFORE.to_vec();
        entries[3] = (RDS, "r", version);
        bench.serve(view(&entries));
    }
    assert_eq!(shown(&bench.ack(RDS)), ["RDS +r"]);
    assert!(bench.ack(RDS).is_empty());
}

#[test]
fn synced_is_told_once_and_only_when_all_was_taken() {
    let mut bench = Bench::new(Delta);
    bench.serve(view(BEFORE));
    let synced = |bench: &Bench| bench.events.iter().filter(|e| matches!(e, Event::Synced { .. })).count();
    for (type_url, names, expected) in
        [(CDS, &[][..], 0), (EDS, &["old"], 0), (LDS, &[], 0), (RDS, &["r"], 1)]
    {
        let responses = bench.ask(type_url, names);
        bench.settle(responses);
        assert_eq!(synced(&bench), expected, "{type_url}");
    }
    bench.after(1);
    assert_eq!(synced(&bench), 1);
}

/// A relay was replaced, and there is something newer: what Envoy lists as held is not what it waits for. A route table
/// that went ahead of its clusters would cost requests.
#[test]
fn reconnect_with_a_changed_table_waits_for_its_clusters() {
    for protocol in [Delta, StateOfTheWorld] {
        let mut bench = Bench::new(protocol);
        bench.serve(view(AFTER));
        let come_back = |bench: &mut Bench, type_url: &str, names: &[&str], held: &str| match protocol {
            Delta => bench.resume(type_url, names, &[(held, "of an earlier stream")]),
            StateOfTheWorld => {
                let request = DiscoveryRequest {
                    node: Some(Node { id: "envoy-1".into(), ..Node::default() }),
                    type_url: type_url.into(),
                    resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
                    version_info: "of an earlier stream".into(),
                    ..Default::default()
                };
                bench.stream.state_of_the_world(request, bench.now).unwrap();
                bench.poll()
            }
        };
        assert_eq!(shown(&come_back(&mut bench, CDS, &[], "old")), ["CDS +new"], "{protocol:?}");
        assert!(come_back(&mut bench, RDS, &["r"], "r").is_empty(), "{protocol:?}: ahead of its cluster");
        assert_eq!(shown(&bench.ask(EDS, &["new"])), ["EDS +new"]);
        assert!(bench.ack(CDS).is_empty());
        assert_eq!(shown(&bench.ack(EDS)), ["RDS +r"]);
    }
}
