//! The contract of translator and relay: digests, records, pages, manifests, log entries, signatures and the store.
//!
//! ```text
//! Record ──▶ Page ──▶ Manifest = Snapshot ──▶ writer ─▶ Store ─▶ Reader ──▶ Assembled
//!            sorted   id = its digest         objects,           verifies   what a relay serves
//!            runs                             then Entry
//! ```

/// The target of spans that say what was verified and when: for collectors of traces, no log lines.
pub const TRACE: &str = "moorgate::trace";

pub mod assemble;
pub mod attestation;
pub mod bundle;
pub mod channel;
pub mod compress;
pub mod cosign;
pub mod digest;
pub mod entry;
pub mod envelope;
pub mod fleet;
pub mod gc;
pub mod head;
pub mod late;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod mirror;
pub mod page;
pub mod reader;
pub mod record;
pub mod renewal;
pub mod report;
mod shape;
pub mod signature;
pub mod snapshot;
pub mod store;
pub mod template;
pub mod trust;
pub mod wave;
mod wire;
pub mod writer;

pub use assemble::{Assembled, AssembledResource, AssembledRun, assemble, assemble_run, runs};
pub use channel::{Because, ChannelState, Effective, Pin, Release, Source};
pub use digest::Digest;
pub use entry::{Action, Entry, EntryError, Position, VerifiedEntry};
pub use fleet::{FleetName, FleetNameError};
pub use layout::{Channel, ChannelError};
pub use manifest::{Manifest, PageRef};
pub use page::Page;
pub use reader::{Polled, ReadError, Reader, Slot, Tail, Void};
pub use record::{
    Binding, BindingKind, BindingSource, EndpointSource, Family, Key, ObjectSource, Record, Reference,
    Resource, ZoneWeight,
};
pub use report::{Report, Reported};
pub use signature::{KeyError, KeyId, KeyPair, PublicKey, Signer};
pub use snapshot::{Change, Snapshot, SnapshotError};
pub use store::{FleetStore, Store, StoreError};
pub use template::Template;
pub use trust::chain::Anchor;
pub use trust::{Role, Trust, TrustError};
pub use wave::{RelayIdentity, RelayName};
pub use writer::WriteError;
