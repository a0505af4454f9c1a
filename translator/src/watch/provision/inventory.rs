//! What we have in the cluster: whose it is, and what was applied last.

use super::api::{KINDS, Kind};
use moorgate_snapshot::Digest;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    /// That of a manifest; `None` if it is of no kind that is rendered.
    pub(super) fn of(manifest: &Value) -> Option<Self> {
        let kind = Kind::of(manifest)?;
        let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default().to_owned();
        Some(Self { kind: kind.name, namespace: text("namespace"), name: text("name") })
    }

    /// Its kind.
    pub(super) fn kind(&self) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == self.kind)
    }

    /// Whether it is the Service of this name.
    pub(super) fn is_service(&self, name: &str) -> bool {
        self.kind == "Service" && self.name == name
    }
}

/// An object of ours.
#[derive(Debug)]
struct Known {
    fleet: String,
    /// The digest of what was applied; none of what an earlier run applied.
    applied: Option<Digest>,
}

/// Objects of ours. Nothing is known before it is taken.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    taken: bool,
    known: BTreeMap<Key, Known>,
}

impl Inventory {
    pub(super) fn is_taken(&self) -> bool {
        self.taken
    }

    /// Takes note of what is in the cluster. What was applied meanwhile is known better.
    pub(super) fn take(&mut self, found: Vec<(Key, String)>) {
        self.taken = true;
        for (key, fleet) in found {
            self.known.entry(key).or_insert(Known { fleet, applied: None });
        }
    }

    /// Whether exactly this was applied.
    pub(super) fn has(&self, manifest: &Value) -> bool {
        let known = Key::of(manifest).and_then(|key| self.known.get(&key));
        known.is_some_and(|known| known.applied == Some(digest(manifest)))
    }

    /// Whether this is an object of this fleet.
    pub(super) fn is_of(&self, key: &Key, fleet: &str) -> bool {
        self.known.get(key).is_some_and(|known| known.fleet == fleet)
    }

    pub(super) fn applied(&mut self, fleet: &str, manifest: &Value) {
        if let Some(key) = Key::of(manifest) {
            self.known.insert(key, Known { fleet: fleet.to_owned(), applied: Some(digest(manifest)) });
        }
    }

    pub(super) fn removed(&mut self, key: &Key) {
        self.known.remove(key);
    }

    /// What a fleet has and does not want.
    pub(super) fn unneeded(&self, fleet: &str, wanted: &BTreeSet<Key>) -> Vec<Key> {
        let own = self.known.iter().filter(|(key, known)| known.fleet == fleet && !wanted.contains(key));
        own.map(|(key, _)| key.clone()).collect()
    }

    /// What fleets have that are not among these.
    pub(super) fn of_others(&self, fleets: &BTreeSet<String>) -> Vec<(Key, String)> {
        let others = self.known.iter().filter(|(_, known)| !fleets.contains(&known.fleet));
        others.map(|(key, known)| (key.clone(), known.fleet.clone())).collect()
    }
}

fn digest(manifest: &Value) -> Digest {
    Digest::of(manifest.to_string().as_bytes())
}
