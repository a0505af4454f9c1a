//! gc and late values: one that is in use stays, whatever happens in between; an old one goes.

use super::*;
use bytes::Bytes;
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::late::{Index, LateError, LateStore};

/// Puts an endpoint set over this way to the store, as the command does; it may end before it has looked again.
async fn put(fleet: &Fleet, store: Aged, name: &str, text: &str, settle: bool) -> Result<Index, LateError> {
    let (part, channel) = (Bench::store(Arc::new(store)), Channel::stable());
    let late = LateStore { store: &part, trust: &fleet.trust, channel: &channel };
    let bytes = Bytes::from(text.to_owned());
    let value = late.put(&bytes).await?;
    let change = |index: &mut Index| {
        index.endpoints.insert(name.to_owned(), value);
    };
    let index = late.change(&key(1), (OffsetDateTime::UNIX_EPOCH, "ci"), change).await?;
    if settle {
        late.settle([&bytes].into_iter()).await?;
    }
    Ok(index)
}

impl Fleet {
    async fn put(&self, name: &str, text: &str) {
        put(self, Aged::new(&self.world), name, text, true).await.unwrap();
    }

    /// Everything that the newest index names is there.
    async fn late_is_whole(&self) -> Result<Index, LateError> {
        let (part, channel) = (self.part(), Channel::stable());
        let late = LateStore { store: &part, trust: &self.trust, channel: &channel };
        let index = late.newest().await?;
        for value in index.values() {
            late.value(value).await?;
        }
        Ok(index)
    }

    async fn values(&self) -> usize {
        self.names().await.iter().filter(|name| name.starts_with("values/")).count()
    }

    /// Values 0 to 5 of one Service, one after the other, and one of another Service that stays; gc has condemned what is
    /// old, and may delete it now.
    async fn aged() -> Self {
        let fleet = Self::new();
        fleet.publish(1).await;
        fleet.put("shop/pay", "pay").await;
        for n in 0..6 {
            fleet.put("shop/cart", &n.to_string()).await;
            fleet.world.pass(HOUR);
        }
        fleet.world.pass(4 * DAY);
        let first = fleet.gc().await;
        // The two newest indexes, and the one before them: 5, 4, 3, and what they all name.
        assert_eq!((first.condemned.objects, first.deleted.objects), (3, 0));
        fleet.world.pass(25 * HOUR);
        fleet
    }
}

#[tokio::test]
async fn late_values_in_use_stay_and_old_ones_go() {
    let fleet = Fleet::aged().await;
    assert_eq!(fleet.values().await, 7);
    assert_eq!(fleet.gc().await.deleted.objects, 3);
    assert_eq!(fleet.values().await, 4);
    assert_eq!(fleet.late_is_whole().await.unwrap().generation, 7);
    // Old endpoints again, by a new write; then nothing more is removed, since all is named.
    fleet.put("shop/cart", "0").await;
    fleet.late_is_whole().await.unwrap();
    // A young value that no index names yet is a writer at work.
    let store = fleet.part();
    let (channel, trust) = (Channel::stable(), &fleet.trust);
    LateStore { store: &store, trust, channel: &channel }.put(&"work".into()).await.unwrap();
    assert_eq!(fleet.gc().await.young.objects, 1);
    // A head that went back, or is gone, changes nothing: the log is read too.
    store.delete(&layout::late_head(&channel)).await.unwrap();
    fleet.world.pass(2 * DAY);
    fleet.gc().await;
    fleet.world.pass(2 * DAY);
    fleet.gc().await;
    fleet.late_is_whole().await.unwrap();
}

/// At whatever request of gc somebody names an old value again.
#[tokio::test]
async fn a_late_value_that_is_named_while_gc_deletes_it_stays() {
    for settle in [true, false] {
        for step in 0..60 {
            let fleet = Fleet::aged().await;
            let other = fleet.clone();
            let hook = alone(move || async move {
                put(&other, Aged::new(&other.world), "shop/cart", "0", settle).await.unwrap();
            });
            fleet.gc_over(Aged::new(&fleet.world).interrupted(step, hook)).await.unwrap();
            if !settle {
                // The writer died before it looked again: the next run does.
                fleet.gc().await;
            }
            let index =
                fleet.late_is_whole().await.unwrap_or_else(|error| panic!("{settle} {step}: {error}"));
            assert!(index.generation >= 7, "{step}");
        }
    }
}

/// At whatever request of the writer gc runs.
#[tokio::test]
async fn gc_in_the_middle_of_a_write_takes_nothing_that_is_named_then() {
    for step in 0..24 {
        let fleet = Fleet::aged().await;
        let other = fleet.clone();
        let hook = alone(move || async move {
            other.gc().await;
        });
        let store = Aged::new(&fleet.world).interrupted(step, hook);
        put(&fleet, store, "shop/cart", "0", true).await.unwrap();
        fleet.late_is_whole().await.unwrap_or_else(|error| panic!("{step}: {error}"));
    }
}

#[tokio::test]
async fn what_may_name_late_values_and_cannot_be_read_ends_the_run() {
    let fleet = Fleet::aged().await;
    for folder in ["values", "late/stable/log"] {
        let error = fleet.gc_over(Aged::new(&fleet.world).breaking(folder)).await.expect_err(folder);
        assert!(matches!(error, GcError::Store(_)), "{folder}: {error}");
        fleet.world.pass(2 * HOUR);
    }
    let store = fleet.part();
    let sign = |kind: &str, payload: &str| {
        Bytes::from(Envelope::sign(kind, payload.into(), &[&key(1)]).unwrap().encode())
    };
    let slot = layout::late_entry(&Channel::stable(), 8);
    // One of a later version.
    let later = sign("application/vnd.moorgate.late.v2+json", r#"{"format":2,"all":[]}"#);
    store.overwrite(&slot, later).await.unwrap();
    assert!(matches!(fleet.gc_over(Aged::new(&fleet.world)).await, Err(GcError::Unclear { .. })));
    assert_eq!(fleet.values().await, 7);
    fleet.world.pass(2 * HOUR);
    // What is no index at all, nobody reads; whoever can write there does not stop gc by it.
    for text in [Bytes::from("?"), sign("application/other", "{}")] {
        store.overwrite(&slot, text).await.unwrap();
        fleet.gc().await;
        fleet.world.pass(2 * HOUR);
    }
    assert_eq!(fleet.values().await, 4);
    fleet.late_is_whole().await.unwrap();
}
