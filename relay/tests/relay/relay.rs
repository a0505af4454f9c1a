//! Whole relays: from a store to a client, in calm and in failure.

use crate::client::{ADS_DELTA, Delta, channel};
use crate::publisher::{Publisher, endpoints, endpoints_of, resource, secret};
use moorgate_relay::config::{Config, Listen};
use moorgate_relay::serve::listen::Peers;
use moorgate_relay::serve::proto::{ClusterLoadAssignment, DeltaDiscoveryResponse};
use moorgate_relay::serve::stream::Settings;
use moorgate_relay::serve::types::{CLUSTER, ENDPOINT, LISTENER, SECRET};
use moorgate_relay::{Relay, RunError};
use moorgate_snapshot::{Channel, Digest, Record, RelayIdentity, Store, layout};
use prost::Message;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder with all that a relay needs.
pub(crate) struct Place {
    folder: TempDir,
    pub(crate) publisher: Publisher,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("file://{}", folder.path().join("store").display())).unwrap();
        Self::with(folder, store)
    }

    fn with(folder: TempDir, store: Store) -> Self {
        let publisher = Publisher::new(store);
        for name in ["endpoints", "secrets/shop/tls"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("trust.pem"), publisher.trust()).unwrap();
        let place = Self { folder, publisher };
        place.serve_endpoints(&["10.0.0.1:8080"]);
        place.renew_certificate();
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            stores: vec![self.publisher.store.clone()],
            seed: None,
            fleets: vec![self.publisher.fleet.clone()],
            on_demand: None,
            channel: Channel::stable(),
            identity: RelayIdentity::new("relay-1".parse().unwrap(), BTreeMap::new()).unwrap(),
            unfit_name: None,
            report_key: None,
            envoy_admins: Vec::new(),
            trust: self.path("trust.pem"),
            listen: vec![Listen::Unix(
                format!("{}/{{fleet}}.sock", self.folder.path().display()),
                Peers::default(),
            )],
            tls: None,
            tokens: None,
            members: BTreeMap::new(),
            member_file: None,
            pin_file: None,
            cache: Some(self.path("cache")),
            health: Some("127.0.0.1:0".parse().unwrap()),
            ready_acked: false,
            admin: Some(self.path("admin.sock")),
            endpoints: Some(self.path("endpoints")),
            secrets: Some(self.path("secrets")),
            store_values: None,
            kubernetes: None,
            poll_interval: Duration::from_millis(100),
            settings: Settings::default(),
            max_request: 1 << 20,
            max_streams: 100,
            max_streams_per_client: 100,
            drain: Duration::from_millis(20),
        }
    }

    pub(crate) async fn relay(&self) -> Relay {
        Relay::start(self.config()).await.unwrap()
    }

    fn serve_endpoints(&self, addresses: &[&str]) {
        let text =
            format!(r#"{{"endpoints":[{{"service":"shop/cart","port":"http","addresses":{addresses:?}}}]}}"#);
        let path = self.path("endpoints/cart.json");
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// One slice of a Service, in two zones and three states of health, as Kubernetes writes it.
    fn serve_slice(&self, service: &str, first: &str) {
        let slice = serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": service, "namespace": "shop",
                "labels": { "kubernetes.io/service-name": service } },
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [
                { "addresses": [first], "zone": "eu-1a", "conditions": { "ready": true } },
                { "addresses": ["10.9.0.2"], "zone": "eu-1b",
                  "conditions": { "ready": false, "serving": true, "terminating": true } },
                { "addresses": ["10.9.0.3"], "zone": "eu-1b", "conditions": { "ready": false } },
            ],
        });
        let path = self.path(&format!("endpoints/{service}.json"));
        std::fs::write(path.with_extension("new"), slice.to_string()).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn renew_certificate(&self) {
        let certified = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
        let folder = self.path("secrets/shop/tls");
        // Key and certificate change in two steps: in between they do not fit, and the last pair is served.
        std::fs::write(folder.join("tls.key"), certified.signing_key.serialize_pem()).unwrap();
        std::fs::write(folder.join("tls.crt"), certified.cert.pem()).unwrap();
    }

    pub(crate) async fn envoy(&self, node: &str) -> Delta {
        Self::envoy_at(&self.path("shop.edge.sock"), node).await
    }

    pub(crate) async fn envoy_at(socket: &Path, node: &str) -> Delta {
        Delta::open(channel(socket).await.unwrap(), ADS_DELTA, node).await.unwrap()
    }

    /// An object of the store, as a file.
    pub(crate) fn stored(&self, name: &str) -> PathBuf {
        self.publisher.part().local_dir().unwrap().join(name)
    }
}

pub(crate) fn world(version: &str) -> Vec<Record> {
    vec![
        resource(CLUSTER, "cart", &format!("cluster {version}"), Some("cart-endpoints")),
        resource(LISTENER, "https", &format!("listener {version}"), None),
        endpoints("cart-endpoints"),
        secret("shop-tls"),
    ]
}

/// Waits until something holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn serving(relay: &Relay) -> Option<Digest> {
    relay.fleets()[0].hub.view().map(|view| view.config.id)
}

pub(crate) fn error(relay: &Relay) -> String {
    relay.fleets()[0].status.borrow().store.error.clone().unwrap_or_default()
}

/// One HTTP request over a Unix socket or TCP: status and body.
pub(crate) async fn http(relay: &Relay, place: &Place, method: &str, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    let mut text = String::new();
    if path == "/livez" || path == "/readyz" || path == "/metrics" {
        let mut stream = tokio::net::TcpStream::connect(relay.health().unwrap()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
    } else {
        let mut stream = tokio::net::UnixStream::connect(place.path("admin.sock")).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
    }
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

fn addresses(response: &DeltaDiscoveryResponse) -> Vec<String> {
    let any = response.resources[0].resource.clone().unwrap();
    let assignment = ClusterLoadAssignment::decode(any.value).unwrap();
    let endpoints = assignment.endpoints.into_iter().flat_map(|locality| locality.lb_endpoints);
    let socket = endpoints.filter_map(|endpoint| endpoint.endpoint?.address?.socket_address);
    socket.map(|socket| format!("{}:{}", socket.address, socket.port_value.unwrap_or_default())).collect()
}

/// Takes all of it: clusters, endpoints, secrets, listeners.
pub(crate) async fn take(envoy: &mut Delta) -> Vec<DeltaDiscoveryResponse> {
    let mut taken = Vec::new();
    for (type_url, names) in
        [(CLUSTER, &[][..]), (ENDPOINT, &["cart-endpoints"]), (SECRET, &["shop-tls"]), (LISTENER, &[])]
    {
        envoy.ask(type_url, names);
        let response = envoy.response().await;
        assert_eq!(response.type_url, type_url);
        envoy.ack(&response);
        taken.push(response);
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_store_to_a_client() {
    let mut place = Place::new();
    let relay = place.relay().await;
    assert_eq!(http(&relay, &place, "GET", "/livez").await.0, 200);
    let (status, why) = http(&relay, &place, "GET", "/readyz").await;
    assert!(status == 503 && why.contains("no verified snapshot yet"), "{why}");
    let first = place.publisher.publish(world("1")).await;
    eventually("the first snapshot is served", || serving(&relay) == Some(first)).await;
    assert_eq!(http(&relay, &place, "GET", "/readyz").await.0, 200);

    let mut envoy = place.envoy("envoy-1").await;
    let taken = take(&mut envoy).await;
    assert_eq!(names(&taken[0]), ["cart"]);
    assert_eq!(addresses(&taken[1]), ["10.0.0.1:8080"]);
    assert_eq!(names(&taken[2]), ["shop-tls"]);
    assert_eq!(taken[0].system_version_info, first.short());

    // A pod moves: endpoints alone.
    place.serve_endpoints(&["10.0.0.2:8080"]);
    let moved = envoy.response().await;
    assert_eq!((moved.type_url.as_str(), addresses(&moved)), (ENDPOINT, vec!["10.0.0.2:8080".to_owned()]));
    envoy.ack(&moved);
    // The certificate is renewed: the secret alone.
    place.renew_certificate();
    let renewed = envoy.response().await;
    assert_eq!(renewed.type_url, SECRET);
    assert_ne!(renewed.resources[0].version, taken[2].resources[0].version);
    envoy.ack(&renewed);
    // A new snapshot: the cluster, its endpoints again, then the listener.
    let second = place.publisher.publish(world("2")).await;
    let mut order = Vec::new();
    for _ in 0..3 {
        let response = envoy.response().await;
        order.push(response.type_url.clone());
        envoy.ack(&response);
    }
    assert_eq!(order, [CLUSTER, ENDPOINT, LISTENER]);
    eventually("the client holds it whole", || relay.fleets()[0].hub.is_synced(&second)).await;

    let (_, text) = http(&relay, &place, "GET", "/metrics").await;
    assert!(text.contains("moorgate_relay_sequence{fleet=\"shop/edge\"} 2"), "{text}");
    let (_, shown) = http(&relay, &place, "GET", "/snapshot").await;
    assert!(shown.contains(&second.to_string()) && shown.contains("\"because\":\"target\""), "{shown}");
    let (_, shown) = http(&relay, &place, "GET", "/clients").await;
    assert!(shown.contains("envoy-1") && !shown.contains("PRIVATE KEY"), "{shown}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_moves_is_one_resource_with_its_zone_and_health() {
    let mut place = Place::new();
    let relay = place.relay().await;
    place.serve_slice("pay", "10.9.0.1");
    place.serve_slice("stock", "10.8.0.1");
    let records = [
        resource(CLUSTER, "pay", "pay", Some("pay-endpoints")),
        resource(CLUSTER, "stock", "stock", Some("stock-endpoints")),
        endpoints_of("pay-endpoints", "pay"),
        endpoints_of("stock-endpoints", "stock"),
    ];
    let snapshot = place.publisher.publish(records.to_vec()).await;
    eventually("the snapshot is served", || serving(&relay) == Some(snapshot)).await;
    let mut envoy = place.envoy("envoy-1").await;
    for (type_url, names) in [(CLUSTER, &[][..]), (ENDPOINT, &["pay-endpoints", "stock-endpoints"])] {
        envoy.ask(type_url, names);
        let response = envoy.response().await;
        assert_eq!((response.type_url.as_str(), response.resources.len()), (type_url, 2));
        envoy.ack(&response);
    }
    place.serve_slice("pay", "10.9.0.7");
    let moved = envoy.response().await;
    assert_eq!((moved.type_url.as_str(), names(&moved)), (ENDPOINT, vec!["pay-endpoints"]));
    assert!(moved.removed_resources.is_empty());
    let any = moved.resources[0].resource.clone().unwrap();
    let told: Vec<_> = ClusterLoadAssignment::decode(any.value)
        .unwrap()
        .endpoints
        .into_iter()
        .map(|locality| {
            let zone = locality.locality.unwrap().zone;
            let health = locality.lb_endpoints.iter().map(|one| format!("{:?}", one.health_status()));
            (zone, health.collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(told[0], ("eu-1a".to_owned(), vec!["Healthy".to_owned()]));
    assert_eq!(told[1], ("eu-1b".to_owned(), vec!["Draining".to_owned(), "Unhealthy".to_owned()]));
    // A source that vanishes keeps what it told.
    let served = place.path("endpoints");
    std::fs::rename(&served, place.path("gone")).unwrap();
    // Any change has all folders read again.
    place.renew_certificate();
    let failed = || {
        let labels = [("fleet", "shop/edge"), ("reason", "endpoints")];
        relay.metrics().get("moorgate_relay_binding_errors", &labels)
    };
    eventually("the folder is missed", || failed() == Some(1.0)).await;
    envoy.ack(&moved);
    let mut second = place.envoy("envoy-2").await;
    second.ask(ENDPOINT, &["pay-endpoints"]);
    assert_eq!(addresses(&second.response().await)[0], "10.9.0.7:8080");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_down_cold_start_from_disk() {
    let mut place = Place::new();
    let snapshot = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    eventually("served", || serving(&relay) == Some(snapshot)).await;
    let mut envoy = place.envoy("e").await;
    take(&mut envoy).await;
    let kept = place.path("cache/shop.edge/endpoints");
    eventually("the endpoints are on disk", || kept.exists()).await;
    relay.stop().await;

    std::fs::remove_dir_all(place.path("store")).unwrap();
    std::fs::remove_dir_all(place.path("endpoints")).unwrap();
    let relay = place.relay().await;
    eventually("served from disk", || serving(&relay) == Some(snapshot)).await;
    let taken = take(&mut place.envoy("e").await).await;
    assert_eq!(addresses(&taken[1]), ["10.0.0.1:8080"]);
    assert_eq!(http(&relay, &place, "GET", "/readyz").await.0, 200);
    eventually("the store's trouble is known", || !error(&relay).is_empty()).await;
    assert_eq!(serving(&relay), Some(snapshot));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corrupt_cache_falls_back_one_generation() {
    let mut place = Place::new();
    let first = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    eventually("first", || serving(&relay) == Some(first)).await;
    let mut envoy = place.envoy("e").await;
    take(&mut envoy).await;
    eventually("first is good", || relay.fleets()[0].status.borrow().good == [first]).await;
    let second = place.publisher.publish(world("2")).await;
    eventually("second", || serving(&relay) == Some(second)).await;
    relay.stop().await;
    std::fs::remove_dir_all(place.path("store")).unwrap();
    std::fs::write(place.path("cache/shop.edge/objects").join(second.to_string()), b"damaged").unwrap();
    let relay = place.relay().await;
    eventually("the one before is served", || serving(&relay) == Some(first)).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_snapshot_is_quarantined_over_restarts_until_a_new_one_comes() {
    let mut place = Place::new();
    let good = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    eventually("good", || serving(&relay) == Some(good)).await;
    let mut envoy = place.envoy("e").await;
    take(&mut envoy).await;
    eventually("it is known to be good", || relay.fleets()[0].status.borrow().good == [good]).await;
    let bad = place.publisher.publish(world("bad")).await;
    let refused = envoy.response().await;
    assert_eq!(refused.type_url, CLUSTER);
    envoy.nack(&refused, "cluster cart: no");
    eventually("the good one is back in force", || serving(&relay) == Some(good)).await;
    let status = relay.fleets()[0].status.borrow().clone();
    assert_eq!(status.quarantined.get(&bad).map(String::as_str), Some("CDS: cluster cart: no"));
    relay.stop().await;

    let relay = place.relay().await;
    eventually("after a restart too", || serving(&relay) == Some(good)).await;
    let taken = take(&mut place.envoy("new").await).await;
    assert_eq!(taken[0].system_version_info, good.short(), "new Envoys get the good one");
    let fixed = place.publisher.publish(world("3")).await;
    eventually("a new snapshot is served", || serving(&relay) == Some(fixed)).await;
    // By hand what was refused is tried again.
    assert_eq!(http(&relay, &place, "DELETE", "/quarantine").await.0, 200);
    eventually("nothing is quarantined", || relay.fleets()[0].status.borrow().quarantined.is_empty()).await;
    relay.stop().await;
}

/// No veto for one Envoy, and no bytes twice for it either: that it was set back alone is known after a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_that_alone_refuses_is_set_back_over_restarts() {
    let mut place = Place::new();
    let good = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    eventually("good", || serving(&relay) == Some(good)).await;
    let (mut fine, mut odd) = (place.envoy("fine").await, place.envoy("odd").await);
    take(&mut fine).await;
    take(&mut odd).await;
    eventually("it is known to be good", || relay.fleets()[0].status.borrow().good == [good]).await;
    let next = place.publisher.publish(world("2")).await;
    let taken = fine.response().await;
    fine.ack(&taken);
    let acked = || {
        relay.fleets()[0]
            .hub
            .clients()
            .iter()
            .any(|client| client.types.get("CDS").is_some_and(|held| held.acked == Some(next)))
    };
    eventually("the other one took it", acked).await;
    let refused = odd.response().await;
    odd.nack(&refused, "cluster cart: not for me");
    // Its endpoints were on their way again with the cluster.
    let back = loop {
        let response = odd.response().await;
        if response.type_url == CLUSTER {
            break response;
        }
    };
    assert_eq!(back.system_version_info, good.short());
    assert_eq!(serving(&relay), Some(next), "no veto");
    relay.stop().await;
    let relay = place.relay().await;
    eventually("next", || serving(&relay) == Some(next)).await;
    let of = async |node: &str| take(&mut place.envoy(node).await).await[0].system_version_info.clone();
    assert_eq!((of("odd").await, of("fine").await), (good.short(), next.short()));
    assert_eq!(http(&relay, &place, "DELETE", "/quarantine").await.0, 200);
    assert_eq!(of("odd").await, next.short(), "tried again by hand");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_endpoints_are_not_sent_again_by_a_relay_that_starts_anew() {
    let mut place = Place::new();
    let snapshot = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    eventually("served", || serving(&relay) == Some(snapshot)).await;
    let mut envoy = place.envoy("e").await;
    let taken = take(&mut envoy).await;
    place.serve_endpoints(&["10.0.0.9:8080"]);
    let moved = envoy.response().await;
    assert_eq!(addresses(&moved), ["10.0.0.9:8080"]);
    envoy.nack(&moved, "no such endpoints");
    let refused = || {
        let clients = relay.fleets()[0].hub.clients();
        clients.iter().any(|client| client.types.get("EDS").is_some_and(|held| held.nacks == 1))
    };
    eventually("the refusal is known", refused).await;
    drop(envoy);
    relay.stop().await;

    let names: Vec<String> = taken[1].resources.iter().map(|resource| resource.name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let relay = place.relay().await;
    eventually("served again", || serving(&relay) == Some(snapshot)).await;
    let asked = async |node: &str| {
        let mut envoy = place.envoy(node).await;
        envoy.ask(ENDPOINT, &names);
        envoy.response().await
    };
    let nothing = asked("e").await;
    assert!(nothing.resources.is_empty(), "the same bytes: {nothing:?}");
    assert_eq!(addresses(&asked("another").await), ["10.0.0.9:8080"]);
    assert_eq!(http(&relay, &place, "DELETE", "/quarantine").await.0, 200);
    assert_eq!(addresses(&asked("e").await), ["10.0.0.9:8080"], "tried again by hand");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_damage_in_the_store_stops_a_serving_relay() {
    let mut place = Place::new();
    let first = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    eventually("first", || serving(&relay) == Some(first)).await;
    // A new snapshot whose manifest is damaged before the relay can read it.
    let second = moorgate_snapshot::Snapshot::build(world("2")).unwrap().id();
    let manifest = place.stored(&layout::manifest(&second));
    std::fs::create_dir_all(manifest.parent().unwrap()).unwrap();
    let before = relay.metrics().render();
    assert!(!before.contains("reason=\"damaged\""));
    place.publisher.publish(world("2")).await;
    eventually("second", || serving(&relay) == Some(second)).await;
    let (head, log) = (place.stored("head/stable"), place.stored(&layout::entry(&Channel::stable(), 2)));
    for path in [&head, &log, &manifest] {
        let whole = std::fs::read(path).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"garbage"] {
            std::fs::write(path, damaged).unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert_eq!(serving(&relay), Some(second));
        }
        std::fs::write(path, whole).unwrap();
    }
    // The log is rolled back: refused, and reported.
    std::fs::remove_file(&log).unwrap();
    std::fs::copy(place.stored(&layout::entry(&Channel::stable(), 1)), &head).unwrap();
    let refusals = || relay.metrics().render();
    eventually("the damage was counted", || refusals().contains("moorgate_relay_refusals_total")).await;
    assert_eq!(serving(&relay), Some(second));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_incomplete_is_refused_and_taken_when_it_is_whole() {
    let mut place = Place::new();
    let first = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    eventually("first", || serving(&relay) == Some(first)).await;
    relay.stop().await;
    let second = place.publisher.publish(world("2")).await;
    let manifest = place.stored(&layout::manifest(&second));
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, b"cut").unwrap();
    let relay = place.relay().await;
    eventually("refused", || error(&relay).contains("damaged")).await;
    assert_eq!(serving(&relay), Some(first));
    std::fs::write(&manifest, whole).unwrap();
    eventually("taken", || serving(&relay) == Some(second)).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_relay_takes_the_previous_good_release_if_the_target_cannot_be_read() {
    let mut place = Place::new();
    let first = place.publisher.publish(world("1")).await;
    let second = place.publisher.publish(world("2")).await;
    std::fs::remove_file(place.stored(&layout::manifest(&second))).unwrap();
    let relay = place.relay().await;
    eventually("the previous one", || serving(&relay) == Some(first)).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_of_the_channel_and_by_hand() {
    let mut place = Place::new();
    let first = place.publisher.publish(world("1")).await;
    let relay = place.relay().await;
    eventually("first", || serving(&relay) == Some(first)).await;
    let mut envoy = place.envoy("e").await;
    take(&mut envoy).await;
    eventually("first is good", || relay.fleets()[0].status.borrow().good == [first]).await;
    let second = place.publisher.publish(world("2")).await;
    eventually("second", || serving(&relay) == Some(second)).await;
    let (status, text) =
        http(&relay, &place, "POST", &format!("/pin?snapshot={}", Digest::of(b"other"))).await;
    assert!(status == 404 && text.contains("not in this relay's cache"), "{text}");
    assert_eq!(http(&relay, &place, "POST", &format!("/pin?snapshot={first}")).await.0, 200);
    eventually("pinned by hand", || serving(&relay) == Some(first)).await;
    assert!(std::fs::read_to_string(place.path("cache/shop.edge/pin")).unwrap().contains(&first.to_string()));
    let third = place.publisher.publish(world("3")).await;
    let newest = || relay.fleets()[0].status.borrow().sequence;
    eventually("the third release is known", || newest() == 3).await;
    assert_eq!(serving(&relay), Some(first));
    assert_eq!(http(&relay, &place, "DELETE", "/pin").await.0, 200);
    eventually("the channel is followed again", || serving(&relay) == Some(third)).await;
    place.publisher.pin(second).await;
    eventually("pinned by the channel", || serving(&relay) == Some(second)).await;
    place.publisher.retire().await;
    eventually("retired", || relay.fleets()[0].status.borrow().retired).await;
    assert!(relay.fleets()[0].hub.view().unwrap().config.types.is_empty());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_do_not_share_a_cache() {
    let place = Place::new();
    let relay = place.relay().await;
    let second = Relay::start(Config { admin: None, health: None, listen: vec![], ..place.config() }).await;
    assert!(matches!(second, Err(RunError::Fleet { .. })));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_cannot_be_written_costs_nothing_but_restarts() {
    let mut place = Place::new();
    let snapshot = place.publisher.publish(world("1")).await;
    // A file where the folder should be.
    std::fs::write(place.path("cache"), b"").unwrap();
    let relay = place.relay().await;
    eventually("served from memory", || serving(&relay) == Some(snapshot)).await;
    assert!(relay.metrics().render().contains("moorgate_relay_cache_degraded{fleet=\"shop/edge\"} 1"));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_serves_when_the_first_store_fails() {
    let mut place = Place::new();
    let snapshot = place.publisher.publish(world("1")).await;
    let mut config = place.config();
    let broken = place.path("broken");
    std::fs::write(&broken, b"").unwrap();
    config.stores.insert(0, Store::open(&format!("file://{}", broken.display())).unwrap());
    let relay = Relay::start(config).await.unwrap();
    eventually("served from the mirror", || serving(&relay) == Some(snapshot)).await;
    relay.stop().await;
}

/// Copies a folder of files and folders.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_is_behind_is_waited_for_and_no_attack() {
    let mut place = Place::new();
    place.publisher.publish(world("1")).await;
    let (store, mirror, away) = (place.path("store"), place.path("mirror"), place.path("away"));
    copy(&store, &mirror);
    let second = place.publisher.publish(world("2")).await;
    let mut config = place.config();
    config.stores.push(Store::open(&format!("file://{}", mirror.display())).unwrap());
    let relay = Relay::start(config).await.unwrap();
    eventually("served from the first store", || serving(&relay) == Some(second)).await;
    std::fs::rename(&store, &away).unwrap();
    std::fs::write(&store, b"no folder").unwrap();
    let metrics = || relay.metrics().render();
    eventually("the mirror is behind", || metrics().contains("reason=\"mirror_behind\"")).await;
    assert!(!metrics().contains("reason=\"rollback\""), "{}", metrics());
    assert_eq!(serving(&relay), Some(second));
    // Somebody brings it up to date: it is served, with what is new.
    std::fs::remove_dir_all(&mirror).unwrap();
    std::fs::rename(&away, &mirror).unwrap();
    place.publisher.store = Store::open(&format!("file://{}", mirror.display())).unwrap();
    let third = place.publisher.publish(world("3")).await;
    eventually("served from the mirror", || serving(&relay) == Some(third)).await;
    // Now that it has shown the third entry, going back is an attack.
    let log = mirror.join(place.publisher.fleet.prefix()).join("log/stable");
    std::fs::remove_file(log.join(format!("{:020}", 3))).unwrap();
    std::fs::remove_file(mirror.join(place.publisher.fleet.prefix()).join("head/stable")).unwrap();
    eventually("rolled back", || metrics().contains("reason=\"rollback\"")).await;
    assert_eq!(serving(&relay), Some(third));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_store_is_polled() {
    let store = Store::open("memory:///").unwrap();
    let mut place = Place::with(tempfile::tempdir().unwrap(), store);
    let relay = place.relay().await;
    let snapshot = place.publisher.publish(world("1")).await;
    eventually("served", || serving(&relay) == Some(snapshot)).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_s_release_is_refused_and_new_keys_are_taken_on_reload() {
    let mut place = Place::new();
    let trusted = std::fs::read(place.path("trust.pem")).unwrap();
    let (stranger, _) = moorgate_snapshot::KeyPair::generate(&[9; 32]).unwrap();
    let key: &dyn moorgate_snapshot::Signer = &stranger;
    std::fs::write(place.path("trust.pem"), key.public().to_pem()).unwrap();
    let relay = place.relay().await;
    let snapshot = place.publisher.publish(world("1")).await;
    let refused = || relay.metrics().render().contains("moorgate_relay_refusals_total");
    eventually("refused", refused).await;
    assert_eq!(serving(&relay), None);
    std::fs::write(place.path("trust.pem"), b"no key").unwrap();
    relay.reload().await;
    std::fs::write(place.path("trust.pem"), trusted).unwrap();
    relay.reload().await;
    eventually("served", || serving(&relay) == Some(snapshot)).await;
    relay.stop().await;
}

/// The store is out of reach, and what the folder of the seed holds came with the machine.
fn seeded(place: &Place) -> Config {
    let unreachable = place.path("unreachable");
    std::fs::write(&unreachable, b"").unwrap();
    let seed = Store::open(&format!("file://{}", place.path("seed").display())).unwrap();
    let stores = vec![Store::open(&format!("file://{}", unreachable.display())).unwrap()];
    Config { stores, seed: Some(seed), ..place.config() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f03_a_new_machine_without_store_and_cache_serves_its_seed() {
    let mut place = Place::new();
    let snapshot = place.publisher.publish(world("1")).await;
    copy(&place.path("store"), &place.path("seed"));
    // Without a seed: not ready, and it says why; nothing is served, not even an empty set.
    let relay = Relay::start(Config { seed: None, ..seeded(&place) }).await.unwrap();
    eventually("the store fails", || !error(&relay).is_empty()).await;
    let (status, text) = http(&relay, &place, "GET", "/readyz").await;
    assert!(status == 503 && text.contains("no verified snapshot yet: "), "{text}");
    relay.stop().await;
    let relay = Relay::start(seeded(&place)).await.unwrap();
    eventually("served", || serving(&relay) == Some(snapshot)).await;
    assert_eq!(http(&relay, &place, "GET", "/readyz").await.0, 200);
    let (_, shown) = http(&relay, &place, "GET", "/snapshot").await;
    assert!(shown.contains("\"because\":\"seed\""), "{shown}");
    take(&mut place.envoy("e").await).await;
    relay.stop().await;
    // With the store back the same entry is the channel's word, and newer ones follow.
    let relay = Relay::start(Config { stores: place.config().stores, ..seeded(&place) }).await.unwrap();
    let because = || relay.fleets()[0].status.borrow().because.map(moorgate_relay::fleet::Because::as_str);
    eventually("the store's word", || because() == Some("target")).await;
    let second = place.publisher.publish(world("2")).await;
    eventually("newer", || serving(&relay) == Some(second)).await;
    relay.stop().await;
    // The seed is older now than what the cache remembers: it never goes back.
    let relay = Relay::start(seeded(&place)).await.unwrap();
    eventually("the newer one", || serving(&relay) == Some(second)).await;
    eventually("the store fails", || !error(&relay).is_empty()).await;
    assert_eq!((serving(&relay), relay.fleets()[0].status.borrow().sequence), (Some(second), 2));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_is_not_believed_more_than_a_store() {
    let mut place = Place::new();
    let snapshot = place.publisher.publish(world("1")).await;
    let fleet = place.path("seed/fleets/gateway/shop/edge");
    for name in [layout::manifest(&snapshot), layout::entry(&Channel::stable(), 1)] {
        let _ = std::fs::remove_dir_all(place.path("seed"));
        copy(&place.path("store"), &place.path("seed"));
        std::fs::remove_file(fleet.join("head/stable")).unwrap();
        let path = fleet.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let relay = Relay::start(Config { cache: None, ..seeded(&place) }).await.unwrap();
        let refused = || relay.metrics().render().contains("moorgate_relay_polls_total");
        eventually("the store was asked", refused).await;
        assert_eq!(serving(&relay), None);
        relay.stop().await;
    }
}
