//! What all actors of a run share: the bucket, the time, the keys, the trace, and the judge.

use super::chance::Chance;
use super::keys::Keys;
use super::monitor::Monitor;
use super::weather;
use crate::fault_store::{Bucket, FaultStore};
use moorgate_snapshot::{Channel, Digest, FleetName, KeyPair, Reader, Trust};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::Instant;

/// When every run begins: 15 January 2027.
pub const EPOCH: i64 = 1_800_000_000;

/// What happened, line by line, and the digest of it all.
#[derive(Debug, Default)]
pub struct Trace {
    /// The lines, if they are kept.
    pub lines: Vec<String>,
    /// Whether they are kept.
    pub keep: bool,
    /// Chained over all lines, kept or not.
    pub digest: Option<Digest>,
    /// How often what happened, for a look at whether runs are worth anything.
    pub tally: BTreeMap<String, u64>,
}

/// Shared by all actors.
pub struct World {
    /// What is truly stored.
    pub bucket: Arc<Bucket>,
    /// What is truly stored in the mirror.
    pub mirror: Arc<Bucket>,
    /// Who may do what, and the chain of trust that says so.
    pub keys: Keys,
    /// The caches of relays.
    pub folder: PathBuf,
    /// The first store answers nobody.
    pub down: AtomicBool,
    /// Acts that are being carried out.
    pub acting: AtomicU64,
    /// Runs of gc that are at work.
    pub collecting: AtomicU64,
    /// At the end: the heads were renewed, and the mirror has them.
    pub renewed: AtomicBool,
    /// Told when all steps are taken.
    pub spent: Notify,
    /// The judge.
    monitor: Mutex<Monitor>,
    trace: Mutex<Trace>,
    start: Instant,
    /// Seconds that have passed beside: nights, in which nothing happens.
    nights: Arc<AtomicI64>,
    steps: AtomicI64,
    nonces: AtomicU64,
}

/// Which store a client speaks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Where releases are committed.
    First,
    /// Its mirror.
    Mirror,
}

impl World {
    /// A world with an empty bucket, an empty mirror, and so many steps to take.
    pub fn new(steps: u32, keep_trace: bool, folder: PathBuf) -> Arc<Self> {
        let (start, nights) = (Instant::now(), Arc::new(AtomicI64::new(0)));
        let bucket = || {
            let nights = Arc::clone(&nights);
            Arc::new(Bucket::new(move || unix(start) + nights.load(Ordering::SeqCst)))
        };
        let (first, mirror) = (bucket(), bucket());
        let keys = Keys::new(&first);
        let world = Arc::new(Self {
            monitor: Mutex::new(Monitor::new(&first, &mirror, keys.trust())),
            bucket: first,
            mirror,
            keys,
            folder,
            down: AtomicBool::new(false),
            acting: AtomicU64::new(0),
            collecting: AtomicU64::new(0),
            renewed: AtomicBool::new(false),
            spent: Notify::new(),
            trace: Mutex::new(Trace { keep: keep_trace, ..Trace::default() }),
            start,
            nights,
            steps: AtomicI64::new(steps.into()),
            nonces: AtomicU64::new(0),
        });
        let watching = Arc::downgrade(&world);
        world.bucket.watch(move |change| {
            if let Some(world) = watching.upgrade() {
                let now = world.unix();
                world.judge(|monitor| monitor.changed(change, now));
            }
        });
        let watching = Arc::downgrade(&world);
        world.mirror.watch(move |change| {
            if let Some(world) = watching.upgrade() {
                world.judge(|monitor| monitor.mirrored(change));
            }
        });
        world
    }

    /// The faults end, in both stores.
    pub fn end_faults(&self) {
        self.bucket.end_faults();
        self.mirror.end_faults();
    }

    /// So many seconds pass at once for every clock, and nothing happens meanwhile.
    pub fn sleep(&self, seconds: i64) {
        self.nights.fetch_add(seconds, Ordering::SeqCst);
    }

    /// The fleet of all runs.
    pub fn fleet() -> FleetName {
        FleetName::gateway("shop", "edge")
    }

    /// Takes one of the steps that are left; false if there is none.
    pub fn take_step(&self) -> bool {
        let left = self.steps.fetch_sub(1, Ordering::SeqCst);
        if left <= 1 {
            self.spent.notify_one();
        }
        left > 0
    }

    /// Seconds since 1970, as a right clock shows them.
    pub fn unix(&self) -> i64 {
        unix(self.start) + self.nights.load(Ordering::SeqCst)
    }

    /// What everybody trusts who has followed the chain.
    pub fn trust(&self) -> Arc<Trust> {
        self.keys.trust()
    }

    /// Who publishes now.
    pub fn publisher(&self) -> &KeyPair {
        self.keys.publisher()
    }

    /// A nonce that nobody has had.
    pub fn nonce(&self) -> String {
        format!("nonce-{}", self.nonces.fetch_add(1, Ordering::SeqCst))
    }

    /// A client for an actor, in this weather.
    pub fn client(
        self: &Arc<Self>,
        who: &str,
        place: Place,
        sky: weather::Sky,
        chance: Chance,
    ) -> Arc<FaultStore> {
        let bucket = match place {
            Place::First => &self.bucket,
            Place::Mirror => &self.mirror,
        };
        FaultStore::new(bucket, weather::decide(Arc::clone(self), who.to_owned(), place, sky, chance))
    }

    /// A reader over a client.
    pub fn reader(&self, client: &Arc<FaultStore>, channel: &Channel) -> Reader {
        Reader::new(client.store().fleet(&Self::fleet()), self.trust(), channel.clone())
    }

    /// Notes what happened.
    pub fn say(&self, who: &str, what: impl fmt::Display) {
        let now = self.start.elapsed().as_millis();
        let line = format!("{now:>9} {who:<12} {what}");
        let mut trace = lock(&self.trace);
        let before = trace.digest.map(|digest| digest.to_string()).unwrap_or_default();
        trace.digest = Some(Digest::of_parts([before.as_bytes(), line.as_bytes()]));
        if trace.keep {
            trace.lines.push(line);
        }
    }

    /// Counts what happened.
    pub fn count(&self, what: &str) {
        *lock(&self.trace).tally.entry(what.to_owned()).or_default() += 1;
    }

    /// Has the judge look, and notes what is not as it must be.
    pub fn judge<T>(&self, look: impl FnOnce(&mut Monitor) -> T) -> T {
        let mut monitor = lock(&self.monitor);
        let before = monitor.violations.len();
        let seen = look(&mut monitor);
        let new = monitor.violations.get(before..).unwrap_or_default().to_vec();
        let seen_too = std::mem::take(&mut monitor.counts);
        drop(monitor);
        seen_too.into_iter().for_each(|what| self.count(what));
        for violation in new {
            self.say("JUDGE", violation);
        }
        seen
    }

    /// What came of the run.
    pub fn close(&self) -> (Trace, Vec<String>) {
        (std::mem::take(&mut *lock(&self.trace)), lock(&self.monitor).violations.clone())
    }
}

fn unix(start: Instant) -> i64 {
    EPOCH + i64::try_from(start.elapsed().as_secs()).unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
