//! What a process costs, as the kernel counts it.

use anyhow::{Context as _, Result};
use std::time::Duration;

/// Ticks of `/proc/PID/stat` in a second (`USER_HZ`, the same on every Linux).
const TICKS: u32 = 100;

/// A process that is measured.
#[derive(Debug, Clone, Copy)]
pub struct Meter(pub u32);

impl Meter {
    /// This process.
    pub fn own() -> Self {
        Self(std::process::id())
    }

    fn read(self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.0);
        std::fs::read_to_string(&path).with_context(|| path)
    }

    /// Processor time so far, in user mode and in the kernel, to a hundredth of a second.
    pub fn cpu(self) -> Result<Duration> {
        time(&self.read("stat")?)
    }

    fn kilobytes(self, name: &str) -> Result<u64> {
        kilobytes(&self.read("status")?, name)
    }

    /// Memory in use, in KiB.
    pub fn resident(self) -> Result<u64> {
        self.kilobytes("VmRSS:")
    }

    /// The most memory that was in use at once, in KiB.
    pub fn peak(self) -> Result<u64> {
        self.kilobytes("VmHWM:")
    }
}

/// Processor time, and memory in KiB, of `/proc/PID/stat` with `/proc/PID/status` behind it.
pub fn parse(both: &str) -> Result<(Duration, u64)> {
    let (stat, status) = both.split_once('\n').context("two files")?;
    Ok((time(stat)?, kilobytes(status, "VmRSS:")?))
}

fn time(stat: &str) -> Result<Duration> {
    // The second field is the name in parentheses, which may hold spaces.
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let field = |index: usize| -> Result<u32> {
        Ok(fields.split_whitespace().nth(index).context("a field of /proc/PID/stat")?.parse()?)
    };
    Ok(Duration::from_secs(1) * (field(11)? + field(12)?) / TICKS)
}

fn kilobytes(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a line of status")?;
    Ok(line.split_whitespace().next().context("a number")?.parse()?)
}
