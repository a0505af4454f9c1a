//! What Envoy asks of the fields of its messages (`validate.rules` in its .proto files): a resource that breaks a rule is
//! refused as a whole, so whoever makes a message asks here first.

use super::json::{descriptor, inside};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// By message; made by `distil-envoy`.
const DATA: &[u8] = include_bytes!("../../data/envoy-rules.json");

/// Loaded once, on first use.
static RULES: LazyLock<BTreeMap<String, Message>> =
    LazyLock::new(|| serde_json::from_slice(DATA).unwrap_or_default());

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Message {
    fields: BTreeMap<String, Rules>,
    /// Of each group one field is set.
    #[serde(default)]
    one_of: Vec<Vec<String>>,
}

/// The rules of one field.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a rule by itself")]
struct Rules {
    required: bool,
    /// What is inside is not looked at.
    skip: bool,
    /// No rule holds for what is empty.
    or_empty: bool,
    any_of: Vec<serde_json::Value>,
    none_of: Vec<serde_json::Value>,
    exactly: Option<bool>,
    /// Bounds of numbers, and of durations in seconds.
    least: Option<f64>,
    above: Option<f64>,
    most: Option<f64>,
    below: Option<f64>,
    /// In characters.
    min_length: Option<usize>,
    max_length: Option<usize>,
    min_bytes: Option<usize>,
    max_bytes: Option<usize>,
    pattern: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    /// The text is a part of a header.
    header: Option<Header>,
    /// As HTTP has it, and not only what breaks no line.
    strict: bool,
    /// One of the enum's values.
    defined: bool,
    min_items: Option<usize>,
    max_items: Option<usize>,
    unique: bool,
    items: Option<Box<Rules>>,
    keys: Option<Box<Rules>>,
    values: Option<Box<Rules>>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Header {
    Name,
    Value,
}

/// Whether Envoy takes a message of this type.
///
/// Of one that is put over another only what it sets is judged: `whole` is false, and what it lacks may be there already.
/// Items of lists, and messages of a type of their own, are whole.
///
/// # Errors
/// Says which field breaks which rule. Messages of unknown types are not judged.
pub(crate) fn fits(type_url: &str, bytes: &[u8], whole: bool) -> Result<(), String> {
    let Some(descriptor) = descriptor(type_url) else { return Ok(()) };
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|error| error.to_string())?;
    judge(&message, whole, "")
}

fn judge(message: &DynamicMessage, whole: bool, at: &str) -> Result<(), String> {
    let descriptor = message.descriptor();
    let known = RULES.get(descriptor.full_name());
    for group in known.iter().filter(|_| whole).flat_map(|known| &known.one_of) {
        if !group.iter().any(|name| message.has_field_by_name(name)) {
            let here = if at.is_empty() { String::new() } else { format!("{at}: ") };
            return Err(format!("{here}one of {} has to be set", group.join(", ")));
        }
    }
    for field in descriptor.fields() {
        let rules = known.and_then(|known| known.fields.get(field.name()));
        if message.has_field(&field) {
            judge_field(&field, &message.get_field(&field), rules, whole, &inside(at, field.name()))?;
        } else if let Some(rules) = rules.filter(|_| whole) {
            absent(&field, rules).map_err(|why| format!("{} {why}", inside(at, field.name())))?;
        }
    }
    Ok(())
}

/// A field that is not set, or set to what stands for that.
fn absent(field: &FieldDescriptor, rules: &Rules) -> Result<(), String> {
    // Of a group another one may be set.
    if field.containing_oneof().is_some() {
        return Ok(());
    }
    if rules.required {
        return Err("has to be set".to_owned());
    }
    if field.is_list() || field.is_map() {
        return if rules.or_empty { Ok(()) } else { length(0, rules) };
    }
    // What can be absent needs no value.
    if rules.or_empty || field.supports_presence() {
        return Ok(());
    }
    plain(&field.default_value(), &field.kind(), rules)
}

fn judge_field(
    field: &FieldDescriptor,
    value: &Value,
    rules: Option<&Rules>,
    whole: bool,
    at: &str,
) -> Result<(), String> {
    let none = Rules::default();
    let of_all = rules.unwrap_or(&none);
    match value {
        Value::List(items) => {
            length(items.len(), of_all).map_err(|why| format!("{at} {why}"))?;
            if of_all.unique && items.iter().enumerate().any(|(index, item)| items[..index].contains(item)) {
                return Err(format!("{at} has an item twice"));
            }
            let mut numbered = items.iter().enumerate();
            numbered.try_for_each(|(index, item)| {
                judge_item(&field.kind(), item, of_all.items.as_deref(), true, &format!("{at}[{index}]"))
            })
        }
        Value::Map(entries) => {
            length(entries.len(), of_all).map_err(|why| format!("{at} {why}"))?;
            let Kind::Message(entry) = field.kind() else { return Ok(()) };
            // The same entry is named whatever order a hash table has.
            let named = |key: &MapKey| key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned);
            let entries: BTreeMap<String, (&MapKey, &Value)> =
                entries.iter().map(|(key, value)| (named(key), (key, value))).collect();
            entries.into_iter().try_for_each(|(name, (key, value))| {
                let (key, shown) = (Value::from(key.clone()), format!("{at}[{name:?}]"));
                judge_item(&entry.map_entry_key_field().kind(), &key, of_all.keys.as_deref(), true, &shown)?;
                judge_item(
                    &entry.map_entry_value_field().kind(),
                    value,
                    of_all.values.as_deref(),
                    true,
                    &shown,
                )
            })
        }
        one => judge_item(&field.kind(), one, rules, whole, at),
    }
}

fn judge_item(
    kind: &Kind,
    value: &Value,
    rules: Option<&Rules>,
    whole: bool,
    at: &str,
) -> Result<(), String> {
    let Value::Message(message) = value else {
        return rules.map_or(Ok(()), |rules| plain(value, kind, rules)).map_err(|why| format!("{at} {why}"));
    };
    if rules.is_some_and(|rules| rules.skip) {
        return Ok(());
    }
    let descriptor = message.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Any" => {
            let part = |name: &str| message.get_field_by_name(name);
            let (Some(type_url), Some(value)) = (part("type_url"), part("value")) else { return Ok(()) };
            let (type_url, value) = (type_url.as_str().unwrap_or_default(), value.as_bytes());
            let named = value.map_or(Ok(()), |value| fits(type_url, value, true));
            named.map_err(|why| format!("{at}: {why}"))
        }
        "google.protobuf.Duration" => {
            let number = |name: &str| message.get_field_by_name(name);
            let seconds = number("seconds").and_then(|value| value.as_i64()).unwrap_or_default();
            let nanos = number("nanos").and_then(|value| value.as_i32()).unwrap_or_default();
            #[allow(clippy::cast_precision_loss, reason = "bounds are hours at most")]
            let seconds = seconds as f64 + f64::from(nanos) / 1e9;
            let judged = rules.map_or(Ok(()), |rules| bounded(seconds, rules, " s"));
            judged.map_err(|why| format!("{at} {why}"))
        }
        // A number or text that can be absent.
        name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
            let field = descriptor.get_field_by_name("value");
            let inner = field.filter(|field| !field.is_list() && !field.is_map());
            let judged = inner
                .zip(rules)
                .map_or(Ok(()), |(field, rules)| plain(&message.get_field(&field), &field.kind(), rules));
            judged.map_err(|why| format!("{at} {why}"))
        }
        _ => judge(message, whole, at),
    }
}

fn length(items: usize, rules: &Rules) -> Result<(), String> {
    match (rules.min_items, rules.max_items) {
        (Some(least), _) if items < least => Err(format!("needs at least {least} items")),
        (_, Some(most)) if items > most => Err(format!("has {items} items, at most {most} are taken")),
        _ => Ok(()),
    }
}

/// A number, text, byte string, enum or truth.
fn plain(value: &Value, kind: &Kind, rules: &Rules) -> Result<(), String> {
    #[allow(clippy::cast_precision_loss, reason = "bounds are small")]
    match value {
        Value::String(text) => self::text(text, rules),
        Value::Bytes(bytes) => bytes_between(bytes.len(), rules),
        Value::Bool(value) if rules.exactly.is_some_and(|wanted| wanted != *value) => {
            Err(format!("is {value}, which is not taken"))
        }
        Value::EnumNumber(number) => {
            let known = match kind {
                Kind::Enum(declared) => declared.get_value(*number).is_some(),
                _ => true,
            };
            if rules.defined && !known {
                return Err(format!("is {number}, which is no value of its type"));
            }
            listed(&(*number).into(), rules)
        }
        Value::I32(number) => number_fits(&(*number).into(), f64::from(*number), rules),
        Value::I64(number) => number_fits(&(*number).into(), *number as f64, rules),
        Value::U32(number) => number_fits(&(*number).into(), f64::from(*number), rules),
        Value::U64(number) => number_fits(&(*number).into(), *number as f64, rules),
        Value::F32(number) => bounded(f64::from(*number), rules, ""),
        Value::F64(number) => bounded(*number, rules, ""),
        _ => Ok(()),
    }
}

fn number_fits(exact: &serde_json::Value, number: f64, rules: &Rules) -> Result<(), String> {
    if rules.or_empty && number == 0.0 {
        return Ok(());
    }
    listed(exact, rules)?;
    bounded(number, rules, "")
}

fn bounded(number: f64, rules: &Rules, unit: &str) -> Result<(), String> {
    match rules {
        Rules { least: Some(least), .. } if number < *least => Err(format!("must be at least {least}{unit}")),
        Rules { above: Some(above), .. } if number <= *above => {
            Err(format!("must be more than {above}{unit}"))
        }
        Rules { most: Some(most), .. } if number > *most => Err(format!("must be at most {most}{unit}")),
        Rules { below: Some(below), .. } if number >= *below => {
            Err(format!("must be less than {below}{unit}"))
        }
        _ => Ok(()),
    }
}

fn listed(value: &serde_json::Value, rules: &Rules) -> Result<(), String> {
    if (!rules.any_of.is_empty() && !rules.any_of.contains(value)) || rules.none_of.contains(value) {
        return Err(format!("is {value}, which is not taken"));
    }
    Ok(())
}

fn bytes_between(length: usize, rules: &Rules) -> Result<(), String> {
    match (rules.min_bytes, rules.max_bytes) {
        _ if rules.or_empty && length == 0 => Ok(()),
        (Some(least), _) if length < least => Err("is empty, or too short".to_owned()),
        (_, Some(most)) if length > most => Err(format!("has {length} bytes, at most {most} are taken")),
        _ => Ok(()),
    }
}

fn text(text: &str, rules: &Rules) -> Result<(), String> {
    if rules.or_empty && text.is_empty() {
        return Ok(());
    }
    bytes_between(text.len(), rules)?;
    listed(&text.into(), rules)?;
    let length = text.chars().count();
    match rules {
        Rules { min_length: Some(least), .. } if length < *least => Err("is empty, or too short".to_owned()),
        Rules { max_length: Some(most), .. } if length > *most => {
            Err(format!("has {length} characters, at most {most} are taken"))
        }
        Rules { prefix: Some(prefix), .. } if !text.starts_with(prefix.as_str()) => {
            Err(format!("does not begin with {prefix:?}"))
        }
        Rules { suffix: Some(suffix), .. } if !text.ends_with(suffix.as_str()) => {
            Err(format!("does not end with {suffix:?}"))
        }
        Rules { pattern: Some(pattern), .. }
            if Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text)) =>
        {
            Err(format!("does not fit {pattern}"))
        }
        Rules { header: Some(header), strict, .. } if !of_header(text, *header, *strict) => {
            Err("has a character that no header has".to_owned())
        }
        _ => Ok(()),
    }
}

/// The expressions that protoc-gen-validate has for them.
fn of_header(text: &str, header: Header, strict: bool) -> bool {
    match (header, strict) {
        (Header::Name, true) => {
            let name = text.strip_prefix(':').unwrap_or(text);
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&byte);
            !name.is_empty() && name.bytes().all(plain)
        }
        (Header::Value, true) => !text.chars().any(|c| (c.is_ascii_control() && c != '\t') || c == '\u{7f}'),
        (_, false) => !text.contains(['\0', '\n', '\r']),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::json::parse;
    use serde_json::json;

    fn judged(name: &str, message: &serde_json::Value, whole: bool) -> Result<(), String> {
        fits(name, &parse(name, message).unwrap(), whole)
    }

    #[test]
    fn the_data_is_read_whole() {
        let read: Result<BTreeMap<String, Message>, _> = serde_json::from_slice(DATA);
        let read = read.unwrap();
        assert!(read.len() > 200, "{}", read.len());
        let all = || read.values().flat_map(|message| message.fields.values());
        for pattern in all().filter_map(|rules| rules.pattern.as_deref()) {
            assert!(Regex::new(pattern).is_ok(), "{pattern}");
        }
        for name in read.keys() {
            assert!(descriptor(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_envoy_refuses_is_refused() {
        let outlier = "envoy.config.cluster.v3.OutlierDetection";
        let tag = "envoy.type.tracing.v3.CustomTag";
        let check = "envoy.config.core.v3.HealthCheck";
        let processor = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
        for (name, message, said) in [
            (outlier, json!({"interval": "0s"}), "interval must be more than 0 s"),
            (outlier, json!({"enforcing_success_rate": 101}), "enforcing_success_rate must be at most 100"),
            (
                tag,
                json!({"tag": "a"}),
                "one of literal, environment, request_header, metadata, value has to be set",
            ),
            (tag, json!({"tag": "a", "literal": {}}), "literal.value is empty, or too short"),
            (tag, json!({"literal": {"value": "b"}}), "tag is empty, or too short"),
            (
                check,
                json!({"interval": "1s", "timeout": "1s", "healthy_threshold": 1, "unhealthy_threshold": 1,
                "http_health_check": {"path": "/\n"}}),
                "http_health_check.path has a character that no header has",
            ),
            (check, json!({"timeout": "1s"}), "one of http_health_check"),
            (processor, json!({"message_timeout": "7200s"}), "message_timeout must be at most 3600 s"),
            (
                "envoy.config.accesslog.v3.AndFilter",
                json!({"filters": [{"not_health_check_filter": {}}]}),
                "filters needs at least 2 items",
            ),
            (
                "envoy.config.accesslog.v3.AccessLog",
                json!({"name": "a", "typed_config":
                {"@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": ""}}),
                "typed_config: path is empty, or too short",
            ),
            (
                "envoy.config.cluster.v3.Cluster",
                json!({"name": "a", "health_checks": [{}]}),
                "health_checks[0]: one of http_health",
            ),
        ] {
            let why = judged(name, &message, true).unwrap_err();
            assert!(why.contains(said), "{message}: {why}");
        }
    }

    #[test]
    fn of_what_is_put_over_another_message_only_what_it_says_counts() {
        let cluster = "envoy.config.cluster.v3.Cluster";
        let patch = json!({"outlier_detection": {"interval": "1s"}, "common_lb_config": {}});
        assert_eq!(judged(cluster, &patch, false), Ok(()));
        let patch = json!({"outlier_detection": {"interval": "0s"}});
        let why = judged(cluster, &patch, false).unwrap_err();
        assert_eq!(why, "outlier_detection.interval must be more than 0 s");
        // What a list gets is whole.
        assert!(judged(cluster, &json!({"health_checks": [{}]}), false).is_err());
        assert_eq!(judged("envoy.config.cluster.v3.CircuitBreakers", &json!({}), false), Ok(()));
    }

    #[test]
    fn what_envoy_takes_is_taken() {
        for (name, message) in [
            ("envoy.type.matcher.v3.StringMatcher", json!({"exact": "a"})),
            ("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", json!({"disabled": true})),
            (
                "envoy.extensions.filters.http.jwt_authn.v3.JwtProvider",
                json!({"local_jwks": {"inline_string": "a"}}),
            ),
            (
                "envoy.config.route.v3.Route",
                json!({"match": {"prefix": "/"}, "direct_response": {"status": 200}}),
            ),
        ] {
            assert_eq!(judged(name, &message, true), Ok(()), "{name}");
        }
    }
}
