//! Trust files and documents of the chain: one JSON, the latter with a number and root keys.

use super::{Role, Trust, TrustedKey};
use crate::cosign;
use crate::fleet::FleetName;
use crate::layout::Channel;
use crate::signature::{KeyError, KeyId, PublicKey};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// The format of a file that stands for itself.
pub const FIXED: u32 = 1;
/// The format of a document of the chain.
pub const CHAINED: u32 = 2;
/// Root keys of a document at most; an envelope carries as many signatures.
const ROOT_KEYS: usize = 8;

/// Whom to trust, as it is written. Unknown fields are refused: what is not understood must not be believed in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// 1 for a file that stands for itself, 2 for a document of the chain.
    pub format: u32,
    /// Its place in the chain, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Who may write the next document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Keys that act.
    pub keys: Vec<KeyEntry>,
    /// The lowest sequence that is believed, by `fleet@channel`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub minimum_sequence: BTreeMap<String, u64>,
    /// Slots that are stepped over whatever is in them, by `fleet@channel`, in order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub void: BTreeMap<String, Vec<VoidRange>>,
    /// Where what is served must be co-signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cosign: Vec<CosignRule>,
}

/// The keys, best kept offline, that write the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// How many of them must sign.
    pub threshold: u32,
    /// Public keys, PEM, one in each text.
    pub keys: Vec<String>,
}

/// A key that acts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// What people call it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The public key, PEM; several keys may share an entry.
    pub public: String,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// For which fleets: `*`, `namespace/*` or a fleet.
    #[serde(default = "everywhere")]
    pub fleets: Vec<String>,
    /// In which channels: `*` or a name.
    #[serde(default = "everywhere")]
    pub channels: Vec<String>,
    /// Revoked: the last sequence at which it is believed, by `fleet@channel`. In channels that are not named nothing of
    /// this key is believed any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<BTreeMap<String, u64>>,
}

/// Slots from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoidRange {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// Where, and from when on, what is served must be co-signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosignRule {
    /// In which fleets.
    #[serde(default = "everywhere")]
    pub fleets: Vec<String>,
    /// In which channels.
    #[serde(default = "everywhere")]
    pub channels: Vec<String>,
    /// By how many keys with the role `cosign`.
    pub signatures: u32,
    /// The first sequence that it holds for, by `fleet@channel`: from the first entry on if not named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub from: BTreeMap<String, u64>,
}

/// Why a trust file cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TrustFileError {
    /// A key in it.
    #[error("trust file: {0}")]
    Key(#[from] KeyError),
    /// Not the JSON that this version reads.
    #[error("trust file: {0}")]
    Json(String),
    /// From the future.
    #[error("trust file: format {0} is unknown to this program: upgrade it")]
    Format(u32),
    /// Nothing to trust.
    #[error("trust file: no keys")]
    Empty,
    /// It starts a chain where one that stands for itself is needed.
    #[error("trust file: this is a document of a chain")]
    Chain,
    /// Read well, and it makes no sense.
    #[error("trust file: {0}")]
    Senseless(String),
}

pub(super) fn everywhere() -> Vec<String> {
    vec!["*".to_owned()]
}

/// JSON, and not PEM.
pub(super) fn is_json(file: &[u8]) -> bool {
    file.trim_ascii_start().starts_with(b"{")
}

/// What is read of a trust file before all else.
#[derive(Deserialize)]
struct Start {
    format: u32,
}

impl Document {
    /// Reads and checks a document.
    pub fn parse(json: &[u8]) -> Result<Self, TrustFileError> {
        let error = |error: serde_json::Error| TrustFileError::Json(error.to_string());
        let Start { format } = serde_json::from_slice(json).map_err(error)?;
        if ![FIXED, CHAINED].contains(&format) {
            return Err(TrustFileError::Format(format));
        }
        let document: Self = serde_json::from_slice(json).map_err(error)?;
        document.check()?;
        Ok(document)
    }

    /// What this document makes readers believe.
    pub fn trust(&self) -> Result<Trust, TrustFileError> {
        let mut keys = BTreeMap::new();
        for entry in &self.keys {
            for key in PublicKey::all_from_pem(entry.public.as_bytes())? {
                let trusted = TrustedKey {
                    name: entry.name.clone(),
                    roles: entry.roles.clone(),
                    fleets: entry.fleets.clone(),
                    channels: entry.channels.clone(),
                    revoked: entry.revoked.clone(),
                    key,
                };
                if keys.insert(trusted.key.id(), trusted).is_some() {
                    return Err(TrustFileError::Senseless("a key is there twice".to_owned()));
                }
            }
        }
        if keys.is_empty() {
            return Err(TrustFileError::Empty);
        }
        let (minimum, void) = (self.minimum_sequence.clone(), self.void.clone());
        Ok(Trust { keys, minimum, void, cosign: self.cosign.clone() })
    }

    /// The root keys by id, and how many of them must sign.
    pub fn root_keys(&self) -> Result<(BTreeMap<KeyId, PublicKey>, usize), TrustFileError> {
        let senseless = |text: &str| TrustFileError::Senseless(text.to_owned());
        let root = self.root.as_ref().ok_or_else(|| senseless("a document of the chain needs root keys"))?;
        let mut keys = BTreeMap::new();
        for pem in &root.keys {
            let [key] = PublicKey::all_from_pem(pem.as_bytes())?
                .try_into()
                .map_err(|_| senseless("several root keys in one text"))?;
            if keys.insert(key.id(), key).is_some() {
                return Err(senseless("a root key is there twice"));
            }
        }
        let threshold = root.threshold as usize;
        if keys.len() > ROOT_KEYS {
            return Err(TrustFileError::Senseless(format!("more than {ROOT_KEYS} root keys")));
        }
        if threshold == 0 || threshold > keys.len() {
            return Err(TrustFileError::Senseless(format!("{threshold} of {} root keys", keys.len())));
        }
        Ok((keys, threshold))
    }

    fn check(&self) -> Result<(), TrustFileError> {
        let trust = self.trust()?;
        match (self.format, self.number) {
            (FIXED, None) if self.root.is_none() => {}
            (CHAINED, Some(number)) if number > 0 => self.check_chained(&trust)?,
            _ => {
                return Err(TrustFileError::Senseless(
                    "format 1 has no number and no root keys, format 2 has both".to_owned(),
                ));
            }
        }
        self.check_places()?;
        for (place, ranges) in &self.void {
            let mut after = 0;
            for range in ranges {
                if range.first <= after || range.last < range.first {
                    return Err(TrustFileError::Senseless(format!("void slots of {place} are not in order")));
                }
                after = range.last;
            }
        }
        for rule in &self.cosign {
            if rule.signatures == 0 || rule.signatures as usize > cosign::MOST {
                let most = cosign::MOST;
                return Err(TrustFileError::Senseless(format!("co-signatures: between 1 and {most}")));
            }
        }
        Ok(())
    }

    /// Keys that lie about, and keys whose holders must be two, are not one.
    fn check_chained(&self, trust: &Trust) -> Result<(), TrustFileError> {
        let (root, _) = self.root_keys()?;
        for trusted in trust.keys() {
            let id = trusted.key.id();
            if root.contains_key(&id) {
                return Err(TrustFileError::Senseless(format!("key {id} is a root key and acts")));
            }
            if trusted.roles.contains(&Role::Publish) && trusted.roles.contains(&Role::Cosign) {
                return Err(TrustFileError::Senseless(format!("key {id} publishes and co-signs itself")));
            }
        }
        Ok(())
    }

    /// A misspelt fleet or channel would protect nothing.
    fn check_places(&self) -> Result<(), TrustFileError> {
        let revoked = self.keys.iter().filter_map(|key| key.revoked.as_ref());
        let maps = revoked.chain(self.cosign.iter().map(|rule| &rule.from));
        let places =
            maps.flat_map(BTreeMap::keys).chain(self.minimum_sequence.keys()).chain(self.void.keys());
        for place in places {
            let valid = place.rsplit_once('@').is_some_and(|(fleet, channel)| {
                fleet.parse::<FleetName>().is_ok() && channel.parse::<Channel>().is_ok()
            });
            if !valid {
                let place: String = place.chars().take(200).collect();
                return Err(TrustFileError::Senseless(format!("{place:?} is no fleet@channel")));
            }
        }
        Ok(())
    }
}
