//! Typed values out of a [`Node`], with the path of the field that did not fit.

use super::{Node, Value};
use crate::field::{FieldPath, Segment};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use std::fmt;

/// A value that does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    /// The field, from the node that was decoded.
    pub path: FieldPath,
    /// What was expected and found.
    pub message: String,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: FieldPath::root(), message: message.to_string() }
    }
}

impl DecodeError {
    fn below(mut self, segment: Segment) -> Self {
        self.path = match segment {
            Segment::Key(key) => FieldPath::root().key(&key),
            Segment::Index(index) => FieldPath::root().index(index),
        }
        .join(&self.path);
        self
    }
}

/// Decodes a typed value; fields that the type does not know are passed over, and `null` counts as absent.
///
/// # Errors
/// The first field that does not fit.
pub fn decode<T: DeserializeOwned>(node: &Node) -> Result<T, DecodeError> {
    T::deserialize(node)
}

impl<'de> de::Deserializer<'de> for &'de Node {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::String(value) => visitor.visit_borrowed_str(value),
            Value::Sequence(items) => visitor.visit_seq(Items { items: items.iter().enumerate() }),
            Value::Mapping(fields) => {
                visitor.visit_map(Fields { entries: fields.entries().iter(), current: None })
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.value {
            Value::String(text) => visitor.visit_enum((**text).into_deserializer()),
            Value::Mapping(fields) if fields.len() == 1 => {
                visitor.visit_enum(Variant { entry: &fields.entries()[0] })
            }
            _ => Err(de::Error::custom(format!("expected a name, found {}", self.type_name()))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, item)) = self.items.next() else { return Ok(None) };
        seed.deserialize(item).map(Some).map_err(|error| error.below(Segment::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields<'de> {
    entries: std::slice::Iter<'de, super::Entry>,
    current: Option<&'de super::Entry>,
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        // A null field is an absent field: the API server drops it before defaulting.
        let Some(entry) = self.entries.by_ref().find(|entry| entry.value.value != Value::Null) else {
            return Ok(None);
        };
        self.current = Some(entry);
        seed.deserialize(de::value::BorrowedStrDeserializer::new(&entry.key)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, DecodeError> {
        let entry =
            self.current.take().ok_or_else(|| <DecodeError as de::Error>::custom("value before key"))?;
        seed.deserialize(&entry.value).map_err(|error| error.below(Segment::Key(entry.key.clone())))
    }
}

struct Variant<'de> {
    entry: &'de super::Entry,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = DecodeError;
    type Variant = &'de Node;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, &'de Node), DecodeError> {
        Ok((seed.deserialize(de::value::BorrowedStrDeserializer::new(&self.entry.key))?, &self.entry.value))
    }
}

impl<'de> de::VariantAccess<'de> for &'de Node {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        de::Deserializer::deserialize_any(self, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        de::Deserializer::deserialize_any(self, visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Entry, Mapping};
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Backend {
        port: Option<u16>,
    }

    fn node(value: Value) -> Node {
        Node::new(value, crate::Span::default())
    }

    fn mapping(key: &str, value: Value) -> Node {
        let mut fields = Mapping::default();
        fields
            .insert(Entry { key: key.into(), key_span: crate::Span::default(), value: node(value) })
            .unwrap();
        node(Value::Mapping(fields))
    }

    #[test]
    fn null_is_absent() {
        assert_eq!(decode::<Backend>(&mapping("port", Value::Null)), Ok(Backend { port: None }));
    }

    #[test]
    fn the_path_of_the_misfit_is_named() {
        let list =
            node(Value::Sequence(vec![mapping("port", Value::Int(80)), mapping("port", Value::Int(-1))]));
        let error = decode::<Vec<Backend>>(&list).unwrap_err();
        assert_eq!(error.path.to_string(), "[1].port");
    }
}
