//! Reports: tells the store what this relay runs, below its own name, so that nobody has to ask it.
//!
//! A change is told at once, further ones at most once a second in the long run with the newest state, and the same again
//! every few minutes. The last one says that none follows, so that nobody waits for a relay that has left. Whatever goes wrong
//! here costs a report and nothing else: this task only looks at what the fleet shows.

mod compose;

use crate::clock::Clock;
use crate::fleet::Status as FleetStatus;
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use crate::serve::hub::Hub;
use compose::compose;
use moorgate_snapshot::report::ReportError;
use moorgate_snapshot::{FleetStore, KeyPair, RelayIdentity, Report, StoreError, layout};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a report is written without a change, give or take a fifth.
pub const INTERVAL: Duration = Duration::from_mins(5);
/// The least time between two reports in the long run.
const SPACING: Duration = Duration::from_secs(1);
/// So many may follow one another at once: that a release is known, is in force, and was acknowledged.
const BURST: u32 = 3;
/// A report must be written within this time.
const DEADLINE: Duration = Duration::from_secs(10);
/// The last report, while somebody waits for this relay to end.
const FAREWELL: Duration = Duration::from_secs(1);
/// The longest wait after a failure.
const BACK_OFF: Duration = Duration::from_mins(1);
/// With credentials that may not write, it is tried again after this time, give or take a fifth.
const DENIED: Duration = Duration::from_hours(1);

/// Reports for one fleet.
#[derive(Debug)]
pub struct Reporter {
    /// The part of the fleet in the first store.
    pub part: FleetStore,
    /// The key with the role `report`, as it was read last.
    pub key: watch::Receiver<Arc<KeyPair>>,
    /// Who reports.
    pub identity: RelayIdentity,
    /// What the fleet does.
    pub status: watch::Receiver<Arc<FleetStatus>>,
    /// Its Envoys.
    pub hub: Arc<Hub>,
    /// The time of day.
    pub clock: Clock,
    /// Spreads reports.
    pub jitter: Jitter,
    /// Where metrics go.
    pub metrics: Arc<Metrics>,
}

/// Why a report was not written.
#[derive(Debug, Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error("the store did not answer in time")]
    Deadline,
}

/// How reporting goes.
#[derive(Debug)]
struct Progress {
    /// What was written last.
    told: Option<Report>,
    /// Until when the reports that were written take up the room of one in [`SPACING`].
    taken: Instant,
    /// Before this nothing is written.
    not_before: Instant,
    /// Then something is written, whether it changed or not.
    due: Instant,
    failures: u32,
}

impl Reporter {
    /// Reports until it is told to stop, and that it was.
    pub async fn run(mut self, stop: CancellationToken) {
        let now = Instant::now();
        let mut progress = Progress { told: None, taken: now, not_before: now, due: now, failures: 0 };
        self.keep_telling(&mut progress, &stop).await;
        // Nobody waits for whom nobody has heard of.
        if progress.told.is_some() && progress.failures == 0 {
            self.take_leave().await;
        }
    }

    /// Whoever waits for all relays does not wait for this one any more. A store that does not answer keeps nobody: the
    /// report before runs out by itself.
    async fn take_leave(&self) {
        let (status, key) = (Arc::clone(&self.status.borrow()), Arc::clone(&self.key.borrow()));
        let report = compose(&self.identity, &status, &[], self.clock.unix_now());
        let last = Report { left: true, ..report };
        if !matches!(tokio::time::timeout(FAREWELL, self.write(&last, &key)).await, Ok(Ok(()))) {
            tracing::debug!(fleet = %status.fleet, "no report says that this relay has left");
        }
    }

    async fn keep_telling(&mut self, progress: &mut Progress, stop: &CancellationToken) {
        let mut clients = self.hub.changes();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(progress.due) => {}
                changed = self.status.changed() => if changed.is_err() { return },
                changed = clients.changed() => if changed.is_err() { return },
                // The same again, signed by the new one.
                Ok(()) = self.key.changed() => progress.told = None,
            }
            // What changes meanwhile goes into the same report.
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(progress.not_before) => {}
            }
            let status = Arc::clone(&self.status.borrow_and_update());
            clients.mark_unchanged();
            let key = Arc::clone(&self.key.borrow_and_update());
            let report = compose(&self.identity, &status, &self.hub.clients(), self.clock.unix_now());
            let same = progress
                .told
                .as_ref()
                .is_some_and(|told| Report { time: told.time, ..report.clone() } == *told);
            if same && Instant::now() < progress.due {
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                result = self.write(&report, &key) => self.note(progress, report, result),
            }
        }
    }

    async fn write(&self, report: &Report, key: &KeyPair) -> Result<(), Failure> {
        let envelope = report.clone().sign(key)?;
        let (name, bytes) = (layout::report(&report.relay), envelope.encode().into());
        let write = self.part.overwrite(&name, bytes);
        Ok(tokio::time::timeout(DEADLINE, write).await.map_err(|_| Failure::Deadline)??)
    }

    fn note(&self, progress: &mut Progress, report: Report, result: Result<(), Failure>) {
        let fleet = report.fleet.to_string();
        let (outcome, wait) = match result {
            Ok(()) => {
                progress.failures = 0;
                progress.told = Some(report);
                ("ok", None)
            }
            Err(Failure::Store(error @ StoreError::Denied { .. })) => {
                if progress.failures == 0 {
                    tracing::warn!(fleet, %error, "these credentials may not write reports: there will be none");
                }
                ("denied", Some(self.jitter.around(DENIED)))
            }
            Err(error) => {
                if progress.failures == 0 {
                    tracing::warn!(fleet, %error, "no report was written; serving goes on");
                }
                ("failed", Some(self.jitter.back_off(progress.failures, SPACING, BACK_OFF)))
            }
        };
        self.metrics.count("moorgate_relay_reports", &[("fleet", &fleet), ("result", outcome)]);
        let now = Instant::now();
        if let Some(wait) = wait {
            progress.failures = progress.failures.saturating_add(1);
            (progress.not_before, progress.due) = (now + wait, now + wait);
        } else {
            progress.taken = progress.taken.max(now) + SPACING;
            let room = SPACING * BURST.saturating_sub(1);
            progress.not_before = progress.taken.checked_sub(room).unwrap_or(now);
            progress.due = now + self.jitter.around(INTERVAL);
        }
    }
}
