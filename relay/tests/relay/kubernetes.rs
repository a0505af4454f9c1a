//! Watches on an API server that misbehaves as told. That all is well with a real one is shown elsewhere.

use crate::api_server::{ApiServer, Mood};
use moorgate_relay::bind::kubernetes::{self, Api, Pace};
use moorgate_relay::bind::live::{Answer, Kind, Live, Object, Wants};
use moorgate_relay::fleet::Life;
use moorgate_relay::jitter::Jitter;
use moorgate_relay::metrics::Metrics;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Whoever waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    server: ApiServer,
    live: Live,
    metrics: Arc<Metrics>,
    life: Life,
}

impl Scene {
    async fn new() -> Self {
        Self::with(Duration::from_mins(1)).await
    }

    /// With watches that last so long.
    async fn with(watch: Duration) -> Self {
        let server = ApiServer::start().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{ "name": "x", "cluster": { "server": server.url() } }],
            "users": [{ "name": "x", "user": {} }],
            "contexts": [{ "name": "x", "context": { "cluster": "x", "user": "x" } }],
        });
        std::fs::write(&path, kubeconfig.to_string()).unwrap();
        let mut api = Api::connect(Some(&path)).await.unwrap();
        api.pace = Pace {
            base: Duration::from_millis(5),
            cap: Duration::from_millis(40),
            watch,
            poll: Duration::from_millis(20),
        };
        let (life, _) = Life::new();
        let metrics = Arc::new(Metrics::default());
        let live = kubernetes::start(api, None, (Arc::clone(&metrics), Jitter::seeded(7)), &life);
        Self { server, live, metrics, life }
    }

    fn want(&self, services: &[(&str, &str)], secrets: &[&str]) {
        let mut wants = Wants::default();
        for (namespace, service) in services {
            wants.services.entry((*namespace).into()).or_default().insert((*service).into());
        }
        wants.objects = secrets.iter().map(|name| secret(name)).collect();
        self.live.want("shop/edge", wants);
    }

    /// Waits until it holds; looked at again with every change, and from time to time for what does not ring.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut ticks = self.live.ticks();
        let wait = async {
            while !holds(self) {
                let _ = tokio::time::timeout(Duration::from_millis(10), ticks.changed()).await;
            }
        };
        let came = tokio::time::timeout(PATIENCE, wait).await;
        assert!(came.is_ok(), "{what}:\n{}", self.server.requests().join("\n"));
    }

    fn addresses(&self, service: &str) -> Option<Vec<String>> {
        let found = self.live.endpoints("shop", service, "http", 80)?;
        Some(found.iter().map(|endpoint| endpoint.address.ip().to_string()).collect())
    }

    async fn until_addresses(&self, service: &str, expected: &[&str]) {
        self.until(&format!("{service} at {expected:?}"), |scene| {
            scene.addresses(service).is_some_and(|found| found == expected)
        })
        .await;
    }

    fn errors(&self, kind: &str, reason: &str) -> f64 {
        self.metrics.get("moorgate_relay_watch_errors", &[("kind", kind), ("reason", reason)]).unwrap_or(0.0)
    }

    fn lists(&self) -> usize {
        self.server
            .requests()
            .iter()
            .filter(|r| r.contains("endpointslices") && !r.contains("watch="))
            .count()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.life.stop.cancel();
    }
}

fn secret(name: &str) -> Object {
    Object { kind: Kind::Secret, namespace: "shop".into(), name: name.into() }
}

fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoint = |address: &&str| json!({ "addresses": [address], "conditions": { "ready": true } });
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": service },
            "managedFields": [{ "manager": "x", "fieldsV1": { "f:x": {} } }],
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 3000, "protocol": "TCP" }],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn pair(text: &str) -> Value {
    let data = json!({ "tls.crt": text, "tls.key": text });
    json!({ "metadata": { "name": "tls", "namespace": "shop" }, "data": data })
}

const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

#[tokio::test]
async fn one_list_in_pages_then_events_and_no_request_more() {
    let scene = Scene::new().await;
    for number in 0..250 {
        scene.server.put(SLICES, slice(&format!("other-{number}"), "other", &["10.9.0.1"]));
    }
    scene.server.put(SLICES, slice("cart-a", "cart", &["10.0.0.1"]));
    scene.server.put(SLICES, slice("cart-b", "cart", &["10.0.0.2"]));
    scene.want(&[("shop", "cart")], &[]);
    scene.until_addresses("cart", &["10.0.0.1", "10.0.0.2"]).await;
    scene.server.put(SLICES, slice("cart-b", "cart", &["10.0.0.3"]));
    scene.until_addresses("cart", &["10.0.0.1", "10.0.0.3"]).await;
    scene.server.delete(SLICES, "cart-a");
    scene.until_addresses("cart", &["10.0.0.3"]).await;
    // Another Service of the namespace costs no request.
    scene.server.put(SLICES, slice("pay-a", "pay", &["10.0.0.9"]));
    scene.want(&[("shop", "cart"), ("shop", "pay")], &[]);
    scene.until_addresses("pay", &["10.0.0.9"]).await;
    let requests = scene.server.requests();
    assert_eq!(requests.len(), 4, "three pages, one watch: {requests:#?}");
    // Nobody wants them any more.
    scene.want(&[], &[]);
    scene.until("the watch has ended", |scene| scene.server.open_watches() == 0).await;
    assert_eq!(scene.addresses("cart"), None);
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_where_it_was_and_one_that_is_too_old_lists_again() {
    let scene = Scene::new().await;
    scene.server.put(SLICES, slice("cart-a", "cart", &["10.0.0.1"]));
    scene.want(&[("shop", "cart")], &[]);
    scene.until_addresses("cart", &["10.0.0.1"]).await;
    scene.until("a watch", |scene| scene.server.open_watches() == 1).await;
    for round in 2..6 {
        scene.server.cut();
        let address = format!("10.0.0.{round}");
        scene.server.put(SLICES, slice("cart-a", "cart", &[&address]));
        scene.until_addresses("cart", &[&address]).await;
    }
    assert_eq!(scene.lists(), 1, "cut watches are no reason to list");
    for how in [Mood::GoneInStream, Mood::GoneAtOnce] {
        scene.until("a watch", |scene| scene.server.open_watches() == 1).await;
        let before = scene.lists();
        scene.server.be(how);
        scene.server.delete(SLICES, "cart-a");
        scene.server.forget_history();
        scene.server.cut();
        scene.until_addresses("cart", &[]).await;
        scene.until("a list", |scene| scene.lists() > before).await;
        scene.server.be(Mood::Fine);
        scene.server.put(SLICES, slice("cart-a", "cart", &["10.0.0.1"]));
        scene.until_addresses("cart", &["10.0.0.1"]).await;
    }
    assert!(scene.errors("endpointslices", "expired") >= 2.0);
}

#[tokio::test]
async fn a_server_that_refuses_fails_or_talks_nonsense_costs_nothing_that_was_told() {
    let scene = Scene::new().await;
    scene.server.put(SLICES, slice("cart-a", "cart", &["10.0.0.1"]));
    scene.server.put(SECRETS, pair("Z29vZA=="));
    scene.want(&[("shop", "cart")], &["tls"]);
    let good = |scene: &Scene| matches!(scene.live.object(&secret("tls")), Answer::Found(_));
    scene.until_addresses("cart", &["10.0.0.1"]).await;
    scene.until("the secret", good).await;
    let moods = [
        (Mood::Refusing, "refused"),
        (Mood::Failing, "failed"),
        (Mood::Garbage, "garbage"),
        (Mood::Busy, "busy"),
        (Mood::Closing, "failed"),
    ];
    for (mood, reason) in moods {
        let before = (scene.errors("endpointslices", reason), scene.errors("secrets", reason));
        scene.server.be(mood);
        scene.server.cut();
        scene
            .until(reason, |scene| {
                let now = (scene.errors("endpointslices", reason), scene.errors("secrets", reason));
                now.0 > before.0 && now.1 > before.1
            })
            .await;
        assert_eq!(scene.addresses("cart").unwrap(), ["10.0.0.1"], "{reason}");
        assert!(good(&scene), "{reason}");
        assert!(!scene.live.watches().failing.is_empty());
    }
    scene.server.be(Mood::Fine);
    scene.server.put(SLICES, slice("cart-a", "cart", &["10.0.0.2"]));
    scene.until_addresses("cart", &["10.0.0.2"]).await;
    scene.until("all is well", |scene| scene.live.watches().failing.is_empty()).await;
}

#[tokio::test]
async fn failures_are_followed_by_pauses_not_by_storms() {
    let scene = Scene::new().await;
    scene.server.be(Mood::Refusing);
    scene.want(&[("shop", "cart")], &["tls"]);
    scene.until("refusals", |scene| scene.errors("endpointslices", "refused") >= 6.0).await;
    let failed: Vec<_> = scene.server.times("endpointslices");
    // The pauses double up to the cap; each is at least half of the first one.
    let shortest = failed.windows(2).map(|pair| pair[1] - pair[0]).min().unwrap();
    assert!(shortest >= Duration::from_millis(2), "{failed:?}");
    let total = *failed.last().unwrap() - failed[0];
    assert!(total >= Duration::from_millis(12), "{failed:?}");
    assert_eq!(scene.addresses("cart"), None, "never read: not known, not empty");
    assert!(
        matches!(scene.live.object(&secret("tls")), Answer::Failed(reason) if reason.contains("forbidden"))
    );
    scene.server.be(Mood::Fine);
    scene.until_addresses("cart", &[]).await;
    scene.until("no secret", |scene| scene.live.object(&secret("tls")) == Answer::Absent).await;
}

#[tokio::test]
async fn secrets_come_by_name_alone_and_a_new_one_at_once() {
    let scene = Scene::new().await;
    scene.server.put(SECRETS, pair("b25l"));
    scene.want(&[], &["tls", "none"]);
    let chain = |scene: &Scene| match scene.live.object(&secret("tls")) {
        Answer::Found(pem) => pem.chain.clone(),
        _ => None,
    };
    scene.until("the first", |scene| chain(scene) == Some(b"one".to_vec())).await;
    scene.server.put(SECRETS, pair("dHdv"));
    scene.until("the second", |scene| chain(scene) == Some(b"two".to_vec())).await;
    scene.until("none", |scene| scene.live.object(&secret("none")) == Answer::Absent).await;
    scene.server.delete(SECRETS, "tls");
    scene.until("gone", |scene| scene.live.object(&secret("tls")) == Answer::Absent).await;
    scene.server.put(SECRETS, pair("dHdv"));
    scene.until("again", |scene| chain(scene) == Some(b"two".to_vec())).await;
    for request in scene.server.requests() {
        let by_name = request.contains("fieldSelector=metadata.name%3Dtls")
            || request.contains("fieldSelector=metadata.name%3Dnone")
            || request.ends_with("/secrets/tls?")
            || request.ends_with("/secrets/tls")
            || request.ends_with("/secrets/none?")
            || request.ends_with("/secrets/none");
        assert!(by_name, "{request}");
    }
}

#[tokio::test]
async fn one_slice_that_cannot_be_read_costs_its_neighbours_nothing() {
    let scene = Scene::new().await;
    scene.server.put(SLICES, slice("cart-a", "cart", &["10.0.0.1", "not an address", "0.0.0.0"]));
    let mut broken = slice("cart-b", "cart", &[]);
    broken["endpoints"] = json!("none");
    scene.server.put(SLICES, broken);
    scene.want(&[("shop", "cart")], &[]);
    scene.until_addresses("cart", &["10.0.0.1"]).await;
    assert!(scene.errors("endpointslices", "garbage") >= 1.0);
}

#[tokio::test]
async fn watches_that_the_server_ends_in_order_are_opened_again_without_a_list() {
    let scene = Scene::with(Duration::from_secs(1)).await;
    scene.server.put(SLICES, slice("cart-a", "cart", &["10.0.0.1"]));
    scene.want(&[("shop", "cart")], &[]);
    scene.until_addresses("cart", &["10.0.0.1"]).await;
    scene.until("the third watch", |scene| scene.server.times("watch=").len() >= 3).await;
    assert_eq!(scene.lists(), 1);
    scene.server.put(SLICES, slice("cart-a", "cart", &["10.0.0.2"]));
    scene.until_addresses("cart", &["10.0.0.2"]).await;
}
