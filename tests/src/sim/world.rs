//! What all actors of a run share: the bucket, the time, the keys, the trace, and the judge.

use super::chance::Chance;
use super::monitor::Monitor;
use super::weather;
use crate::fault_store::{Bucket, FaultStore};
use moorgate_snapshot::{Channel, Digest, FleetName, KeyPair, Reader, Signer as _, Trust};
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
    /// Who may publish.
    pub publisher: KeyPair,
    /// Who may only pin.
    pub on_call: KeyPair,
    /// Whom nobody trusts.
    pub stranger: KeyPair,
    /// What relays and publishers trust.
    pub trust: Arc<Trust>,
    /// The caches of relays.
    pub folder: PathBuf,
    /// The store answers nobody.
    pub down: AtomicBool,
    /// Acts that are being carried out.
    pub acting: AtomicU64,
    /// Told when all steps are taken.
    pub spent: Notify,
    /// The judge.
    monitor: Mutex<Monitor>,
    trace: Mutex<Trace>,
    start: Instant,
    steps: AtomicI64,
    nonces: AtomicU64,
}

impl World {
    /// A world with an empty bucket and so many steps to take.
    pub fn new(steps: u32, keep_trace: bool, folder: PathBuf) -> Arc<Self> {
        let [publisher, on_call, stranger] = [1, 2, 3].map(key);
        let start = Instant::now();
        let bucket = Arc::new(Bucket::new(move || unix(start)));
        let trust = Arc::new(trust(&publisher, &on_call));
        let world = Arc::new(Self {
            monitor: Mutex::new(Monitor::new(&bucket, &trust)),
            bucket,
            publisher,
            on_call,
            stranger,
            trust,
            folder,
            down: AtomicBool::new(false),
            acting: AtomicU64::new(0),
            spent: Notify::new(),
            trace: Mutex::new(Trace { keep: keep_trace, ..Trace::default() }),
            start,
            steps: AtomicI64::new(steps.into()),
            nonces: AtomicU64::new(0),
        });
        let watching = Arc::downgrade(&world);
        world.bucket.watch(move |change| {
            if let Some(world) = watching.upgrade() {
                world.judge(|monitor| monitor.changed(change));
            }
        });
        world
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
        unix(self.start)
    }

    /// A nonce that nobody has had.
    pub fn nonce(&self) -> String {
        format!("nonce-{}", self.nonces.fetch_add(1, Ordering::SeqCst))
    }

    /// A client for an actor, in this weather.
    pub fn client(self: &Arc<Self>, who: &str, sky: weather::Sky, chance: Chance) -> Arc<FaultStore> {
        FaultStore::new(&self.bucket, weather::decide(Arc::clone(self), who.to_owned(), sky, chance))
    }

    /// A reader over a client.
    pub fn reader(&self, client: &Arc<FaultStore>, channel: &Channel) -> Reader {
        Reader::new(client.store().fleet(&Self::fleet()), Arc::clone(&self.trust), channel.clone())
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
        drop(monitor);
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

fn key(seed: u8) -> KeyPair {
    #[allow(clippy::expect_used, reason = "the seed is given")]
    KeyPair::generate(&[seed; 32]).expect("a key").0
}

/// One key publishes, one only pins.
fn trust(publisher: &KeyPair, on_call: &KeyPair) -> Trust {
    let entry =
        |key: &KeyPair, role: &str| serde_json::json!({"public": key.public().to_pem(), "roles": [role]});
    let file = serde_json::json!({"format": 1, "keys": [entry(publisher, "publish"), entry(on_call, "pin")]});
    #[allow(clippy::expect_used, reason = "the file is written here")]
    Trust::parse(file.to_string().as_bytes()).expect("a trust file")
}
