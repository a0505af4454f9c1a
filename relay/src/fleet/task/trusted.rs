//! The chain of trust and the freshness of the newest entry, as the fleet's task keeps them.

use super::Task;
use crate::metrics::Metrics;
use moorgate_snapshot::{Anchor, Entry, Position};

impl Task {
    /// Writes down how far the chain of trust was followed, so that no store can take it back.
    pub(super) fn on_trust(&mut self, anchor: &Anchor) {
        note_trust(&self.metrics, &self.label, anchor);
        let remembered = anchor.remember();
        if self.state.trust != remembered {
            tracing::info!(fleet = self.label, document = anchor.number(), "keys are trusted anew");
            self.state.trust = remembered;
            self.save_state();
        }
    }

    /// The newest entry is said to be the newest still. An older statement takes nothing back.
    pub(super) fn on_renewed(&mut self, entry: Position, expires: i64) {
        if (self.state.sequence, self.state.entry) == (entry.sequence, Some(entry.digest)) {
            self.expires = self.expires.max(Some(expires));
        }
    }
}

/// Shows the number of the newest document of the chain; 0 for keys that stand in a file alone.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating point")]
pub(super) fn note_trust(metrics: &Metrics, fleet: &str, anchor: &Anchor) {
    let number = anchor.number().unwrap_or_default();
    metrics.set("moorgate_relay_trust_document", &[("fleet", fleet)], number as f64);
}

/// When the remembered entry runs out.
pub(super) fn remembered_expiry(entry: &str) -> Option<i64> {
    let entry: Entry = serde_json::from_str(entry).ok()?;
    entry.expires.map(time::OffsetDateTime::unix_timestamp)
}
