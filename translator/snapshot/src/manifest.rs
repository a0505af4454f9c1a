//! The manifest: the sorted list of a snapshot's pages. Its digest is the snapshot's id.
//!
//! Everything in it is a function of the records: no time, no host, no stored size. It says which format it has, which
//! features a reader must know, and from which Envoy on its resources are understood.

use crate::digest::Digest;
use crate::limits;
use crate::page::Page;
use crate::record::{BindingSource, Key, MODULE_TYPE, Record};
use crate::snapshot::SnapshotError;
use crate::wire;
use bytes::Bytes;
use prost::Message as _;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
/// The oldest Envoy, `major.minor`, that understands what this version puts into a snapshot, unless that says otherwise.
pub const OLDEST_ENVOY: &str = "1.38";
/// A binding of this snapshot takes its value from several objects.
const JOINED_BUNDLES: &str = "joined-bundles";
/// There are modules of code in this snapshot, which the relay hands out over HTTP.
const MODULES: &str = "modules";
/// A binding of this snapshot is made of Secrets by a template.
const SECRET_TEMPLATES: &str = "secret-templates";
/// Zones of endpoints have weights in this snapshot.
const ZONE_WEIGHTS: &str = "zone-weights";
/// Required features that this version understands; those that do not know one refuse the snapshot with a clear word.
pub(crate) const FEATURES: &[&str] = &[JOINED_BUNDLES, MODULES, SECRET_TEMPLATES, ZONE_WEIGHTS];

/// The pages of a snapshot and what a reader must know to use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    id: Digest,
    raw: Bytes,
    required: Vec<String>,
    optional: Vec<String>,
    oldest_envoy: String,
    pages: Vec<PageRef>,
}

/// What a manifest says of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRef {
    /// The section, name and part of its first record.
    pub first: (String, String, String),
    /// The digest of its uncompressed bytes.
    pub digest: Digest,
    /// The number of its uncompressed bytes.
    pub size: usize,
    /// How many records it holds.
    pub records: u64,
    /// Its bytes, if the snapshot is so small that its pages lie in the manifest.
    pub inline: Option<Bytes>,
}

impl PageRef {
    /// The key of its first record.
    pub fn first_key(&self) -> Key<'_> {
        Key { section: &self.first.0, name: &self.first.1, part: &self.first.2 }
    }

    /// Whether this page is what the manifest says.
    pub(crate) fn describes(&self, page: &Page) -> bool {
        self.digest == page.digest()
            && self.size == page.raw().len()
            && self.records == page.records().len() as u64
            && page.records().first().is_some_and(|record| record.key() == self.first_key())
    }
}

impl Manifest {
    /// The manifest of these pages, which must be sorted.
    pub(crate) fn of(pages: &[Page], oldest_envoy: &str) -> Result<Self, SnapshotError> {
        let inline = pages.iter().map(|page| page.raw().len()).sum::<usize>() < limits::INLINE_BYTES;
        let refs = pages.iter().map(|page| {
            let first = page.records().first().map(|record| {
                let key = record.key();
                (key.section.to_owned(), key.name.to_owned(), key.part.to_owned())
            });
            PageRef {
                first: first.unwrap_or_default(),
                digest: page.digest(),
                size: page.raw().len(),
                records: page.records().len() as u64,
                inline: inline.then(|| page.raw().clone()),
            }
        });
        let mut manifest = Self {
            id: Digest::of(b""),
            raw: Bytes::new(),
            required: required(pages),
            optional: Vec::new(),
            oldest_envoy: oldest_envoy.to_owned(),
            pages: refs.collect(),
        };
        manifest.raw = manifest.wire().encode_to_vec().into();
        manifest.id = Digest::of(&manifest.raw);
        if manifest.raw.len() > limits::MANIFEST_BYTES {
            return Err(SnapshotError::Limit {
                what: "bytes of the manifest",
                limit: limits::MANIFEST_BYTES as u64,
            });
        }
        Ok(manifest)
    }

    /// Decodes a manifest. Refuses formats and required features from the future before all else, then whatever is not
    /// canonical, not sorted, or over a limit, so that its sizes may be believed.
    pub fn decode(raw: Bytes) -> Result<Self, SnapshotError> {
        if raw.len() > limits::MANIFEST_BYTES {
            return Err(SnapshotError::Limit {
                what: "bytes of the manifest",
                limit: limits::MANIFEST_BYTES as u64,
            });
        }
        let message =
            wire::Manifest::decode(raw.clone()).map_err(|_| SnapshotError::Malformed("manifest"))?;
        if message.format == 0 || message.format > FORMAT {
            return Err(SnapshotError::Format(message.format));
        }
        if let Some(feature) = message.required.iter().find(|name| !FEATURES.contains(&name.as_str())) {
            return Err(SnapshotError::Feature(feature.chars().take(80).collect()));
        }
        if message.encoded_len() != raw.len() || message.encode_to_vec() != raw {
            return Err(SnapshotError::NotCanonical("manifest"));
        }
        for features in [&message.required, &message.optional] {
            if features.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(SnapshotError::NotCanonical("manifest"));
            }
        }
        let manifest = Self {
            id: Digest::of(&raw),
            raw,
            required: message.required,
            optional: message.optional,
            oldest_envoy: message.oldest_envoy,
            pages: message.pages.into_iter().map(read_page).collect::<Result<_, _>>()?,
        };
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), SnapshotError> {
        if self.pages.windows(2).any(|pair| pair[0].first_key() >= pair[1].first_key()) {
            return Err(SnapshotError::NotSorted);
        }
        if self.records() > limits::SNAPSHOT_RECORDS {
            return Err(SnapshotError::Limit { what: "records", limit: limits::SNAPSHOT_RECORDS });
        }
        if self.bytes() > limits::SNAPSHOT_BYTES {
            return Err(SnapshotError::Limit {
                what: "bytes of the snapshot",
                limit: limits::SNAPSHOT_BYTES,
            });
        }
        Ok(())
    }

    fn wire(&self) -> wire::Manifest {
        wire::Manifest {
            format: FORMAT,
            required: self.required.clone(),
            optional: self.optional.clone(),
            oldest_envoy: self.oldest_envoy.clone(),
            pages: self
                .pages
                .iter()
                .map(|page| wire::PageRef {
                    section: page.first.0.clone(),
                    name: page.first.1.clone(),
                    part: page.first.2.clone(),
                    digest: Bytes::copy_from_slice(page.digest.as_bytes()),
                    size: page.size as u64,
                    records: page.records,
                    inline: page.inline.clone().unwrap_or_default(),
                })
                .collect(),
        }
    }

    /// The snapshot's id.
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The uncompressed bytes.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The pages, by first key.
    pub fn pages(&self) -> &[PageRef] {
        &self.pages
    }

    /// The oldest Envoy that understands the snapshot, `major.minor`.
    pub fn oldest_envoy(&self) -> &str {
        &self.oldest_envoy
    }

    /// Features that a reader must know: all of them are known to this version.
    pub fn required_features(&self) -> &[String] {
        &self.required
    }

    /// How many records the pages hold.
    pub fn records(&self) -> u64 {
        self.pages.iter().fold(0, |sum, page| sum.saturating_add(page.records))
    }

    /// How many uncompressed bytes the pages hold.
    pub fn bytes(&self) -> u64 {
        self.pages.iter().fold(0, |sum, page| sum.saturating_add(page.size as u64))
    }
}

fn read_page(page: wire::PageRef) -> Result<PageRef, SnapshotError> {
    let malformed = || SnapshotError::Malformed("manifest");
    let digest: [u8; 32] = page.digest.as_ref().try_into().map_err(|_| malformed())?;
    let size = usize::try_from(page.size).map_err(|_| malformed())?;
    if size > limits::PAGE_BYTES {
        return Err(SnapshotError::Limit { what: "bytes of a page", limit: limits::PAGE_BYTES as u64 });
    }
    // A page is never empty, so empty bytes mean that it lies elsewhere.
    let inline = (!page.inline.is_empty()).then_some(page.inline);
    if size == 0 || page.records == 0 || inline.as_ref().is_some_and(|bytes| bytes.len() != size) {
        return Err(malformed());
    }
    Ok(PageRef {
        first: (page.section, page.name, page.part),
        digest: Digest::from_bytes(digest),
        size,
        records: page.records,
        inline,
    })
}

/// What a reader must know to use these pages.
fn required(pages: &[Page]) -> Vec<String> {
    let bindings = || {
        let records = pages.iter().flat_map(Page::records);
        records.filter_map(|record| match record {
            Record::Binding(binding) => Some(&binding.source),
            Record::Resource(_) => None,
        })
    };
    let joins = bindings().any(|source| matches!(source, BindingSource::Objects(_)));
    let fills = bindings().any(|source| matches!(source, BindingSource::Template(_)));
    let holds = pages.iter().filter_map(|page| page.records().first());
    let holds = holds.into_iter().any(|first| first.key().section == MODULE_TYPE);
    let weighs = bindings().any(|source| matches!(source, BindingSource::Zoned(..)));
    let needed = [
        joins.then_some(JOINED_BUNDLES),
        holds.then_some(MODULES),
        fills.then_some(SECRET_TEMPLATES),
        weighs.then_some(ZONE_WEIGHTS),
    ];
    needed.into_iter().flatten().map(str::to_owned).collect()
}
