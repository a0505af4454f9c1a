//! The time of day. It is shown to people and compared with expiries; it never reaches what is served.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn unix_now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the relay compares expiries with the time of day")]
    let now = SystemTime::now();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
