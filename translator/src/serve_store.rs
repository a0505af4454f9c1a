//! A store behind HTTPS for relays in a cluster, so that a cluster can start without a bucket.
//!
//! ```text
//! relay ─token─▶ gate (TokenReview, accounts) ─fleets─▶ ask (what may be read and written) ─▶ store
//! ```
//! A relay reads the prefix of its own fleet and the chain of trust, and writes its fleet's reports; nothing else. What it
//! reads it verifies, as with any store: this server can withhold, and cannot forge.

mod account;
mod answer;
mod ask;
mod gate;
mod server;
mod tls;

pub use account::{Account, AccountError, Accounts};
pub use answer::Front;
pub use gate::{Api, Gate, Review, ReviewError};
pub use server::serve;
pub use tls::{Certificate, CertificateError};

#[cfg(test)]
mod tests;
