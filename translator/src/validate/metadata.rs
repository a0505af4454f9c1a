//! Checks of `metadata`, which no CRD describes.

mod system;

use super::finding::{self, Finding};
use super::names;
use super::nearest::nearest;
use super::schema::Type;
use moorgate_model::diagnostic::schema as codes;
use moorgate_model::{Node, Value};

/// The most bytes that an object's annotations may have, keys and values together.
const MOST_ANNOTATIONS: usize = 256 * 1024;

/// The fields of `metadata`, of which most are the API server's own.
const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What is demanded of an object's metadata.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demands {
    /// Whether unknown fields are errors.
    pub(crate) strict: bool,
    /// Whether the name is a single DNS label.
    pub(crate) label: bool,
    /// Whether the object lives in a namespace; of others, an API server drops it unread.
    pub(crate) namespaced: bool,
}

/// Checks the metadata of an object. Paths start at the root.
pub(crate) fn check(root: &Node, demands: Demands) -> Vec<Finding> {
    let mut found = Vec::new();
    let Some(metadata) = root.get("metadata") else {
        return vec![finding::required("name").at("metadata")];
    };
    let Some(fields) = metadata.as_mapping() else {
        return vec![finding::wrong_type(metadata, Type::Object).at("metadata")];
    };
    let mut named = false;
    for entry in fields.entries() {
        let before = found.len();
        match &*entry.key {
            "name" => {
                named = entry.value.as_str() != Some("") && entry.value.value != Value::Null;
                if named {
                    let form = if demands.label { names::label } else { names::subdomain };
                    found.extend(name(&entry.value, form));
                }
            }
            "namespace" if entry.value.as_str() == Some("") => {}
            "namespace" => {
                let form = if demands.namespaced { names::label } else { |_: &str| None };
                found.extend(name(&entry.value, form));
            }
            "labels" => labels(&entry.value, &mut found),
            "annotations" => annotations(&entry.value, &mut found),
            other if demands.strict && !FIELDS.contains(&other) => {
                found.push(unknown(other).at("metadata"));
                continue;
            }
            other if demands.strict => system::check(other, &entry.value, &mut found),
            _ => {}
        }
        for finding in found.iter_mut().skip(before) {
            finding.steps.push(moorgate_model::Segment::Key(entry.key.clone()));
            finding.steps.push(moorgate_model::Segment::Key("metadata".into()));
        }
    }
    if !named {
        let mut missing = finding::required("name").at("metadata");
        if fields.get("generateName").is_some() {
            missing.help = Some("generateName gives another name at each apply: write metadata.name".into());
        }
        found.push(missing);
    }
    found
}

fn unknown(field: &str) -> Finding {
    let mut found = Finding::new(
        &codes::UNKNOWN_FIELD,
        format!("unknown field {:?}", finding::clip(field)),
        nearest(field, FIELDS).map(|meant| format!("did you mean {meant:?}?")),
    );
    if found.help.is_none() {
        found.help = Some("fields of the kind itself belong under spec".into());
    }
    found.at(field)
}

fn name(value: &Node, form: fn(&str) -> Option<&'static str>) -> Option<Finding> {
    match &value.value {
        Value::Null => None,
        Value::String(text) => {
            let said = form(text)?;
            let lower = text.to_ascii_lowercase().replace('_', "-");
            let help = if form(&lower).is_none() {
                format!("write {lower:?}")
            } else if said.starts_with("must be no more") {
                "shorten it".to_owned()
            } else {
                "use lower case letters and digits, with '-' between them".to_owned()
            };
            let message = format!("Invalid value: {}: {said}", finding::quote(value));
            Some(Finding::new(&codes::INVALID_NAME, message, Some(help)))
        }
        _ => Some(finding::wrong_type(value, Type::String)),
    }
}

fn labels(value: &Node, found: &mut Vec<Finding>) {
    each(value, found, |key, text, found| {
        if let Some(said) = names::qualified_name(key) {
            found.push(invalid_label(key, said).at(key));
        }
        if let Some(said) = names::label_value(text) {
            found.push(invalid_label(text, said).at(key));
        }
    });
}

fn annotations(value: &Node, found: &mut Vec<Finding>) {
    let mut size = 0;
    each(value, found, |key, text, found| {
        size += key.len() + text.len();
        // The API server takes keys of any case here.
        if let Some(said) = names::qualified_name(&key.to_ascii_lowercase()) {
            found.push(invalid_label(key, said).at(key));
        }
    });
    if size > MOST_ANNOTATIONS {
        let message = format!("Too long: may not be more than {MOST_ANNOTATIONS} bytes, has {size}");
        found.push(Finding::new(&codes::INVALID_LABEL, message, Some("shorten it".into())));
    }
}

fn invalid_label(text: &str, said: &str) -> Finding {
    let message = format!("Invalid value: {:?}: {said}", finding::clip(text));
    let help = if text.len() > 63 {
        "shorten it"
    } else {
        "use letters and digits, with '-', '_' or '.' between them"
    };
    Finding::new(&codes::INVALID_LABEL, message, Some(help.into()))
}

/// Goes through a map of texts.
fn each(value: &Node, found: &mut Vec<Finding>, mut visit: impl FnMut(&str, &str, &mut Vec<Finding>)) {
    match &value.value {
        Value::Null => {}
        Value::Mapping(fields) => {
            for entry in fields.entries() {
                match &entry.value.value {
                    Value::String(text) => visit(&entry.key, text, found),
                    Value::Null => visit(&entry.key, "", found),
                    _ => found.push(finding::wrong_type(&entry.value, Type::String).at(&entry.key)),
                }
            }
        }
        _ => found.push(finding::wrong_type(value, Type::Object)),
    }
}
