//! The file of a plan: what would be published, byte for byte, and on which releases it was decided.
//!
//! ```text
//! "moorgate plan 1\n"   header length (8 bytes, big endian)   header (JSON)   blobs   SHA-256 of all before
//! ```
//! The header names fleets, their parents, pages and documents; blobs are zstd frames in the order of the header's list,
//! each named by the digest of its uncompressed bytes. Nothing in the file depends on time or place: the same input gives
//! the same file. A file is believed as little as a store: bounded, hashed, and each snapshot is put together and named
//! anew. Who may publish is decided by the key, not by the file.

use crate::history::Records;
use bytes::Bytes;
use moorgate_snapshot::attestation::Provenance;
use moorgate_snapshot::channel::Source;
use moorgate_snapshot::compress::{compress, decompress};
use moorgate_snapshot::{Channel, Digest, FleetName, Manifest, Page, Position, Snapshot, limits};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// How each plan starts: what it is, and the format.
pub const MAGIC: &[u8; 16] = b"moorgate plan 1\n";
/// The largest file that is read, in bytes: some snapshots at their limits.
pub const PLAN_BYTES: u64 = 2 << 30;
/// The largest header, in bytes.
const HEADER_BYTES: usize = 64 << 20;
/// Fleets in one plan.
const FLEETS: usize = 10_000;
const DIGEST_BYTES: usize = 32;

/// What would be published to one channel of several fleets.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanFile {
    /// The channel.
    pub channel: Channel,
    /// What it was compiled from.
    pub source: Option<Source>,
    /// The same in full, but for the run that publishes it.
    pub provenance: Provenance,
    /// Whether these are all fleets of the source.
    pub complete: bool,
    /// The fleets.
    pub fleets: BTreeMap<FleetName, PlannedFleet>,
}

/// What would be published to one fleet.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedFleet {
    /// The newest entry when the plan was made; none if there was none.
    pub parent: Option<Position>,
    /// What Envoy will see.
    pub snapshot: Snapshot,
    /// How many routes it has.
    pub routes: u64,
    /// Signed beside it.
    pub documents: BTreeMap<String, Value>,
    /// The objects that it was made of.
    pub records: Records,
    /// Syntax or schema errors keep it back.
    pub blocked: bool,
    /// It has errors of some kind.
    pub erring: bool,
    /// The published commit that the planned one was found to descend from.
    pub descends_from: Option<String>,
    /// What the gates said: empty if they let it pass.
    pub refused: Option<String>,
}

/// Why a file is no plan.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// It does not start as one.
    #[error("no plan of moorgate")]
    Magic,
    /// Cut or changed.
    #[error("the plan is damaged: {0}")]
    Damaged(&'static str),
    /// Larger than a plan, or a part of it, may be.
    #[error("the plan is too large: {0}")]
    TooLarge(&'static str),
    /// The header.
    #[error("the plan cannot be read: {0}")]
    Header(String),
    /// A snapshot in it.
    #[error("the plan of {fleet} is refused: {why}")]
    Snapshot {
        /// The fleet.
        fleet: FleetName,
        /// Why.
        why: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    channel: Channel,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    provenance: Provenance,
    complete: bool,
    fleets: BTreeMap<FleetName, FleetHeader>,
    /// All blobs, in the order of the file.
    blobs: Vec<Blob>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FleetHeader {
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Position>,
    snapshot: Digest,
    routes: u64,
    /// Name to the digest of its bytes.
    documents: BTreeMap<String, Digest>,
    /// The digest of its records.
    records: Digest,
    blocked: bool,
    erring: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    descends_from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Blob {
    digest: Digest,
    /// Uncompressed bytes.
    size: u64,
    /// Bytes in the file.
    stored: u64,
}

/// Collects blobs, each once, by digest.
#[derive(Default)]
struct Blobs(BTreeMap<Digest, Bytes>);

impl Blobs {
    fn add(&mut self, raw: &Bytes) -> Digest {
        let digest = Digest::of(raw);
        self.0.insert(digest, raw.clone());
        digest
    }

    fn add_json(&mut self, value: &impl Serialize) -> Result<Digest, PlanError> {
        let raw = serde_json::to_vec(value).map_err(|error| PlanError::Header(error.to_string()))?;
        if raw.len() > limits::DOCUMENT_BYTES {
            Err(PlanError::TooLarge("a document"))
        } else {
            Ok(self.add(&raw.into()))
        }
    }
}

impl PlanFile {
    /// The bytes of the file.
    ///
    /// # Errors
    /// A document or the whole is larger than may be read again.
    pub fn encode(&self) -> Result<Vec<u8>, PlanError> {
        let mut blobs = Blobs::default();
        let mut fleets = BTreeMap::new();
        for (name, fleet) in &self.fleets {
            blobs.add(fleet.snapshot.manifest().raw());
            let apart = fleet.snapshot.manifest().pages().iter().zip(fleet.snapshot.pages());
            for (_, page) in apart.filter(|(named, _)| named.inline.is_none()) {
                blobs.add(page.raw());
            }
            let mut documents = BTreeMap::new();
            for (document, value) in &fleet.documents {
                documents.insert(document.clone(), blobs.add_json(value)?);
            }
            let header = FleetHeader {
                parent: fleet.parent,
                snapshot: fleet.snapshot.id(),
                routes: fleet.routes,
                documents,
                records: blobs.add_json(&fleet.records)?,
                blocked: fleet.blocked,
                erring: fleet.erring,
                descends_from: fleet.descends_from.clone(),
                refused: fleet.refused.clone(),
            };
            fleets.insert(name.clone(), header);
        }
        let (mut list, mut body) = (Vec::new(), Vec::new());
        for (digest, raw) in &blobs.0 {
            let stored = compress(raw).map_err(|_| PlanError::Damaged("a part cannot be compressed"))?;
            list.push(Blob { digest: *digest, size: raw.len() as u64, stored: stored.len() as u64 });
            body.extend_from_slice(&stored);
        }
        let (channel, source) = (self.channel.clone(), self.source.clone());
        let (provenance, complete) = (self.provenance.clone(), self.complete);
        let header = Header { channel, source, provenance, complete, fleets, blobs: list };
        let header = serde_json::to_vec(&header).map_err(|error| PlanError::Header(error.to_string()))?;
        if header.len() > HEADER_BYTES {
            return Err(PlanError::TooLarge("its header"));
        }
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(&(header.len() as u64).to_be_bytes());
        file.extend_from_slice(&header);
        file.extend_from_slice(&body);
        let digest = Digest::of(&file);
        file.extend_from_slice(digest.as_bytes());
        if file.len() as u64 > PLAN_BYTES { Err(PlanError::TooLarge("the file")) } else { Ok(file) }
    }

    /// Reads a file, and believes nothing of it.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn decode(file: &[u8]) -> Result<Self, PlanError> {
        let rest = file.strip_prefix(MAGIC).ok_or(PlanError::Magic)?;
        if file.len() as u64 > PLAN_BYTES {
            return Err(PlanError::TooLarge("the file"));
        }
        let cut = PlanError::Damaged("it is cut");
        let Some((signed, digest)) = file.split_last_chunk::<DIGEST_BYTES>() else { return Err(cut) };
        if Digest::of(signed) != Digest::from_bytes(*digest) {
            return Err(PlanError::Damaged("its digest does not hold"));
        }
        let rest = rest.get(..rest.len().saturating_sub(DIGEST_BYTES)).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Err(cut) };
        let length = usize::try_from(u64::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > HEADER_BYTES {
            return Err(PlanError::TooLarge("its header"));
        }
        let Some((header, body)) = rest.split_at_checked(length) else { return Err(cut) };
        let mut header: Header =
            serde_json::from_slice(header).map_err(|error| PlanError::Header(error.to_string()))?;
        if header.fleets.len() > FLEETS {
            return Err(PlanError::TooLarge("its list of fleets"));
        }
        let blobs = unpack(&header.blobs, body)?;
        let mut used = BTreeSet::new();
        let mut fleets = BTreeMap::new();
        for (name, found) in std::mem::take(&mut header.fleets) {
            let fleet = planned(found, &blobs, &mut used)
                .map_err(|why| PlanError::Snapshot { fleet: name.clone(), why })?;
            fleets.insert(name, fleet);
        }
        if used.len() != blobs.len() {
            return Err(PlanError::Damaged("it holds what it does not name"));
        }
        let Header { channel, source, provenance, complete, .. } = header;
        Ok(Self { channel, source, provenance, complete, fleets })
    }
}

/// The uncompressed parts by digest. Memory is taken as bytes come out, and not more than a plan of this size may hold.
fn unpack(list: &[Blob], mut body: &[u8]) -> Result<BTreeMap<Digest, Bytes>, PlanError> {
    let largest = limits::DOCUMENT_BYTES.max(limits::PAGE_BYTES).max(limits::MANIFEST_BYTES) as u64;
    let total = list.iter().fold(0u64, |sum, blob| sum.saturating_add(blob.size));
    if total > PLAN_BYTES || list.iter().any(|blob| blob.size > largest) {
        return Err(PlanError::TooLarge("its parts"));
    }
    let mut blobs = BTreeMap::new();
    let mut last = None;
    for blob in list {
        if last.is_some_and(|last| last >= blob.digest) {
            return Err(PlanError::Damaged("its parts are not in order"));
        }
        last = Some(blob.digest);
        let stored = usize::try_from(blob.stored).unwrap_or(usize::MAX);
        let Some((stored, rest)) = body.split_at_checked(stored) else {
            return Err(PlanError::Damaged("a part is cut"));
        };
        body = rest;
        let size = usize::try_from(blob.size).unwrap_or(usize::MAX);
        let raw =
            decompress(stored, size).map_err(|_| PlanError::Damaged("a part cannot be decompressed"))?;
        if raw.len() != size || Digest::of(&raw) != blob.digest {
            return Err(PlanError::Damaged("a part is another than it is called"));
        }
        blobs.insert(blob.digest, raw);
    }
    if body.is_empty() { Ok(blobs) } else { Err(PlanError::Damaged("something follows its parts")) }
}

fn planned(
    found: FleetHeader,
    blobs: &BTreeMap<Digest, Bytes>,
    used: &mut BTreeSet<Digest>,
) -> Result<PlannedFleet, String> {
    let mut take = |digest: &Digest| {
        used.insert(*digest);
        blobs.get(digest).cloned().ok_or_else(|| format!("{} is missing", digest.short()))
    };
    let manifest = Manifest::decode(take(&found.snapshot)?).map_err(|error| error.to_string())?;
    let mut pages = Vec::new();
    for named in manifest.pages() {
        let raw = match named.inline.clone() {
            Some(inline) => inline,
            None => take(&named.digest)?,
        };
        pages.push(Page::decode(raw).map_err(|error| error.to_string())?);
    }
    let snapshot = Snapshot::from_pages(manifest, pages).map_err(|error| error.to_string())?;
    let mut documents = BTreeMap::new();
    for (name, digest) in found.documents {
        let value =
            serde_json::from_slice(&take(&digest)?).map_err(|error| format!("document {name}: {error}"))?;
        documents.insert(name, value);
    }
    let records =
        serde_json::from_slice(&take(&found.records)?).map_err(|error| format!("records: {error}"))?;
    Ok(PlannedFleet {
        parent: found.parent,
        snapshot,
        routes: found.routes,
        documents,
        records,
        blocked: found.blocked,
        erring: found.erring,
        descends_from: found.descends_from,
        refused: found.refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorgate_snapshot::{Record, Resource};
    use proptest::prelude::*;
    use serde_json::json;

    fn snapshot(records: u32) -> Snapshot {
        let noise = |n: u32| Digest::of(&n.to_be_bytes()).to_string().into_bytes();
        let record = |n: u32| {
            Record::Resource(Resource {
                type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(),
                name: format!("service-{n}").into(),
                part: "".into(),
                bytes: noise(n).into(),
                refs: Vec::new(),
            })
        };
        Snapshot::build((0..records).map(record).collect()).unwrap()
    }

    fn plan() -> PlanFile {
        let fleet = |records| PlannedFleet {
            parent: Some(Position { sequence: 7, digest: Digest::of(b"entry") }),
            snapshot: snapshot(records),
            routes: 12,
            documents: BTreeMap::from([("provenance".to_owned(), json!({"revisions": [1, 2]}))]),
            records: Records::default(),
            blocked: false,
            erring: true,
            descends_from: Some("c0ffee".into()),
            refused: None,
        };
        PlanFile {
            channel: Channel::stable(),
            source: None,
            provenance: Provenance { version: "0".into(), ..Provenance::default() },
            complete: true,
            // One with its pages inside the manifest, one with pages apart.
            fleets: BTreeMap::from([
                (FleetName::gateway("shop", "edge"), fleet(1)),
                (FleetName::gateway("shop", "wide"), PlannedFleet { parent: None, ..fleet(3000) }),
            ]),
        }
    }

    /// The file with another header, and a digest that holds.
    fn with_header(file: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
        let start = MAGIC.len() + 8;
        let length = u64::from_be_bytes(file[MAGIC.len()..start].try_into().unwrap());
        let end = start + usize::try_from(length).unwrap();
        let mut header: Value = serde_json::from_slice(&file[start..end]).unwrap();
        change(&mut header);
        let header = serde_json::to_vec(&header).unwrap();
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(header.len() as u64).to_be_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&file[end..file.len() - DIGEST_BYTES]);
        seal(out)
    }

    fn seal(mut file: Vec<u8>) -> Vec<u8> {
        let digest = Digest::of(&file);
        file.extend_from_slice(digest.as_bytes());
        file
    }

    #[test]
    fn plans_read_back_and_are_the_same_every_time() {
        let file = plan().encode().unwrap();
        assert_eq!(file, plan().encode().unwrap());
        assert_eq!(PlanFile::decode(&file).unwrap(), plan());
    }

    #[test]
    fn whatever_is_forged_is_refused() {
        let file = plan().encode().unwrap();
        let damaged = |file: &[u8]| PlanFile::decode(file).unwrap_err();
        assert_eq!(damaged(b"apiVersion: v1"), PlanError::Magic);
        assert_eq!(damaged(MAGIC), PlanError::Damaged("it is cut"));
        assert!(matches!(damaged(&seal(MAGIC.to_vec())), PlanError::Damaged(_)));
        assert!(matches!(damaged(&file[..file.len() - 1]), PlanError::Damaged(_)));
        let mut huge = MAGIC.to_vec();
        huge.extend_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(damaged(&seal(huge)), PlanError::TooLarge("its header"));
        let tail = seal([&file[..file.len() - DIGEST_BYTES], b"x"].concat());
        assert_eq!(damaged(&tail), PlanError::Damaged("something follows its parts"));
        let forged =
            with_header(&file, |header| header["fleets"]["shop/edge"]["snapshot"] = json!(Digest::of(b"x")));
        assert!(matches!(damaged(&forged), PlanError::Snapshot { .. }));
        let forged = with_header(&file, |header| header["blobs"][0]["size"] = json!(u64::MAX));
        assert_eq!(damaged(&forged), PlanError::TooLarge("its parts"));
        let forged = with_header(&file, |header| header["blobs"][0]["stored"] = json!(u64::MAX));
        assert_eq!(damaged(&forged), PlanError::Damaged("a part is cut"));
        let forged = with_header(&file, |header| header["more"] = json!(1));
        assert!(matches!(damaged(&forged), PlanError::Header(_)));
        let smuggled = with_header(&file, |header| {
            header["fleets"].as_object_mut().unwrap().remove("shop/edge");
        });
        assert_eq!(damaged(&smuggled), PlanError::Damaged("it holds what it does not name"));
        // The same header, written otherwise, is fine: it is read, not compared.
        assert_eq!(PlanFile::decode(&with_header(&file, |_| {})).unwrap(), plan());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_make_it_panic(at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let file = plan().encode().unwrap();
            let mut other = file[..file.len() - DIGEST_BYTES].to_vec();
            let place = at.index(other.len());
            other[place] = with;
            let _ = PlanFile::decode(&seal(other.clone()));
            other.truncate(cut.index(other.len()));
            prop_assert!(PlanFile::decode(&other).is_err());
        }
    }
}
