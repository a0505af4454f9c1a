//! HTTP/2 by hand: what no well-behaved client would send.

use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// One frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The length of a string below 2^14, as HPACK writes it (RFC 7541 §5.1).
fn length(text: &str) -> Vec<u8> {
    match text.len() {
        short @ 0..127 => vec![u8::try_from(short).unwrap()],
        long => {
            let rest = long - 127;
            vec![127, u8::try_from(rest % 128).unwrap() | 128, u8::try_from(rest / 128).unwrap()]
        }
    }
}

/// Headers as literals without indexing.
pub(crate) fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.extend(length(text));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// The headers of a gRPC call, with some of them changed.
pub(crate) fn call(changed: &[(&'static str, &'static str)]) -> Vec<u8> {
    let mut headers = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "relay"),
        (":path", ADS),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in changed {
        match headers.iter_mut().find(|(known, _)| known == name) {
            Some(header) => header.1 = value,
            None => headers.push((name, value)),
        }
    }
    block(&headers)
}

/// A gRPC message.
pub(crate) fn message(flag: u8, body: &[u8]) -> Vec<u8> {
    [&[flag][..], &u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// How an attack ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// The code of GOAWAY.
    pub(crate) away: Option<u32>,
    /// Codes of RST_STREAM.
    pub(crate) resets: Vec<u32>,
    /// Header blocks, as they came.
    pub(crate) headers: Vec<u8>,
    /// Streams that the server ended.
    pub(crate) ended: usize,
}

impl End {
    pub(crate) fn says(&self, bytes: &[u8]) -> bool {
        self.headers.windows(bytes.len()).any(|part| part == bytes)
    }
}

/// A connection.
pub(crate) struct Wire(UnixStream);

impl Wire {
    pub(crate) async fn open(path: &Path) -> Self {
        Self(UnixStream::connect(path).await.unwrap())
    }

    /// The same with preface and settings sent.
    pub(crate) async fn begun(path: &Path) -> Self {
        let mut wire = Self::open(path).await;
        assert!(wire.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await);
        wire
    }

    /// Sends; false if the other side has closed.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).await.is_ok()
    }

    /// The next frame: kind, flags, stream, payload. None at the end, whatever ended it.
    pub(crate) async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((kind, flags, u32::from_be_bytes(stream), payload))
        };
        tokio::time::timeout(Duration::from_secs(20), read).await.expect("something within twenty seconds")
    }

    /// Reads until the server closes, or so many streams have ended.
    pub(crate) async fn end(&mut self, streams: usize) -> End {
        let code = |payload: &[u8], at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        let mut end = End::default();
        while end.ended < streams {
            let Some((kind, flags, stream, payload)) = self.next().await else { break };
            match kind {
                SETTINGS if flags & 1 == 0 => drop(self.send(&frame(SETTINGS, 1, 0, &[])).await),
                PING if flags & 1 == 0 => drop(self.send(&frame(PING, 1, 0, &payload)).await),
                GOAWAY => end.away = Some(code(&payload, 4)),
                RST_STREAM => {
                    end.resets.push(code(&payload, 0));
                    end.ended += 1;
                }
                HEADERS => end.headers.extend_from_slice(&payload),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && stream > 0 && flags & END_STREAM != 0 {
                end.ended += 1;
            }
        }
        end
    }
}
