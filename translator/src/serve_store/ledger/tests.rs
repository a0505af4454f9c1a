use super::*;
use bytes::Bytes;
use moorgate_snapshot::{Action, ChannelState, Digest, KeyPair, Position, Release, Signer as _};
use std::sync::atomic::{AtomicBool, Ordering};
use time::OffsetDateTime;

/// ConfigMaps, as far as the ledger knows them. Clones share.
#[derive(Debug, Clone, Default)]
pub(in crate::serve_store) struct Paper {
    written: Arc<Mutex<BTreeMap<Key, Anchor>>>,
    down: Arc<AtomicBool>,
}

impl Anchors for Paper {
    fn all(&self) -> BoxFuture<'_, Result<Vec<Anchor>, LedgerError>> {
        let all = self.written.lock().unwrap().values().cloned().collect();
        Box::pin(async { Ok(all) })
    }

    fn write<'a>(&'a self, anchor: &'a Anchor) -> BoxFuture<'a, Result<String, LedgerError>> {
        let mut written = self.written.lock().unwrap();
        let key = (anchor.fleet.clone(), anchor.channel.clone());
        let there = written.get(&key).and_then(|found| found.version.clone());
        let answer = if self.down.load(Ordering::SeqCst) {
            Err(LedgerError::Api("down".to_owned()))
        } else if there == anchor.version {
            let version = there.map_or(1, |there| there.parse::<u64>().unwrap() + 1).to_string();
            written.insert(key, Anchor { version: Some(version.clone()), ..anchor.clone() });
            Ok(version)
        } else {
            Err(LedgerError::Overtaken(anchor.fleet.clone()))
        };
        Box::pin(async { answer })
    }
}

fn fleet() -> FleetName {
    FleetName::gateway("shop", "edge")
}

fn key() -> KeyPair {
    KeyPair::generate(&[1; 32]).unwrap().0
}

/// A replica: a disk, and what it thinks that relays know.
struct Replica {
    store: Store,
    ledger: Ledger,
}

impl Replica {
    fn new(paper: &Paper) -> Self {
        Self { store: Store::open("memory:///").unwrap(), ledger: Ledger::new(paper.clone()) }
    }

    fn reader(&self) -> Reader {
        let trust = Arc::new(Trust::of([key().public().clone()]));
        Reader::new(self.store.fleet(&fleet()), trust, Channel::stable())
    }

    async fn take_over(&self) {
        let trust = Arc::new(Trust::of([key().public().clone()]));
        self.ledger.take_over(&self.store, &trust).await.unwrap();
    }

    /// Adds an entry behind the newest one; gives its place.
    async fn publish(&self, nonce: &str) -> Position {
        let tail = self.reader().newest(None).await.unwrap();
        let release = Release::new(Digest::of(nonce.as_bytes()), tail.next, OffsetDateTime::UNIX_EPOCH);
        let entry = Entry {
            format: moorgate_snapshot::entry::FORMAT,
            features_required: Vec::new(),
            fleet: fleet(),
            channel: Channel::stable(),
            sequence: tail.next,
            previous: tail.entry.as_ref().map(moorgate_snapshot::VerifiedEntry::position),
            action: Action::Publish,
            state: ChannelState { target: Some(release), ..ChannelState::default() },
            promoted: None,
            author: "watch".into(),
            run: String::new(),
            approver: String::new(),
            reason: String::new(),
            time: OffsetDateTime::UNIX_EPOCH,
            expires: None,
            nonce: nonce.into(),
        };
        let envelope = entry.sign(&[&key()]).unwrap();
        assert!(writer::commit_entry(self.reader().store(), &entry, &envelope).await.unwrap());
        writer::write_head(self.reader().store(), &entry, envelope).await.unwrap();
        self.newest().await.unwrap()
    }

    async fn newest(&self) -> Option<Position> {
        self.reader().newest(None).await.unwrap().entry.map(|entry| entry.position())
    }

    async fn head(&self) -> Bytes {
        self.store.fleet(&fleet()).get("head/stable", limits::HEAD_BYTES).await.unwrap().unwrap()
    }

    /// Shows the newest entry to a relay.
    async fn show(&self) -> Result<(), LedgerError> {
        self.ledger.show(&fleet(), "head/stable", &self.head().await).await
    }
}

#[tokio::test]
async fn an_empty_disk_goes_on_behind_what_relays_were_shown() {
    let paper = Paper::default();
    let first = Replica::new(&paper);
    first.take_over().await;
    assert_eq!(first.newest().await, None);
    first.publish("a").await;
    let shown = first.publish("b").await;
    first.show().await.unwrap();
    first.show().await.unwrap();
    // Nobody has seen this one.
    first.publish("c").await;

    let second = Replica::new(&paper);
    second.take_over().await;
    assert_eq!(second.newest().await, Some(shown));
    // A relay without a cache, one with, and one whose head is lost all find it.
    assert!(second.reader().newest(Some(shown)).await.is_ok());
    let next = second.publish("d").await;
    assert_eq!(next.sequence, shown.sequence + 1);
    assert!(second.reader().newest(Some(shown)).await.is_ok(), "no relay refuses it");
    second.show().await.unwrap();

    // The first one has another entry of this number on its disk: what relays saw counts.
    assert!(matches!(first.show().await, Err(LedgerError::Overtaken(_))));
    first.take_over().await;
    assert_eq!(first.newest().await, Some(next));
    assert_eq!(first.publish("e").await.sequence, next.sequence + 1);
    first.show().await.unwrap();
}

#[tokio::test]
async fn a_disk_that_is_further_on_stays_as_it_is() {
    let paper = Paper::default();
    let replica = Replica::new(&paper);
    replica.take_over().await;
    replica.publish("a").await;
    replica.show().await.unwrap();
    let newer = replica.publish("b").await;
    replica.take_over().await;
    assert_eq!(replica.newest().await, Some(newer));
    replica.show().await.unwrap();
    // Nothing is written down twice, and older entries need not be.
    let before = paper.written.lock().unwrap().clone();
    let old = replica.store.fleet(&fleet()).get("log/stable/00000000000000000001", 1 << 16).await.unwrap();
    replica.ledger.show(&fleet(), "log/stable/00000000000000000001", &old.unwrap()).await.unwrap();
    replica.show().await.unwrap();
    assert_eq!(*paper.written.lock().unwrap(), before);
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_shown() {
    let paper = Paper::default();
    let replica = Replica::new(&paper);
    replica.take_over().await;
    replica.publish("a").await;
    paper.down.store(true, Ordering::SeqCst);
    assert!(replica.show().await.is_err());
    paper.down.store(false, Ordering::SeqCst);
    replica.show().await.unwrap();
    // Somebody changed the log behind our back: two entries of one number are shown to nobody.
    let other = Replica::new(&Paper::default());
    other.publish("other").await;
    let shown = replica.ledger.show(&fleet(), "head/stable", &other.head().await).await;
    assert!(matches!(shown, Err(LedgerError::Contradiction { sequence: 1, .. })), "{shown:?}");
    // No entry, no matter.
    for (name, bytes) in [("head/stable", &b"{}"[..]), ("pages/x", b"page"), ("log/stable/1", b"junk")] {
        replica.ledger.show(&fleet(), name, bytes).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_entry_of_ours_holds_up_nobody() {
    let paper = Paper::default();
    let replica = Replica::new(&paper);
    replica.take_over().await;
    replica.publish("a").await;
    replica.show().await.unwrap();
    for anchor in paper.written.lock().unwrap().values_mut() {
        anchor.entry = "{}".to_owned();
    }
    let other = FleetName::gateway("shop", "other");
    let damaged = paper.written.lock().unwrap().values().next().unwrap().clone();
    let key = (other.clone(), Channel::stable());
    paper.written.lock().unwrap().insert(key, Anchor { fleet: other, ..damaged });
    let next = Replica::new(&paper);
    next.take_over().await;
    assert_eq!(next.newest().await, None);
    assert_eq!(next.publish("b").await.sequence, 1);
}
