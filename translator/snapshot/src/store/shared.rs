//! What belongs to no fleet: the chain of trust, at the root of the store, readable by everybody who reads a fleet.

use super::{FleetStore, Store, StoreError};
use crate::fleet::FleetName;
use crate::{layout, limits};
use bytes::Bytes;

impl Store {
    /// Reads a document of the chain of trust: not verified.
    pub async fn trust_document(&self, number: u64) -> Result<Option<Bytes>, StoreError> {
        self.chain().get(&layout::trust_document(number), limits::TRUST_BYTES).await
    }

    /// Places the next document of the chain of trust. False if another one has the number.
    pub async fn commit_trust_document(&self, number: u64, bytes: &Bytes) -> Result<bool, StoreError> {
        self.chain().commit(&layout::trust_document(number), bytes, limits::TRUST_BYTES).await
    }

    /// What messages call a document of the chain of trust.
    pub fn describe_trust_document(&self, number: u64) -> String {
        self.chain().describe(&layout::trust_document(number))
    }

    /// The folder of the chain. Bounded reads and commits are those of a fleet's part; the fleet's name is not used.
    pub(crate) fn chain(&self) -> FleetStore {
        let fleet = FleetName::Class { name: "-".to_owned() };
        FleetStore { prefix: layout::TRUST.to_owned(), ..self.fleet(&fleet) }
    }
}

impl FleetStore {
    /// The store that this is a part of.
    pub fn whole(&self) -> &Store {
        &self.store
    }
}
