//! Resources as JSON and back: what the descriptors do not know does not come through.

use super::Failure;
use crate::xds::{self, CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE};
use moorgate_model::FieldPath;
use moorgate_snapshot::record::{Record, Reference, Resource};
use serde_json::Value as Json;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// A type URL and a name.
pub(super) type Key = (String, String);

/// The records of a fleet while they are patched.
#[derive(Debug, Clone)]
pub(super) struct State {
    records: Vec<Record>,
    /// Resources that were patched, by any policy.
    json: BTreeMap<Key, Json>,
    /// Resources that this policy touches, each with its first patch that does.
    pub(super) touched: BTreeMap<Key, usize>,
}

impl State {
    pub(super) fn new(records: Vec<Record>) -> Self {
        Self { records, json: BTreeMap::new(), touched: BTreeMap::new() }
    }

    /// The names of the resources of a type.
    pub(super) fn names(&self, type_url: &str) -> BTreeSet<&str> {
        let own = self.records.iter().filter_map(|record| match record {
            Record::Resource(found) if &*found.type_url == type_url => Some(&*found.name),
            _ => None,
        });
        own.chain(self.json.keys().filter(|(of, _)| of == type_url).map(|(_, name)| name.as_str())).collect()
    }

    /// A resource as it is now, if it is there.
    pub(super) fn json(&self, key: &Key, at: &FieldPath) -> Result<Option<Cow<'_, Json>>, Failure> {
        if let Some(found) = self.json.get(key) {
            return Ok(Some(Cow::Borrowed(found)));
        }
        let mut parts: BTreeMap<&str, &Resource> = BTreeMap::new();
        for record in &self.records {
            match record {
                Record::Resource(found) if *found.type_url == *key.0 && *found.name == *key.1 => {
                    parts.insert(&found.part, found);
                }
                _ => {}
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let bytes: Vec<u8> = parts.into_values().flat_map(|part| part.bytes.iter().copied()).collect();
        let json = xds::json::print(&key.0, &bytes, true)
            .map_err(|error| Failure::misfit(at.clone(), error.to_string()))?;
        Ok(Some(Cow::Owned(json)))
    }

    /// Puts a resource in the place of what was there. Whether it is one, [`Self::check`] says.
    pub(super) fn put(&mut self, key: Key, json: Json, patch: usize) {
        self.touched.entry(key.clone()).or_insert(patch);
        self.json.insert(key, json);
    }

    /// The same for a resource that is checked at once.
    pub(super) fn replace(&mut self, key: &Key, json: Json, at: &FieldPath) -> Result<(), Failure> {
        self.json.insert(key.clone(), json);
        self.check(key, at)
    }

    /// Whether a patched resource is a message of its type, and names nothing that nobody binds.
    pub(super) fn check(&self, key: &Key, at: &FieldPath) -> Result<(), Failure> {
        let Some(json) = self.json.get(key) else { return Ok(()) };
        let named = |field: &str| json.get(field).and_then(Json::as_str);
        if named("name") != Some(key.1.as_str()) {
            return Err(Failure::refused(at.clone(), format!("the resource is no longer named {:?}", key.1)));
        }
        let fits = xds::encode_json(&key.0, json).and_then(|parts| {
            let whole: Vec<u8> = parts.into_iter().flat_map(|(_, bytes)| bytes).collect();
            xds::fits(&key.0, &whole, true)
        });
        fits.map_err(|why| {
            let kind = key.0.rsplit('.').next().unwrap_or_default();
            Failure::misfit(at.clone(), format!("{kind} {:?} does not fit its type any more: {why}", key.1))
        })?;
        let mut names = Names::default();
        names.collect(json);
        if let Some(what) = names.private {
            let message =
                format!("{what} holds a secret: secrets come by SDS, and never stand in a snapshot");
            return Err(Failure::refused(at.clone(), message));
        }
        let known: BTreeSet<&str> = self.refs(key).collect();
        if let Some(new) = names.late.iter().find(|name| !known.contains(name.as_str())) {
            let message = format!(
                "{new:?} would come from the relay, which knows of no such secret or set of endpoints: refer to it in an \
                 object, or give a cluster its endpoints (load_assignment)"
            );
            return Err(Failure::refused(at.clone(), message));
        }
        let tables = self.names(ROUTE_TYPE);
        match names.tables.iter().find(|table| !tables.contains(table.as_str())) {
            Some(table) => {
                let message = format!("there is no RouteConfiguration {table:?}");
                Err(Failure::target(at.clone(), message))
            }
            None => Ok(()),
        }
    }

    /// The late-bound names that a resource needed before.
    fn refs(&self, key: &Key) -> impl Iterator<Item = &str> {
        let of = |record: &&Record| matches!(record, Record::Resource(found) if *found.type_url == *key.0 && *found.name == *key.1);
        self.records.iter().filter(of).flat_map(|record| match record {
            Record::Resource(found) => {
                found.refs.iter().map(|reference| &*reference.name).collect::<Vec<_>>()
            }
            Record::Binding(_) => Vec::new(),
        })
    }

    /// The records with what was patched. Resources were checked, so each has its message.
    pub(super) fn into_records(self) -> Vec<Record> {
        let Self { records, json, .. } = self;
        let mut refs: BTreeMap<Key, Vec<Reference>> = BTreeMap::new();
        let mut kept = Vec::with_capacity(records.len());
        for record in records {
            match record {
                Record::Resource(found)
                    if json.contains_key(&(found.type_url.to_string(), found.name.to_string())) =>
                {
                    let key = (found.type_url.to_string(), found.name.to_string());
                    refs.entry(key).or_default().extend(found.refs);
                }
                other => kept.push(other),
            }
        }
        for (key, json) in json {
            let Ok(parts) = xds::encode_json(&key.0, &json) else { continue };
            let mut refs = refs.remove(&key).unwrap_or_default();
            for (part, bytes) in parts {
                kept.push(Record::Resource(Resource {
                    type_url: key.0.as_str().into(),
                    name: key.1.as_str().into(),
                    part: part.as_str().into(),
                    bytes,
                    refs: std::mem::take(&mut refs),
                }));
            }
        }
        kept.sort_by(|a, b| order(a).cmp(&order(b)));
        kept
    }
}

/// Resources before bindings, as [`xds::records`] has them; bindings stay in their order.
fn order(record: &Record) -> (u8, &str, &str, &str) {
    match record {
        Record::Resource(found) => (0, &found.type_url, &found.name, &found.part),
        Record::Binding(_) => (1, "", "", ""),
    }
}

/// The types that can be patched.
pub(super) fn is_patched(type_url: &str) -> bool {
    [CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE].contains(&type_url)
}

/// What a resource names.
#[derive(Debug, Default)]
struct Names {
    /// Secrets and endpoints that the relay would have to know.
    late: BTreeSet<String>,
    tables: BTreeSet<String>,
    /// A field that holds a secret.
    private: Option<String>,
}

/// Fields that hold secrets.
const PRIVATE: [&str; 8] = [
    "private_key",
    "private_key_provider",
    "pkcs12",
    "password",
    "session_ticket_keys",
    "generic_secret",
    "token_secret",
    "hmac_secret",
];

/// Whether anything in it is given as it is, and not by the name of a file or of what brings it.
fn inline(json: &Json) -> bool {
    match json {
        Json::Array(items) => items.iter().any(inline),
        Json::Object(fields) => fields
            .iter()
            .any(|(name, field)| ["inline_string", "inline_bytes"].contains(&name.as_str()) || inline(field)),
        _ => false,
    }
}

/// What holds a secret in a document, if anything does.
pub(crate) fn private(json: &Json) -> Option<String> {
    let mut names = Names::default();
    names.collect(json);
    names.private
}

impl Names {
    fn collect(&mut self, json: &Json) {
        match json {
            Json::Array(items) => items.iter().for_each(|item| self.collect(item)),
            Json::Object(fields) => {
                let text = |field: &str| fields.get(field).and_then(Json::as_str);
                if fields.contains_key("sds_config") {
                    self.late.extend(text("name").map(str::to_owned));
                }
                if let Some(eds) = fields.get("eds_cluster_config") {
                    let name = eds.get("service_name").and_then(Json::as_str).filter(|name| !name.is_empty());
                    self.late.extend(name.or(text("name")).map(str::to_owned));
                } else if text("type") == Some("EDS") {
                    self.late.extend(text("name").map(str::to_owned));
                }
                let table = fields.get("rds").and_then(|rds| rds.get("route_config_name"));
                self.tables.extend(table.and_then(Json::as_str).map(str::to_owned));
                for (name, field) in fields {
                    let inline = inline(field);
                    if PRIVATE.contains(&name.as_str()) && (inline || field.is_string() || field.is_array()) {
                        self.private.get_or_insert_with(|| name.clone());
                    }
                    self.collect(field);
                }
            }
            Json::String(text) if text.contains("PRIVATE KEY-----") => {
                self.private.get_or_insert_with(|| "a text".to_owned());
            }
            _ => {}
        }
    }
}
