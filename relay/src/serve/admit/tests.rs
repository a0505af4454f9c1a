//! Ends of connections, on paused time and streams in memory.

use super::*;
use crate::serve::grpc::Limits;
use crate::serve::proto::{DeltaDiscoveryRequest, Node};
use crate::serve::stream::Settings;
use crate::serve::types::CLUSTER;
use crate::serve::view::{Config, TypeSet, Value, View};
use moorgate_snapshot::{Digest, FleetName};
use prost::Message as _;
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_util::sync::CancellationToken;

const WINDOW: Duration = Duration::from_secs(20);

fn hub() -> Arc<Hub> {
    Hub::new(FleetName::gateway("shop", "edge"), Settings::default(), Arc::default()).0
}

/// A connection to a relay: what its client sees.
fn connect(hub: &Arc<Hub>, drain: &CancellationToken) -> DuplexStream {
    let (client, server) = duplex(1 << 20);
    let limits = Limits::new(1 << 20, 1000, drain.clone(), WINDOW);
    let caller = Caller { peer: "test".into(), client: "test".into(), identity: "test".into() };
    tokio::spawn(connection(Who::Known(Right::Open(Arc::clone(hub))), limits, server, caller, false));
    client
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Headers that open an ADS stream: literals without indexing (RFC 7541 §6.2.2).
fn open() -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "relay"),
        (":path", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 4, 1, &block)].concat()
}

/// The next frame: kind, flags, stream and payload.
async fn next(client: &mut DuplexStream) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    client.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, flags, stream @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    client.read_exact(&mut payload).await.ok()?;
    Some((kind, flags, u32::from_be_bytes(stream), payload))
}

/// A relay that stops tells each connection at once not to begin anything new (GOAWAY, no error), and ends their streams
/// one after the other, so that Envoys do not all come to the next relay in one moment.
#[tokio::test(start_paused = true)]
async fn drain_goaway_with_jitter() {
    let (hub, drain) = (hub(), CancellationToken::new());
    let begin = tokio::time::Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..50 {
        let mut client = connect(&hub, &drain);
        tasks.push(tokio::spawn(async move {
            client.write_all(&open()).await.unwrap();
            let (mut away, mut end) = (None, None);
            while let Some((kind, flags, stream, payload)) = next(&mut client).await {
                match kind {
                    // SETTINGS and PING are to be acknowledged.
                    4 | 6 if flags & 1 == 0 => {
                        let body = if kind == 6 { &payload[..] } else { &[] };
                        client.write_all(&frame(kind, 1, 0, body)).await.unwrap();
                    }
                    7 => {
                        assert_eq!(payload[4..8], [0; 4], "no error");
                        away.get_or_insert_with(tokio::time::Instant::now);
                    }
                    1 if stream == 1 && flags & 1 == 1 => end = Some(tokio::time::Instant::now()),
                    _ => {}
                }
            }
            (away, end)
        }));
    }
    while hub.clients().len() < 50 {
        tokio::task::yield_now().await;
    }
    drain.cancel();
    let mut ends = Vec::new();
    for task in tasks {
        let (away, end) = task.await.unwrap();
        let (away, end) = (away.unwrap() - begin, end.unwrap() - begin);
        assert!(away < Duration::from_secs(1), "told at once");
        assert!(end < WINDOW + Duration::from_secs(1), "ended in the window");
        ends.push(end);
    }
    ends.sort_unstable();
    // Fifty shares of a window by chance: the middle half of them never lies in a tenth of it.
    assert!(ends[37] > ends[12] + WINDOW / 10, "{ends:?}");
}

/// Row 99: whoever begins and does not go on is let go.
#[tokio::test(start_paused = true)]
async fn the_silent_are_let_go() {
    let (hub, drain) = (hub(), CancellationToken::new());
    for begun in [&b""[..], b"P", PREFACE, &[PREFACE, &frame(4, 0, 0, &[])].concat(), &open()[..60], &open()]
    {
        let mut client = connect(&hub, &drain);
        client.write_all(begun).await.unwrap();
        let begin = tokio::time::Instant::now();
        // A whole stream ends by itself, and its connection stays.
        let whole = begun.len() == open().len();
        let mut ended = false;
        while let Some((kind, flags, stream, _)) = next(&mut client).await {
            ended |= kind == 1 && flags & 1 == 1 && stream == 1;
            if ended {
                break;
            }
        }
        assert_eq!(ended, whole);
        assert!(begin.elapsed() <= Duration::from_secs(31), "{} bytes", begun.len());
    }
    while !hub.clients().is_empty() {
        tokio::task::yield_now().await;
    }
}

/// Row 99: who takes a response and never says whether it took it is let go; it comes back if it lives.
#[tokio::test(start_paused = true)]
async fn who_never_acknowledges_is_let_go() {
    let (hub, drain) = (hub(), CancellationToken::new());
    let value = Arc::new(Value::new(vec![bytes::Bytes::from_static(b"a")], vec![]));
    let types = BTreeMap::from([(CLUSTER.into(), BTreeMap::from([("a".into(), value)]))]);
    let nothing = || TypeSet::new(BTreeMap::new(), BTreeSet::new());
    let config = Config::new(Digest::of(b"s"), types, None);
    hub.publish(Arc::new(View {
        config,
        fallback: None,
        endpoints: nothing(),
        secrets: nothing(),
        extensions: nothing(),
        leftover: Arc::default(),
    }));
    let mut client = connect(&hub, &drain);
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id: "e".into(), ..Node::default() }),
        type_url: CLUSTER.into(),
        ..Default::default()
    };
    let body = request.encode_to_vec();
    let message = [&[0][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), &body].concat();
    client.write_all(&[open(), frame(0, 0, 1, &message)].concat()).await.unwrap();
    let begin = tokio::time::Instant::now();
    let mut got = 0;
    while let Some((kind, flags, stream, payload)) = next(&mut client).await {
        match kind {
            0 if stream == 1 => got += payload.len(),
            // Trailers.
            1 if stream == 1 && flags & 1 == 1 => break,
            _ => {}
        }
    }
    assert!(got > 0, "it had its response");
    let waited = begin.elapsed();
    assert!(waited > Duration::from_mins(14) && waited < Duration::from_mins(16), "{waited:?}");
}
