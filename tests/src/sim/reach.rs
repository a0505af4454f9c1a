//! What must be there: the judge's own reckoning of what entries and reports reach, from their plain JSON and the pool.
//!
//! A moment may pass in which something needed is gone: gc looks, somebody commits, gc deletes. Then one of the two has to
//! put it back, or the next gc if they die. Such holes are written down, and must be closed when a run of gc has ended well
//! that began after them, and when all has come to its end.

use super::collectors::POLICY;
use super::monitor::Monitor;
use super::pool::{self, pool};
use super::world::World;
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::{Digest, layout, limits};
use serde_json::Value;
use std::collections::BTreeMap;

impl Monitor {
    /// An object is there, whatever was before.
    pub(super) fn put_back(&mut self, path: &str) {
        let name = below_fleet(path);
        if self.removed.remove(name) {
            self.counts.push("written again after gc");
        }
        if self.holes.remove(name).is_some() {
            self.counts.push("hole closed");
        }
    }

    /// An object was removed.
    pub(super) fn deleted(&mut self, path: &str, now: i64) {
        let name = below_fleet(path);
        if !["pages/", "manifests/", "bundles/"].iter().any(|folder| name.starts_with(folder)) {
            return;
        }
        self.counts.push("object removed");
        self.removed.insert(name.to_owned());
        // A bundle that is gone costs requests only.
        if let Some(why) = self.needed(now, Some(name)).remove(name) {
            self.counts.push("hole at a delete");
            self.holes.insert(name.to_owned(), why);
        }
    }

    /// What a snapshot needs and gc has removed.
    pub(super) fn gone(&self, snapshot: &Digest) -> Vec<String> {
        let names = pool::number(snapshot).map(objects).unwrap_or_default();
        names.into_iter().filter(|name| self.removed.contains(name)).collect()
    }

    /// What is needed now and gone.
    pub(super) fn open_holes(&self) -> BTreeMap<String, String> {
        self.holes.clone()
    }

    /// A run of gc ended well that began after these holes.
    pub(super) fn closed(&mut self, holes: &BTreeMap<String, String>) {
        for (name, why) in holes {
            if self.holes.remove(name).is_some() {
                self.violated(format!("{name}: removed, and {why} needs it"));
            }
        }
    }

    /// The snapshots that have holes, which somebody will mend by hand.
    pub(super) fn take_holed(&mut self) -> Vec<usize> {
        let holes = std::mem::take(&mut self.holes);
        let holed = |number: &usize| objects(*number).iter().any(|name| holes.contains_key(name));
        (0..pool().len()).filter(holed).collect()
    }

    /// Everything that must be there is there.
    pub(super) fn nothing_missing(&mut self, now: i64) {
        for (name, why) in self.needed(now, None) {
            if self.bucket.peek(&format!("{}/{name}", World::fleet().prefix())).is_none() {
                self.violated(format!("{name}: not there, and {why} needs it"));
            }
        }
    }

    /// The objects that must be there now, and why. `just_removed` was there until now.
    fn needed(&self, now: i64, just_removed: Option<&str>) -> BTreeMap<String, String> {
        let mut needed = BTreeMap::new();
        let mut keep = |number: usize, why: &str| {
            needed.extend(objects(number).into_iter().map(|name| (name, why.to_owned())));
        };
        for (snapshot, why) in self.reported(now) {
            let Some(number) = pool::number(&snapshot) else { continue };
            let manifest = layout::manifest(&snapshot);
            let path = format!("{}/{manifest}", World::fleet().prefix());
            // A relay may run what was removed before it said so.
            if just_removed == Some(&*manifest) || self.bucket.peek(&path).is_some() {
                keep(number, &why);
            }
        }
        for (channel, slots) in &self.entries {
            let young = |sequence: &u64| {
                let written = self.written.get(&(channel.clone(), *sequence));
                written.is_some_and(|written| now - written < seconds(POLICY.keep_for))
            };
            let newest_first: Vec<_> = slots.iter().rev().collect();
            let many = newest_first.iter().filter(|(sequence, _)| young(sequence)).count();
            // And the state that was in force when the first of them came.
            for (sequence, entry) in newest_first.into_iter().take(many.max(POLICY.keep_last) + 1) {
                let payload = serde_json::from_slice::<Value>(&entry.envelope.payload).unwrap_or_default();
                for number in snapshots(&payload["state"]).iter().filter_map(pool::number) {
                    keep(number, &format!("entry {sequence} of {channel}"));
                }
            }
        }
        needed
    }

    /// What reports say that are young, whoever signed them.
    fn reported(&self, now: i64) -> Vec<(Digest, String)> {
        let folder = format!("{}/{}/", World::fleet().prefix(), layout::REPORTS);
        let names = self.bucket.names();
        let mut found = Vec::new();
        for path in names.iter().filter(|name| name.starts_with(&folder)) {
            let young =
                self.bucket.modified(path).is_some_and(|written| now - written < seconds(POLICY.keep_for));
            let stored = self.bucket.peek(path).filter(|_| young);
            let envelope = stored.and_then(|stored| Envelope::decode(&stored, limits::REPORT_BYTES).ok());
            let Some(envelope) = envelope else { continue };
            let report = serde_json::from_slice::<Value>(&envelope.payload).unwrap_or_default();
            let acked = report["envoys"].as_array().into_iter().flatten().map(|envoy| &envoy["acked"]);
            let digests = [&report["snapshot"]].into_iter().chain(acked).filter_map(Value::as_str);
            found.extend(
                digests.filter_map(|text| Some((text.parse().ok()?, format!("the report in {path}")))),
            );
        }
        found
    }
}

/// All snapshots that a state names; what a bundle was made of is none.
fn snapshots(state: &Value) -> Vec<Digest> {
    match state {
        Value::Object(fields) => fields
            .iter()
            .filter(|(name, _)| *name != "bundle")
            .flat_map(|(name, value)| match value.as_str() {
                Some(text) if name == "snapshot" => text.parse().into_iter().collect(),
                _ => snapshots(value),
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(snapshots).collect(),
        _ => Vec::new(),
    }
}

/// The manifest of a snapshot, and its pages that lie apart.
fn objects(number: usize) -> Vec<String> {
    let snapshot = &pool()[number].snapshot;
    let apart = snapshot.manifest().pages().iter().filter(|page| page.inline.is_none());
    let pages = apart.map(|page| layout::page(&page.digest));
    pages.chain([layout::manifest(&snapshot.id())]).collect()
}

fn below_fleet(path: &str) -> &str {
    path.strip_prefix(&World::fleet().prefix()).map_or(path, |name| name.trim_start_matches('/'))
}

fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}
