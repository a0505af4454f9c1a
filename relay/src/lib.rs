//! The relay: pulls snapshots from a store, verifies them, keeps them on disk, binds endpoints and secrets, and serves
//! the whole to Envoy over xDS. It is blind to the content of configuration.
//!
//! ```text
//! pull ─▶ verify ─▶ cache ─▶ fleet ─▶ serve ─▶ Envoy
//!                   bind ──────┘ ▲───── took, refused, canary
//! ```

#![forbid(unsafe_code)]

pub mod admin;
pub mod bind;
pub mod cache;
pub mod canary;
pub mod clock;
pub mod config;
pub mod csds;
pub mod drain;
pub mod fleet;
pub mod jitter;
pub mod metrics;
pub mod pull;
pub mod report;
pub mod roster;
pub mod run;
pub mod serve;
#[cfg(feature = "otel")]
pub mod traces;
pub mod watch;

pub use moorgate_snapshot::TRACE;

pub use config::{Config, Options};
pub use fleet::Status as FleetStatus;
pub use run::{Relay, RunError, run};
