//! `deploy` and `.github`: each thing is used as its users would use it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

#[path = "deploy/charts.rs"]
mod charts;
#[path = "deploy/ci.rs"]
mod ci;
#[path = "deploy/gitops.rs"]
mod gitops;
#[path = "deploy/iam.rs"]
mod iam;
#[path = "deploy/installed.rs"]
mod installed;
#[path = "deploy/machines.rs"]
mod machines;

use anyhow::Result;
use moorgate_tests::program::root;
use serde::Deserialize as _;
use serde_json::Value;
use std::path::Path;

/// A file of the repository.
fn text(path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(root().join(path))?)
}

/// The documents of a YAML stream that hold something.
fn documents(text: &str) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    for document in yaml_serde::Deserializer::from_str(text) {
        found.push(Value::deserialize(document)?);
    }
    found.retain(|value| !value.is_null());
    Ok(found)
}

/// The files of a folder, by name.
fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    Ok(files)
}
