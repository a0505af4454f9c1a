//! Releases: new entries in the log of a channel.
//!
//! ```text
//! read the log's end ─▶ gates ─▶ pages, bundle, manifest, attestation ─▶ read back ─▶ create log/<n+1> ─▶ head
//!                                objects that nothing names yet          as a relay   the commit point    a hint
//! ```
//! Whoever loses the race for a slot is told who won, and writes nothing that a reader would see.

mod acts;
mod cosigned;
mod gates;
mod mirrors;
mod moves;
mod plan;
mod preview;
mod probe;
mod records;
mod release;
mod renew;
mod reports;
mod rollout;
mod transition;

pub use acts::AUTOMATIC;
pub use gates::{Allow, Gate};
pub use mirrors::{Behind, Mirror};
pub use moves::{Plan, PlanLine};
pub use plan::{MAGIC, PLAN_BYTES, PlanError, PlanFile, PlannedFleet};
pub use preview::{Preview, preview};
pub use release::{Offer, Parent};
pub use renew::{Renewed, renew};
pub use reports::{Progress, Reports, Standing, Verdict, has_left, judge, standing};
pub use rollout::{End, Rollout};

use moorgate_snapshot::channel::{ChannelState, Release};
use moorgate_snapshot::entry::{self, Action, Entry, EntryError, Promoted};
use moorgate_snapshot::gc;
use moorgate_snapshot::limits::{self, LimitUse};
use moorgate_snapshot::reader::{ReadError, Reader, Slot, Tail};
use moorgate_snapshot::signature::{KeyError, Signer};
use moorgate_snapshot::writer::{self, WriteError, Written};
use moorgate_snapshot::{FleetStore, StoreError, TrustError, VerifiedEntry};
use thiserror::Error;
use time::OffsetDateTime;

/// What an entry says of the act itself. The clock, randomness and environment enter here, from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Who.
    pub author: String,
    /// The CI run; empty if there is none.
    pub run: String,
    /// Who approved it; empty if nobody was asked.
    pub approver: String,
    /// Why; empty if nothing was said.
    pub reason: String,
    /// When.
    pub time: OffsetDateTime,
    /// From when on readers that have seen nothing newer raise an alarm.
    pub expires: Option<OffsetDateTime>,
    /// Random: no two entries of a fleet have the same.
    pub nonce: String,
}

/// Writes entries to one channel of one fleet.
pub struct Publisher<'a> {
    /// Reads the channel as a relay would.
    pub reader: Reader,
    /// Signs entries and attestations.
    pub signer: &'a dyn Signer,
    /// What the entry says of the act.
    pub meta: Meta,
    /// Does everything but write.
    pub dry_run: bool,
    /// Writes behind entries by keys that are unknown here.
    pub step_over: bool,
    /// The fleet in other stores: brought up to date after each act.
    pub mirrors: Vec<FleetStore>,
}

/// What became of an act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The new entry; the newest one if nothing changed.
    pub entry: Entry,
    /// What happened.
    pub result: Done,
    /// What was served before, if anything was.
    pub before: Option<Release>,
    /// What went out before the entry, without the bundle.
    pub written: Written,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What became of the mirrors.
    pub mirrors: Vec<Mirror>,
}

/// How an act ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The entry is in the log.
    Committed,
    /// There was nothing to do: no entry.
    Unchanged,
    /// This is what would have been committed.
    DryRun,
}

impl Done {
    /// The word in outputs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Unchanged => "unchanged",
            Self::DryRun => "dry-run",
        }
    }
}

/// Why there is no entry.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The channel could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An object could not be written. Nothing was committed.
    #[error("nothing was committed: {0}")]
    Write(#[from] WriteError),
    /// The key could not sign. Nothing was committed.
    #[error("nothing was committed: {0}")]
    Key(#[from] KeyError),
    /// A gate refused.
    #[error(transparent)]
    Refused(#[from] Gate),
    /// Readers would not believe the entry.
    #[error("readers that trust what you trust would refuse this entry: {0}")]
    NotTrusted(EntryError),
    /// What was written reads back as something else.
    #[error("the store does not give back what was written to it: {0}")]
    ReadBack(String),
    /// The answer to the commit was lost, and so was the answer to the question.
    #[error(
        "it is not known whether entry {sequence} was committed: {error}; run it again, what is there is recognised"
    )]
    Uncertain {
        /// The slot.
        sequence: u64,
        /// What failed.
        #[source]
        error: StoreError,
    },
}

/// The longest reason, and the longest URL of a run, in bytes.
const REASON_BYTES: usize = 1024;
/// The longest name of an author, approver or writer, in bytes.
const NAME_BYTES: usize = 256;

/// A new state and what led to it.
#[derive(Debug, Clone)]
struct Change {
    action: Action,
    state: ChannelState,
    promoted: Option<Promoted>,
    reason: String,
}

impl Publisher<'_> {
    /// The end of the log.
    async fn tail(&self) -> Result<Tail, PublishError> {
        let tail = self.reader.newest(None).await?;
        let foreign = tail.voids.iter().find_map(|void| match &void.error {
            EntryError::Trust(TrustError::UnknownKey(keys)) => Some((void.sequence, keys.clone())),
            _ => None,
        });
        match foreign.filter(|_| !self.step_over) {
            Some((sequence, keys)) => Err(Gate::Foreign { sequence, keys }.into()),
            None => Ok(tail),
        }
    }

    /// The next entry of the log.
    fn entry(&self, tail: &Tail, change: Change) -> Entry {
        Entry {
            format: entry::FORMAT,
            features_required: Vec::new(),
            fleet: self.reader.store().fleet().clone(),
            channel: self.reader.channel().clone(),
            sequence: tail.next,
            previous: tail.entry.as_ref().map(VerifiedEntry::position),
            action: change.action,
            state: change.state,
            promoted: change.promoted,
            author: self.meta.author.clone(),
            run: self.meta.run.clone(),
            approver: self.meta.approver.clone(),
            reason: change.reason,
            time: self.meta.time,
            expires: self.meta.expires,
            nonce: self.meta.nonce.clone(),
        }
    }

    /// Refuses texts that are too long, and an entry that readers would find too large; signing it costs no more.
    fn check_size(&self, tail: &Tail, change: Change) -> Result<(), PublishError> {
        let meta = &self.meta;
        let texts = [
            ("the reason", &change.reason, REASON_BYTES),
            ("the author", &meta.author, NAME_BYTES),
            ("the approver", &meta.approver, NAME_BYTES),
            ("the writer", &change.state.writer, NAME_BYTES),
            ("the run", &meta.run, REASON_BYTES),
        ];
        for (what, text, limit) in texts {
            gates::length(what, text, limit)?;
        }
        let signed = self.entry(tail, change).sign(&[self.signer])?.encode().len();
        if signed > limits::ENTRY_BYTES {
            let what = "the signed entry, with its wave, pin and reasons";
            return Err(Gate::TooLong { what, bytes: signed, limit: limits::ENTRY_BYTES }.into());
        }
        Ok(())
    }

    /// Signs the next entry, reads it as a reader will, commits it, and points the head at it.
    async fn commit(
        &self,
        tail: &Tail,
        change: Change,
        mut warnings: Vec<String>,
    ) -> Result<Outcome, PublishError> {
        self.check_size(tail, change.clone())?;
        let before = tail.entry.as_ref();
        let entry = self.entry(tail, change);
        let envelope = entry.sign(&[self.signer])?;
        let used = LimitUse {
            what: "bytes of the entry",
            used: envelope.encode().len() as u64,
            limit: limits::ENTRY_BYTES as u64,
        };
        if used.percent() >= limits::WARN_PERCENT {
            warnings.push(format!("near a limit: {used}"));
        }
        let verified = Box::pin(self.reader.verify_next(envelope.clone(), entry.sequence)).await?;
        verified.map_err(PublishError::NotTrusted)?;
        for void in &tail.voids {
            warnings.push(format!(
                "slot {} of the log does not verify ({}): stepped over",
                void.sequence, void.error
            ));
        }
        let fresh = fresh(before.map(|before| &before.entry.state), &entry.state);
        let before = before.and_then(|before| before.entry.state.serving()).cloned();
        let mut outcome = Outcome {
            entry,
            result: Done::DryRun,
            before,
            written: Written::default(),
            warnings,
            mirrors: Vec::new(),
        };
        if self.dry_run {
            return Ok(outcome);
        }
        let guard = gc::guard(&self.reader, &fresh).await?;
        let sequence = outcome.entry.sequence;
        match writer::commit_entry(self.reader.store(), &outcome.entry, &envelope).await {
            Ok(true) => {}
            Ok(false) => return Err(self.moved(sequence).await.into()),
            Err(WriteError::Store(error @ StoreError::Denied { .. })) => {
                return Err(WriteError::Store(error).into());
            }
            Err(WriteError::Store(error)) => return Err(PublishError::Uncertain { sequence, error }),
            Err(error) => return Err(error.into()),
        }
        outcome.result = Done::Committed;
        if let Err(error) = guard.settle(self.reader.store()).await {
            outcome.warnings.push(format!("gc may have taken pages away: {error}"));
        }
        if let Err(error) = writer::write_head(self.reader.store(), &outcome.entry, envelope).await {
            outcome
                .warnings
                .push(format!("the head was not moved ({error}): relays find the entry by probing"));
        }
        self.update_mirrors(&mut outcome).await;
        Ok(outcome)
    }

    /// Says who took the slot.
    async fn moved(&self, sequence: u64) -> Gate {
        let channel = self.reader.channel().clone();
        let by = match self.reader.slot(sequence).await {
            Ok(Slot::Entry(entry)) => {
                let entry = entry.entry;
                let snapshot =
                    entry.state.newest().map(|release| format!(" of {}", release.snapshot.short()));
                format!("{} by {}{}", entry.action.as_str(), entry.author, snapshot.unwrap_or_default())
            }
            Ok(Slot::Void(error)) => format!("an entry that does not verify: {error}"),
            Ok(Slot::Empty) | Err(_) => "somebody else".to_owned(),
        };
        Gate::Moved { channel, sequence, by }
    }

    /// Nothing to do: says so with the newest entry, and mends a head that was lost or left behind.
    async fn unchanged(&self, tail: &Tail, warnings: Vec<String>) -> Result<Option<Outcome>, PublishError> {
        let Some(newest) = &tail.entry else { return Ok(None) };
        let mut outcome = Outcome {
            entry: newest.entry.clone(),
            result: Done::Unchanged,
            before: newest.entry.state.serving().cloned(),
            written: Written::default(),
            warnings,
            mirrors: Vec::new(),
        };
        if tail.head != Some(newest.entry.sequence) && !self.dry_run {
            let envelope = newest.envelope.clone();
            if let Err(error) = writer::write_head(self.reader.store(), &newest.entry, envelope).await {
                outcome.warnings.push(format!("the head could not be mended: {error}"));
            }
        }
        if !self.dry_run {
            self.update_mirrors(&mut outcome).await;
        }
        Ok(Some(outcome))
    }
}

/// The releases that no state before named: gc may have condemned what they need.
fn fresh(before: Option<&ChannelState>, after: &ChannelState) -> Vec<Release> {
    let known = |release: &&Release| {
        before.is_some_and(|before| before.releases().any(|one| one.snapshot == release.snapshot))
    };
    after.releases().filter(|release| !known(release)).cloned().collect()
}

#[cfg(test)]
mod tests;
