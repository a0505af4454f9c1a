//! What is refused unless asked for.

use moorgate_snapshot::channel::{ChannelState, Release, Source};
use moorgate_snapshot::{Channel, Digest, KeyId};
use std::collections::BTreeMap;
use thiserror::Error;

/// From how many routes on the shrink guard looks at shares; below, only at nothing left.
const SHRINK_FROM: u64 = 20;

/// What the user asked for beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
pub struct Allow {
    /// A snapshot that loses more than a fifth of its routes, or all.
    pub shrink: bool,
    /// Another writer's channel.
    pub other_writer: bool,
    /// A commit that is no descendant of the newest one.
    pub unrelated: bool,
    /// A snapshot that is marked bad: the mark is taken off.
    pub bad: bool,
    /// Relays that do not understand what the snapshot needs.
    pub old_relays: bool,
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
    /// The newest entry has the expected number and other content: another store, or one that was restored.
    #[error("entry {0} is not the one that was planned on: is this another store, or a restored one?")]
    OtherParent(u64),
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
    /// One namespace or hostname lost too many routes.
    #[error(
        "{what} has {after} routes where {before} are published: lost by accident? --allow-shrink publishes it"
    )]
    PartShrunk {
        /// `namespace NAME` or `hostname NAME`.
        what: String,
        /// Published.
        before: u64,
        /// To be published.
        after: u64,
    },
    /// The snapshot is marked bad.
    #[error("snapshot {0} is marked bad in this channel; publish --allow-bad takes the mark off")]
    Bad(Digest),
    /// Relays report that they do not understand what the snapshot needs.
    #[error(
        "{relays} do not understand {features}, which this snapshot needs: upgrade them first; --allow-old-relays publishes it, and they keep what they have"
    )]
    OldRelays {
        /// Some of them.
        relays: String,
        /// What they lack.
        features: String,
    },
    /// A text is too long for an entry, which readers bound.
    #[error("{what}: {bytes} bytes, and an entry may have {limit}: make it shorter")]
    TooLong {
        /// Which text, or the entry itself.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Nothing waits, and no wave is under way.
    #[error("nothing waits or goes out in channel {0}")]
    NoCandidate(Channel),
    /// Another wave has taken the place of the one that was meant.
    #[error("snapshot {0} has taken its place in the meantime")]
    OtherCandidate(Digest),
    /// The channel is not held.
    #[error("channel {0} is not held")]
    NotHeld(Channel),
    /// A hold keeps this from being done.
    #[error("held by {by} ({reason}): `moorgate hold --lift` lets it go on")]
    Held {
        /// Who holds.
        by: String,
        /// Why.
        reason: String,
    },
    /// A hold keeps a wave where it stands, and there is no place for another release.
    #[error("held by {by} ({reason}) in the midst of a wave: lift the hold, or pin, before you publish")]
    HeldWave {
        /// Who holds.
        by: String,
        /// Why.
        reason: String,
    },
    /// A pin keeps this from being done.
    #[error("pinned by {by} ({reason}): `moorgate unpin` ends the pin")]
    Pinned {
        /// Who pinned.
        by: String,
        /// Why.
        reason: String,
    },
    /// The present step has not baked.
    #[error("step {step} bakes until {}; --force does not wait", clock(*until))]
    Baking {
        /// The step, from 1.
        step: u32,
        /// When its time is over.
        until: time::OffsetDateTime,
    },
    /// Reports do not speak for the next step.
    #[error("the relays do not report that step {step} is well: {why}; --force goes on all the same")]
    Unhealthy {
        /// The step, from 1.
        step: u32,
        /// What is wrong or missing.
        why: String,
    },
    /// Too many automatic pins.
    #[error(
        "{count} waves were halted within the hour: the wave stands where it is, and a person has to look ({why})"
    )]
    AskPerson {
        /// How many.
        count: usize,
        /// Why this one would be halted.
        why: String,
    },
    /// The floor would go down.
    #[error("the floor is at {from}: --lower puts it down to {to}")]
    LowerFloor {
        /// Where it is.
        from: u64,
        /// Where it would be.
        to: u64,
    },
    /// The floor would lie above what is served.
    #[error(
        "release {sequence}, which is served or would be, lies below {floor}: publish, pin or unpin first"
    )]
    FloorAbove {
        /// The floor.
        floor: u64,
        /// The release.
        sequence: u64,
    },
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
    /// The channel requires co-signatures that are not there.
    #[error(
        "{} has {have} of {need} co-signatures that this channel requires; publish uploads its objects and commits nothing before. One of these keys must rebuild and sign it: {missing}. See moorgate verify snapshot:{snapshot} --rebuild --cosign, then publish again",
        snapshot.short()
    )]
    NotCosigned {
        /// The snapshot.
        snapshot: Digest,
        /// How many it has that count.
        have: usize,
        /// How many it needs.
        need: usize,
        /// The keys that may co-sign and have not.
        missing: String,
    },
    /// The store does not keep its promises.
    #[error(
        "the store breaks promises that releases are built on ({broken}); moorgate store probe shows all"
    )]
    Store {
        /// Which, and what was seen instead.
        broken: String,
    },
    /// The key does not count here.
    #[error("key {0} is not trusted to do this: readers with this trust file would refuse it")]
    Key(KeyId),
}

/// Refuses a snapshot that lost all routes, or more than a fifth of twenty or more.
pub(super) fn shrink(newest: Option<&Release>, after: u64) -> Result<(), Gate> {
    let Some(before) = newest.and_then(|release| release.routes) else { return Ok(()) };
    let all = before > 0 && after == 0;
    if all || fifth_lost(before, after) { Err(Gate::Shrunk { before, after }) } else { Ok(()) }
}

/// Refuses a namespace or hostname of twenty routes or more that lost more than a fifth of them. `before` and `after` are
/// the `counts` documents of both releases.
pub(super) fn shrink_parts(before: &Counts, after: &Counts) -> Result<(), Gate> {
    let kinds = [
        ("namespace", &before.namespaces, &after.namespaces),
        ("hostname", &before.hostnames, &after.hostnames),
    ];
    for (kind, before, after) in kinds {
        for (name, &before) in before {
            let after = after.get(name).copied().unwrap_or(0);
            if fifth_lost(before, after) {
                let name: String = name.chars().take(253).collect();
                return Err(Gate::PartShrunk { what: format!("{kind} {name}"), before, after });
            }
        }
    }
    Ok(())
}

/// How many routes each namespace and each hostname has: the document `counts` beside a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
pub(super) struct Counts {
    #[serde(default)]
    pub namespaces: BTreeMap<String, u64>,
    #[serde(default)]
    pub hostnames: BTreeMap<String, u64>,
}

fn fifth_lost(before: u64, after: u64) -> bool {
    before >= SHRINK_FROM && after.saturating_mul(5) < before.saturating_mul(4)
}

/// Refuses a text that is too long for an entry.
pub(super) fn length(what: &'static str, text: &str, limit: usize) -> Result<(), Gate> {
    let bytes = text.len();
    if bytes > limit { Err(Gate::TooLong { what, bytes, limit }) } else { Ok(()) }
}

fn clock(time: time::OffsetDateTime) -> String {
    time.format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| time.unix_timestamp().to_string())
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
        let release =
            |routes| Release { routes, ..Release::new(Digest::of(b""), 1, time::OffsetDateTime::UNIX_EPOCH) };
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

    #[test]
    fn each_namespace_and_hostname_counts_for_itself() {
        let counts = |namespaces: &[(&str, u64)], hostnames: &[(&str, u64)]| {
            let table =
                |rows: &[(&str, u64)]| rows.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
            Counts { namespaces: table(namespaces), hostnames: table(hostnames) }
        };
        let before = counts(&[("shop", 1000), ("team", 20), ("small", 19)], &[("a.example", 40)]);
        let judge = |after: &Counts| match shrink_parts(&before, after) {
            Err(Gate::PartShrunk { what, .. }) => what,
            Err(other) => panic!("{other}"),
            Ok(()) => String::new(),
        };
        // The total hardly moves: a team that is gone shows only here.
        assert_eq!(judge(&counts(&[("shop", 1000)], &[("a.example", 40)])), "namespace team");
        assert_eq!(judge(&counts(&[("shop", 1000), ("team", 16)], &[("a.example", 32)])), "");
        assert_eq!(
            judge(&counts(&[("shop", 1000), ("team", 20)], &[("a.example", 31)])),
            "hostname a.example"
        );
        let read: Counts = serde_json::from_str(r#"{"namespaces":{"shop":3},"more":1}"#).unwrap();
        assert_eq!(read, counts(&[("shop", 3)], &[]));
    }
}
