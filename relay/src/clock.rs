//! The time of day. It is shown to people and compared with expiries; it never reaches what is served. Durations are
//! measured with tokio's clock, so that a simulation can run both.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the time of day comes from: the system, unless a simulation says otherwise.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<dyn Fn() -> i64 + Send + Sync>>);

impl Clock {
    /// A clock that shows what `source` says, in seconds since 1970. It may jump, as real ones do.
    pub fn new(source: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(source)))
    }

    /// Seconds since 1970.
    pub fn unix_now(&self) -> i64 {
        self.0.as_ref().map_or_else(unix_now, |source| source())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Clock(given)" } else { "Clock(system)" })
    }
}

/// Seconds since 1970, as the system says.
pub fn unix_now() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the relay compares expiries with the time of day")]
    let now = SystemTime::now();
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
