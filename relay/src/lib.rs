//! The relay: pulls snapshots from a store, verifies them, keeps them on disk, binds endpoints and secrets, and serves
//! the whole to Envoy over xDS. It is blind to the content of configuration.

pub mod bind;
pub mod cache;
pub mod clock;
pub mod fleet;
pub mod jitter;
pub mod metrics;
pub mod pull;
pub mod serve;
pub mod watch;
