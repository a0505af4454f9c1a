//! The store is probed before the first release of a channel.

use super::{Gate, PublishError, Publisher};
use moorgate_snapshot::WriteError;
use moorgate_snapshot::reader::Tail;

impl Publisher<'_> {
    /// Refuses a store that breaks its promises before anything is built on them: while the log is empty.
    pub(super) async fn probe_before_first(&self, tail: &Tail) -> Result<(), PublishError> {
        if self.dry_run || tail.entry.is_some() || tail.next > 1 {
            return Ok(());
        }
        let probe = self.reader.store().probe(&self.meta.nonce).await.map_err(WriteError::Store)?;
        let broken: Vec<String> =
            probe.broken().map(|(promise, detail)| format!("{promise}: {detail}")).collect();
        if broken.is_empty() { Ok(()) } else { Err(Gate::Store { broken: broken.join("; ") }.into()) }
    }
}
