//! Mirrors are brought up to date after each act.

use super::{Outcome, Publisher};
use moorgate_snapshot::mirror::{MirrorError, Mirrored, mirror};
use moorgate_snapshot::{FleetStore, Reader};
use std::fmt;

/// What became of a mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The store, as in messages.
    pub store: String,
    /// What was copied, or why it is not up to date.
    pub result: Result<Mirrored, Behind>,
}

/// Why a mirror is not up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// The sentence.
    pub message: String,
    /// Whether something does not hold, as opposed to a store that cannot be reached.
    pub integrity: bool,
}

impl Mirror {
    /// Copies to a mirror what it lacks of a channel.
    pub async fn update(from: &Reader, to: &FleetStore) -> Self {
        let store = to.describe("").trim_end_matches('/').to_owned();
        let result = Box::pin(mirror(from, to)).await;
        let behind =
            |error: MirrorError| Behind { message: error.to_string(), integrity: error.is_integrity() };
        Self { store, result: result.map_err(behind) }
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.result {
            Ok(_) => write!(f, "mirror {}: up to date", self.store),
            Err(behind) => write!(f, "mirror {} is not up to date: {}", self.store, behind.message),
        }
    }
}

impl Publisher<'_> {
    /// The entry is committed whatever becomes of the mirrors: one that fails catches up at the next act.
    pub(super) async fn update_mirrors(&self, outcome: &mut Outcome) {
        for to in &self.mirrors {
            let mirror = Mirror::update(&self.reader, to).await;
            if mirror.result.is_err() {
                outcome.warnings.push(mirror.to_string());
            }
            outcome.mirrors.push(mirror);
        }
    }
}
