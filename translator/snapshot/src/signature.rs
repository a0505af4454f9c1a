//! Ed25519 keys and signatures, in the files that openssl reads and writes.

use crate::digest::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};
use std::fmt;
use thiserror::Error;

/// Before the 32 bytes of an Ed25519 public key in `SubjectPublicKeyInfo` (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Before the 32 bytes of an Ed25519 seed in PKCS#8 version 1 (RFC 8410).
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// Why a key cannot be used. Never holds key material.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// No PEM block of the kind asked for.
    #[error("no PEM block \"{0}\"")]
    NoPem(&'static str),
    /// Another algorithm, or damaged.
    #[error("no Ed25519 key in {0}")]
    NotEd25519(&'static str),
    /// The signer could not sign.
    #[error("cannot sign: {0}")]
    Sign(String),
}

/// The SHA-256 of a public key's `SubjectPublicKeyInfo` in DER, in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Digest);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl KeyId {
    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.0.short()
    }

    /// Reads the hexadecimal form.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

/// A key that checks signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    bytes: [u8; 32],
    id: KeyId,
}

impl PublicKey {
    fn new(bytes: [u8; 32]) -> Self {
        let id = KeyId(Digest::of_parts([&SPKI[..], &bytes]));
        Self { bytes, id }
    }

    /// All public keys of a PEM text, at least one. Blocks of other kinds are an error: a private key has no place in
    /// a file that says whom to trust.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, KeyError> {
        let missing = KeyError::NoPem("PUBLIC KEY");
        let blocks = pem.windows(11).filter(|window| window == b"-----BEGIN ").count();
        let keys: Vec<Self> = SubjectPublicKeyInfoDer::pem_slice_iter(pem)
            .map(|der| Self::from_der(der.map_err(|_| KeyError::NoPem("PUBLIC KEY"))?.as_ref()))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() || keys.len() != blocks { Err(missing) } else { Ok(keys) }
    }

    /// A key from `SubjectPublicKeyInfo` in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        let error = || KeyError::NotEd25519("SubjectPublicKeyInfo");
        let bytes = der.strip_prefix(&SPKI).ok_or_else(error)?;
        bytes.try_into().map(Self::new).map_err(|_| error())
    }

    /// The key as a PEM block, with a newline at its end.
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &[&SPKI[..], &self.bytes].concat())
    }

    /// Its name in envelopes and trust files.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Whether this key signed this message.
    pub fn verifies(&self, message: &[u8], sig: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::ED25519, self.bytes).verify(message, sig).is_ok()
    }
}

/// Whatever can sign: a key in memory, or a program that asks a KMS.
pub trait Signer: Send + Sync {
    /// The key that checks what this signs.
    fn public(&self) -> &PublicKey;
    /// The 64 bytes of an Ed25519 signature.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// A private key in memory.
pub struct KeyPair {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public.id)
    }
}

impl KeyPair {
    /// The key of these 32 random bytes, and its PKCS#8 PEM as `openssl genpkey -algorithm ed25519` would write it.
    pub fn generate(seed: &[u8; 32]) -> Result<(Self, String), KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::NotEd25519("seed"))?;
        Ok((Self::new(pair)?, pem("PRIVATE KEY", &[&PKCS8[..], seed].concat())))
    }

    /// Reads the first PKCS#8 block of a PEM text.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| KeyError::NoPem("PRIVATE KEY"))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der());
        Self::new(pair.map_err(|_| KeyError::NotEd25519("PKCS#8"))?)
    }

    fn new(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let bytes = pair.public_key().as_ref().try_into().map_err(|_| KeyError::NotEd25519("key pair"))?;
        Ok(Self { pair, public: PublicKey::new(bytes) })
    }
}

impl Signer for KeyPair {
    fn public(&self) -> &PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    // An Ed25519 key fits one line of 64 characters.
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8410 §10.1 and §10.3.
    #[test]
    fn keys_are_those_of_rfc_8410() {
        let private = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let pair = KeyPair::from_pem(private.as_bytes()).unwrap();
        assert_eq!(pair.public().to_pem(), public);
        assert_eq!(PublicKey::all_from_pem(public.as_bytes()).unwrap(), [pair.public().clone()]);
        let sig = pair.sign(b"message").unwrap();
        assert!(pair.public().verifies(b"message", &sig));
        assert!(!pair.public().verifies(b"massage", &sig));
        assert!(!format!("{pair:?}").contains("1O5y"));
    }

    #[test]
    fn a_generated_key_reads_back_and_trust_files_hold_public_keys_only() {
        let (pair, private) = KeyPair::generate(&[7; 32]).unwrap();
        assert_eq!(KeyPair::from_pem(private.as_bytes()).unwrap().public(), pair.public());
        assert!(PublicKey::all_from_pem(private.as_bytes()).is_err());
        let both = pair.public().to_pem() + &private;
        assert!(PublicKey::all_from_pem(both.as_bytes()).is_err());
        assert!(PublicKey::all_from_pem(b"").is_err());
        assert!(KeyPair::from_pem(pair.public().to_pem().as_bytes()).is_err());
    }
}
