//! DSSE envelopes: a payload, its type, and signatures over both (<https://github.com/secure-systems-lab/dsse>).

use crate::signature::{KeyError, KeyId, Signer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// More signatures than this are refused before any is checked.
const SIGNATURES: usize = 16;

/// A signed payload. What is signed are bytes: nothing depends on how JSON is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// What the payload is: signed with it.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The signed bytes.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub payload: Vec<u8>,
    /// At least one is valid if the envelope is to be believed.
    pub signatures: Vec<Signature>,
}

/// One signature and a hint at the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The key that made it.
    pub keyid: KeyId,
    /// The signature.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub sig: Vec<u8>,
}

/// Bytes that are no envelope.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// Larger than such an object may be.
    #[error("more than {0} bytes")]
    TooLarge(usize),
    /// No JSON of this form.
    #[error("no signed envelope: {0}")]
    Malformed(String),
}

impl Envelope {
    /// Signs a payload with each of these signers.
    pub fn sign(payload_type: &str, payload: Vec<u8>, signers: &[&dyn Signer]) -> Result<Self, KeyError> {
        let message = pae(payload_type, &payload);
        let signatures = signers
            .iter()
            .map(|signer| Ok(Signature { keyid: signer.public().id(), sig: signer.sign(&message)? }))
            .collect::<Result<_, KeyError>>()?;
        Ok(Self { payload_type: payload_type.to_owned(), payload, signatures })
    }

    /// Reads stored bytes of at most `limit`.
    pub fn decode(stored: &[u8], limit: usize) -> Result<Self, EnvelopeError> {
        if stored.len() > limit {
            return Err(EnvelopeError::TooLarge(limit));
        }
        let envelope: Self =
            serde_json::from_slice(stored).map_err(|error| EnvelopeError::Malformed(error.to_string()))?;
        if envelope.signatures.is_empty() || envelope.signatures.len() > SIGNATURES {
            return Err(EnvelopeError::Malformed(format!("{} signatures", envelope.signatures.len())));
        }
        Ok(envelope)
    }

    /// The bytes to store.
    pub fn encode(&self) -> Vec<u8> {
        // Strings and bytes only: serde_json cannot fail on them.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The bytes that the signatures cover.
    pub fn signed_message(&self) -> Vec<u8> {
        pae(&self.payload_type, &self.payload)
    }
}

/// DSSE's pre-authentication encoding.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::KeyPair;

    /// The example of DSSE's protocol.md.
    #[test]
    fn the_encoding_is_that_of_the_specification() {
        let message = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(message, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn envelopes_read_back_and_strangers_are_refused() {
        let (key, _) = KeyPair::generate(&[1; 32]).unwrap();
        let envelope = Envelope::sign("type", b"{}".to_vec(), &[&key]).unwrap();
        let stored = envelope.encode();
        assert_eq!(Envelope::decode(&stored, 1000), Ok(envelope.clone()));
        assert!(key.public().verifies(&envelope.signed_message(), &envelope.signatures[0].sig));
        assert_eq!(Envelope::decode(&stored, 10), Err(EnvelopeError::TooLarge(10)));
        let unsigned = Envelope { signatures: Vec::new(), ..envelope };
        assert!(Envelope::decode(&unsigned.encode(), 1000).is_err());
        assert!(Envelope::decode(&[&stored[..], b"x"].concat(), 1000).is_err());
    }
}
