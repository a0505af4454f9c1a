//! What Envoy asks of the fields of its messages (`validate.rules` in its .proto files), as plain data.

use anyhow::{Context as _, Result, bail};
use prost_reflect::{DescriptorPool, DynamicMessage, ExtensionDescriptor, MessageDescriptor, Value};
use serde_json::{Map, Value as Json, json};
use std::borrow::Cow;

/// The options that hold them.
struct Options {
    field: ExtensionDescriptor,
    oneof: ExtensionDescriptor,
}

/// By message: `fields`, each with its rules, and `one_of`, the groups of fields of which one has to be set. Messages
/// without rules are left out.
pub fn rules(pool: &DescriptorPool, kept: impl Fn(&str) -> bool) -> Result<Json> {
    let option = |name: &str| pool.get_extension_by_name(name).with_context(|| format!("no option {name}"));
    let options = Options { field: option("validate.rules")?, oneof: option("validate.required")? };
    let mut out = Map::new();
    for message in pool.all_messages().filter(|message| kept(message.full_name())) {
        let said = of_message(&message, &options).with_context(|| message.full_name().to_owned())?;
        if said.values().any(|part| part.as_object().is_none_or(|fields| !fields.is_empty())) {
            out.insert(message.full_name().to_owned(), said.into());
        }
    }
    Ok(out.into())
}

fn of_message(message: &MessageDescriptor, options: &Options) -> Result<Map<String, Json>> {
    let mut fields = Map::new();
    for field in message.fields() {
        let said = field.options();
        if said.has_extension(&options.field) {
            let value = said.get_extension(&options.field);
            let rules = value.as_message().context("no rules")?;
            let rules = of_field(rules).with_context(|| field.name().to_owned())?;
            if !rules.is_empty() {
                fields.insert(field.name().to_owned(), rules.into());
            }
        }
    }
    let required = message.oneofs().filter(|oneof| {
        let said = oneof.options();
        said.has_extension(&options.oneof) && said.get_extension(&options.oneof).as_bool() == Some(true)
    });
    let groups: Vec<Vec<String>> =
        required.map(|oneof| oneof.fields().map(|field| field.name().to_owned()).collect()).collect();
    let mut out = Map::new();
    if !groups.is_empty() {
        out.insert("one_of".into(), json!(groups));
    }
    out.insert("fields".into(), fields.into());
    Ok(out)
}

/// The set fields of a message, by name.
fn set(message: &DynamicMessage) -> impl Iterator<Item = (String, &Value)> {
    message.fields().map(|(field, value)| (field.name().to_owned(), value))
}

/// `validate.FieldRules`.
fn of_field(rules: &DynamicMessage) -> Result<Map<String, Json>> {
    let mut out = Map::new();
    for (kind, value) in set(rules) {
        let inner = value.as_message().context("rules of a type")?;
        for (name, value) in set(inner) {
            if let Some((name, value)) = one(&kind, &name, value)? {
                out.insert(name.to_owned(), value);
            }
        }
        // Names and values of headers are read strictly unless it is said otherwise.
        if out.contains_key("header") {
            out.entry("strict").or_insert(true.into());
        }
    }
    Ok(out)
}

/// One rule under the name that the translator has for it.
fn one(kind: &str, name: &str, value: &Value) -> Result<Option<(&'static str, Json)>> {
    let truth = |name: &'static str| Ok(value.as_bool().filter(|said| *said).map(|_| (name, true.into())));
    let nested = |name: &'static str| {
        let rules = of_field(value.as_message().context("rules of items")?)?;
        Ok(Some((name, rules.into())))
    };
    let plain = |name: &'static str| Ok(Some((name, scalar(value)?)));
    match (kind, name) {
        ("message" | "any" | "duration" | "timestamp", "required") => truth("required"),
        ("message", "skip") => truth("skip"),
        ("repeated", "items") => nested("items"),
        ("map", "keys") => nested("keys"),
        ("map", "values") => nested("values"),
        ("repeated", "min_items") | ("map", "min_pairs") => plain("min_items"),
        ("repeated", "max_items") | ("map", "max_pairs") => plain("max_items"),
        ("repeated", "unique") => truth("unique"),
        (_, "ignore_empty") => truth("or_empty"),
        ("enum", "defined_only") => truth("defined"),
        ("bool", "const") => plain("exactly"),
        (_, "in") => plain("any_of"),
        (_, "not_in") => plain("none_of"),
        ("string", "min_len") => plain("min_length"),
        ("string", "max_len") => plain("max_length"),
        ("string", "min_bytes") | ("bytes", "min_len") => plain("min_bytes"),
        ("string", "max_bytes") | ("bytes", "max_len") => plain("max_bytes"),
        ("string", "pattern") => plain("pattern"),
        ("string", "prefix") => plain("prefix"),
        ("string", "suffix") => plain("suffix"),
        ("string", "well_known_regex") => match value.as_enum_number() {
            Some(1) => Ok(Some(("header", "name".into()))),
            Some(2) => Ok(Some(("header", "value".into()))),
            _ => bail!("an expression that is not known"),
        },
        ("string", "strict") => plain("strict"),
        (kind, "gte") if is_number(kind) => plain("least"),
        (kind, "gt") if is_number(kind) => plain("above"),
        (kind, "lte") if is_number(kind) => plain("most"),
        (kind, "lt") if is_number(kind) => plain("below"),
        _ => bail!("the rule {kind}.{name} is not known: teach it to translator/src/xds/rules.rs first"),
    }
}

fn is_number(kind: &str) -> bool {
    !matches!(kind, "string" | "bytes" | "bool" | "enum" | "message" | "repeated" | "map" | "any")
}

/// A value of a rule; durations in seconds.
fn scalar(value: &Value) -> Result<Json> {
    Ok(match value {
        Value::Bool(value) => json!(value),
        Value::I32(value) | Value::EnumNumber(value) => json!(value),
        Value::I64(value) => json!(value),
        Value::U32(value) => json!(value),
        Value::U64(value) => json!(value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::String(value) => json!(value),
        Value::List(values) => values.iter().map(scalar).collect::<Result<_>>()?,
        Value::Message(message) => {
            let number = |name: &str| message.get_field_by_name(name).map(Cow::into_owned);
            let (seconds, nanos) = (number("seconds"), number("nanos"));
            let seconds = seconds.as_ref().and_then(Value::as_i64).context("no duration")?;
            match nanos.as_ref().and_then(Value::as_i32).context("no duration")? {
                0 => json!(seconds),
                #[allow(clippy::cast_precision_loss, reason = "bounds are hours at most")]
                nanos => json!(seconds as f64 + f64::from(nanos) / 1e9),
            }
        }
        other => bail!("{other:?} is no value of a rule"),
    })
}
