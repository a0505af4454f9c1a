//! Attestations: signed records beside a manifest, outside the snapshot's id, that outlive gc.
//!
//! The signed statement is small. What is small too (provenance) lies in it; other documents (objects with their origin
//! and status, the change against the release before) it names by digest, so that an unchanged one is stored once.

use crate::digest::Digest;
use crate::envelope::Envelope;
use crate::fleet::FleetName;
use crate::limits;
use crate::trust::{Role, Trust, TrustError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// The payload type of attestations in their envelopes.
pub const PAYLOAD_TYPE: &str = "application/vnd.moorgate.attestation.v1+json";

/// The signed statement. Unknown fields are read over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attestation {
    /// The format of this object.
    pub format: u32,
    /// The fleet.
    pub fleet: FleetName,
    /// The snapshot that it speaks of.
    pub snapshot: Digest,
    /// Documents that lie apart, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub documents: BTreeMap<String, DocumentRef>,
    /// Documents that lie here, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inline: BTreeMap<String, serde_json::Value>,
}

/// A document by its uncompressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRef {
    /// Their digest.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

/// Why an attestation is not believed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum AttestationError {
    /// Its signature.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Its form.
    #[error("no valid attestation: {0}")]
    Malformed(String),
    /// It speaks of another fleet or snapshot.
    #[error("the attestation is of another snapshot: {0}")]
    Other(String),
}

impl Attestation {
    /// Reads a stored attestation of this snapshot, signed by a key that may publish for the fleet in some channel.
    pub fn verify(
        stored: &[u8],
        trust: &Trust,
        fleet: &FleetName,
        snapshot: &Digest,
    ) -> Result<Self, AttestationError> {
        let malformed = |message: String| AttestationError::Malformed(message);
        let envelope = Envelope::decode(stored, limits::ATTESTATION_BYTES)
            .map_err(|error| malformed(error.to_string()))?;
        let signers = trust.signers(&envelope, PAYLOAD_TYPE)?;
        if !signers.iter().any(|signer| signer.may_somewhere(Role::Publish, fleet)) {
            return Err(malformed(format!("no signer may publish for {fleet}")));
        }
        let attestation: Self =
            serde_json::from_slice(&envelope.payload).map_err(|error| malformed(error.to_string()))?;
        if (&attestation.fleet, &attestation.snapshot) != (fleet, snapshot) {
            let other = format!("{} {}", attestation.fleet, attestation.snapshot);
            return Err(AttestationError::Other(other));
        }
        Ok(attestation)
    }
}
