//! Records as Envoy's own JSON: `Any` opened, keys sorted.

use super::bootstrap::{AdsProtocol, BootstrapOptions, bootstrap};
use super::{CLUSTER_TYPE, LISTENER_TYPE, RATE_LIMIT_TYPE, ROUTE_TYPE, XdsError};
use moorgate_snapshot::record::{MODULE_TYPE, Record, Resource};
use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions,
};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Envoy's messages as far as Moorgate can write them; made by `distil-envoy`.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!("../../data/envoy-descriptors.binpb");

/// Loaded once, on first use.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

/// The name of a message in a type URL.
fn full_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

/// What a message of a type looks like, if it is one that Moorgate can write.
pub(super) fn descriptor(type_url: &str) -> Option<MessageDescriptor> {
    POOL.as_ref()?.get_message_by_name(full_name(type_url))
}

/// Every resource as it is served: `{"clusters": […], "listeners": […], "routes": […]}`, each sorted by name, with
/// proto field names; and `"rate_limits"`, if there are any, which a rate limit service reads and no Envoy does.
pub fn resources<'r>(records: impl IntoIterator<Item = &'r Record>) -> Result<Value, XdsError> {
    let [mut clusters, mut listeners, mut routes, mut limits] = [const { Vec::new() }; 4];
    // What a module does is for nobody to read here; what loads it names its digest.
    let messages = whole(records).into_iter().filter(|((type_url, _), _)| *type_url != MODULE_TYPE);
    for ((type_url, _), bytes) in messages {
        let resource = print(type_url, &bytes, true)?;
        match type_url {
            CLUSTER_TYPE => clusters.push(resource),
            LISTENER_TYPE => listeners.push(resource),
            ROUTE_TYPE => routes.push(resource),
            RATE_LIMIT_TYPE => limits.push(resource),
            other => return Err(XdsError::Descriptor(other.to_owned())),
        }
    }
    let mut lists = json!({"clusters": clusters, "listeners": listeners, "routes": routes});
    if let Some(lists) = lists.as_object_mut().filter(|_| !limits.is_empty()) {
        lists.insert("rate_limits".into(), limits.into());
    }
    Ok(lists)
}

/// A complete bootstrap that holds the configuration itself: what `compile -o envoy` prints, and what
/// `envoy --mode validate` takes.
///
/// Clusters and listeners are the served ones; route tables, which cannot be static, stand in the listeners in place
/// of the references to them. Endpoints and secrets stay names, to be had from a relay at its usual place.
pub fn envoy<'r>(records: impl IntoIterator<Item = &'r Record>) -> Result<Value, XdsError> {
    let mut lists = resources(records)?;
    let routes: BTreeMap<String, Value> = items(&mut lists, "routes")
        .into_iter()
        .filter_map(|table| Some((table.get("name")?.as_str()?.to_owned(), table)))
        .collect();
    let mut listeners = items(&mut lists, "listeners");
    listeners.iter_mut().for_each(|listener| inline_routes(listener, &routes));
    let mut out = bootstrap(&BootstrapOptions {
        fleet: "moorgate".into(),
        relay: "unix:/run/moorgate/relay.sock".into(),
        admin: "127.0.0.1:19000".into(),
        node: "moorgate".into(),
        protocol: AdsProtocol::Delta,
        zone: None,
    })
    .unwrap_or_default();
    if let Some(resources) = out.get_mut("static_resources").and_then(Value::as_object_mut) {
        let mut clusters = items(&mut lists, "clusters");
        if let Some(Value::Array(relay)) = resources.get_mut("clusters") {
            clusters.append(relay);
        }
        resources.insert("clusters".into(), clusters.into());
        resources.insert("listeners".into(), listeners.into());
    }
    if let Some(dynamic) = out.get_mut("dynamic_resources").and_then(Value::as_object_mut) {
        dynamic.retain(|key, _| key == "ads_config");
    }
    Ok(out)
}

/// One encoded message, or one part of it, as protobuf's JSON with its lowerCamelCase names.
pub fn message(type_url: &str, bytes: &[u8]) -> Result<Value, XdsError> {
    print(type_url, bytes, false)
}

/// The message that JSON with field names of either kind stands for, checked against the descriptors.
///
/// # Errors
/// Says in which field it is none.
pub(crate) fn parse(type_url: &str, json: &Value) -> Result<Vec<u8>, String> {
    let descriptor = descriptor(type_url);
    let descriptor =
        descriptor.ok_or_else(|| format!("messages of type {} are not known", full_name(type_url)))?;
    let message = DynamicMessage::deserialize(descriptor, json).map_err(|error| error.to_string())?;
    Ok(message.encode_to_vec())
}

/// Where JSON with field names of either kind is no message of a type, as deep as that can be found, and why.
pub(crate) fn fault(type_url: &str, json: &Value) -> Option<(String, String)> {
    let Some(descriptor) = descriptor(type_url) else {
        return Some((String::new(), format!("messages of type {} are not known", full_name(type_url))));
    };
    deepest(&descriptor, json, "")
}

/// What an error may quote.
const LONGEST_ERROR: usize = 300;

fn deepest(descriptor: &MessageDescriptor, json: &Value, at: &str) -> Option<(String, String)> {
    let error = DynamicMessage::deserialize(descriptor.clone(), json).err()?;
    let own = || (at.to_owned(), error.to_string().chars().take(LONGEST_ERROR).collect());
    let Some(fields) = json.as_object() else { return Some(own()) };
    if let Some(url) = fields.get("@type").and_then(Value::as_str)
        && descriptor.full_name() == "google.protobuf.Any"
    {
        let Some(inner) = self::descriptor(url) else {
            return Some((
                inside(at, "@type"),
                format!("messages of type {:?} are not known", full_name(url)),
            ));
        };
        let rest = fields.iter().filter(|(name, _)| *name != "@type");
        let rest: Map<String, Value> = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
        return Some(deepest(&inner, &rest.into(), at).unwrap_or_else(own));
    }
    let found = fields.iter().find_map(|(name, value)| in_field(descriptor, name, value, at));
    Some(found.unwrap_or_else(own))
}

/// The path of a field inside of what stands at a path.
pub(super) fn inside(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn in_field(descriptor: &MessageDescriptor, name: &str, value: &Value, at: &str) -> Option<(String, String)> {
    let path = inside(at, name);
    let by_name = |field: &FieldDescriptor| field.name() == name || field.json_name() == name;
    let Some(field) = descriptor.fields().find(by_name) else {
        let known: Vec<FieldDescriptor> = descriptor.fields().collect();
        let near = crate::validate::nearest(name, known.iter().map(FieldDescriptor::name));
        let meant = near.map(|near| format!("; is {near} meant?")).unwrap_or_default();
        return Some((path, format!("{} has no such field{meant}", descriptor.name())));
    };
    let entry = field.kind();
    let message = match (&entry, field.is_map()) {
        (Kind::Message(entry), true) => entry.map_entry_value_field().kind(),
        _ => entry,
    };
    let deeper = match (message, value) {
        (Kind::Message(message), Value::Array(items)) if field.is_list() => {
            let mut items = items.iter().enumerate();
            items.find_map(|(index, item)| deepest(&message, item, &format!("{path}[{index}]")))
        }
        (Kind::Message(message), Value::Object(entries)) if field.is_map() => {
            entries.iter().find_map(|(key, item)| deepest(&message, item, &format!("{path}[{key:?}]")))
        }
        (Kind::Message(message), value) if !field.is_list() && !field.is_map() => {
            deepest(&message, value, &path)
        }
        _ => None,
    };
    deeper.or_else(|| {
        let alone = Value::Object(Map::from_iter([(name.to_owned(), value.clone())]));
        let error = DynamicMessage::deserialize(descriptor.clone(), &alone).err()?;
        Some((path, error.to_string().chars().take(LONGEST_ERROR).collect()))
    })
}

/// One encoded message as protobuf's JSON, with names as in the .proto file or in lowerCamelCase.
pub(crate) fn print(type_url: &str, bytes: &[u8], proto_names: bool) -> Result<Value, XdsError> {
    let descriptor = descriptor(type_url);
    let descriptor = descriptor.ok_or_else(|| XdsError::Descriptor(full_name(type_url).to_owned()))?;
    let (bytes, switched) = without_nothing(bytes);
    let message = DynamicMessage::decode(descriptor, &*bytes)
        .map_err(|source| XdsError::Decode { type_url: type_url.to_owned(), source })?;
    // Straight to text, maps would come in the order of a hash table; a `Value` sorts its keys.
    let options = SerializeOptions::new().use_proto_field_name(proto_names);
    let mut out = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|source| XdsError::Json { type_url: type_url.to_owned(), source })?;
    if switched {
        with_nothing(&mut out);
    }
    Ok(out)
}

/// A filter that stands on a listener is switched on by an `Any` of no type, which no printer knows: the end of the encoding
/// of such an `Any` inside another one, and what is read in its place.
const ON: &[u8] = b"type.googleapis.com/envoy.config.route.v3.FilterConfig\x12\x02\x0a\x00";
const UNSAID: &[u8] = b"type.googleapis.com/envoy.config.route.v3.FilterConfig\x12\x02\x18\x00";
const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";

/// The bytes with a default in its place; whether there was one.
fn without_nothing(bytes: &[u8]) -> (Cow<'_, [u8]>, bool) {
    let places: Vec<usize> =
        bytes.windows(ON.len()).enumerate().filter(|(_, window)| *window == ON).map(|(at, _)| at).collect();
    if places.is_empty() {
        return (Cow::Borrowed(bytes), false);
    }
    let mut own = bytes.to_vec();
    for at in places {
        if let Some(place) = own.get_mut(at..at + UNSAID.len()) {
            place.copy_from_slice(UNSAID);
        }
    }
    (Cow::Owned(own), true)
}

/// Writes it as Envoy reads it.
fn with_nothing(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(with_nothing),
        Value::Object(fields) => {
            let named = fields.get("@type").and_then(Value::as_str) == Some(FILTER_CONFIG);
            if named && fields.len() == 1 {
                fields.insert("config".into(), Value::Object(Map::new()));
            }
            fields.values_mut().for_each(with_nothing);
        }
        _ => {}
    }
}

/// Puts the parts of each resource together, by (type, name).
fn whole<'r>(records: impl IntoIterator<Item = &'r Record>) -> BTreeMap<(&'r str, &'r str), Vec<u8>> {
    let mut parts: BTreeMap<(&str, &str), BTreeMap<&str, &Resource>> = BTreeMap::new();
    for record in records {
        if let Record::Resource(resource) = record {
            parts.entry((&resource.type_url, &resource.name)).or_default().insert(&resource.part, resource);
        }
    }
    let join = |parts: BTreeMap<&str, &Resource>| {
        parts.into_values().flat_map(|part| part.bytes.iter().copied()).collect()
    };
    parts.into_iter().map(|(key, parts)| (key, join(parts))).collect()
}

fn items(lists: &mut Value, list: &str) -> Vec<Value> {
    match lists.get_mut(list).map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn inline_routes(listener: &mut Value, routes: &BTreeMap<String, Value>) {
    let chains = listener.get_mut("filter_chains").and_then(Value::as_array_mut);
    let filters = chains.into_iter().flatten().filter_map(|chain| chain.get_mut("filters")?.as_array_mut());
    let managers = filters.flatten().filter_map(|filter| filter.get_mut("typed_config")?.as_object_mut());
    for manager in managers {
        let table = manager.get("rds").and_then(|rds| rds.get("route_config_name")?.as_str());
        if let Some(table) = table.and_then(|name| routes.get(name)) {
            let table = table.clone();
            Map::remove(manager, "rds");
            manager.insert("route_config".into(), table);
        }
    }
}
