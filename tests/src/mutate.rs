//! Inputs that nobody wrote: valid ones, changed by chance. A seed gives the same ones again.
//!
//! Whatever a decoder accepts joins the corpus, so that changes pile up behind the checks that come first.

use crate::program;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// The longest input, in bytes.
const LONGEST: usize = 64 << 10;
/// Accepted inputs that are changed further.
const KEPT: usize = 256;
/// Bytes at the edges of what programs count with.
const EDGES: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, b'"', b'{', b'\n'];
/// Numbers at the edges, as text.
const NUMBERS: [&str; 8] = [
    "0",
    "-1",
    "1e999",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "4294967296",
    "0.1",
];

/// A source of numbers: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.any() % (bound.max(1) as u64)).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.any().to_le_bytes()[0]
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }
}

/// Changes an input in one to eight ways. `words` are what the format is made of; `others` are spliced in.
fn mutate(dice: &mut Dice, input: &[u8], words: &[&[u8]], others: &[Vec<u8>]) -> Vec<u8> {
    let mut out = input.to_vec();
    for _ in 0..=dice.below(8) {
        let at = dice.below(out.len() + 1);
        let end = at + dice.below((out.len() - at).min(64) + 1);
        match dice.below(12) {
            0 => {
                if let Some(byte) = out.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
            1 => {
                if let (Some(byte), Some(edge)) = (out.get_mut(at), dice.one(&EDGES)) {
                    *byte = *edge;
                }
            }
            2 => drop(out.drain(at..end)),
            3 => {
                let part: Vec<u8> = out[at..end].to_vec();
                let times = if dice.below(8) == 0 { 256 } else { 1 };
                insert(&mut out, at, &part.repeat(times));
            }
            4 => {
                let bytes: Vec<u8> = (0..=dice.below(8)).map(|_| dice.byte()).collect();
                insert(&mut out, at, &bytes);
            }
            5 => {
                let word = dice.one(words).copied().unwrap_or_default();
                insert(&mut out, at, word);
            }
            6 => out.truncate(at),
            7 => {
                let other = dice.one(others).cloned().unwrap_or_default();
                let from = dice.below(other.len() + 1);
                let to = from + dice.below(other.len() - from + 1);
                insert(&mut out, at, &other[from..to]);
            }
            8 => number(dice, &mut out),
            9 => {
                // A length or number as protobuf writes it, longer than it need be or as large as it can be.
                let varint: &[u8] = match dice.below(3) {
                    0 => &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    1 => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
                    _ => &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
                };
                insert(&mut out, at, varint);
            }
            10 => {
                // Deeper than anybody nests.
                let word = dice.one(words).copied().unwrap_or(b"[");
                let depth = 1 + dice.below(4000);
                insert(&mut out, at, &word.repeat(depth));
            }
            _ => {
                let to = dice.below(out.len() + 1);
                let part: Vec<u8> = out.drain(at..end).collect();
                let to = to.min(out.len());
                insert(&mut out, to, &part);
            }
        }
    }
    out.truncate(LONGEST);
    out
}

fn insert(out: &mut Vec<u8>, at: usize, part: &[u8]) {
    let part = &part[..part.len().min(LONGEST)];
    drop(out.splice(at..at, part.iter().copied()));
}

/// Replaces some number that is written in digits.
fn number(dice: &mut Dice, out: &mut Vec<u8>) {
    let starts: Vec<usize> = (0..out.len())
        .filter(|at| out[*at].is_ascii_digit() && (*at == 0 || !out[*at - 1].is_ascii_digit()))
        .collect();
    let (Some(start), Some(number)) = (dice.one(&starts).copied(), dice.one(&NUMBERS)) else { return };
    let end = out[start..].iter().position(|byte| !byte.is_ascii_digit()).map_or(out.len(), |n| start + n);
    drop(out.splice(start..end, number.bytes()));
}

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub enum Effort {
    /// So many inputs.
    Inputs(usize),
    /// For so long.
    Time(Duration),
}

impl Effort {
    /// `inputs`, unless `MOORGATE_FUZZ_SECONDS` says for how long each decoder is tried.
    pub fn or_as_asked(inputs: usize) -> Self {
        let seconds = program::variable("MOORGATE_FUZZ_SECONDS").and_then(|text| text.parse().ok());
        seconds.map_or(Self::Inputs(inputs), |seconds| Self::Time(Duration::from_secs(seconds)))
    }
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Inputs.
    pub inputs: usize,
    /// Those that the decoder took.
    pub accepted: usize,
}

/// Gives changed inputs to a decoder, which says whether it took one. A panic in it is told with its input and passed on.
///
/// # Panics
/// The decoder does, or it does not take the corpus as it is.
pub fn fuzz(
    name: &str,
    corpus: Vec<Vec<u8>>,
    words: &[&[u8]],
    effort: Effort,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Tried {
    let seed = program::variable("MOORGATE_FUZZ_SEED").and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut dice = Dice::new(seed);
    let mut tried = Tried { inputs: 0, accepted: 0 };
    for input in &corpus {
        assert!(take(input), "{name}: the corpus is not taken: {}", shown(input));
    }
    let originals = corpus.len();
    let (mut corpus, start) = (corpus, Instant::now());
    loop {
        match effort {
            Effort::Inputs(inputs) if tried.inputs >= inputs => return tried,
            Effort::Time(time) if start.elapsed() >= time => return tried,
            _ => {}
        }
        let at = dice.below(corpus.len());
        let input = mutate(&mut dice, &corpus[at], words, &corpus);
        tried.inputs += 1;
        match catch_unwind(AssertUnwindSafe(|| take(&input))) {
            Ok(false) => {}
            Ok(true) => {
                tried.accepted += 1;
                if corpus.len() < KEPT {
                    corpus.push(input);
                } else {
                    let slot = originals + dice.below(KEPT - originals);
                    corpus[slot] = input;
                }
            }
            Err(panic) => {
                #[allow(clippy::print_stderr, reason = "a test tells what it found")]
                {
                    eprintln!("{name}: seed {seed}, input {}: {}", tried.inputs, shown(&input));
                }
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Bytes as a string of Rust.
fn shown(input: &[u8]) -> String {
    format!("b\"{}\"", input.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest decoder: it is broken in one place, and that is found.
    #[test]
    fn what_is_broken_is_found_and_a_seed_finds_it_again() {
        let corpus = || vec![b"abc".to_vec(), b"{\"n\": 1}".to_vec()];
        let run = |limit: u8| {
            let mut seen = Vec::new();
            let tried = fuzz("test", corpus(), &[b"["], Effort::Inputs(2000), |input| {
                seen.push(input.to_vec());
                input.first().is_some_and(|byte| *byte < limit)
            });
            (tried, seen)
        };
        assert_eq!(run(200), run(200));
        assert!(run(200).0.accepted > 100);
        let broken = catch_unwind(|| {
            fuzz("broken", corpus(), &[b"["], Effort::Inputs(20_000), |input| {
                assert!(!input.starts_with(b"[[[["), "deep");
                true
            })
        });
        assert!(broken.is_err());
    }
}
