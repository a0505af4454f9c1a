//! Stores for the suites: servers that stand in for clouds, proxies that count, cache or lose, and the cases that every
//! backend has to pass.
//!
//! ```text
//! cases ──▶ Store ──▶ proxy (counts, caches, loses answers) ──▶ moto (S3) · azurite (Azure) · gcs (a double of our own)
//! ```

pub mod azurite;
pub mod cases;
pub mod front;
pub mod gcs;
pub mod moto;
pub mod proxy;

use anyhow::{Context as _, Result};

/// Waits until a server accepts on a local port, or has ended.
fn wait_for(server: &mut crate::process::Running, port: u16) -> Result<()> {
    crate::wait::until("a server accepts", || {
        server.check()?;
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).context("not yet")
    })
}
