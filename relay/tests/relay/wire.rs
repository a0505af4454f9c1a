//! What the protocol's rules mean on a connection: all services, large requests, slow readers, many streams, times to live.

use crate::client::{ADS_DELTA, ADS_WORLD, Delta, World, channel, narrow_channel};
use crate::publisher::resource;
use crate::relay::{Place, eventually, serving};
use crate::serve::{Server, config, view};
use moorgate_relay::Relay;
use moorgate_relay::config::Config;
use moorgate_relay::serve::proto::{DeltaDiscoveryRequest, DiscoveryRequest, Node};
use moorgate_relay::serve::stream::Settings;
use moorgate_relay::serve::types::{
    CLUSTER, ENDPOINT, EXTENSION, LISTENER, ROUTE, RUNTIME, SCOPED_ROUTE, SECRET, TTL_FEATURE, VIRTUAL_HOST,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Code;

/// Streams of state of the world and of delta, as Envoy's API names them, and their type.
const SERVICES: [(&str, &str, &str); 9] = [
    (
        "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        LISTENER,
    ),
    (
        "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        CLUSTER,
    ),
    (
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        ENDPOINT,
    ),
    (
        "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
        "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
        ROUTE,
    ),
    (
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
        SCOPED_ROUTE,
    ),
    // Virtual hosts are on demand, which state of the world has no words for.
    ("", "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts", VIRTUAL_HOST),
    (
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        SECRET,
    ),
    (
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
        EXTENSION,
    ),
    (
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
        RUNTIME,
    ),
];

/// One resource `x` of each type.
fn everything(server: &Server) {
    let entries: Vec<(&str, &str, usize)> = SERVICES.iter().map(|(_, _, kind)| (*kind, "x", 7)).collect();
    let config = config(&entries);
    let mut all = std::sync::Arc::into_inner(view(config.clone(), None)).unwrap();
    all.endpoints = config.types[ENDPOINT].clone();
    all.secrets = config.types[SECRET].clone();
    server.hub.publish(all.into());
}

#[tokio::test]
async fn every_type_is_served_alone_and_together_in_both_variants() {
    let server = Server::new(100);
    everything(&server);
    let channel = channel(&server.path).await.unwrap();
    let mut deltas = Delta::open(channel.clone(), ADS_DELTA, "e").await.unwrap();
    let mut worlds = World::open(channel.clone(), ADS_WORLD, "e").await.unwrap();
    for (world, delta, kind) in SERVICES {
        // On a service of one type the type need not be said.
        for (own, said) in [(delta, ""), (delta, kind)] {
            let mut alone = Delta::open(channel.clone(), own, "e").await.unwrap();
            alone.ask(said, &["x"]);
            let got = alone.response().await;
            assert_eq!((got.type_url.as_str(), got.resources.len()), (kind, 1));
            assert_eq!(got.resources[0].resource.as_ref().unwrap().type_url, kind);
            alone.ask(if kind == CLUSTER { LISTENER } else { CLUSTER }, &["x"]);
            assert_eq!(alone.next().await.unwrap_err().code(), Code::InvalidArgument, "{kind}");
        }
        deltas.ask(kind, &["x"]);
        let got = deltas.response().await;
        assert_eq!((got.type_url.as_str(), got.resources.len()), (kind, 1));
        deltas.ack(&got);
        worlds.ask(kind, &["x"], "");
        let got = worlds.response().await;
        assert_eq!((got.type_url.as_str(), got.resources.len()), (kind, 1));
        worlds.ask(kind, &["x"], &got.nonce);
        if world.is_empty() {
            continue;
        }
        let mut alone = World::open(channel.clone(), world, "e").await.unwrap();
        alone.ask("", &["x"], "");
        let got = alone.response().await;
        assert_eq!((got.type_url.as_str(), got.resources[0].type_url.as_str()), (kind, kind));
    }
}

#[tokio::test]
async fn fetches_and_load_reports_are_unimplemented() {
    let server = Server::new(100);
    let fetches = [
        "/envoy.service.listener.v3.ListenerDiscoveryService/FetchListeners",
        "/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters",
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/FetchEndpoints",
        "/envoy.service.route.v3.RouteDiscoveryService/FetchRoutes",
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/FetchScopedRoutes",
        "/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets",
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/FetchExtensionConfigs",
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/FetchRuntime",
        "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats",
        "/envoy.service.route.v3.VirtualHostDiscoveryService/StreamVirtualHosts",
    ];
    for path in fetches {
        let result = Delta::open(channel(&server.path).await.unwrap(), path, "e").await;
        assert_eq!(result.err().unwrap().code(), Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn node_changed_on_the_wire() {
    let server = Server::new(100);
    everything(&server);
    let mut envoy = server.delta("first").await;
    envoy.ask(CLUSTER, &["x"]);
    let first = envoy.response().await;
    let node = Some(Node { id: "second".into(), ..Node::default() });
    let request = DeltaDiscoveryRequest { node, type_url: LISTENER.into(), ..Default::default() };
    envoy.send(request);
    assert_eq!(envoy.response().await.type_url, LISTENER);
    envoy.ack(&first);
    assert_eq!(server.hub.clients()[0].node, "first");
}

/// The first delta request after a reconnect names all that the client holds: more than the 4 MiB that gRPC takes unasked.
#[tokio::test]
async fn big_initial_versions() {
    let server = Server::new(100);
    everything(&server);
    let name = |n: usize| format!("namespaces/shop/clusters/{n:0>60}");
    let initial_resource_versions: BTreeMap<String, String> =
        (0..60_000).map(|n| (name(n), "0123456789abcdef".to_owned())).collect();
    let node = Some(Node { id: "e".into(), ..Node::default() });
    let request = DeltaDiscoveryRequest {
        node,
        type_url: CLUSTER.into(),
        initial_resource_versions,
        ..Default::default()
    };
    assert!(prost::Message::encoded_len(&request) > 5 << 20);
    let mut envoy = server.delta("e").await;
    envoy.send(request);
    let got = envoy.response().await;
    assert_eq!((got.resources.len(), got.removed_resources.len()), (1, 0), "what is gone leaves last");
    envoy.ack(&got);
    envoy.ask(LISTENER, &["x"]);
    assert_eq!(envoy.response().await.type_url, LISTENER);
}

/// A reader that has stopped costs its own window and one response; when it goes on it gets that, and then the newest.
#[tokio::test]
async fn slow_reader() {
    const ROUNDS: usize = 40;
    let server = Server::new(100);
    let publish = |round: usize| server.hub.publish(view(config(&[(CLUSTER, "a", (1 << 20) + round)]), None));
    publish(0);
    let mut slow = Delta::open(narrow_channel(&server.path).await.unwrap(), ADS_DELTA, "slow").await.unwrap();
    slow.ask(CLUSTER, &[]);
    let mut fast = server.delta("fast").await;
    fast.ask(CLUSTER, &[]);
    let len = |response: &moorgate_relay::serve::proto::DeltaDiscoveryResponse| {
        response.resources[0].resource.as_ref().unwrap().value.len()
    };
    for round in 0..ROUNDS {
        let got = fast.response().await;
        assert_eq!(len(&got), (1 << 20) + round, "others get each");
        fast.ack(&got);
        if round + 1 < ROUNDS {
            publish(round + 1);
        }
    }
    let responses = |server: &Server| {
        let labels = [("fleet", "shop/edge"), ("type", "CDS")];
        server.hub.metrics().get("moorgate_relay_responses", &labels)
    };
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let expected = (ROUNDS + 1) as f64;
    assert_eq!(responses(&server), Some(expected), "one response waits for the slow reader");
    let first = slow.response().await;
    assert!(len(&first) < (1 << 20) + ROUNDS);
    slow.ack(&first);
    let newest = slow.response().await;
    assert_eq!(len(&newest), (1 << 20) + ROUNDS - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_10k() {
    const STREAMS: usize = 10_000;
    const PER_CONNECTION: usize = 64;
    let server = Server::new(STREAMS + 1);
    server.hub.publish(view(config(&[(CLUSTER, "a", 100)]), None));
    let mut envoys = Vec::new();
    while envoys.len() < STREAMS {
        let channel = channel(&server.path).await.unwrap();
        for _ in 0..PER_CONNECTION.min(STREAMS - envoys.len()) {
            let mut envoy = Delta::open(channel.clone(), ADS_DELTA, "e").await.unwrap();
            envoy.ask(CLUSTER, &[]);
            envoys.push(envoy);
        }
    }
    for envoy in &mut envoys {
        let got = envoy.response().await;
        envoy.ack(&got);
    }
    assert_eq!(server.hub.clients().len(), STREAMS);
    // All of them hear of a change, and one more stream is as good as the first.
    server.hub.publish(view(config(&[(CLUSTER, "a", 101)]), None));
    for envoy in &mut envoys {
        assert_eq!(envoy.response().await.resources[0].resource.as_ref().unwrap().value.len(), 101);
    }
    let mut late = server.delta("late").await;
    late.ask(CLUSTER, &[]);
    assert_eq!(late.response().await.resources.len(), 1);
}

/// What must end with the relay lives as long as the relay does, with the store or without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ttl_store_down() {
    let mut place = Place::new();
    let lives = BTreeMap::from([("faults".into(), Duration::from_millis(600))]);
    let ttls = BTreeMap::from([(RUNTIME.into(), lives)]);
    let settings = Settings { ttls, ..Settings::default() };
    let config = Config { settings, poll_interval: Duration::from_millis(20), ..place.config() };
    let records = vec![resource(RUNTIME, "faults", "abort", None), resource(RUNTIME, "base", "on", None)];
    let snapshot = place.publisher.publish(records).await;
    let relay = Relay::start(config).await.unwrap();
    eventually("served", || serving(&relay) == Some(snapshot)).await;
    let mut envoy = place.envoy("e").await;
    let node = Some(Node { id: "e".into(), client_features: vec![TTL_FEATURE.into()], ..Node::default() });
    envoy.send(DeltaDiscoveryRequest {
        node,
        type_url: RUNTIME.into(),
        resource_names_subscribe: vec!["faults".into(), "base".into()],
        ..Default::default()
    });
    let first = envoy.response().await;
    let ttl = |name: &str| first.resources.iter().find(|entry| entry.name == name).unwrap().ttl;
    assert_eq!((ttl("faults").map(|ttl| ttl.nanos), ttl("base")), (Some(600_000_000), None));
    envoy.ack(&first);
    std::fs::remove_dir_all(place.path("store")).unwrap();
    eventually("the store's trouble is known", || relay.fleets()[0].status.borrow().store.error.is_some())
        .await;
    for _ in 0..3 {
        let beat = envoy.response().await;
        let [entry] = &beat.resources[..] else { panic!("{beat:?}") };
        assert_eq!((entry.name.as_str(), &entry.resource), ("faults", &None));
        assert!(entry.ttl.is_some() && first.resources.iter().any(|sent| sent.version == entry.version));
        envoy.ack(&beat);
    }
    relay.stop().await;
}

#[tokio::test]
async fn nack_no_resend_on_the_wire() {
    let server = Server::new(100);
    everything(&server);
    let mut envoy = World::open(channel(&server.path).await.unwrap(), ADS_WORLD, "e").await.unwrap();
    envoy.ask(CLUSTER, &["x"], "");
    let got = envoy.response().await;
    envoy.send(DiscoveryRequest {
        type_url: CLUSTER.into(),
        resource_names: vec!["x".into()],
        response_nonce: got.nonce,
        error_detail: Some(moorgate_relay::serve::proto::Status { code: 3, message: "no".into() }),
        ..Default::default()
    });
    // The next on the stream is the answer to something else.
    envoy.ask(LISTENER, &["x"], "");
    assert_eq!(envoy.response().await.type_url, LISTENER);
}
