//! The published CRDs, read as they are: nothing here goes through the translator's distilled schemas.

use anyhow::{Context as _, Result, ensure};
use moorgate_model::{FieldPath, Segment};
use moorgate_tests::cluster::{Channel, definitions};
use serde_json::Value;
use std::collections::BTreeSet;

/// A kind in a version that a channel serves.
#[derive(Debug, Clone)]
#[allow(clippy::struct_field_names, reason = "an object's own words: group, version, kind")]
pub(crate) struct Kind {
    pub(crate) channel: Channel,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
    pub(crate) schema: Value,
}

/// A CEL rule at one place of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Its kind's place among the kinds.
    pub(crate) kind: usize,
    /// The fields on the way; `[]` is any item, or any value of a map.
    pub(crate) path: Vec<String>,
    pub(crate) rule: String,
}

impl Site {
    /// Whether it belongs to controllers: an API server drops what users write there.
    pub(crate) fn in_status(&self) -> bool {
        self.path.first().is_some_and(|step| step == "status")
    }

    /// Whether the rule compares with what was there before.
    pub(crate) fn is_transition(&self) -> bool {
        self.rule.contains("oldSelf")
    }
}

impl Kind {
    pub(crate) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// For messages: `HTTPRoute v1`.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.kind, self.version)
    }
}

/// Every kind and version that a channel serves.
pub(crate) fn kinds(release: &str, channel: Channel) -> Result<Vec<Kind>> {
    let mut kinds = Vec::new();
    for object in definitions::published(release, channel)? {
        if object.types.as_ref().is_none_or(|types| types.kind != "CustomResourceDefinition") {
            continue;
        }
        let spec = &object.data["spec"];
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a text of a definition");
        for version in spec["versions"].as_array().context("versions")? {
            if version["served"] != true {
                continue;
            }
            kinds.push(Kind {
                channel,
                group: text(&spec["group"])?,
                version: text(&version["name"])?,
                kind: text(&spec["names"]["kind"])?,
                plural: text(&spec["names"]["plural"])?,
                namespaced: spec["scope"] == "Namespaced",
                schema: version["schema"]["openAPIV3Schema"].clone(),
            });
        }
    }
    ensure!(!kinds.is_empty(), "no kind in {release}");
    Ok(kinds)
}

/// Every CEL rule of some kinds, at each of its places.
pub(crate) fn sites(kinds: &[Kind]) -> Result<Vec<Site>> {
    let mut sites = Vec::new();
    for (index, kind) in kinds.iter().enumerate() {
        walk(&kind.schema, &mut Vec::new(), &mut |path, schema| {
            let mut messages = BTreeSet::new();
            for rule in rules(schema) {
                let text = rule["rule"].as_str().context("a rule without text")?.to_owned();
                let message = rule["message"].as_str().context("a rule without a fixed message")?.to_owned();
                // Refusals are told apart by place and message.
                ensure!(rule["fieldPath"].is_null(), "a rule with fieldPath: teach it to this suite");
                ensure!(messages.insert(message), "two rules of one message at {path:?}: {text}");
                sites.push(Site { kind: index, path: path.to_vec(), rule: text });
            }
            Ok(())
        })?;
    }
    Ok(sites)
}

fn rules(schema: &Value) -> impl Iterator<Item = &Value> {
    schema["x-kubernetes-validations"].as_array().into_iter().flatten()
}

fn walk(
    schema: &Value,
    path: &mut Vec<String>,
    visit: &mut impl FnMut(&[String], &Value) -> Result<()>,
) -> Result<()> {
    visit(path, schema)?;
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        walk(child, path, visit)?;
        path.pop();
    }
    for keyword in ["items", "additionalProperties"] {
        if schema[keyword].is_object() {
            path.push("[]".to_owned());
            walk(&schema[keyword], path, visit)?;
            path.pop();
        }
    }
    Ok(())
}

/// The schema one step down.
pub(crate) fn step<'a>(schema: &'a Value, step: &Segment) -> Option<&'a Value> {
    let found = match step {
        Segment::Index(_) => &schema["items"],
        Segment::Key(name) => {
            let property = &schema["properties"][&**name];
            if property.is_null() { &schema["additionalProperties"] } else { property }
        }
    };
    found.is_object().then_some(found)
}

/// The schema at a path.
pub(crate) fn at<'a>(schema: &'a Value, path: &[Segment]) -> Option<&'a Value> {
    path.iter().try_fold(schema, |schema, segment| step(schema, segment))
}

/// The rule that a refusal means: by its place, and what is said there.
pub(crate) fn rule_of(kind: &Kind, field: &str, message: &str) -> Option<String> {
    let schema = at(&kind.schema, FieldPath::parse(field).segments())?;
    // The words of both sides end with the rule's own.
    let said = rules(schema).find(|rule| {
        rule["message"].as_str().is_some_and(|own| message == own || message.ends_with(&format!(": {own}")))
    })?;
    said["rule"].as_str().map(str::to_owned)
}
