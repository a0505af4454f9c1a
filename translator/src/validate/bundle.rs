//! The schemas that are compiled in: the Gateway API's, distilled from its CRDs, and the core kinds that we read.
//!
//! A data file is `{"version", "nodes": […], "kinds": […]}`. A node is an `OpenAPI` schema whose children are numbers of
//! earlier nodes, or schemas written out in their place. `make` compares the Gateway API's file with what the
//! published module gives (`distil-crds --check`).

#[cfg(test)]
mod schemas;

use super::Channel;
use super::rules::{Check, Rule};
use super::schema::{
    Bounds, Combinators, Format, ListType, MOST_FIELDS, Pattern, Property, Range, Schema, Type,
};
use super::walk::placed;
use moorgate_model::{Entry, Mapping, Node, Span, Value};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Why a data file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    #[error("the schema file is not what this version reads: {0}")]
    Json(#[from] serde_json::Error),
    #[error("node {0} is used before it is written")]
    NoNode(usize),
    #[error("type {0:?} is not known")]
    UnknownType(String),
    #[error("list type {0:?} is not known")]
    UnknownListType(String),
    #[error("an object has more than {MOST_FIELDS} fields")]
    TooManyFields,
}

/// The kinds of some API groups.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The release, such as `v1.7.0`.
    pub(crate) version: String,
    /// By group, then kind.
    groups: BTreeMap<Box<str>, BTreeMap<Box<str>, Kind>>,
}

/// A kind of object.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    standard: Box<[Version]>,
    experimental: Box<[Version]>,
}

/// A version of a kind in one channel.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) name: Arc<str>,
    pub(crate) deprecated: bool,
    /// The version that the API server keeps.
    pub(crate) storage: bool,
    /// None if the version is not served.
    pub(crate) schema: Option<Arc<Schema>>,
}

impl Kind {
    /// Its versions in a channel; none if the kind is not in it.
    pub(crate) fn versions(&self, channel: Channel) -> &[Version] {
        match channel {
            Channel::Standard => &self.standard,
            Channel::Experimental => &self.experimental,
        }
    }

    /// The schema of a version that a channel serves.
    pub(crate) fn schema(&self, channel: Channel, version: &str) -> Option<&Schema> {
        self.versions(channel).iter().find(|known| &*known.name == version)?.schema.as_deref()
    }

    /// The names of the versions that a channel serves.
    pub(crate) fn served(&self, channel: Channel) -> impl Iterator<Item = &Arc<str>> {
        self.versions(channel).iter().filter(|version| version.schema.is_some()).map(|version| &version.name)
    }

    /// The version that the translator handles objects as: `v1` where it is served, otherwise what is stored.
    pub(crate) fn handled(&self, channel: Channel) -> Option<&Arc<str>> {
        let stored =
            || self.versions(channel).iter().find(|version| version.storage).map(|found| &found.name);
        self.served(channel).find(|name| &***name == "v1").or_else(stored)
    }
}

impl Bundle {
    /// The Gateway API that is compiled in.
    pub(crate) fn gateway_api() -> &'static Self {
        static BUNDLE: LazyLock<Bundle> =
            LazyLock::new(|| compiled_in(include_str!("../../data/gateway-api.json")));
        &BUNDLE
    }

    /// Envoy Gateway's kinds that are compiled in.
    pub(crate) fn envoy_gateway() -> &'static Self {
        static BUNDLE: LazyLock<Bundle> =
            LazyLock::new(|| compiled_in(include_str!("../../data/envoy-gateway.json")));
        &BUNDLE
    }

    /// The release that has the kinds of a group.
    pub(crate) fn of(group: &str) -> &'static Self {
        let policies = Self::envoy_gateway();
        if policies.kinds(group).is_some() { policies } else { Self::gateway_api() }
    }

    /// The core kinds that are compiled in, reduced to the fields that are read.
    pub(crate) fn kubernetes() -> &'static Self {
        static BUNDLE: LazyLock<Bundle> =
            LazyLock::new(|| compiled_in(include_str!("../../data/kubernetes.json")));
        &BUNDLE
    }

    /// Our own kinds.
    pub(crate) fn moorgate() -> &'static Self {
        static BUNDLE: LazyLock<Bundle> =
            LazyLock::new(|| compiled_in(include_str!("../../data/moorgate.json")));
        &BUNDLE
    }

    /// Reads a data file.
    ///
    /// # Errors
    /// The file has another form.
    pub(crate) fn parse(text: &str) -> Result<Self, BundleError> {
        let file: File = serde_json::from_str(text)?;
        let mut builder = Builder { open: file.open_fields, ..Builder::default() };
        for node in &file.nodes {
            let schema = builder.schema(node)?;
            builder.nodes.push(Arc::new(schema));
        }
        let mut groups: BTreeMap<Box<str>, BTreeMap<Box<str>, Kind>> = BTreeMap::new();
        for mut raw in file.kinds {
            let standard = builder.versions(raw.channels.remove("standard"))?;
            let experimental = match raw.channels.remove("experimental") {
                // Core kinds have no channels.
                None if file.open_fields => standard.clone(),
                versions => builder.versions(versions)?,
            };
            let kind = Kind { namespaced: raw.scope == "Namespaced", standard, experimental };
            groups.entry(raw.group.into()).or_default().insert(raw.kind.into(), kind);
        }
        Ok(Self { version: file.version, groups })
    }

    /// The kinds of a group; none if the group is not in the bundle.
    pub(crate) fn kinds(&self, group: &str) -> Option<&BTreeMap<Box<str>, Kind>> {
        self.groups.get(group)
    }

    /// A kind.
    pub(crate) fn kind(&self, group: &str, kind: &str) -> Option<&Kind> {
        self.kinds(group)?.get(kind)
    }

    /// The groups.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(|group| &**group)
    }
}

/// A file of this package.
#[allow(clippy::expect_used, reason = "the text is compiled in, and a test parses it")]
fn compiled_in(text: &str) -> Bundle {
    Bundle::parse(text).expect("a schema file of this package")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    version: String,
    #[serde(default)]
    open_fields: bool,
    nodes: Vec<RawSchema>,
    kinds: Vec<RawKind>,
}

#[derive(Deserialize)]
struct RawKind {
    group: String,
    kind: String,
    scope: String,
    channels: BTreeMap<String, Vec<RawVersion>>,
}

#[derive(Deserialize)]
struct RawVersion {
    name: String,
    #[serde(default)]
    storage: bool,
    #[serde(default)]
    deprecated: bool,
    #[serde(default)]
    status: bool,
    schema: Option<Child>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Child {
    Number(usize),
    Written(Box<RawSchema>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "the keywords of OpenAPI")]
struct RawSchema {
    r#type: Option<String>,
    properties: BTreeMap<String, Child>,
    required: Vec<String>,
    items: Option<Child>,
    additional_properties: Option<Child>,
    r#enum: Vec<serde_json::Value>,
    pattern: Option<String>,
    format: Option<String>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    exclusive_minimum: bool,
    exclusive_maximum: bool,
    multiple_of: Option<f64>,
    min_length: Option<usize>,
    max_length: Option<usize>,
    min_items: Option<usize>,
    max_items: Option<usize>,
    min_properties: Option<usize>,
    max_properties: Option<usize>,
    unique_items: bool,
    list_type: Option<String>,
    list_map_keys: Vec<String>,
    default: Option<serde_json::Value>,
    nullable: bool,
    int_or_string: bool,
    preserve_unknown_fields: bool,
    all_of: Vec<Child>,
    any_of: Vec<Child>,
    one_of: Vec<Child>,
    not: Option<Child>,
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawRule {
    rule: String,
    message: Option<String>,
    message_expression: Option<String>,
    field_path: Option<String>,
    #[serde(rename = "reason")]
    _reason: Option<String>,
    #[serde(default)]
    transition: bool,
}

/// Builds schemas, and shares what occurs more than once.
#[derive(Default)]
struct Builder {
    open: bool,
    nodes: Vec<Arc<Schema>>,
    patterns: BTreeMap<String, Arc<Pattern>>,
    checks: BTreeMap<String, Arc<Check>>,
}

impl Builder {
    fn versions(&mut self, raw: Option<Vec<RawVersion>>) -> Result<Box<[Version]>, BundleError> {
        raw.unwrap_or_default()
            .into_iter()
            .map(|raw| {
                let schema = raw.schema.as_ref().map(|child| self.root(child, raw.status)).transpose()?;
                Ok(Version {
                    name: raw.name.into(),
                    deprecated: raw.deprecated,
                    storage: raw.storage,
                    schema,
                })
            })
            .collect()
    }

    /// An object's schema with the fields that every object has. `metadata` is checked apart; `status` belongs to
    /// controllers, and an API server ignores what users write there, once it knows the fields.
    fn root(&mut self, child: &Child, status: bool) -> Result<Arc<Schema>, BundleError> {
        let anything = Arc::new(Schema::anything());
        let own = self.child(child)?;
        let names = ["apiVersion", "kind", "metadata"].into_iter().chain(status.then_some("status"));
        let mut properties: BTreeMap<Box<str>, Arc<Schema>> =
            names.map(|name| (name.into(), Arc::clone(&anything))).collect();
        properties.extend(
            own.properties.iter().map(|property| (property.name.clone(), Arc::clone(&property.schema))),
        );
        let required: Vec<String> =
            own.fields(own.required).map(|property| property.name.to_string()).collect();
        let mut root = fields(properties, &required)?;
        root.open = own.open;
        root.rules = own.rules.iter().map(Rule::again).collect();
        Ok(Arc::new(root))
    }

    fn child(&mut self, child: &Child) -> Result<Arc<Schema>, BundleError> {
        match child {
            Child::Number(id) => self.nodes.get(*id).cloned().ok_or(BundleError::NoNode(*id)),
            Child::Written(raw) => self.schema(raw).map(Arc::new),
        }
    }

    fn children(&mut self, children: &[Child]) -> Result<Box<[Arc<Schema>]>, BundleError> {
        children.iter().map(|child| self.child(child)).collect()
    }

    fn schema(&mut self, raw: &RawSchema) -> Result<Schema, BundleError> {
        let properties = raw
            .properties
            .iter()
            .map(|(name, child)| Ok((name.as_str().into(), self.child(child)?)))
            .collect::<Result<_, BundleError>>()?;
        let mut schema = fields(properties, &raw.required)?;
        schema.kind = kind(raw)?;
        schema.nullable = raw.nullable;
        // Of `status` the names are known, and nothing about the values.
        let named = !raw.properties.is_empty();
        schema.open = raw.preserve_unknown_fields || (schema.kind == Type::Any && !named) || self.open;
        schema.additional = raw.additional_properties.as_ref().map(|child| self.child(child)).transpose()?;
        schema.items = raw.items.as_ref().map(|child| self.child(child)).transpose()?;
        schema.list = list_type(raw)?;
        schema.size = match schema.kind {
            Type::Array => Range { least: raw.min_items, most: raw.max_items },
            Type::Object => Range { least: raw.min_properties, most: raw.max_properties },
            _ => Range { least: raw.min_length, most: raw.max_length },
        };
        schema.range = bounds(raw);
        schema.pattern = raw.pattern.as_ref().map(|text| {
            Arc::clone(self.patterns.entry(text.clone()).or_insert_with(|| Arc::new(Pattern::new(text))))
        });
        schema.format = raw.format.as_deref().and_then(Format::parse);
        schema.choices = raw.r#enum.iter().map(node).collect();
        schema.default = raw.default.as_ref().map(|value| {
            let mut default = node(value);
            fill(&mut default, &schema);
            Box::new(default)
        });
        schema.combinators = self.combinators(raw)?;
        schema.rules = raw.rules.iter().filter(|rule| !rule.transition).map(|rule| self.rule(rule)).collect();
        Ok(schema)
    }

    fn combinators(&mut self, raw: &RawSchema) -> Result<Option<Box<Combinators>>, BundleError> {
        if raw.all_of.is_empty() && raw.any_of.is_empty() && raw.one_of.is_empty() && raw.not.is_none() {
            return Ok(None);
        }
        Ok(Some(Box::new(Combinators {
            all_of: self.children(&raw.all_of)?,
            any_of: self.children(&raw.any_of)?,
            one_of: self.children(&raw.one_of)?,
            not: raw.not.as_ref().map(|child| self.child(child)).transpose()?,
        })))
    }

    fn rule(&mut self, raw: &RawRule) -> Rule {
        let check = self.checks.entry(raw.rule.clone()).or_insert_with(|| Arc::new(Check::new(&raw.rule)));
        Rule::new(
            Arc::clone(check),
            raw.message.as_deref(),
            raw.message_expression.as_deref(),
            raw.field_path.as_deref(),
        )
    }
}

/// An object schema of some fields.
fn fields(properties: BTreeMap<Box<str>, Arc<Schema>>, names: &[String]) -> Result<Schema, BundleError> {
    if properties.len() > MOST_FIELDS {
        return Err(BundleError::TooManyFields);
    }
    let mut schema = Schema::anything();
    schema.kind = Type::Object;
    schema.nullable = false;
    schema.open = false;
    schema.properties = properties.into_iter().map(|(name, schema)| Property { name, schema }).collect();
    let mask = |wanted: &dyn Fn(&Property) -> bool| {
        let bits = schema.properties.iter().enumerate().filter(|(_, property)| wanted(property));
        bits.fold(0_u128, |mask, (bit, _)| mask | 1 << bit)
    };
    let required = mask(&|property| names.iter().any(|name| **name == *property.name));
    let defaulted = mask(&|property| property.schema.default.is_some());
    schema.required_elsewhere = names
        .iter()
        .filter(|name| schema.property(name).is_none())
        .map(|name| name.as_str().into())
        .collect();
    (schema.required, schema.defaulted) = (required, defaulted);
    Ok(schema)
}

fn kind(raw: &RawSchema) -> Result<Type, BundleError> {
    Ok(match raw.r#type.as_deref() {
        _ if raw.int_or_string => Type::IntOrString,
        None => Type::Any,
        Some("object") => Type::Object,
        Some("array") => Type::Array,
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        Some(other) => return Err(BundleError::UnknownType(other.to_owned())),
    })
}

fn list_type(raw: &RawSchema) -> Result<ListType, BundleError> {
    Ok(match raw.list_type.as_deref() {
        None if raw.unique_items => ListType::Set,
        None | Some("atomic") => ListType::Atomic,
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(raw.list_map_keys.iter().map(|key| key.as_str().into()).collect()),
        Some(other) => return Err(BundleError::UnknownListType(other.to_owned())),
    })
}

fn bounds(raw: &RawSchema) -> Option<Box<Bounds>> {
    let bounds = Bounds {
        least: raw.minimum,
        most: raw.maximum,
        exclusive_least: raw.exclusive_minimum,
        exclusive_most: raw.exclusive_maximum,
        multiple: raw.multiple_of,
    };
    (bounds.least.is_some() || bounds.most.is_some() || bounds.multiple.is_some()).then(|| Box::new(bounds))
}

/// A JSON value without a place.
pub(crate) fn node(value: &serde_json::Value) -> Node {
    let value = match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or_default()),
        },
        serde_json::Value::String(text) => Value::String(text.as_str().into()),
        serde_json::Value::Array(items) => Value::Sequence(items.iter().map(node).collect()),
        serde_json::Value::Object(fields) => {
            let mut mapping = Mapping::default();
            for (name, value) in fields {
                let entry =
                    Entry { key: name.as_str().into(), key_span: Span::default(), value: node(value) };
                // JSON's maps have each name once.
                let _ = mapping.insert(entry);
            }
            Value::Mapping(mapping)
        }
    };
    Node::new(value, Span::default())
}

/// Fills a default's own gaps with the defaults of what it holds.
fn fill(value: &mut Node, schema: &Schema) {
    match &mut value.value {
        Value::Mapping(fields) => {
            for property in &schema.properties {
                if let (None, Some(default)) = (fields.get(&property.name), &property.schema.default) {
                    let value = placed(default, Span::default());
                    let entry = Entry { key: property.name.clone(), key_span: Span::default(), value };
                    let _ = fields.insert(entry);
                }
            }
            for entry in fields.entries_mut() {
                if let Some(child) = schema.field(&entry.key) {
                    fill(&mut entry.value, child);
                }
            }
        }
        Value::Sequence(items) => {
            if let Some(child) = &schema.items {
                for item in items {
                    fill(item, child);
                }
            }
        }
        _ => {}
    }
}
