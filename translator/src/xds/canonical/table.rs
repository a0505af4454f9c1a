//! Which fields of which messages are maps, messages with maps inside, or `Any`.

use crate::xds::json::DESCRIPTORS;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Built once, on first use.
pub(super) static TABLE: LazyLock<Option<Table>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(DESCRIPTORS).ok()?;
    Some(Table::new(&set))
});

/// What a delimited field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A map, with what its values are.
    Map(Option<Value>),
    /// A message that can hold a map or an `Any`.
    Message(u32),
    /// `google.protobuf.Any`.
    Any,
}

/// What a map's value is, if anything can be sorted inside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    Message(u32),
    Any,
}

impl From<Value> for Kind {
    fn from(value: Value) -> Self {
        match value {
            Value::Message(message) => Self::Message(message),
            Value::Any => Self::Any,
        }
    }
}

/// Messages that can hold a map or an `Any`, at any depth; all others are passed over whole.
pub(super) struct Table {
    /// Their fields of interest, sorted by number.
    messages: Vec<Vec<(u32, Kind)>>,
    /// Their numbers by full name, without a leading dot.
    names: BTreeMap<String, u32>,
}

const ANY: &str = ".google.protobuf.Any";

impl Table {
    pub(super) fn find(&self, full_name: &str) -> Option<u32> {
        self.names.get(full_name).copied()
    }

    pub(super) fn kind(&self, message: u32, field: u32) -> Option<&Kind> {
        let fields = self.messages.get(message as usize)?;
        let position = fields.binary_search_by_key(&field, |(number, _)| *number).ok()?;
        fields.get(position).map(|(_, kind)| kind)
    }

    pub(super) fn new(set: &FileDescriptorSet) -> Self {
        let mut declared = BTreeMap::new();
        for file in &set.file {
            let scope = format!(".{}", file.package());
            file.message_type.iter().for_each(|message| collect(message, &scope, &mut declared));
        }
        let names = holders(&declared);
        let messages = names.keys().map(|name| {
            let fields = declared.get(name).map_or(&[][..], |message| &message.field);
            let mut kinds: Vec<_> =
                fields.iter().filter_map(|field| kind(field, &declared, &names)).collect();
            kinds.sort_by_key(|(number, _)| *number);
            kinds
        });
        let messages = messages.collect();
        let names = names.into_iter().map(|(name, number)| (name.trim_start_matches('.').to_owned(), number));
        Self { messages, names: names.collect() }
    }
}

fn collect<'d>(
    message: &'d DescriptorProto,
    scope: &str,
    declared: &mut BTreeMap<String, &'d DescriptorProto>,
) {
    let name = format!("{scope}.{}", message.name());
    message.nested_type.iter().for_each(|nested| collect(nested, &name, declared));
    declared.insert(name, message);
}

/// Numbers the messages that can hold a map or an `Any`: those that have one, then those that hold such a message.
fn holders(declared: &BTreeMap<String, &DescriptorProto>) -> BTreeMap<String, u32> {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    let mut queue: Vec<&str> = Vec::new();
    for (name, message) in declared {
        for field in &message.field {
            let holds = field.type_name() == ANY || is_map(field, declared);
            users.entry(field.type_name()).or_default().push(name);
            if holds {
                queue.push(name);
            }
        }
    }
    while let Some(name) = queue.pop() {
        if found.insert(name, 0).is_none() {
            queue.extend(users.get(name).into_iter().flatten());
        }
    }
    // Numbers follow the names, so that the table lists messages in the order of the map.
    found.into_keys().zip(0..).map(|(name, number)| (name.to_owned(), number)).collect()
}

fn is_map(field: &FieldDescriptorProto, declared: &BTreeMap<String, &DescriptorProto>) -> bool {
    field.label() == Label::Repeated
        && field.r#type() == Type::Message
        && declared
            .get(field.type_name())
            .is_some_and(|entry| entry.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry))
}

fn kind(
    field: &FieldDescriptorProto,
    declared: &BTreeMap<String, &DescriptorProto>,
    names: &BTreeMap<String, u32>,
) -> Option<(u32, Kind)> {
    let number = u32::try_from(field.number()).ok()?;
    let kind = if is_map(field, declared) {
        let entry = declared.get(field.type_name())?;
        let value = entry.field.iter().find(|field| field.number() == 2);
        Kind::Map(value.and_then(|value| message_value(value, names)))
    } else {
        message_value(field, names)?.into()
    };
    Some((number, kind))
}

fn message_value(field: &FieldDescriptorProto, names: &BTreeMap<String, u32>) -> Option<Value> {
    if field.type_name() == ANY {
        return Some(Value::Any);
    }
    names.get(field.type_name()).map(|message| Value::Message(*message))
}
