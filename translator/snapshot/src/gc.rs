//! Removing what nobody needs any more: pages, manifests, bundles and late values. Log entries, indexes of late values,
//! attestations and their documents stay.
//!
//! ```text
//! roots ─▶ manifests ─▶ everything needed          any error on the way ends the run, and nothing is deleted
//!          all objects, older than the grace, not needed ─▶ gc/condemned/<object>        first run
//!          condemned for the delay, still not needed, not written since ─▶ deleted       a later run
//! ```
//! What keeps an object: every entry of the last days or the last releases, whichever is more, and the state that was in
//! force before them; so the newest entry's target, previous good, candidate and pin; what any slot says that does not
//! verify, and any report: an attacker can make gc keep more, never less. Ages are the store's own, by its own clock.
//! Of late values the head keeps what it names, and so do the last indexes, as many as releases: nobody goes back to others.
//!
//! A publisher that needs a condemned object writes it again and takes the mark away ([`guard()`]). No store has a
//! conditional delete, so that between gc's last look and the delete a moment remains. Both look again: gc after it has
//! deleted, and puts back what an entry names by then; the publisher after its commit. Whoever comes second sees it.
//! Should one of them die at just that moment: a copy of what is deleted lies in `gc/removed` for the delay, and every later
//! run puts back from there what is needed by then.

mod guard;
mod late;
mod lease;
mod roots;
mod sweep;

pub use guard::{Guard, guard, recheck};
pub(crate) use guard::{rescue, restore};
pub use lease::LeaseError;

use crate::layout::Channel;
use crate::reader::ReadError;
use crate::store::{FleetStore, StoreError};
use crate::trust::Trust;
use crate::writer::WriteError;
use lease::Lease;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Entries as young as this keep what they name.
    pub keep_for: Duration,
    /// So many newest entries of each channel keep what they name, however old.
    pub keep_last: usize,
    /// Objects as young as this stay: a publisher may be at work on a release that no entry names yet.
    pub grace: Duration,
    /// How long an object is condemned before it is deleted.
    pub delay: Duration,
    /// A run that takes longer may be taken over by another.
    pub lease: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let days = |days: u64| Duration::from_hours(24 * days);
        Self {
            keep_for: days(30),
            keep_last: 20,
            grace: days(7),
            delay: days(1),
            lease: Duration::from_hours(1),
        }
    }
}

/// What a run is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Only looks.
    DryRun,
    /// Condemns and deletes. The nonce, random, tells this run's lease from others.
    Apply {
        /// Hexadecimal digits.
        nonce: String,
    },
}

/// Objects and their stored bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their bytes as stored.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// What a run found and did in one fleet. A dry run says what a run now would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Snapshots that are kept, with all they need.
    pub snapshots: u64,
    /// Objects that a kept snapshot needs.
    pub needed: Amount,
    /// Objects that nobody needs and that are too young to say so for good.
    pub young: Amount,
    /// Condemned by this run.
    pub condemned: Amount,
    /// Condemned before, and not for long enough.
    pub waiting: Amount,
    /// Marks taken away, because the object is needed again, was written again, or is gone.
    pub spared: Amount,
    /// Deleted by this run.
    pub deleted: Amount,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Why a run ended early. It has deleted nothing, or nothing more.
#[derive(Debug, Error)]
pub enum GcError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A channel or manifest could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Something could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Another run is at work.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A log of which it cannot be told what it needs.
    #[error("{path}: {reason}: nothing was removed")]
    Unclear {
        /// The object or folder.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl GcError {
    /// Whether something in the store does not hold, as opposed to a store that cannot be reached.
    pub fn is_integrity(&self) -> bool {
        match self {
            Self::Unclear { .. } => true,
            Self::Read(error) => error.is_integrity(),
            Self::Store(_) | Self::Write(_) | Self::Lease(_) => false,
        }
    }
}

/// One run over one fleet.
///
/// # Errors
/// Whatever could not be listed or read. Then nothing was deleted, or nothing more.
pub async fn collect(
    store: &FleetStore,
    trust: &Arc<Trust>,
    policy: &Policy,
    mode: &Mode,
) -> Result<Outcome, GcError> {
    let lease = match mode {
        Mode::DryRun => None,
        Mode::Apply { nonce } => Some(Lease::take(store, nonce, policy.lease).await?),
    };
    let result = sweep::run(store, trust, policy, lease.as_ref()).await;
    if let Some(lease) = lease {
        // A lease that cannot be given back runs out.
        let given_back = lease.give_back(store).await;
        return result.and_then(|outcome| given_back.map(|()| outcome));
    }
    result
}

/// Where gc's own objects lie.
mod place {
    /// Marks: the name of the object follows.
    pub(super) const CONDEMNED: &str = "gc/condemned";
    /// Leases, numbered.
    pub(super) const LEASE: &str = "gc/lease";
    /// Written at each run: its age is the store's clock, and that it is there says that gc runs here.
    pub(super) const CLOCK: &str = "gc/clock";

    /// Copies of what was deleted, for the delay: the name of the object follows.
    pub(super) const REMOVED: &str = "gc/removed";

    /// The copy of an object.
    pub(super) fn removed(object: &str) -> String {
        format!("{REMOVED}/{object}")
    }

    /// The mark of an object.
    pub(super) fn mark(object: &str) -> String {
        format!("{CONDEMNED}/{object}")
    }
}

/// The folders whose objects gc removes.
const FOLDERS: [&str; 4] = ["pages", "manifests", "bundles", "values"];
/// Objects that a folder may have: more than that is not looked at, and an error.
const OBJECTS: usize = 20_000_000;
/// A mark, a lease or the clock, in bytes.
const NOTE_BYTES: usize = 4 << 10;

/// Seconds since 1970 by the store's clock.
type Seconds = i64;

fn seconds(duration: Duration) -> Seconds {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Channels as folders show them.
async fn channels(store: &FleetStore, folder: &str) -> Result<Vec<Channel>, GcError> {
    let names = store.folders(folder).await?;
    let parse = |name: &String| {
        name.parse::<Channel>()
            .map_err(|error| GcError::Unclear { path: store.describe(folder), reason: error.to_string() })
    };
    names.iter().map(parse).collect()
}
