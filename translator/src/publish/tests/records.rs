//! Records beside snapshots: rows of changes, and what they cost.

use super::*;
use crate::history::{self, Book, CHAIN, CHANGE, Item, RECORDS, Wanted, What, key, timeline};
use moorgate_model::ObjectRef;

fn route(n: u32) -> String {
    key(&ObjectRef::new("gateway.networking.k8s.io", "HTTPRoute", "shop", &format!("route-{n}")))
}

fn wanted(n: u32) -> Wanted {
    format!("httproute/shop/route-{n}").parse().unwrap()
}

/// Twenty routes in one file, of which one says `n`; each release inserts a line before it.
fn records(n: u32) -> Records {
    let item = |i: u32| Item {
        file: "routes.yaml".into(),
        line: 1 + 10 * i + if i > 7 { n } else { 0 },
        rendered_from: None,
        content: history::mark(if i == 7 { n.to_be_bytes() } else { [0; 4] }.as_slice()),
        effective: String::new(),
        parts: Vec::new(),
        status: None,
    };
    Records { objects: (0..20).map(|i| (route(i), item(i))).collect(), ..Records::default() }
}

async fn publish(bench: &Bench, n: u32) -> Outcome {
    let snapshot = snapshot(n);
    let offer = Offer { records: records(n), ..offer(&snapshot) };
    Box::pin(bench.publisher("ci").publish(&offer)).await.unwrap()
}

#[tokio::test]
async fn every_release_gives_back_its_objects_through_the_row_of_changes() {
    let bench = Bench::new();
    let mut book = Book::new(bench.reader("stable"));
    let mut bases = BTreeSet::new();
    for n in 1..=CHAIN + 5 {
        let outcome = publish(&bench, n).await;
        let release = outcome.entry.state.target.unwrap();
        assert_eq!(book.records(&release).await.unwrap(), Some(records(n)), "{n}");
        for i in [0, 7, 8] {
            let found = book.item(&release, &wanted(i)).await.unwrap();
            assert_eq!(found, Some(records(n).objects.get(&route(i)).cloned()), "{n} {i}");
        }
        let none = "Service/shop/none".parse().unwrap();
        assert_eq!(book.item(&release, &none).await.unwrap(), Some(None));
        let attestation = book.attestation(&release).await.unwrap().unwrap();
        bases.insert(attestation.documents[RECORDS].digest);
        if n > 1 {
            let change = book.change(&release).await.unwrap().unwrap();
            let what: Vec<_> =
                change.objects.iter().map(|(key, changed)| (key.clone(), changed.what)).collect();
            assert_eq!(what, [(route(7), What::Changed)], "{n}");
            assert_eq!(change.previous.as_ref().map(|one| one.snapshot), Some(snapshot(n - 1).id()));
        }
    }
    assert_eq!(bases.len(), 2, "all objects are written at the start and after {CHAIN} changes");
}

/// A page, the manifest, the change and the signed statement; entry and head come after.
#[tokio::test]
async fn a_small_change_writes_four_objects_before_its_entry() {
    let bench = Bench::new();
    publish(&bench, 1).await;
    let before = bench.count().await;
    let outcome = publish(&bench, 2).await;
    assert_eq!(outcome.written.objects, 4);
    assert_eq!(bench.count().await, before + 5, "the entry; the head is one object all the time");
}

/// Also where a document is too large for the statement: what did not change is not even offered to the store.
#[tokio::test]
async fn a_large_document_that_did_not_change_is_not_sent_again() {
    let bench = Bench::new();
    let documents = || BTreeMap::from([("counts".to_owned(), serde_json::json!("x".repeat(5_000)))]);
    let [one, two] = [1, 2].map(snapshot);
    let first = Offer { documents: documents(), records: records(1), ..offer(&one) };
    Box::pin(bench.publisher("ci").publish(&first)).await.unwrap();
    let store = Arc::new(FaultStore::new(bench.inner.clone()).dying_after(100));
    let second = Offer { documents: documents(), records: records(2), ..offer(&two) };
    let outcome = Box::pin(bench.publisher_over(store.clone(), "ci").publish(&second)).await.unwrap();
    assert_eq!(100 - store.puts_left(), 6, "page, manifest, change, statement, entry, head");
    let release = outcome.entry.state.target.unwrap();
    let attestation = Book::new(bench.reader("stable")).attestation(&release).await.unwrap().unwrap();
    assert!(attestation.documents.contains_key("counts"));
}

#[tokio::test]
async fn lost_records_cost_a_row_and_no_release() {
    let bench = Bench::new();
    let first = publish(&bench, 1).await.entry.state.target.unwrap();
    let mut book = Book::new(bench.reader("stable"));
    let change = book.attestation(&first).await.unwrap().unwrap().documents[CHANGE];
    let path = format!("{}/{}", shop().prefix(), layout::document(&change.digest));
    bench.inner.delete(&path.into()).await.unwrap();
    let second = publish(&bench, 2).await.entry.state.target.unwrap();
    let change = book.change(&second).await.unwrap().unwrap();
    assert_eq!((change.depth, &change.previous), (0, &None));
    assert_eq!(book.records(&second).await.unwrap(), Some(records(2)));
}

/// Who changed this route: over publishes, a rollback and an unpin, after gc took what they served.
#[tokio::test]
async fn the_timeline_of_an_object_follows_what_is_served() {
    let bench = Bench::new();
    for n in 1..=3 {
        publish(&bench, n).await;
    }
    let back = bench.publisher("on-call");
    Box::pin(back.rollback(Some(1), None)).await.unwrap();
    let id = snapshot(3).id().to_string();
    Box::pin(bench.publisher("on-call").unpin(&id, &[])).await.unwrap();
    // A release that leaves the route as it is.
    let (next, records) = (snapshot(4), records(3));
    Box::pin(bench.publisher("ci").publish(&Offer { records, ..offer(&next) })).await.unwrap();
    // Records outlive what they speak of.
    let objects: Vec<_> = futures::TryStreamExt::try_collect(bench.inner.list(None)).await.unwrap();
    for meta in objects as Vec<object_store::ObjectMeta> {
        if ["/pages/", "/manifests/"].iter().any(|folder| meta.location.as_ref().contains(folder)) {
            bench.inner.delete(&meta.location).await.unwrap();
        }
    }
    let reader = bench.reader("stable");
    let seen = async |first: u64, n: u32| {
        let slots = reader.history(6, usize::try_from(7 - first).unwrap()).await.unwrap();
        let (events, gaps) = timeline(&mut Book::new(reader.clone()), &wanted(n), slots).await.unwrap();
        assert_eq!(gaps, Vec::<String>::new());
        let row = |event: &history::Event| {
            let place = event.after.as_ref().map(|item| item.place(None)).unwrap_or_default();
            (event.entry.entry.sequence, event.entry.entry.author.clone(), event.what, place)
        };
        events.iter().map(row).collect::<Vec<_>>()
    };
    let row = |sequence, author: &str, what| (sequence, author.to_owned(), what, "routes.yaml:71".to_owned());
    assert_eq!(
        seen(1, 7).await,
        [
            row(5, "on-call", What::Changed),
            row(4, "on-call", What::Changed),
            row(3, "ci", What::Changed),
            row(2, "ci", What::Changed),
            row(1, "ci", What::Added),
        ]
    );
    // Its neighbours only moved with their file.
    assert_eq!(seen(1, 8).await.len(), 1);
    // A later start: the oldest entry says what was before.
    assert_eq!(seen(3, 7).await.len(), 2);
    assert_eq!(seen(1, 77).await, []);
}
