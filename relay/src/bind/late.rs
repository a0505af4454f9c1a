//! Endpoint sets and sealed secrets from the store: signed, by name, for fleets with neither files nor a cluster.
//!
//! What is read is kept in memory and, sealed as it came, on the disk, so that a relay without its store still has it.
//! Whatever fails takes nothing back.

mod follow;
mod sealed;

pub use follow::Follower;

use super::catalog::{Endpoint, PortSet, merged};
use super::live::Pem;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Why a sealed secret is of no use. Never its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No file of identities was named.
    #[error("it is sealed, and no --secrets-identity is given")]
    NoIdentity,
    /// The file cannot be read, or holds none.
    #[error("it is sealed, and the file of identities is of no use")]
    Identity,
    /// Sealed for others, or damaged.
    #[error("it is sealed for others, or damaged")]
    Closed,
    /// What is inside is no secret of ours.
    #[error("what is sealed is no secret of this name and fleet")]
    Inside,
    /// This build opens none.
    #[error("it is sealed, and this relay was built without the feature sealed")]
    Unable,
}

/// The late values of one fleet. Clones share them.
#[derive(Clone)]
pub struct Late {
    held: Arc<Mutex<Held>>,
    changes: watch::Sender<u64>,
}

/// A namespace and a name.
type Place = (String, String);

#[derive(Default)]
struct Held {
    synced: bool,
    endpoints: BTreeMap<Place, Vec<PortSet>>,
    secrets: BTreeMap<Place, Result<Arc<Pem>, SealError>>,
}

impl Default for Late {
    fn default() -> Self {
        Self { held: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl fmt::Debug for Late {
    /// Without the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Late({})", *self.changes.borrow())
    }
}

impl Late {
    /// Counts up when something changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// True once an index was read, or that there is none.
    pub fn synced(&self) -> bool {
        self.lock().synced
    }

    /// The endpoints of a Service port, sorted; `None` if nobody wrote any for this Service.
    pub fn endpoints(
        &self,
        namespace: &str,
        service: &str,
        port_name: &str,
        port: u16,
    ) -> Option<Vec<Endpoint>> {
        let held = self.lock();
        let sets = held.endpoints.get(&(namespace.to_owned(), service.to_owned()))?;
        Some(merged(sets.iter(), port_name, port))
    }

    /// The entries of a secret; `None` if nobody wrote one of this name.
    pub fn secret(&self, namespace: &str, name: &str) -> Option<Result<Arc<Pem>, SealError>> {
        self.lock().secrets.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// Takes over what was read.
    fn tell(
        &self,
        endpoints: BTreeMap<Place, Vec<PortSet>>,
        secrets: BTreeMap<Place, Result<Arc<Pem>, SealError>>,
    ) {
        *self.lock() = Held { synced: true, endpoints, secrets };
        self.changes.send_modify(|count| *count += 1);
    }

    /// There is nothing to read. What was read stays.
    fn tell_nothing(&self) {
        let was = std::mem::replace(&mut self.lock().synced, true);
        if !was {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
