//! Waves: which relays take a candidate, decided by each of them alone.
//!
//! A relay is in if one of the steps that are done selects it: by its labels, and by its share, a number that follows
//! from relay, channel and snapshot. So the answer is the same after a restart, needs no other relay, differs from
//! candidate to candidate, and a relay that is in stays in as the wave goes on.

use crate::channel::{Because, Candidate, ChannelState, Effective, Step};
use crate::digest::Digest;
use crate::layout::Channel;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Steps that a wave may have.
pub const STEPS: usize = 16;
/// Labels that a relay, or a step, may have.
pub const LABELS: usize = 16;
/// The label that every relay has: its name.
pub const RELAY_LABEL: &str = "relay";
/// Shares are counted in so many parts.
const PARTS: u64 = 10_000;

/// Who a relay is, as far as waves ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayIdentity {
    name: RelayName,
    labels: BTreeMap<String, String>,
}

/// The name of a relay: unique in its fleet, the same after a restart, and fit for a path: letters, digits, `-`, `.` and
/// `_`, up to 100, starting and ending with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RelayName(String);

/// Text that names no relay, or a label that is none.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// The name.
    #[error(
        "{0:?} is no name of a relay: up to 100 letters, digits, -, . and _, not starting or ending with the last three"
    )]
    Name(String),
    /// A label.
    #[error("{0:?} is no label: write key=value, each up to 100 letters, digits, -, ., _ and /")]
    Label(String),
    /// Too many labels.
    #[error("more than {LABELS} labels")]
    TooMany,
}

impl RelayName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RelayName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        let valid = bytes.len() <= 100
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b))
            && edge(bytes.first())
            && edge(bytes.last());
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdentityError::Name(text.chars().take(120).collect()))
        }
    }
}

impl TryFrom<String> for RelayName {
    type Error = IdentityError;

    fn try_from(text: String) -> Result<Self, IdentityError> {
        text.parse()
    }
}

impl From<RelayName> for String {
    fn from(name: RelayName) -> Self {
        name.0
    }
}

/// Reads `key=value`, as in a relay's flags and in the steps of a wave.
pub fn label(text: &str) -> Result<(String, String), IdentityError> {
    let word = |text: &str| {
        !text.is_empty()
            && text.len() <= 100
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/".contains(&b))
    };
    match text.split_once('=') {
        Some((key, value)) if word(key) && word(value) => Ok((key.to_owned(), value.to_owned())),
        _ => Err(IdentityError::Label(text.chars().take(220).collect())),
    }
}

impl RelayIdentity {
    /// A relay with these labels, such as `zone=eu-1`. It has the label `relay`, its name, whatever they say.
    pub fn new(name: RelayName, labels: BTreeMap<String, String>) -> Result<Self, IdentityError> {
        if labels.len() > LABELS {
            return Err(IdentityError::TooMany);
        }
        let mut labels = labels;
        labels.insert(RELAY_LABEL.to_owned(), name.0.clone());
        Ok(Self { name, labels })
    }

    /// Its name.
    pub fn name(&self) -> &RelayName {
        &self.name
    }

    /// Its labels, the name among them.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// Its place among all relays for this candidate: 0 to 9,999, even over many relays.
    fn part(&self, channel: &Channel, snapshot: &Digest) -> u64 {
        let parts = [self.name.0.as_bytes(), b"\0", channel.as_str().as_bytes(), b"\0", snapshot.as_bytes()];
        let digest = Digest::of_parts(parts);
        let first = digest.as_bytes().first_chunk::<8>().copied().unwrap_or_default();
        u64::from_be_bytes(first) % PARTS
    }
}

impl Step {
    /// Whether the step selects a relay.
    fn selects(&self, relay: &RelayIdentity, part: u64) -> bool {
        let labelled = self.labels.iter().all(|(key, value)| relay.labels.get(key) == Some(value));
        labelled && part < u64::from(self.percent) * (PARTS / 100)
    }
}

impl Candidate {
    /// Whether this relay takes the candidate already: one of the steps that are done selects it.
    pub fn taken_by(&self, relay: &RelayIdentity, channel: &Channel) -> bool {
        let part = relay.part(channel, &self.release.snapshot);
        let done = usize::try_from(self.step).unwrap_or(usize::MAX);
        self.steps.iter().take(done).any(|step| step.selects(relay, part))
    }

    /// The step that bakes now; none before the first.
    pub fn baking(&self) -> Option<&Step> {
        let done = usize::try_from(self.step).ok()?;
        self.steps.get(done.checked_sub(1)?)
    }
}

impl ChannelState {
    /// What this relay serves: the candidate if the wave has reached it, else what holds outside every wave. A pin comes
    /// before every wave, and what is marked bad is taken by nobody.
    pub fn effective_for(&self, relay: &RelayIdentity, channel: &Channel) -> Effective<'_> {
        let outside = self.effective();
        let wave = self.candidate.as_ref().filter(|candidate| {
            !self.retired
                && self.pin.is_none()
                && !self.bad.contains(&candidate.release.snapshot)
                && candidate.taken_by(relay, channel)
        });
        let Some(candidate) = wave else { return outside };
        let fallback = match outside {
            Effective::Serve { release, .. } => Some(release),
            Effective::Empty | Effective::Retired => None,
        };
        Effective::Serve { release: &candidate.release, because: Because::Wave, fallback }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Pin;
    use crate::channel::tests::release;

    fn step(labels: &[&str], percent: u8) -> Step {
        let labels = labels.iter().map(|text| label(text).unwrap()).collect();
        Step { labels, percent, bake_seconds: 300, max_error_percent: None }
    }

    fn relay(name: &str, labels: &[&str]) -> RelayIdentity {
        let labels = labels.iter().map(|text| label(text).unwrap()).collect();
        RelayIdentity::new(name.parse().unwrap(), labels).unwrap()
    }

    fn wave(done: u32, steps: Vec<Step>) -> ChannelState {
        ChannelState {
            target: Some(release(1)),
            candidate: Some(Candidate { release: release(2), step: done, steps, since: None }),
            ..ChannelState::default()
        }
    }

    fn serves(state: &ChannelState, relay: &RelayIdentity) -> (u64, Because) {
        let Effective::Serve { release, because, .. } = state.effective_for(relay, &Channel::stable()) else {
            panic!("nothing served")
        };
        (release.sequence, because)
    }

    #[test]
    fn a_share_is_even_and_grows_without_moving_anybody() {
        let relays: Vec<_> = (0..2000).map(|n| relay(&format!("relay-{n}"), &[])).collect();
        let mut before = vec![false; relays.len()];
        for percent in [0, 1, 10, 50, 100] {
            let state = wave(1, vec![step(&[], percent)]);
            let now: Vec<bool> = relays.iter().map(|relay| serves(&state, relay).0 == 2).collect();
            assert!(before.iter().zip(&now).all(|(before, now)| now >= before), "{percent}");
            let count = now.iter().filter(|is_in| **is_in).count();
            let expected = relays.len() * usize::from(percent) / 100;
            assert!(count.abs_diff(expected) <= 70, "{count} at {percent} %");
            before = now;
        }
        assert!(before.iter().all(|is_in| *is_in));
    }

    #[test]
    fn other_candidates_and_channels_choose_others() {
        let relays: Vec<_> = (0..200).map(|n| relay(&format!("relay-{n}"), &[])).collect();
        let chosen = |snapshot: Digest, channel: &str| -> Vec<u64> {
            relays.iter().map(|relay| relay.part(&channel.parse().unwrap(), &snapshot)).collect()
        };
        let one = chosen(Digest::of(b"1"), "stable");
        assert_ne!(one, chosen(Digest::of(b"2"), "stable"));
        assert_ne!(one, chosen(Digest::of(b"1"), "next"));
        assert_eq!(one, chosen(Digest::of(b"1"), "stable"));
    }

    #[test]
    fn steps_select_by_labels_and_only_those_that_are_done() {
        let steps = vec![step(&["relay=a"], 100), step(&["zone=eu-1", "tier=edge"], 100), step(&[], 100)];
        let [a, b, c] = [
            relay("a", &["relay=forged"]),
            relay("b", &["zone=eu-1", "tier=edge"]),
            relay("c", &["zone=eu-1"]),
        ];
        for (done, expected) in
            [(0, [1, 1, 1]), (1, [2, 1, 1]), (2, [2, 2, 1]), (3, [2, 2, 2]), (9, [2, 2, 2])]
        {
            let state = wave(done, steps.clone());
            assert_eq!([&a, &b, &c].map(|relay| serves(&state, relay).0), expected, "after step {done}");
        }
        assert_eq!(serves(&wave(1, steps.clone()), &a), (2, Because::Wave));
        let state = wave(1, steps);
        let Effective::Serve { fallback, .. } = state.effective_for(&a, &Channel::stable()) else {
            panic!("nothing served")
        };
        assert_eq!(fallback.map(|release| release.sequence), Some(1));
    }

    #[test]
    fn pins_bad_hashes_and_retirement_come_before_waves() {
        let a = relay("a", &[]);
        let open = wave(1, vec![step(&[], 100)]);
        let bad = ChannelState { bad: vec![release(2).snapshot], ..open.clone() };
        assert_eq!(serves(&bad, &a).0, 1);
        let pin = Pin { release: release(1), reason: "r".into(), by: "b".into(), expires: None };
        let pinned = ChannelState { pin: Some(pin), ..open.clone() };
        assert_eq!(serves(&pinned, &a), (1, Because::Pin));
        let retired = ChannelState { retired: true, ..open };
        assert_eq!(retired.effective_for(&a, &Channel::stable()), Effective::Retired);
    }

    #[test]
    fn names_and_labels_are_checked() {
        for name in ["a", "relay-1", "ip-10-0-0-1.eu.internal", "A_b"] {
            assert_eq!(name.parse::<RelayName>().unwrap().as_str(), name);
        }
        for name in ["", "-a", "a/b", "..", "a.", "a b", &"a".repeat(101)] {
            assert!(name.parse::<RelayName>().is_err(), "{name}");
        }
        for text in ["", "zone", "=x", "zone=", "zone=a b", "zone=a=b"] {
            assert!(label(text).is_err(), "{text}");
        }
        let many = (0..=LABELS).map(|n| (format!("l{n}"), "x".to_owned())).collect();
        assert_eq!(RelayIdentity::new("a".parse().unwrap(), many), Err(IdentityError::TooMany));
    }
}
