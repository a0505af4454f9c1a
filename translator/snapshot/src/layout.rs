//! Where things lie in a store, below the prefix of a fleet.
//!
//! ```text
//! pages/sha256/ab/<digest>           zstd frame of a page
//! manifests/sha256/ab/<digest>       zstd frame of a manifest; the digest is the snapshot's id
//! bundles/<digest>                   zstd frame of many pages, for cold starts
//! att/<snapshot>/<digest>            signed attestation beside a manifest
//! att/<snapshot>/cosign/<key>        signature by a key that rebuilt the snapshot
//! att/documents/sha256/ab/<digest>   zstd frame of a document that an attestation names
//! log/<channel>/<%020d>              signed entries: the create of the next one is the commit point
//! head/<channel>                     hint at the newest entry, which it embeds
//! late/<channel>/…                   index of endpoint sets and sealed secrets (see `late`)
//! values/sha256/ab/<digest>          these, one by one
//! status/<relay>.json                a relay's report
//! gc/…                               gc's own: what is condemned, who is at work
//! ```
//!
//! Beside the fleets, at the root of the store, `trust/<%020d>` holds the chain of trust.

use crate::digest::Digest;
use crate::signature::KeyId;
use crate::wave::RelayName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The name of a channel: what a fleet follows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Channel(String);

/// Text that names no channel.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "{0:?} is no channel: up to 63 lower-case letters, digits and -, starting and ending with none of the last"
)]
pub struct ChannelError(String);

impl Channel {
    /// The channel that commands mean if none is named.
    pub fn stable() -> Self {
        Self("stable".to_owned())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Channel {
    fn default() -> Self {
        Self::stable()
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Channel {
    type Err = ChannelError;

    fn from_str(text: &str) -> Result<Self, ChannelError> {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let valid = text.len() <= 63
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && edge(text.as_bytes().first())
            && edge(text.as_bytes().last());
        if valid { Ok(Self(text.to_owned())) } else { Err(ChannelError(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for Channel {
    type Error = ChannelError;

    fn try_from(text: String) -> Result<Self, ChannelError> {
        text.parse()
    }
}

impl From<Channel> for String {
    fn from(channel: Channel) -> Self {
        channel.0
    }
}

/// A page.
pub fn page(digest: &Digest) -> String {
    hashed("pages", digest)
}

/// A manifest.
pub fn manifest(snapshot: &Digest) -> String {
    hashed("manifests", snapshot)
}

/// A bundle.
pub fn bundle(digest: &Digest) -> String {
    format!("bundles/{digest}")
}

/// An attestation: a snapshot may get several over time, each under its own digest.
pub fn attestation(snapshot: &Digest, digest: &Digest) -> String {
    format!("att/{snapshot}/{digest}")
}

/// The signature of a key that rebuilt a snapshot.
pub fn cosignature(snapshot: &Digest, key: &KeyId) -> String {
    format!("att/{snapshot}/cosign/{key}")
}

/// A document of an attestation.
pub fn document(digest: &Digest) -> String {
    hashed("att/documents", digest)
}

/// The log of a channel.
pub fn log(channel: &Channel) -> String {
    format!("log/{channel}")
}

/// A slot of a channel's log.
pub fn entry(channel: &Channel, sequence: u64) -> String {
    format!("log/{channel}/{sequence:020}")
}

/// The head of a channel.
pub fn head(channel: &Channel) -> String {
    format!("head/{channel}")
}

/// The newest index of late values.
pub fn late_head(channel: &Channel) -> String {
    format!("late/{channel}/head")
}

/// A slot of the log of late values.
pub fn late_entry(channel: &Channel, generation: u64) -> String {
    format!("late/{channel}/log/{generation:020}")
}

/// A late value.
pub fn late_value(digest: &Digest) -> String {
    hashed("values", digest)
}

/// Where the chain of trust lies, at the root of the store.
pub const TRUST: &str = "trust";

/// A document of the chain of trust, in its folder.
pub fn trust_document(number: u64) -> String {
    format!("{number:020}")
}

/// The report of a relay.
pub fn report(relay: &RelayName) -> String {
    format!("status/{relay}.json")
}

/// Where reports lie.
pub const REPORTS: &str = "status";

/// Whether the object of this name never changes, because its digest names it.
pub fn is_immutable(name: &str) -> bool {
    let named =
        ["pages/", "manifests/", "bundles/", "att/", "values/"].iter().any(|folder| name.starts_with(folder));
    named && !name.contains("/cosign/")
}

/// Two digits make a folder, so that no folder of a local store gets too many files.
fn hashed(kind: &str, digest: &Digest) -> String {
    let digest = digest.to_string();
    format!("{kind}/sha256/{}/{digest}", &digest[..2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_safe_in_paths() {
        for name in ["stable", "zone-a", "0"] {
            assert_eq!(name.parse::<Channel>().unwrap().as_str(), name);
        }
        for name in ["", "..", "a/b", "A", "-a", "a-", "a.b", "stable#1", &"a".repeat(64)] {
            assert!(name.parse::<Channel>().is_err(), "{name}");
        }
        assert_eq!(entry(&Channel::stable(), 7), "log/stable/00000000000000000007");
        let (digest, stable) = (Digest::of(b""), Channel::stable());
        for name in [
            page(&digest),
            manifest(&digest),
            bundle(&digest),
            document(&digest),
            late_value(&digest),
            attestation(&digest, &digest),
        ] {
            assert!(is_immutable(&name), "{name}");
        }
        for name in [
            entry(&stable, 7),
            head(&stable),
            late_head(&stable),
            late_entry(&stable, 7),
            report(&"a".parse().unwrap()),
        ] {
            assert!(!is_immutable(&name), "{name}");
        }
    }
}
