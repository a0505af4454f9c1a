//! Ports that are free now, and that no outgoing connection takes meanwhile.

use anyhow::{Result, bail};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below Linux' ephemeral range (32768 and up), so that a client's own port never collides.
const FIRST: u32 = 12_000;
const SPAN: u32 = 20_000;

/// A port on which nothing listens and that this process has not handed out yet.
///
/// Envoy binds with `SO_REUSEPORT`: a port given out twice would not fail but split the traffic.
pub fn free() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Suites of other processes start elsewhere in the range.
    let start = std::process::id().wrapping_mul(7919);
    for _ in 0..SPAN {
        let port = FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % SPAN;
        let Ok(port) = u16::try_from(port) else { continue };
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + SPAN)
}
