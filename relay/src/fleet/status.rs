//! What a fleet does, for people.

use super::choice::Because;
use crate::bind::binder::Report;
use moorgate_snapshot::{Action, Channel, Digest, FleetName};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The state of a fleet, as the admin address shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The fleet.
    pub fleet: FleetName,
    /// The channel that it follows.
    pub channel: Channel,
    /// The newest verified release; 0 if there is none.
    pub sequence: u64,
    /// The digest of that entry.
    pub entry: Option<Digest>,
    /// What that release did.
    pub action: Option<Action>,
    /// Who made it.
    pub author: Option<String>,
    /// The snapshot in force.
    pub snapshot: Option<Digest>,
    /// Why it is.
    pub because: Option<Because>,
    /// Since when, in seconds since 1970.
    pub since: Option<i64>,
    /// What an Envoy gets that refuses the one in force.
    pub fallback: Option<Digest>,
    /// Snapshots that Envoys took whole, newest first.
    pub good: Vec<Digest>,
    /// Snapshots that are bad here: Envoys refused them, with their words, or answers failed.
    pub quarantined: BTreeMap<Digest, String>,
    /// Whether answers stay within the bound of the step that bakes here; none if nobody asks or it is unknown.
    pub healthy: Option<bool>,
    /// The snapshot that the pin file asks for.
    pub local_pin: Option<Digest>,
    /// The fleet is gone from the source.
    pub retired: bool,
    /// The newest release has run out, and nothing newer came.
    pub expired: bool,
    /// Resources by type, short.
    pub resources: BTreeMap<&'static str, usize>,
    /// The store.
    pub store: Store,
    /// Whether the disk cache takes writes: `ok`, `writing` while what is served is not there yet, `degraded`, `none`.
    pub cache: &'static str,
    /// Endpoints and secrets, without content.
    pub bindings: Arc<Report>,
}

/// How the store does.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Store {
    /// When it last answered, in seconds since 1970.
    pub answered: Option<i64>,
    /// What failed or was refused last, until the store answers well again.
    pub error: Option<String>,
}

impl Status {
    /// Nothing is known yet.
    pub fn new(fleet: FleetName, channel: Channel) -> Self {
        Self {
            fleet,
            channel,
            sequence: 0,
            entry: None,
            action: None,
            author: None,
            snapshot: None,
            because: None,
            since: None,
            fallback: None,
            good: Vec::new(),
            quarantined: BTreeMap::new(),
            healthy: None,
            local_pin: None,
            retired: false,
            expired: false,
            resources: BTreeMap::new(),
            store: Store::default(),
            cache: "none",
            bindings: Arc::default(),
        }
    }

    /// Whether what the channel, or a person at this relay, asks for is in force: not the last good one in its place, nor
    /// what the cache or a seed held.
    pub fn follows(&self) -> bool {
        let asked = [Because::LocalPin, Because::Pin, Because::Target, Because::Wave];
        self.retired || self.because.is_some_and(|because| asked.contains(&because))
    }
}
