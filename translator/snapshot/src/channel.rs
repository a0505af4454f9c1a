//! The state of a channel: everything a reader needs to know, whole in each log entry.

use crate::digest::Digest;
use crate::envelope::Signature;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Hashes marked bad are remembered up to this many; the oldest give way.
pub const BAD: usize = 32;

/// A snapshot in a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The snapshot.
    pub snapshot: Digest,
    /// The entry that brought it into this channel.
    pub sequence: u64,
    /// When that was, RFC 3339 UTC.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// What it was compiled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// How many routes it has, for the shrink guard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<u64>,
    /// Its signed attestation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Digest>,
    /// A bundle that holds most of its pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleRef>,
    /// Signatures by keys that rebuilt it, over [`crate::cosign::statement`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cosignatures: Vec<Signature>,
}

impl Release {
    /// A release of which nothing more is said.
    pub fn new(snapshot: Digest, sequence: u64, time: OffsetDateTime) -> Self {
        Self {
            snapshot,
            sequence,
            time,
            source: None,
            routes: None,
            attestation: None,
            bundle: None,
            cosignatures: Vec::new(),
        }
    }

    /// Whether this is the same release, whatever co-signatures have come to it since.
    pub fn is_the_same(&self, other: &Self) -> bool {
        let bare = |release: &Self| Self { cosignatures: Vec::new(), ..release.clone() };
        bare(self) == bare(other)
    }
}

/// What a snapshot was compiled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The repository's URL, or a directory.
    pub repository: String,
    /// The commit; empty if the source has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// The digest of the tree that was read; empty if unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tree: String,
    /// When the commit was made.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub committed: Option<OffsetDateTime>,
}

/// Pages in one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleRef {
    /// The digest of the uncompressed bundle.
    pub digest: Digest,
    /// Its uncompressed bytes: the bound for readers.
    pub size: u64,
    /// The snapshot whose pages it holds. Later snapshots share most of them.
    pub snapshot: Digest,
}

/// A release that is not yet, or not for all, what the channel serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The release.
    pub release: Release,
    /// How many of the steps are done: 0 if no relay takes it, as behind a pin.
    pub step: u32,
    /// Who takes it at each step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// When the present step was made: its bake time counts from there.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
}

/// One step of a wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Labels that a relay must have; all relays if empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The share of them, in percent.
    pub percent: u8,
    /// Seconds before the next step.
    pub bake_seconds: u64,
    /// The share of responses with 5xx, in percent, above which a relay takes its Envoys back while the step bakes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_error_percent: Option<u8>,
}

/// A release that holds the channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// What is served as long as the pin holds.
    pub release: Release,
    /// Why.
    pub reason: String,
    /// Who pinned.
    pub by: String,
    /// From when on it is an alarm that the channel is still pinned. Time alone ends no pin.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub expires: Option<OffsetDateTime>,
}

/// A stop for automation: publishing moves the candidate only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Why.
    pub reason: String,
    /// Who holds.
    pub by: String,
}

/// What came before is not served any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Releases of a lower sequence are not pinned or unpinned to.
    pub sequence: u64,
    /// Why, such as a revoked grant.
    pub reason: String,
}

/// The whole state of a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// What the channel serves if it is not pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Release>,
    /// What a relay goes back to if the target turns out bad.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_good: Option<Release>,
    /// What waits behind a pin or hold, or goes out in a wave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Candidate>,
    /// What holds the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
    /// What stops automation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// What came before is not served any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// Snapshots known to be bad, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<Digest>,
    /// Who publishes here: others are refused unless they ask for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub writer: String,
    /// The fleet is gone from the source: relays drain listeners and drop secrets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
}

/// What a relay outside every wave serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effective<'a> {
    /// Nothing has been published yet.
    Empty,
    /// The fleet is gone: drain.
    Retired,
    /// A release.
    Serve {
        /// What to serve.
        release: &'a Release,
        /// Which part of the state it comes from.
        because: Because,
        /// What to serve if Envoy refuses it.
        fallback: Option<&'a Release>,
    },
}

/// Why a release is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// It is pinned.
    Pin,
    /// It is the target.
    Target,
    /// The target is marked bad.
    TargetIsBad,
    /// It is the candidate, and the wave has reached this relay.
    Wave,
}

impl ChannelState {
    /// What a relay outside every wave serves: the pin before the target, the previous good release if the target is
    /// marked bad. A pin holds even for a snapshot marked bad, since a person asked for it.
    pub fn effective(&self) -> Effective<'_> {
        if self.retired {
            return Effective::Retired;
        }
        let good = |release: &&Release| !self.bad.contains(&release.snapshot);
        let previous = self.previous_good.as_ref().filter(good);
        let other = |than: &Release| previous.filter(|release| release.snapshot != than.snapshot);
        match (&self.pin, &self.target) {
            (Some(pin), _) => {
                let release = &pin.release;
                Effective::Serve { release, because: Because::Pin, fallback: other(release) }
            }
            (None, Some(target)) if good(&target) => {
                Effective::Serve { release: target, because: Because::Target, fallback: other(target) }
            }
            (None, Some(target)) => match other(target) {
                Some(release) => Effective::Serve { release, because: Because::TargetIsBad, fallback: None },
                None => Effective::Serve { release: target, because: Because::Target, fallback: None },
            },
            (None, None) => Effective::Empty,
        }
    }

    /// The release that is served outside every wave.
    pub fn serving(&self) -> Option<&Release> {
        match self.effective() {
            Effective::Serve { release, .. } => Some(release),
            Effective::Empty | Effective::Retired => None,
        }
    }

    /// The newest release that was published, in force or waiting.
    pub fn newest(&self) -> Option<&Release> {
        self.candidate.as_ref().map(|candidate| &candidate.release).or(self.target.as_ref())
    }

    /// All releases that the state names.
    pub fn releases(&self) -> impl Iterator<Item = &Release> {
        [
            self.target.as_ref(),
            self.previous_good.as_ref(),
            self.candidate.as_ref().map(|candidate| &candidate.release),
            self.pin.as_ref().map(|pin| &pin.release),
        ]
        .into_iter()
        .flatten()
    }

    /// Whether a release of this sequence lies below the floor.
    pub fn below_floor(&self, release: &Release) -> bool {
        self.floor.as_ref().is_some_and(|floor| release.sequence < floor.sequence)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn release(n: u8) -> Release {
        Release::new(Digest::of(&[n]), n.into(), OffsetDateTime::UNIX_EPOCH)
    }

    fn pin(n: u8) -> Pin {
        Pin { release: release(n), reason: "r".into(), by: "b".into(), expires: None }
    }

    #[test]
    fn pins_come_first_and_bad_targets_give_way() {
        let mut state = ChannelState::default();
        assert_eq!(state.effective(), Effective::Empty);
        state.target = Some(release(2));
        state.previous_good = Some(release(1));
        let serving = |state: &ChannelState| state.serving().map(|release| release.sequence);
        assert_eq!(serving(&state), Some(2));
        state.bad = vec![release(2).snapshot];
        assert_eq!(serving(&state), Some(1));
        // Nothing better is known: the bad one is better than none.
        state.bad.push(release(1).snapshot);
        assert_eq!(serving(&state), Some(2));
        state.pin = Some(pin(1));
        assert_eq!(serving(&state), Some(1));
        let Effective::Serve { because, fallback, .. } = state.effective() else { panic!("not served") };
        assert_eq!((because, fallback), (Because::Pin, None));
        state.retired = true;
        assert_eq!(state.effective(), Effective::Retired);
    }
}
