//! Documents of endpoints: EndpointSlices, lists of them, and static sets.

use super::{Endpoint, Health, Port, PortSet, Services, is_refused};
use crate::bind::live;
use serde::Deserialize;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use thiserror::Error;

/// The label that ties a slice to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// True for names that documents have.
pub(super) fn is_document(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml")
}

/// Everything that a file tells; objects of other kinds are passed over.
pub(super) fn services(path: &Path, bytes: &[u8]) -> Result<Services, String> {
    let mut out = Services::new();
    for document in documents(path, bytes)? {
        add(document, &mut out, 0)?;
    }
    Ok(out)
}

/// Everything that a document in JSON tells.
pub(in crate::bind) fn services_of_json(bytes: &[u8]) -> Result<Services, String> {
    let mut out = Services::new();
    let document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    add(document, &mut out, 0)?;
    Ok(out)
}

#[cfg(feature = "yaml")]
fn documents(path: &Path, bytes: &[u8]) -> Result<Vec<Value>, String> {
    if path.extension().is_some_and(|end| end == "json") {
        return serde_json::from_slice(bytes).map(|value| vec![value]).map_err(|error| error.to_string());
    }
    let documents = yaml_serde::Deserializer::from_slice(bytes).map(Value::deserialize);
    documents.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

#[cfg(not(feature = "yaml"))]
fn documents(path: &Path, bytes: &[u8]) -> Result<Vec<Value>, String> {
    if path.extension().is_none_or(|end| end != "json") {
        return Err("this relay was built without the feature yaml: write it as JSON, NAME.json".to_owned());
    }
    serde_json::from_slice(bytes).map(|value| vec![value]).map_err(|error| error.to_string())
}

fn add(document: Value, out: &mut Services, depth: u8) -> Result<(), String> {
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    if document.get("endpoints").is_some_and(Value::is_array) && kind.is_empty() {
        let sets: StaticSets = serde_json::from_value(document).map_err(|error| error.to_string())?;
        return sets.endpoints.into_iter().try_for_each(|set| add_static(set, out));
    }
    if kind == "EndpointSlice" {
        let slice: Slice = serde_json::from_value(document).map_err(|error| error.to_string())?;
        return add_slice(slice, out);
    }
    if kind.ends_with("List") && depth == 0 {
        let Value::Object(mut fields) = document else { return Ok(()) };
        let Some(Value::Array(items)) = fields.remove("items") else { return Ok(()) };
        // Items of a typed list (`kubectl get --raw`) leave out their kind.
        let item_kind = kind.strip_suffix("List").unwrap_or_default().to_owned();
        for mut item in items {
            if let Some(fields) = item.as_object_mut().filter(|_| !item_kind.is_empty()) {
                fields.entry("kind").or_insert_with(|| Value::String(item_kind.clone()));
            }
            add(item, out, depth + 1)?;
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StaticSets {
    endpoints: Vec<StaticSet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StaticSet {
    service: String,
    port: Option<StaticPort>,
    addresses: Vec<String>,
    #[serde(default)]
    zone: String,
    #[serde(default = "one")]
    weight: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum StaticPort {
    Number(u16),
    Name(String),
}

fn one() -> u32 {
    1
}

fn add_static(set: StaticSet, out: &mut Services) -> Result<(), String> {
    let (namespace, service) = set
        .service
        .split_once('/')
        .filter(|(namespace, service)| !namespace.is_empty() && !service.is_empty() && !service.contains('/'))
        .ok_or_else(|| format!("service {:?} is not namespace/name", set.service))?;
    if set.weight == 0 {
        return Err(format!("service {:?}: weight 0; leave the set out instead", set.service));
    }
    let endpoint = |text: &String| {
        let address: SocketAddr = text.parse().map_err(|_| format!("{text:?} is no ip:port"))?;
        if address.port() == 0 || is_refused(address.ip()) {
            return Err(format!("{text:?} cannot be dialled"));
        }
        Ok(Endpoint { address, zone: set.zone.clone(), health: Health::Healthy, weight: set.weight })
    };
    let endpoints = set.addresses.iter().map(endpoint).collect::<Result<_, String>>()?;
    let port = match set.port {
        None => Port::Any,
        Some(StaticPort::Number(number)) => Port::Number(number),
        Some(StaticPort::Name(name)) => Port::Name(name),
    };
    let key = (namespace.to_owned(), service.to_owned());
    out.entry(key).or_default().push(PortSet { port, endpoints });
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    metadata: SliceMetadata,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<SlicePort>>,
}

#[derive(Deserialize)]
struct SliceMetadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct SliceEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Option<Conditions>,
    #[serde(default)]
    zone: Option<String>,
}

#[derive(Deserialize, Default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct SlicePort {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<String>,
}

fn add_slice(slice: Slice, out: &mut Services) -> Result<(), String> {
    if slice.metadata.labels.contains_key(SERVICE_LABEL) && slice.metadata.namespace.is_empty() {
        return Err(format!("EndpointSlice {:?} has no namespace", slice.metadata.name));
    }
    let namespace = slice.metadata.namespace.clone();
    if let Some(slice) = trimmed(slice) {
        out.entry((namespace, slice.service)).or_default().extend(slice.sets);
    }
    Ok(())
}

/// An object that is no EndpointSlice of a known form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no EndpointSlice")]
pub struct Unreadable;

/// An EndpointSlice of an API server, trimmed to what endpoints are made of; none if it belongs to no Service.
pub fn slice(object: Value) -> Result<Option<live::Slice>, Unreadable> {
    let slice: Slice = serde_json::from_value(object).map_err(|_| Unreadable)?;
    Ok(trimmed(slice))
}

fn trimmed(slice: Slice) -> Option<live::Slice> {
    let mut metadata = slice.metadata;
    let service = metadata.labels.remove(SERVICE_LABEL)?;
    let mut sets = Vec::new();
    let dialled = slice.address_type != "FQDN";
    for port in slice.ports.unwrap_or_default().into_iter().filter(|_| dialled) {
        let Some(number) = port.port.filter(|number| *number > 0) else { continue };
        // A Service's ports have different names, whatever their protocols: the name alone says which is meant.
        if !matches!(port.protocol.as_deref().unwrap_or("TCP"), "TCP" | "UDP") {
            continue;
        }
        let endpoints = slice
            .endpoints
            .iter()
            .flatten()
            .filter_map(|endpoint| slice_endpoint(endpoint, number))
            .collect();
        sets.push(PortSet { port: Port::Name(port.name.unwrap_or_default()), endpoints });
    }
    Some(live::Slice { name: metadata.name, service, sets })
}

/// Only the first address of an endpoint counts: the API calls them interchangeable.
fn slice_endpoint(endpoint: &SliceEndpoint, port: u16) -> Option<Endpoint> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let health = health(endpoint.conditions.as_ref())?;
    let zone = endpoint.zone.clone().unwrap_or_default();
    (!is_refused(address)).then(|| Endpoint {
        address: SocketAddr::new(address, port),
        zone,
        health,
        weight: 1,
    })
}

/// EndpointConditions: an unknown `ready` means ready, an unknown `serving` follows it. One that neither is ready nor
/// serves while it terminates is gone.
fn health(conditions: Option<&Conditions>) -> Option<Health> {
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    match (ready, serving, terminating) {
        (true, _, _) => Some(Health::Healthy),
        (false, true, true) => Some(Health::Draining),
        (false, _, true) => None,
        (false, _, false) => Some(Health::Unhealthy),
    }
}
