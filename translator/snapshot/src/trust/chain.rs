//! The chain of trust: numbered documents in the store, each signed by a threshold of the root keys of the one before
//! and of its own, so that keys come and go without a visit to any reader.
//!
//! ```text
//! --trust FILE ─▶ document n ─▶ trust/<n+1> ─▶ … until the next one is missing
//!                 known          signed by n and by n+1
//! ```
//! The file only starts it. A reader never goes back: a store that hides or changes what was known is reported, and what
//! was known goes on to count.

use super::document::{self, Document, TrustFileError};
use super::{Trust, TrustError};
use crate::digest::Digest;
use crate::envelope::{Envelope, EnvelopeError};
use crate::layout;
use crate::limits;
use crate::signature::{KeyError, KeyId, PublicKey, Signer};
use crate::store::{FleetStore, Store, StoreError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thiserror::Error;

/// The payload type of documents in their envelopes.
pub const PAYLOAD_TYPE: &str = "application/vnd.moorgate.trust.v1+json";

/// A document of the chain, as far as it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    number: u64,
    payload: Vec<u8>,
    root: BTreeMap<KeyId, PublicKey>,
    threshold: usize,
    trust: Arc<Trust>,
    /// Digests of the documents passed on the way, this one last.
    passed: Vec<Digest>,
}

/// Whom to trust, and where to look for changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchor {
    /// A file that stands for itself: it changes when somebody changes it.
    Fixed(Arc<Trust>),
    /// A document of the chain: newer ones are followed.
    Chain(Arc<Link>),
}

/// What a reader writes down of the chain, so that it never goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remembered {
    /// The newest document, as it was signed.
    pub document: String,
    /// Digests of the documents passed on the way to it, its own last.
    pub passed: Vec<Digest>,
}

/// How far the chain could be followed.
#[derive(Debug)]
pub struct Followed {
    /// The newest that is believed.
    pub anchor: Anchor,
    /// Why it did not go on; none if the store has no more.
    pub error: Option<ChainError>,
}

/// Why a document of the chain is not believed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LinkError {
    /// No envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Another kind of payload.
    #[error(transparent)]
    Type(#[from] TrustError),
    /// What it says.
    #[error(transparent)]
    Document(#[from] TrustFileError),
    /// It lies in the place of another.
    #[error("document {0} in its place")]
    Number(u64),
    /// Not enough root keys signed it.
    #[error("signed by {signed} of the {of}'s root keys, and {threshold} are needed")]
    Threshold {
        /// How many did.
        signed: usize,
        /// Whose keys.
        of: &'static str,
        /// How many must.
        threshold: usize,
    },
}

/// Why the chain could not be followed to its end. What is known goes on to count.
#[derive(Debug, Error)]
pub enum ChainError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A document does not verify.
    #[error("trust document {number}: {error}")]
    Refused {
        /// Its number.
        number: u64,
        /// Why.
        #[source]
        error: LinkError,
    },
    /// The store lacks a document that is known here.
    #[error(
        "the store has no trust document {0}, which is known here: it was rolled back, or never published"
    )]
    Hidden(u64),
    /// The store has another document than the one that is known here.
    #[error("trust document {0} in the store is not the one that is known here")]
    Another(u64),
    /// More documents than a reader follows at once.
    #[error("more than {} trust documents at once", limits::TRUST_HOPS)]
    TooLong,
}

impl ChainError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Store(error) => error.label(),
            Self::Refused { error: LinkError::Document(TrustFileError::Format(_)), .. } => "upgrade_required",
            Self::Refused { .. } | Self::TooLong => "trust_refused",
            Self::Hidden(_) => "trust_rollback",
            Self::Another(_) => "trust_equivocation",
        }
    }

    /// Whether something in the store does not hold, as opposed to a store that cannot be reached.
    pub fn is_integrity(&self) -> bool {
        !matches!(self, Self::Store(_))
    }
}

impl Link {
    fn new(payload: Vec<u8>, passed: &[Digest]) -> Result<Self, LinkError> {
        let parsed = Document::parse(&payload)?;
        let number = parsed.number.ok_or(TrustFileError::Chain)?;
        let (root, threshold) = parsed.root_keys()?;
        let mut passed = passed[passed.len().saturating_sub(limits::TRUST_HOPS)..].to_vec();
        passed.push(digest(&parsed));
        Ok(Self { number, root, threshold, trust: Arc::new(parsed.trust()?), passed, payload })
    }

    /// Its place in the chain.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// What it says.
    pub fn document(&self) -> Result<Document, TrustFileError> {
        Document::parse(&self.payload)
    }

    /// The digest of what it says, however it is written.
    fn digest(&self) -> Option<Digest> {
        self.passed.last().copied()
    }

    /// The root keys, and how many of them must sign.
    pub fn root(&self) -> (&BTreeMap<KeyId, PublicKey>, usize) {
        (&self.root, self.threshold)
    }

    /// The root keys of this document that signed an envelope.
    pub fn signed(&self, envelope: &Envelope) -> BTreeSet<KeyId> {
        let message = envelope.signed_message();
        let holds = envelope.signatures.iter().filter(|signature| {
            self.root.get(&signature.keyid).is_some_and(|key| key.verifies(&message, &signature.sig))
        });
        holds.map(|signature| signature.keyid).collect()
    }

    /// Reads the document that follows this one: believed if a threshold of the root keys of both signed it.
    pub fn next(&self, stored: &[u8]) -> Result<Self, LinkError> {
        let envelope = Envelope::decode(stored, limits::TRUST_BYTES)?;
        let next = Self::unsigned(&envelope, &self.passed)?;
        if self.number.checked_add(1) != Some(next.number) {
            return Err(LinkError::Number(next.number));
        }
        self.enough(&envelope, "document before")?;
        next.enough(&envelope, "document")?;
        Ok(next)
    }

    /// Reads the document that starts a chain: signed by a threshold of its own root keys.
    pub fn first(stored: &[u8]) -> Result<Self, LinkError> {
        let envelope = Envelope::decode(stored, limits::TRUST_BYTES)?;
        let link = Self::unsigned(&envelope, &[])?;
        link.enough(&envelope, "document")?;
        Ok(link)
    }

    fn unsigned(envelope: &Envelope, passed: &[Digest]) -> Result<Self, LinkError> {
        if envelope.payload_type != PAYLOAD_TYPE {
            let found = envelope.payload_type.chars().take(80).collect();
            return Err(TrustError::PayloadType(found).into());
        }
        Self::new(envelope.payload.clone(), passed)
    }

    fn enough(&self, envelope: &Envelope, of: &'static str) -> Result<(), LinkError> {
        let (signed, threshold) = (self.signed(envelope).len(), self.threshold);
        if signed < threshold { Err(LinkError::Threshold { signed, of, threshold }) } else { Ok(()) }
    }
}

impl Anchor {
    /// Reads a trust file: PEM or JSON that stands for itself (see [`Trust::parse`]), or a document of the chain, signed
    /// or not: it is believed because it lies here.
    pub fn parse(file: &[u8]) -> Result<Self, TrustFileError> {
        if !document::is_json(file) {
            return Trust::parse(file).map(Arc::new).map(Self::Fixed);
        }
        let told = |error: LinkError| match error {
            LinkError::Document(error) => error,
            other => TrustFileError::Senseless(other.to_string()),
        };
        if let Ok(envelope) = serde_json::from_slice::<Envelope>(file) {
            // One that its own keys did not sign was cut short on the way here.
            return Link::first(&envelope.encode()).map(Arc::new).map(Self::Chain).map_err(told);
        }
        if Document::parse(file)?.number.is_none() {
            return Trust::parse(file).map(Arc::new).map(Self::Fixed);
        }
        Link::new(file.trim_ascii().to_vec(), &[]).map(Arc::new).map(Self::Chain).map_err(told)
    }

    /// Whom to trust.
    pub fn trust(&self) -> Arc<Trust> {
        match self {
            Self::Fixed(trust) => Arc::clone(trust),
            Self::Chain(link) => Arc::clone(&link.trust),
        }
    }

    /// The number of the newest known document; none if there is no chain.
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Fixed(_) => None,
            Self::Chain(link) => Some(link.number),
        }
    }

    /// Goes on from what was written down, if that follows from this file: a file that says something else wins, since an
    /// operator changed it.
    #[must_use]
    pub fn resume(self, remembered: Option<&Remembered>) -> Self {
        let (Self::Chain(own), Some(remembered)) = (&self, remembered) else { return self };
        let before = remembered.passed.split_last().map(|(_, before)| before).unwrap_or_default();
        match Link::new(remembered.document.clone().into_bytes(), before) {
            Ok(link)
                if link.passed == remembered.passed
                    && own.digest().is_some_and(|own| link.passed.contains(&own)) =>
            {
                Self::Chain(Arc::new(link))
            }
            _ => self,
        }
    }

    /// What to write down; none if there is no chain.
    pub fn remember(&self) -> Option<Remembered> {
        let Self::Chain(link) = self else { return None };
        let document = String::from_utf8(link.payload.clone()).ok()?;
        Some(Remembered { document, passed: link.passed.clone() })
    }

    /// Follows the chain in a store: one read of the known document, to notice a store that went back, and one of each
    /// that follows.
    pub async fn follow(&self, store: &Store) -> Followed {
        let Self::Chain(known) = self else { return Followed { anchor: self.clone(), error: None } };
        let mut newest = Arc::clone(known);
        let chain = store.chain();
        let error = match same(known, &chain).await {
            Ok(()) => advance(&mut newest, &chain).await.err(),
            Err(error) => Some(error),
        };
        Followed { anchor: Self::Chain(newest), error }
    }
}

/// A file may be written otherwise than what was signed: what it says counts.
fn digest(document: &Document) -> Digest {
    // Strings, numbers and lists only: serde_json cannot fail on them.
    Digest::of(&serde_json::to_vec(document).unwrap_or_default())
}

/// Whether the store has what is known.
async fn same(known: &Link, chain: &FleetStore) -> Result<(), ChainError> {
    let number = known.number;
    let stored = match chain.get(&layout::trust_document(number), limits::TRUST_BYTES).await {
        Err(StoreError::TooLarge { .. }) => return Err(ChainError::Another(number)),
        other => other?.ok_or(ChainError::Hidden(number))?,
    };
    let found = Envelope::decode(&stored, limits::TRUST_BYTES).ok();
    let found = found.and_then(|envelope| Document::parse(&envelope.payload).ok());
    let found = found.map(|document| digest(&document));
    if found.is_some() && found == known.digest() { Ok(()) } else { Err(ChainError::Another(number)) }
}

async fn advance(newest: &mut Arc<Link>, chain: &FleetStore) -> Result<(), ChainError> {
    for _ in 0..limits::TRUST_HOPS {
        let Some(number) = newest.number.checked_add(1) else { return Ok(()) };
        let stored = match chain.get(&layout::trust_document(number), limits::TRUST_BYTES).await {
            Err(StoreError::TooLarge { limit, .. }) => {
                let error = EnvelopeError::TooLarge(limit).into();
                return Err(ChainError::Refused { number, error });
            }
            other => other?,
        };
        let Some(stored) = stored else { return Ok(()) };
        *newest = Arc::new(newest.next(&stored).map_err(|error| ChainError::Refused { number, error })?);
    }
    Err(ChainError::TooLong)
}

/// Signs a document, or adds signatures to one that is signed already.
pub fn sign(file: &[u8], signers: &[&dyn Signer]) -> Result<Envelope, SignError> {
    let mut envelope = match serde_json::from_slice::<Envelope>(file) {
        Ok(envelope) => envelope,
        Err(_) => Envelope {
            payload_type: PAYLOAD_TYPE.to_owned(),
            payload: file.trim_ascii().to_vec(),
            signatures: Vec::new(),
        },
    };
    Link::unsigned(&envelope, &[])?;
    let signed = Envelope::sign(PAYLOAD_TYPE, envelope.payload.clone(), signers)?;
    for signature in signed.signatures {
        envelope.signatures.retain(|one| one.keyid != signature.keyid);
        envelope.signatures.push(signature);
    }
    Ok(envelope)
}

/// Places a signed document in the store: the first one of a chain, or the next one. False if another one has its place.
pub async fn publish(store: &Store, envelope: &Envelope, known: Option<&Link>) -> Result<bool, ChainError> {
    let stored = Bytes::from(envelope.encode());
    let link = match known {
        Some(known) => known.next(&stored),
        None => Link::first(&stored),
    };
    let number = known.map_or(1, |known| known.number.saturating_add(1));
    let link = link.map_err(|error| ChainError::Refused { number, error })?;
    Ok(store.commit_trust_document(link.number, &stored).await?)
}

/// Why a document could not be signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// What it says.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

#[cfg(test)]
mod tests;
