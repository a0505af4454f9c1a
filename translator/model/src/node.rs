//! A YAML or JSON tree that remembers where each value stands.
//!
//! Objects stay in this form from `load` on: validation walks it, defaults are written into it, typed
//! specs are decoded from it ([`decode`]), and a [`FieldPath`] is looked up in it only when a diagnostic prints.

mod decode;

use crate::field::{FieldPath, Segment};
use crate::origin::Span;
pub use decode::{DecodeError, decode};

/// A value and its place in the text.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it stands; a value that was defaulted has the span of its parent.
    pub span: Span,
}

/// The JSON data model, with integers kept apart from floats.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction or exponent.
    Float(f64),
    /// Text.
    String(Box<str>),
    /// A list.
    Sequence(Vec<Node>),
    /// Fields.
    Mapping(Mapping),
}

/// Fields in the order in which they were written; names are unique.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Mapping {
    entries: Vec<Entry>,
}

/// A field: its name, where the name stands, and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The name.
    pub key: Box<str>,
    /// Where the name stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

impl Mapping {
    /// The field's value.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The field's value, to change.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.iter_mut().find(|entry| &*entry.key == key).map(|entry| &mut entry.value)
    }

    /// The whole field.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| &*entry.key == key)
    }

    /// Adds a field whose name is not there yet.
    ///
    /// # Errors
    /// Gives the entry back if the name is taken.
    pub fn insert(&mut self, entry: Entry) -> Result<(), Entry> {
        if self.entry(&entry.key).is_some() {
            return Err(entry);
        }
        self.entries.push(entry);
        Ok(())
    }

    /// A mapping of these fields. Of fields with one name the first stays; the others come back, each with the place
    /// of the one that stayed. Takes `n log n` however the names are chosen.
    pub fn collect(mut entries: Vec<Entry>) -> (Self, Vec<(Span, Entry)>) {
        /// Up to here comparing each with each is faster than sorting.
        const FEW: usize = 12;
        let repeats: Vec<(usize, usize)> = if entries.len() <= FEW {
            let earlier = |later: usize| entries[..later].iter().position(|e| e.key == entries[later].key);
            (1..entries.len()).filter_map(|later| Some((earlier(later)?, later))).collect()
        } else {
            let mut order: Vec<usize> = (0..entries.len()).collect();
            order.sort_by(|a, b| entries[*a].key.cmp(&entries[*b].key).then(a.cmp(b)));
            let groups = order.chunk_by(|a, b| entries[*a].key == entries[*b].key);
            let mut found: Vec<(usize, usize)> =
                groups.flat_map(|group| group[1..].iter().map(|later| (group[0], *later))).collect();
            found.sort_unstable_by_key(|(_, later)| *later);
            found
        };
        if repeats.is_empty() {
            return (Self { entries }, Vec::new());
        }
        let firsts: Vec<Span> = repeats.iter().map(|(first, _)| entries[*first].key_span).collect();
        let mut taken = Vec::with_capacity(repeats.len());
        let mut kept = Vec::with_capacity(entries.len() - repeats.len());
        let mut next = 0;
        for (index, entry) in entries.drain(..).enumerate() {
            if repeats.get(next).is_some_and(|(_, later)| *later == index) {
                taken.push((firsts[next], entry));
                next += 1;
            } else {
                kept.push(entry);
            }
        }
        (Self { entries: kept }, taken)
    }

    /// Takes a field out.
    pub fn remove(&mut self, key: &str) -> Option<Entry> {
        let position = self.entries.iter().position(|entry| &*entry.key == key)?;
        Some(self.entries.remove(position))
    }

    /// All fields in written order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All fields, to change their values.
    pub fn entries_mut(&mut self) -> &mut [Entry] {
        &mut self.entries
    }

    /// How many fields.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without fields.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Node {
    /// A node at a place.
    pub fn new(value: Value, span: Span) -> Self {
        Self { value, span }
    }

    /// The field of a mapping.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_mapping()?.get(key)
    }

    /// The mapping, if it is one.
    pub fn as_mapping(&self) -> Option<&Mapping> {
        match &self.value {
            Value::Mapping(mapping) => Some(mapping),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn as_sequence(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self.value {
            Value::Int(number) => Some(number),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// What a schema calls this value: `object`, `array`, `string`, `integer`, `number`, `boolean`, `null`.
    pub fn type_name(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Int(_) => "integer",
            Value::Float(_) => "number",
            Value::String(_) => "string",
            Value::Sequence(_) => "array",
            Value::Mapping(_) => "object",
        }
    }

    /// The value at a path, if it is there.
    pub fn at(&self, path: &FieldPath) -> Option<&Node> {
        path.segments().iter().try_fold(self, Node::step)
    }

    /// The place of a path: of the field's name if the path ends at a field, otherwise of the value.
    /// A missing field gives its deepest existing parent.
    pub fn locate(&self, path: &FieldPath) -> Span {
        let mut node = self;
        let mut span = self.span;
        for segment in path.segments() {
            let key_span = match segment {
                Segment::Key(key) => {
                    node.as_mapping().and_then(|fields| fields.entry(key)).map(|entry| entry.key_span)
                }
                Segment::Index(_) => None,
            };
            let Some(next) = node.step(segment) else { return span };
            span = match (&next.value, key_span) {
                // A scalar is best shown by itself, a block by the name that opens it.
                (Value::Sequence(_) | Value::Mapping(_) | Value::Null, Some(key_span)) => key_span,
                _ => next.span,
            };
            node = next;
        }
        span
    }

    fn step(&self, segment: &Segment) -> Option<&Node> {
        match segment {
            Segment::Key(key) => self.get(key),
            Segment::Index(index) => self.as_sequence()?.get(*index),
        }
    }

    /// The same value without places, for printing.
    pub fn to_json(&self) -> serde_json_value::Json<'_> {
        serde_json_value::Json(self)
    }
}

/// Serialises a [`Node`] as the plain value that it holds.
pub mod serde_json_value {
    use super::{Node, Value};
    use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

    /// A node that serialises as its plain value, fields in written order.
    #[derive(Debug)]
    pub struct Json<'a>(pub &'a Node);

    impl Serialize for Json<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match &self.0.value {
                Value::Null => serializer.serialize_unit(),
                Value::Bool(value) => serializer.serialize_bool(*value),
                Value::Int(value) => serializer.serialize_i64(*value),
                Value::Float(value) => serializer.serialize_f64(*value),
                Value::String(value) => serializer.serialize_str(value),
                Value::Sequence(items) => {
                    let mut out = serializer.serialize_seq(Some(items.len()))?;
                    items.iter().try_for_each(|item| out.serialize_element(&Json(item)))?;
                    out.end()
                }
                Value::Mapping(fields) => {
                    let mut out = serializer.serialize_map(Some(fields.len()))?;
                    fields
                        .entries()
                        .iter()
                        .try_for_each(|entry| out.serialize_entry(&*entry.key, &Json(&entry.value)))?;
                    out.end()
                }
            }
        }
    }
}
