//! One test for each fault of the catalogue, by its number. Each fails when its defence is switched off: `make weaken`
//! shows that.
//!
//! Most run the real publisher and the real relay on a store that fails as told, under a virtual clock; what happens in
//! the store meanwhile is judged as in the simulation.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

#[path = "faults/content.rs"]
mod content;
#[path = "faults/gc.rs"]
mod gc;
#[path = "faults/publishing.rs"]
mod publishing;
#[path = "faults/serving.rs"]
mod serving;
#[path = "faults/trust.rs"]
mod trust;

use moorgate::publish::{Outcome, PublishError};
use moorgate_snapshot::{Channel, Entry, FleetStore, Signer, Slot, layout};
use moorgate_tests::fault_store::{Fault, FaultStore, Kind, Operation, Verdict};
use moorgate_tests::sim::pool::pool;
use moorgate_tests::sim::publishers::{Act, carry_out, meta};
use moorgate_tests::sim::relays::{Running, Setup};
use moorgate_tests::sim::world::World;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// A store, a publisher and a place for relays.
struct Bench {
    world: Arc<World>,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { world: World::new(0, false, folder.path().to_owned()), folder }
    }

    fn calm(&self) -> Arc<FaultStore> {
        FaultStore::calm(&self.world.bucket)
    }

    /// A client that fails as long as the switch is on.
    fn failing(&self, fault: Fault) -> (Arc<FaultStore>, Arc<AtomicBool>) {
        self.failing_for(fault, |_| true)
    }

    /// The same for some requests only.
    fn failing_for(
        &self,
        fault: Fault,
        fits: impl Fn(Operation<'_>) -> bool + Send + 'static,
    ) -> (Arc<FaultStore>, Arc<AtomicBool>) {
        let switch = Arc::new(AtomicBool::new(false));
        let on = Arc::clone(&switch);
        let decide = move |operation: Operation<'_>| {
            let fails = on.load(Ordering::SeqCst) && fits(operation);
            if fails { fault.into() } else { Verdict::default() }
        };
        (FaultStore::new(&self.world.bucket, decide), switch)
    }

    /// A client to which this happens once, at the first request that fits.
    fn once(&self, fault: Fault, fits: impl Fn(Operation<'_>) -> bool + Send + 'static) -> Arc<FaultStore> {
        self.at(0, fault, fits)
    }

    /// The same, after so many requests that fit.
    fn at(
        &self,
        after: u32,
        fault: Fault,
        fits: impl Fn(Operation<'_>) -> bool + Send + 'static,
    ) -> Arc<FaultStore> {
        let mut seen = 0;
        FaultStore::new(&self.world.bucket, move |operation| {
            let fits = fits(operation);
            seen += u32::from(fits);
            if fits && seen == after + 1 { fault.into() } else { Verdict::default() }
        })
    }

    async fn act(&self, client: &Arc<FaultStore>, act: Act) -> Result<Outcome, PublishError> {
        self.act_as("ci", client, act).await
    }

    async fn act_as(&self, who: &str, client: &Arc<FaultStore>, act: Act) -> Result<Outcome, PublishError> {
        let meta = meta(&self.world, who, 0);
        Box::pin(carry_out(&self.world, client, &Channel::stable(), &act, meta, false)).await
    }

    async fn publish(&self, number: usize) -> Outcome {
        self.act(&self.calm(), Act::Publish(number)).await.unwrap()
    }

    async fn pin(&self, number: usize) -> Outcome {
        let id = pool()[number].snapshot.id().to_string();
        self.act(&self.calm(), Act::Pin(id)).await.unwrap()
    }

    /// A relay with a cache that the next one of the same name finds.
    fn relay(&self, client: &Arc<FaultStore>) -> Running {
        Running::start(&self.world, client, Setup::new(&self.world, "relay-a", true))
    }

    /// A relay that serves what the channel says.
    async fn serving(&self, client: &Arc<FaultStore>) -> Running {
        let relay = self.relay(client);
        pass(6).await;
        relay
    }

    fn store(&self) -> FleetStore {
        self.calm().store().fleet(&World::fleet())
    }

    async fn slot(&self, sequence: u64) -> Slot {
        self.world.reader(&self.calm(), &Channel::stable()).slot(sequence).await.unwrap()
    }

    async fn entry(&self, sequence: u64) -> Entry {
        match self.slot(sequence).await {
            Slot::Entry(entry) => entry.entry,
            other => panic!("slot {sequence}: {other:?}"),
        }
    }

    /// Puts something into the log that is no work of a publisher.
    fn forge(&self, sequence: u64, bytes: Vec<u8>) {
        let path = entry_path(sequence);
        self.world.judge(|monitor| monitor.forged(path.clone()));
        self.world.bucket.put(&path, &bytes.into(), true).unwrap();
    }

    /// The entry, continued in the next slot, changed, and signed by whom one likes.
    async fn continued(&self, from: u64, signer: &dyn Signer, change: impl FnOnce(&mut Entry)) -> Vec<u8> {
        let Slot::Entry(before) = self.slot(from).await else { panic!("slot {from} holds no entry") };
        let mut entry = before.entry.clone();
        (entry.sequence, entry.previous) = (from + 1, Some(before.position()));
        "forged".clone_into(&mut entry.nonce);
        change(&mut entry);
        entry.sign(&[signer]).unwrap().encode()
    }

    /// Ends the test: nothing may have gone wrong that nobody looked at.
    fn close(self) {
        let (_, violations) = self.world.close();
        assert!(violations.is_empty(), "{violations:#?}");
        drop(self.folder);
    }
}

/// Where an object of the fleet lies.
fn path(name: &str) -> String {
    format!("{}/{name}", World::fleet().prefix())
}

fn entry_path(sequence: u64) -> String {
    path(&layout::entry(&Channel::stable(), sequence))
}

fn head_path() -> String {
    path(&layout::head(&Channel::stable()))
}

/// So many virtual seconds pass.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn is_entry(operation: Operation<'_>) -> bool {
    operation.path.contains("/log/")
}

fn is_page(operation: Operation<'_>) -> bool {
    operation.path.contains("/pages/")
}

fn gets(operation: Operation<'_>) -> bool {
    operation.kind == Kind::Get
}

fn creates(operation: Operation<'_>) -> bool {
    operation.kind == Kind::Create
}
