//! The view of a relay: resources put together from their parts, by type and name, without a copy.

use crate::digest::Digest;
use crate::record::{Binding, BindingKind, Record, Reference};
use crate::snapshot::Snapshot;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A snapshot as a relay serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assembled {
    /// The snapshot's id.
    pub id: Digest,
    /// The oldest Envoy that understands it, `major.minor`.
    pub oldest_envoy: String,
    /// Type URL to name to resource.
    pub resources: BTreeMap<Arc<str>, BTreeMap<Arc<str>, AssembledResource>>,
    /// What is bound late, by kind and name.
    pub bindings: BTreeMap<(BindingKind, Arc<str>), Binding>,
}

/// A resource whose bytes lie in the pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssembledResource {
    /// Its xDS name.
    pub name: Arc<str>,
    /// Its bytes: put in a row, they are the encoded message (the value of the `Any`).
    pub chunks: Vec<Bytes>,
    /// The length of all chunks, in bytes.
    pub len: usize,
    /// What all parts need, sorted, each once.
    pub refs: Vec<Reference>,
}

/// Puts resources together: parts in key order.
pub fn assemble(snapshot: &Snapshot) -> Assembled {
    let mut resources: BTreeMap<Arc<str>, BTreeMap<Arc<str>, AssembledResource>> = BTreeMap::new();
    let mut bindings = BTreeMap::new();
    for record in snapshot.records() {
        match record {
            Record::Binding(binding) => {
                bindings.insert((binding.kind, binding.name.clone()), binding.clone());
            }
            Record::Resource(part) => {
                let by_name = resources.entry(part.type_url.clone()).or_default();
                let resource = by_name.entry(part.name.clone()).or_insert_with(|| AssembledResource {
                    name: part.name.clone(),
                    chunks: Vec::new(),
                    len: 0,
                    refs: Vec::new(),
                });
                resource.len += part.bytes.len();
                resource.chunks.push(part.bytes.clone());
                resource.refs.extend(part.refs.iter().cloned());
            }
        }
    }
    for resource in resources.values_mut().flat_map(BTreeMap::values_mut) {
        resource.refs.sort_unstable();
        resource.refs.dedup();
    }
    Assembled {
        id: snapshot.id(),
        oldest_envoy: snapshot.manifest().oldest_envoy().to_owned(),
        resources,
        bindings,
    }
}

impl AssembledResource {
    /// The digest of its bytes: equal versions, equal resource, in every snapshot. It is worked out at each call.
    pub fn version(&self) -> Digest {
        Digest::of_parts(self.chunks.iter().map(AsRef::as_ref))
    }
}

impl Assembled {
    /// The names of one kind of binding.
    pub fn bindings_of(&self, kind: BindingKind) -> impl Iterator<Item = &Binding> {
        self.bindings.values().filter(move |binding| binding.kind == kind)
    }
}
