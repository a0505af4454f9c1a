//! Renewals: a signed statement in the head that its entry is still the newest, by a key that can do only that.
//!
//! A reader that has seen nothing newer than an entry raises an alarm once the entry and its renewals have run out. It
//! serves on: time decides about alarms, never about service.

use crate::digest::Digest;
use crate::entry::{Position, VerifiedEntry};
use crate::envelope::Envelope;
use crate::fleet::FleetName;
use crate::layout::Channel;
use crate::signature::{KeyError, Signer};
use crate::trust::{Role, Trust, TrustError};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::OffsetDateTime;

/// The payload type of renewals in their envelopes.
pub const PAYLOAD_TYPE: &str = "application/vnd.moorgate.renewal.v1+json";
/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;

/// This entry is still the newest. Unknown fields are read over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// The format of this object.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetName,
    /// The channel.
    pub channel: Channel,
    /// The entry's place.
    pub sequence: u64,
    /// The digest of the entry's payload.
    pub entry: Digest,
    /// When this was said.
    #[serde(with = "time::serde::rfc3339")]
    pub issued: OffsetDateTime,
    /// Until when it holds.
    #[serde(with = "time::serde::rfc3339")]
    pub expires: OffsetDateTime,
}

/// Why a renewal is not believed. The entry beside it stands by itself.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum RenewalError {
    /// Its signature.
    #[error("renewal: {0}")]
    Trust(#[from] TrustError),
    /// Its form.
    #[error("no valid renewal: {0}")]
    Malformed(String),
    /// It speaks of another entry.
    #[error("a renewal of {0}")]
    Other(String),
}

impl RenewalError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Trust(error) => error.label(),
            Self::Malformed(_) => "malformed",
            Self::Other(_) => "replay",
        }
    }
}

impl Renewal {
    /// Says that this entry is the newest.
    pub fn of(entry: &VerifiedEntry, issued: OffsetDateTime, expires: OffsetDateTime) -> Self {
        let (fleet, channel) = (entry.entry.fleet.clone(), entry.entry.channel.clone());
        let Position { sequence, digest } = entry.position();
        Self { format: FORMAT, fleet, channel, sequence, entry: digest, issued, expires }
    }

    /// The entry that it speaks of.
    pub fn position(&self) -> Position {
        Position { sequence: self.sequence, digest: self.entry }
    }

    /// Signs the statement.
    pub fn sign(&self, signer: &dyn Signer) -> Result<Envelope, KeyError> {
        let payload = serde_json::to_vec(self).map_err(|error| KeyError::Sign(error.to_string()))?;
        Envelope::sign(PAYLOAD_TYPE, payload, &[signer])
    }

    /// Reads a renewal of this entry, by a key with the role `renew`.
    pub fn verify(envelope: &Envelope, trust: &Trust, entry: &VerifiedEntry) -> Result<Self, RenewalError> {
        let (fleet, channel) = (&entry.entry.fleet, &entry.entry.channel);
        trust.verify(envelope, PAYLOAD_TYPE, Role::Renew, fleet, channel)?;
        let renewal: Self = serde_json::from_slice(&envelope.payload)
            .map_err(|error| RenewalError::Malformed(error.to_string()))?;
        if renewal.format != FORMAT {
            return Err(RenewalError::Malformed(format!("format {}", renewal.format)));
        }
        if (&renewal.fleet, &renewal.channel, renewal.position()) != (fleet, channel, entry.position()) {
            let other = format!("{}@{} {}", renewal.fleet, renewal.channel, renewal.sequence);
            return Err(RenewalError::Other(other));
        }
        Ok(renewal)
    }
}
