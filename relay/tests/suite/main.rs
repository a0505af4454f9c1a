//! The relay from outside: a bare xDS client over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod attacks;
mod client;
mod publisher;
mod relay;
mod serve;
mod waves;
