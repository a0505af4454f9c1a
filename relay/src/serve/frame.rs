//! Responses as bytes: a small header of their own, and the stored pieces of the resources, shared by all streams.
//!
//! Protobuf lets fields come in any order, so nothing is encoded twice and large pieces are never copied.

use super::proto::{Any, ControlPlane, DeltaDiscoveryResponse, DiscoveryResponse, Duration, Resource};
use super::stream::{Protocol, Response};
use super::types;
use super::view::{Name, Value};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, string};
use std::sync::Arc;
use thiserror::Error;

/// Pieces of at least this size are shared, smaller ones copied together.
const SHARED_FROM: usize = 4 * 1024;
/// A message of at most this size is one piece: one HTTP/2 frame.
const PIECE: usize = 16 * 1024;
/// Before a gRPC message: a flag, and its length.
const PREFIX: usize = 5;

/// A response beyond what gRPC can carry.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a response of {0} bytes does not fit a gRPC message")]
pub struct TooLarge(usize);

/// A gRPC message: its own beginning, and pieces that other messages may have too.
#[derive(Clone)]
pub struct Message {
    head: Bytes,
    rest: Arc<[Bytes]>,
}

impl Message {
    /// Bytes that are no gRPC message, as they lie in these pieces.
    pub(super) fn of_pieces(pieces: &[Bytes]) -> Self {
        let (head, rest) = pieces
            .split_first()
            .map_or((Bytes::new(), Vec::new()), |(head, rest)| (head.clone(), rest.to_vec()));
        Self { head, rest: rest.into() }
    }

    /// A piece of it, by its place.
    pub fn piece(&self, index: usize) -> Option<&Bytes> {
        if index == 0 { Some(&self.head) } else { self.rest.get(index - 1) }
    }

    /// Its pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.head).chain(self.rest.iter())
    }
}

/// The next piece of a message of which so many went out. It is let go with its last one.
pub(super) fn next_piece(sending: &mut Option<(Box<Message>, usize)>) -> Option<Bytes> {
    let (message, next) = sending.as_mut()?;
    let piece = message.piece(*next).cloned();
    *next += 1;
    if message.piece(*next).is_none() {
        *sending = None;
    }
    piece
}

impl std::fmt::Debug for Message {
    /// Without the content: there may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Message({} bytes)", self.pieces().map(Bytes::len).sum::<usize>())
    }
}

impl From<Bytes> for Message {
    /// A message of one piece.
    fn from(head: Bytes) -> Self {
        Self { head, rest: Arc::from([]) }
    }
}

/// Entries of a response as bytes.
pub(super) struct Encoded {
    /// Of this type.
    type_url: Name,
    pieces: Arc<[Bytes]>,
    len: usize,
}

impl Encoded {
    fn of(response: &Response, entries: &[(Name, Arc<Value>)]) -> Self {
        // Those with a time to live are not shared: their entries hold more.
        let entries = || entries.iter().filter(|(name, _)| !response.ttls.contains_key(name));
        let len_of = |(name, value): &(Name, Arc<Value>)| {
            let entry = entry_len(response, name, value);
            1 + encoded_len_varint(entry as u64) + entry
        };
        let len = entries().map(len_of).sum();
        let shared: usize = entries()
            .flat_map(|(_, value)| value.chunks())
            .filter(|chunk| is_large(chunk))
            .map(Bytes::len)
            .sum();
        let mut pieces = Pieces { done: Vec::new(), tail: BytesMut::with_capacity(len - shared) };
        for (name, value) in entries() {
            put_entry(&mut pieces, response, name, value);
        }
        Self { type_url: Arc::clone(&response.type_url), pieces: pieces.finish().into(), len }
    }
}

/// The gRPC message of a response. Its entries are encoded once for all responses with the same batch.
pub fn message(response: &Response) -> Result<Message, TooLarge> {
    let control_plane = Some(ControlPlane { identifier: response.identifier.clone() });
    let header = match response.protocol {
        Protocol::Delta => DeltaDiscoveryResponse {
            system_version_info: response.version.to_string(),
            type_url: response.type_url.to_string(),
            nonce: response.nonce.clone(),
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            control_plane,
            resources: wrapped(response),
        }
        .encode_to_vec(),
        Protocol::StateOfTheWorld => DiscoveryResponse {
            version_info: response.version.to_string(),
            type_url: response.type_url.to_string(),
            nonce: response.nonce.clone(),
            control_plane,
            resources: wrapped(response).iter().map(wrapper).collect(),
        }
        .encode_to_vec(),
    };
    let own;
    let encode = |entries: &[(Name, Arc<Value>)]| Encoded::of(response, entries);
    let known = response.ttls.is_empty().then(|| response.resources.encoded(response.protocol, encode));
    let entries = if let Some(known) = known.filter(|known| known.type_url == response.type_url) {
        known
    } else {
        own = encode(&response.resources);
        &own
    };
    let total = header.len() + entries.len;
    let prefix = u32::try_from(total).map_err(|_| TooLarge(total))?;
    // What fits one frame is one piece: each costs a system call.
    let together = total + PREFIX <= PIECE;
    let mut head = BytesMut::with_capacity(PREFIX + if together { total } else { header.len() });
    head.put_u8(0);
    head.put_u32(prefix);
    head.put_slice(&header);
    if together {
        entries.pieces.iter().for_each(|piece| head.put_slice(piece));
        return Ok(head.freeze().into());
    }
    Ok(Message { head: head.freeze(), rest: Arc::clone(&entries.pieces) })
}

/// Entries with more than name, version and content: times to live, heartbeats, names that nobody knows.
fn wrapped(response: &Response) -> Vec<Resource> {
    let ttl = |name: &Name| {
        let life = response.ttls.get(name)?;
        let nanos = i32::try_from(life.subsec_nanos()).unwrap_or_default();
        Some(Duration { seconds: i64::try_from(life.as_secs()).unwrap_or(i64::MAX), nanos })
    };
    let with_content = response.resources.iter().filter(|(name, _)| response.ttls.contains_key(name));
    let with_content = with_content.map(|(name, value)| Resource {
        version: value.version().to_string(),
        resource: Some(Any {
            type_url: response.type_url.to_string(),
            value: value.chunks().concat().into(),
        }),
        name: name.to_string(),
        ttl: ttl(name),
        ..Resource::default()
    });
    let heartbeats = response.heartbeats.iter().map(|(name, version)| Resource {
        version: version.to_string(),
        name: name.to_string(),
        ttl: ttl(name),
        ..Resource::default()
    });
    let unknown = response.unknown.iter().map(|name| Resource {
        name: name.to_string(),
        aliases: vec![name.to_string()],
        ..Resource::default()
    });
    with_content.chain(heartbeats).chain(unknown).collect()
}

/// A `Resource` where state of the world has an `Any`.
fn wrapper(resource: &Resource) -> Any {
    Any { type_url: types::WRAPPER.to_owned(), value: resource.encode_to_vec().into() }
}

fn any_len(type_url: &str, value: &Value) -> usize {
    let value_len =
        if value.is_empty() { 0 } else { 1 + encoded_len_varint(value.len() as u64) + value.len() };
    1 + encoded_len_varint(type_url.len() as u64) + type_url.len() + value_len
}

fn string_len(text: &str) -> usize {
    if text.is_empty() { 0 } else { 1 + encoded_len_varint(text.len() as u64) + text.len() }
}

/// The length of an entry of field 2: a `Resource` in delta, an `Any` in state of the world.
fn entry_len(response: &Response, name: &str, value: &Value) -> usize {
    let any = any_len(&response.type_url, value);
    match response.protocol {
        Protocol::Delta => {
            string_len(value.version()) + string_len(name) + 1 + encoded_len_varint(any as u64) + any
        }
        Protocol::StateOfTheWorld => any,
    }
}

fn put_entry(pieces: &mut Pieces, response: &Response, name: &str, value: &Value) {
    let any = any_len(&response.type_url, value);
    let out = &mut pieces.tail;
    encode_key(2, WireType::LengthDelimited, out);
    encode_varint(entry_len(response, name, value) as u64, out);
    if response.protocol == Protocol::Delta {
        put_string(1, value.version(), out);
        put_string(3, name, out);
        encode_key(2, WireType::LengthDelimited, out);
        encode_varint(any as u64, out);
    }
    // The type is written even if empty, so that its length is as computed.
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(response.type_url.len() as u64, out);
    out.put_slice(response.type_url.as_bytes());
    if !value.is_empty() {
        encode_key(2, WireType::LengthDelimited, out);
        encode_varint(value.len() as u64, out);
        value.chunks().iter().for_each(|chunk| pieces.put(chunk));
    }
}

fn put_string(tag: u32, text: &str, out: &mut BytesMut) {
    if !text.is_empty() {
        string::encode(tag, &text.to_owned(), out);
    }
}

fn is_large(chunk: &Bytes) -> bool {
    chunk.len() >= SHARED_FROM
}

struct Pieces {
    done: Vec<Bytes>,
    tail: BytesMut,
}

impl Pieces {
    fn put(&mut self, chunk: &Bytes) {
        if is_large(chunk) {
            self.flush();
            self.done.push(chunk.clone());
        } else {
            self.tail.put_slice(chunk);
        }
    }

    fn flush(&mut self) {
        if !self.tail.is_empty() {
            self.done.push(self.tail.split().freeze());
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        self.flush();
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::Batch;
    use super::*;
    use std::collections::BTreeMap;
    use std::time::Duration as Time;

    fn concat(message: &Message) -> Vec<u8> {
        message.pieces().flat_map(|piece| piece.to_vec()).collect()
    }

    fn response(protocol: Protocol) -> Response {
        let big = Bytes::from(vec![7; 20_000]);
        let value = |chunks| Arc::new(Value::new(chunks, Vec::new()));
        Response {
            protocol,
            type_url: types::CLUSTER.into(),
            nonce: "7".into(),
            version: "v1".into(),
            resources: Arc::new(Batch::new(vec![
                ("a".into(), value(vec![Bytes::from_static(b"abc"), big.clone(), Bytes::from_static(b"d")])),
                ("empty".into(), value(vec![])),
            ])),
            removed: if protocol == Protocol::Delta { vec!["gone".into()] } else { vec![] },
            unknown: Vec::new(),
            heartbeats: Vec::new(),
            ttls: BTreeMap::new(),
            identifier: "relay x".into(),
        }
    }

    #[test]
    fn what_is_put_together_decodes_to_what_was_meant() {
        let parts = message(&response(Protocol::Delta)).unwrap();
        assert!(parts.pieces().any(|part| part.len() == 20_000), "large pieces are shared");
        let whole = concat(&parts);
        assert_eq!(whole[0], 0);
        assert_eq!(u32::from_be_bytes(whole[1..5].try_into().unwrap()) as usize, whole.len() - 5);
        let decoded = DeltaDiscoveryResponse::decode(&whole[5..]).unwrap();
        assert_eq!(decoded.nonce, "7");
        assert_eq!(decoded.removed_resources, ["gone"]);
        assert_eq!(decoded.resources[0].name, "a");
        assert_eq!(decoded.resources[0].version, **response(Protocol::Delta).resources[0].1.version());
        let any = decoded.resources[0].resource.as_ref().unwrap();
        assert_eq!((any.type_url.as_str(), any.value.len()), (types::CLUSTER, 20_004));
        assert!(decoded.resources[1].resource.as_ref().unwrap().value.is_empty());

        let whole = concat(&message(&response(Protocol::StateOfTheWorld)).unwrap());
        let decoded = DiscoveryResponse::decode(&whole[5..]).unwrap();
        assert_eq!(decoded.version_info, "v1");
        assert_eq!(decoded.resources[0].value.len(), 20_004);
        assert_eq!(decoded.control_plane.unwrap().identifier, "relay x");
    }

    /// A resource with a time to live, a heartbeat, and a name that nobody knows, beside shared ones.
    #[test]
    fn times_to_live_heartbeats_and_aliases_decode_to_what_was_meant() {
        let ttls =
            BTreeMap::from([("a".into(), Time::from_millis(1500)), ("old".into(), Time::from_secs(9))]);
        let heartbeats = vec![("old".into(), "v0".into())];
        let response =
            |protocol| Response { ttls: ttls.clone(), heartbeats: heartbeats.clone(), ..response(protocol) };
        let check = |entries: &BTreeMap<String, Resource>| {
            assert_eq!(entries["a"].ttl, Some(Duration { seconds: 1, nanos: 500_000_000 }));
            assert_eq!(entries["a"].resource.as_ref().unwrap().value.len(), 20_004);
            assert_eq!(entries["old"].ttl, Some(Duration { seconds: 9, nanos: 0 }));
            assert_eq!((&*entries["old"].version, &entries["old"].resource), ("v0", &None));
        };
        let unknown = Response { unknown: vec!["r/host".into()], ..response(Protocol::Delta) };
        let whole = concat(&message(&unknown).unwrap());
        let decoded = DeltaDiscoveryResponse::decode(&whole[5..]).unwrap();
        let entries = decoded.resources.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        check(&entries);
        assert_eq!(entries["empty"].ttl, None);
        assert_eq!(
            (entries["r/host"].aliases.join(","), &entries["r/host"].resource),
            ("r/host".to_owned(), &None)
        );

        let whole = concat(&message(&response(Protocol::StateOfTheWorld)).unwrap());
        let decoded = DiscoveryResponse::decode(&whole[5..]).unwrap();
        let (wrapped, bare): (Vec<Any>, Vec<Any>) =
            decoded.resources.into_iter().partition(|any| any.type_url == types::WRAPPER);
        assert_eq!((bare.len(), &*bare[0].type_url), (1, types::CLUSTER));
        let entries = wrapped.into_iter().map(|any| Resource::decode(any.value).unwrap());
        check(&entries.map(|entry| (entry.name.clone(), entry)).collect());
    }
}
