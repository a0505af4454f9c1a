//! Text to objects: YAML and JSON trees that remember their places.
//!
//! ```text
//!  File ──▶ text ──▶ document ──▶ yaml or json ──▶ object ──▶ Loaded
//!         UTF-8,     cut at ---   trees, counted   Lists,     objects, diagnostics,
//!         hostile                 before built     Secrets    lines never to quote
//! ```
//! Nothing here fails: what cannot be read becomes a diagnostic, and costs its own document only.

mod budget;
mod document;
mod fault;
mod json;
mod object;
mod scalar;
mod secret;
#[cfg(test)]
mod tests;
mod text;
mod yaml;

pub use crate::source::Limits;
pub(crate) use object::{defined_twice, is_ours};

use crate::source::File;
use budget::Budget;
use document::Chunk;
use fault::Fault;
use moorgate_model::diagnostic::syntax::{
    BYTE_ORDER_MARK, CONFLICT_MARKERS, ENCODING, HOSTILE_CHARACTER, LFS_POINTER, NOT_TEXT, TOO_LARGE,
};
use moorgate_model::{Code, Diagnostics, Node, Object, Position, Span};
use object::{Objects, Place};
use std::collections::BTreeMap;
use std::sync::Arc;
use text::{NotText, clamp, decode, name_of};

/// What the files hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The objects by file name and place, none of them twice. Values of Secrets other than `tls.crt` and `ca.crt`
    /// are empty text.
    pub objects: Vec<Object>,
    /// What is wrong with the files, in the order of files and places.
    pub diagnostics: Diagnostics,
    /// First and last lines, from 1, that must never be quoted: Secrets, and what may be one.
    pub redacted: BTreeMap<Arc<str>, Vec<(u32, u32)>>,
}

/// Reads all objects of all files within [`Limits::DEFAULT`]. The order of the files does not matter.
pub fn load(files: &[File]) -> Loaded {
    load_with(files, &Limits::DEFAULT)
}

/// Reads all objects of all files. The order of the files does not matter.
pub fn load_with(files: &[File], limits: &Limits) -> Loaded {
    let mut order: Vec<&File> = files.iter().collect();
    order.sort_by(|a, b| (&a.name, &a.bytes).cmp(&(&b.name, &b.bytes)));
    let mut budget = Budget::new(limits);
    let mut objects = Objects::default();
    for file in order {
        load_file(file, &mut budget, &mut objects);
    }
    let Objects { list: objects, diagnostics, redacted, .. } = objects;
    Loaded { objects, diagnostics: diagnostics.finish(), redacted }
}

/// Reads a text that is one YAML document, such as a configuration file of our own.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn document(bytes: &[u8]) -> Result<Node, (Span, String)> {
    let refuse = |problem: &NotText| {
        let (_, span, message) = refusal(problem);
        (span, message)
    };
    let (text, _) = decode(bytes).map_err(|problem| refuse(&problem))?;
    let mut chunks = document::split(text).into_iter().filter(|chunk| !chunk.blank);
    let one = |message: &str| (at(1, 1), message.to_string());
    let chunk = chunks.next().ok_or_else(|| one("the file is empty"))?;
    if chunks.next().is_some() {
        return Err(one("the file holds more than one document"));
    }
    if chunk.conflict.is_some() || chunk.hostile.is_some() {
        return Err(one("the file holds merge conflicts or characters that cannot be seen"));
    }
    let limits = Limits::DEFAULT;
    let mut budget = Budget::new(&limits);
    budget.next_document();
    let mut parsed = yaml::parse(&chunk, &mut budget);
    let fault = parsed.failure.into_iter().chain(parsed.faults).next();
    match (fault, parsed.roots.pop()) {
        (Some(fault), _) => Err((fault.span, fault.message)),
        (None, Some(root)) if parsed.roots.is_empty() => Ok(root),
        _ => Err(one("the file holds no single document")),
    }
}

fn load_file(file: &File, budget: &mut Budget<'_>, objects: &mut Objects) {
    let size = u64::try_from(file.bytes.len()).unwrap_or(u64::MAX);
    if size > budget.limits.file_bytes {
        let message = format!("the file has {size} bytes; at most {} are read", budget.limits.file_bytes);
        return say(objects, file, &TOO_LARGE, at(1, 1), message);
    }
    let (text, marked) = match decode(&file.bytes) {
        Ok(decoded) => decoded,
        Err(problem) => {
            let (code, span, message) = refusal(&problem);
            objects.redact(&file.name, (1, u32::MAX));
            return say(objects, file, code, span, message);
        }
    };
    if marked {
        say(objects, file, &BYTE_ORDER_MARK, at(1, 1), "the file starts with a byte order mark");
    }
    if !load_json(file, text, budget, objects) {
        load_yaml(file, text, budget, objects);
    }
}

/// Reads a text as JSON if it is meant to be JSON; false if it is to be read as YAML.
fn load_json(file: &File, text: &str, budget: &mut Budget<'_>, objects: &mut Objects) -> bool {
    let named = file.name.rsplit('.').next().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if !named && !text.trim_start().starts_with('{') {
        return false;
    }
    let parsed = json::parse(text, budget);
    // YAML has braces too, so outside of .json files a failure says nothing yet.
    if !named && parsed.failure.is_some() {
        return false;
    }
    let place = Place { file: &file.name, text, lines: None, rendered_from: None };
    let hostile = document::split(text).into_iter().find_map(|chunk| Some((chunk, chunk.hostile?)));
    if let Some((chunk, byte)) = hostile {
        say_hostile(objects, file, &chunk, byte);
    }
    objects.take(parsed, &place);
    true
}

fn load_yaml(file: &File, text: &str, budget: &mut Budget<'_>, objects: &mut Objects) {
    let chunks = document::split(text);
    if chunks.len() > budget.limits.documents_per_file {
        let most = budget.limits.documents_per_file;
        let message = format!("the file has {} documents; at most {most} are read", chunks.len());
        return say(objects, file, &TOO_LARGE, at(1, 1), message);
    }
    for chunk in &chunks {
        if load_chunk(file, chunk, budget, objects) {
            continue;
        }
        if secret::may_hold_secret(chunk.text) {
            objects.redact(&file.name, chunk.range());
        }
    }
}

/// Reads one document; false if it was refused before it was parsed.
fn load_chunk(file: &File, chunk: &Chunk<'_>, budget: &mut Budget<'_>, objects: &mut Objects) -> bool {
    if let Some(line) = chunk.conflict {
        let place = at(chunk.line + line + 1, 1);
        say(objects, file, &CONFLICT_MARKERS, place, "a merge conflict was committed here");
        return false;
    }
    if let Some(byte) = chunk.hostile
        && !say_hostile(objects, file, chunk, byte)
    {
        return false;
    }
    if chunk.blank {
        return true;
    }
    budget.next_document();
    let parsed = yaml::parse(chunk, budget);
    let rendered_from = chunk.rendered_from();
    let place = Place { file: &file.name, text: chunk.text, lines: Some(chunk.range()), rendered_from };
    objects.take(parsed, &place);
    true
}

/// Reports a character that must not stand in a file; true if the text can be parsed all the same.
fn say_hostile(objects: &mut Objects, file: &File, chunk: &Chunk<'_>, byte: usize) -> bool {
    let before = chunk.text.get(..byte).unwrap_or_default();
    let Some(c) = chunk.text.get(byte..).and_then(|rest| rest.chars().next()) else { return true };
    let line = chunk.line + before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let what = if c == '\r' { "a carriage return without a line feed".to_string() } else { name_of(c) };
    let message = format!("the text holds {what}");
    say(objects, file, &HOSTILE_CHARACTER, at(line, column), message);
    u32::from(c) > 0x9f
}

fn refusal(problem: &NotText) -> (&'static Code, Span, String) {
    let start = at(1, 1);
    match problem {
        NotText::LfsPointer => (&LFS_POINTER, start, "a git LFS pointer, not the content".to_string()),
        NotText::Format(format) => (&NOT_TEXT, start, format!("the file is {format}, not text")),
        NotText::Binary => (&NOT_TEXT, start, "the file is binary, not text".to_string()),
        NotText::Wide(encoding) => (&ENCODING, start, format!("the file is {encoding}, not UTF-8")),
        NotText::Invalid(place) => {
            (&ENCODING, Span { start: *place, end: *place }, "a byte here is not UTF-8".to_string())
        }
    }
}

fn at(line: usize, column: usize) -> Span {
    let start = Position { line: clamp(line), column: clamp(column) };
    Span { start, end: start }
}

fn say(objects: &mut Objects, file: &File, code: &'static Code, span: Span, message: impl Into<String>) {
    objects.diagnostics.push(Fault::new(code, span, message).into_diagnostic(&file.name));
}
