//! Waiting for something to become true, with a deadline that only a failure reaches.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine before it counts as broken.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Asks again and again until there is an answer; the error says what was waited for and what was seen last.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() > deadline => {
                bail!("waited {} s for {what}; last: {error:#}", PATIENCE.as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
