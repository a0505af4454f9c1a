//! The simulation: publishers, relays, gc, a bucket and its mirror that fail, an intruder and rot, under one virtual clock,
//! from one seed.
//!
//! ```text
//! publishers, gc, renewer, custodian ─▶ FaultStore ─▶ Bucket ◀─ FaultStore ◀─ relays ◀─ Envoys
//!        │                                 ▲           ▲  ▲        │            │
//!        └────────▶ FaultStore ─▶ mirror   weather     │  intruder, rot         │
//!                                                   Monitor ◀──────────────────┘  every change, every view
//! ```
//! All of it runs on one thread under tokio's paused clock, so that a minute costs nothing and a seed gives the same run
//! again, to the last request. What is real: the publisher, gc, mirroring, renewal, the chain of trust, the store's retries,
//! the verifier, the relay's fleet with its puller, its disk cache and its reports. What is not: sockets, processes, the disk below the cache.

pub mod chance;
mod collectors;
mod intruder;
pub mod keys;
pub mod monitor;
pub mod pool;
pub mod publishers;
mod reach;
pub mod relays;
mod upkeep;
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
/// One that fell over to a mirror which nobody brought up to date asks the first store again after this time.
const PROBE: Duration = Duration::from_mins(1);
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
    let relays = start_relays(world, &mut chance, &over);
    let mut acting = Vec::new();
    for name in ["ci-1", "ci-2", "ci-3"] {
        let publisher = publishers::publisher(Arc::clone(world), name.to_owned(), chance.fork());
        acting.push(tokio::task::spawn_local(publisher));
    }
    let intruder = tokio::spawn(intruder::intruder(Arc::clone(world), chance.fork(), harmless.clone()));
    let outages = tokio::spawn(outages(Arc::clone(world), chance.fork(), harmless.clone()));
    let mut beside = start_upkeep(world, &mut chance, &harmless);
    world.spent.notified().await;
    // Whoever has begun comes to an end, in weather as before; then all is well.
    tokio::time::sleep(chance.millis(0..30_000)).await;
    harmless.cancel();
    world.end_faults();
    world.say("all", "the faults end");
    let finish = async {
        for one in acting {
            ended(world, "a publisher", one.await);
        }
        ended(world, "the intruder", intruder.await);
        ended(world, "the outages", outages.await);
        while let Some(result) = beside.join_next().await {
            ended(world, "upkeep", result);
        }
    };
    if tokio::time::timeout(FINISH, finish).await.is_err() {
        world.judge(|monitor| monitor.violations.push("an act does not come to its end".to_owned()));
    }
    collectors::last(world).await;
    let mirrored = chance.permille(500);
    upkeep::last(world, mirrored).await;
    world.renewed.store(mirrored, std::sync::atomic::Ordering::SeqCst);
    tokio::time::sleep(if mirrored { CONVERGE } else { CONVERGE + PROBE }).await;
    let now = world.unix();
    world.judge(|monitor| monitor.settled(now));
    over.cancel();
    for relay in relays {
        ended(world, "a relay", relay.await);
    }
}

/// Relays of every kind: of both channels, with and without a disk, a mirror, and a key for reports that counts or not.
fn start_relays(
    world: &Arc<World>,
    chance: &mut Chance,
    over: &CancellationToken,
) -> Vec<tokio::task::JoinHandle<()>> {
    let (trusted, stranger) = (&world.keys.reporter, &world.keys.stranger);
    let kinds = [
        ("relay-a", Channel::stable(), true, true, Some(trusted)),
        ("relay-b", Channel::stable(), true, false, Some(trusted)),
        ("relay-c", publishers::other(), true, true, Some(stranger)),
        ("relay-d", Channel::stable(), false, true, None),
    ];
    let start = |(name, channel, cached, mirrored, key): (_, _, _, _, Option<&Arc<_>>)| {
        let kind = relays::Kind { name, channel, cached, mirrored, report_key: key.cloned() };
        tokio::spawn(relays::RelayActor::new(world, kind, chance.fork()).run(over.clone()))
    };
    kinds.into_iter().map(start).collect()
}

/// Those who clean up, renew, and change whom to trust, and the nights.
fn start_upkeep(
    world: &Arc<World>,
    chance: &mut Chance,
    stop: &CancellationToken,
) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for name in ["gc-1", "gc-2"] {
        let gc = collectors::collector(Arc::clone(world), name.to_owned(), chance.fork(), stop.clone());
        tasks.spawn(gc);
    }
    tasks.spawn(collectors::nights(Arc::clone(world), chance.fork(), stop.clone()));
    tasks.spawn_local(upkeep::renewer(Arc::clone(world), chance.fork(), stop.clone()));
    tasks.spawn(keys::custodian(Arc::clone(world), chance.fork(), stop.clone()));
    tasks
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
