use super::*;
use crate::entry::tests::key;
use crate::trust::Role;
use crate::trust::document::{KeyEntry, Root};
use object_store::memory::InMemory;
use object_store::{ObjectStoreExt as _, path::Path};

/// A document whose root keys and acting keys are these seeds.
fn document(number: u64, root: &[u8], threshold: u32, acting: &[u8]) -> Document {
    let entry = |seed: &u8| KeyEntry {
        name: format!("key {seed}"),
        public: key(*seed).public().to_pem(),
        roles: [Role::Publish].into(),
        fleets: vec!["*".into()],
        channels: vec!["*".into()],
        revoked: None,
    };
    Document {
        format: document::CHAINED,
        number: Some(number),
        root: Some(Root { threshold, keys: root.iter().map(|seed| key(*seed).public().to_pem()).collect() }),
        keys: acting.iter().map(entry).collect(),
        minimum_sequence: BTreeMap::new(),
        void: BTreeMap::new(),
        cosign: Vec::new(),
    }
}

fn signed(document: &Document, seeds: &[u8]) -> Envelope {
    let mut file = serde_json::to_vec_pretty(document).unwrap();
    for seed in seeds {
        file = sign(&file, &[&key(*seed)]).unwrap().encode();
    }
    serde_json::from_slice(&file).unwrap()
}

struct Bench {
    inner: Arc<InMemory>,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let inner = Arc::new(InMemory::new());
        let store = Store::new(inner.clone(), Path::default(), "memory:///");
        Self { inner, store }
    }

    async fn put(&self, number: u64, envelope: &Envelope) {
        let stored = Bytes::from(envelope.encode());
        assert!(self.store.commit_trust_document(number, &stored).await.unwrap());
    }

    async fn remove(&self, number: u64) {
        self.inner.delete(&format!("trust/{number:020}").into()).await.unwrap();
    }
}

/// The number reached, and the label of what stopped it.
async fn follow(anchor: &Anchor, store: &Store) -> (Option<u64>, Option<&'static str>) {
    let followed = anchor.follow(store).await;
    (followed.anchor.number(), followed.error.map(|error| error.label()))
}

#[tokio::test]
async fn keys_come_and_go_by_documents_that_old_and_new_root_keys_signed() {
    let bench = Bench::new();
    // Two of three; then one root key is exchanged, with the signatures of two before and two after; then acting keys.
    let one = signed(&document(1, &[11, 12, 13], 2, &[1]), &[11, 12]);
    let two = signed(&document(2, &[12, 13, 14], 2, &[1, 2]), &[12, 13]);
    let three = signed(&document(3, &[12, 13, 14], 2, &[2]), &[13, 14]);
    for (number, envelope) in [(1, &one), (2, &two), (3, &three)] {
        bench.put(number, envelope).await;
    }
    for file in [one.encode(), serde_json::to_vec_pretty(&document(1, &[11, 12, 13], 2, &[1])).unwrap()] {
        let anchor = Anchor::parse(&file).unwrap();
        assert_eq!(anchor.number(), Some(1));
        let followed = anchor.follow(&bench.store).await;
        assert!(followed.error.is_none());
        assert_eq!(followed.anchor.number(), Some(3));
        let keys: Vec<_> = followed.anchor.trust().keys().map(|trusted| trusted.key.id()).collect();
        assert_eq!(keys, [key(2).public().id()]);
    }
    // A file from the middle does as well, and one that stands for itself follows nothing.
    assert_eq!(follow(&Anchor::parse(&two.encode()).unwrap(), &bench.store).await, (Some(3), None));
    let fixed = Anchor::parse(key(1).public().to_pem().as_bytes()).unwrap();
    assert_eq!(follow(&fixed, &bench.store).await, (None, None));
}

#[tokio::test]
async fn nobody_else_writes_the_next_document() {
    let one = signed(&document(1, &[11, 12, 13], 2, &[1]), &[11, 12]);
    let two = document(2, &[12, 13, 14], 2, &[1, 2]);
    let refused = [
        ("too few of before", signed(&two, &[12, 14])),
        ("too few of its own", signed(&document(2, &[14, 15, 16], 2, &[9]), &[11, 12])),
        ("one key twice", signed(&two, &[12, 12])),
        ("an acting key", signed(&two, &[1, 12])),
        ("strangers", signed(&document(2, &[21, 22], 1, &[9]), &[21, 22])),
        ("another number", signed(&document(3, &[12, 13, 14], 2, &[9]), &[12, 13])),
        ("the same again", one.clone()),
        ("another kind of payload", {
            let other = signed(&two, &[12, 13]);
            Envelope::sign("application/json", other.payload, &[&key(12), &key(13)]).unwrap()
        }),
        ("a changed byte", {
            let mut other = signed(&two, &[12, 13]);
            let text = String::from_utf8(other.payload).unwrap().replace("key 1", "key l");
            other.payload = text.into_bytes();
            other
        }),
    ];
    for (what, envelope) in refused {
        let bench = Bench::new();
        bench.put(1, &one).await;
        bench.put(2, &envelope).await;
        let anchor = Anchor::parse(&one.encode()).unwrap();
        assert_eq!(follow(&anchor, &bench.store).await, (Some(1), Some("trust_refused")), "{what}");
        let Anchor::Chain(link) = &anchor else { panic!("no chain") };
        assert!(publish(&Bench::new().store, &envelope, Some(link)).await.is_err(), "{what}");
    }
    let future =
        String::from_utf8(signed(&two, &[12]).payload).unwrap().replace(r#""format": 2"#, r#""format": 3"#);
    let future = Envelope::sign(PAYLOAD_TYPE, future.into_bytes(), &[&key(12), &key(13)]).unwrap();
    let bench = Bench::new();
    bench.put(1, &one).await;
    bench.put(2, &future).await;
    let anchor = Anchor::parse(&one.encode()).unwrap();
    assert_eq!(follow(&anchor, &bench.store).await, (Some(1), Some("upgrade_required")));
}

#[tokio::test]
async fn a_store_that_hides_or_changes_the_chain_is_noticed() {
    let bench = Bench::new();
    let one = signed(&document(1, &[11], 1, &[1]), &[11]);
    let two = signed(&document(2, &[11], 1, &[2]), &[11]);
    bench.put(1, &one).await;
    bench.put(2, &two).await;
    let file = Anchor::parse(&one.encode()).unwrap();
    let known = file.follow(&bench.store).await.anchor;
    // After a restart the file says 1, and what was written down says 2.
    let remembered = known.remember().unwrap();
    let restarted = file.clone().resume(Some(&remembered));
    assert_eq!(restarted, known);
    bench.remove(2).await;
    assert_eq!(follow(&restarted, &bench.store).await, (Some(2), Some("trust_rollback")));
    let other = signed(&document(2, &[11], 1, &[3]), &[11]);
    bench.put(2, &other).await;
    assert_eq!(follow(&restarted, &bench.store).await, (Some(2), Some("trust_equivocation")));
    // A file that says something else is the operator's word.
    let anew = Anchor::parse(&signed(&document(1, &[12], 1, &[4]), &[12]).encode()).unwrap();
    assert_eq!(anew.clone().resume(Some(&remembered)), anew);
    // A newer file, too; an older one of the same chain is no step back.
    let newer = Anchor::parse(&signed(&document(3, &[11], 1, &[2]), &[11]).encode()).unwrap();
    assert_eq!(newer.clone().resume(Some(&remembered)), newer);
    assert_eq!(Anchor::parse(&two.encode()).unwrap().resume(Some(&remembered)), known);
    assert_eq!(file.clone().resume(None), file);
    let damaged = Remembered { document: remembered.document.replace("key 2", "key 3"), ..remembered };
    assert_eq!(file.clone().resume(Some(&damaged)), file);
}

#[tokio::test]
async fn documents_are_created_once_and_bounded() {
    let bench = Bench::new();
    let one = signed(&document(1, &[11], 1, &[1]), &[11]);
    assert!(publish(&bench.store, &one, None).await.unwrap());
    // The same again is recognised as one's own.
    assert!(publish(&bench.store, &one, None).await.unwrap());
    assert!(!publish(&bench.store, &signed(&document(1, &[12], 1, &[1]), &[12]), None).await.unwrap());
    let path: Path = format!("trust/{:020}", 2).into();
    bench.inner.put(&path, vec![b'x'; limits::TRUST_BYTES + 1].into()).await.unwrap();
    let anchor = Anchor::parse(&one.encode()).unwrap();
    assert_eq!(follow(&anchor, &bench.store).await, (Some(1), Some("trust_refused")));
}

#[test]
fn signatures_gather_on_machines_apart() {
    let file = serde_json::to_vec_pretty(&document(1, &[11, 12], 2, &[1])).unwrap();
    let once = sign(&file, &[&key(11)]).unwrap();
    // One signature of two: no file to start from, and none to publish.
    assert!(Anchor::parse(&once.encode()).is_err());
    let twice = sign(&once.encode(), &[&key(12)]).unwrap();
    assert_eq!(Anchor::parse(&twice.encode()).unwrap().number(), Some(1));
    assert_eq!(sign(&twice.encode(), &[&key(12)]).unwrap(), twice);
    assert!(sign(b"{}", &[&key(11)]).is_err());
    assert!(sign(key(11).public().to_pem().as_bytes(), &[&key(11)]).is_err());
}
