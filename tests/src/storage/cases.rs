//! What every backend has to do, whatever it is: the same cases for all of them.

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::future::{FutureExt as _, LocalBoxFuture, join_all};
use moorgate::history::Records;
use moorgate::publish::{Allow, Done, Meta, Offer, Publisher};
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::store::{Create, Fetched, Get, Promise, Verdict};
use moorgate_snapshot::{
    Channel, Digest, FleetName, FleetStore, KeyPair, Reader, Record, Resource, Signer as _, Snapshot, Store,
    StoreError, Trust,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;

/// Bounds what is read back.
const LIMIT: usize = 1 << 20;
/// More names than fit into one page of a list of any cloud's.
const NAMES: usize = 1_050;

type Case = fn(FleetStore) -> LocalBoxFuture<'static, Result<()>>;

/// The cases by name. Each gets a fleet of its own.
pub const CASES: [(&str, Case); 9] = [
    ("a name is created once", |store| created_once(store).boxed_local()),
    ("one of sixteen racing creates wins", |store| races(store).boxed_local()),
    ("what is written reads back, bounded", |store| reads_back(store).boxed_local()),
    ("a commit recognises what is its own", |store| commits(store).boxed_local()),
    ("an unchanged object is not sent again", |store| conditional(store).boxed_local()),
    ("a long list is whole", |store| lists(store).boxed_local()),
    ("a removed object is gone", |store| deletes(store).boxed_local()),
    ("a damaged object is mended", |store| mends(store).boxed_local()),
    ("releases are published, promoted, pinned and read", |store| releases(store).boxed_local()),
];

/// Runs all cases, and the probe, and says which failed. `name` makes the fleets of one run its own.
pub async fn run(store: &Store, name: &str) -> Result<()> {
    let mut failed = Vec::new();
    for (number, (title, case)) in CASES.iter().enumerate() {
        let fleet = FleetName::gateway(name, &format!("case-{number}"));
        if let Err(error) = case(store.fleet(&fleet)).await {
            failed.push(format!("{title}: {error:#}"));
        }
    }
    if let Err(error) = probes(store, name).await {
        failed.push(format!("the probe finds all promises kept: {error:#}"));
    }
    if let Err(error) = fleets(store, name).await {
        failed.push(format!("fleets and channels are listed: {error:#}"));
    }
    ensure!(failed.is_empty(), "{store}:\n{}", failed.join("\n"));
    Ok(())
}

/// The half of the cases that only read, for a store that others write: what `writer` writes for this fleet, `reader` reads.
pub async fn run_reads(writer: &Store, reader: &Store, fleet: &FleetName) -> Result<()> {
    let (writer, reader) = (writer.fleet(fleet), reader.fleet(fleet));
    read_back(&writer, &reader).await.context("what is written reads back, bounded")?;
    read_if_changed(&writer, &reader).await.context("an unchanged object is not sent again")?;
    Box::pin(release_and_read(&writer, &reader))
        .await
        .context("releases are published, promoted, pinned and read")
}

async fn created_once(store: FleetStore) -> Result<()> {
    ensure!(store.create("log/a/1", Bytes::from_static(b"one")).await? == Create::Created, "not created");
    for bytes in ["two", "one"] {
        let again = store.create("log/a/1", Bytes::from_static(bytes.as_bytes())).await?;
        ensure!(again == Create::Conflict, "created again with {bytes:?}");
    }
    let found = store.get("log/a/1", LIMIT).await?;
    ensure!(found.as_deref() == Some(b"one"), "{found:?}");
    Ok(())
}

async fn races(store: FleetStore) -> Result<()> {
    for race in 0..4 {
        let name = format!("log/race/{race}");
        let bytes = |racer: u8| Bytes::from(vec![racer; 2_000]);
        let creates = (0..16).map(|racer| store.create(&name, bytes(racer)));
        let results: Result<Vec<Create>, StoreError> = join_all(creates).await.into_iter().collect();
        let winners: Vec<u8> =
            (0..16).zip(results?).filter(|(_, create)| *create == Create::Created).map(|(n, _)| n).collect();
        let [winner] = winners[..] else { bail!("race {race}: {winners:?} won") };
        let found = store.get(&name, LIMIT).await?;
        ensure!(found == Some(bytes(winner)), "race {race}: {winner} won, and the object is another's");
    }
    Ok(())
}

async fn reads_back(store: FleetStore) -> Result<()> {
    read_back(&store, &store).await
}

async fn read_back(writer: &FleetStore, store: &FleetStore) -> Result<()> {
    ensure!(store.get("pages/none", LIMIT).await?.is_none(), "found what nobody wrote");
    for size in [0, 1, 300_000] {
        let bytes = Bytes::from(vec![7; size]);
        writer.overwrite("pages/x", bytes.clone()).await?;
        ensure!(store.get("pages/x", LIMIT).await? == Some(bytes), "{size} bytes read back otherwise");
    }
    let refused = store.get("pages/x", 299_999).await;
    ensure!(matches!(refused, Err(StoreError::TooLarge { limit: 299_999, .. })), "{refused:?}");
    Ok(())
}

async fn commits(store: FleetStore) -> Result<()> {
    let (own, other) = (Bytes::from_static(b"own"), Bytes::from_static(b"other"));
    ensure!(store.commit("log/a/1", &own, LIMIT).await?, "not committed");
    ensure!(store.commit("log/a/1", &own, LIMIT).await?, "not recognised as its own");
    ensure!(!store.commit("log/a/1", &other, LIMIT).await?, "committed over another's entry");
    ensure!(store.get("log/a/1", LIMIT).await? == Some(own), "another's entry is there");
    Ok(())
}

async fn conditional(store: FleetStore) -> Result<()> {
    read_if_changed(&store, &store).await
}

async fn read_if_changed(writer: &FleetStore, store: &FleetStore) -> Result<()> {
    ensure!(
        store.get_if_changed("head/stable", Some("\"0\""), LIMIT).await? == Get::Missing,
        "found nothing"
    );
    writer.overwrite("head/stable", Bytes::from_static(b"one")).await?;
    let Get::Found(first) = store.get_if_changed("head/stable", None, LIMIT).await? else { bail!("missing") };
    let tag = first.etag.context("an object without a tag")?;
    let again = store.get_if_changed("head/stable", Some(&tag), LIMIT).await?;
    ensure!(again == Get::NotModified, "sent again: {again:?}");
    writer.overwrite("head/stable", Bytes::from_static(b"two and more")).await?;
    match store.get_if_changed("head/stable", Some(&tag), LIMIT).await? {
        Get::Found(Fetched { bytes, etag: Some(_) }) if bytes == "two and more" => Ok(()),
        other => bail!("a changed object gave {other:?}"),
    }
}

async fn lists(store: FleetStore) -> Result<()> {
    ensure!(store.list("log/long", LIMIT).await?.is_empty(), "an empty list is not empty");
    let names: Vec<String> = (0..NAMES).map(|n| format!("{n:020}")).collect();
    for some in names.chunks(16) {
        let puts = some.iter().map(|name| {
            let store = store.clone();
            async move { store.overwrite(&format!("log/long/{name}"), Bytes::from_static(b"x")).await }
        });
        join_all(puts).await.into_iter().collect::<Result<Vec<()>, _>>()?;
    }
    // A neighbour whose name begins alike is another folder.
    store.overwrite("log/longer/1", Bytes::new()).await?;
    store.overwrite("log/long/below/1", Bytes::new()).await?;
    let mut listed = store.list("log/long", LIMIT).await?;
    ensure!(listed.pop().as_deref() == Some("below/1"), "a name in a folder below is missing");
    ensure!(listed == names, "{} of {NAMES} names listed", listed.len());
    Ok(())
}

async fn deletes(store: FleetStore) -> Result<()> {
    store.overwrite("pages/x", Bytes::from_static(b"x")).await?;
    store.delete("pages/x").await?;
    ensure!(store.get("pages/x", LIMIT).await?.is_none(), "still there");
    store.delete("pages/x").await.context("one that is gone already")?;
    ensure!(
        store.create("pages/x", Bytes::from_static(b"y")).await? == Create::Created,
        "the name is not free"
    );
    Ok(())
}

async fn mends(store: FleetStore) -> Result<()> {
    let good = Bytes::from_static(b"good");
    let holds = |found: &Bytes| *found == good;
    ensure!(store.ensure("pages/x", &good, 10, holds).await?, "not written");
    ensure!(!store.ensure("pages/x", &good, 10, holds).await?, "written again");
    for damage in [&b"bad!"[..], b"", b"far too long for this object"] {
        store.overwrite("pages/x", Bytes::from_static(damage)).await?;
        ensure!(store.ensure("pages/x", &good, 10, holds).await?, "{damage:?} was taken for whole");
        ensure!(store.get("pages/x", 10).await? == Some(good.clone()), "{damage:?} is still there");
    }
    Ok(())
}

async fn probes(store: &Store, nonce: &str) -> Result<()> {
    let probe = store.probe(None, nonce).await?;
    for (promise, verdict) in &probe.checks {
        ensure!(*verdict == Verdict::Kept, "{promise}: {verdict:?}");
    }
    ensure!(
        probe.checks.len() == 8 && probe.checks.iter().any(|(one, _)| *one == Promise::Delete),
        "{probe:?}"
    );
    let fleet = FleetName::gateway(nonce, "probed");
    ensure!(store.probe(Some(&fleet), nonce).await?.broken().count() == 0, "broken in a fleet");
    let left = store.fleet(&fleet).list("_probe", LIMIT).await?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

async fn fleets(store: &Store, name: &str) -> Result<()> {
    let found = store.fleets().await?;
    let released = FleetName::gateway(name, &format!("case-{}", CASES.len() - 1));
    ensure!(found.contains(&released), "{released} is not among {found:?}");
    let channels = store.fleet(&released).channels().await?;
    let names: Vec<&str> = channels.iter().map(Channel::as_str).collect();
    ensure!(names == ["next", "stable"], "{names:?}");
    Ok(())
}

async fn releases(store: FleetStore) -> Result<()> {
    Box::pin(release_and_read(&store, &store)).await
}

async fn release_and_read(writer: &FleetStore, store: &FleetStore) -> Result<()> {
    let (key, _) = KeyPair::generate(&[1; 32])?;
    let trust = Arc::new(Trust::of([key.public().clone()]));
    let reader_of = |part: &FleetStore, channel: &str| -> Result<Reader> {
        Ok(Reader::new(part.clone(), Arc::clone(&trust), channel.parse::<Channel>()?))
    };
    let reader = |channel: &str| reader_of(store, channel);
    let publisher = |channel: &str, nonce: &str| -> Result<Publisher<'_>> {
        Ok(Publisher {
            reader: reader_of(writer, channel)?,
            signer: &key,
            meta: meta(nonce),
            dry_run: false,
            step_over: false,
            mirrors: Vec::new(),
        })
    };
    let snapshots = [snapshot(1)?, snapshot(2)?];
    for (n, one) in snapshots.iter().enumerate() {
        let done = Box::pin(publisher("next", &format!("publish-{n}"))?.publish(&offer(one))).await?;
        ensure!(done.result == Done::Committed, "{:?}", done.result);
    }
    ensure!(served(&reader("next")?).await? == snapshots[1].id(), "next serves another snapshot");
    let promoted =
        Box::pin(publisher("stable", "promote")?.promote(&reader_of(writer, "next")?, Allow::default(), &[]))
            .await?;
    ensure!(promoted.entry.sequence == 1, "{:?}", promoted.entry.sequence);
    ensure!(served(&reader("stable")?).await? == snapshots[1].id(), "stable serves another snapshot");
    let id = snapshots[0].id().to_string();
    Box::pin(publisher("next", "pin")?.pin(&id, None)).await?;
    ensure!(served(&reader("next")?).await? == snapshots[0].id(), "the pin is not served");
    let tail = reader("next")?.newest(None).await?;
    let position = tail.entry.context("no entry")?.position();
    ensure!(position.sequence == 3 && tail.voids.is_empty() && tail.head == Some(3), "{position:?}");
    let polled = reader("next")?.poll(Some(position), None, true).await?;
    let idle = reader("next")?.poll(Some(position), polled.etag.as_deref(), false).await?;
    ensure!(idle.tail.is_none(), "an idle poll found something");
    Ok(())
}

/// What a relay that knows nothing would serve, fetched and verified.
async fn served(reader: &Reader) -> Result<Digest> {
    let entry = reader.newest(None).await?.entry.context("nothing published")?;
    let release = entry.entry.state.serving().context("nothing served")?.clone();
    Ok(reader.fetch(&release, &|_| None).await?.id())
}

fn meta(nonce: &str) -> Meta {
    Meta {
        author: "suite".to_owned(),
        run: String::new(),
        approver: String::new(),
        reason: "a reason".to_owned(),
        time: OffsetDateTime::UNIX_EPOCH,
        expires: None,
        nonce: nonce.to_owned(),
    }
}

/// Some pages that all snapshots share, and one resource that differs.
fn snapshot(n: u32) -> Result<Snapshot> {
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
    let mut records: Vec<Record> = (0..1_500).map(|i| cluster(format!("service-{i}"), noise(i))).collect();
    records.push(cluster("zz-changing".to_owned(), n.to_be_bytes().to_vec()));
    Ok(Snapshot::build(records)?)
}

fn offer(snapshot: &Snapshot) -> Offer<'_> {
    Offer {
        snapshot,
        routes: 100,
        source: None,
        documents: BTreeMap::from([("origins".to_owned(), serde_json::json!({"route": "a.yaml:3"}))]),
        records: Records::default(),
        provenance: Provenance::default(),
        writer: "suite".to_owned(),
        allow: Allow::default(),
        parent: None,
        steps: Vec::new(),
        descends: &|_, _| None,
    }
}
