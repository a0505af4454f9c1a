mod acts;
mod aged;
mod fault;
mod gc;
mod mirrors;
mod records;
mod rollout;

use super::*;
use crate::history::Records;
use fault::FaultStore;
use moorgate_snapshot::Digest;
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::channel::{Effective, Source};
use moorgate_snapshot::layout;
use moorgate_snapshot::{
    Channel, FleetName, FleetStore, KeyPair, Position, Record, Resource, Snapshot, Store, Trust,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

static NONCE: AtomicU64 = AtomicU64::new(0);

fn key(seed: u8) -> KeyPair {
    KeyPair::generate(&[seed; 32]).unwrap().0
}

fn shop() -> FleetName {
    FleetName::gateway("shop", "edge")
}

fn meta(author: &str) -> Meta {
    Meta {
        author: author.into(),
        run: String::new(),
        approver: String::new(),
        reason: String::new(),
        time: OffsetDateTime::UNIX_EPOCH,
        expires: None,
        nonce: NONCE.fetch_add(1, Ordering::Relaxed).to_string(),
    }
}

/// A fleet in memory and the keys around it.
struct Bench {
    inner: Arc<InMemory>,
    trust: Arc<Trust>,
    key: KeyPair,
}

impl Bench {
    fn new() -> Self {
        let key = key(1);
        let trust = Arc::new(Trust::of([key.public().clone()]));
        Self { inner: Arc::new(InMemory::new()), trust, key }
    }

    fn store(inner: Arc<dyn ObjectStore>) -> FleetStore {
        Store::new(inner, object_store::path::Path::default(), "memory:///").fleet(&shop())
    }

    fn reader(&self, channel: &str) -> Reader {
        self.reader_over(self.inner.clone(), channel)
    }

    fn reader_over(&self, inner: Arc<dyn ObjectStore>, channel: &str) -> Reader {
        Reader::new(Self::store(inner), self.trust.clone(), channel.parse().unwrap())
    }

    fn publisher(&self, author: &str) -> Publisher<'_> {
        self.publisher_over(self.inner.clone(), author)
    }

    fn publisher_over(&self, inner: Arc<dyn ObjectStore>, author: &str) -> Publisher<'_> {
        let reader = self.reader_over(inner, "stable");
        Publisher {
            reader,
            signer: &self.key,
            meta: meta(author),
            dry_run: false,
            step_over: false,
            mirrors: Vec::new(),
        }
    }

    async fn publish(&self, n: u32) -> Outcome {
        let snapshot = snapshot(n);
        Box::pin(self.publisher("ci").publish(&offer(&snapshot))).await.unwrap()
    }

    /// What a relay would serve: which must be there, whole.
    async fn served(&self) -> Option<Digest> {
        let tail = self.reader("stable").newest(None).await.unwrap();
        let entry = tail.entry?.entry;
        let Effective::Serve { release, .. } = entry.state.effective() else { return None };
        let snapshot = self.reader("stable").fetch(release, &|_| None).await.unwrap();
        Some(snapshot.id())
    }

    async fn count(&self) -> usize {
        futures::StreamExt::count(self.inner.list(None)).await
    }
}

/// Some pages that all snapshots share, and one resource that differs.
fn snapshot(n: u32) -> Snapshot {
    let cluster = |name: String, bytes: Vec<u8>| {
        Record::Resource(Resource {
            type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
            name: name.into(),
            part: "".into(),
            bytes: bytes.into(),
            refs: Vec::new(),
        })
    };
    let noise = |i: u32| Digest::of(&i.to_be_bytes()).to_string().into_bytes();
    let mut records: Vec<Record> = (0..1500).map(|i| cluster(format!("service-{i}"), noise(i))).collect();
    records.push(cluster("zz-changing".to_owned(), n.to_be_bytes().to_vec()));
    Snapshot::build(records).unwrap()
}

fn offer(snapshot: &Snapshot) -> Offer<'_> {
    Offer {
        snapshot,
        routes: 100,
        source: None,
        documents: BTreeMap::new(),
        provenance: Provenance::default(),
        records: Records::default(),
        writer: "publish".into(),
        allow: Allow::default(),
        parent: None,
        steps: Vec::new(),
        descends: &|_, _| None,
    }
}

fn gate(result: Result<Outcome, PublishError>) -> Gate {
    match result.unwrap_err() {
        PublishError::Refused(gate) => gate,
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_snapshot_gives_no_entry_and_mends_the_head() {
    let bench = Bench::new();
    let first = bench.publish(1).await;
    assert_eq!((first.entry.sequence, first.result), (1, Done::Committed));
    let objects = bench.count().await;
    bench.inner.delete(&format!("{}/head/stable", shop().prefix()).into()).await.unwrap();
    let again = bench.publish(1).await;
    assert_eq!((again.entry.sequence, again.result), (1, Done::Unchanged));
    assert_eq!(bench.count().await, objects);
    let second = bench.publish(2).await;
    assert_eq!(second.entry.sequence, 2);
    assert_eq!(second.entry.state.previous_good.unwrap().snapshot, snapshot(1).id());
    // Page, manifest, change and attestation; the bundle of the first release still pays.
    assert_eq!(second.written.objects, 4);
    assert_eq!(second.entry.state.target.as_ref().unwrap().bundle, first.entry.state.target.unwrap().bundle);
    assert!(second.entry.state.target.unwrap().bundle.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_writes_nothing() {
    let bench = Bench::new();
    let snapshot = snapshot(1);
    let publisher = Publisher { dry_run: true, ..bench.publisher("ci") };
    let outcome = Box::pin(publisher.publish(&offer(&snapshot))).await.unwrap();
    assert_eq!((outcome.result, outcome.entry.sequence), (Done::DryRun, 1));
    assert_eq!(bench.count().await, 0);
    bench.publish(1).await;
    bench.publish(2).await;
    let objects = bench.count().await;
    let publisher = Publisher { dry_run: true, ..bench.publisher("ci") };
    let (outcome, plan) = Box::pin(publisher.rollback(None, None)).await.unwrap();
    assert_eq!(outcome.result, Done::DryRun);
    assert_eq!(plan.unwrap().lines.values().map(|line| line.changed).sum::<usize>(), 1);
    assert_eq!(bench.count().await, objects);
}

#[tokio::test(start_paused = true)]
async fn behind_a_pin_publishing_moves_the_candidate_only() {
    let bench = Bench::new();
    for n in 1..=3 {
        bench.publish(n).await;
    }
    let id = snapshot(1).id().to_string();
    let publisher =
        Publisher { meta: Meta { reason: "r".into(), ..meta("on-call") }, ..bench.publisher("x") };
    let (pinned, _) = Box::pin(publisher.pin(&id[..12], None)).await.unwrap();
    assert_eq!(pinned.entry.state.pin.as_ref().unwrap().by, "on-call");
    assert_eq!(bench.served().await, Some(snapshot(1).id()));
    let outcome = bench.publish(4).await;
    assert!(outcome.warnings.iter().any(|warning| warning.contains("pin")), "{:?}", outcome.warnings);
    assert_eq!(bench.served().await, Some(snapshot(1).id()));
    assert_eq!(bench.publish(4).await.result, Done::Unchanged);
    // The same pin again is no news.
    let publisher =
        Publisher { meta: Meta { reason: "r".into(), ..meta("on-call") }, ..bench.publisher("x") };
    assert_eq!(Box::pin(publisher.pin(&id, None)).await.unwrap().0.result, Done::Unchanged);
    let (outcome, plan) =
        Box::pin(bench.publisher("ci").unpin(&snapshot(4).id().to_string(), &[])).await.unwrap();
    assert_eq!(plan.unwrap().to, snapshot(4).id());
    assert_eq!(outcome.entry.state.previous_good.unwrap().snapshot, snapshot(1).id());
    assert_eq!(bench.served().await, Some(snapshot(4).id()));
    let error = Box::pin(bench.publisher("ci").unpin(&id, &[])).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused(Gate::NotPinned(_))), "{error}");
}

#[tokio::test(start_paused = true)]
async fn rollback_goes_one_release_further_each_time() {
    let bench = Bench::new();
    for n in 1..=3 {
        bench.publish(n).await;
    }
    let rollback = async |sequence| Box::pin(bench.publisher("on-call").rollback(sequence, None)).await;
    rollback(None).await.unwrap();
    assert_eq!(bench.served().await, Some(snapshot(2).id()));
    let (outcome, _) = rollback(None).await.unwrap();
    assert_eq!(outcome.entry.reason, "rollback from release 2 to 1");
    assert_eq!(bench.served().await, Some(snapshot(1).id()));
    let error = rollback(None).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused(Gate::NothingBefore(1))), "{error}");
    rollback(Some(3)).await.unwrap();
    assert_eq!(bench.served().await, Some(snapshot(3).id()));
    assert!(rollback(Some(99)).await.is_err());
    // The sequence rose all the while.
    let tail = bench.reader("stable").newest(None).await.unwrap();
    assert_eq!(tail.entry.unwrap().entry.sequence, 6);
}

#[tokio::test(start_paused = true)]
async fn promoting_takes_the_same_bytes() {
    let bench = Bench::new();
    bench.publish(1).await;
    let publisher = Publisher { reader: bench.reader("prod"), ..bench.publisher("ci") };
    let stable = bench.reader("stable");
    let outcome = Box::pin(publisher.promote(&stable, Allow::default(), &[])).await.unwrap();
    assert_eq!(outcome.entry.channel.as_str(), "prod");
    assert_eq!(outcome.entry.promoted.unwrap().channel, Channel::stable());
    assert_eq!(outcome.entry.state.target.unwrap().snapshot, snapshot(1).id());
    let publisher = Publisher { reader: bench.reader("prod"), ..bench.publisher("ci") };
    let again = Box::pin(publisher.promote(&stable, Allow::default(), &[])).await.unwrap();
    assert_eq!(again.result, Done::Unchanged);
    let publisher = Publisher { reader: bench.reader("prod"), ..bench.publisher("ci") };
    let empty = bench.reader("next");
    let refused = Box::pin(publisher.promote(&empty, Allow::default(), &[])).await;
    assert!(matches!(gate(refused), Gate::Empty(_)));
}

#[tokio::test(start_paused = true)]
async fn gates_refuse_what_nobody_asked_for() {
    let bench = Bench::new();
    let source = |revision: &str| {
        Some(Source {
            repository: "r".into(),
            revision: revision.into(),
            tree: String::new(),
            committed: None,
        })
    };
    let one = snapshot(1);
    let offered = Offer { source: source("b"), ..offer(&one) };
    Box::pin(bench.publisher("ci").publish(&offered)).await.unwrap();
    let two = snapshot(2);
    let try_offer = async |offer: Offer<'_>| Box::pin(bench.publisher("ci").publish(&offer)).await;
    let older = Offer { source: source("a"), descends: &|_, _| Some(false), ..offer(&two) };
    assert!(matches!(gate(try_offer(older).await), Gate::NotDescendant { .. }));
    let unknown = Offer { source: source("c"), ..offer(&two) };
    assert!(matches!(gate(try_offer(unknown).await), Gate::UnknownAncestry { .. }));
    let directory = Offer { descends: &|_, _| Some(true), ..offer(&two) };
    assert!(matches!(gate(try_offer(directory).await), Gate::UnknownAncestry { .. }));
    let good = || Offer { source: source("c"), descends: &|old, new| Some(old < new), ..offer(&two) };
    let other = Offer { writer: "watch".into(), ..good() };
    assert!(matches!(gate(try_offer(other).await), Gate::OtherWriter { .. }));
    assert!(matches!(gate(try_offer(Offer { routes: 79, ..good() }).await), Gate::Shrunk { .. }));
    let moved = Offer { parent: Some(Parent { sequence: 0, digest: None }), ..good() };
    assert!(matches!(gate(try_offer(moved).await), Gate::NotAtParent { found: 1, expected: 0 }));
    let allow = Allow { shrink: true, ..Allow::default() };
    let outcome =
        try_offer(Offer { routes: 79, parent: Some(Parent { sequence: 1, digest: None }), allow, ..good() })
            .await
            .unwrap();
    assert_eq!(outcome.entry.sequence, 2);
    // A key that nobody trusts is told so before it uploads anything.
    let stranger = key(9);
    let publisher = Publisher { signer: &stranger, ..bench.publisher("ci") };
    let objects = bench.count().await;
    assert!(matches!(gate(Box::pin(publisher.publish(&offer(&one))).await), Gate::Key(_)));
    assert_eq!(bench.count().await, objects);
    let error = Box::pin(bench.publisher("ci").pin("abcdef0123", None)).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused(Gate::NotReleased(_))), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_history_the_younger_commit_goes_out() {
    let bench = Bench::new();
    let source = |revision: &str, at: i64| {
        let committed = Some(OffsetDateTime::from_unix_timestamp(at).unwrap());
        Some(Source { repository: "r".into(), revision: revision.into(), tree: String::new(), committed })
    };
    let [one, two, three] = [1, 2, 3].map(snapshot);
    let publish = async |offer: Offer<'_>| Box::pin(bench.publisher("ci").publish(&offer)).await;
    publish(Offer { source: source("b", 100), ..offer(&one) }).await.unwrap();
    let late = publish(Offer { source: source("c", 200), ..offer(&two) }).await.unwrap();
    assert!(late.warnings[0].contains("younger"), "{:?}", late.warnings);
    let early = publish(Offer { source: source("a", 150), ..offer(&three) }).await;
    assert!(matches!(gate(early), Gate::UnknownAncestry { .. }));
}

#[tokio::test(start_paused = true)]
async fn entries_by_keys_that_are_not_trusted_are_not_run_over() {
    let bench = Bench::new();
    bench.publish(1).await;
    let newer = Bench {
        key: key(2),
        trust: Arc::new(Trust::of([key(1), key(2)].map(|key| key.public().clone()))),
        ..bench
    };
    newer.publish(2).await;
    let old = Bench { key: key(1), trust: Arc::new(Trust::of([key(1).public().clone()])), ..newer };
    let three = snapshot(3);
    let refused = Box::pin(old.publisher("ci").publish(&offer(&three))).await;
    assert!(matches!(gate(refused), Gate::Foreign { sequence: 2, .. }));
    let publisher = Publisher { step_over: true, ..old.publisher("ci") };
    let outcome = Box::pin(publisher.publish(&offer(&three))).await.unwrap();
    assert_eq!(outcome.entry.sequence, 3);
    assert!(outcome.warnings.iter().any(|warning| warning.contains("slot 2")), "{:?}", outcome.warnings);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_page_is_written_again_before_the_commit() {
    let bench = Bench::new();
    bench.publish(1).await;
    let shared = snapshot(1).pages()[0].digest();
    let store = Bench::store(bench.inner.clone());
    store.overwrite(&layout::page(&shared), "noise".into()).await.unwrap();
    bench.publish(2).await;
    assert_eq!(bench.served().await, Some(snapshot(2).id()));
}

#[tokio::test(start_paused = true)]
async fn a_collected_snapshot_is_not_pinned() {
    let bench = Bench::new();
    bench.publish(1).await;
    bench.publish(2).await;
    let name = format!("{}/{}", shop().prefix(), layout::manifest(&snapshot(1).id()));
    bench.inner.delete(&name.into()).await.unwrap();
    let error = Box::pin(bench.publisher("x").pin(&snapshot(1).id().to_string(), None)).await.unwrap_err();
    assert!(matches!(error, PublishError::Read(ReadError::Missing(_))), "{error}");
    assert_eq!(bench.served().await, Some(snapshot(2).id()));
}

/// Both have read the same end of the log when they come to write: one wins, the other is told so.
#[tokio::test(start_paused = true)]
async fn of_two_racing_publishers_one_wins() {
    let bench = Bench::new();
    bench.publish(1).await;
    let store = Arc::new(FaultStore::new(bench.inner.clone()).racing());
    let (two, three) = (snapshot(2), snapshot(3));
    let offers = [offer(&two), offer(&three)];
    let (first, second) = (bench.publisher_over(store.clone(), "one"), bench.publisher_over(store, "two"));
    let (a, b) = tokio::join!(first.publish(&offers[0]), second.publish(&offers[1]));
    let (won, lost) = if a.is_ok() { (a, b) } else { (b, a) };
    let won = won.unwrap();
    assert_eq!((won.entry.sequence, won.result), (2, Done::Committed));
    let Gate::Moved { sequence, by, .. } = gate(lost) else { panic!("not moved") };
    assert_eq!(sequence, 2);
    assert!(by.contains(&won.entry.author), "{by}");
    assert_eq!(bench.served().await, won.entry.state.target.map(|release| release.snapshot));
}

/// Answers lost, conflicts with oneself, conflicts about nothing, errors: at most one entry a slot, each act told the
/// truth, and what a reader finds is always whole.
#[tokio::test(start_paused = true)]
async fn whatever_the_store_answers_each_act_is_told_the_truth() {
    let (mut won, mut moved, mut unclear) = (0, 0, 0);
    for seed in 1..=60u64 {
        let bench = Bench::new();
        bench.publish(1).await;
        let faulty = |n: u64| Arc::new(FaultStore::new(bench.inner.clone()).seeded(seed * 7919 + n));
        let (two, three) = (snapshot(2), snapshot(3));
        let offers = [offer(&two), offer(&three)];
        let first = bench.publisher_over(faulty(1), "one");
        let second = bench.publisher_over(faulty(2), "two");
        let (a, b) = tokio::join!(first.publish(&offers[0]), second.publish(&offers[1]));
        let mut committed = BTreeSet::new();
        for result in [a, b] {
            match result {
                Ok(outcome) => {
                    won += 1;
                    assert!(committed.insert(outcome.entry.sequence), "seed {seed}: two winners");
                    let slot = bench.reader("stable").slot(outcome.entry.sequence).await.unwrap();
                    let Slot::Entry(entry) = slot else { panic!("seed {seed}: no entry") };
                    assert_eq!(entry.entry, outcome.entry, "seed {seed}");
                }
                Err(PublishError::Refused(Gate::Moved { .. })) => moved += 1,
                Err(PublishError::Uncertain { .. } | PublishError::Write(_) | PublishError::Read(_)) => {
                    unclear += 1;
                }
                Err(other) => panic!("seed {seed}: {other}"),
            }
        }
        assert!(bench.served().await.is_some(), "seed {seed}");
        let tail = bench.reader("stable").newest(None).await.unwrap();
        assert_eq!(tail.next, 2 + committed.len() as u64, "seed {seed}: an entry that nobody was told of");
    }
    assert!(won > 60 && moved > 5, "{won} won, {moved} moved, {unclear} unclear");
}

/// Killed after each put in turn: a reader sees the old release or the new one, whole; and the next run comes through.
#[tokio::test(start_paused = true)]
async fn a_publisher_killed_at_any_put_leaves_no_half_release() {
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for puts in 0.. {
        let bench = Bench::new();
        bench.publish(1).await;
        let known: Position = bench.reader("stable").newest(None).await.unwrap().entry.unwrap().position();
        let dying = Arc::new(FaultStore::new(bench.inner.clone()).dying_after(puts));
        let two = snapshot(2);
        let result = Box::pin(bench.publisher_over(dying, "ci").publish(&offer(&two))).await;
        let tail = bench.reader("stable").newest(Some(known)).await.unwrap();
        let sequence = tail.entry.unwrap().entry.sequence;
        let expected = if sequence == 2 { two.id() } else { snapshot(1).id() };
        assert_eq!(bench.served().await, Some(expected), "after {puts} puts");
        *seen.entry(sequence).or_default() += 1;
        let again = bench.publish(2).await;
        let done = if sequence == 2 { Done::Unchanged } else { Done::Committed };
        assert_eq!((again.result, again.entry.sequence), (done, 2), "after {puts} puts");
        if result.is_ok_and(|outcome| outcome.warnings.is_empty()) {
            break;
        }
    }
    // Page, manifest, change, attestation, entry, head: killed before the entry, and after it; the last one only looks
    // whether gc took something away.
    assert_eq!(seen, BTreeMap::from([(1, 5), (2, 3)]));
}
