//! gc against publishers: what is reachable stays, whatever happens in between, and what is not goes in the end.

use super::aged::{Aged, World, alone};
use super::*;
use futures::TryStreamExt as _;
use moorgate_snapshot::channel::Release;
use moorgate_snapshot::gc::{GcError, LeaseError, Mode, Outcome as Collected, Policy, collect};
use moorgate_snapshot::reader::ReadError;
use moorgate_snapshot::report::{self, Report};
use moorgate_snapshot::{Action as Did, Entry as LogEntry};
use proptest::prelude::*;
use std::time::Duration;

mod late;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// A fleet in memory under a clock that only moves when told.
#[derive(Clone)]
struct Fleet {
    world: Arc<World>,
    trust: Arc<Trust>,
    policy: Policy,
}

impl Fleet {
    fn new() -> Self {
        let trust = Arc::new(Trust::of([key(1).public().clone()]));
        let policy = Policy {
            keep_for: Duration::from_hours(24 * 3),
            keep_last: 2,
            grace: Duration::from_hours(6),
            delay: Duration::from_hours(24),
            lease: Duration::from_hours(1),
        };
        Self { world: Arc::default(), trust, policy }
    }

    fn part(&self) -> FleetStore {
        Bench::store(Arc::new(Aged::new(&self.world)))
    }

    fn reader(&self, channel: &str) -> Reader {
        self.reader_over(Aged::new(&self.world), channel)
    }

    fn reader_over(&self, store: Aged, channel: &str) -> Reader {
        Reader::new(Bench::store(Arc::new(store)), self.trust.clone(), channel.parse().unwrap())
    }

    async fn publish_over(&self, store: Aged, channel: &str, n: u32) -> Result<Outcome, PublishError> {
        let (key, snapshot) = (key(1), small(n));
        let reader = self.reader_over(store, channel);
        let publisher = Publisher {
            reader,
            signer: &key,
            meta: meta("ci"),
            dry_run: false,
            step_over: false,
            mirrors: Vec::new(),
        };
        let allow = Allow { shrink: true, other_writer: true, unrelated: true, ..Allow::default() };
        Box::pin(publisher.publish(&Offer { allow, ..offer(&snapshot) })).await
    }

    async fn publish(&self, n: u32) -> Outcome {
        self.publish_over(Aged::new(&self.world), "stable", n).await.unwrap()
    }

    /// Pins the first published snapshot with this number, if it is still there.
    async fn pin_over(&self, store: Aged, n: u32) -> Result<Outcome, PublishError> {
        let key = key(1);
        let reader = self.reader_over(store, "stable");
        let publisher = Publisher {
            reader,
            signer: &key,
            meta: meta("on-call"),
            dry_run: false,
            step_over: false,
            mirrors: Vec::new(),
        };
        Ok(Box::pin(publisher.pin(&small(n).id().to_string(), None)).await?.0)
    }

    async fn unpin(&self, n: u32) -> Result<Outcome, PublishError> {
        let key = key(1);
        let reader = self.reader("stable");
        let publisher = Publisher {
            reader,
            signer: &key,
            meta: meta("on-call"),
            dry_run: false,
            step_over: false,
            mirrors: Vec::new(),
        };
        Ok(Box::pin(publisher.unpin(&small(n).id().to_string(), &[])).await?.0)
    }

    async fn gc_over(&self, store: Aged) -> Result<Collected, GcError> {
        let nonce = NONCE.fetch_add(1, Ordering::Relaxed).to_string();
        collect(&Bench::store(Arc::new(store)), &self.trust, &self.policy, &Mode::Apply { nonce }).await
    }

    async fn gc(&self) -> Collected {
        self.gc_over(Aged::new(&self.world)).await.unwrap()
    }

    async fn names(&self) -> BTreeSet<String> {
        let objects: Vec<_> = self.world.inner.list(None).try_collect().await.unwrap();
        let prefix = format!("{}/", shop().prefix());
        objects.iter().map(|meta| meta.location.as_ref().replacen(&prefix, "", 1)).collect()
    }

    /// Everything that the newest entries of all channels name reads back whole.
    async fn whole(&self) -> Result<(), ReadError> {
        for channel in self.part().channels().await? {
            let reader = self.reader(channel.as_str());
            let Some(entry) = reader.newest(None).await?.entry else { continue };
            for release in entry.entry.state.releases() {
                reader.fetch(&Release { bundle: None, ..release.clone() }, &|_| None).await?;
            }
        }
        Ok(())
    }
}

/// Two pages that all share, and one that differs; small enough to make many, too large to lie in the manifest.
fn small(n: u32) -> Snapshot {
    let resource = |kind: &str, name: &str, bytes: Vec<u8>| {
        Record::Resource(Resource {
            type_url: format!("type.googleapis.com/{kind}").into(),
            name: name.into(),
            part: "".into(),
            bytes: bytes.into(),
            refs: Vec::new(),
        })
    };
    let shared = |kind| resource(kind, "shared", vec![7; 40 << 10]);
    let own = resource("C", &format!("own-{n}"), n.to_be_bytes().to_vec());
    Snapshot::build(vec![shared("A"), shared("B"), own]).unwrap()
}

fn removable(names: &BTreeSet<String>) -> Vec<&String> {
    let folders = ["pages/", "manifests/", "bundles/"];
    names.iter().filter(|name| folders.iter().any(|folder| name.starts_with(folder))).collect()
}

#[tokio::test]
async fn two_runs_a_day_apart_remove_what_nobody_needs_and_records_stay() {
    let fleet = Fleet::new();
    for n in 1..=5 {
        fleet.publish(n).await;
        fleet.world.pass(HOUR);
    }
    fleet.world.pass(4 * DAY);
    let all = fleet.names().await;
    let dry = collect(&fleet.part(), &fleet.trust, &fleet.policy, &Mode::DryRun).await.unwrap();
    assert_eq!(fleet.names().await, all, "a dry run writes nothing");
    assert_eq!(dry.deleted.objects, 0);
    // The last two entries, the one before them, and what each of them names: 5, 4, 3 and 2. The first one goes.
    let first = fleet.gc().await;
    assert_eq!((first.snapshots, first.condemned.objects, first.deleted.objects), (4, 2, 0));
    let early = fleet.gc().await;
    assert_eq!((early.waiting.objects, early.condemned.objects, early.deleted.objects), (2, 0, 0));
    assert_eq!(removable(&fleet.names().await), removable(&all));
    fleet.world.pass(25 * HOUR);
    let last = fleet.gc().await;
    assert_eq!((last.deleted.objects, last.waiting.objects), (2, 0));
    let left = fleet.names().await;
    let gone: Vec<_> = all.difference(&left).collect();
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(removable(&all.difference(&left).cloned().collect()).len() == 2, "only pages and manifests go");
    assert!(!left.iter().any(|name| name.starts_with("gc/condemned")), "marks go with their objects");
    fleet.whole().await.unwrap();
    assert_eq!(fleet.gc().await.deleted.objects, 0);
}

/// Fault 27: a pin of a collected snapshot is refused before anything is written.
#[tokio::test]
async fn a_collected_snapshot_cannot_be_pinned() {
    let fleet = Fleet::new();
    for n in 1..=6 {
        fleet.publish(n).await;
    }
    fleet.world.pass(4 * DAY);
    fleet.gc().await;
    fleet.world.pass(2 * DAY);
    assert!(fleet.gc().await.deleted.objects > 0);
    let before = fleet.names().await;
    let refused = fleet.pin_over(Aged::new(&fleet.world), 1).await.unwrap_err();
    assert!(matches!(refused, PublishError::Read(ReadError::Missing(_))), "{refused}");
    assert_eq!(fleet.names().await, before);
    // What the log keeps can be pinned, and then stays for as long as the pin holds.
    fleet.pin_over(Aged::new(&fleet.world), 5).await.unwrap();
    for n in 7..=12 {
        fleet.publish(n).await;
        fleet.world.pass(2 * DAY);
        fleet.gc().await;
    }
    fleet.whole().await.unwrap();
    assert_eq!(fleet.reader("stable").fetch(&release(5), &|_| None).await.unwrap(), small(5));
}

fn release(n: u32) -> Release {
    Release::new(small(n).id(), 0, OffsetDateTime::UNIX_EPOCH)
}

/// Fault 9: a list that breaks off, of whatever folder, ends the run, and nothing is deleted.
#[tokio::test]
async fn a_broken_list_removes_nothing() {
    let fleet = Fleet::new();
    for n in 1..=6 {
        fleet.publish(n).await;
    }
    fleet.part().overwrite("status/one.json", "{}".into()).await.unwrap();
    fleet.world.pass(4 * DAY);
    fleet.gc().await;
    fleet.world.pass(2 * DAY);
    let before = fleet.names().await;
    for folder in ["pages", "manifests", "log/stable", "head", "status", "gc/condemned", "gc/lease"] {
        let store = Aged::new(&fleet.world).breaking(folder);
        let error = fleet.gc_over(store).await.expect_err(folder);
        assert!(matches!(error, GcError::Store(_)), "{folder}: {error}");
        let left = fleet.names().await;
        assert_eq!(removable(&left), removable(&before), "{folder}");
        // A lease that was not given back runs out.
        fleet.world.pass(2 * HOUR);
    }
    assert!(fleet.gc().await.deleted.objects > 0, "and all of it goes when the lists are whole");
}

#[tokio::test]
async fn what_cannot_be_understood_ends_the_run() {
    let fleet = Fleet::new();
    for n in 1..=6 {
        fleet.publish(n).await;
    }
    fleet.world.pass(4 * DAY);
    fleet.gc().await;
    fleet.world.pass(2 * DAY);
    let before = removable(&fleet.names().await).len();
    // Another trust file than the writers': nothing verifies, so nothing counts as old.
    let other = Fleet { trust: Arc::new(Trust::of([key(2).public().clone()])), ..fleet.clone() };
    assert!(matches!(
        other.gc_over(Aged::new(&fleet.world)).await,
        Err(GcError::Unclear { .. } | GcError::Read(_))
    ));
    // A manifest that the newest entry needs.
    let manifest = format!("{}/{}", shop().prefix(), layout::manifest(&small(6).id()));
    let stored = fleet.part().get(&layout::manifest(&small(6).id()), 1 << 20).await.unwrap().unwrap();
    fleet.world.inner.delete(&manifest.clone().into()).await.unwrap();
    assert!(matches!(fleet.gc_over(Aged::new(&fleet.world)).await, Err(GcError::Unclear { .. })));
    fleet.part().overwrite(&layout::manifest(&small(6).id()), stored).await.unwrap();
    // A hole in the log, as a list would leave it that forgets an object.
    let slot = format!("{}/{}", shop().prefix(), layout::entry(&Channel::stable(), 3));
    let entry = fleet.part().get(&layout::entry(&Channel::stable(), 3), 1 << 20).await.unwrap().unwrap();
    fleet.world.inner.delete(&slot.into()).await.unwrap();
    assert!(matches!(fleet.gc_over(Aged::new(&fleet.world)).await, Err(GcError::Unclear { .. })));
    fleet.part().overwrite(&layout::entry(&Channel::stable(), 3), entry).await.unwrap();
    // A slot that says nothing at all may be of a later format.
    fleet.part().overwrite(&layout::entry(&Channel::stable(), 7), "?".into()).await.unwrap();
    assert!(matches!(fleet.gc_over(Aged::new(&fleet.world)).await, Err(GcError::Unclear { .. })));
    assert_eq!(removable(&fleet.names().await).len(), before);
}

/// Faults 26 and 34: a page that a lifecycle rule took. Readers refuse the snapshot and say what is missing; publishing
/// what is released already brings it back, without an entry.
#[tokio::test]
async fn what_the_store_lost_comes_back_with_the_next_publish() {
    let fleet = Fleet::new();
    for n in 1..=2 {
        fleet.publish(n).await;
    }
    let page = small(2).pages()[0].digest();
    let path = format!("{}/{}", shop().prefix(), layout::page(&page));
    fleet.world.inner.delete(&path.clone().into()).await.unwrap();
    let refused = fleet.reader("stable").fetch(&release(2), &|_| None).await.unwrap_err();
    assert!(
        matches!(&refused, ReadError::Missing(name) if name.ends_with(&layout::page(&page))),
        "{refused}"
    );
    let again = fleet.publish(2).await;
    assert_eq!((again.result, again.written.objects), (Done::Unchanged, 1));
    fleet.whole().await.unwrap();
}

/// A slot by an unknown key, and a report by nobody at all, keep what they name.
#[tokio::test]
async fn strangers_may_make_it_keep_more() {
    let fleet = Fleet::new();
    for n in 1..=6 {
        fleet.publish(n).await;
    }
    let newest = fleet.reader("stable").newest(None).await.unwrap().entry.unwrap();
    let mut foreign: LogEntry = newest.entry.clone();
    (foreign.sequence, foreign.action) = (7, Did::Publish);
    foreign.state.target = Some(release(1));
    let envelope = foreign.sign(&[&key(9)]).unwrap();
    let part = fleet.part();
    part.overwrite(&layout::entry(&Channel::stable(), 7), envelope.encode().into()).await.unwrap();
    let report = Report {
        format: report::FORMAT,
        fleet: shop(),
        channel: Channel::stable(),
        relay: "relay-1".parse().unwrap(),
        labels: BTreeMap::new(),
        time: OffsetDateTime::UNIX_EPOCH,
        interval_seconds: 300,
        version: String::new(),
        features: Vec::new(),
        sequence: 2,
        entry: None,
        snapshot: Some(small(2).id()),
        because: String::new(),
        since: None,
        retired: false,
        left: false,
        refused: BTreeMap::new(),
        envoys_connected: 0,
        envoys_acked: 0,
        envoys: Vec::new(),
        healthy: None,
        secrets: Vec::new(),
        store_error: String::new(),
    };
    let signed = report.sign(&key(9)).unwrap();
    for _ in 0..3 {
        fleet.world.pass(2 * DAY);
        part.overwrite("status/relay-1.json", signed.encode().into()).await.unwrap();
        fleet.gc().await;
    }
    for n in [1, 2, 4, 5, 6] {
        let read = fleet.reader("stable").fetch(&release(n), &|_| None).await;
        assert_eq!(read.unwrap(), small(n));
    }
    // The report falls silent.
    for _ in 0..2 {
        fleet.world.pass(4 * DAY);
        fleet.gc().await;
    }
    let missing = fleet.reader("stable").fetch(&release(2), &|_| None).await;
    assert!(matches!(missing, Err(ReadError::Missing(_))));
    fleet.whole().await.unwrap();
}

#[tokio::test]
async fn one_run_at_a_time_and_a_dead_one_is_taken_over() {
    let fleet = Fleet::new();
    fleet.publish(1).await;
    let second = fleet.clone();
    let hook = alone(move || async move {
        let refused = second.gc_over(Aged::new(&second.world)).await.unwrap_err();
        assert!(matches!(refused, GcError::Lease(LeaseError::Held { .. })), "{refused}");
        // As long as nobody looks whether it is alive, it is.
        second.world.pass(2 * HOUR);
        second.gc().await;
    });
    // The sixth request comes well after the lease was taken.
    fleet.gc_over(Aged::new(&fleet.world).interrupted(6, hook)).await.unwrap();
    fleet.gc().await;
    let leases: Vec<_> =
        fleet.names().await.into_iter().filter(|name| name.starts_with("gc/lease")).collect();
    assert_eq!(leases.len(), 1, "{leases:?}");
}

/// A publisher comes back to a condemned snapshot while gc deletes it, at each request of either.
#[tokio::test]
async fn a_publisher_and_a_delete_may_cross_anywhere() {
    let mut crossed = 0;
    for step in 0..80 {
        for publisher_waits in [true, false] {
            let fleet = Fleet::new();
            for n in 1..=6 {
                fleet.publish(n).await;
            }
            fleet.world.pass(4 * DAY);
            assert!(fleet.gc().await.condemned.objects > 0);
            fleet.world.pass(2 * DAY);
            let (other, world) = (fleet.clone(), fleet.world.clone());
            // Snapshot 1 is condemned and due.
            if publisher_waits {
                let hook = alone(move || async move { drop(other.gc().await) });
                fleet.publish_over(Aged::new(&world).interrupted(step, hook), "stable", 1).await.unwrap();
            } else {
                let hook = alone(move || async move { drop(other.publish(1).await) });
                fleet.gc_over(Aged::new(&world).interrupted(step, hook)).await.unwrap();
            }
            let served = fleet.reader("stable").newest(None).await.unwrap().entry.unwrap().entry;
            if served.state.serving().unwrap().snapshot == small(1).id() {
                crossed += 1;
                let whole = fleet.whole().await;
                assert!(whole.is_ok(), "step {step}, publisher waits: {publisher_waits}: {whole:?}");
            }
        }
    }
    assert!(crossed > 60, "{crossed}");
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u32),
    Beside(u32),
    Pin(u32),
    Unpin(u32),
    Pass(i64),
    Collect,
    /// A publish, with a gc at this request of it.
    PublishAround(u32, usize),
    /// A pin, with a gc at this request of it.
    PinAround(u32, usize),
    /// A gc, with a publish at this request of it.
    CollectAround(usize, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 1..9u32;
    prop_oneof![
        3 => n.clone().prop_map(Step::Publish),
        1 => n.clone().prop_map(Step::Beside),
        1 => n.clone().prop_map(Step::Pin),
        1 => n.clone().prop_map(Step::Unpin),
        4 => (1..60i64).prop_map(|hours| Step::Pass(hours * HOUR)),
        3 => Just(Step::Collect),
        1 => (n.clone(), 0..60usize).prop_map(|(n, at)| Step::PublishAround(n, at)),
        1 => (n.clone(), 0..40usize).prop_map(|(n, at)| Step::PinAround(n, at)),
        1 => (0..50usize, n).prop_map(|(at, n)| Step::CollectAround(at, n)),
    ]
}

async fn take(fleet: &Fleet, step: Step) {
    let plain = || Aged::new(&fleet.world);
    let other = fleet.clone();
    match step {
        Step::Publish(n) => drop(fleet.publish(n).await),
        Step::Beside(n) => drop(fleet.publish_over(plain(), "beside", n).await.unwrap()),
        // A pin of what was never published, or is gone, is refused; so is an unpin without a pin.
        Step::Pin(n) => drop(fleet.pin_over(plain(), n).await),
        Step::Unpin(n) => drop(fleet.unpin(n).await),
        Step::Pass(seconds) => fleet.world.pass(seconds),
        Step::Collect => drop(fleet.gc().await),
        Step::PublishAround(n, at) => {
            let hook = alone(move || async move { drop(other.gc().await) });
            fleet.publish_over(plain().interrupted(at, hook), "stable", n).await.unwrap();
        }
        Step::PinAround(n, at) => {
            let hook = alone(move || async move { drop(other.gc().await) });
            drop(fleet.pin_over(plain().interrupted(at, hook), n).await);
        }
        Step::CollectAround(at, n) => {
            let hook = alone(move || async move { drop(other.publish(n).await) });
            // The log may go on between its list and its end: then the run ends.
            drop(fleet.gc_over(plain().interrupted(at, hook)).await);
            fleet.world.pass(HOUR);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nothing_reachable_is_deleted_and_everything_else_is_in_the_end(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let fleet = Fleet::new();
            fleet.publish(1).await;
            for step in steps {
                take(&fleet, step.clone()).await;
                prop_assert!(fleet.whole().await.is_ok(), "after {:?}: {:?}", step, fleet.whole().await);
            }
            // In the end: three quiet weeks, and one release after the other so that old ones fall out of the last two.
            for n in [101, 102, 103, 104] {
                drop(fleet.unpin(n - 1).await);
                fleet.publish(n).await;
                fleet.publish_over(Aged::new(&fleet.world), "beside", n).await.unwrap();
            }
            for _ in 0..4 {
                fleet.world.pass(5 * DAY);
                fleet.gc().await;
            }
            prop_assert!(fleet.whole().await.is_ok());
            let mut kept = BTreeSet::new();
            for channel in ["stable", "beside"] {
                let reader = fleet.reader(channel);
                let newest = reader.newest(None).await.unwrap().next - 1;
                for (_, slot) in reader.history(newest, 3).await.unwrap() {
                    let Slot::Entry(entry) = slot else { continue };
                    for release in entry.entry.state.releases() {
                        kept.insert(layout::manifest(&release.snapshot));
                    }
                }
            }
            let left = fleet.names().await;
            let manifests: BTreeSet<_> = left.iter().filter(|name| name.starts_with("manifests/")).cloned().collect();
            prop_assert_eq!(manifests, kept);
            prop_assert!(!left.iter().any(|name| name.starts_with("gc/condemned")));
            Ok(())
        })?;
    }
}
