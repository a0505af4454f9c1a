//! What a relay remembers about its fleet.

use moorgate_snapshot::Digest;
use moorgate_snapshot::trust::chain::Remembered;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How many snapshots that were served are kept besides pins.
const GENERATIONS: usize = 5;
/// Nodes that are set back alone and remembered.
const MAX_SET_BACK: usize = 1000;
/// Refused snapshots that are remembered.
const MAX_QUARANTINED: usize = 64;

/// The memory of a relay. It is believed by its own digest, never judged again by today's keys: what was verified once
/// stays verified (DESIGN §5). What an older relay does not know, it reads over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The newest verified log entry.
    pub sequence: u64,
    /// Its digest: another entry with this sequence is an attack.
    pub entry: Option<Digest>,
    /// The entry as it was signed, for what it says besides the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<String>,
    /// The snapshot that is served.
    pub serving: Option<Digest>,
    /// Snapshots that Envoys took, newest first.
    pub good: Vec<Digest>,
    /// Snapshots that are bad here.
    pub quarantined: BTreeMap<Digest, Refused>,
    /// Envoys that alone refused what others took, by their node's id: they get the snapshot before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set_back: BTreeMap<String, Digest>,
    /// Values, such as endpoints, that an Envoy refused: it is not sent them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_values: Vec<RefusedValue>,
    /// The candidate that was taken here, as far as its wave goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<Wave>,
    /// How far the chain of trust was followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Remembered>,
}

/// Why a snapshot is not served here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What Envoy said, or what its answers showed.
    pub text: String,
    /// Since when, in seconds since 1970.
    pub since: i64,
    /// Until when, if it is tried again by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// What one client refused of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedValue {
    /// Who the client has proven to be.
    pub client: String,
    /// The node id that it gave.
    pub node: String,
    /// The type URL.
    pub kind: String,
    /// Versions by resource; none of one that was taken away.
    pub versions: BTreeMap<String, Option<String>>,
}

/// A candidate that this relay takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// The candidate.
    pub snapshot: Digest,
    /// The step that bakes.
    pub step: u32,
    /// Since when it does here, in seconds since 1970: a restart does not begin it anew.
    pub since: i64,
    /// Whether its Envoys were within the bound of the step, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
}

impl State {
    /// Notes that a snapshot serves well: it is the first to fall back to.
    pub fn note_good(&mut self, id: Digest) {
        self.good.retain(|known| *known != id);
        self.good.insert(0, id);
        self.good.truncate(GENERATIONS);
    }

    /// Notes that a snapshot is bad here, though it may have been good before.
    pub fn note_bad(&mut self, id: Digest, refused: Refused) {
        if self.quarantined.len() >= MAX_QUARANTINED {
            let oldest = self.quarantined.iter().min_by_key(|(_, refused)| refused.since).map(|(id, _)| *id);
            oldest.map(|oldest| self.quarantined.remove(&oldest));
        }
        self.good.retain(|known| *known != id);
        self.quarantined.insert(id, refused);
    }

    /// Notes that one Envoy refused what others took.
    pub fn note_set_back(&mut self, node: String, snapshot: Digest) {
        if self.set_back.len() < MAX_SET_BACK || self.set_back.contains_key(&node) {
            self.set_back.insert(node, snapshot);
        }
    }

    /// Whether a snapshot is bad here.
    pub fn is_bad(&self, id: &Digest) -> bool {
        self.quarantined.contains_key(id)
    }

    /// Tries again what was bad for a time only, and forgets what is no longer asked for; whether anything changed.
    pub fn forget_bad(&mut self, now: i64, asked_for: impl Fn(&Digest) -> bool) -> bool {
        let before = self.quarantined.len();
        self.quarantined.retain(|id, refused| asked_for(id) && refused.until.is_none_or(|until| now < until));
        before != self.quarantined.len()
    }

    /// Every snapshot that must stay in the cache.
    pub fn kept(&self) -> BTreeSet<Digest> {
        self.good.iter().copied().chain(self.serving).collect()
    }

    /// Snapshots to try at start, best first.
    pub fn candidates(&self) -> Vec<Digest> {
        let mut out: Vec<Digest> = self.serving.into_iter().collect();
        out.extend(self.good.iter().copied().filter(|id| Some(*id) != self.serving));
        out
    }

    /// The digest of the text on the first line, then the text.
    pub(super) fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        [format!("{}\n", Digest::of(&text)).as_bytes(), &text].concat()
    }

    /// The state, if the bytes are what was written.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let at = bytes.iter().position(|byte| *byte == b'\n')?;
        let (digest, text) = (bytes.get(..at)?, bytes.get(at + 1..)?);
        let digest: Digest = std::str::from_utf8(digest).ok()?.parse().ok()?;
        if Digest::of(text) == digest { serde_json::from_slice(text).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn refused(since: i64, until: Option<i64>) -> Refused {
        Refused { text: "no".into(), since, until }
    }

    #[test]
    fn what_is_bad_is_bounded_and_ends() {
        let mut state = State::default();
        state.note_good(id(1));
        state.note_bad(id(1), refused(10, Some(20)));
        state.note_bad(id(2), refused(11, None));
        assert!(state.good.is_empty());
        assert!(!state.forget_bad(19, |_| true));
        assert!(state.forget_bad(20, |_| true));
        assert_eq!((state.is_bad(&id(1)), state.is_bad(&id(2))), (false, true));
        // Another hash is asked for.
        assert!(state.forget_bad(20, |asked| *asked != id(2)));
        for n in 0..=u8::MAX {
            state.note_bad(id(n), refused(n.into(), None));
        }
        assert_eq!(state.quarantined.len(), MAX_QUARANTINED);
        assert!(state.is_bad(&id(u8::MAX)) && !state.is_bad(&id(0)));
    }

    #[test]
    fn fields_of_a_newer_relay_are_read_over() {
        let text = r#"{"sequence":3,"entry":null,"serving":null,"good":[],"quarantined":{},"newer":{"a":1}}"#;
        let bytes = format!("{}\n{text}", Digest::of(text.as_bytes()));
        assert_eq!(State::decode(bytes.as_bytes()).unwrap().sequence, 3);
    }
}
