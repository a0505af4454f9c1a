//! Resources with a time to live: the client drops them unless it hears of them, so it hears of them in time.
//!
//! Heartbeats come from what is served, so that a relay whose store is gone keeps such resources alive as well. No
//! resource has a time to live unless the operator says so: with one, a relay that is gone takes configuration away.

use super::super::view::{Name, TypeSet};
use super::Protocol;
use super::plan::Draft;
use super::subscription::{Have, Subscription};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Times to live by resource name, of one type.
pub(super) type Lives = BTreeMap<Name, Duration>;

impl Subscription {
    /// Notes that the client hears of these resources now.
    pub(super) fn hear(&mut self, draft: &Draft, lives: &Lives, now: Instant) {
        let sent = draft.resources.iter().map(|(name, _)| name);
        let beats = draft.heartbeats.iter().map(|(name, _)| name);
        let names = sent.chain(beats).filter(|name| lives.contains_key(*name));
        self.heard.extend(names.map(|name| (Arc::clone(name), now)));
    }

    /// When the next heartbeat is due.
    pub(super) fn next_beat(&self, set: &TypeSet, lives: &Lives) -> Option<Instant> {
        lives.iter().filter_map(|(name, life)| self.due(name, *life, set)).min()
    }

    /// The heartbeat that is due, of all resources whose third of a life is over: of three one may be lost.
    pub(super) fn beat(&mut self, set: &Arc<TypeSet>, lives: &Lives, now: Instant) -> Option<Draft> {
        if !self.is_settled() {
            return None;
        }
        let due =
            |(name, life): &(&Name, &Duration)| self.due(name, **life, set).is_some_and(|due| due <= now);
        let names: Vec<Name> = lives.iter().filter(due).map(|(name, _)| Arc::clone(name)).collect();
        if names.is_empty() {
            return None;
        }
        let mut draft = Draft::empty(self.version(set));
        let versioned = |name: Name| set.get(&name).map(|value| (name, Arc::clone(value.version())));
        draft.heartbeats = names.into_iter().filter_map(versioned).collect();
        if self.full_state() {
            // What a full response lacks is gone, so the others come along.
            let beats: BTreeSet<&Name> = draft.heartbeats.iter().map(|(name, _)| name).collect();
            let others = set.iter().filter(|(name, _)| self.subscribed(name) && !beats.contains(name));
            let others = others.map(|(name, value)| (Arc::clone(name), Arc::clone(value)));
            draft.resources = set.batch(others.collect());
        }
        Some(draft)
    }

    fn due(&self, name: &Name, life: Duration, set: &TypeSet) -> Option<Instant> {
        let value = set.get(name).filter(|_| self.subscribed(name))?;
        let held = match self.have(name) {
            Have::Version(version) => version == *value.version(),
            Have::Kept(kept) => kept.version() == value.version(),
            Have::Absent | Have::Unknown => false,
        };
        self.heard.get(name).filter(|_| held).map(|heard| *heard + life / 3)
    }
}

/// Whether a client understands times to live in this variant of the protocol.
pub(super) fn understood(protocol: Protocol, features: &[String]) -> bool {
    let has = |feature: &str| features.iter().any(|own| own == feature);
    has(super::types::TTL_FEATURE) && (protocol == Protocol::Delta || has(super::types::WRAPPER_FEATURE))
}
