//! Every decoder of what others write, with thousands of inputs that nobody wrote: none panics, none eats memory, and what
//! is taken is taken again as it was.
//!
//! `MOORGATE_FUZZ_SECONDS=600` tries each for so long instead, `MOORGATE_FUZZ_SEED=N` other inputs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]
#![allow(clippy::print_stdout, reason = "a suite tells what it tried")]

#[path = "fuzz/relay.rs"]
mod relay;
#[path = "fuzz/stored.rs"]
mod stored;

use moorgate_tests::meter::Meter;
use moorgate_tests::mutate::{Effort, Tried};

/// Words of JSON and of our documents.
const JSON: &[&[u8]] = &[
    b"{",
    b"[",
    b"\"",
    b"null",
    b"{\"a\":",
    b"[{}]",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\"format\":2,",
    b"\"*\"",
    b"..",
    b"/",
    b"\x1b[2J",
    b"9999-12-31T23:59:59Z",
    b"-----BEGIN PUBLIC KEY-----\n",
];
/// Protobuf: keys of length-delimited fields, and groups, which nobody uses any more.
const PROTOBUF: &[&[u8]] = &[
    b"\x0a",
    b"\x12",
    b"\x1a\x00",
    b"\x0b",
    b"\x0c",
    b"\x0a\x80",
    b"\x22\xff\xff\xff\xff\x0f",
    b"type.googleapis.com/envoy.config.cluster.v3.Cluster",
    b"*",
];

/// The most memory that a decoder may ever have needed here, with all others beside it, in bytes.
const MEMORY: usize = 1 << 30;

/// As many inputs as fit into some two seconds of a debug build.
fn effort(inputs: usize) -> Effort {
    Effort::or_as_asked(inputs)
}

/// Says what was tried, and that it was worth it.
fn told(name: &str, tried: Tried) {
    println!("{name}: {} inputs, {} taken", tried.inputs, tried.accepted);
    assert!(tried.accepted > 0, "{name}: no changed input was taken: the corpus is of no use");
    let peak = usize::try_from(Meter::own().peak().unwrap()).unwrap() << 10;
    assert!(peak < MEMORY, "{name}: {} MiB", peak >> 20);
}
