//! Distils published CRDs to compact files without prose.
//!
//! ```text
//! go module sigs.k8s.io/gateway-api@vX     ──▶ config/crd/{standard,experimental}/*.yaml ──▶ translator/data/gateway-api.json
//! go module github.com/envoyproxy/gateway  ──▶ charts/…/crds/generated/*.yaml            ──▶ translator/data/envoy-gateway.json
//! ```
//! Equal schemas are written once and referred to by number, across fields, versions, kinds and channels, so that
//! both channels together cost little more than one. A keyword that this tool does not know is an error: a new release
//! either fits the translator's schema engine, or says where it does not.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The Go module that publishes the CRDs.
pub const MODULE: &str = "sigs.k8s.io/gateway-api";

/// The release that the checked-in file is made from.
pub const VERSION: &str = "v1.7.0";

/// What is distilled to one file.
#[derive(Debug)]
pub struct Source {
    /// The Go module that publishes the CRDs.
    pub module: &'static str,
    /// The release that the checked-in file is made from.
    pub version: &'static str,
    /// The checked-in file, below `translator/data`.
    pub file: &'static str,
    /// Each channel with its folder in the module, in the order in which they are distilled.
    channels: [(&'static str, &'static str); 2],
    /// Each CRD says of which release it is.
    bundled: bool,
    /// Kinds that are left out.
    without: &'static [&'static str],
}

/// The Gateway API.
pub const GATEWAY_API: Source = Source {
    module: MODULE,
    version: VERSION,
    file: "gateway-api.json",
    channels: [("standard", "config/crd/standard"), ("experimental", "config/crd/experimental")],
    bundled: true,
    without: &[],
};

/// Where Envoy Gateway's CRDs lie in its module.
const GENERATED: &str = "charts/gateway-helm/charts/crds/crds/generated";

/// Envoy Gateway's kinds, which have no channels. EnvoyProxy holds half of Kubernetes' workload API; the room
/// `parameters` has its own list of the fields that it reads.
pub const ENVOY_GATEWAY: Source = Source {
    module: "github.com/envoyproxy/gateway",
    version: "v1.9.0",
    file: "envoy-gateway.json",
    channels: [("standard", GENERATED), ("experimental", GENERATED)],
    bundled: false,
    without: &["EnvoyProxy"],
};

/// Everything that is distilled.
pub const SOURCES: [&Source; 2] = [&GATEWAY_API, &ENVOY_GATEWAY];

/// A downloaded module.
#[derive(Debug, Clone)]
pub struct Module {
    /// The version, such as `v1.7.0`.
    pub version: String,
    /// Go's checksum of the module's content (`h1:…`).
    pub sum: String,
    /// Where it is unpacked.
    pub dir: PathBuf,
}

/// Downloads a module with the Go toolchain, or finds it in Go's cache.
///
/// # Errors
/// Go is missing, or it cannot get the module.
pub fn module(path: &str, version: &str) -> Result<Module> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", &format!("{path}@{version}")])
        .current_dir(std::env::temp_dir())
        .env("GOWORK", "off")
        .output()
        .context("cannot run `go`, which downloads the CRDs")?;
    let said: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("go mod download: {}", String::from_utf8_lossy(&output.stderr)))?;
    // Go reports an error, and leaves out the folder, when the module asks for a newer Go than the one at hand. What
    // is needed here is data, and the archive is there, verified and unpacked.
    let text = |key: &str| said.get(key).and_then(Value::as_str).map(str::to_owned);
    let problem = || text("Error").unwrap_or_default();
    let dir = match (text("Dir"), text("Zip")) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(zip)) => unpacked(&zip, path, version)?,
        (None, None) => bail!("go mod download {path}@{version}: {}", problem()),
    };
    ensure!(dir.is_dir(), "{} is not there: {}", dir.display(), problem());
    let sum = text("Sum").with_context(|| format!("no checksum for {path}@{version}: {}", problem()))?;
    Ok(Module { version: version.to_owned(), sum, dir })
}

/// The folder that belongs to an archive in Go's module cache.
fn unpacked(zip: &str, path: &str, version: &str) -> Result<PathBuf> {
    let (root, _) = zip.split_once("/cache/download/").with_context(|| format!("{zip} is not in a cache"))?;
    Ok(Path::new(root).join(format!("{path}@{version}")))
}

/// Distils a module to the text of the data file.
///
/// # Errors
/// A CRD cannot be read, disagrees with the module's version, or uses a keyword that is not known here.
pub fn distil(source: &Source, module: &Module) -> Result<String> {
    let mut nodes = Nodes::default();
    let mut kinds: BTreeMap<(String, String), Value> = BTreeMap::new();
    for (channel, folder) in source.channels {
        for crd in read(&module.dir.join(folder))? {
            if source.without.iter().any(|kind| crd["spec"]["names"]["kind"] == *kind) {
                continue;
            }
            let bundle = &crd["metadata"]["annotations"]["gateway.networking.k8s.io/bundle-version"];
            ensure!(
                !source.bundled || bundle == &Value::from(module.version.as_str()),
                "a CRD of bundle {bundle} in {}",
                module.version
            );
            add(&mut kinds, &mut nodes, channel, &crd)?;
        }
    }
    Ok(print(source.module, module, &nodes, kinds))
}

/// The CRDs of a source as they are published, prose and all.
///
/// # Errors
/// A CRD cannot be read.
pub fn published(source: &Source, module: &Module) -> Result<Vec<Value>> {
    let [(_, folder), _] = source.channels;
    let mut crds = read(&module.dir.join(folder))?;
    crds.retain(|crd| source.without.iter().all(|kind| crd["spec"]["names"]["kind"] != *kind));
    Ok(crds)
}

/// The CRDs of a folder, in the order of their file names.
fn read(folder: &Path) -> Result<Vec<Value>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut crds = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        for document in yaml_serde::Deserializer::from_str(&text) {
            let value: Value =
                serde::Deserialize::deserialize(document).with_context(|| file.display().to_string())?;
            if value["kind"] == "CustomResourceDefinition" {
                crds.push(value);
            }
        }
    }
    ensure!(!crds.is_empty(), "no CRD in {}", folder.display());
    Ok(crds)
}

/// Adds one CRD of one channel.
fn add(
    kinds: &mut BTreeMap<(String, String), Value>,
    nodes: &mut Nodes,
    channel: &str,
    crd: &Value,
) -> Result<()> {
    let spec = &crd["spec"];
    let text =
        |value: &Value| value.as_str().map(str::to_owned).context("a CRD without group, kind or scope");
    let (group, kind, scope) = (text(&spec["group"])?, text(&spec["names"]["kind"])?, text(&spec["scope"])?);
    let mut versions = Vec::new();
    for version in spec["versions"].as_array().context("a CRD without versions")? {
        let mut out: Map<String, Value> = Map::new();
        out.insert("name".into(), version["name"].clone());
        for flag in ["storage", "deprecated"] {
            if version[flag] == true {
                out.insert(flag.into(), true.into());
            }
        }
        if version["served"] == true {
            let name = &version["name"];
            let schema = &version["schema"]["openAPIV3Schema"];
            let status = version["subresources"].get("status").is_some();
            let root = root(schema, status).with_context(|| format!("{kind} {name}"))?;
            let id = nodes.distil(&root).with_context(|| format!("{kind} {name} in {channel}"))?;
            if status {
                out.insert("status".into(), true.into());
            }
            out.insert("schema".into(), id.into());
        }
        versions.push(Value::Object(out));
    }
    let entry = kinds
        .entry((group.clone(), kind.clone()))
        .or_insert_with(|| json!({ "group": group, "kind": kind, "scope": scope, "channels": {} }));
    entry["channels"][channel] = versions.into();
    Ok(())
}

/// An object's schema without what every object has. Where `status` is a subresource, only its shape is left.
fn root(schema: &Value, status: bool) -> Result<Value> {
    let mut root = schema.clone();
    let properties = root["properties"].as_object_mut().context("an object without fields")?;
    for name in ["apiVersion", "kind", "metadata"] {
        properties.remove(name);
    }
    if status && let Some(own) = properties.get_mut("status") {
        *own = shape(own);
    }
    Ok(root)
}

/// The names of a schema's fields, and nothing about their values: the API server drops `status` from what users send,
/// but not before it has refused fields that it does not know.
fn shape(schema: &Value) -> Value {
    let mut out = Map::from_iter([("nullable".to_owned(), true.into())]);
    for (keyword, value) in schema.as_object().into_iter().flatten() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                let fields = fields.iter().map(|(name, child)| (name.clone(), shape(child)));
                out.insert(keyword.clone(), Value::Object(fields.collect()));
            }
            ("items", child) | ("additionalProperties", child @ Value::Object(_)) => {
                out.insert(keyword.clone(), shape(child));
            }
            ("x-kubernetes-preserve-unknown-fields" | "additionalProperties", open) => {
                out.insert(keyword.clone(), open.clone());
            }
            _ => {}
        }
    }
    Value::Object(out)
}

/// Every distinct schema, children before parents.
#[derive(Default)]
struct Nodes {
    ids: BTreeMap<String, usize>,
    lines: Vec<String>,
}

impl Nodes {
    /// Distils a schema and gives its number.
    fn distil(&mut self, schema: &Value) -> Result<usize> {
        let schema = schema.as_object().context("a schema that is not an object")?;
        let mut out = BTreeMap::new();
        for (keyword, value) in schema {
            self.keyword(&mut out, keyword, value).with_context(|| keyword.clone())?;
        }
        let line = serde_json::to_string(&out)?;
        if let Some(id) = self.ids.get(&line) {
            return Ok(*id);
        }
        let id = self.lines.len();
        self.ids.insert(line.clone(), id);
        self.lines.push(line);
        Ok(id)
    }

    fn keyword(&mut self, out: &mut BTreeMap<String, Value>, keyword: &str, value: &Value) -> Result<()> {
        match keyword {
            // Prose, and what concerns server-side apply only.
            "description" | "title" | "example" | "externalDocs" | "x-kubernetes-map-type" => {}
            "type" | "required" | "enum" | "pattern" | "format" | "minimum" | "maximum"
            | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" | "minLength" | "maxLength"
            | "minItems" | "maxItems" | "minProperties" | "maxProperties" | "uniqueItems" | "default"
            | "nullable" => {
                out.insert(keyword.into(), value.clone());
            }
            "x-kubernetes-int-or-string" => {
                out.insert("intOrString".into(), value.clone());
            }
            "x-kubernetes-preserve-unknown-fields" => {
                out.insert("preserveUnknownFields".into(), value.clone());
            }
            "x-kubernetes-list-type" if value == "atomic" => {}
            "x-kubernetes-list-type" => {
                out.insert("listType".into(), value.clone());
            }
            "x-kubernetes-list-map-keys" => {
                out.insert("listMapKeys".into(), value.clone());
            }
            "properties" => {
                let fields = value.as_object().context("not an object")?;
                let fields = fields
                    .iter()
                    .map(|(name, child)| {
                        Ok((name.clone(), self.distil(child).with_context(|| name.clone())?.into()))
                    })
                    .collect::<Result<BTreeMap<String, Value>>>()?;
                out.insert(keyword.into(), json!(fields));
            }
            "additionalProperties" if value.is_boolean() => {
                out.insert("preserveUnknownFields".into(), value.clone());
            }
            "items" | "additionalProperties" | "not" => {
                out.insert(keyword.into(), self.distil(value)?.into());
            }
            "allOf" | "anyOf" | "oneOf" => {
                let branches = value.as_array().context("not a list")?;
                let ids: Vec<usize> =
                    branches.iter().map(|branch| self.distil(branch)).collect::<Result<_>>()?;
                out.insert(keyword.into(), ids.into());
            }
            "x-kubernetes-validations" => {
                let rules = value.as_array().context("not a list")?;
                let rules: Vec<Value> = rules.iter().map(rule).collect::<Result<_>>()?;
                out.insert("rules".into(), rules.into());
            }
            _ => bail!("this keyword is not known: teach it to translator/src/validate first"),
        }
        Ok(())
    }
}

/// A CEL rule, marked if it compares with the object's former state, which a file does not have.
fn rule(rule: &Value) -> Result<Value> {
    let mut out = BTreeMap::new();
    for (key, value) in rule.as_object().context("a rule that is not an object")? {
        match key.as_str() {
            "rule" | "message" | "messageExpression" | "fieldPath" | "reason" => {
                out.insert(key.clone(), value.clone());
            }
            "optionalOldSelf" => {}
            _ => bail!("the rule's key {key} is not known"),
        }
    }
    let text = rule["rule"].as_str().context("a rule without text")?;
    if text.contains("oldSelf") {
        out.insert("transition".into(), true.into());
    }
    Ok(json!(out))
}

/// The file: one schema a line, so that the difference of two releases can be read.
fn print(path: &str, module: &Module, nodes: &Nodes, kinds: BTreeMap<(String, String), Value>) -> String {
    let mut out = format!(
        "{{\n\"module\":{},\n\"version\":{},\n\"sum\":{},\n\"nodes\":[\n",
        Value::from(path),
        Value::from(module.version.as_str()),
        Value::from(module.sum.as_str())
    );
    out.push_str(&nodes.lines.join(",\n"));
    out.push_str("\n],\n\"kinds\":[\n");
    let kinds: Vec<String> = kinds.into_values().map(|kind| kind.to_string()).collect();
    out.push_str(&kinds.join(",\n"));
    out.push_str("\n]\n}\n");
    out
}
