use super::*;
use crate::attestation::Attestation;
use crate::channel::{ChannelState, Pin, Release};
use crate::entry::tests::key;
use crate::entry::{Action, Entry, VerifiedEntry};
use crate::fleet::FleetName;
use crate::head::Head;
use crate::layout;
use crate::limits;
use crate::record::{Binding, BindingKind, BindingSource, Record, Resource};
use crate::signature::Signer;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::writer;
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use time::OffsetDateTime;

/// A channel in memory, written without the publisher.
struct Bench {
    inner: Arc<InMemory>,
    reader: Reader,
}

fn shop() -> FleetName {
    FleetName::gateway("shop", "edge")
}

impl Bench {
    fn new() -> Self {
        Self::trusting(Trust::of([key(1).public().clone()]))
    }

    fn trusting(trust: Trust) -> Self {
        let inner = Arc::new(InMemory::new());
        let store = Store::new(inner.clone(), object_store::path::Path::default(), "memory:///");
        let reader = Reader::new(store.fleet(&shop()), Arc::new(trust), Channel::stable());
        Self { inner, reader }
    }

    fn store(&self) -> &FleetStore {
        &self.reader.store
    }

    fn entry(sequence: u64, release: Release, previous: Option<Position>) -> Entry {
        Entry {
            format: 1,
            features_required: Vec::new(),
            fleet: shop(),
            channel: Channel::stable(),
            sequence,
            previous,
            action: Action::Publish,
            state: ChannelState { target: Some(release), ..Default::default() },
            promoted: None,
            author: "ci".into(),
            run: String::new(),
            approver: String::new(),
            reason: String::new(),
            time: OffsetDateTime::UNIX_EPOCH,
            expires: None,
            nonce: format!("{sequence}"),
        }
    }

    async fn append(&self, entry: &Entry, signer: &dyn Signer) -> Position {
        let envelope = entry.sign(&[signer]).unwrap();
        assert!(writer::commit_entry(self.store(), entry, &envelope).await.unwrap());
        writer::write_head(self.store(), entry, envelope.clone()).await.unwrap();
        Position { sequence: entry.sequence, digest: Digest::of(&envelope.payload) }
    }

    /// Publishes `count` entries of small snapshots; returns their places.
    async fn publish(&self, count: u64) -> Vec<Position> {
        let mut places: Vec<Position> = Vec::new();
        for sequence in 1..=count {
            let snapshot = small(sequence);
            writer::write_snapshot(self.store(), &snapshot, &|_| false).await.unwrap();
            let entry = Self::entry(sequence, release(&snapshot, sequence), places.last().copied());
            places.push(self.append(&entry, &key(1)).await);
        }
        places
    }

    async fn put(&self, name: &str, bytes: Vec<u8>) {
        self.store().overwrite(name, bytes.into()).await.unwrap();
    }

    async fn raw(&self, name: &str) -> Vec<u8> {
        self.store().get(name, 1 << 20).await.unwrap().unwrap().to_vec()
    }

    async fn remove(&self, name: &str) {
        let path = format!("{}/{name}", shop().prefix());
        self.inner.delete(&path.into()).await.unwrap();
    }

    async fn sequence(&self) -> Option<u64> {
        self.reader.newest(None).await.unwrap().entry.map(|entry| entry.entry.sequence)
    }
}

fn release(snapshot: &Snapshot, sequence: u64) -> Release {
    Release::new(snapshot.id(), sequence, OffsetDateTime::UNIX_EPOCH)
}

fn cluster(name: &str, bytes: Vec<u8>) -> Record {
    Record::Resource(Resource {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
        name: name.into(),
        part: "".into(),
        bytes: bytes.into(),
        refs: Vec::new(),
    })
}

fn small(seed: u64) -> Snapshot {
    let secret = Record::Binding(Binding {
        kind: BindingKind::Secret,
        name: "cert".into(),
        source: BindingSource::Object {
            kind: "Secret".into(),
            namespace: "shop".into(),
            name: "cert".into(),
        },
    });
    Snapshot::build(vec![cluster("web", seed.to_be_bytes().to_vec()), secret]).unwrap()
}

/// Large enough for pages of their own.
fn large() -> Snapshot {
    let noise = |i: u32| Digest::of(&i.to_be_bytes()).to_string().into_bytes();
    Snapshot::build((0..2000).map(|i| cluster(&format!("service-{i}"), noise(i))).collect()).unwrap()
}

fn nothing(_: &Digest) -> Option<Bytes> {
    None
}

#[tokio::test]
async fn the_newest_entry_is_found_whatever_happens_to_the_head() {
    let bench = Bench::new();
    let tail = bench.reader.newest(None).await.unwrap();
    assert_eq!((tail.entry, tail.next), (None, 1));
    let places = bench.publish(7).await;
    assert_eq!(bench.sequence().await, Some(7));
    let old = Bench::entry(3, release(&small(3), 3), Some(places[1])).sign(&[&key(1)]).unwrap();
    bench.put("head/stable", Head::of(old).encode()).await;
    assert_eq!(bench.sequence().await, Some(7));
    bench.put("head/stable", vec![b'x'; limits::HEAD_BYTES + 1]).await;
    let tail = bench.reader.newest(None).await.unwrap();
    assert_eq!((tail.next, tail.head_error), (8, Some(EntryError::TooLarge(limits::HEAD_BYTES))));
    bench.remove("head/stable").await;
    assert_eq!(bench.sequence().await, Some(7));
    // gc took the first entries: a list shows where the log goes on.
    bench.remove(&layout::entry(&Channel::stable(), 1)).await;
    bench.remove(&layout::entry(&Channel::stable(), 2)).await;
    assert_eq!(bench.sequence().await, Some(7));
}

#[tokio::test]
async fn an_idle_poll_is_one_conditional_get() {
    let bench = Bench::new();
    let places = bench.publish(2).await;
    let polled = bench.reader.poll(Some(places[0]), None, false).await.unwrap();
    assert_eq!(polled.tail.unwrap().entry.unwrap().position(), places[1]);
    let etag = polled.etag.as_deref();
    assert!(bench.reader.poll(Some(places[1]), etag, false).await.unwrap().tail.is_none());
    let probed = bench.reader.poll(Some(places[1]), etag, true).await.unwrap().tail.unwrap();
    assert_eq!(probed.entry.unwrap().position(), places[1]);
    // The tag is a hint: one from another store does no harm.
    let other = bench.reader.poll(Some(places[0]), Some("other"), false).await.unwrap();
    assert_eq!(other.tail.unwrap().entry.unwrap().position(), places[1]);
}

#[tokio::test]
async fn a_log_that_goes_back_or_forks_is_refused() {
    let bench = Bench::new();
    let places = bench.publish(4).await;
    bench.remove(&layout::entry(&Channel::stable(), 4)).await;
    let old = Bench::entry(3, release(&small(3), 3), Some(places[1])).sign(&[&key(1)]).unwrap();
    bench.put("head/stable", Head::of(old).encode()).await;
    let error = bench.reader.newest(Some(places[3])).await.unwrap_err();
    assert_eq!(error.label(), "rollback");
    // An equal one is no news and no attack.
    let tail = bench.reader.newest(Some(places[2])).await.unwrap();
    assert_eq!(tail.entry.unwrap().position(), places[2]);
    let other = Bench::entry(4, release(&small(9), 4), Some(places[2]));
    let other = bench.append(&other, &key(1)).await;
    assert_ne!(other, places[3]);
    for probe in [false, true] {
        let error = bench.reader.poll(Some(places[3]), None, probe).await.unwrap_err();
        assert_eq!(error.label(), "equivocation");
    }
    // And one whose past is another.
    bench.append(&Bench::entry(5, release(&small(5), 5), Some(other)), &key(1)).await;
    assert_eq!(bench.reader.newest(Some(places[3])).await.unwrap_err().label(), "equivocation");
    // Nothing left at all.
    let empty = Bench::new();
    assert_eq!(empty.reader.newest(Some(places[3])).await.unwrap_err().label(), "rollback");
}

#[tokio::test]
async fn void_slots_are_stepped_over_up_to_a_bound() {
    let bench = Bench::new();
    let places = bench.publish(2).await;
    // Replays of another fleet and of an older slot, noise, and too much noise.
    let foreign =
        Entry { fleet: FleetName::gateway("shop", "other"), ..Bench::entry(3, release(&small(3), 3), None) };
    bench.put(&layout::entry(&Channel::stable(), 3), foreign.sign(&[&key(1)]).unwrap().encode()).await;
    let replay = bench.raw(&layout::entry(&Channel::stable(), 2)).await;
    bench.put(&layout::entry(&Channel::stable(), 4), replay).await;
    bench.put(&layout::entry(&Channel::stable(), 5), vec![b'x'; limits::ENTRY_BYTES + 1]).await;
    let tail = bench.reader.newest(Some(places[1])).await.unwrap();
    assert_eq!((tail.entry.unwrap().position(), tail.next), (places[1], 6));
    let labels: Vec<&str> = tail.voids.iter().map(|void| void.error.label()).collect();
    assert_eq!(labels, ["too_large", "replay", "replay"]);
    let next = bench.append(&Bench::entry(6, release(&small(6), 6), Some(places[1])), &key(1)).await;
    assert_eq!(bench.reader.newest(Some(places[1])).await.unwrap().entry.unwrap().position(), next);
    let history = bench.reader.history(6, 100).await.unwrap();
    assert_eq!(history.iter().filter(|(_, slot)| matches!(slot, Slot::Void(_))).count(), 3);
    assert_eq!(history.len(), 6);
    for sequence in 7..=(7 + limits::VOID_RUN) {
        bench.put(&layout::entry(&Channel::stable(), sequence), b"noise".to_vec()).await;
    }
    bench.remove("head/stable").await;
    assert_eq!(bench.reader.newest(Some(next)).await.unwrap_err().label(), "malformed");
}

#[tokio::test]
async fn below_the_minimum_nothing_is_believed() {
    let public = serde_json::to_string(&key(1).public().to_pem()).unwrap();
    let file = format!(
        r#"{{"format":1,"keys":[{{"public":{public},"roles":["publish"]}}],"minimum_sequence":{{"shop/edge@stable":3}}}}"#
    );
    let bench = Bench::trusting(Trust::parse(file.as_bytes()).unwrap());
    bench.publish(2).await;
    let tail = bench.reader.newest(None).await.unwrap();
    assert_eq!((tail.entry, tail.head_error.unwrap().label()), (None, "below_minimum"));
    bench.publish(3).await;
    assert_eq!(bench.sequence().await, Some(3));
}

/// Trusts key 1 to publish and key 2 to pin.
fn two_keys() -> Trust {
    let [one, two] = [1, 2].map(|n| serde_json::to_string(&key(n).public().to_pem()).unwrap());
    let file = format!(
        r#"{{"format":1,"keys":[{{"public":{one},"roles":["publish"]}},{{"public":{two},"roles":["pin"]}}]}}"#
    );
    Trust::parse(file.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_pin_key_pins_what_was_published_and_nothing_else() {
    let bench = Bench::trusting(two_keys());
    let places = bench.publish(3).await;
    let newest: VerifiedEntry = bench.reader.newest(None).await.unwrap().entry.unwrap();
    let pin = |to: Release| {
        let pin = Pin { release: to, reason: "r".into(), by: "on-call".into(), expires: None };
        let state = ChannelState { pin: Some(pin), ..newest.entry.state.clone() };
        Entry { action: Action::Pin, state, ..Bench::entry(4, release(&small(1), 1), Some(places[2])) }
    };
    let slot = layout::entry(&Channel::stable(), 4);
    let try_entry = async |entry: &Entry| {
        bench.put(&slot, entry.sign(&[&key(2)]).unwrap().encode()).await;
        let tail = bench.reader.newest(Some(places[2])).await.unwrap();
        tail.voids.first().map(|void| void.error.label())
    };
    assert_eq!(try_entry(&pin(release(&small(1), 1))).await, None);
    // Two pins in a row are checked to the last entry by a publisher.
    let first = bench.reader.newest(None).await.unwrap().entry.unwrap();
    let second = Entry { sequence: 5, previous: Some(first.position()), ..pin(release(&small(2), 2)) };
    bench.append(&second, &key(2)).await;
    assert_eq!(bench.sequence().await, Some(5));
    bench.remove(&layout::entry(&Channel::stable(), 5)).await;
    bench.remove("head/stable").await;
    // A snapshot that never was released, one under a false sequence, and a new target.
    assert_eq!(try_entry(&pin(release(&small(8), 1))).await, Some("more_than_a_pin"));
    assert_eq!(try_entry(&pin(release(&small(1), 2))).await, Some("more_than_a_pin"));
    let mut target = pin(release(&small(1), 1));
    target.state.target = Some(release(&small(1), 1));
    assert_eq!(try_entry(&target).await, Some("more_than_a_pin"));
    let publish = Bench::entry(4, release(&small(8), 4), Some(places[2]));
    assert_eq!(try_entry(&publish).await, Some("role"));
}

#[tokio::test]
async fn a_snapshot_comes_back_by_bundle_by_pages_and_from_memory() {
    let bench = Bench::new();
    let snapshot = large();
    assert!(snapshot.pages().len() > crate::bundle::PAGES);
    writer::write_snapshot(bench.store(), &snapshot, &|_| false).await.unwrap();
    let mut release = release(&snapshot, 1);
    assert_eq!(bench.reader.fetch(&release, &nothing).await.unwrap(), snapshot);
    release.bundle = writer::write_bundle(bench.store(), &snapshot).await.unwrap();
    let bundle = layout::bundle(&release.bundle.unwrap().digest);
    // Without a single page the bundle suffices; without the bundle the pages do.
    for page in snapshot.pages() {
        bench.remove(&layout::page(&page.digest())).await;
    }
    assert_eq!(bench.reader.fetch(&release, &nothing).await.unwrap(), snapshot);
    bench.put(&bundle, b"damaged".to_vec()).await;
    assert_eq!(bench.reader.fetch(&release, &nothing).await.unwrap_err().label(), "missing");
    writer::mend(bench.store(), &snapshot).await.unwrap();
    assert_eq!(bench.reader.fetch(&release, &nothing).await.unwrap(), snapshot);
    // Pages that the caller holds are not asked for, and a damaged one of them is.
    let asked = AtomicUsize::new(0);
    let held = |digest: &Digest| {
        asked.fetch_add(1, Ordering::Relaxed);
        let page = snapshot.pages().iter().find(|page| page.digest() == *digest)?;
        let raw = page.raw().clone();
        Some(if snapshot.pages()[0].digest() == *digest { raw.slice(1..) } else { raw })
    };
    for page in &snapshot.pages()[1..] {
        bench.remove(&layout::page(&page.digest())).await;
    }
    assert_eq!(bench.reader.fetch(&release, &held).await.unwrap(), snapshot);
    assert_eq!(asked.load(Ordering::Relaxed), snapshot.pages().len());
}

/// Every byte of every stored object: flipped, cut, followed by others.
#[tokio::test]
async fn no_damage_in_the_store_yields_another_snapshot() {
    let bench = Bench::new();
    let place = bench.publish(1).await[0];
    let snapshot =
        Snapshot::build((0..300).map(|i| cluster(&format!("c{i}"), vec![1; 300])).collect()).unwrap();
    writer::write_snapshot(bench.store(), &snapshot, &|_| false).await.unwrap();
    let mut entry = Bench::entry(2, release(&snapshot, 2), Some(place));
    let document = serde_json::json!({"a": 1});
    let (document, _) = writer::write_document(bench.store(), "records", &document).await.unwrap();
    let statement = Attestation {
        fleet: shop(),
        snapshot: snapshot.id(),
        documents: [("records".to_owned(), document)].into(),
        inline: [("counts".to_owned(), serde_json::json!({"b": 2}))].into(),
        provenance: crate::attestation::Provenance { run: "r".into(), ..Default::default() },
    };
    let (attestation, _) = writer::write_attestation(bench.store(), &statement, &key(1)).await.unwrap();
    if let Some(target) = &mut entry.state.target {
        target.attestation = Some(attestation);
    }
    let newest = bench.append(&entry, &key(1)).await;
    let read = async || {
        let tail = bench.reader.newest(Some(place)).await?;
        let release = tail.entry.and_then(|entry| entry.entry.state.target);
        let Some(release) = release.filter(|release| release.sequence == 2) else { return Ok(None) };
        let attestation = bench.reader.attestation(&release).await?;
        let document = attestation.map(|one| one.documents["records"]);
        let document = match document {
            Some(document) => Some(bench.reader.document(&document).await?),
            None => None,
        };
        let snapshot = bench.reader.fetch(&release, &nothing).await?;
        Ok::<_, ReadError>(Some((snapshot, document)))
    };
    let whole = read().await.unwrap().unwrap();
    assert_eq!(whole.0, snapshot);
    // The head and the entry vouch for one another: take one away to look at the other.
    let prefix = shop().prefix();
    let mut names: Vec<String> = Vec::new();
    let mut listed = bench.inner.list(None);
    while let Some(meta) = futures::StreamExt::next(&mut listed).await {
        names.push(meta.unwrap().location.as_ref().strip_prefix(&format!("{prefix}/")).unwrap().to_owned());
    }
    assert_eq!(names.len(), 2 + 2 + 1 + 1 + 1 + snapshot.pages().len());
    bench.remove("head/stable").await;
    let mut refused = 0;
    for name in names.iter().filter(|name| *name != "head/stable") {
        let good = bench.raw(name).await;
        let step = (good.len() / 400).max(1);
        let cuts = (0..good.len()).step_by(step).map(|at| good[..at].to_vec());
        let flips = (0..good.len()).step_by(step).map(|at| {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            bad
        });
        let longer = [b"\0".to_vec(), b" x".to_vec(), vec![0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]];
        let longer = longer.into_iter().map(|tail| [good.clone(), tail].concat());
        for bad in cuts.chain(flips).chain(longer) {
            bench.put(name, bad).await;
            match read().await {
                Ok(Some(found)) => assert_eq!(found, whole, "{name}"),
                Ok(None) | Err(_) => refused += 1,
            }
        }
        bench.put(name, good).await;
    }
    assert!(refused > 2000, "{refused}");
    assert_eq!(read().await.unwrap().unwrap(), whole);
    assert_eq!(bench.reader.newest(None).await.unwrap().entry.unwrap().position(), newest);
}

#[tokio::test]
async fn a_page_that_explodes_is_refused() {
    let bench = Bench::new();
    let snapshot = large();
    writer::write_snapshot(bench.store(), &snapshot, &|_| false).await.unwrap();
    let page = layout::page(&snapshot.pages()[0].digest());
    let bomb = crate::compress::compress(&vec![0; 100 << 20]).unwrap();
    assert!(bomb.len() < 20_000);
    bench.put(&page, bomb.to_vec()).await;
    let error = bench.reader.fetch(&release(&snapshot, 1), &nothing).await.unwrap_err();
    assert_eq!(error.label(), "damaged");
    assert!(error.is_integrity());
    bench.put(&page, vec![0; 10 << 20]).await;
    let error = bench.reader.fetch(&release(&snapshot, 1), &nothing).await.unwrap_err();
    assert_eq!(error.label(), "too_large");
}

mod attacks;
