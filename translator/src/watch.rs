//! The same compile in a loop: a live cluster in, releases and Gateway API status out.
//!
//! ```text
//! feed ─▶ Shared objects ─▶ turn: debounce, compile ─┬─▶ release: entries of fleets that changed   (leader)
//!  watches                     │                     ├─▶ provision: the fleets themselves          (leader)
//! reread ─▶ Secrets,           │                     └─▶ status: merged, written on change         (leader)
//!           ConfigMaps         └── touched objects ───────▲         ▲
//! lease ─▶ who leads            acks: relays' reports ──────────────┘
//! ```
//! Every replica watches and compiles, so that one takes over without delay; the holder of a Lease writes. What the
//! replicas compile they agree on by content: the same objects give the same snapshot.

mod acks;
mod feed;
mod health;
mod lease;
mod meter;
pub mod provision;
mod release;
mod status;
mod stored;
mod told;
mod turn;

pub use acks::{Acks, Relay, Standing};
pub use lease::Holder;
pub use release::{Held, Released, Reporters, Seams, Target, WRITER, fleet_of};
pub use turn::{Compiled, Turn};

use crate::compile;
use crate::source::cluster::{self, Live, Objects};
use feed::KindName;
use futures::future::LocalBoxFuture;
use kube::Client;
use meter::Meter;
use moorgate_model::ObjectRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use turn::Turns;

/// Changes that may wait; then the watches wait.
const CHANGES: usize = 1024;

/// What to do.
pub struct Options {
    /// How to compile.
    pub compile: compile::Options,
    /// Where to publish.
    pub target: Target,
    /// Which replica writes; without one this is the only one.
    pub holder: Option<Holder>,
    /// Publishes nothing: status is what others have published.
    pub status_only: bool,
    /// Where probes and metrics are answered.
    pub health: Option<TcpListener>,
    /// Makes the fleets too. Without it somebody else does, and a Gateway may have no address that is known here.
    pub provision: Option<Provision>,
    /// Done whenever this replica may write, before it writes anything; tried again until it succeeds.
    pub takeover: Option<Takeover>,
    /// Told whether this replica writes.
    pub leads: watch::Sender<bool>,
}

/// What comes before the first write; why not yet.
pub type Takeover = Box<dyn Fn() -> LocalBoxFuture<'static, Result<(), String>>>;

/// What makes the fleets, as long as it runs.
pub type Provision = Box<dyn FnOnce(View) -> LocalBoxFuture<'static, ()>>;

/// What the loop shows to whoever makes the fleets.
#[derive(Clone)]
pub struct View {
    /// The cluster.
    pub client: Client,
    /// The newest compile: fleets with their ports, and the objects that they are of.
    pub turns: watch::Receiver<Option<Arc<Turn>>>,
    /// Whether this replica may write.
    pub leads: watch::Receiver<bool>,
    /// What was published, by fleet.
    pub released: watch::Receiver<Released>,
    /// What relays report, by fleet.
    pub acks: watch::Receiver<Acks>,
    /// Where fleets are published, and whose reports are believed.
    pub target: Arc<Target>,
    shared: Arc<Shared>,
}

impl View {
    /// An object as it stands.
    pub fn object(&self, reference: &ObjectRef) -> Option<Arc<Live>> {
        lock(&self.shared.objects).get(reference).cloned()
    }

    /// All objects of a kind.
    pub fn objects(&self, group: &str, kind: &str) -> Vec<Arc<Live>> {
        lock(&self.shared.objects).of_kind(group, kind).cloned().collect()
    }
}

/// The objects as every task sees them.
#[derive(Debug, Default)]
struct Shared {
    objects: Mutex<Objects>,
    /// Kinds that were listed once.
    kinds: Mutex<BTreeSet<KindName>>,
    meter: Arc<Meter>,
    /// A Service changed: a release may wait for that.
    services: Notify,
}

impl Shared {
    fn has_listed(&self, kind: &KindName) {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(kind.clone());
    }

    /// A kind that was listed once and is not served any more as it was. With a definition all of its objects go, one after
    /// the other as if somebody deleted them.
    async fn lost_kind(&self, client: &Client) -> Result<Option<String>, cluster::ClusterError> {
        let served = cluster::kinds(client).await?;
        let lasting: BTreeSet<KindName> =
            served.iter().filter(|kind| kind.lasting).map(feed::name_of).collect();
        let known = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lost = known.iter().filter(|name| !name.0.is_empty() && !lasting.contains(*name));
        Ok(lost.next().map(|(_, kind)| kind.clone()))
    }

    /// An object as the API server showed it. None if a newer state of it is known; true if its text changed.
    fn take(&self, live: Live) -> Option<bool> {
        let mut objects = lock(&self.objects);
        let known = objects.get(&live.reference);
        if known.is_some_and(|known| known.uid == live.uid && known.is_newer_than(&live)) {
            return None;
        }
        let changed = known.is_none_or(|known| known.file != live.file);
        objects.insert(live);
        Some(changed)
    }

    /// An object as a write of ours left it: never one that is gone, or that its watch will show as changed. A change of
    /// the text is left to the watch, so that it is compiled.
    fn refresh(&self, live: Live) {
        let mut objects = lock(&self.objects);
        let fits = objects.get(&live.reference).is_some_and(|known| {
            known.uid == live.uid && known.file == live.file && !known.is_newer_than(&live)
        });
        if fits {
            objects.insert(live);
        }
    }
}

/// The objects. A task that panicked left them whole: each change is one insertion.
fn lock(objects: &Mutex<Objects>) -> MutexGuard<'_, Objects> {
    objects.lock().unwrap_or_else(PoisonError::into_inner)
}

/// RFC 3339 in whole seconds, UTC, as Kubernetes writes times.
fn timestamp(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let whole = time.replace_nanosecond(0).unwrap_or(time);
    whole.format(&Rfc3339).unwrap_or_else(|_| whole.unix_timestamp().to_string())
}

/// Watches, compiles, publishes and writes status until `stop` says so; then gives the Lease back.
pub async fn run(client: Client, url: String, options: Options, stop: watch::Receiver<bool>) {
    let shared = Arc::new(Shared::default());
    let target = Arc::new(options.target);
    let (turn_out, turns) = watch::channel(None);
    let (wanted_out, wanted) = watch::channel(BTreeSet::new());
    let (holds_out, holds) = watch::channel(options.holder.is_none());
    let leads = options.leads.subscribe();
    let taking_over = take_over(holds, options.leads, options.takeover);
    let (released_out, released) = watch::channel(Released::new());
    let (acks_out, acks) = watch::channel(Acks::new());
    let (awaited_out, awaited) = watch::channel(BTreeSet::new());
    let (results_out, results) = watch::channel(stored::Results::new());
    let (held_out, held) = watch::channel(Held::new());
    let (touched_out, touched) = mpsc::unbounded_channel();
    let (changes_out, changes) = mpsc::channel(CHANGES);

    let alive = health::run(options.health, shared.meter.clone(), turns.clone(), stop.clone());
    let elsewhere = stored::run(target.clone(), turns.clone(), released_out.clone(), results_out);
    let elsewhere = if_wanted(options.status_only.then_some(elsewhere));
    let told = told::run(turns.clone(), leads.clone());
    let feed = feed::run(client.clone(), shared.clone(), changes_out.clone());
    let reread = turn::reread(client.clone(), shared.clone(), wanted, changes_out);
    let turning =
        Turns::new(shared.clone(), (client.clone(), url), options.compile, wanted_out, turn_out, touched_out);
    let provisions = options.provision.is_some();
    let mut releases = release::Releases::new(
        target.clone(),
        shared.clone(),
        turns.clone(),
        leads.clone(),
        (released_out, held_out),
    );
    releases.provisions = provisions;
    releases.client = Some(client.clone());
    let reports = acks::run(target.clone(), shared.meter.clone(), awaited, released.clone(), acks_out);
    let view = View {
        client: client.clone(),
        turns: turns.clone(),
        leads: leads.clone(),
        released: released.clone(),
        acks: acks.clone(),
        target: target.clone(),
        shared: shared.clone(),
    };
    let provision = if_wanted(options.provision.map(|provision| provision(view)));
    let writer = status::StatusWriter {
        shared,
        client: client.clone(),
        seams: target.seams,
        provisions,
        turns,
        acks,
        released,
        held,
        leads,
        touched,
        awaited_fleets: awaited_out,
        work: status::Work::default(),
        judged: None,
        results: options.status_only.then_some(results),
        contents: BTreeMap::new(),
    };
    let holding = hold(client, options.holder, holds_out, stop);
    // One task for all: what takes long, the compile, has a thread of its own.
    tokio::select! {
        () = holding => {}
        () = taking_over => {}
        () = feed => {}
        () = reread => {}
        () = turning.run(changes) => {}
        () = releases.run() => {}
        () = reports => {}
        () = writer.run() => {}
        () = provision => {}
        () = told => {}
        () = elsewhere => {}
        () = alive => {}
    }
}

/// A part of the loop that not everybody wants.
async fn if_wanted(part: Option<impl Future<Output = ()>>) {
    match part {
        Some(part) => part.await,
        None => std::future::pending().await,
    }
}

/// Holds the Lease, if there is one, until `stop` says so.
async fn hold(
    client: Client,
    holder: Option<Holder>,
    leads: watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
) {
    if let Some(holder) = holder {
        return lease::run(client, holder, leads, stop).await;
    }
    let _ = stop.wait_for(|stop| *stop).await;
    // Kept so long, so that nobody takes its silence for the end.
    leads.send_replace(false);
}

/// The wait after a takeover that failed.
const TAKEOVER: Duration = Duration::from_secs(1);

/// Says that this replica writes when it may and what comes before is done, and takes that back at once when it may no more.
async fn take_over(mut held: watch::Receiver<bool>, leads: watch::Sender<bool>, takeover: Option<Takeover>) {
    loop {
        let mut wait = None;
        if *held.borrow_and_update() {
            let done = async {
                match &takeover {
                    Some(takeover) => takeover().await,
                    None => Ok(()),
                }
            };
            tokio::select! {
                biased;
                changed = held.changed() => if changed.is_err() { break } else { continue },
                done = done => match done {
                    Ok(()) => drop(leads.send_replace(true)),
                    Err(why) => {
                        tracing::warn!(why, "nothing is written yet");
                        wait = Some(tokio::time::Instant::now() + TAKEOVER);
                    }
                },
            }
        } else {
            leads.send_replace(false);
        }
        tokio::select! {
            changed = held.changed() => if changed.is_err() { break },
            () = turn::sleep_until(wait) => {}
        }
    }
    // Whoever told it ends the loop.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_written_before_the_takeover_is_done_nor_after_the_lease_is_lost() {
        let tries = Rc::new(Cell::new(0));
        let takeover: Takeover = {
            let tries = Rc::clone(&tries);
            Box::new(move || {
                tries.set(tries.get() + 1);
                let answer = if tries.get() % 3 == 0 { Ok(()) } else { Err("not yet".to_owned()) };
                Box::pin(async { answer })
            })
        };
        let (held_out, held) = watch::channel(false);
        let (leads_out, mut leads) = watch::channel(false);
        let test = async {
            for round in 1..=2 {
                held_out.send_replace(true);
                leads.wait_for(|leads| *leads).await.unwrap();
                assert_eq!(tries.get(), 3 * round);
                held_out.send_replace(false);
                leads.wait_for(|leads| !*leads).await.unwrap();
            }
            // It is lost while it is still being taken over.
            held_out.send_replace(true);
            tokio::task::yield_now().await;
            held_out.send_replace(false);
            tokio::time::sleep(TAKEOVER * 4).await;
            assert!(!*leads.borrow());
        };
        tokio::select! {
            () = test => {}
            () = take_over(held, leads_out, Some(takeover)) => panic!("it ended"),
        }
    }
}
