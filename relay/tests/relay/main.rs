//! The relay from outside: a bare xDS client over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod attacks;
mod bucket;
mod client;
mod herd;
mod publisher;
mod relay;
mod report;
mod serve;
mod waves;
