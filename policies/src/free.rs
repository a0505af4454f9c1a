//! Values of any form, as some fields hold them: what they mean is known to whoever gets them.

use envoy_types::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A value of JSON.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Free {
    Null,
    Bool(bool),
    Int(i64),
    Number(f64),
    Text(String),
    List(Vec<Free>),
    Map(BTreeMap<String, Free>),
}

impl Free {
    /// The value as protobuf has it.
    pub(crate) fn value(&self) -> Value {
        #[expect(clippy::cast_precision_loss, reason = "numbers are doubles there (google.protobuf.Value)")]
        let kind = match self {
            Self::Null => Kind::NullValue(0),
            Self::Bool(value) => Kind::BoolValue(*value),
            Self::Int(value) => Kind::NumberValue(*value as f64),
            Self::Number(value) => Kind::NumberValue(*value),
            Self::Text(text) => Kind::StringValue(text.clone()),
            Self::List(items) => {
                Kind::ListValue(ListValue { values: items.iter().map(Self::value).collect() })
            }
            Self::Map(fields) => Kind::StructValue(structure(fields)),
        };
        Value { kind: Some(kind) }
    }

    /// The value as a mapping, if it is one.
    pub(crate) fn structure(&self) -> Option<Struct> {
        match self {
            Self::Map(fields) => Some(structure(fields)),
            _ => None,
        }
    }

    /// The value as JSON, with keys in their order.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        // Writing to a text does not fail.
        let _ = match self {
            Self::Null => write!(out, "null"),
            Self::Bool(value) => write!(out, "{value}"),
            Self::Int(value) => write!(out, "{value}"),
            Self::Number(value) => write!(out, "{value}"),
            Self::Text(text) => {
                quote(text, out);
                Ok(())
            }
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                write!(out, "]")
            }
            Self::Map(fields) => {
                out.push('{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    quote(key, out);
                    out.push(':');
                    value.write(out);
                }
                write!(out, "}}")
            }
        };
    }
}

fn structure(fields: &BTreeMap<String, Free>) -> Struct {
    Struct { fields: fields.iter().map(|(key, value)| (key.clone(), value.value())).collect() }
}

/// A text of JSON (RFC 8259 §7).
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        let _ = match character {
            '"' | '\\' => write!(out, "\\{character}"),
            control if u32::from(control) < 0x20 => write!(out, "\\u{:04x}", u32::from(control)),
            other => write!(out, "{other}"),
        };
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_they_were_read() {
        let text = r#"{"a":[1,-2.5,true,null,"x\"\\\u0001y"],"b":{"c":{}}}"#;
        let read: Free = serde_json::from_str(text).unwrap();
        assert_eq!(read.text(), text);
        assert_eq!(read.structure().unwrap().fields.len(), 2);
        assert_eq!(Free::Int(1).structure(), None);
    }
}
