//! Log entries: one signed JSON object a release, with the whole state of its channel.
//!
//! Unknown fields are read over: they are optional by definition, since an entry that must not be misread names the
//! features it needs in `features_required`, and a reader refuses those that it does not know. Everything else is strict.

use crate::channel::{ChannelState, Release};
use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::fleet::FleetName;
use crate::layout::Channel;
use crate::limits;
use crate::signature::{KeyError, KeyId, Signer};
use crate::trust::{self, Role, Trust, TrustError};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

/// The payload type of entries in their envelopes.
pub const PAYLOAD_TYPE: &str = "application/vnd.moorgate.entry.v1+json";
/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;
/// Required features that this version understands.
pub(crate) const FEATURES: &[&str] = &[];

/// What an entry does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A new snapshot.
    Publish,
    /// A snapshot of another channel of the fleet.
    Promote,
    /// Holds the channel at a snapshot; a rollback is one.
    Pin,
    /// Ends a pin.
    Unpin,
    /// Moves a wave on.
    Step,
    /// Stops automation, or lets it go on.
    Hold,
    /// Forbids old releases.
    Floor,
    /// The fleet is gone.
    Retire,
}

impl Action {
    /// The role that a key needs for it. A key that may publish may do all the rest.
    pub fn role(self) -> Role {
        match self {
            Self::Pin | Self::Unpin => Role::Pin,
            _ => Role::Publish,
        }
    }

    /// The word in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Promote => "promote",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Step => "step",
            Self::Hold => "hold",
            Self::Floor => "floor",
            Self::Retire => "retire",
        }
    }
}

/// The entry before, by its place and the digest of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Its slot in the log.
    pub sequence: u64,
    /// The digest of its signed payload: signatures added later do not change it.
    pub digest: Digest,
}

/// Where a promoted snapshot comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promoted {
    /// The channel.
    pub channel: Channel,
    /// The entry there that was newest.
    pub sequence: u64,
}

/// One release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The format of this object.
    pub format: u32,
    /// Features that a reader must know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features_required: Vec<String>,
    /// The fleet it is for.
    pub fleet: FleetName,
    /// The channel it is for.
    pub channel: Channel,
    /// Its slot in the log, from 1.
    pub sequence: u64,
    /// The valid entry before; none at the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Position>,
    /// What was done.
    pub action: Action,
    /// What holds from now on.
    pub state: ChannelState,
    /// Where a promotion comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promoted: Option<Promoted>,
    /// Who did it.
    pub author: String,
    /// The CI run, as a URL or a name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// Who approved it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub approver: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When, RFC 3339 UTC. For people: nothing is decided by it.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// From when on a reader that has seen nothing newer raises an alarm, and serves on.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub expires: Option<OffsetDateTime>,
    /// Random, by the writer: how it recognises its own entry after a lost answer.
    pub nonce: String,
}

/// Why bytes are no entry of this channel and slot.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum EntryError {
    /// No envelope, no JSON, or a field that cannot be.
    #[error("no valid entry: {0}")]
    Malformed(String),
    /// Larger than an entry may be.
    #[error("more than {0} bytes")]
    TooLarge(usize),
    /// The signatures.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A format or feature from the future.
    #[error("{0} is unknown to this program: upgrade it")]
    Future(String),
    /// An entry of another fleet, channel or slot.
    #[error("entry {found} in the place of {expected}")]
    Misplaced {
        /// What the entry says of itself.
        found: String,
        /// Where it lies.
        expected: String,
    },
    /// Lower than the trust file allows.
    #[error("sequence {0} is below the minimum {1}")]
    BelowMinimum(u64, u64),
    /// The slot is among those that are stepped over whatever is in them.
    #[error("slot {0} was declared void")]
    Voided(u64),
    /// Far behind the entry before: nobody but the root keys may jump so far.
    #[error("entry {sequence} follows {previous}: it jumps over {jump} slots")]
    FastForward {
        /// Its place.
        sequence: u64,
        /// The place of the entry before.
        previous: u64,
        /// How many slots lie between that nobody declared void.
        jump: u64,
    },
    /// What it makes relays serve lacks co-signatures.
    #[error("snapshot {} has {have} of {need} co-signatures", snapshot.short())]
    NotCosigned {
        /// The snapshot.
        snapshot: Digest,
        /// How many it has that count.
        have: usize,
        /// How many it needs.
        need: usize,
    },
    /// A key that may only pin changed more than a pin, or pinned what was not published.
    #[error("key {0} may only pin what was published: {1}")]
    MoreThanAPin(KeyId, &'static str),
}

impl EntryError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too_large",
            Self::Trust(error) => error.label(),
            Self::Future(_) => "upgrade_required",
            Self::Misplaced { .. } => "replay",
            Self::BelowMinimum(..) => "below_minimum",
            Self::Voided(_) => "voided",
            Self::FastForward { .. } => "fast_forward",
            Self::NotCosigned { .. } => "not_cosigned",
            Self::MoreThanAPin(..) => "more_than_a_pin",
        }
    }
}

impl From<EnvelopeError> for EntryError {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::TooLarge(limit) => Self::TooLarge(limit),
            EnvelopeError::Malformed(message) => Self::Malformed(message),
        }
    }
}

/// An entry whose signature, place and form hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedEntry {
    /// What it says.
    pub entry: Entry,
    /// The digest of its payload.
    pub digest: Digest,
    /// The trusted keys that signed it.
    pub signers: Vec<KeyId>,
    /// Whether one of them may publish here. If not, it may only pin, which the reader has to check.
    pub by_publisher: bool,
    /// The envelope as stored.
    pub envelope: Envelope,
}

impl VerifiedEntry {
    /// What a reader remembers, so that it never goes back.
    pub fn position(&self) -> Position {
        Position { sequence: self.entry.sequence, digest: self.digest }
    }
}

/// What is read of an entry before all else.
#[derive(Deserialize)]
struct Start {
    format: u32,
    #[serde(default)]
    features_required: Vec<String>,
}

impl Entry {
    /// Signs the entry.
    pub fn sign(&self, signers: &[&dyn Signer]) -> Result<Envelope, KeyError> {
        // Only strings, integers and lists: serde_json cannot fail, except on years beyond 9999.
        let payload = serde_json::to_vec(self).map_err(|error| KeyError::Sign(error.to_string()))?;
        Envelope::sign(PAYLOAD_TYPE, payload, signers)
    }

    /// Reads the stored bytes of a slot and believes nothing: size, signature, role, format, fleet, channel and place.
    pub fn verify(
        stored: &[u8],
        trust: &Trust,
        fleet: &FleetName,
        channel: &Channel,
        slot: Option<u64>,
    ) -> Result<VerifiedEntry, EntryError> {
        let envelope = Envelope::decode(stored, limits::ENTRY_BYTES)?;
        Self::verify_envelope(envelope, trust, fleet, channel, slot)
    }

    /// As [`Entry::verify`], for an envelope that lies in a head: `slot` is then none.
    pub fn verify_envelope(
        envelope: Envelope,
        trust: &Trust,
        fleet: &FleetName,
        channel: &Channel,
        slot: Option<u64>,
    ) -> Result<VerifiedEntry, EntryError> {
        let _span =
            tracing::info_span!(target: crate::TRACE, "verify", what = "entry", %fleet, slot).entered();
        let signers = trust.signers(&envelope, PAYLOAD_TYPE)?;
        let malformed = |error: serde_json::Error| EntryError::Malformed(error.to_string());
        // Before all else the format, so that one from the future is named as such.
        let start: Start = serde_json::from_slice(&envelope.payload).map_err(malformed)?;
        if start.format != FORMAT {
            return Err(EntryError::Future(format!("entry format {}", start.format)));
        }
        if let Some(feature) = start.features_required.iter().find(|name| !FEATURES.contains(&name.as_str()))
        {
            return Err(EntryError::Future(format!(
                "feature {:?}",
                feature.chars().take(80).collect::<String>()
            )));
        }
        let entry: Entry = serde_json::from_slice(&envelope.payload).map_err(malformed)?;
        let slot = slot.unwrap_or(entry.sequence);
        if (&entry.fleet, &entry.channel, entry.sequence) != (fleet, channel, slot) || slot == 0 {
            return Err(EntryError::Misplaced {
                found: format!("{}@{} {}", entry.fleet, entry.channel, entry.sequence),
                expected: format!("{fleet}@{channel} {slot}"),
            });
        }
        if entry.previous.is_some_and(|previous| previous.sequence >= entry.sequence) {
            return Err(EntryError::Malformed("the previous entry is not before this one".to_owned()));
        }
        check_place(&entry, trust)?;
        let may = |role| signers.iter().any(|signer| signer.may_at(role, fleet, channel, slot));
        let by_publisher = may(Role::Publish);
        let role = entry.action.role();
        if !by_publisher && !may(role) {
            return Err(trust::refusal(&signers, role, fleet, channel).into());
        }
        let digest = Digest::of(&envelope.payload);
        let signers = signers.into_iter().map(|signer| signer.key.id()).collect();
        Ok(VerifiedEntry { entry, digest, signers, by_publisher, envelope })
    }

    /// Whether this entry brought the release into the channel. Co-signatures may have come to it since.
    pub fn brought(&self, release: &Release) -> bool {
        matches!(self.action, Action::Publish | Action::Promote)
            && self.state.releases().any(|one| one.is_the_same(release))
    }

    /// Whether this entry is a mere pin or unpin after `before`: all else stays as it was, and an unpin chooses among
    /// the releases that `before` names. Whether a pinned release was published, the caller has to know.
    pub fn only_pins(&self, before: &Entry) -> Result<(), &'static str> {
        let mut rest = self.state.clone();
        rest.pin.clone_from(&before.state.pin);
        match self.action {
            Action::Pin if rest == before.state => Ok(()),
            Action::Pin => Err("it changes more than the pin"),
            Action::Unpin => {
                if self.state.pin.is_some() || before.state.pin.is_none() {
                    return Err("it ends no pin");
                }
                if self.state.target.as_ref().is_some_and(|target| before.state.below_floor(target)) {
                    return Err("it unpins to a release below the floor");
                }
                let known = |release: &Release| before.state.releases().any(|one| one == release);
                let releases = [&self.state.target, &self.state.previous_good];
                if !releases.into_iter().flatten().all(known) {
                    return Err("it unpins to a release that the channel did not have");
                }
                rest.target.clone_from(&before.state.target);
                rest.previous_good.clone_from(&before.state.previous_good);
                if rest.candidate.is_none() {
                    rest.candidate.clone_from(&before.state.candidate);
                }
                if rest == before.state { Ok(()) } else { Err("it changes more than the pin") }
            }
            _ => Err("it does something else"),
        }
    }
}

/// Refuses what lies below the minimum, in a void slot, or far behind the entry before: a stolen key could otherwise end a
/// channel for good with one entry in its last slot.
fn check_place(entry: &Entry, trust: &Trust) -> Result<(), EntryError> {
    let (fleet, channel, sequence) = (&entry.fleet, &entry.channel, entry.sequence);
    let minimum = trust.minimum_sequence(fleet, channel);
    if sequence < minimum {
        return Err(EntryError::BelowMinimum(sequence, minimum));
    }
    if trust.voided(fleet, channel, sequence).is_some() {
        return Err(EntryError::Voided(sequence));
    }
    let previous = entry.previous.map_or(0, |previous| previous.sequence);
    let jump = trust.jump(fleet, channel, previous, sequence);
    if jump > limits::VOID_RUN {
        return Err(EntryError::FastForward { sequence, previous, jump });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
