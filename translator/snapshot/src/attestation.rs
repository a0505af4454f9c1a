//! Attestations: signed records beside a manifest, outside the snapshot's id, that outlive gc.
//!
//! Each is an in-toto statement with SLSA provenance in a DSSE envelope, as other tools read and check them: its subject
//! is the manifest's digest. It says what the snapshot was made from and by what, and names documents (objects with
//! their origin and status, the change against the release before) by digest, as by-products; those lie apart, so that an
//! unchanged one is stored once.

mod statement;

use crate::digest::Digest;
use crate::envelope::Envelope;
use crate::fleet::FleetName;
use crate::limits;
use crate::trust::{Role, Trust, TrustError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use statement::Statement;
use std::collections::BTreeMap;
use thiserror::Error;

/// The payload type of in-toto statements in their envelopes.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// The signed statement. Unknown fields are read over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The fleet.
    pub fleet: FleetName,
    /// The snapshot that it speaks of.
    pub snapshot: Digest,
    /// Documents that lie apart, by name.
    pub documents: BTreeMap<String, DocumentRef>,
    /// Small documents that lie here, by name.
    pub inline: BTreeMap<String, Value>,
    /// What the snapshot was made from, and by what.
    pub provenance: Provenance,
}

/// A document by its uncompressed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRef {
    /// Their digest.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
}

/// What a snapshot was made from, and by what: whoever has the same gets the same snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The options of the compile that change what comes out, by name.
    pub parameters: BTreeMap<String, Value>,
    /// Commits and files.
    pub materials: Vec<Material>,
    /// The version of the translator.
    pub version: String,
    /// The digest of the translator's executable, if it could be read.
    pub translator: Option<Digest>,
    /// The CI run, as a URL or a name; empty if there is none.
    pub run: String,
}

/// Something that went into a snapshot: in-toto's resource descriptor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    /// What it is called.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where it is, without credentials.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Itself, in base64, if it is small.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content: String,
    /// Its digests by algorithm: `gitCommit`, `gitTree`, `sha256`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
    /// What else is known of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, Value>,
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
    /// The bytes to sign.
    pub fn payload(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Statement::of(self))
    }

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
        let statement: Statement =
            serde_json::from_slice(&envelope.payload).map_err(|error| malformed(error.to_string()))?;
        let attestation = statement.read().map_err(malformed)?;
        if (&attestation.fleet, &attestation.snapshot) != (fleet, snapshot) {
            let other = format!("{} {}", attestation.fleet, attestation.snapshot);
            return Err(AttestationError::Other(other));
        }
        Ok(attestation)
    }
}
