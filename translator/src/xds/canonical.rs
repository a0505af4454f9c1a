//! One byte string for one message: map entries sorted, also inside `Any`.
//!
//! Protobuf leaves the order of map entries open, and envoy-types writes them in the order of a hash table, another
//! one on each run. Sorting entries changes no length, not even that of an enclosing `Any`, so it is done in place on
//! what the encoder wrote. Everything else that prost writes is already a function of the content: fields by number
//! (a oneof at its lowest), defaults left out.
//!
//! - An `Any` of an unknown type stays as it is, byte for byte.
//! - Entries with equal keys keep their order: the last one counts when they are read.
//! - Groups, bytes that end early and nesting beyond [`MAX_DEPTH`] are errors, never guesses.
//!
//! Only bytes of one encoder may meet in one digest: what another implementation encoded (C++ writes a oneof at its
//! own number) is canonical only after it was decoded and encoded here.

mod table;
#[cfg(test)]
mod tests;
mod wire;

use bytes::{Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost::{Message, Name};
use std::ops::Range;
use table::{Kind, TABLE, Table};
use thiserror::Error;
use wire::{Field, Fields};

/// How deep messages may be nested; Envoy's own parser stops at 100 too.
pub const MAX_DEPTH: usize = 100;

/// Bytes that have no canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CanonicalError {
    /// The bytes end inside a field, or a number does not end.
    #[error("the protobuf encoding ends early or is malformed")]
    Malformed,
    /// Groups are not written by any encoder of proto3.
    #[error("the protobuf encoding holds a group")]
    Group,
    /// Nested too deep.
    #[error("messages are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The table of map fields could not be read.
    #[error("the built-in Envoy descriptors cannot be read")]
    Table,
}

/// The canonical bytes of a message.
///
/// What prost writes from a type is well formed and has no groups, and no message that Moorgate makes is nested
/// anywhere near [`MAX_DEPTH`], so sorting it cannot fail; [`sort`] is for bytes of unknown making.
pub fn encode<M: Message + Name>(message: &M) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.encoded_len());
    message.encode_raw(&mut bytes);
    sort_own::<M>(&mut bytes);
    bytes.freeze()
}

/// The canonical bytes of a message as field `number` of another: key, length, content. Appended to the encoding of
/// the other message it is one more item of that field.
pub fn encode_field<M: Message + Name>(number: u32, message: &M) -> Bytes {
    let length = message.encoded_len();
    // A key and a length take at most five and ten bytes.
    let mut bytes = BytesMut::with_capacity(length + 15);
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(length as u64, &mut bytes);
    let start = bytes.len();
    message.encode_raw(&mut bytes);
    sort_own::<M>(bytes.get_mut(start..).unwrap_or_default());
    bytes.freeze()
}

fn sort_own<M: Message + Name>(bytes: &mut [u8]) {
    let sorted = sort(&M::full_name(), bytes);
    debug_assert_eq!(sorted, Ok(()), "{}", M::full_name());
}

/// Sorts the map entries of an encoded message of this type (`envoy.config.cluster.v3.Cluster`), in place.
/// A type that is not in the built-in descriptors has no known maps and stays as it is.
pub fn sort(full_name: &str, bytes: &mut [u8]) -> Result<(), CanonicalError> {
    let table = TABLE.as_ref().ok_or(CanonicalError::Table)?;
    match table.find(full_name) {
        Some(message) => table.sort_message(message, bytes, 0),
        None => Ok(()),
    }
}

/// A map entry: where it lies in its message, and where its key lies in it.
struct Entry {
    whole: Range<usize>,
    key: Key,
}

/// A map key. The keys of one map are all of one kind.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Number(u64),
    Text(Vec<u8>),
}

impl Table {
    fn sort_message(&self, message: u32, bytes: &mut [u8], depth: usize) -> Result<(), CanonicalError> {
        if depth > MAX_DEPTH {
            return Err(CanonicalError::TooDeep);
        }
        let mut run: Vec<Entry> = Vec::new();
        let mut run_of = 0;
        let mut fields = Fields::default();
        while let Some(field) = fields.next(bytes)? {
            let kind = field.is_delimited().then(|| self.kind(message, field.number)).flatten();
            if field.number != run_of {
                sort_run(&mut run, bytes);
                run_of = field.number;
            }
            match kind {
                Some(Kind::Map(value)) => run.push(self.sort_entry(*value, bytes, &field, depth)?),
                Some(kind) => self.sort_value(*kind, field.value(bytes), depth)?,
                None => {}
            }
        }
        sort_run(&mut run, bytes);
        Ok(())
    }

    /// Sorts inside a map entry's value, and reads its key.
    fn sort_entry(
        &self,
        value: Option<table::Value>,
        bytes: &mut [u8],
        entry: &Field,
        depth: usize,
    ) -> Result<Entry, CanonicalError> {
        let content = entry.value(bytes);
        let mut key = Key::Text(Vec::new());
        let mut fields = Fields::default();
        while let Some(field) = fields.next(content)? {
            match (field.number, value) {
                (1, _) if field.is_delimited() => key = Key::Text(field.value(content).to_vec()),
                (1, _) => key = Key::Number(field.scalar),
                (2, Some(value)) if field.is_delimited() => {
                    self.sort_value(value.into(), field.value(content), depth + 1)?;
                }
                _ => {}
            }
        }
        Ok(Entry { whole: entry.whole.clone(), key })
    }

    fn sort_value(&self, kind: Kind, content: &mut [u8], depth: usize) -> Result<(), CanonicalError> {
        match kind {
            Kind::Message(message) => self.sort_message(message, content, depth + 1),
            Kind::Any => self.sort_any(content, depth + 1),
            Kind::Map(_) => Ok(()),
        }
    }

    fn sort_any(&self, content: &mut [u8], depth: usize) -> Result<(), CanonicalError> {
        let (mut message, mut value) = (None, None);
        let mut fields = Fields::default();
        while let Some(field) = fields.next(content)? {
            match field.number {
                1 if field.is_delimited() => {
                    let type_url = std::str::from_utf8(field.value(content)).ok();
                    message = type_url
                        .and_then(|url| self.find(url.rsplit_once('/').map_or(url, |(_, name)| name)));
                }
                2 if field.is_delimited() => value = Some(field),
                _ => {}
            }
        }
        match (message, value) {
            (Some(message), Some(value)) => self.sort_message(message, value.value(content), depth),
            _ => Ok(()),
        }
    }
}

/// Sorts neighbouring entries of one map and empties the list.
fn sort_run(run: &mut Vec<Entry>, bytes: &mut [u8]) {
    if !run.is_sorted_by(|a, b| a.key <= b.key)
        && let (Some(first), Some(last)) = (run.first(), run.last())
        && let Some(place) = bytes.get_mut(first.whole.start..last.whole.end)
    {
        let start = first.whole.start;
        let before = place.to_vec();
        run.sort_by(|a, b| a.key.cmp(&b.key));
        let mut at = 0;
        for entry in run.iter() {
            let length = entry.whole.len();
            let from = entry.whole.start - start;
            if let (Some(to), Some(from)) = (place.get_mut(at..at + length), before.get(from..from + length))
            {
                to.copy_from_slice(from);
            }
            at += length;
        }
    }
    run.clear();
}
