//! Objects as the API server has them, and as the compiler reads them.

use super::{ByName, Kind};
use crate::source::File;
use kube::api::DynamicObject;
use moorgate_model::ObjectRef;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Where `kubectl apply` keeps a copy of the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One object of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// Which object it is.
    pub reference: ObjectRef,
    /// The version of its group that it was read in.
    pub version: Arc<str>,
    /// Its identity: another one means that it was deleted and made anew.
    pub uid: Arc<str>,
    /// Which state of it this is: what a write has to name, so that it overwrites nobody.
    pub resource_version: Arc<str>,
    /// Counts changes of its specification.
    pub generation: Option<i64>,
    /// How URLs name its kind, such as `httproutes`.
    pub plural: Arc<str>,
    /// The UIDs of the objects that own it.
    pub owners: BTreeSet<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Everything but metadata and status.
    pub fields: Map<String, Value>,
    /// Its status as it stands; null without one.
    pub status: Value,
    /// What the compiler reads.
    pub file: File,
}

impl Live {
    /// An object as it came; none without a name.
    pub fn of(object: DynamicObject, kind: &Kind) -> Option<Self> {
        let DynamicObject { metadata, data, .. } = object;
        let name = metadata.name?;
        let namespace = metadata.namespace.filter(|_| kind.namespaced).unwrap_or_default();
        let resource = &kind.resource;
        let reference = ObjectRef::new(&resource.group, &resource.kind, &namespace, &name);
        let Value::Object(mut fields) = data else { return None };
        let status = fields.remove("status").unwrap_or_default();
        let mut kept = Map::from_iter([("name".to_owned(), json!(name))]);
        if kind.namespaced {
            kept.insert("namespace".to_owned(), json!(namespace));
        }
        if let Some(uid) = &metadata.uid {
            kept.insert("uid".to_owned(), json!(uid));
        }
        if let Some(generation) = metadata.generation {
            kept.insert("generation".to_owned(), json!(generation));
        }
        if let Some(time) = &metadata.creation_timestamp {
            kept.insert("creationTimestamp".to_owned(), json!(time));
        }
        let labels = metadata.labels.unwrap_or_default();
        if !labels.is_empty() {
            kept.insert("labels".to_owned(), json!(labels));
        }
        let mut annotations = metadata.annotations.unwrap_or_default();
        annotations.remove(LAST_APPLIED);
        if !annotations.is_empty() {
            kept.insert("annotations".to_owned(), json!(annotations));
        }
        let file = File { name: place(&reference).into(), bytes: text(resource, kept, &fields).into() };
        Some(Self {
            reference,
            version: resource.version.as_str().into(),
            uid: metadata.uid.unwrap_or_default().into(),
            resource_version: metadata.resource_version.unwrap_or_default().into(),
            generation: metadata.generation,
            plural: resource.plural.as_str().into(),
            owners: metadata
                .owner_references
                .unwrap_or_default()
                .into_iter()
                .map(|owner| owner.uid)
                .collect(),
            labels,
            fields,
            status,
            file,
        })
    }

    /// Whether this is a later state of the object than that.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.number() > other.number()
    }

    /// Its resource version as a number; 0 if it is none.
    pub(super) fn number(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }
}

/// What diagnostics show as the file: `HTTPRoute/shop/cart`.
fn place(reference: &ObjectRef) -> String {
    let group = match &*reference.group {
        "" | crate::attach::GATEWAY_GROUP => String::new(),
        group => format!(".{group}"),
    };
    match &*reference.namespace {
        "" => format!("{}{group}/{}", reference.kind, reference.name),
        namespace => format!("{}{group}/{namespace}/{}", reference.kind, reference.name),
    }
}

fn text(
    resource: &kube::core::ApiResource,
    metadata: Map<String, Value>,
    fields: &Map<String, Value>,
) -> Vec<u8> {
    let mut root = Map::from_iter([
        ("apiVersion".to_owned(), json!(resource.api_version)),
        ("kind".to_owned(), json!(resource.kind)),
        ("metadata".to_owned(), Value::Object(metadata)),
    ]);
    root.extend(fields.iter().map(|(name, value)| (name.clone(), value.clone())));
    // A tree of JSON can always be written.
    serde_json::to_vec_pretty(&Value::Object(root)).unwrap_or_default()
}

/// The objects of a cluster.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    by_name: ByName,
    newest: u64,
}

impl Objects {
    /// Adds or replaces an object.
    pub fn insert(&mut self, live: Live) {
        self.newest = self.newest.max(live.number());
        self.by_name.insert(live.reference.clone(), Arc::new(live));
    }

    /// Takes an object out.
    pub fn remove(&mut self, reference: &ObjectRef) -> Option<Arc<Live>> {
        self.by_name.remove(reference)
    }

    /// Notes a resource version that the API server named, such as that of a list or of a deletion.
    pub fn seen(&mut self, resource_version: Option<&str>) {
        let number = resource_version.and_then(|text| text.parse().ok()).unwrap_or(0);
        self.newest = self.newest.max(number);
    }

    /// The newest resource version that was seen.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// An object.
    pub fn get(&self, reference: &ObjectRef) -> Option<&Arc<Live>> {
        self.by_name.get(reference)
    }

    /// All of them, in the order of group, kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Live>> {
        self.by_name.values()
    }

    /// Those of one kind.
    pub fn of_kind<'o>(&'o self, group: &'o str, kind: &'o str) -> impl Iterator<Item = &'o Arc<Live>> {
        let from = ObjectRef::new(group, kind, "", "");
        self.by_name
            .range(from..)
            .map(|(_, live)| live)
            .take_while(move |live| &*live.reference.group == group && &*live.reference.kind == kind)
    }

    /// What the compiler reads, in the order of names.
    pub fn files(&self) -> Vec<File> {
        let mut files: Vec<File> = self.iter().map(|live| live.file.clone()).collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        files
    }
}
