//! What a snapshot was made from, and by what: for the attestation beside it.

use super::input::Reading;
use crate::source::cluster::Stand;
use crate::source::{File, Revision, Sources};
use moorgate_snapshot::Digest;
use moorgate_snapshot::attestation::{Material, Provenance};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The provenance of a compile; the CI run is added by who publishes.
pub(super) fn of(reading: &Reading, sources: &Sources) -> Provenance {
    let mut materials: Vec<Material> = sources.revisions.iter().map(commit).collect();
    materials.extend(sources.cluster.as_ref().map(Stand::material));
    materials.push(files(&sources.files));
    Provenance {
        parameters: parameters(reading),
        materials,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        translator: executable(),
        run: String::new(),
    }
}

/// The options that change what comes out of the same source. Those left at their defaults are named too: a default may
/// change.
pub(super) fn parameters(reading: &Reading) -> BTreeMap<String, Value> {
    let crds = reading.crds().name();
    let list = |kinds: &[String]| {
        let mut kinds = kinds.to_vec();
        kinds.sort();
        kinds.dedup();
        Value::from(kinds)
    };
    let ownership = reading.ownership.as_ref().map(|file| ("ownership", json!(file.to_string())));
    let parameters = [
        ("path", json!(reading.path)),
        ("namespace", json!(reading.namespace)),
        ("crds", json!(crds)),
        ("controllerName", json!(reading.controller_name)),
        ("open", list(&reading.open)),
        ("closed", list(&reading.closed)),
    ];
    // Named only where it is asked for, so that earlier releases need not name it.
    let merged = (!reading.merged.is_empty()).then(|| ("mergeClass", list(&reading.merged)));
    let patches = reading.envoy_patch_policy.then_some(("envoyPatchPolicy", json!(true)));
    parameters
        .into_iter()
        .chain(ownership)
        .chain(merged)
        .chain(patches)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn commit(revision: &Revision) -> Material {
    let place = revision.repository.as_ref().unwrap_or(&revision.source);
    let digest = [("gitCommit", &revision.commit), ("gitTree", &revision.tree)];
    let annotations = [("folder", json!(revision.folder)), ("dirty", json!(revision.dirty))];
    Material {
        uri: format!("git+{place}@{}", revision.commit),
        digest: digest.into_iter().map(|(name, id)| (name.to_owned(), id.to_string())).collect(),
        annotations: annotations.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        ..Material::default()
    }
}

/// All files that were read, as one digest over names and contents: also of what no commit holds.
fn files(files: &[File]) -> Material {
    let contents: Vec<Digest> = files.iter().map(|file| Digest::of(&file.bytes)).collect();
    let parts = files.iter().zip(&contents);
    let parts = parts.flat_map(|(file, digest)| [file.name.as_bytes(), b"\0", digest.as_bytes().as_slice()]);
    Material {
        name: "files".to_owned(),
        digest: BTreeMap::from([("sha256".to_owned(), Digest::of_parts(parts).to_string())]),
        annotations: BTreeMap::from([("count".to_owned(), files.len().into())]),
        ..Material::default()
    }
}

/// The digest of this program. It is a record for people: nothing is decided by it.
fn executable() -> Option<Digest> {
    let path = std::env::current_exe().ok()?;
    std::fs::read(path).ok().map(|bytes| Digest::of(&bytes))
}
