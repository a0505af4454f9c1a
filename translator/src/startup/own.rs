//! A user's own bootstrap over Moorgate's.

use super::{Said, guard, replace};
use crate::patches::{self, JsonPatch};
use crate::xds::{self, BOOTSTRAP_TYPE, json};
use moorgate_model::FieldPath;
use moorgate_model::ir::{BootstrapPatch, OwnBootstrap};
use serde_json::Value as Json;

/// How many bytes a bootstrap may have: it lies in a ConfigMap, which may have a mebibyte, and beside others there.
const MOST_BYTES: usize = 256 * 1024;
/// How many patches there may be.
const MOST_PATCHES: usize = 256;

/// What came of it.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) bootstrap: Json,
    /// What of the user's is not in it, and why.
    pub(super) notes: Vec<Said>,
}

/// Puts a user's own bootstrap over another one. Ports of `taken` are nobody's.
pub(super) fn apply(base: &Json, own: &OwnBootstrap, taken: &[u16]) -> Result<Applied, Said> {
    let base = normal(base).map_err(|message| said(&value(), message))?;
    let mut notes = Vec::new();
    let (made, field) = match own {
        OwnBootstrap::Replace(text) => {
            let user = read(text)?;
            (replace::apply(&base, user, &mut notes), value())
        }
        OwnBootstrap::Merge(text) => {
            let user = read(text)?;
            let made = merged(&base, &user).map_err(|message| said(&value(), message))?;
            (made, value())
        }
        OwnBootstrap::Patch(patches) => (patched(&base, patches)?, list()),
    };
    let mut made = normal(&made).map_err(|message| said(&field, message))?;
    secretless(&made).map_err(|message| said(&field, message))?;
    guard::keep(&base, &mut made, &field, &mut notes)?;
    guard::sound(&made, taken).map_err(|message| said(&field, message))?;
    ruled(&made).map_err(|message| said(&field, message))?;
    bounded(made.to_string().len()).map_err(|message| said(&field, message))?;
    Ok(Applied { bootstrap: made, notes })
}

pub(super) fn value() -> FieldPath {
    FieldPath::root().key("value")
}

fn list() -> FieldPath {
    FieldPath::root().key("jsonPatches")
}

pub(super) fn said(field: &FieldPath, message: impl Into<String>) -> Said {
    Said { field: field.clone(), message: message.into() }
}

fn bounded(bytes: usize) -> Result<(), String> {
    if bytes <= MOST_BYTES {
        return Ok(());
    }
    Err(format!("a bootstrap has {bytes} bytes; at most {MOST_BYTES} are taken"))
}

/// A text as a message, with the field names of the .proto files.
fn read(text: &str) -> Result<Json, Said> {
    let wrong = |message: String| said(&value(), message);
    bounded(text.len()).map_err(wrong)?;
    let node = crate::load::document(text.as_bytes())
        .map_err(|(span, why)| wrong(format!("line {} of it is no YAML: {why}", span.start.line)))?;
    if node.as_mapping().is_none() {
        return Err(wrong("it is no object, and so no bootstrap".to_owned()));
    }
    let json = serde_json::to_value(node.to_json()).map_err(|error| wrong(error.to_string()))?;
    // Before anything of it is quoted.
    secretless(&json).map_err(wrong)?;
    let json = normal(&json).map_err(wrong)?;
    // Now all names are those of the .proto files.
    secretless(&json).map_err(wrong)?;
    Ok(json)
}

/// Whether it holds a secret: it would lie in a ConfigMap, in the output of `render` and in whatever repository that goes to.
fn secretless(json: &Json) -> Result<(), String> {
    match patches::private(json) {
        Some(what) => Err(format!(
            "{what} holds a secret, and a bootstrap lies in a ConfigMap: name a file (filename) or a variable \
             (environment_variable) instead"
        )),
        None => Ok(()),
    }
}

/// Any spelling of a bootstrap in one, strictly by Envoy's descriptors.
fn normal(json: &Json) -> Result<Json, String> {
    if let Some((place, why)) = json::fault(BOOTSTRAP_TYPE, json) {
        let at = if place.is_empty() { "it".to_owned() } else { place };
        return Err(format!("{at} does not fit Envoy's Bootstrap: {why}"));
    }
    let bytes = json::parse(BOOTSTRAP_TYPE, json)?;
    json::print(BOOTSTRAP_TYPE, &bytes, true).map_err(|error| error.to_string())
}

/// Whether it breaks none of Envoy's rules for its fields: Envoy would not start.
fn ruled(json: &Json) -> Result<(), String> {
    let bytes = json::parse(BOOTSTRAP_TYPE, json)?;
    xds::fits(BOOTSTRAP_TYPE, &bytes, true).map_err(|why| format!("Envoy does not take it: {why}"))
}

/// Both as protobuf merges them: one encoding behind the other.
fn merged(base: &Json, user: &Json) -> Result<Json, String> {
    let mut bytes = json::parse(BOOTSTRAP_TYPE, base)?;
    bytes.extend(json::parse(BOOTSTRAP_TYPE, user)?);
    json::print(BOOTSTRAP_TYPE, &bytes, true).map_err(|error| error.to_string())
}

fn patched(base: &Json, written: &[BootstrapPatch]) -> Result<Json, Said> {
    if written.is_empty() || written.len() > MOST_PATCHES {
        return Err(said(
            &list(),
            format!("there are {} patches: one to {MOST_PATCHES} are taken", written.len()),
        ));
    }
    let mut out = base.clone();
    for (index, patch) in written.iter().enumerate() {
        let at = list().index(index);
        let patch = read_patch(patch, &at)?;
        patches::on_document(&mut out, &patch, &at, MOST_BYTES)
            .map_err(|failure| said(&failure.field, failure.message))?;
        secretless(&out).map_err(|message| said(&at.key("value"), message))?;
    }
    Ok(out)
}

fn read_patch(patch: &BootstrapPatch, at: &FieldPath) -> Result<JsonPatch, Said> {
    let value = patch.value.as_deref().map(serde_json::from_str::<Json>).transpose();
    let value = value.map_err(|error| said(&at.key("value"), error.to_string()))?;
    let needs_value = ["add", "replace", "test"].contains(&patch.op.as_str());
    if needs_value && value.is_none() {
        return Err(said(&at.key("value"), format!("{} needs a value", patch.op)));
    }
    if patch.path.is_none() && patch.json_path.is_none() {
        return Err(said(&at.key("path"), format!("{} needs a path or a jsonPath", patch.op)));
    }
    Ok(JsonPatch {
        type_url: BOOTSTRAP_TYPE.to_owned(),
        name: "bootstrap".to_owned(),
        op: patch.op.clone(),
        path: patch.path.clone(),
        json_path: patch.json_path.clone(),
        from: patch.from.clone(),
        value,
    })
}
