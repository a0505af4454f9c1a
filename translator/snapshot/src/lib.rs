//! The contract of translator and relay: digests, records, pages, manifests, log entries, signatures and the store.
//!
//! ```text
//! Record ──▶ Page ──▶ Manifest = Snapshot ──▶ Store ──▶ Reader ──▶ Assembled
//!            sorted   id = its digest         log,      verifies   what a relay serves
//!            runs                             Entry
//! ```

pub mod assemble;
pub mod compress;
pub mod digest;
pub mod fleet;
pub mod limits;
pub mod manifest;
pub mod page;
pub mod record;
pub mod snapshot;
mod wire;

pub use assemble::{Assembled, AssembledResource, assemble};
pub use digest::Digest;
pub use fleet::{FleetName, FleetNameError};
pub use manifest::{Manifest, PageRef};
pub use page::Page;
pub use record::{
    Binding, BindingKind, BindingSource, EndpointSource, Family, Key, Record, Reference, Resource,
};
pub use snapshot::{Change, Snapshot, SnapshotError};
