//! The relay: pulls snapshots from a store, verifies them, keeps them on disk, binds endpoints and secrets, and serves
//! the whole to Envoy over xDS. It is blind to the content of configuration.

pub mod jitter;
pub mod metrics;
pub mod serve;
