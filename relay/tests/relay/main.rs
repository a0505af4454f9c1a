//! The relay from outside: a bare xDS client over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[cfg(feature = "kubernetes")]
mod api_server;
mod attacks;
mod bucket;
mod client;
mod cold;
mod demand;
mod harness;
mod herd;
mod http2;
mod issuer;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod modules;
mod process;
mod publisher;
mod refused;
mod relay;
mod report;
mod rows;
mod serve;
mod store_rows;
mod tls;
mod tokens;
mod waves;
mod wire;
