//! Co-signatures: keys that rebuilt a snapshot from its source say so, and a channel may require it.
//!
//! What is signed is a canonical statement of fleet and snapshot, so that a release carries the signatures alone and a
//! reader needs no more requests.

use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError, Signature};
use crate::fleet::FleetName;
use crate::signature::{KeyError, Signer};
use serde::Serialize;

/// The payload type of co-signed statements.
pub const PAYLOAD_TYPE: &str = "application/vnd.moorgate.cosign.v1+json";
/// How many co-signatures a release carries at most.
pub const MOST: usize = 4;
/// A stored co-signature, in bytes.
pub const BYTES: usize = 4 << 10;

/// The signed statement; the order of its fields is part of the format.
#[derive(Serialize)]
struct Statement<'a> {
    format: u32,
    fleet: &'a FleetName,
    snapshot: &'a Digest,
}

/// The bytes that say: this snapshot of this fleet was rebuilt.
pub fn statement(fleet: &FleetName, snapshot: &Digest) -> Vec<u8> {
    // Strings and a number only: serde_json cannot fail on them.
    serde_json::to_vec(&Statement { format: 1, fleet, snapshot }).unwrap_or_default()
}

/// Co-signs a snapshot.
pub fn sign(fleet: &FleetName, snapshot: &Digest, signer: &dyn Signer) -> Result<Envelope, KeyError> {
    Envelope::sign(PAYLOAD_TYPE, statement(fleet, snapshot), &[signer])
}

/// The signatures of a stored co-signature, if it is one of this snapshot. Whether they hold is not checked.
pub fn read(stored: &[u8], fleet: &FleetName, snapshot: &Digest) -> Result<Vec<Signature>, EnvelopeError> {
    let envelope = Envelope::decode(stored, BYTES)?;
    if envelope.payload_type != PAYLOAD_TYPE || envelope.payload != statement(fleet, snapshot) {
        return Err(EnvelopeError::Malformed("no co-signature of this snapshot".to_owned()));
    }
    Ok(envelope.signatures)
}

/// What these signatures must cover.
pub fn message(fleet: &FleetName, snapshot: &Digest) -> Vec<u8> {
    let payload = statement(fleet, snapshot);
    Envelope { payload_type: PAYLOAD_TYPE.to_owned(), payload, signatures: Vec::new() }.signed_message()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::key;

    #[test]
    fn a_cosignature_is_of_one_fleet_and_snapshot() {
        let (shop, other) = (FleetName::gateway("shop", "edge"), FleetName::gateway("shop", "other"));
        let id = Digest::of(b"snapshot");
        let text = format!(r#"{{"format":1,"fleet":"shop/edge","snapshot":"{id}"}}"#);
        assert_eq!(statement(&shop, &id), text.as_bytes());
        let envelope = sign(&shop, &id, &key(3)).unwrap();
        let stored = envelope.encode();
        let signatures = read(&stored, &shop, &id).unwrap();
        assert!(key(3).public().verifies(&message(&shop, &id), &signatures[0].sig));
        assert!(read(&stored, &other, &id).is_err());
        assert!(read(&stored, &shop, &Digest::of(b"other")).is_err());
        assert!(read(b"{}", &shop, &id).is_err());
    }
}
