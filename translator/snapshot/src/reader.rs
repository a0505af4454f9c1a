//! Reading a channel without trusting the store: the one verifier of relays, publishers and `verify`.
//!
//! ```text
//! head (hint) ─▶ newest log entry ─▶ manifest ─▶ pages ─▶ Snapshot
//!                signature, place,    digest,     digest,
//!                never back           canonical   canonical
//! ```

mod audit;
mod cosigned;
mod fetch;
mod pins;
mod tail;

pub use audit::{Audit, Audited, End, Fault};
pub use tail::{Polled, Slot, Tail, Void};

use crate::attestation::AttestationError;
use crate::digest::Digest;
use crate::entry::{EntryError, Position};
use crate::layout::Channel;
use crate::snapshot::SnapshotError;
use crate::store::{FleetStore, StoreError};
use crate::trust::Trust;
use std::sync::Arc;
use thiserror::Error;

/// Reads one channel of one fleet. Cheap to clone; remembers nothing.
#[derive(Debug, Clone)]
pub struct Reader {
    store: FleetStore,
    trust: Arc<Trust>,
    channel: Channel,
}

/// Why a channel or a snapshot could not be read. A relay keeps what it has.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The newest entry is older than one seen before.
    #[error("the log of {channel} ends before entry {}, which was read before: it was rolled back", remembered.sequence)]
    RolledBack {
        /// The channel.
        channel: Channel,
        /// What was read before.
        remembered: Position,
    },
    /// Two entries for one place.
    #[error("entry {sequence} of {channel} is not the one that was read before")]
    Equivocation {
        /// The channel.
        channel: Channel,
        /// The place.
        sequence: u64,
    },
    /// Too many slots in a row that do not verify.
    #[error("the newest {count} entries of {channel} do not verify: {last}")]
    VoidRun {
        /// The channel.
        channel: Channel,
        /// How many.
        count: usize,
        /// Why the newest one does not.
        last: Box<EntryError>,
    },
    /// An object that must be there is not.
    #[error("{0}: missing")]
    Missing(String),
    /// An object is not what its digest says, or not in its form.
    #[error("{path}: damaged ({reason})")]
    Damaged {
        /// The object.
        path: String,
        /// In what way.
        reason: String,
    },
    /// A manifest or its pages are refused, though their digests hold.
    #[error("snapshot {id}: {error}")]
    Snapshot {
        /// The snapshot.
        id: Digest,
        /// Why.
        #[source]
        error: SnapshotError,
    },
    /// An attestation is not believed.
    #[error(transparent)]
    Attestation(#[from] AttestationError),
}

impl ReadError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Store(error) => error.label(),
            Self::RolledBack { .. } => "rollback",
            Self::Equivocation { .. } => "equivocation",
            Self::VoidRun { last, .. } => last.label(),
            Self::Missing(_) => "missing",
            Self::Damaged { .. } => "damaged",
            Self::Snapshot { error, .. } if error.needs_upgrade() => "upgrade_required",
            Self::Snapshot { .. } => "snapshot",
            Self::Attestation(_) => "attestation",
        }
    }

    /// Whether something in the store does not hold, as opposed to a store that cannot be reached.
    pub fn is_integrity(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::TooLarge { .. } | StoreError::Broken(_)),
            _ => true,
        }
    }
}

impl Reader {
    /// A reader of this channel.
    pub fn new(store: FleetStore, trust: Arc<Trust>, channel: Channel) -> Self {
        Self { store, trust, channel }
    }

    /// The part of the fleet in the store.
    pub fn store(&self) -> &FleetStore {
        &self.store
    }

    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(crate) fn shared_trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust)
    }

    /// Who is trusted.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }
}

#[cfg(test)]
mod tests;
