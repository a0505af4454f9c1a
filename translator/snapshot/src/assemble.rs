//! The view of a relay: resources put together from their parts, by type and name, without a copy.

use crate::digest::Digest;
use crate::page::Page;
use crate::record::{Binding, BindingKind, Record, Reference};
use crate::shape::same_resource;
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
    for run in runs(snapshot) {
        match assemble_run(run) {
            AssembledRun::Bindings(of_run) => {
                let keyed = of_run.into_iter().map(|binding| ((binding.kind, binding.name.clone()), binding));
                bindings.extend(keyed);
            }
            AssembledRun::Resources { type_url, resources: of_run } => {
                let keyed = of_run.into_iter().map(|resource| (resource.name.clone(), resource));
                resources.entry(type_url).or_default().extend(keyed);
            }
        }
    }
    Assembled {
        id: snapshot.id(),
        oldest_envoy: snapshot.manifest().oldest_envoy().to_owned(),
        resources,
        bindings,
    }
}

/// For each page in which a resource or binding begins: that page, and those behind it into which its last resource goes
/// on. A run by itself says what the resources are that begin in it: it stays what it is in every snapshot that has it.
pub fn runs(snapshot: &Snapshot) -> impl Iterator<Item = &[Page]> {
    let pages = snapshot.pages();
    (0..pages.len()).filter_map(move |start| {
        let run = pages.get(start..)?;
        let (first, rest) = run.split_first()?;
        if first.continues() && first.shape().single {
            return None;
        }
        let mut end = 1;
        for page in rest.iter().take_while(|page| page.continues()) {
            end += 1;
            if !page.shape().single {
                break;
            }
        }
        run.get(..end)
    })
}

/// What begins in a run of pages, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssembledRun {
    /// Resources of one type.
    Resources {
        /// Their type.
        type_url: Arc<str>,
        /// The resources, sorted by name.
        resources: Vec<AssembledResource>,
    },
    /// Bindings of one kind, sorted by name.
    Bindings(Vec<Binding>),
}

/// Puts one run of [`runs`] together.
pub fn assemble_run(run: &[Page]) -> AssembledRun {
    let mut type_url: Option<Arc<str>> = None;
    let (mut resources, mut bindings): (Vec<AssembledResource>, Vec<Binding>) = (Vec::new(), Vec::new());
    for record in records_of(run) {
        let part = match record {
            Record::Binding(binding) => {
                bindings.push(binding.clone());
                continue;
            }
            Record::Resource(part) => part,
        };
        type_url.get_or_insert_with(|| part.type_url.clone());
        match resources.last_mut().filter(|last| last.name == part.name) {
            Some(resource) => {
                resource.len += part.bytes.len();
                resource.chunks.push(part.bytes.clone());
                resource.refs.extend(part.refs.iter().cloned());
            }
            None => resources.push(AssembledResource {
                name: part.name.clone(),
                chunks: vec![part.bytes.clone()],
                len: part.bytes.len(),
                refs: part.refs.clone(),
            }),
        }
    }
    for resource in &mut resources {
        resource.refs.sort_unstable();
        resource.refs.dedup();
    }
    match type_url {
        Some(type_url) => AssembledRun::Resources { type_url, resources },
        None => AssembledRun::Bindings(bindings),
    }
}

/// The records of what begins in a run: without what its first page goes on with, and of the pages behind only that with
/// which they begin.
fn records_of(run: &[Page]) -> impl Iterator<Item = &Record> {
    let head = |page: &Page| {
        let first = page.records().first().map(Record::key);
        page.records()
            .iter()
            .take_while(|record| first.is_some_and(|first| same_resource(&first, &record.key())))
            .count()
    };
    run.iter().enumerate().flat_map(move |(index, page)| {
        let (whole, head) = (page.records(), if index > 0 || page.continues() { head(page) } else { 0 });
        let of_page = if index > 0 { whole.get(..head) } else { whole.get(head..) };
        of_page.unwrap_or_default()
    })
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
