//! Records as Envoy's own JSON, with proto field names, `Any` opened and keys sorted.

use super::bootstrap::{self, BootstrapOptions};
use super::{CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE, XdsError};
use moorgate_snapshot::record::{Record, Resource};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Envoy's messages as far as Moorgate can write them; made by `distil-envoy`.
pub(crate) const DESCRIPTORS: &[u8] = include_bytes!("../../data/envoy-descriptors.binpb");

/// Loaded once, on first use.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).ok());

/// Every resource as it is served: `{"clusters": […], "listeners": […], "routes": […]}`, sorted by name.
pub fn resources(records: &[Record]) -> Result<Value, XdsError> {
    let mut lists =
        BTreeMap::from([("clusters", Vec::new()), ("listeners", Vec::new()), ("routes", Vec::new())]);
    for ((type_url, name), bytes) in whole(records) {
        let list = match type_url {
            CLUSTER_TYPE => "clusters",
            LISTENER_TYPE => "listeners",
            ROUTE_TYPE => "routes",
            other => other,
        };
        lists.entry(list).or_default().push(resource(type_url, name, &bytes)?);
    }
    Ok(json!(lists))
}

/// A complete bootstrap that holds the configuration itself: what `compile -o envoy` prints, and what
/// `envoy --mode validate` takes.
///
/// Clusters and listeners are the served ones; route tables, which cannot be static, stand in the listeners in place
/// of the references to them. Endpoints and secrets stay names, to be had from the relay that `options` names, so
/// that an Envoy can also be started with it.
pub fn envoy(records: &[Record], options: &BootstrapOptions) -> Result<Value, XdsError> {
    let mut lists = resources(records)?;
    let routes: BTreeMap<String, Value> = items(&mut lists, "routes")
        .into_iter()
        .filter_map(|table| Some((table.get("name")?.as_str()?.to_owned(), table)))
        .collect();
    let mut listeners = items(&mut lists, "listeners");
    listeners.iter_mut().for_each(|listener| inline_routes(listener, &routes));
    let mut out = bootstrap::bootstrap(options);
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

/// One encoded message as JSON.
pub fn resource(type_url: &str, name: &str, bytes: &[u8]) -> Result<Value, XdsError> {
    let full_name = type_url.rsplit_once('/').map_or(type_url, |(_, name)| name);
    let descriptor = POOL.as_ref().and_then(|pool| pool.get_message_by_name(full_name));
    let descriptor = descriptor.ok_or_else(|| XdsError::Descriptor(full_name.to_owned()))?;
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|source| XdsError::Decode {
        type_url: type_url.to_owned(),
        name: name.to_owned(),
        source,
    })?;
    // Straight to text, maps would come in the order of a hash table; a `Value` sorts its keys.
    let options = SerializeOptions::new().use_proto_field_name(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|source| XdsError::Json {
        type_url: type_url.to_owned(),
        name: name.to_owned(),
        source,
    })
}

/// Puts the parts of each resource together, by (type, name).
fn whole(records: &[Record]) -> BTreeMap<(&str, &str), Vec<u8>> {
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
