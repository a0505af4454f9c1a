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

use anyhow::{Context as _, Result, ensure};
use std::path::PathBuf;

/// A program that `tests/tools/install` puts below `target/tools`.
fn tool(path: &str) -> Result<PathBuf> {
    let tools = crate::program::tools()?;
    let program = tools.join(path);
    if !program.exists() {
        crate::program::install(&tools)?;
    }
    ensure!(program.exists(), "tests/tools/install did not put {}", program.display());
    Ok(program)
}

/// Waits until a server accepts on a local port, or has ended.
fn wait_for(server: &mut crate::process::Running, port: u16) -> Result<()> {
    crate::wait::until("a server accepts", || {
        server.check()?;
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).context("not yet")
    })
}
