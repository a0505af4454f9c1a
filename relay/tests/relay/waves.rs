//! Waves: which relay takes a candidate, and what makes it give it back.

use crate::client::Delta;
use crate::publisher::Publisher;
use crate::relay::{Place, eventually, serving, take, world};
use moorgate_relay::canary::AdminAddress;
use moorgate_relay::config::{Config, Listen};
use moorgate_relay::serve::listen::Peers;
use moorgate_relay::{FleetStatus, Relay};
use moorgate_snapshot::channel::Step;
use moorgate_snapshot::{Digest, RelayIdentity, wave};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn step(labels: &[&str], max_error_percent: Option<u8>) -> Step {
    let labels = labels.iter().map(|text| wave::label(text).unwrap()).collect();
    Step { labels, percent: 100, bake_seconds: 600, max_error_percent }
}

/// A relay of this name and zone, in its own folder beside others of the same store.
struct Member {
    name: &'static str,
    config: Config,
    relay: Relay,
    socket: PathBuf,
}

impl Member {
    async fn start(place: &Place, name: &'static str, zone: &str, admins: Vec<AdminAddress>) -> Self {
        let labels = BTreeMap::from([("zone".to_owned(), zone.to_owned())]);
        let socket = place.path(&format!("{name}.sock"));
        let config = Config {
            identity: RelayIdentity::new(name.parse().unwrap(), labels).unwrap(),
            envoy_admins: admins,
            listen: vec![Listen::Unix(socket.display().to_string(), Peers::default())],
            cache: Some(place.path(&format!("cache-{name}"))),
            health: None,
            admin: None,
            ..place.config()
        };
        Self { name, relay: Relay::start(config.clone()).await.unwrap(), config, socket }
    }

    async fn again(self) -> Self {
        self.relay.stop().await;
        Self { relay: Relay::start(self.config.clone()).await.unwrap(), ..self }
    }

    fn status(&self) -> Arc<FleetStatus> {
        self.relay.fleets()[0].status.borrow().clone()
    }

    async fn serves(&self, snapshot: Digest) {
        eventually(self.name, || serving(&self.relay) == Some(snapshot)).await;
    }

    async fn envoy(&self, node: &str) -> Delta {
        Place::envoy_at(&self.socket, node).await
    }
}

async fn published(place: &mut Place) -> Digest {
    place.publisher.publish(world("1")).await
}

fn publisher(place: &mut Place) -> &mut Publisher {
    &mut place.publisher
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zone_takes_a_candidate_and_gives_it_back_when_an_envoy_refuses_it() {
    let mut place = Place::new();
    let stable = published(&mut place).await;
    let east = Member::start(&place, "east-1", "east", Vec::new()).await;
    let west = Member::start(&place, "west-1", "west", Vec::new()).await;
    let mut envoy = east.envoy("envoy-east").await;
    take(&mut envoy).await;
    eventually("it is known to be good", || east.status().good == [stable]).await;
    west.serves(stable).await;
    let steps = || vec![step(&["zone=east"], None), step(&[], None)];
    let bad = publisher(&mut place).candidate(world("bad"), steps()).await;
    east.serves(bad).await;
    assert_eq!(serde_json::json!(*east.status())["because"], "wave");
    let refused = envoy.response().await;
    envoy.nack(&refused, "cluster cart: no");
    east.serves(stable).await;
    assert_eq!(east.status().quarantined[&bad], "CDS: cluster cart: no");
    // After a restart too, and for an Envoy that is new; the next step changes nothing here.
    let east = east.again().await;
    publisher(&mut place).step().await;
    eventually("the step is known", || east.status().sequence == 3).await;
    east.serves(stable).await;
    let mut envoy = east.envoy("envoy-new").await;
    assert_eq!(take(&mut envoy).await[0].system_version_info, stable.short());
    west.serves(bad).await;
    // Another hash is tried.
    let good = publisher(&mut place).candidate(world("2"), steps()).await;
    east.serves(good).await;
    west.serves(stable).await;
    assert!(east.status().quarantined.is_empty(), "cleared by a new hash");
    publisher(&mut place).finish().await;
    west.serves(good).await;
    eventually("the target", || serde_json::json!(*east.status())["because"] == "target").await;
    east.relay.stop().await;
    west.relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_relay_in_a_wave_has_a_way_back() {
    let mut place = Place::new();
    let stable = published(&mut place).await;
    let bad = publisher(&mut place).candidate(world("bad"), vec![step(&[], None)]).await;
    let relay = Member::start(&place, "new", "east", Vec::new()).await;
    relay.serves(bad).await;
    let mut envoy = relay.envoy("e").await;
    envoy.ask(moorgate_relay::serve::types::CLUSTER, &["*"]);
    let mut response = envoy.response().await;
    if response.system_version_info == bad.short() {
        envoy.nack(&response, "no");
        response = envoy.response().await;
    }
    assert_eq!(response.system_version_info, stable.short());
    relay.serves(stable).await;
    relay.relay.stop().await;
}

/// An Envoy's admin address that shows these counters.
async fn statistics() -> (AdminAddress, Arc<AtomicU64>, Arc<AtomicU64>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (completed, errors) = (Arc::new(AtomicU64::new(5000)), Arc::new(AtomicU64::new(4000)));
    let shown = (Arc::clone(&completed), Arc::clone(&errors));
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let body = format!(
                "http.edge.downstream_rq_5xx: {}\nhttp.edge.downstream_rq_completed: {}\n",
                shown.1.load(Ordering::SeqCst),
                shown.0.load(Ordering::SeqCst)
            );
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
    });
    (address, completed, errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_candidate_that_makes_answers_fail_is_given_back() {
    let mut place = Place::new();
    let stable = published(&mut place).await;
    let (address, completed, errors) = statistics().await;
    let canary = Member::start(&place, "canary", "east", vec![address]).await;
    let blind = Member::start(&place, "blind", "east", Vec::new()).await;
    canary.serves(stable).await;
    let candidate = publisher(&mut place).candidate(world("2"), vec![step(&[], Some(5)); 2]).await;
    canary.serves(candidate).await;
    blind.serves(candidate).await;
    // Traffic that fails no more often than it may. What was before does not count.
    let answered = |all, failed| {
        completed.fetch_add(all, Ordering::SeqCst);
        errors.fetch_add(failed, Ordering::SeqCst);
    };
    eventually("healthy", || {
        answered(20, 1);
        canary.status().healthy == Some(true)
    })
    .await;
    // A step counts for itself, and a restart does not make it forget.
    publisher(&mut place).step().await;
    eventually("a new step", || canary.status().sequence == 3 && canary.status().healthy.is_none()).await;
    eventually("given back", || {
        answered(20, 2);
        canary.status().quarantined.contains_key(&candidate)
    })
    .await;
    canary.serves(stable).await;
    assert_eq!(canary.status().healthy, Some(false));
    assert!(canary.status().quarantined[&candidate].contains("more than 5 %"));
    let canary = canary.again().await;
    canary.serves(stable).await;
    assert_eq!(canary.status().healthy, Some(false));
    // Whoever sees nothing says so, and keeps what its Envoys take.
    assert_eq!((serving(&blind.relay), blind.status().healthy), (Some(candidate), None));
    canary.relay.stop().await;
    blind.relay.stop().await;
}
