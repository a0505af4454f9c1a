//! What is refused unless asked for.

use moorgate_snapshot::channel::{ChannelState, Release, Source};
use moorgate_snapshot::{Channel, Digest, KeyId};
use thiserror::Error;

/// From how many routes on the shrink guard looks at shares; below, only at nothing left.
const SHRINK_FROM: u64 = 20;

/// What the user asked for beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allow {
    /// A snapshot that loses more than a fifth of its routes, or all.
    pub shrink: bool,
    /// Another writer's channel.
    pub other_writer: bool,
    /// A commit that is no descendant of the newest one.
    pub unrelated: bool,
}

/// A gate that refused, and what to do.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Gate {
    /// Somebody else took the slot.
    #[error(
        "channel moved: entry {sequence} of {channel} is {by}. Nothing was committed; look at it, then run again"
    )]
    Moved {
        /// The channel.
        channel: Channel,
        /// The slot.
        sequence: u64,
        /// Who took it, and for what.
        by: String,
    },
    /// An entry by a key that is unknown here: more likely an old trust file than an attack.
    #[error(
        "entry {sequence} is signed by a key that you do not trust ({keys}): is your trust file too old? --step-over writes behind it all the same"
    )]
    Foreign {
        /// The slot.
        sequence: u64,
        /// The keys.
        keys: String,
    },
    /// The channel is not where the caller expects it.
    #[error(
        "the channel is at entry {found}, not at {expected}: look at what came in between, then run again"
    )]
    NotAtParent {
        /// The newest entry.
        found: u64,
        /// The entry that was expected to be.
        expected: u64,
    },
    /// Another writer's channel.
    #[error("the channel is written by {owner:?}, not by {writer:?}; --take-over makes it yours")]
    OtherWriter {
        /// Who writes it.
        owner: String,
        /// Who tries to.
        writer: String,
    },
    /// A commit that is no descendant.
    #[error(
        "commit {new} does not descend from {old}, which is published: an older job, or a branch; --allow-unrelated publishes it all the same"
    )]
    NotDescendant {
        /// The published commit.
        old: String,
        /// The commit to publish.
        new: String,
    },
    /// It cannot be told whether the commit is a descendant.
    #[error(
        "cannot tell whether {new} descends from the published commit {old}: fetch the whole history, or say --allow-unrelated"
    )]
    UnknownAncestry {
        /// The published commit.
        old: String,
        /// The commit to publish, or what there is instead.
        new: String,
    },
    /// The snapshot lost too many routes.
    #[error(
        "{after} routes where {before} are published: a wrong directory, or a failed render? --allow-shrink publishes it"
    )]
    Shrunk {
        /// Published.
        before: u64,
        /// To be published.
        after: u64,
    },
    /// The snapshot is marked bad.
    #[error("snapshot {0} is marked bad in this channel")]
    Bad(Digest),
    /// The release lies below the floor.
    #[error("release {sequence} lies below the floor {floor}: {reason}")]
    BelowFloor {
        /// The release.
        sequence: u64,
        /// The floor.
        floor: u64,
        /// Why there is one.
        reason: String,
    },
    /// Nothing was published in this channel.
    #[error("nothing is published in channel {0} yet")]
    Empty(Channel),
    /// No release of this channel.
    #[error("{0} was never released in this channel, or lies behind what the log keeps")]
    NotReleased(String),
    /// A short id that fits several snapshots.
    #[error("{0} is the start of several snapshots: write more of it")]
    Ambiguous(String),
    /// Nothing to end.
    #[error("channel {0} is not pinned")]
    NotPinned(Channel),
    /// Nothing to go back to.
    #[error("there is no good release before entry {0}")]
    NothingBefore(u64),
    /// The fleet was retired.
    #[error("the fleet is retired in channel {0}")]
    Retired(Channel),
    /// The key does not count here.
    #[error("key {0} is not trusted to do this: readers with this trust file would refuse it")]
    Key(KeyId),
}

/// Refuses a snapshot that lost all routes, or more than a fifth of twenty or more.
pub(super) fn shrink(newest: Option<&Release>, after: u64) -> Result<(), Gate> {
    let Some(before) = newest.and_then(|release| release.routes) else { return Ok(()) };
    let all = before > 0 && after == 0;
    let fifth = before >= SHRINK_FROM && after.saturating_mul(5) < before.saturating_mul(4);
    if all || fifth { Err(Gate::Shrunk { before, after }) } else { Ok(()) }
}

/// Refuses another writer's channel.
pub(super) fn writer(state: &ChannelState, writer: &str) -> Result<(), Gate> {
    if state.writer.is_empty() || state.writer == writer {
        return Ok(());
    }
    Err(Gate::OtherWriter { owner: state.writer.clone(), writer: writer.to_owned() })
}

/// Refuses a commit that does not descend from the published one. `descends(old, new)` is none if it cannot be told, as
/// in a shallow clone: then an older commit is refused, and a younger one goes out with a warning.
pub(super) fn descent(
    newest: Option<&Release>,
    source: Option<&Source>,
    descends: &(dyn Fn(&str, &str) -> Option<bool> + Sync),
) -> Result<Option<String>, Gate> {
    let revision = |source: &Source| source.revision.clone();
    let published = newest.and_then(|release| release.source.as_ref());
    let old = published.map(revision).unwrap_or_default();
    let new = source.map(revision).unwrap_or_default();
    if old.is_empty() || old == new {
        return Ok(None);
    }
    if new.is_empty() {
        return Err(Gate::UnknownAncestry { old, new: "a source without commits".to_owned() });
    }
    match descends(&old, &new) {
        Some(true) => Ok(None),
        Some(false) => Err(Gate::NotDescendant { old, new }),
        None => {
            let time = |source: Option<&Source>| source.and_then(|source| source.committed);
            let younger = time(published).zip(time(source)).is_some_and(|(old, new)| old < new);
            if !younger {
                return Err(Gate::UnknownAncestry { old, new });
            }
            let missing = format!(
                "cannot tell whether {new} descends from the published {old}: the history is not here"
            );
            Ok(Some(format!("{missing}; it is the younger one, and goes out")))
        }
    }
}

/// Refuses what is marked bad.
pub(super) fn bad(state: &ChannelState, snapshot: &Digest) -> Result<(), Gate> {
    if state.bad.contains(snapshot) { Err(Gate::Bad(*snapshot)) } else { Ok(()) }
}

/// Refuses what lies below the floor.
pub(super) fn floor(state: &ChannelState, release: &Release) -> Result<(), Gate> {
    match &state.floor {
        Some(floor) if state.below_floor(release) => Err(Gate::BelowFloor {
            sequence: release.sequence,
            floor: floor.sequence,
            reason: floor.reason.clone(),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_of_twenty_may_go_and_no_more() {
        let release = |routes| Release {
            snapshot: Digest::of(b""),
            sequence: 1,
            time: time::OffsetDateTime::UNIX_EPOCH,
            source: None,
            routes,
            attestation: None,
            bundle: None,
        };
        for (before, after, refused) in [
            (Some(100), 80, false),
            (Some(100), 79, true),
            (Some(20), 16, false),
            (Some(20), 15, true),
            (Some(19), 1, false),
            (Some(19), 0, true),
            (Some(0), 0, false),
            (None, 0, false),
        ] {
            assert_eq!(shrink(Some(&release(before)), after).is_err(), refused, "{before:?} {after}");
        }
        assert_eq!(shrink(None, 0), Ok(()));
    }
}
