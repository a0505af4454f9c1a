//! Modules that may run inside of Envoy (EnvoyProxy `dynamicModules`).

use moorgate_model::node::decode;
use moorgate_model::{Node, Object};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A module with the file that it lies in.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) path: String,
    pub(crate) do_not_close: bool,
    pub(crate) load_globally: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    source: Source,
    do_not_close: Option<bool>,
    load_globally: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Source {
    local: Option<Local>,
    remote: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Local {
    path: String,
}

/// Names of paths in Linux are not longer than this.
const MOST_BYTES: usize = 4096;

/// Why a module that has to be fetched is not run.
pub const REMOTE: &str = "where Envoy cannot fetch a module it leaves it out, and requests would pass: only one that lies beside Envoy is run";

/// The module of a name, if parameters register it.
///
/// # Errors
/// It cannot be run; says why.
pub(crate) fn named(parameters: &Object, name: &str) -> Result<Option<Registered>, String> {
    let all = parameters.at("spec.dynamicModules").and_then(Node::as_sequence).unwrap_or_default();
    let named = |entry: &&Node| entry.get("name").and_then(Node::as_str) == Some(name);
    let Some(entry) = all.iter().find(named) else { return Ok(None) };
    let entry =
        decode::<Entry>(entry).map_err(|error| format!("module {name} cannot be read: {}", error.message))?;
    let local = match entry.source {
        Source { local: Some(local), remote: None } => local,
        Source { remote: Some(_), .. } => return Err(format!("module {name} cannot be run: {REMOTE}")),
        Source { local: None, remote: None } => return Err(format!("module {name} names no file")),
    };
    // Another one would be looked for in the folder that Envoy happens to run in, or in those of the system.
    let path = local.path;
    if !path.starts_with('/') || path.len() >= MOST_BYTES || path.chars().any(char::is_control) {
        return Err(format!("module {name} cannot be run: {path:?} is no absolute path"));
    }
    let [do_not_close, load_globally] =
        [entry.do_not_close, entry.load_globally].map(|flag| flag == Some(true));
    Ok(Some(Registered { path, do_not_close, load_globally }))
}
