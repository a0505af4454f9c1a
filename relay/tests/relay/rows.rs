//! Bad clients, one case a row of the catalogue of bad inputs (96 to 113). What is wrong costs its own stream or connection,
//! and an Envoy beside it notices nothing.

use crate::client::{ADS_DELTA, ADS_WORLD, Delta, World, channel};
use crate::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, End, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, Wire,
    call, frame, message,
};
use crate::serve::{Server, config, server, view};
use moorgate_relay::serve::admit::Frontend;
use moorgate_relay::serve::grpc::Limits;
use moorgate_relay::serve::hub::Hub;
use moorgate_relay::serve::listen::{Peers, UnixSocket};
use moorgate_relay::serve::proto::{
    BuildVersion, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, Node, SemanticVersion,
    Status as Refusal,
};
use moorgate_relay::serve::share::Shares;
use moorgate_relay::serve::stream::Settings;
use moorgate_relay::serve::types::{CLUSTER, ENDPOINT, LISTENER, SECRET};
use prost::Message;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tonic::Code;

/// An Envoy that has its configuration, beside which something happens.
struct Beside {
    server: Server,
    envoy: Delta,
    version: u32,
}

impl Beside {
    async fn new() -> Self {
        Self::of(server()).await
    }

    async fn of(server: Server) -> Self {
        server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
        let mut envoy = server.delta("neighbour").await;
        envoy.ask(CLUSTER, &[]);
        let response = envoy.response().await;
        envoy.ack(&response);
        Self { server, envoy, version: 1 }
    }

    /// A change still reaches the neighbour, on the stream that it had, and it alone is left.
    async fn lives(&mut self, what: &str) {
        self.version += 1;
        self.server.hub.publish(view(config(&[(CLUSTER, "a", self.version as usize)]), None));
        let response = self.envoy.response().await;
        assert_eq!(response.resources.len(), 1, "{what}");
        self.envoy.ack(&response);
    }

    /// Waits until nobody but the neighbour is served.
    async fn alone(&self, what: &str) {
        crate::relay::eventually(what, || self.server.hub.clients().len() == 1).await;
    }

    async fn wire(&self) -> Wire {
        Wire::begun(&self.server.path).await
    }

    /// Sends on a new connection, and reads until that or so many of its streams end.
    async fn attack(&mut self, what: &str, bytes: &[u8], streams: usize) -> End {
        let mut wire = self.wire().await;
        let _ = wire.send(bytes).await;
        let end = wire.end(streams).await;
        drop(wire);
        self.alone(what).await;
        self.lives(what).await;
        end
    }

    async fn delta(&self, node: &str) -> Delta {
        self.server.delta(node).await
    }
}

/// These statuses as HPACK's Huffman code writes them (RFC 7541, appendix B).
const STATUS_415: &[u8] = &[0x68, 0x2d, 0xff];
const STATUS_405: &[u8] = &[0x68, 0x0d, 0xff];

fn open(changed: &[(&'static str, &'static str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &call(changed))
}

#[tokio::test]
async fn row_096_what_is_no_grpc() {
    let mut beside = Beside::new().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        &[0; 4096],
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        let mut wire = Wire::open(&beside.server.path).await;
        let _ = wire.send(garbage).await;
        assert_eq!(wire.end(1).await.ended, 0, "closed without a stream");
        beside.lives("garbage").await;
    }
    let end = beside.attack("content type", &open(&[("content-type", "text/html")]), 1).await;
    assert!(end.ended == 1 && end.says(STATUS_415), "{end:?}");
    let end = beside.attack("GET", &open(&[(":method", "GET")]), 1).await;
    assert!(end.says(STATUS_405), "{end:?}");
    for path in [
        "/",
        "//",
        "//envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources",
        "/a/b/c",
        "*",
    ] {
        let end = beside.attack(path, &open(&[(":path", path)]), 1).await;
        assert_eq!(end.ended, 1, "{path}: {end:?}");
    }
    // A message that is compressed, without an encoding that was agreed on, and one of no known flag.
    for flag in [1, 2, 255] {
        let sent = [open(&[]), frame(DATA, 0, 1, &message(flag, b"\x0a\x02\x0a\x00"))].concat();
        assert_eq!(beside.attack("flag", &sent, 1).await.ended, 1, "{flag}");
    }
    let sent = [open(&[("grpc-encoding", "gzip")]), frame(DATA, 0, 1, &message(1, b"\x1f\x8b"))].concat();
    assert_eq!(beside.attack("gzip", &sent, 1).await.ended, 1);
    // No protobuf.
    let sent = [open(&[]), frame(DATA, 0, 1, &message(0, b"\xff\xff\xff"))].concat();
    assert_eq!(beside.attack("protobuf", &sent, 1).await.ended, 1);
}

#[tokio::test]
async fn row_097_a_request_beyond_the_limit_and_a_large_one_below_it() {
    let mut beside = Beside::new().await;
    let names = |count: usize| (0..count).map(|n| format!("{n:0>100}")).collect::<Vec<_>>();
    let request = |count| DeltaDiscoveryRequest {
        node: Some(Node { id: "e".into(), ..Node::default() }),
        type_url: ENDPOINT.into(),
        resource_names_subscribe: names(count),
        ..Default::default()
    };
    // The limit of these servers is 1 MiB; a relay's own is 32 MiB.
    let mut large = beside.delta("large").await;
    large.send(request(9_000));
    assert_eq!(large.response().await.removed_resources.len(), 9_000);
    let mut larger = beside.delta("larger").await;
    larger.send(request(11_000));
    assert_eq!(larger.next().await.unwrap_err().code(), Code::OutOfRange);
    // One that only says that it is large.
    let end = beside.server.path.clone();
    let mut wire = Wire::begun(&end).await;
    assert!(wire.send(&[open(&[]), frame(DATA, 0, 1, &[0, 0xff, 0xff, 0xff, 0xff])].concat()).await);
    assert_eq!(wire.end(1).await.ended, 1);
    drop((large, larger, wire));
    beside.alone("large requests").await;
    beside.lives("large requests").await;
}

#[tokio::test]
async fn row_098_an_answer_beyond_four_megabytes_comes_in_parts() {
    let server = server();
    let many: Vec<String> = (0..21).map(|n| format!("c{n:02}")).collect();
    let entries: Vec<_> = many.iter().map(|name| (CLUSTER, name.as_str(), 1_000_000)).collect();
    server.hub.publish(view(config(&entries), None));
    let mut envoy = server.delta("e").await;
    envoy.ask(CLUSTER, &[]);
    let mut names = Vec::new();
    while names.len() < 21 {
        let response = envoy.response().await;
        assert!(response.encoded_len() <= 4 << 20);
        names.extend(response.resources.iter().map(|resource| resource.name.clone()));
        envoy.ack(&response);
    }
    assert_eq!(names, many);
}

/// Row 99 (the silent, and messages that are begun and not finished) is a test of `serve::admit` and `serve::meter`, on
/// paused time; here is the client that takes everything and acknowledges nothing.
#[tokio::test]
async fn row_099_a_client_that_never_acknowledges_costs_one_response() {
    let mut beside = Beside::new().await;
    let mut silent = beside.delta("silent").await;
    silent.ask(CLUSTER, &[]);
    let first = silent.response().await;
    for _ in 0..200 {
        beside.lives("changes").await;
    }
    // Of two hundred changes it gets the newest, and only when it asks for more.
    silent.ack(&first);
    let second = silent.response().await;
    let newest = second.resources[0].resource.as_ref().unwrap().value.len();
    assert_eq!((newest, second.nonce.as_str()), (201, "2"));
}

#[tokio::test]
async fn row_100_floods_of_streams_frames_and_resets() {
    let mut beside = Beside::new().await;
    let stream = |n: u32| frame(HEADERS, END_HEADERS, 2 * n + 1, &call(&[]));
    // Ten thousand streams on one connection: beyond 64 each is refused, or the connection is.
    let many: Vec<u8> = (0..10_000).flat_map(stream).collect();
    let end = beside.attack("streams", &many, 2000).await;
    assert!(end.away.is_some() || end.resets.len() + end.ended >= 2000, "{:?}", end.away);
    // Rapid reset (CVE-2023-44487).
    let resets: Vec<u8> = (0..10_000)
        .flat_map(|n| [stream(n), frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())].concat())
        .collect();
    let end = beside.attack("rapid reset", &resets, usize::MAX).await;
    assert_eq!(end.away, Some(11), "ENHANCE_YOUR_CALM");
    // Headers without an end (CVE-2024-27316).
    let endless = [
        frame(HEADERS, 0, 1, &call(&[])),
        frame(CONTINUATION, 0, 1, &crate::http2::block(&[("x-filler", &"x".repeat(10_000))])).repeat(1000),
    ]
    .concat();
    let end = beside.attack("continuation", &endless, usize::MAX).await;
    assert!(end.away.is_some(), "{end:?}");
    // Headers that are too long, names that are none, a stream that goes back, frames on streams that are not there.
    let long = crate::http2::block(&[("x-filler", &"x".repeat(15_000))]).repeat(4);
    for (what, bytes) in [
        ("long headers", frame(HEADERS, END_HEADERS, 1, &[call(&[]), long[..16_000].to_vec()].concat())),
        ("garbage headers", frame(HEADERS, END_HEADERS, 1, &[0xff; 100])),
        ("data on an idle stream", frame(DATA, 0, 7, b"x")),
        ("even stream", frame(HEADERS, END_HEADERS, 2, &call(&[]))),
        ("huge frame", [&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1][..], &[0; 100]].concat()),
        ("reset of stream 0", frame(RST_STREAM, 0, 0, &[0; 4])),
        ("odd settings", frame(SETTINGS, 0, 0, &[0; 5])),
    ] {
        let end = beside.attack(what, &bytes, 1).await;
        assert!(end.away.is_some() || end.ended > 0, "{what}: {end:?}");
    }
    // Pings and settings that are all to be answered, and whose answers nobody reads.
    for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])] {
        let mut wire = beside.wire().await;
        let sent = async {
            for _ in 0..200 {
                if !wire.send(&flood.repeat(1000)).await {
                    break;
                }
            }
        };
        // Whether the relay closes or stops to read, it keeps nothing for the flood.
        let _ = tokio::time::timeout(Duration::from_secs(2), sent).await;
        drop(wire);
        beside.lives("flood").await;
    }
}

/// A server with small limits.
fn limited(streams: usize, connections: usize, of_client: usize) -> Server {
    let server = server();
    let limits = Limits::new(1 << 20, streams, server.drain.clone(), Duration::from_millis(50));
    let limits = Limits { shares: Shares::new(of_client), ..limits };
    let (connections, shares) = (Arc::new(Semaphore::new(connections)), Shares::new(of_client));
    let frontend = Frontend { limits, connections, shares };
    let path = server.path.with_extension("limited");
    let socket = UnixSocket::bind(&path, 0o600).unwrap();
    tokio::spawn(socket.serve(Arc::clone(&server.hub), Peers::default(), frontend));
    Server { path, ..server }
}

fn refused(hub: &Hub, reason: &str) -> u32 {
    let found = hub.metrics().get("moorgate_relay_connections_refused", &[("reason", reason)]);
    // Small whole numbers.
    format!("{}", found.unwrap_or_default()).parse().unwrap()
}

/// Whoever fills all places of one kind leaves those of others alone.
#[tokio::test]
async fn row_100_connections_and_streams_are_limited_in_all_and_for_each_client() {
    let server = limited(100, 100, 10);
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(Wire::begun(&server.path).await);
    }
    // One process is one client: this one has its ten connections, and gets no eleventh.
    let mut late = Wire::open(&server.path).await;
    let _ = late.send(PREFACE).await;
    assert_eq!(late.end(1).await, End::default());
    assert!(refused(&server.hub, "client_too_many") >= 1);
    drop(held);
    let server = limited(100, 3, 1000);
    let held =
        [Wire::begun(&server.path).await, Wire::begun(&server.path).await, Wire::begun(&server.path).await];
    crate::relay::eventually("three are admitted", || {
        server.hub.metrics().get("moorgate_relay_connections", &[]) == Some(3.0)
    })
    .await;
    let mut late = Wire::open(&server.path).await;
    let _ = late.send(PREFACE).await;
    assert_eq!(late.end(1).await, End::default());
    assert_eq!(refused(&server.hub, "too_many"), 1);
    drop(held);
    // Streams of one client.
    let server = limited(100, 100, 5);
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let shared = channel(&server.path).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(Delta::open(shared.clone(), ADS_DELTA, "e").await.unwrap());
    }
    let sixth = Delta::open(shared.clone(), ADS_DELTA, "e").await.err().unwrap();
    assert_eq!((sixth.code(), sixth.message()), (Code::ResourceExhausted, "too many streams of one client"));
    streams[0].ask(CLUSTER, &[]);
    assert_eq!(streams[0].response().await.resources.len(), 1);
}

/// One of several fleets cannot take all streams of a relay.
#[tokio::test]
async fn row_100_a_fleet_leaves_room_for_others() {
    let mut server = server();
    let limits = Limits {
        fleets: Shares::new(6),
        shares: Shares::new(1000),
        ..Limits::new(1 << 20, 8, server.drain.clone(), Duration::ZERO)
    };
    server.frontend = Frontend { limits, ..server.frontend };
    let open = async |fleet: &str, count: usize| {
        let hub = Hub::new(fleet.parse().unwrap(), Settings::default(), Arc::default()).0;
        let path = server.path.with_extension(fleet.replace('/', "."));
        let socket = UnixSocket::bind(&path, 0o600).unwrap();
        tokio::spawn(socket.serve(hub, Peers::default(), server.frontend.clone()));
        let mut streams = Vec::new();
        for _ in 0..count {
            streams.push(Delta::open(channel(&path).await.unwrap(), ADS_DELTA, "e").await);
        }
        streams
    };
    let greedy = open("a/greedy", 8).await;
    assert_eq!(greedy.iter().filter(|stream| stream.is_ok()).count(), 6);
    let modest = open("b/modest", 2).await;
    assert!(modest.iter().all(Result::is_ok));
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_101_thousands_that_come_and_go_leave_nothing() {
    let mut beside = Beside::of(limited(1000, 1000, 1_000_000)).await;
    let come_and_go = async |count: usize| {
        for n in 0..count {
            let mut wire = Wire::open(&beside.server.path).await;
            let _ = wire.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &open(&[])].concat()).await;
            if n % 2 == 0 {
                // Half of them wait until they are served.
                let _ = wire.next().await;
            }
        }
        beside.alone("all are gone").await;
    };
    come_and_go(1000).await;
    let before = resident();
    come_and_go(4000).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 24 << 20, "{} MiB", grown >> 20);
    beside.lives("come and go").await;
}

#[tokio::test]
async fn row_102_an_unknown_type_has_no_resources_and_the_stream_lives() {
    let beside = Beside::new().await;
    let mut envoy = beside.delta("e").await;
    envoy.ask("type.googleapis.com/no.such.Type", &["x"]);
    let response = envoy.response().await;
    assert!(response.resources.is_empty() && response.removed_resources == ["x"]);
    envoy.ack(&response);
    envoy.ask(CLUSTER, &[]);
    assert_eq!(envoy.response().await.resources.len(), 1);
    let mut world = World::open(channel(&beside.server.path).await.unwrap(), ADS_WORLD, "w").await.unwrap();
    world.ask("type.googleapis.com/no.such.Type", &["x"], "");
    world.ask(CLUSTER, &[], "");
    assert_eq!(world.response().await.type_url, CLUSTER);
}

#[tokio::test]
async fn row_103_nonces_that_are_stale_invented_empty_or_of_another_type() {
    let beside = Beside::new().await;
    let mut envoy = beside.delta("e").await;
    let with = |nonce: &str, type_url: &str| DeltaDiscoveryRequest {
        node: Some(Node { id: "e".into(), ..Node::default() }),
        type_url: type_url.into(),
        response_nonce: nonce.into(),
        ..Default::default()
    };
    // Acknowledged before anything was sent, and then a nonce that nobody gave out.
    envoy.send(with("1", LISTENER));
    envoy.ask(CLUSTER, &[]);
    let clusters = loop {
        let response = envoy.response().await;
        if response.type_url == CLUSTER {
            break response;
        }
    };
    for (nonce, type_url) in
        [("", CLUSTER), ("999", CLUSTER), ("-1", CLUSTER), (&clusters.nonce, LISTENER), ("\u{0}", CLUSTER)]
    {
        envoy.send(with(nonce, type_url));
    }
    // None of these acknowledged the clusters: a change waits until they are.
    envoy.ask(SECRET, &["x"]);
    let seen = envoy.response().await;
    assert_eq!(seen.type_url, SECRET);
    let held = || {
        beside.server.hub.clients().iter().any(|client| {
            client.types.get("CDS").is_some_and(|held| client.node == "e" && held.acked.is_some())
        })
    };
    assert!(!held());
    envoy.ack(&clusters);
    crate::relay::eventually("acknowledged", held).await;
}

#[tokio::test]
async fn row_104_endless_refusals_bring_nothing_twice() {
    let mut beside = Beside::new().await;
    let mut envoy = beside.delta("e").await;
    envoy.ask(CLUSTER, &[]);
    let first = envoy.response().await;
    envoy.nack(&first, "no");
    for _ in 0..300 {
        envoy.send(DeltaDiscoveryRequest {
            type_url: CLUSTER.into(),
            resource_names_subscribe: vec!["*".into()],
            response_nonce: first.nonce.clone(),
            error_detail: Some(Refusal { code: 3, message: "no".into() }),
            ..Default::default()
        });
    }
    // The next thing that it gets is something new.
    beside.lives("refusals").await;
    let next = envoy.response().await;
    assert_ne!(next.resources[0].version, first.resources[0].version);
    assert_eq!(next.nonce, "2", "three hundred refusals brought nothing");
}

#[tokio::test]
async fn row_105_a_refusal_is_an_error_detail_whatever_the_version_says() {
    for error in [true, false] {
        let mut beside = Beside::new().await;
        let mut world =
            World::open(channel(&beside.server.path).await.unwrap(), ADS_WORLD, "w").await.unwrap();
        world.ask(CLUSTER, &[], "");
        let first = world.response().await;
        world.send(DiscoveryRequest {
            // As envoy #14841: the version of the refused response, or of none, says nothing.
            version_info: if error { first.version_info.clone() } else { String::new() },
            type_url: CLUSTER.into(),
            response_nonce: first.nonce.clone(),
            error_detail: error.then(|| Refusal { code: 3, message: "no".into() }),
            ..Default::default()
        });
        let held = || {
            let clients = beside.server.hub.clients();
            let held = clients
                .iter()
                .find(|client| client.node == "w")
                .and_then(|client| client.types.get("CDS").cloned());
            held.is_some_and(|held| {
                if error {
                    held.nacks == 1 && held.acked.is_none()
                } else {
                    held.nacks == 0 && held.acked.is_some()
                }
            })
        };
        crate::relay::eventually("told apart", held).await;
        beside.lives("refusal").await;
    }
}

#[tokio::test]
async fn row_106_subscriptions_in_one_message() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1), (CLUSTER, "b", 1)]), None));
    // Subscribe, unsubscribe: what comes, sorted, removals with a minus.
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&["a"], &["a"], &[]),
        (&["a", "b"], &["a"], &["b"]),
        (&["*"], &[], &["a", "b"]),
        (&["*", "absent"], &[], &["-absent", "a", "b"]),
        (&["*", "a"], &["a"], &["a", "b"]),
        (&["*", "a"], &["*"], &["a"]),
        (&[""], &[], &["-"]),
    ];
    for (subscribe, unsubscribe, expected) in cases {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut envoy = server.delta("e").await;
        envoy.send(DeltaDiscoveryRequest {
            node: Some(Node { id: "e".into(), ..Node::default() }),
            type_url: CLUSTER.into(),
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            ..Default::default()
        });
        // Whatever came of it, this is answered after it.
        envoy.ask(SECRET, &["end"]);
        let mut found = Vec::new();
        loop {
            let response = envoy.response().await;
            if response.type_url == SECRET {
                break;
            }
            found.extend(response.resources.iter().map(|resource| resource.name.clone()));
            found.extend(response.removed_resources.iter().map(|name| format!("-{name}")));
        }
        found.sort();
        assert_eq!(found, owned(expected), "{subscribe:?} {unsubscribe:?}");
    }
}

#[tokio::test]
async fn row_107_a_hundred_thousand_versions_of_names_that_nobody_knows() {
    let server = server();
    let limits = Limits::new(32 << 20, 8, server.drain.clone(), Duration::ZERO);
    let path = server.path.with_extension("large");
    let frontend = Frontend { limits, ..server.frontend.clone() };
    tokio::spawn(UnixSocket::bind(&path, 0o600).unwrap().serve(
        Arc::clone(&server.hub),
        Peers::default(),
        frontend,
    ));
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let known = |count: usize| DeltaDiscoveryRequest {
        node: Some(Node { id: "e".into(), ..Node::default() }),
        type_url: LISTENER.into(),
        initial_resource_versions: (0..count).map(|n| (format!("gone-{n:06}"), "v".to_owned())).collect(),
        ..Default::default()
    };
    let mut envoy = Delta::open(channel(&path).await.unwrap(), ADS_DELTA, "e").await.unwrap();
    envoy.send(known(100_000));
    let mut gone = 0;
    while gone < 100_000 {
        let response: DeltaDiscoveryResponse = envoy.response().await;
        gone += response.removed_resources.len();
        envoy.ack(&response);
    }
    let mut greedy = Delta::open(channel(&path).await.unwrap(), ADS_DELTA, "e").await.unwrap();
    greedy.send(known(1_000_001));
    assert_eq!(greedy.next().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn row_108_nodes_that_are_missing_changed_large_or_somebody_elses() {
    let mut beside = Beside::new().await;
    let mut nobody = beside.delta("").await;
    nobody.ask(CLUSTER, &[]);
    assert_eq!(nobody.next().await.unwrap_err().code(), Code::InvalidArgument);
    // Another fleet's id, a changed one, and a megabyte of metadata: hints, and read over.
    let mut envoy = beside.delta("other/fleet").await;
    envoy.ask(CLUSTER, &[]);
    let response = envoy.response().await;
    assert_eq!(response.resources.len(), 1);
    envoy.send(DeltaDiscoveryRequest {
        node: Some(Node { id: "changed\u{1b}[2J".into(), ..Node::default() }),
        type_url: CLUSTER.into(),
        response_nonce: response.nonce,
        ..Default::default()
    });
    let acked = || {
        beside
            .server
            .hub
            .clients()
            .iter()
            .any(|client| client.node == "other/fleet" && client.types["CDS"].acked.is_some())
    };
    crate::relay::eventually("the first node counts", acked).await;
    drop((nobody, envoy));
    beside.alone("gone").await;
    let metadata = [&[0x0a, 1, b'm', 0x1a][..], &[0x80, 0x80, 0x38], &vec![0; 14 << 16]].concat();
    let node = [&[0x0a][..], &varint(metadata.len()), &metadata].concat();
    let body = [&node[..], &[0x12, u8::try_from(CLUSTER.len()).unwrap()], CLUSTER.as_bytes()].concat();
    let mut wire = beside.wire().await;
    let data = message(0, &body);
    let mut sent = open(&[]);
    let whole = wire.send(&sent).await;
    assert!(whole);
    sent = data.chunks(16_000).flat_map(|part| frame(DATA, 0, 1, part)).collect();
    // Flow control is not minded: the windows are larger than this, or the connection ends.
    let _ = wire.send(&sent).await;
    drop(wire);
    beside.alone("metadata").await;
    beside.lives("metadata").await;
    let long = "x".repeat(1 << 19);
    let mut envoy = beside.delta(&long).await;
    envoy.ask(CLUSTER, &[]);
    envoy.response().await;
    assert!(beside.server.hub.clients().iter().all(|client| client.node.len() <= 256));
}

fn varint(mut number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap());
    out
}

/// Row 109 is [`crate::tls`]: a secret of another fleet is as absent as one of nobody.
#[tokio::test]
async fn row_109_a_secret_of_nobody_is_missing_and_no_more_is_said() {
    let beside = Beside::new().await;
    let mut envoy = beside.delta("e").await;
    envoy.ask(SECRET, &["other/b-tls", "../../etc/passwd", "*"]);
    let response = envoy.response().await;
    assert!(response.resources.is_empty());
    assert_eq!(response.removed_resources, ["../../etc/passwd", "other/b-tls"]);
}

#[tokio::test]
async fn row_110_methods_that_are_not_served() {
    let mut beside = Beside::new().await;
    for path in [
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/FetchResources",
        "/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters",
        "/v3/discovery:clusters",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats",
        "/envoy.api.v2.ClusterDiscoveryService/StreamClusters",
        "/debug/pprof",
    ] {
        let opened = Delta::open(channel(&beside.server.path).await.unwrap(), path, "e").await;
        assert_eq!(opened.err().unwrap().code(), Code::Unimplemented, "{path}");
    }
    // A unary call: one message and the end of the request.
    let body = DeltaDiscoveryRequest {
        node: Some(Node { id: "e".into(), ..Node::default() }),
        type_url: CLUSTER.into(),
        ..Default::default()
    };
    let unary = [open(&[]), frame(DATA, END_STREAM, 1, &message(0, &body.encode_to_vec()))].concat();
    assert_eq!(beside.attack("unary", &unary, 1).await.ended, 1);
}

/// `oldest_envoy` of a manifest, minor by minor.
#[tokio::test]
async fn row_111_an_envoy_that_is_too_old_keeps_the_last_good_one() {
    let Server { hub, mut notices, drain, frontend, path, _directory } = server();
    let (good, new) = (config(&[(CLUSTER, "a", 1)]), config(&[(CLUSTER, "a", 2)]));
    hub.need([(good.id, "1.38"), (new.id, "1.40")].into_iter());
    hub.publish(view(Arc::clone(&new), Some(Arc::clone(&good))));
    let ask = async |minor: u32| {
        let mut envoy = Delta::open(channel(&path).await.unwrap(), ADS_DELTA, "e").await.unwrap();
        envoy.send(DeltaDiscoveryRequest {
            node: Some(Node {
                id: format!("envoy-{minor}"),
                user_agent_name: "envoy".into(),
                user_agent_build_version: Some(BuildVersion {
                    version: Some(SemanticVersion { major: 1, minor, patch: 0 }),
                }),
                ..Node::default()
            }),
            type_url: CLUSTER.into(),
            ..Default::default()
        });
        let response = envoy.response().await;
        (envoy, response.system_version_info)
    };
    let (_old, version) = ask(39).await;
    assert_eq!(version, good.id.short());
    let client = hub.clients().pop().unwrap();
    assert!(client.unfit.unwrap().contains("needs Envoy 1.40"));
    let (_new, version) = ask(40).await;
    assert_eq!(version, new.id.short());
    assert!(notices.try_recv().is_err(), "it is nobody's fault but its own");
    drop((drain, frontend));
}

#[tokio::test]
async fn row_112_a_swap_in_the_middle_of_an_update_finishes_or_starts_again() {
    let server = server();
    let world = |n: usize| view(config(&[(CLUSTER, "a", n), (LISTENER, "l", n)]), None);
    server.hub.publish(world(1));
    let mut envoy = server.delta("e").await;
    for type_url in [CLUSTER, LISTENER] {
        envoy.ask(type_url, &[]);
        let response = envoy.response().await;
        envoy.ack(&response);
    }
    server.hub.publish(world(2));
    let clusters = envoy.response().await;
    assert_eq!(clusters.type_url, CLUSTER);
    // Before it is acknowledged there are two more: listeners of the second never go out, and those of the last come last.
    server.hub.publish(world(3));
    server.hub.publish(world(4));
    envoy.ack(&clusters);
    let mut order = Vec::new();
    for _ in 0..2 {
        let response = envoy.response().await;
        order.push((response.type_url.clone(), response.resources[0].resource.as_ref().unwrap().value.len()));
        envoy.ack(&response);
    }
    assert_eq!(order, [(CLUSTER.to_owned(), 4), (LISTENER.to_owned(), 4)]);
}

/// A client that acknowledges what it has not read, and reads nothing: what waits for it is bounded, and it is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_keep_only_the_latest() {
    let mut beside = Beside::new().await;
    let body = |nonce: usize, first: bool| {
        let request = DeltaDiscoveryRequest {
            node: first.then(|| Node { id: "deaf".into(), ..Node::default() }),
            type_url: CLUSTER.into(),
            resource_names_subscribe: vec!["a".into()],
            response_nonce: if first { String::new() } else { nonce.to_string() },
            ..Default::default()
        };
        frame(DATA, 0, 1, &message(0, &request.encode_to_vec()))
    };
    beside.server.hub.publish(view(config(&[(CLUSTER, "a", 1_000_000)]), None));
    let big = beside.envoy.response().await;
    beside.envoy.ack(&big);
    let mut wire = beside.wire().await;
    assert!(wire.send(&[open(&[]), body(0, true)].concat()).await);
    // Each of these asks again for a megabyte that is never read.
    let flood = async {
        for nonce in 1..20_000 {
            if !wire.send(&body(nonce, false)).await {
                return;
            }
        }
    };
    let before = resident();
    let _ = tokio::time::timeout(Duration::from_secs(3), flood).await;
    assert!(resident().saturating_sub(before) < 200 << 20);
    let sent = beside
        .server
        .hub
        .metrics()
        .get("moorgate_relay_responses", &[("fleet", "shop/edge"), ("type", "CDS")]);
    assert!(sent.is_some_and(|sent| sent < 200.0), "{sent:?}");
    drop(wire);
    beside.alone("it left").await;
    beside.lives("it left").await;
}

/// Only the users that a socket names may connect to it, whatever its mode says.
#[tokio::test]
async fn peers_of_a_socket_are_users_and_groups() {
    let server = server();
    server.hub.publish(view(config(&[(CLUSTER, "a", 1)]), None));
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&server.path).unwrap());
    let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&server.path).unwrap());
    let cases = [
        (Peers { users: [own].into(), ..Peers::default() }, true),
        (Peers { users: [own + 1].into(), ..Peers::default() }, false),
        (Peers { users: [own + 1].into(), groups: [group].into() }, true),
        (Peers { groups: [group + 1].into(), ..Peers::default() }, false),
    ];
    for (number, (peers, admitted)) in cases.into_iter().enumerate() {
        let path: PathBuf = server.path.with_extension(format!("{number}"));
        let socket = UnixSocket::bind(&path, 0o666).unwrap();
        tokio::spawn(socket.serve(Arc::clone(&server.hub), peers, server.frontend.clone()));
        let opened = match channel(&path).await {
            Ok(channel) => Delta::open(channel, ADS_DELTA, "e").await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(opened, admitted, "case {number}");
    }
    // A client may try more than once.
    assert!(refused(&server.hub, "peer") >= 2);
}

/// Ten thousand streams that say nothing more: what happens beside them happens at once, and each costs little.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_streams() {
    const STREAMS: usize = 10_000;
    let mut beside = Beside::of(limited(20_000, 1000, 15_000)).await;
    let before = resident();
    let mut connections = Vec::new();
    for _ in 0..STREAMS / 50 {
        let mut wire = beside.wire().await;
        let request = DeltaDiscoveryRequest {
            node: Some(Node { id: "idle".into(), ..Node::default() }),
            type_url: SECRET.into(),
            resource_names_subscribe: vec!["x".into()],
            ..Default::default()
        };
        let data = message(0, &request.encode_to_vec());
        let streams = (0..50_u32).flat_map(|n| {
            let id = 2 * n + 1;
            [frame(HEADERS, END_HEADERS, id, &call(&[])), frame(DATA, 0, id, &data)].concat()
        });
        assert!(wire.send(&streams.collect::<Vec<_>>()).await);
        connections.push(wire);
    }
    let hub = Arc::clone(&beside.server.hub);
    let all = || hub.clients().iter().filter(|client| client.types.contains_key("SDS")).count() == STREAMS;
    crate::relay::eventually("all are served", all).await;
    let each = resident().saturating_sub(before) / STREAMS;
    println!("{each} bytes a stream, with its client's side");
    assert!(each < 100 << 10, "{each} bytes a stream");
    for _ in 0..10 {
        beside.lives("beside ten thousand").await;
    }
    drop(connections);
    beside.alone("all are gone").await;
    beside.lives("after ten thousand").await;
}
