//! What is signed beside each snapshot so that history answers without the sources: for every object of a fleet where
//! it was written, what it says, what Envoy gets of it, and its status.
//!
//! ```text
//! attestation ─┬─ records   all objects, as of this release or an earlier one
//!              └─ change    what this release changed against the one before ─▶ the change before ─▶ … ─▶ records
//! ```
//! All objects together are large, and one change is small: so a release writes its change, and all objects anew only
//! now and then ([`CHAIN`]). Lines that move because something was inserted above them are one shift of a file.

mod book;
mod change;
mod shift;
mod timeline;
mod wanted;
mod written;

pub use book::Book;
pub use change::{Change, Changed, Previous, What};
pub use shift::Shift;
pub use timeline::{Event, timeline};
pub use wanted::{Wanted, WantedError};
pub use written::Written;

use moorgate_model::ObjectRef;
use moorgate_snapshot::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The form of the documents in this room.
pub const FORMAT: u32 = 1;
/// The name of the document with all objects.
pub const RECORDS: &str = "records";
/// The name of the document with the change.
pub const CHANGE: &str = "change";
/// After so many changes in a row all objects are written anew: a reader has to go through the whole row.
pub const CHAIN: u32 = 64;

/// All objects that a fleet is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Records {
    /// [`FORMAT`].
    pub format_version: u32,
    /// By [`key`].
    pub objects: BTreeMap<String, Item>,
}

impl Default for Records {
    fn default() -> Self {
        Self { format_version: FORMAT, objects: BTreeMap::new() }
    }
}

/// One object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The file that it was read from, relative to its source.
    pub file: String,
    /// The line where it starts, from 1.
    pub line: u32,
    /// The template or overlay that rendered it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered_from: Option<String>,
    /// Tells contents apart: the start of the digest of its `spec`.
    pub content: String,
    /// Tells apart what Envoy gets of it: the start of a digest of all routes, listeners or clusters that it makes.
    /// Empty for objects that only shape what others make.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub effective: String,
    /// Its rules or listeners, by index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Its Gateway API status, as of the compile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

/// One rule of a route, one listener of a Gateway, or one target of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Part {
    /// The line where it starts, counted from the line of its object.
    pub line: u32,
    /// What finds it from Envoy's side: of a rule [`mark`]s of its matches or [`stream_mark`]s, of a listener [`chain_mark`]s;
    /// of a target of a policy its [`policy_mark`], and what the policy does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub makes: Vec<String>,
}

/// The name of an object in records: `group/kind/namespace/name`, the group of core and the namespace of cluster-scoped
/// kinds empty.
pub fn key(object: &ObjectRef) -> String {
    format!("{}/{}/{}/{}", object.group, object.kind, object.namespace, object.name)
}

/// The object that a [`key`] names.
pub fn object(key: &str) -> Option<ObjectRef> {
    let mut parts = key.splitn(4, '/');
    Some(ObjectRef::new(parts.next()?, parts.next()?, parts.next()?, parts.next()?))
}

/// The start of a digest: enough to tell apart what differs by change. The records are signed, and nothing is let in
/// by a mark.
pub fn mark(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string().chars().take(16).collect()
}

/// What stands in [`Part::makes`] for a listener: Envoy's listener, the filter chain in it, and the Gateway's listener.
pub fn chain_mark(envoy_listener: &str, chain: &str, listener: &str) -> String {
    format!("{envoy_listener}/{chain}/{listener}")
}

/// What stands in [`Part::makes`] for a rule that carries bytes: Envoy's listener and the filter chain in it.
pub fn stream_mark(envoy_listener: &str, chain: &str) -> String {
    format!("stream/{envoy_listener}/{chain}")
}

/// What stands in [`Part::makes`] for a target of a policy: how `explain` calls it.
pub fn policy_mark(target: &str) -> String {
    format!("policy/{target}")
}

/// What stands beside that for a capability that is in force for requests.
pub fn capability_mark(capability: &str) -> String {
    format!("{DOES}{capability}")
}

/// The same for connections and datagrams.
pub fn carrying_mark(capability: &str) -> String {
    format!("{DOES_CARRYING}{capability}")
}

const DOES: &str = "does/";
const DOES_CARRYING: &str = "does-carrying/";

/// What stands beside that for a policy that is merged with one of a wider scope.
pub const MERGES: &str = "merges";

impl Item {
    /// `file:line`, of one of its parts if it is told which.
    pub fn place(&self, part: Option<usize>) -> String {
        let offset = part.and_then(|part| self.parts.get(part)).map_or(0, |part| part.line);
        format!("{}:{}", self.file, self.line.saturating_add(offset))
    }

    /// The rule that makes the match of this mark.
    pub fn part_of(&self, mark: &str) -> Option<usize> {
        self.parts.iter().position(|part| part.makes.iter().any(|made| made == mark))
    }
}

#[cfg(test)]
mod tests;
