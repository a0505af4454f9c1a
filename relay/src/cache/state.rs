//! What a relay remembers about its fleet.

use moorgate_snapshot::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How many snapshots that were served are kept besides pins.
const GENERATIONS: usize = 5;

/// The memory of a relay. It is believed by its own digest, never judged again by today's keys: what was verified once
/// stays verified (DESIGN §5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Snapshots that Envoys refused, with what they said.
    pub quarantined: std::collections::BTreeMap<Digest, String>,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    digest: Digest,
    state: State,
}

impl State {
    /// Notes that a snapshot serves well: it is the first to fall back to.
    pub fn note_good(&mut self, id: Digest) {
        self.good.retain(|known| *known != id);
        self.good.insert(0, id);
        self.good.truncate(GENERATIONS);
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

    pub(super) fn encode(&self) -> Vec<u8> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let sealed = Sealed { digest: Digest::of(&text), state: self.clone() };
        serde_json::to_vec_pretty(&sealed).unwrap_or_default()
    }

    /// The state, if the bytes are what was written.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let sealed: Sealed = serde_json::from_slice(bytes).ok()?;
        let text = serde_json::to_vec(&sealed.state).ok()?;
        (Digest::of(&text) == sealed.digest).then_some(sealed.state)
    }
}
