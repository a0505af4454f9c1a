//! The simulation: publishers, relays, a bucket that fails, an intruder and rot, under one virtual clock, from one seed.
//!
//! ```text
//! publishers ─▶ FaultStore ─▶ Bucket ◀─ FaultStore ◀─ relays ◀─ Envoys
//!                  ▲            ▲  ▲                    │
//!               weather         │  intruder, rot        │
//!                            Monitor ◀──────────────────┘  every change, every view
//! ```
//! All of it runs on one thread under tokio's paused clock, so that a minute costs nothing and a seed gives the same run
//! again, to the last request. What is real: the publisher, the store's retries, the verifier, the relay's fleet with its
//! puller and its disk cache. What is not: sockets, processes, the disk below the cache.

pub mod chance;
mod intruder;
pub mod monitor;
pub mod pool;
pub mod publishers;
pub mod relays;
mod weather;
pub mod world;

use chance::Chance;
use moorgate_snapshot::{Channel, Digest};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use world::World;

/// When the faults have ended, every relay must have what the channel says after two polls (each at most a fifth late)
/// and one back-off of a minute; a little is for the requests of a fetch.
const CONVERGE: Duration = Duration::from_secs(60 + 2 * 6 + 2);
/// What acts take at most when nothing fails any more.
const FINISH: Duration = Duration::from_mins(10);

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// How many times somebody publishes, promotes, pins or rolls back.
    pub steps: u32,
    /// Keep the trace, not only its digest.
    pub trace: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// The digest over all that happened: the same for the same plan.
    pub digest: Digest,
    /// What happened, if it was kept.
    pub trace: Vec<String>,
    /// How often what happened.
    pub tally: BTreeMap<String, u64>,
    /// Promises that were broken.
    pub violations: Vec<String>,
}

/// Runs a plan to its end.
///
/// # Errors
/// There is no room for the relays' caches, or no runtime.
pub fn run(plan: Plan) -> anyhow::Result<Report> {
    // Syncing a real disk takes most of the time of a run, and shows nothing here.
    let memory = PathBuf::from("/dev/shm");
    let mut builder = tempfile::Builder::new();
    let folder = builder.prefix("moorgate-sim-");
    let folder = if memory.is_dir() { folder.tempdir_in(&memory) } else { folder.tempdir() }?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    // Publishers' futures stay on their thread.
    let local = tokio::task::LocalSet::new();
    let (trace, violations) = local.block_on(&runtime, async {
        let world = World::new(plan.steps, plan.trace, folder.path().to_owned());
        drive(&world, Chance::new(plan.seed)).await;
        world.close()
    });
    Ok(Report {
        digest: trace.digest.unwrap_or_else(|| Digest::of(b"")),
        trace: trace.lines,
        tally: trace.tally,
        violations,
    })
}

async fn drive(world: &Arc<World>, mut chance: Chance) {
    let (over, harmless) = (CancellationToken::new(), CancellationToken::new());
    let mut relays = Vec::new();
    for (name, channel, cached) in [
        ("relay-a", Channel::stable(), true),
        ("relay-b", Channel::stable(), true),
        ("relay-c", publishers::other(), true),
        ("relay-d", Channel::stable(), false),
    ] {
        let relay = relays::RelayActor::new(world, name, channel, cached, chance.fork());
        relays.push(tokio::spawn(relay.run(over.clone())));
    }
    let mut acting = Vec::new();
    for name in ["ci-1", "ci-2", "ci-3"] {
        let publisher = publishers::publisher(Arc::clone(world), name.to_owned(), chance.fork());
        acting.push(tokio::task::spawn_local(publisher));
    }
    let intruder = tokio::spawn(intruder::intruder(Arc::clone(world), chance.fork(), harmless.clone()));
    let outages = tokio::spawn(outages(Arc::clone(world), chance.fork(), harmless.clone()));
    world.spent.notified().await;
    // Whoever has begun comes to an end, in weather as before; then all is well.
    tokio::time::sleep(chance.millis(0..30_000)).await;
    harmless.cancel();
    world.bucket.end_faults();
    world.say("all", "the faults end");
    let finish = async {
        for one in acting {
            ended(world, "a publisher", one.await);
        }
        ended(world, "the intruder", intruder.await);
        ended(world, "the outages", outages.await);
    };
    if tokio::time::timeout(FINISH, finish).await.is_err() {
        world.judge(|monitor| monitor.violations.push("an act does not come to its end".to_owned()));
    }
    tokio::time::sleep(CONVERGE).await;
    over.cancel();
    for relay in relays {
        ended(world, "a relay", relay.await);
    }
}

/// A task that panicked is a promise broken too.
fn ended(world: &World, who: &str, result: Result<(), tokio::task::JoinError>) {
    if let Err(error) = result {
        world.judge(|monitor| monitor.violations.push(format!("{who} ended: {error}")));
    }
}

/// Now and then nobody reaches the store.
async fn outages(world: Arc<World>, mut chance: Chance, stop: CancellationToken) {
    use std::sync::atomic::Ordering;
    let mut down = false;
    loop {
        let wait = if down { chance.millis(1_000..90_000) } else { chance.millis(30_000..300_000) };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
        down = !down;
        world.down.store(down, Ordering::SeqCst);
        world.say("store", if down { "is down" } else { "is up" });
        world.count("outage");
    }
    world.down.store(false, Ordering::SeqCst);
}
