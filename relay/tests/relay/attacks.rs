//! Attacks on the store as a relay sees them: each refused under its own word, and what is served stays.

use crate::publisher::Publisher;
use crate::relay::{Place, eventually, serving, world};
use moorgate_relay::Relay;
use moorgate_snapshot::envelope::Envelope;
use moorgate_snapshot::head::Head;
use moorgate_snapshot::renewal::Renewal;
use moorgate_snapshot::{
    Channel, Digest, Entry, FleetName, KeyPair, Reader, Snapshot, Trust, VerifiedEntry, layout,
};
use std::sync::Arc;
use time::{Duration, OffsetDateTime};

const FLEET: &str = "shop/edge";

pub(crate) fn key(seed: u8) -> KeyPair {
    KeyPair::generate(&[seed; 32]).unwrap().0
}

/// Two honest releases and a relay that serves the second.
pub(crate) struct Scene {
    pub(crate) place: Place,
    pub(crate) relay: Relay,
    pub(crate) served: Digest,
    newest: VerifiedEntry,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let mut place = Place::new();
        std::fs::write(place.path("trust.pem"), trust(&place.publisher)).unwrap();
        place.publisher.publish(world("1")).await;
        let served = place.publisher.publish(world("2")).await;
        let relay = place.relay().await;
        eventually("served", || serving(&relay) == Some(served)).await;
        let trust = Trust::parse(trust(&place.publisher).as_bytes()).unwrap();
        let reader = Reader::new(place.publisher.part(), Arc::new(trust), Channel::stable());
        let newest = reader.newest(None).await.unwrap().entry.unwrap();
        Self { place, relay, served, newest }
    }

    /// An entry that could be the next one.
    pub(crate) fn next(&self) -> Entry {
        let mut entry = self.newest.entry.clone();
        entry.sequence = 3;
        entry.previous = Some(self.newest.position());
        entry.nonce = "forged".into();
        if let Some(target) = &mut entry.state.target {
            target.snapshot = Digest::of(b"the attacker's");
            target.sequence = 3;
        }
        entry
    }

    pub(crate) async fn put(&self, name: &str, bytes: Vec<u8>) {
        self.place.publisher.part().overwrite(name, bytes.into()).await.unwrap();
    }

    /// Lays an entry into its slot and into the head.
    pub(crate) async fn forge(&self, envelope: Envelope, sequence: u64) {
        self.put(&layout::entry(&Channel::stable(), sequence), envelope.encode()).await;
        self.put("head/stable", Head::of(envelope).encode()).await;
    }

    /// How often something was refused for this reason.
    pub(crate) fn count(&self, reason: &str) -> f64 {
        let labels = [("fleet", FLEET), ("reason", reason)];
        self.relay.metrics().get("moorgate_relay_refusals", &labels).unwrap_or_default()
    }

    fn refused(&self, reason: &str) -> bool {
        self.count(reason) >= 1.0
    }

    /// Waits for the word, and sees that nothing else changed.
    pub(crate) async fn expect(&self, attack: &str, reason: &str) {
        eventually(attack, || self.refused(reason)).await;
        assert_eq!(serving(&self.relay), Some(self.served), "{attack}: what is served stays");
    }
}

/// Key 7 publishes, 8 pins, 9 published up to entry 2 and is revoked.
fn trust(publisher: &Publisher) -> String {
    let json = |pem: String| serde_json::to_string(&pem).unwrap();
    let [eight, nine] = [8, 9].map(|seed| json(moorgate_snapshot::Signer::public(&key(seed)).to_pem()));
    format!(
        r#"{{"format":1,"keys":[{{"public":{},"roles":["publish"]}},{{"public":{eight},"roles":["pin","renew"]}},
        {{"public":{nine},"roles":["publish"],"revoked":{{"shop/edge@stable":2}}}}]}}"#,
        json(publisher.trust())
    )
}

/// Faults 13, 23 and 24.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_entries_are_counted_by_reason_and_the_next_honest_one_is_taken() {
    let scene = Scene::new().await;
    let next = scene.next();
    let attempts = [
        ("arbitrary key", next.clone(), 33, "unknown_key"),
        ("wrong role", next.clone(), 8, "role"),
        ("revoked key", next.clone(), 9, "revoked_key"),
        ("cross-fleet replay", Entry { fleet: FleetName::gateway("shop", "b"), ..next.clone() }, 7, "replay"),
        ("unknown future format", Entry { format: 9, ..next.clone() }, 7, "upgrade_required"),
    ];
    for (attack, entry, seed, reason) in attempts {
        scene.forge(entry.sign(&[&key(seed)]).unwrap(), 3).await;
        scene.expect(attack, reason).await;
    }
    // A proxy that ends TLS and rewrites what it likes.
    let mut rewritten = next.sign(&[&key(7)]).unwrap();
    let payload = String::from_utf8(rewritten.payload).unwrap().replace("forged", "edited");
    rewritten.payload = payload.into_bytes();
    scene.forge(rewritten, 3).await;
    scene.expect("rewriting proxy", "bad_signature").await;
    // Endless data, and an entry that uses up all sequences.
    scene.put("head/stable", vec![b'{'; 1 << 20]).await;
    scene.expect("endless data", "too_large").await;
    let far = Entry { sequence: u64::MAX, ..next.clone() }.sign(&[&key(7)]).unwrap();
    scene.put("head/stable", Head::of(far).encode()).await;
    scene.expect("fast-forward", "fast_forward").await;
    // All of it left one void slot; the log goes on behind it.
    let Scene { mut place, relay, .. } = scene;
    place.publisher.step_over(1);
    let honest = place.publisher.publish(world("3")).await;
    eventually("the honest one", || serving(&relay) == Some(honest)).await;
    relay.stop().await;
}

/// Faults 14 and 15.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_goes_back_or_forks_is_counted_and_served_over() {
    let scene = Scene::new().await;
    let stable = Channel::stable();
    let other = Entry { sequence: 2, previous: None, ..scene.next() };
    scene.forge(other.sign(&[&key(7)]).unwrap(), 2).await;
    scene.expect("equivocation", "equivocation").await;
    std::fs::remove_file(scene.place.stored(&layout::entry(&stable, 2))).unwrap();
    std::fs::remove_file(scene.place.stored("head/stable")).unwrap();
    // The log is asked once a minute, and at once after a reload.
    scene.relay.reload().await;
    scene.expect("rollback", "rollback").await;
    scene.relay.stop().await;
}

/// Faults 11 and 13.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_of_something_else_is_counted_and_not_served() {
    let mut scene = Scene::new().await;
    let (named, other) = (Snapshot::build(world("3")).unwrap(), Snapshot::build(world("x")).unwrap());
    let part = scene.place.publisher.part();
    moorgate_snapshot::writer::write_snapshot(&part, &other, &|_| false).await.unwrap();
    let bytes = part.get(&layout::manifest(&other.id()), 1 << 20).await.unwrap().unwrap();
    part.overwrite(&layout::manifest(&named.id()), bytes).await.unwrap();
    scene.place.publisher.announce(named.id()).await;
    scene.expect("mix and match", "damaged").await;
    // Once the right bytes are there, they are served.
    moorgate_snapshot::writer::mend(&part, &named).await.unwrap();
    scene.relay.reload().await;
    eventually("mended", || serving(&scene.relay) == Some(named.id())).await;
    scene.relay.stop().await;
}

/// Fault 16.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_store_raises_an_alarm_until_a_renewal_comes() {
    let scene = Scene::new().await;
    let Scene { mut place, relay, .. } = scene;
    place.publisher.expires = Some(OffsetDateTime::now_utc() - Duration::hours(1));
    let served = place.publisher.publish(world("3")).await;
    let expired = || relay.metrics().get("moorgate_relay_head_expired", &[("fleet", FLEET)]);
    eventually("the alarm", || expired() == Some(1.0) && serving(&relay) == Some(served)).await;
    let trust = Trust::parse(trust(&place.publisher).as_bytes()).unwrap();
    let reader = Reader::new(place.publisher.part(), Arc::new(trust), Channel::stable());
    let newest = reader.newest(None).await.unwrap().entry.unwrap();
    let now = OffsetDateTime::now_utc();
    let renew = async |seed: u8| {
        let envelope = Renewal::of(&newest, now, now + Duration::hours(1)).sign(&key(seed)).unwrap();
        moorgate_snapshot::writer::write_renewed_head(reader.store(), &newest, envelope).await.unwrap();
    };
    // A publisher's key renews nothing.
    renew(7).await;
    let labels = [("fleet", FLEET), ("reason", "role")];
    eventually("refused", || relay.metrics().get("moorgate_relay_refusals", &labels).is_some()).await;
    assert_eq!((expired(), serving(&relay)), (Some(1.0), Some(served)));
    renew(8).await;
    eventually("renewed", || expired() == Some(0.0)).await;
    assert_eq!(serving(&relay), Some(served));
    relay.stop().await;
}
