//! Many streams that ask for the same: what they are sent is there once.

use super::super::super::frame;
use super::super::model::*;
use super::super::{Protocol, Response, Settings};
use std::collections::BTreeMap;

const STREAMS: usize = 20;
const RESOURCES: usize = 1_000;

fn names() -> Vec<String> {
    (0..RESOURCES).map(|index| format!("shop/service-{index:05}/8080")).collect()
}

/// The bytes that all messages together hold, each piece of memory once.
fn held(messages: &[frame::Message]) -> usize {
    let pieces = messages.iter().flat_map(frame::Message::pieces);
    pieces.map(|piece| (piece.as_ptr(), piece.len())).collect::<BTreeMap<_, _>>().into_values().sum()
}

fn bytes(message: &frame::Message) -> usize {
    message.pieces().map(bytes::Bytes::len).sum()
}

fn sent(benches: &mut [Bench], mut act: impl FnMut(&mut Bench) -> Vec<Response>) -> Vec<frame::Message> {
    let of_one = |bench: &mut Bench| {
        let responses = act(bench);
        responses.iter().map(|response| frame::message(response).unwrap()).collect::<Vec<_>>()
    };
    benches.iter_mut().flat_map(of_one).collect()
}

/// The first answers, and those to a change of all that there is.
fn storm(protocol: Protocol, type_url: &str, asked: &[&str], settings: &Settings) {
    let names = names();
    let entries = |content: &'static str| {
        names.iter().map(|name| (type_url, name.as_str(), content)).collect::<Vec<Entry<'_>>>()
    };
    let mut benches: Vec<Bench> = (0..STREAMS).map(|_| Bench::with(protocol, settings.clone())).collect();
    let first = view(&entries("a small resource, as most of them are"));
    benches.iter_mut().for_each(|bench| drop(bench.serve(first.clone())));
    let mut answers = vec![sent(&mut benches, |bench| bench.ask(type_url, asked))];
    while benches[0].open.contains_key(type_url) {
        answers.push(sent(&mut benches, |bench| bench.ack(type_url)));
    }
    let next = view(&entries("another small resource, as most of them are"));
    answers.push(sent(&mut benches, |bench| bench.serve(next.clone())));
    let full = answers.iter().filter(|answer| !answer.is_empty());
    for answer in full.clone() {
        assert_eq!(answer.len(), STREAMS);
        let (one, all) = (bytes(&answer[0]), held(answer));
        assert!(all < one + STREAMS * 200, "{all} bytes for {STREAMS} times {one}");
    }
    assert!(full.count() >= 2);
    for bench in &mut benches {
        while bench.open.contains_key(type_url) {
            bench.ack(type_url);
        }
        assert_eq!(bench.held[type_url].len(), RESOURCES);
    }
}

#[test]
fn streams_that_ask_for_everything_share_it() {
    for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
        for type_url in [CDS, RDS] {
            storm(protocol, type_url, &["*"], &Settings::default());
        }
    }
}

#[test]
fn streams_that_ask_for_the_same_names_share_them() {
    let names = names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for protocol in [Protocol::Delta, Protocol::StateOfTheWorld] {
        storm(protocol, RDS, &names, &Settings::default());
    }
}

#[test]
fn what_is_split_is_shared_part_by_part() {
    let settings = Settings { max_response: 40_000, ..Settings::default() };
    storm(Protocol::Delta, CDS, &["*"], &settings);
}

/// A stream that has all keeps nothing of what it was sent.
#[test]
fn nothing_is_held_when_all_have_it() {
    let names = names();
    let entries: Vec<Entry<'_>> = names.iter().map(|name| (CDS, name.as_str(), "1")).collect();
    let view = view(&entries);
    let mut benches: Vec<Bench> = (0..3).map(|_| Bench::new(Protocol::Delta)).collect();
    let batch = |bench: &mut Bench| {
        bench.serve(view.clone());
        let responses = bench.ask(CDS, &["*"]);
        std::sync::Arc::downgrade(&responses[0].resources)
    };
    let batches: Vec<_> = benches.iter_mut().map(batch).collect();
    assert!(batches.iter().all(|batch| batch.ptr_eq(&batches[0]) && batch.strong_count() > 0));
    benches.iter_mut().for_each(|bench| drop(bench.ack(CDS)));
    assert_eq!(batches[0].strong_count(), 0);
}
