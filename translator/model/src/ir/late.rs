//! Values that a relay makes of Secrets: their bytes never lie in a snapshot.

use serde::Serialize;

/// A value under a name that Envoy asks for. What is around the secrets is written here, the secrets are named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LateValue {
    /// The SDS or ECDS name.
    pub name: String,
    /// How it is served.
    pub service: LateService,
    /// The objects, as kind, namespace and name, in the order in which they count.
    pub objects: Vec<(String, String, String)>,
    /// The encoded message, piece by piece.
    pub parts: Vec<LatePart>,
}

/// How a late value is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LateService {
    /// As a `Secret`, by SDS.
    Secret,
    /// As the configuration of a filter, by ECDS.
    Extension,
}

/// A piece of a late value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum LatePart {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A field of delimited type that holds these.
    Field(u32, Vec<LatePart>),
    /// An entry of one of the objects.
    Entry {
        /// Which one.
        object: u32,
        /// Its key.
        key: String,
        /// What it must be.
        form: LateForm,
        /// Random bytes stand for it while it is not there: what it protects stays closed, and nobody waits for it.
        or_random: bool,
    },
    /// These for each entry of all objects.
    Each(Vec<LatePart>),
    /// In `Each`: the name of the entry.
    Name,
    /// In `Each`: its value, a word.
    Value,
}

/// What an entry must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum LateForm {
    /// Anything but nothing.
    Opaque,
    /// Users with the SHA-1 of their passwords.
    Htpasswd,
    /// A word that can stand in a URL.
    Word,
    /// CA certificates.
    Authorities,
    /// Lists of revoked certificates.
    Revoked,
}
