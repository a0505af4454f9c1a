//! The contract of translator and relay: digests, records, pages, manifests, log entries, signatures and the store.

pub mod digest;
pub mod fleet;
pub mod record;

pub use digest::Digest;
pub use fleet::{FleetName, FleetNameError};
pub use record::{Binding, BindingKind, BindingSource, EndpointSource, Family, Record, Reference, Resource};
