//! The health of Envoys while a step of a wave bakes: whether the candidate makes more answers fail than its step allows.
//!
//! A relay watches only its own Envoys, by their own statistics, and decides alone. What it cannot read is unknown, and
//! nobody takes unknown for healthy.

mod admin;
mod tally;

pub use admin::{AddressError, AdminAddress, StatsError};
pub use tally::{Counts, MIN_REQUESTS, Tally};

use crate::clock::Clock;
use moorgate_snapshot::{Digest, FleetName};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// How often statistics are read while a step bakes.
const INTERVAL: Duration = Duration::from_secs(2);

/// A step that bakes at this relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bake {
    /// The candidate.
    pub snapshot: Digest,
    /// The number of the step.
    pub step: u32,
    /// Until when its health counts, in seconds since 1970.
    pub until: i64,
    /// The share of answers with 5xx, in percent, above which it is not healthy.
    pub max_error_percent: u8,
}

/// What was seen of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The step.
    pub bake: Bake,
    /// Whether its Envoys are within the bound; none if that is unknown.
    pub healthy: Option<bool>,
    /// Answers since the step began here.
    pub counts: Counts,
    /// Why it is unknown, if an Envoy could not be read.
    pub error: Option<String>,
}

/// Watches the Envoys of one fleet whenever a step bakes, and tells what changes.
#[derive(Debug)]
pub struct Watcher {
    /// Where the Envoys tell their statistics.
    pub addresses: Vec<AdminAddress>,
    /// The time of day.
    pub clock: Clock,
    /// The step that bakes.
    pub baking: watch::Receiver<Option<Bake>>,
    /// Tells the fleet.
    pub tell: mpsc::UnboundedSender<Health>,
}

impl Watcher {
    /// A watcher of a fleet.
    pub fn new(
        addresses: &[AdminAddress],
        fleet: &FleetName,
        clock: Clock,
        baking: watch::Receiver<Option<Bake>>,
        tell: mpsc::UnboundedSender<Health>,
    ) -> Self {
        Self { addresses: addresses.iter().map(|address| address.of(fleet)).collect(), clock, baking, tell }
    }

    /// Watches until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tally: Option<(Bake, Tally)> = None;
        loop {
            let bake = self.baking.borrow_and_update().clone();
            let watched =
                bake.filter(|bake| !self.addresses.is_empty() && self.clock.unix_now() < bake.until);
            let Some(bake) = watched else {
                tally = None;
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    changed = self.baking.changed() => if changed.is_err() { return },
                }
                continue;
            };
            let mut now = match tally.take() {
                Some((before, tally)) if before == bake => tally,
                _ => Tally::new(self.addresses.len()),
            };
            let health = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                health = self.look(&bake, &mut now) => health,
            };
            let _ = self.tell.send(health);
            tally = Some((bake, now));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = self.baking.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn look(&self, bake: &Bake, tally: &mut Tally) -> Health {
        let mut error = None;
        for (number, address) in self.addresses.iter().enumerate() {
            match address.read().await {
                Ok(counts) => tally.note(number, Some(counts)),
                Err(cause) => {
                    tally.note(number, None);
                    error = Some(format!("{address}: {cause}"));
                }
            }
        }
        let healthy = tally.judge(bake.max_error_percent);
        Health { bake: bake.clone(), healthy, counts: tally.sum(), error }
    }
}
