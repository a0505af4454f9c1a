//! The scenarios, with the suite's own examples.

use super::rig::{Rig, State, list};
use moorgate_relay::serve::types::{CLUSTER, ENDPOINT, LISTENER, ROUTE};

fn type_url(short: &str) -> &'static str {
    match short {
        "cds" => CLUSTER,
        "lds" => LISTENER,
        "rds" => ROUTE,
        "eds" => ENDPOINT,
        other => panic!("no such type: {other}"),
    }
}

/// One run: scenario, variant, types.
pub(super) async fn run((scenario, variant, kind): (&str, &str, &str)) {
    if let Some((one, two)) = kind.split_once('_') {
        let (one, two) = (type_url(one), type_url(two));
        return match scenario {
            "several_types_on_one_stream" => several_types_on_one_stream(variant, one, two).await,
            "several_types_on_one_delta_stream" => several_types_on_one_delta_stream(variant, one, two).await,
            other => panic!("no such scenario: {other}"),
        };
    }
    let kind = type_url(kind);
    match scenario {
        "wildcard_returns_all" => wildcard_returns_all(variant, kind).await,
        "wildcard_gets_updates" => wildcard_gets_updates(variant, kind).await,
        "wildcard_gets_new_resources" => wildcard_gets_new_resources(variant, kind).await,
        "specific_names_only" => specific_names_only(variant, kind).await,
        "specific_names_updated" => specific_names_updated(variant, kind).await,
        "specific_names_updated_alone" => specific_names_updated_alone(variant, kind).await,
        "not_yet_existing_names" => not_yet_existing_names(variant, kind).await,
        "not_yet_existing_names_alone" => not_yet_existing_names_alone(variant, kind).await,
        "unsubscribe_from_some" => unsubscribe_from_some(variant, kind).await,
        "unsubscribe_from_some_gets_only_the_rest" => {
            unsubscribe_from_some_gets_only_the_rest(variant, kind).await;
        }
        "unsubscribe_from_all" => unsubscribe_from_all(variant, kind).await,
        "one_after_another" => one_after_another(variant, kind).await,
        "one_updated" => one_updated(variant, kind).await,
        "missing_then_created" => missing_then_created(variant, kind).await,
        "removed_then_added_again" => removed_then_added_again(variant, kind).await,
        "incremental_unsubscribe" => incremental_unsubscribe(variant, kind).await,
        other => panic!("no such scenario: {other}"),
    }
}

async fn wildcard(variant: &str, kind: &'static str) -> Rig {
    let names = if kind == CLUSTER { "A,B,C" } else { "D,E,F" };
    let mut rig = Rig::set_up(variant, &[kind], names).await;
    rig.subscribe(kind, &[]);
    let all = rig.all(kind);
    rig.receives(kind, &all).await;
    rig
}

async fn wildcard_returns_all(variant: &str, kind: &'static str) {
    let mut rig = wildcard(variant, kind).await;
    rig.is_silent_until_the_next_change(kind).await;
    rig.end().await;
}

async fn wildcard_gets_updates(variant: &str, kind: &'static str) {
    let mut rig = wildcard(variant, kind).await;
    rig.put(kind, if kind == CLUSTER { "A" } else { "D" }, 2).await;
    let all = rig.all(kind);
    rig.receives(kind, &all).await;
    rig.is_silent_until_the_next_change(kind).await;
    rig.end().await;
}

async fn wildcard_gets_new_resources(variant: &str, kind: &'static str) {
    let mut rig = wildcard(variant, kind).await;
    rig.put(kind, if kind == CLUSTER { "D" } else { "G" }, 2).await;
    let all = rig.all(kind);
    rig.receives(kind, &all).await;
    rig.is_silent_until_the_next_change(kind).await;
    rig.end().await;
}

/// Subscribes to these of those, and gets them.
async fn subscribed(variant: &str, kind: &'static str, names: &str, subset: &str) -> Rig {
    let mut rig = Rig::set_up(variant, &[kind], names).await;
    rig.subscribe(kind, &list(subset));
    let wanted = rig.only(kind, subset);
    rig.receives(kind, &wanted).await;
    rig
}

async fn specific_names_only(variant: &str, kind: &'static str) {
    let (names, subset) = if kind == LISTENER { ("G,B,L,D", "L,G") } else { ("B,A", "B,A") };
    let mut rig = subscribed(variant, kind, names, subset).await;
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn specific_names_updated(variant: &str, kind: &'static str) {
    let (names, subset, one) =
        if kind == CLUSTER { ("A,B,C,D", "B,D", "B") } else { ("G,B,L,D", "L,G", "G") };
    let mut rig = subscribed(variant, kind, names, subset).await;
    rig.put(kind, one, 2).await;
    let wanted = rig.only(kind, subset);
    rig.receives(kind, &wanted).await;
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn specific_names_updated_alone(variant: &str, kind: &'static str) {
    let mut rig = subscribed(variant, kind, "A,B,C,D", "B,D").await;
    rig.put(kind, "B", 2).await;
    rig.receives(kind, &State::from([("B".into(), 2)])).await;
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn not_yet_existing_names(variant: &str, kind: &'static str) {
    let (names, subset, existing, one) =
        if kind == CLUSTER { ("A,B,C", "A,Z", "A", "Z") } else { ("G,B,D", "B,D,X", "B,D", "X") };
    let mut rig = Rig::set_up(variant, &[kind], names).await;
    rig.subscribe(kind, &list(subset));
    let wanted = rig.only(kind, existing);
    rig.receives(kind, &wanted).await;
    rig.put(kind, one, 2).await;
    let wanted = rig.only(kind, subset);
    rig.receives(kind, &wanted).await;
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn not_yet_existing_names_alone(variant: &str, kind: &'static str) {
    let mut rig = Rig::set_up(variant, &[kind], "A,B,C,D").await;
    rig.subscribe(kind, &["A", "Z"]);
    let wanted = rig.only(kind, "A");
    rig.receives(kind, &wanted).await;
    rig.put(kind, "Z", 2).await;
    rig.receives(kind, &State::from([("Z".into(), 2)])).await;
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn several_types_on_one_stream(variant: &str, one: &'static str, two: &'static str) {
    let mut rig = Rig::set_up(variant, &[one, two], "A,B,C").await;
    for kind in [one, two] {
        rig.subscribe(kind, &["B"]);
        let wanted = rig.only(kind, "B");
        rig.receives(kind, &wanted).await;
    }
    rig.put(one, "B", 2).await;
    rig.receives(one, &State::from([("B".into(), 2)])).await;
    rig.is_silent(two).await;
    rig.end().await;
}

async fn unsubscribe_from_some(variant: &str, kind: &'static str) {
    let (names, subset, one) =
        if kind == CLUSTER { ("F,A,B,C,D", "C,A,B", "A") } else { ("G,B,L,D", "B,D,L", "B") };
    let mut rig = subscribed(variant, kind, names, subset).await;
    rig.subscribe(kind, &[one]);
    rig.put(kind, one, 2).await;
    rig.receives(kind, &State::from([(one.into(), 2)])).await;
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn unsubscribe_from_some_gets_only_the_rest(variant: &str, kind: &'static str) {
    let mut rig = subscribed(variant, kind, "A,B,C,D", "B,D").await;
    rig.subscribe(kind, &["B"]);
    rig.put(kind, "B", 2).await;
    rig.receives(kind, &State::from([("B".into(), 2)])).await;
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn unsubscribe_from_all(variant: &str, kind: &'static str) {
    let mut rig = subscribed(variant, kind, "A,B,C,D", "A,B").await;
    // As the suite does it: one name that is empty.
    rig.subscribe(kind, &[""]);
    rig.put(kind, "B", 2).await;
    rig.is_silent(kind).await;
    rig.end().await;
}

/// The examples of most delta scenarios.
fn names(kind: &str, count: usize) -> Vec<&'static str> {
    if kind == CLUSTER { vec!["A", "B", "C"] } else { vec!["D", "E", "F"] }.into_iter().take(count).collect()
}

async fn one_after_another(variant: &str, kind: &'static str) {
    let names = names(kind, 3);
    let mut rig = Rig::set_up(variant, &[kind], &names.join(",")).await;
    for name in &names[..2] {
        rig.subscribe(kind, &[name]);
        let wanted = rig.only(kind, name);
        rig.receives(kind, &wanted).await;
    }
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn one_updated(variant: &str, kind: &'static str) {
    let mut rig = Rig::set_up(variant, &[kind], "A,B,C").await;
    rig.subscribe(kind, &["A", "B", "C"]);
    let wanted = rig.only(kind, "A,B,C");
    let before = rig.receives(kind, &wanted).await;
    rig.put(kind, "A", 2).await;
    let after = rig.receives(kind, &State::from([("A".into(), 2)])).await;
    assert_ne!(before.nonce, after.nonce);
    assert_ne!(before.version, after.version);
    assert!(before.versions.is_disjoint(&after.versions), "no other resource has the version of A");
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn missing_then_created(variant: &str, kind: &'static str) {
    let names = names(kind, 2);
    let mut rig = Rig::set_up(variant, &[kind], names[0]).await;
    rig.subscribe(kind, &names);
    let wanted = rig.only(kind, names[0]);
    let before = rig.receives(kind, &wanted).await;
    // The suite leaves this step out, because its reference server fails it.
    assert_eq!(before.removed, [names[1]]);
    rig.put(kind, names[1], 1).await;
    let after = rig.receives(kind, &State::from([(names[1].into(), 1)])).await;
    assert_ne!(before.nonce, after.nonce);
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn removed_then_added_again(variant: &str, kind: &'static str) {
    let names = names(kind, 2);
    let mut rig = Rig::set_up(variant, &[kind], &names.join(",")).await;
    rig.subscribe(kind, &names);
    let wanted = rig.only(kind, &names.join(","));
    let before = rig.receives(kind, &wanted).await;
    rig.remove(kind, names[1]).await;
    let gone = rig.receives(kind, &State::new()).await;
    assert_eq!(gone.removed, [names[1]]);
    rig.put(kind, names[1], 2).await;
    let after = rig.receives(kind, &State::from([(names[1].into(), 2)])).await;
    assert!(before.versions.is_disjoint(&after.versions));
    assert!(![before.nonce, gone.nonce].contains(&after.nonce));
    rig.is_silent(kind).await;
    rig.end().await;
}

async fn incremental_unsubscribe(variant: &str, kind: &'static str) {
    let names = names(kind, 2);
    let mut rig = Rig::set_up(variant, &[kind], &names.join(",")).await;
    rig.subscribe(kind, &names);
    let wanted = rig.only(kind, &names.join(","));
    rig.receives(kind, &wanted).await;
    for name in [names[1], names[0]] {
        rig.unsubscribe(kind, &[name]);
        rig.put(kind, name, 2).await;
        rig.is_silent(kind).await;
    }
    rig.end().await;
}

async fn several_types_on_one_delta_stream(variant: &str, one: &'static str, two: &'static str) {
    let mut rig = Rig::set_up(variant, &[one, two], "A,B,C").await;
    for kind in [one, two] {
        rig.subscribe(kind, &["B"]);
    }
    // In the order of the protocol, if both were asked for before there was a snapshot.
    let both = [rig.next().await, rig.next().await];
    for kind in [one, two] {
        let got = both.iter().find(|got| got.type_url == kind).expect("an answer for each type");
        assert_eq!(got.resources, rig.only(kind, "B"));
    }
    for kind in [one, two] {
        rig.put(kind, "B", 2).await;
        rig.receives(kind, &State::from([("B".into(), 2)])).await;
    }
    rig.is_silent(one).await;
    rig.is_silent(two).await;
    rig.end().await;
}
