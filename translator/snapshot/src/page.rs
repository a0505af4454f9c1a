//! Pages: runs of records, sorted by key, cut where names say so.
//!
//! A cut depends on the names of the records and, against oversized pages, on their sizes; never on history. So two
//! snapshots that differ in one record differ in one page, or two at a cut. A page holds records of one section only.

use crate::digest::Digest;
use crate::limits;
use crate::record::{
    Binding, BindingKind, BindingSource, EndpointSource, Family, Key, ObjectSource, Record, Reference,
    Resource, ZoneWeight,
};
use crate::shape::Shape;
use crate::snapshot::SnapshotError;
use crate::template::Template;
use crate::wire;
use bytes::Bytes;
use prost::Message as _;
use std::sync::Arc;

/// A page starts at a record whose name's digest has these bits zero. Kinds with larger records get smaller masks, so
/// that a page stays at some tens of kilobytes before compression. Part of the format: a change changes every snapshot id.
const CUT_MASK: u32 = (1 << 7) - 1;
/// The mask for bindings, which are small.
const CUT_MASK_BINDINGS: u32 = (1 << 8) - 1;
/// The mask for parts, such as virtual hosts.
const CUT_MASK_PARTS: u32 = (1 << 4) - 1;
/// A page is also cut before it grows over this many bytes of records, unless a single record does.
const CUT_BYTES: usize = 256 << 10;
/// A page is also cut at this many records.
const CUT_RECORDS: usize = 1024;

/// A run of records, decoded and in canonical bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    // Shared: the next snapshot has most pages in common with this one.
    records: Arc<[Record]>,
    raw: Bytes,
    digest: Digest,
    shape: Shape,
}

impl Page {
    /// Encodes sorted records of one section.
    pub(crate) fn encode(records: Vec<Record>) -> Self {
        let section = records.first().map_or(String::new(), |record| record.key().section.to_owned());
        let mut page = wire::Page { section, resources: Vec::new(), bindings: Vec::new() };
        for record in &records {
            match record {
                Record::Resource(resource) => page.resources.push(wire_resource(resource)),
                Record::Binding(binding) => page.bindings.push(wire_binding(binding)),
            }
        }
        let raw = Bytes::from(page.encode_to_vec());
        Self { digest: Digest::of(&raw), raw, shape: Shape::of(&records), records: records.into() }
    }

    /// Decodes a page and refuses all but canonical bytes: unknown or misplaced fields, records of another section, or
    /// keys that do not rise. The records share the memory of `raw`.
    pub fn decode(raw: Bytes) -> Result<Self, SnapshotError> {
        if raw.len() > limits::PAGE_BYTES {
            return Err(SnapshotError::Limit { what: "bytes of a page", limit: limits::PAGE_BYTES as u64 });
        }
        let page = wire::Page::decode(raw.clone()).map_err(|_| SnapshotError::Malformed("page"))?;
        if page.encoded_len() != raw.len() || page.encode_to_vec() != raw {
            return Err(SnapshotError::NotCanonical("page"));
        }
        let section: Arc<str> = page.section.into();
        let records: Vec<Record> = match BindingKind::from_section(&section) {
            Some(kind) if page.resources.is_empty() => page
                .bindings
                .into_iter()
                .map(|binding| read_binding(kind, binding).map(Record::Binding))
                .collect::<Result<_, _>>()?,
            None if page.bindings.is_empty() => page
                .resources
                .into_iter()
                .map(|resource| read_resource(&section, resource).map(Record::Resource))
                .collect::<Result<_, _>>()?,
            _ => return Err(SnapshotError::Malformed("page")),
        };
        if records.is_empty() {
            return Err(SnapshotError::Malformed("page"));
        }
        for record in &records {
            check(record)?;
        }
        if records.windows(2).any(|pair| pair[0].key() >= pair[1].key()) {
            return Err(SnapshotError::NotSorted);
        }
        Ok(Self { digest: Digest::of(&raw), raw, shape: Shape::of(&records), records: records.into() })
    }

    /// The digest of the uncompressed bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The uncompressed bytes.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Its records, by key. Never empty.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What a snapshot must know of it.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether it begins with a later part of the resource that the page before ended with.
    pub(crate) fn continues(&self) -> bool {
        self.records.first().is_some_and(|first| !first.key().part.is_empty())
    }
}

/// Cuts sorted records into pages.
pub(crate) fn cut(records: Vec<Record>) -> Vec<Page> {
    let mut pages = Vec::new();
    let mut run: Vec<Record> = Vec::new();
    let mut bytes = 0;
    for record in records {
        let size = weight(&record);
        let ends = run.first().is_some_and(|first| {
            first.key().section != record.key().section
                || run.len() >= CUT_RECORDS
                || bytes + size > CUT_BYTES
                || is_cut(&record)
        });
        if ends {
            pages.push(Page::encode(std::mem::take(&mut run)));
            bytes = 0;
        }
        bytes += size;
        run.push(record);
    }
    if !run.is_empty() {
        pages.push(Page::encode(run));
    }
    pages
}

/// Whether a page starts here: the low bits of the digest of the part key, or of the name where there is none.
fn is_cut(record: &Record) -> bool {
    let key = record.key();
    let (text, mask) = match record {
        Record::Binding(_) => (key.name, CUT_MASK_BINDINGS),
        Record::Resource(_) if key.part.is_empty() => (key.name, CUT_MASK),
        Record::Resource(_) => (key.part, CUT_MASK_PARTS),
    };
    let digest = Digest::of(text.as_bytes());
    let bytes = digest.as_bytes();
    u32::from_be_bytes([bytes[28], bytes[29], bytes[30], bytes[31]]) & mask == 0
}

/// About how many bytes the record takes in a page.
pub(crate) fn weight(record: &Record) -> usize {
    match record {
        Record::Resource(resource) => {
            let refs: usize = resource.refs.iter().map(|reference| reference.name.len() + 8).sum();
            resource.name.len() + resource.part.len() + resource.bytes.len() + refs + 16
        }
        Record::Binding(binding) => wire_binding(binding).encoded_len() + 8,
    }
}

/// What must hold for every record, whether built or read.
pub(crate) fn check(record: &Record) -> Result<(), SnapshotError> {
    let key = record.key();
    if key.section.is_empty() || key.name.is_empty() {
        return Err(SnapshotError::Unnamed);
    }
    if [key.section, key.name, key.part].iter().any(|text| text.len() > limits::NAME_BYTES) {
        return Err(SnapshotError::Limit { what: "bytes of a name", limit: limits::NAME_BYTES as u64 });
    }
    match record {
        Record::Resource(resource) => {
            if key.section.starts_with("binding/") {
                return Err(SnapshotError::Malformed("type URL"));
            }
            if weight(record) > limits::RECORD_BYTES {
                return Err(SnapshotError::RecordTooLarge {
                    name: key.to_string(),
                    limit: limits::RECORD_BYTES,
                });
            }
            if resource.refs.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(SnapshotError::RefsNotSorted(key.to_string()));
            }
        }
        Record::Binding(binding) => {
            if weight(record) > limits::RECORD_BYTES {
                return Err(SnapshotError::RecordTooLarge {
                    name: key.to_string(),
                    limit: limits::RECORD_BYTES,
                });
            }
            let fits = match &binding.source {
                BindingSource::Endpoints(_) => binding.kind == BindingKind::Endpoints,
                BindingSource::Zoned(_, zones) => {
                    binding.kind == BindingKind::Endpoints
                        && !zones.is_empty()
                        && zones.is_sorted_by(|a, b| a.zone < b.zone)
                        && zones.iter().all(|zone| zone.weight > 0 && zone.zone.len() <= limits::NAME_BYTES)
                }
                BindingSource::Object { .. } => {
                    matches!(binding.kind, BindingKind::Secret | BindingKind::TrustBundle)
                }
                // Sorted, so that the same objects are the same bytes.
                BindingSource::Objects(objects) => {
                    binding.kind == BindingKind::TrustBundle
                        && objects.len() > 1
                        && objects.is_sorted_by(|a, b| a < b)
                }
                BindingSource::Template(template) => template.fits(binding.kind),
            };
            if !fits {
                return Err(SnapshotError::BindingSource(key.to_string()));
            }
        }
    }
    Ok(())
}

fn wire_resource(resource: &Resource) -> wire::Resource {
    wire::Resource {
        name: resource.name.to_string(),
        part: resource.part.to_string(),
        bytes: resource.bytes.clone(),
        refs: resource
            .refs
            .iter()
            .map(|reference| wire::Reference {
                kind: match reference.kind {
                    BindingKind::Endpoints => 0,
                    BindingKind::Secret => 1,
                    BindingKind::TrustBundle => 2,
                    BindingKind::Extension => 3,
                },
                name: reference.name.to_string(),
            })
            .collect(),
    }
}

fn read_resource(section: &Arc<str>, resource: wire::Resource) -> Result<Resource, SnapshotError> {
    let refs = resource.refs.into_iter().map(|reference| {
        let kind = match reference.kind {
            0 => BindingKind::Endpoints,
            1 => BindingKind::Secret,
            2 => BindingKind::TrustBundle,
            3 => BindingKind::Extension,
            _ => return Err(SnapshotError::Malformed("reference")),
        };
        Ok(Reference { kind, name: reference.name.into() })
    });
    Ok(Resource {
        type_url: section.clone(),
        name: resource.name.into(),
        part: resource.part.into(),
        bytes: resource.bytes,
        refs: refs.collect::<Result<_, _>>()?,
    })
}

fn wire_binding(binding: &Binding) -> wire::Binding {
    let object = |kind: &str, namespace: &str, name: &str| wire::ObjectSource {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let mut out = wire::Binding { name: binding.name.to_string(), ..Default::default() };
    match &binding.source {
        BindingSource::Endpoints(sources) => out.endpoints = sources.iter().map(wire_endpoints).collect(),
        BindingSource::Zoned(sources, zones) => {
            out.endpoints = sources.iter().map(wire_endpoints).collect();
            let zone = |one: &ZoneWeight| wire::ZoneWeight { zone: one.zone.to_string(), weight: one.weight };
            out.zones = zones.iter().map(zone).collect();
        }
        BindingSource::Object { kind, namespace, name } => out.object = Some(object(kind, namespace, name)),
        BindingSource::Objects(objects) => {
            let objects = objects.iter().map(|one| object(&one.kind, &one.namespace, &one.name));
            out.objects = objects.collect();
        }
        BindingSource::Template(Template { objects, parts }) => {
            let objects = objects.iter().map(|one| object(&one.kind, &one.namespace, &one.name));
            out.objects = objects.collect();
            out.template = Template::write(parts);
        }
    }
    out
}

fn wire_endpoints(source: &EndpointSource) -> wire::EndpointSource {
    wire::EndpointSource {
        namespace: source.namespace.to_string(),
        service: source.service.to_string(),
        port_name: source.port_name.to_string(),
        port: source.port.into(),
        family: match source.family {
            Family::Any => 0,
            Family::V4 => 4,
            Family::V6 => 6,
        },
        weight: source.weight,
        hostname: source.hostname.to_string(),
        addresses: source.addresses.iter().map(ToString::to_string).collect(),
    }
}

fn read_binding(kind: BindingKind, binding: wire::Binding) -> Result<Binding, SnapshotError> {
    let objects = |objects: Vec<wire::ObjectSource>| {
        let one = |object: wire::ObjectSource| ObjectSource {
            kind: object.kind.into(),
            namespace: object.namespace.into(),
            name: object.name.into(),
        };
        objects.into_iter().map(one).collect()
    };
    if kind != BindingKind::Endpoints && !binding.zones.is_empty() {
        return Err(SnapshotError::Malformed("binding"));
    }
    let source = match (kind, binding.object) {
        (BindingKind::Secret | BindingKind::Extension, None) if binding.endpoints.is_empty() => {
            let parts = Template::read(binding.template)?;
            BindingSource::Template(Template { objects: objects(binding.objects), parts })
        }
        _ if !binding.template.is_empty() => return Err(SnapshotError::Malformed("binding")),
        (BindingKind::TrustBundle, None) if binding.endpoints.is_empty() => {
            BindingSource::Objects(objects(binding.objects))
        }
        (BindingKind::Endpoints, None) if binding.objects.is_empty() => {
            let sources = binding.endpoints.into_iter().map(read_endpoints).collect::<Result<_, _>>()?;
            let zone = |one: wire::ZoneWeight| ZoneWeight { zone: one.zone.into(), weight: one.weight };
            let zones: Vec<_> = binding.zones.into_iter().map(zone).collect();
            if zones.is_empty() {
                BindingSource::Endpoints(sources)
            } else {
                BindingSource::Zoned(sources, zones)
            }
        }
        (BindingKind::Secret | BindingKind::TrustBundle, Some(object))
            if binding.endpoints.is_empty() && binding.objects.is_empty() =>
        {
            BindingSource::Object {
                kind: object.kind.into(),
                namespace: object.namespace.into(),
                name: object.name.into(),
            }
        }
        _ => return Err(SnapshotError::Malformed("binding")),
    };
    Ok(Binding { kind, name: binding.name.into(), source })
}

fn read_endpoints(source: wire::EndpointSource) -> Result<EndpointSource, SnapshotError> {
    Ok(EndpointSource {
        namespace: source.namespace.into(),
        service: source.service.into(),
        port_name: source.port_name.into(),
        port: u16::try_from(source.port).map_err(|_| SnapshotError::Malformed("port"))?,
        family: match source.family {
            0 => Family::Any,
            4 => Family::V4,
            6 => Family::V6,
            _ => return Err(SnapshotError::Malformed("address family")),
        },
        weight: source.weight,
        hostname: source.hostname.into(),
        addresses: source.addresses.into_iter().map(Into::into).collect(),
    })
}

impl BindingKind {
    /// The section of its records.
    pub(crate) fn section(self) -> &'static str {
        match self {
            Self::Endpoints => "binding/endpoints",
            Self::Extension => "binding/extension",
            Self::Secret => "binding/secret",
            Self::TrustBundle => "binding/trust-bundle",
        }
    }

    fn from_section(section: &str) -> Option<Self> {
        let all = [Self::Endpoints, Self::Extension, Self::Secret, Self::TrustBundle];
        all.into_iter().find(|kind| kind.section() == section)
    }
}

impl Record {
    /// What records are sorted by.
    pub fn key(&self) -> Key<'_> {
        match self {
            Self::Resource(resource) => {
                Key { section: &resource.type_url, name: &resource.name, part: &resource.part }
            }
            Self::Binding(binding) => Key { section: binding.kind.section(), name: &binding.name, part: "" },
        }
    }
}
