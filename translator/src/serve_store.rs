//! A store behind HTTPS for relays in a cluster, so that a cluster can start without a bucket.
//!
//! ```text
//! relay ─token─▶ gate (TokenReview, accounts) ─fleets─▶ ask (what may be read and written) ─▶ store
//! ```
//! A relay reads the prefix of its own fleet and the chain of trust, and writes its fleet's reports; nothing else. What it
//! reads it verifies, as with any store: this server can withhold, and cannot forge.

//!
//! Where there is no store but this one, it lies on the disk of the replica that writes, and only that one answers: what
//! relays were shown is kept in the cluster ([`Ledger`]), and so a disk may be lost.

mod account;
mod anchors;
mod answer;
mod ask;
mod authority;
mod endpoint;
mod gate;
mod keeper;
mod ledger;
mod server;
mod tls;

pub use account::{Account, AccountError, Accounts};
pub use anchors::ConfigMaps;
pub use answer::{Front, House};
pub use endpoint::Endpoint;
pub use gate::{Api, Gate, Review, ReviewError};
pub use keeper::Keeper;
pub use ledger::{Anchor, Anchors, Ledger, LedgerError};
pub use server::serve;
pub use tls::{Certificate, CertificateError, Shown};

#[cfg(test)]
mod tests;
