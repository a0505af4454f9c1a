//! The relay from outside: a bare xDS client over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[cfg(feature = "kubernetes")]
mod api_server;
mod attacks;
mod bucket;
mod client;
mod harness;
mod herd;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod publisher;
mod relay;
mod report;
mod serve;
mod waves;
mod wire;
