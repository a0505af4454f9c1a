//! Whom to trust: public keys with roles, fleets and channels.

use crate::envelope::Envelope;
use crate::fleet::FleetName;
use crate::layout::Channel;
use crate::signature::{KeyError, KeyId, PublicKey};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use thiserror::Error;

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
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
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Publish => "publish",
            Self::Pin => "pin",
            Self::Renew => "renew",
            Self::Report => "report",
        })
    }
}

/// Trusted keys, and the sequences below which nothing is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    keys: BTreeMap<KeyId, TrustedKey>,
    minimum: BTreeMap<String, u64>,
}

/// A key and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// The key.
    pub key: PublicKey,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// For which fleets: `*`, `namespace/*` or a fleet. Empty: none.
    fleets: Vec<String>,
    /// In which channels: `*` or a name. Empty: none.
    channels: Vec<String>,
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
            Self::PayloadType(_) => "payload_type",
        }
    }
}

/// What is read of a trust file before all else.
#[derive(Deserialize)]
struct Start {
    format: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrustFile {
    #[serde(rename = "format")]
    _format: u32,
    keys: Vec<KeyEntry>,
    #[serde(default)]
    minimum_sequence: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    public: String,
    roles: BTreeSet<Role>,
    #[serde(default = "everywhere")]
    fleets: Vec<String>,
    #[serde(default = "everywhere")]
    channels: Vec<String>,
}

fn everywhere() -> Vec<String> {
    vec!["*".to_owned()]
}

impl Trust {
    /// These keys, each in every role, everywhere.
    pub fn of(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        let roles = BTreeSet::from([Role::Publish, Role::Pin, Role::Renew, Role::Report]);
        let trusted = keys.into_iter().map(|key| {
            let trusted =
                TrustedKey { roles: roles.clone(), fleets: everywhere(), channels: everywhere(), key };
            (trusted.key.id(), trusted)
        });
        Self { keys: trusted.collect(), minimum: BTreeMap::new() }
    }

    /// Reads a trust file: PEM with one or several public keys, each in every role; or JSON:
    /// `{"format":1,"keys":[{"public":PEM,"roles":["publish","pin"],"fleets":["shop/*"],"channels":["stable"]}],
    /// "minimum_sequence":{"shop/edge@stable":17}}`, where fleets and channels left out mean all.
    pub fn parse(file: &[u8]) -> Result<Self, TrustFileError> {
        if !file.trim_ascii_start().starts_with(b"{") {
            return Ok(Self::of(PublicKey::all_from_pem(file)?));
        }
        let json = |error: serde_json::Error| TrustFileError::Json(error.to_string());
        let Start { format } = serde_json::from_slice(file).map_err(json)?;
        if format != 1 {
            return Err(TrustFileError::Format(format));
        }
        let parsed: TrustFile = serde_json::from_slice(file).map_err(json)?;
        let mut keys = BTreeMap::new();
        for entry in parsed.keys {
            for key in PublicKey::all_from_pem(entry.public.as_bytes())? {
                let trusted = TrustedKey {
                    roles: entry.roles.clone(),
                    fleets: entry.fleets.clone(),
                    channels: entry.channels.clone(),
                    key,
                };
                if keys.insert(trusted.key.id(), trusted).is_some() {
                    return Err(TrustFileError::Json("a key is there twice".to_owned()));
                }
            }
        }
        if keys.is_empty() {
            Err(TrustFileError::Empty)
        } else {
            Ok(Self { keys, minimum: parsed.minimum_sequence })
        }
    }

    /// The lowest sequence that is believed in a channel.
    pub fn minimum_sequence(&self, fleet: &FleetName, channel: &Channel) -> u64 {
        self.minimum.get(&format!("{fleet}@{channel}")).copied().unwrap_or(0)
    }

    /// All keys, by id.
    pub fn keys(&self) -> impl Iterator<Item = &TrustedKey> {
        self.keys.values()
    }

    /// The trusted keys whose signatures hold; at least one. A signature by a stranger beside them does no harm, one of
    /// a trusted key that does not hold is refused.
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
        let key = signers.first().map(|signer| signer.key.id());
        Err(key.map_or_else(
            || TrustError::UnknownKey(String::new()),
            |key| TrustError::Role { key, role, fleet: fleet.clone(), channel: channel.clone() },
        ))
    }
}

impl TrustedKey {
    /// Whether the key has this role in this channel of this fleet.
    pub fn may(&self, role: Role, fleet: &FleetName, channel: &Channel) -> bool {
        self.may_somewhere(role, fleet)
            && self.channels.iter().any(|pattern| pattern == "*" || pattern == channel.as_str())
    }

    /// Whether the key has this role in some channel of this fleet.
    pub fn may_somewhere(&self, role: Role, fleet: &FleetName) -> bool {
        let name = fleet.to_string();
        let fleet_fits = |pattern: &String| {
            pattern == "*"
                || *pattern == name
                || pattern
                    .strip_suffix('*')
                    .is_some_and(|prefix| prefix.ends_with('/') && name.starts_with(prefix))
        };
        self.roles.contains(&role) && !self.channels.is_empty() && self.fleets.iter().any(fleet_fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::{KeyPair, Signer as _};

    fn key(seed: u8) -> KeyPair {
        KeyPair::generate(&[seed; 32]).unwrap().0
    }

    fn file(seed: u8, rest: &str) -> Vec<u8> {
        let public = serde_json::to_string(&key(seed).public().to_pem()).unwrap();
        format!(r#"{{"format":1,"keys":[{{"public":{public},{rest}}}],"minimum_sequence":{{"shop/edge@stable":17}}}}"#)
            .into_bytes()
    }

    #[test]
    fn roles_fleets_and_channels_hold() {
        let trust =
            Trust::parse(&file(1, r#""roles":["publish"],"fleets":["shop/*"],"channels":["stable"]"#))
                .unwrap();
        let envelope = Envelope::sign("t", b"x".to_vec(), &[&key(1)]).unwrap();
        let fleet = FleetName::gateway("shop", "edge");
        let stable: Channel = "stable".parse().unwrap();
        let check = |role, fleet: &FleetName, channel: &str| {
            trust.verify(&envelope, "t", role, fleet, &channel.parse().unwrap())
        };
        assert_eq!(check(Role::Publish, &fleet, "stable"), Ok(()));
        assert_eq!(check(Role::Pin, &fleet, "stable").unwrap_err().label(), "role");
        assert_eq!(check(Role::Publish, &fleet, "next").unwrap_err().label(), "role");
        assert!(check(Role::Publish, &FleetName::gateway("shopping", "edge"), "stable").is_err());
        assert_eq!(trust.minimum_sequence(&fleet, &stable), 17);
        assert_eq!(trust.minimum_sequence(&FleetName::gateway("shop", "other"), &stable), 0);
    }

    #[test]
    fn signatures_are_checked() {
        let trust = Trust::of([key(1).public().clone()]);
        let mut envelope = Envelope::sign("t", b"x".to_vec(), &[&key(2), &key(1)]).unwrap();
        assert_eq!(trust.signers(&envelope, "t").unwrap().len(), 1);
        assert_eq!(trust.signers(&envelope, "other").unwrap_err().label(), "payload_type");
        envelope.payload = b"y".to_vec();
        assert_eq!(trust.signers(&envelope, "t").unwrap_err().label(), "bad_signature");
        let stranger = Envelope::sign("t", b"x".to_vec(), &[&key(2)]).unwrap();
        assert_eq!(trust.signers(&stranger, "t").unwrap_err().label(), "unknown_key");
    }

    #[test]
    fn trust_files_are_read_strictly() {
        let pem = key(1).public().to_pem() + &key(2).public().to_pem();
        assert_eq!(Trust::parse(pem.as_bytes()).unwrap().keys().count(), 2);
        assert!(matches!(Trust::parse(&file(1, r#""role":["publish"]"#)), Err(TrustFileError::Json(_))));
        assert!(matches!(Trust::parse(&file(1, r#""roles":["root"]"#)), Err(TrustFileError::Json(_))));
        assert_eq!(Trust::parse(br#"{"format":2,"chain":[]}"#), Err(TrustFileError::Format(2)));
        assert_eq!(Trust::parse(br#"{"format":1,"keys":[]}"#), Err(TrustFileError::Empty));
        assert!(Trust::parse(b"").is_err());
    }
}
