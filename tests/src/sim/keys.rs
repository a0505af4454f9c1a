//! Who may do what, by the chain of trust in the store, and how that changes in a run: the key that publishes is replaced
//! by another with overlap, and then revoked to its last honest sequence.

use super::chance::Chance;
use super::publishers::other;
use super::weather::Sky;
use super::world::{Place, World};
use crate::fault_store::{Bucket, FaultStore};
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::trust::chain::{self, Anchor, Link};
use moorgate_snapshot::{Channel, KeyPair, Signer as _, Trust, layout};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The keys of a run, and how far the chain has come.
pub struct Keys {
    /// Who publishes at first.
    pub first: KeyPair,
    /// Who publishes later.
    pub second: KeyPair,
    /// Who may only pin.
    pub on_call: KeyPair,
    /// Who may only renew heads.
    pub renewer: KeyPair,
    /// Who may only report.
    pub reporter: Arc<KeyPair>,
    /// Whom nobody trusts.
    pub stranger: Arc<KeyPair>,
    root: KeyPair,
    /// What every relay starts with.
    start: Arc<Link>,
    newest: Mutex<Arc<Link>>,
    /// Acts with the first key that are being carried out.
    old_acts: AtomicU64,
}

impl Keys {
    /// The keys of a run, with the first document of the chain in the store.
    pub(super) fn new(bucket: &Bucket) -> Self {
        let [first, second, on_call, renewer, reporter, stranger, root] = [1, 4, 2, 5, 6, 3, 7].map(key);
        let document = document(
            1,
            &root,
            &[
                (&first, "publish", None),
                (&on_call, "pin", None),
                (&renewer, "renew", None),
                (&reporter, "report", None),
            ],
        );
        #[allow(clippy::expect_used, reason = "the document is written here")]
        let (envelope, start) = {
            let envelope = chain::sign(&document, &[&root]).expect("a document that makes sense");
            let start = Link::first(&envelope.encode()).expect("a document that its key signed");
            (envelope, Arc::new(start))
        };
        let path = format!("{}/{}", layout::TRUST, layout::trust_document(1));
        let _ = bucket.put(&path, &envelope.encode().into(), true);
        let (reporter, stranger) = (Arc::new(reporter), Arc::new(stranger));
        let (newest, old_acts) = (Mutex::new(Arc::clone(&start)), AtomicU64::new(0));
        Self { first, second, on_call, renewer, reporter, stranger, root, start, newest, old_acts }
    }

    /// What every relay starts with, however late it starts.
    pub fn anchor(&self) -> Anchor {
        Anchor::Chain(Arc::clone(&self.start))
    }

    fn link(&self) -> Arc<Link> {
        Arc::clone(&self.newest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the newest document says.
    pub fn trust(&self) -> Arc<Trust> {
        Arc::clone(self.link().trust())
    }

    /// Who publishes now.
    pub fn publisher(&self) -> &KeyPair {
        if self.link().number() == 1 { &self.first } else { &self.second }
    }

    /// An act with this key begins, and ends when what is returned is dropped.
    pub(super) fn act(&self, key: &KeyPair) -> Act<'_> {
        let old = key.public().id() == self.first.public().id();
        if old {
            self.old_acts.fetch_add(1, Ordering::SeqCst);
        }
        Act(old.then_some(&self.old_acts))
    }
}

/// An act that is being carried out.
pub(super) struct Act<'a>(Option<&'a AtomicU64>);

impl Drop for Act<'_> {
    fn drop(&mut self) {
        if let Some(acts) = self.0 {
            acts.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn key(seed: u8) -> KeyPair {
    #[allow(clippy::expect_used, reason = "the seed is given")]
    KeyPair::generate(&[seed; 32]).expect("a key").0
}

/// The last honest sequences of a key that is revoked, by channel.
type Honest = BTreeMap<String, u64>;

/// A document of the chain: keys with their role and, if they are revoked, their last honest sequences.
fn document(number: u64, root: &KeyPair, keys: &[(&KeyPair, &str, Option<Honest>)]) -> Vec<u8> {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(key, role, revoked)| {
            let mut entry = json!({"public": key.public().to_pem(), "roles": [role]});
            if let Some(revoked) = revoked {
                entry["revoked"] = json!(revoked);
            }
            entry
        })
        .collect();
    let root = json!({"threshold": 1, "keys": [root.public().to_pem()]});
    json!({"format": 2, "number": number, "root": root, "keys": keys}).to_string().into_bytes()
}

/// The one who holds the root key: brings the second key, and takes the first one away, each at a time of their own.
pub(super) async fn custodian(world: Arc<World>, mut chance: Chance, stop: CancellationToken) {
    for number in [2, 3] {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(chance.millis(10_000..120_000)) => {}
        }
        // Whoever has begun with the first key comes to an end before it is revoked.
        while number == 3 && world.keys.old_acts.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let Some((envelope, next)) = next(&world, number) else { return };
        let client = world.client("custodian", Place::First, Sky::roll(&mut chance), chance.fork());
        while !place(&world, &client, &envelope).await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let keys = &world.keys;
        *keys.newest.lock().unwrap_or_else(PoisonError::into_inner) = next;
        world.judge(|monitor| monitor.trusts(world.trust()));
        world.say("custodian", format!("trust document {number}"));
        world.count(if number == 2 { "key added" } else { "key revoked" });
    }
}

/// The next document, signed.
fn next(world: &World, number: u64) -> Option<(Envelope, Arc<Link>)> {
    let keys = &world.keys;
    let revoked = (number == 3).then(|| {
        let newest = |channel: Channel| {
            let sequence = world.judge(|monitor| monitor.newest(&channel).map(|entry| entry.entry.sequence));
            sequence.map(|sequence| (format!("{}@{channel}", World::fleet()), sequence))
        };
        [Channel::stable(), other()].into_iter().filter_map(newest).collect()
    });
    let document = document(
        number,
        &keys.root,
        &[
            (&keys.first, "publish", revoked),
            (&keys.second, "publish", None),
            (&keys.on_call, "pin", None),
            (&keys.renewer, "renew", None),
            (&keys.reporter, "report", None),
        ],
    );
    let envelope = chain::sign(&document, &[&keys.root]).ok()?;
    let next = keys.link().next(&envelope.encode()).ok()?;
    Some((envelope, Arc::new(next)))
}

/// Places a document in the store; false if it has to be tried again.
async fn place(world: &World, client: &Arc<FaultStore>, envelope: &Envelope) -> bool {
    let (store, known) = (client.store(), world.keys.link());
    tokio::select! {
        biased;
        () = client.crashed() => false,
        placed = chain::publish(&store, envelope, Some(&known)) => matches!(placed, Ok(true)),
    }
}
