//! The ownership file's text: strict, so that nothing in it is read over.

use super::Entry;
use super::pattern::{Paths, Words};
use crate::load;
use crate::validate::nearest;
use moorgate_model::{Node, Span, Value};
use thiserror::Error;

/// The largest file, in bytes.
const BYTES: usize = 1 << 20;
/// The most entries.
const ENTRIES: usize = 10_000;
/// The most items of one list.
const ITEMS: usize = 1_000;
/// The longest text, in bytes.
const TEXT: usize = 1_024;

const FIELDS: [&str; 2] = ["version", "entries"];
const ENTRY_FIELDS: [&str; 7] =
    ["name", "repository", "paths", "namespaces", "kinds", "hostnames", "takesFrom"];

/// Why a text is no ownership file.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{file}:{line}:{column}: {message}")]
pub struct OwnershipError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

type Refused = (Span, String);

pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Vec<Entry>, OwnershipError> {
    let refuse = |(span, message): Refused| OwnershipError {
        file: name.to_owned(),
        line: span.start.line.max(1),
        column: span.start.column.max(1),
        message,
    };
    if bytes.len() > BYTES {
        return Err(refuse((Span::default(), format!("the file has more than {BYTES} bytes"))));
    }
    let root = load::document(bytes).map_err(refuse)?;
    entries(&root).map_err(refuse)
}

fn entries(root: &Node) -> Result<Vec<Entry>, Refused> {
    fields(root, &FIELDS)?;
    match root.get("version") {
        Some(node) if node.as_int() == Some(1) => {}
        Some(node) => return Err((node.span, "this program reads version 1 only: upgrade it".to_owned())),
        None => return Err((root.span, "version is missing: write version: 1".to_owned())),
    }
    let Some(list) = root.get("entries") else { return Err((root.span, "entries is missing".to_owned())) };
    let items = list.as_sequence().ok_or_else(|| (list.span, "entries is no list".to_owned()))?;
    if items.len() > ENTRIES {
        return Err((list.span, format!("more than {ENTRIES} entries")));
    }
    items.iter().map(entry).collect()
}

fn entry(node: &Node) -> Result<Entry, Refused> {
    fields(node, &ENTRY_FIELDS)?;
    let required = |name: &str| match node.get(name) {
        Some(list) => texts(list, name),
        None => Err((node.span, format!("{name} is missing"))),
    };
    let optional = |name: &str| node.get(name).map(|list| texts(list, name)).transpose();
    let one = |name: &str| node.get(name).map(|node| text(node, name)).transpose();
    let paths = required("paths")?;
    let paths_at = node.get("paths").map_or(node.span, |paths| paths.span);
    let hostnames = optional("hostnames")?.unwrap_or_default();
    if let Some(bad) = hostnames.iter().find(|name| !is_hostname(name)) {
        let span = node.get("hostnames").map_or(node.span, |list| list.span);
        return Err((span, format!("{bad:?} is no hostname: write a.example.com, *.example.com or *")));
    }
    Ok(Entry {
        name: one("name")?.ok_or_else(|| (node.span, "name is missing".to_owned()))?.to_owned(),
        repository: one("repository")?.map(str::to_owned),
        paths: Paths::parse(paths).map_err(|message| (paths_at, message))?,
        namespaces: Words::new(required("namespaces")?),
        kinds: optional("kinds")?.map(Words::new),
        hostnames: hostnames.into_iter().map(str::to_ascii_lowercase).collect(),
        takes_from: Words::new(optional("takesFrom")?.unwrap_or_default()),
    })
}

/// Refuses fields that are not known, and says which was meant.
fn fields(node: &Node, known: &[&str]) -> Result<(), Refused> {
    let Some(mapping) = node.as_mapping() else {
        return Err((node.span, format!("this is of type {}, not a mapping", node.type_name())));
    };
    for field in mapping.entries() {
        if !known.contains(&&*field.key) {
            let meant = nearest(&field.key, known.iter().copied());
            let help = meant.map_or_else(
                || format!("fields here are {}", known.join(", ")),
                |meant| format!("did you mean {meant}?"),
            );
            return Err((field.key_span, format!("unknown field {:?}: {help}", field.key)));
        }
    }
    Ok(())
}

fn texts<'a>(node: &'a Node, name: &str) -> Result<Vec<&'a str>, Refused> {
    let items = node.as_sequence().ok_or_else(|| (node.span, format!("{name} is no list")))?;
    if items.len() > ITEMS {
        return Err((node.span, format!("{name} has more than {ITEMS} items")));
    }
    items.iter().map(|item| text(item, name)).collect()
}

fn text<'a>(node: &'a Node, name: &str) -> Result<&'a str, Refused> {
    match &node.value {
        Value::String(text) if text.is_empty() || text.len() > TEXT => {
            Err((node.span, format!("a text of {name} has 1 to {TEXT} bytes")))
        }
        Value::String(text) => Ok(text),
        _ => Err((node.span, format!("{name} holds a value of type {}, not text", node.type_name()))),
    }
}

fn is_hostname(text: &str) -> bool {
    let rest = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text == "*" || (!rest.is_empty() && rest.split('.').all(label))
}
