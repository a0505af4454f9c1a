//! The Gateway API's CRDs and its admission policy, from its published Go module.

use super::Channel;
use crate::distil::crds;
use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use kube::{Client, ResourceExt as _};
use serde::Deserialize as _;
use std::path::PathBuf;
use std::time::Duration;

/// Who applies things here.
pub const MANAGER: &str = "test-cluster";

/// The documents of the module's folder for a channel.
pub fn published(version: &str, channel: Channel) -> Result<Vec<DynamicObject>> {
    let module = crds::module(crds::MODULE, version)?;
    let folder = module.dir.join("config/crd").join(match channel {
        Channel::Standard => "standard",
        Channel::Experimental => "experimental",
    });
    let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut objects = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "yaml")) {
        if file.file_stem().is_some_and(|name| name == "kustomization") {
            continue;
        }
        let text = std::fs::read_to_string(file)?;
        objects.extend(parse(&text).with_context(|| file.display().to_string())?);
    }
    ensure!(!objects.is_empty(), "{} holds nothing", folder.display());
    Ok(objects)
}

/// The objects of a YAML stream.
pub fn parse(text: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in yaml_serde::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(document)?;
        if !value.is_null() {
            objects.push(serde_json::from_value(value)?);
        }
    }
    Ok(objects)
}

/// Where objects like this one are: by its own namespace, or of the cluster.
fn api(client: &Client, object: &DynamicObject) -> Result<Api<DynamicObject>> {
    let TypeMeta { api_version, kind } = object.types.as_ref().context("an object without a kind")?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Ok(match &object.metadata.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    })
}

/// Applies objects, in this order.
pub async fn apply(client: &Client, objects: &[DynamicObject]) -> Result<()> {
    for object in objects {
        let params = PatchParams::apply(MANAGER).force();
        let done = api(client, object)?.patch(&object.name_any(), &params, &Patch::Apply(object)).await;
        done.with_context(|| format!("applying {:?} {}", object.types, object.name_any()))?;
    }
    Ok(())
}

/// Applies the definitions, and waits until the API server serves them.
pub(super) async fn install(client: &Client, version: &str, channel: Channel) -> Result<()> {
    let objects = published(version, channel)?;
    try_join_all(objects.iter().map(|object| apply(client, std::slice::from_ref(object)))).await?;
    for object in &objects {
        let types = object.types.as_ref().context("a kind")?;
        if types.kind != "CustomResourceDefinition" {
            continue;
        }
        let api = api(client, object)?;
        while !established(&api.get(&object.name_any()).await?) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn established(definition: &DynamicObject) -> bool {
    let conditions = definition.data["status"]["conditions"].as_array();
    conditions
        .is_some_and(|all| all.iter().any(|one| one["type"] == "Established" && one["status"] == "True"))
}
