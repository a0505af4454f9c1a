//! Endpoint sets that the snapshot in force does not name, though the one before does. They are kept up while a client may
//! still use their clusters, and then taken away like all that leaves last.

use super::super::view::Name;
use super::Protocol;
use super::plan::Draft;
use super::subscription::{Exception, Have, Subscription};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Subscription {
    /// What the snapshot in force names again is no leftover.
    pub(super) fn recall(&mut self, leftover: &BTreeSet<Name>) {
        self.dropped.retain(|name| leftover.contains(name));
        self.left.retain(|name, _| leftover.contains(name));
    }

    /// Starts the linger of such sets, if the client holds them; the earliest start.
    pub(super) fn leave_behind(&mut self, leftover: &BTreeSet<Name>, now: Instant) -> Option<Instant> {
        if self.protocol == Protocol::StateOfTheWorld {
            // It has no way to take endpoints away: they go with their cluster.
            return None;
        }
        for name in leftover {
            let held =
                self.subscribed(name) && !self.dropped.contains(name) && self.have(name) != Have::Absent;
            if !held {
                self.left.remove(name);
            } else if !self.left.contains_key(name) {
                self.left.insert(Arc::clone(name), now);
            }
        }
        self.left.values().min().copied()
    }

    /// Takes away those whose linger is over.
    pub(super) fn drop_leftover(&mut self, linger: Duration, now: Instant) -> Option<Draft> {
        let over = |since: &Instant| *since + linger <= now;
        let names: Vec<Name> =
            self.left.iter().filter(|(_, since)| over(since)).map(|(name, _)| Arc::clone(name)).collect();
        if names.is_empty() {
            return None;
        }
        for name in &names {
            self.left.remove(name);
            self.dropped.insert(Arc::clone(name));
            self.exceptions.insert(Arc::clone(name), Exception { have: Have::Absent, leaving: None });
        }
        Some(Draft { removed: names, ..Draft::empty(Arc::from("")) })
    }
}
