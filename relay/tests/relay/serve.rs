//! Sockets and gRPC around the state machine.

use crate::client::{ADS_DELTA, ADS_WORLD, Delta, World, channel};
use bytes::Bytes;
use moorgate_relay::metrics::Metrics;
use moorgate_relay::serve::admit::Frontend;
use moorgate_relay::serve::grpc::Limits;
use moorgate_relay::serve::hub::{Hub, Notice};
use moorgate_relay::serve::listen::{Peers, UnixSocket, socket_path};
use moorgate_relay::serve::proto::DeltaDiscoveryRequest;
use moorgate_relay::serve::share::Shares;
use moorgate_relay::serve::stream::Settings;
use moorgate_relay::serve::types::{CLUSTER, LISTENER, SECRET};
use moorgate_relay::serve::view::{Config, Name, TypeSet, Value, View};
use moorgate_snapshot::{Digest, FleetName};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Code;

pub(crate) struct Server {
    pub(crate) hub: Arc<Hub>,
    pub(crate) notices: mpsc::UnboundedReceiver<Notice>,
    pub(crate) drain: CancellationToken,
    pub(crate) frontend: Frontend,
    pub(crate) path: PathBuf,
    pub(crate) _directory: tempfile::TempDir,
}

pub(crate) fn server() -> Server {
    start(8, 1 << 20)
}

fn start(streams: usize, max_request: usize) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let fleet = FleetName::gateway("shop", "edge");
    let (hub, notices) = Hub::new(fleet.clone(), Settings::default(), Arc::new(Metrics::default()));
    let drain = CancellationToken::new();
    let limits = Limits::new(max_request, streams, drain.clone(), Duration::from_millis(50));
    let (connections, shares) = (Arc::new(Semaphore::new(200)), Shares::new(200));
    let frontend = Frontend { limits, connections, shares };
    let template = directory.path().join("{fleet}.sock");
    let path = socket_path(template.to_str().unwrap(), &fleet);
    let socket = UnixSocket::bind(&path, 0o660).unwrap();
    tokio::spawn(socket.serve(Arc::clone(&hub), Peers::default(), frontend.clone()));
    Server { hub, notices, drain, frontend, path, _directory: directory }
}

pub(crate) fn empty() -> Arc<TypeSet> {
    TypeSet::new(BTreeMap::new(), BTreeSet::new())
}

pub(crate) fn config(entries: &[(&str, &str, usize)]) -> Arc<Config> {
    let mut types: BTreeMap<Name, BTreeMap<Name, Arc<Value>>> = BTreeMap::new();
    for (type_url, name, size) in entries {
        let value = Arc::new(Value::new(vec![Bytes::from(vec![1; *size])], vec![]));
        types.entry((*type_url).into()).or_default().insert((*name).into(), value);
    }
    Config::new(Digest::of(format!("{entries:?}").as_bytes()), types, None)
}

pub(crate) fn view(config: Arc<Config>, fallback: Option<Arc<Config>>) -> Arc<View> {
    let (endpoints, secrets, extensions) = (empty(), empty(), empty());
    Arc::new(View { config, fallback, endpoints, secrets, extensions, leftover: Arc::default() })
}

impl Server {
    /// One that takes so many streams, and requests as a relay does by default.
    pub(crate) fn new(streams: usize) -> Self {
        start(streams, 32 << 20)
    }

    pub(crate) async fn delta(&self, node: &str) -> Delta {
        Delta::open(channel(&self.path).await.unwrap(), ADS_DELTA, node).await.unwrap()
    }
}

#[tokio::test]
async fn delta_over_a_unix_socket() {
    let server = server();
    assert_eq!(server.path.file_name().unwrap(), "shop.edge.sock");
    assert_eq!(std::fs::metadata(&server.path).unwrap().permissions().mode() & 0o777, 0o660);
    server.hub.publish(view(config(&[(CLUSTER, "a", 100_000), (CLUSTER, "b", 10)]), None));
    let mut envoy = server.delta("envoy-1").await;
    envoy.ask(CLUSTER, &[]);
    let first = envoy.response().await;
    assert_eq!(first.resources.len(), 2);
    assert_eq!(first.resources[0].resource.as_ref().unwrap().value.len(), 100_000);
    assert!(first.control_plane.as_ref().unwrap().identifier.contains(&first.system_version_info));
    envoy.ack(&first);
    server.hub.publish(view(config(&[(CLUSTER, "a", 100_000), (CLUSTER, "b", 11)]), None));
    let second = envoy.response().await;
    assert_eq!(second.resources.len(), 1);
    assert_eq!(second.resources[0].name, "b");
    let clients = server.hub.clients();
    assert_eq!(clients[0].node, "envoy-1");
    assert!(clients[0].peer.starts_with("unix:pid="), "{}", clients[0].peer);
    drop(envoy);
    let mut left = server.hub.views();
    while !server.hub.clients().is_empty() {
        tokio::task::yield_now().await;
        left.borrow_and_update();
    }
}

#[tokio::test]
async fn state_of_the_world_over_a_unix_socket() {
    let server = server();
    server.hub.publish(view(config(&[(LISTENER, "l", 10)]), None));
    let mut envoy = World::open(channel(&server.path).await.unwrap(), ADS_WORLD, "e").await.unwrap();
    envoy.ask(LISTENER, &[], "");
    let first = envoy.response().await;
    assert_eq!(first.resources.len(), 1);
    envoy.ask(LISTENER, &[], &first.nonce);
    envoy.ask(SECRET, &["absent"], "");
    assert!(envoy.response().await.resources.is_empty());
}

#[tokio::test]
async fn a_refused_snapshot_is_noticed_and_the_client_goes_back() {
    let mut server = server();
    let good = config(&[(CLUSTER, "a", 10)]);
    server.hub.publish(view(Arc::clone(&good), None));
    let mut envoy = server.delta("e").await;
    envoy.ask(CLUSTER, &[]);
    let first = envoy.response().await;
    envoy.ack(&first);
    let bad = config(&[(CLUSTER, "a", 11)]);
    server.hub.publish(view(Arc::clone(&bad), Some(good)));
    let second = envoy.response().await;
    envoy.nack(&second, "cluster a: no");
    let notice = server.notices.recv().await.unwrap();
    assert!(
        matches!(notice, Notice::Refused { snapshot, text, .. } if snapshot == bad.id && text == "cluster a: no")
    );
    let third = envoy.response().await;
    assert_eq!(third.resources[0].version, first.resources[0].version);
}

#[tokio::test]
async fn what_is_not_served_is_refused_in_words() {
    let server = server();
    for path in ["/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters", "//", "/x.y.Z/W"] {
        let result = Delta::open(channel(&server.path).await.unwrap(), path, "e").await;
        assert_eq!(result.err().unwrap().code(), Code::Unimplemented, "{path}");
    }
    let mut envoy = server.delta("").await;
    envoy.ask(CLUSTER, &[]);
    assert_eq!(envoy.next().await.unwrap_err().code(), Code::InvalidArgument);
    let mut envoy = server.delta("e").await;
    let names = vec!["x".repeat(10_000); 200];
    envoy.ask(CLUSTER, &[]);
    envoy.send(DeltaDiscoveryRequest { resource_names_subscribe: names, ..Default::default() });
    assert!(envoy.next().await.is_err(), "a request above the limit ends the stream");
}

#[tokio::test]
async fn streams_are_limited_and_the_others_live() {
    let server = server();
    let mut open = Vec::new();
    for n in 0..8 {
        open.push(server.delta(&format!("e{n}")).await);
    }
    let result = Delta::open(channel(&server.path).await.unwrap(), ADS_DELTA, "late").await;
    assert_eq!(result.err().unwrap().code(), Code::ResourceExhausted);
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    for envoy in &mut open {
        envoy.ask(CLUSTER, &[]);
        assert_eq!(envoy.response().await.resources.len(), 1);
    }
}

#[tokio::test]
async fn drain_goaway() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let mut envoy = server.delta("e").await;
    envoy.ask(CLUSTER, &[]);
    envoy.response().await;
    server.drain.cancel();
    assert!(envoy.next().await.unwrap().is_none(), "the stream ends with status OK");
    while server.path.exists() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn garbage_on_the_socket_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let mut envoy = server.delta("e").await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0; 64],
    ] {
        let mut raw = tokio::net::UnixStream::connect(&server.path).await.unwrap();
        raw.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        let _ = raw.read_to_end(&mut rest).await;
    }
    envoy.ask(CLUSTER, &[]);
    assert_eq!(envoy.response().await.resources.len(), 1);
}

#[tokio::test]
async fn a_socket_is_taken_over_and_the_old_owner_leaves_it_alone() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let next = UnixSocket::bind(&server.path, 0o660).unwrap();
    server.drain.cancel();
    tokio::task::yield_now().await;
    let drain = CancellationToken::new();
    let limits = Limits { drain: drain.clone(), ..server.frontend.limits.clone() };
    let frontend = Frontend { limits, ..server.frontend.clone() };
    tokio::spawn(next.serve(Arc::clone(&server.hub), Peers::default(), frontend));
    let mut envoy = server.delta("e").await;
    envoy.ask(CLUSTER, &[]);
    assert_eq!(envoy.response().await.resources.len(), 1);
    assert!(server.path.exists());
}
