//! Whom to trust: public keys with roles, fleets and channels.
//!
//! Either a file that an operator lays beside each reader, or the chain of documents in the store that such a file
//! starts (see [`chain`]): each one signed by a threshold of offline root keys of the one before, and of its own.

pub mod chain;
pub mod document;

pub use document::{Document, TrustFileError};

use crate::channel::Release;
use crate::cosign;
use crate::envelope::Envelope;
use crate::fleet::FleetName;
use crate::layout::Channel;
use crate::signature::{KeyId, PublicKey};
use document::{CosignRule, VoidRange};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use thiserror::Error;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Releases of all kinds.
    Publish,
    /// Pins and unpins: of what was published, and nothing else.
    Pin,
    /// Fresh heads over unchanged entries.
    Renew,
    /// Reports of relays.
    Report,
    /// Signatures over what the key's holder rebuilt from the source.
    Cosign,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Pin => "pin",
            Self::Renew => "renew",
            Self::Report => "report",
            Self::Cosign => "cosign",
        })
    }
}

/// Trusted keys, and what is never believed whoever signed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    keys: BTreeMap<KeyId, TrustedKey>,
    minimum: BTreeMap<String, u64>,
    void: BTreeMap<String, Vec<VoidRange>>,
    cosign: Vec<CosignRule>,
}

/// A key and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// The key.
    pub key: PublicKey,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// For which fleets: `*`, `namespace/*` or a fleet. Empty: none.
    fleets: Vec<String>,
    /// In which channels: `*` or a name. Empty: none.
    channels: Vec<String>,
    /// If it is revoked: the last sequence at which it is believed, by `fleet@channel`. Elsewhere nothing is.
    revoked: Option<BTreeMap<String, u64>>,
}

/// Why an envelope is not believed.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum TrustError {
    /// No signature is by a trusted key.
    #[error("signed by keys that are not trusted here: {0}")]
    UnknownKey(String),
    /// A trusted key's signature does not fit the bytes.
    #[error("the signature of key {0} does not hold")]
    Signature(KeyId),
    /// The signature holds, but this key may not do this.
    #[error("key {key} may not {role} in {fleet}@{channel}")]
    Role {
        /// The key.
        key: KeyId,
        /// What it would have to be allowed.
        role: Role,
        /// The fleet.
        fleet: FleetName,
        /// The channel.
        channel: Channel,
    },
    /// The key was revoked, and this is not among what is still believed of it.
    #[error("key {key} is revoked in {fleet}@{channel}, and this is not among what it signed before")]
    Revoked {
        /// The key.
        key: KeyId,
        /// The fleet.
        fleet: FleetName,
        /// The channel.
        channel: Channel,
    },
    /// Another kind of payload.
    #[error("payload type {0:?} where another was expected")]
    PayloadType(String),
}

impl TrustError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::UnknownKey(_) => "unknown_key",
            Self::Signature(_) => "bad_signature",
            Self::Role { .. } => "role",
            Self::Revoked { .. } => "revoked_key",
            Self::PayloadType(_) => "payload_type",
        }
    }
}

impl Trust {
    /// These keys, each in every role, everywhere.
    pub fn of(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let roles = BTreeSet::from([Role::Publish, Role::Pin, Role::Renew, Role::Report, Role::Cosign]);
        let trusted = keys.into_iter().map(|key| {
            let trusted = TrustedKey {
                name: String::new(),
                roles: roles.clone(),
                fleets: document::everywhere(),
                channels: document::everywhere(),
                revoked: None,
                key,
            };
            (trusted.key.id(), trusted)
        });
        Self { keys: trusted.collect(), ..Self::default() }
    }

    /// The same, and a key that may sign reports of one fleet and nothing else. A key that is trusted already keeps what it
    /// may do.
    #[must_use]
    pub fn and_reporter(&self, key: PublicKey, fleet: &FleetName) -> Self {
        let mut trust = self.clone();
        let trusted = TrustedKey {
            name: String::new(),
            roles: BTreeSet::from([Role::Report]),
            fleets: vec![fleet.to_string()],
            channels: document::everywhere(),
            revoked: None,
            key,
        };
        trust.keys.entry(trusted.key.id()).or_insert(trusted);
        trust
    }

    /// Reads a trust file: PEM with one or several public keys, each in every role; or JSON:
    /// `{"format":1,"keys":[{"public":PEM,"roles":["publish","pin"],"fleets":["shop/*"],"channels":["stable"]}],
    /// "minimum_sequence":{"shop/edge@stable":17}}`, where fleets and channels left out mean all. A file that starts a
    /// chain is read by [`chain::Anchor::parse`].
    pub fn parse(file: &[u8]) -> Result<Self, TrustFileError> {
        if !document::is_json(file) {
            return Ok(Self::of(PublicKey::all_from_pem(file)?));
        }
        let document = Document::parse(file)?;
        if document.number.is_some() { Err(TrustFileError::Chain) } else { document.trust() }
    }

    /// The lowest sequence that is believed in a channel.
    pub fn minimum_sequence(&self, fleet: &FleetName, channel: &Channel) -> u64 {
        self.minimum.get(&place(fleet, channel)).copied().unwrap_or(0)
    }

    /// The range of slots, said to be void, that this one lies in.
    pub fn voided(&self, fleet: &FleetName, channel: &Channel, sequence: u64) -> Option<VoidRange> {
        if self.void.is_empty() {
            return None;
        }
        let ranges = self.void.get(&place(fleet, channel))?;
        ranges.iter().find(|range| (range.first..=range.last).contains(&sequence)).copied()
    }

    /// How many slots an entry jumps over that nobody said to be void: from the entry before it, or from the lowest
    /// sequence that is believed.
    pub fn jump(&self, fleet: &FleetName, channel: &Channel, previous: u64, sequence: u64) -> u64 {
        let from = previous.max(self.minimum_sequence(fleet, channel).saturating_sub(1));
        let ranges = self.void.get(&place(fleet, channel)).map(Vec::as_slice).unwrap_or_default();
        let voided = ranges.iter().map(|range| {
            let (first, last) = (range.first.max(from.saturating_add(1)), range.last.min(sequence));
            if first > last { 0 } else { last - first + 1 }
        });
        sequence.saturating_sub(from).saturating_sub(voided.fold(0, u64::saturating_add))
    }

    /// How many keys must have co-signed what an entry of this sequence makes a relay serve.
    pub fn cosigners(&self, fleet: &FleetName, channel: &Channel, sequence: u64) -> usize {
        let rules = self.cosign.iter().filter(|rule| {
            let from = rule.from.get(&place(fleet, channel)).copied().unwrap_or(0);
            fits(&rule.fleets, fleet) && fits_channel(&rule.channels, channel) && sequence >= from
        });
        rules.map(|rule| rule.signatures as usize).max().unwrap_or(0)
    }

    /// The keys whose co-signature of this release counts at this sequence.
    pub fn cosigned(
        &self,
        fleet: &FleetName,
        channel: &Channel,
        release: &Release,
        sequence: u64,
    ) -> BTreeSet<KeyId> {
        let message = cosign::message(fleet, &release.snapshot);
        let signatures = release.cosignatures.iter().take(cosign::MOST);
        let holds = signatures.filter(|signature| {
            self.keys.get(&signature.keyid).is_some_and(|trusted| {
                trusted.may_at(Role::Cosign, fleet, channel, sequence)
                    && trusted.key.verifies(&message, &signature.sig)
            })
        });
        holds.map(|signature| signature.keyid).collect()
    }

    /// All keys, by id.
    pub fn keys(&self) -> impl Iterator<Item = &TrustedKey> {
        self.keys.values()
    }

    /// The trusted keys whose signatures hold; at least one. A signature by a stranger beside them does no harm, one of
    /// a trusted key that does not hold is refused. Whether a key is revoked is for the caller to ask.
    pub fn signers(&self, envelope: &Envelope, payload_type: &str) -> Result<Vec<&TrustedKey>, TrustError> {
        if envelope.payload_type != payload_type {
            return Err(TrustError::PayloadType(envelope.payload_type.chars().take(80).collect()));
        }
        let message = envelope.signed_message();
        let mut signers: Vec<&TrustedKey> = Vec::new();
        for signature in &envelope.signatures {
            let Some(trusted) = self.keys.get(&signature.keyid) else { continue };
            if !trusted.key.verifies(&message, &signature.sig) {
                return Err(TrustError::Signature(signature.keyid));
            }
            signers.push(trusted);
        }
        if signers.is_empty() {
            let ids: Vec<String> = envelope.signatures.iter().map(|one| one.keyid.short()).collect();
            return Err(TrustError::UnknownKey(ids.join(", ")));
        }
        Ok(signers)
    }

    /// Refuses the envelope unless one of its valid signatures is by a key with this role in this channel.
    pub fn verify(
        &self,
        envelope: &Envelope,
        payload_type: &str,
        role: Role,
        fleet: &FleetName,
        channel: &Channel,
    ) -> Result<(), TrustError> {
        let signers = self.signers(envelope, payload_type)?;
        if signers.iter().any(|signer| signer.may(role, fleet, channel)) {
            return Ok(());
        }
        Err(refusal(&signers, role, fleet, channel))
    }
}

/// Why none of these signers may do this: a revoked key that had the role is named as such.
pub(crate) fn refusal(
    signers: &[&TrustedKey],
    role: Role,
    fleet: &FleetName,
    channel: &Channel,
) -> TrustError {
    let (fleet, channel) = (fleet.clone(), channel.clone());
    if let Some(revoked) = signers.iter().find(|signer| signer.revoked.is_some()) {
        return TrustError::Revoked { key: revoked.key.id(), fleet, channel };
    }
    let key = signers.first().map(|signer| signer.key.id());
    key.map_or_else(
        || TrustError::UnknownKey(String::new()),
        |key| TrustError::Role { key, role, fleet, channel },
    )
}

impl TrustedKey {
    /// Whether the key has this role in this channel of this fleet, and is not revoked.
    pub fn may(&self, role: Role, fleet: &FleetName, channel: &Channel) -> bool {
        self.revoked.is_none() && self.had(role, fleet, channel)
    }

    /// Whether the key is believed in this role at this sequence: of a revoked key, what it signed before.
    pub fn may_at(&self, role: Role, fleet: &FleetName, channel: &Channel, sequence: u64) -> bool {
        let honest = match &self.revoked {
            None => true,
            Some(last) => last.get(&place(fleet, channel)).is_some_and(|last| sequence <= *last),
        };
        honest && self.had(role, fleet, channel)
    }

    /// Whether the key has or had this role in some channel of this fleet. For what an entry vouches for: the entry was
    /// judged.
    pub fn may_somewhere(&self, role: Role, fleet: &FleetName) -> bool {
        self.roles.contains(&role) && !self.channels.is_empty() && fits(&self.fleets, fleet)
    }

    /// Whether the key is revoked.
    pub fn is_revoked(&self) -> bool {
        self.revoked.is_some()
    }

    fn had(&self, role: Role, fleet: &FleetName, channel: &Channel) -> bool {
        self.may_somewhere(role, fleet) && fits_channel(&self.channels, channel)
    }
}

fn place(fleet: &FleetName, channel: &Channel) -> String {
    format!("{fleet}@{channel}")
}

fn fits(patterns: &[String], fleet: &FleetName) -> bool {
    let name = fleet.to_string();
    patterns.iter().any(|pattern| {
        pattern == "*"
            || *pattern == name
            || pattern
                .strip_suffix('*')
                .is_some_and(|prefix| prefix.ends_with('/') && name.starts_with(prefix))
    })
}

fn fits_channel(patterns: &[String], channel: &Channel) -> bool {
    patterns.iter().any(|pattern| pattern == "*" || pattern == channel.as_str())
}

#[cfg(test)]
mod tests;
