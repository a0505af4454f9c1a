//! What is wrong with one document, before it is known which object it holds.

use super::text::{name_of, shown, unfit_for_name};
use moorgate_model::diagnostic::syntax::{DUPLICATE_KEY, HOSTILE_CHARACTER};
use moorgate_model::{Code, Diagnostic, Entry, Mapping, Position, Span};
use std::sync::Arc;

/// A finding in the text. Messages name keys, never values: the document may turn out to be a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: &'static Code,
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) help: Option<String>,
    /// A second place in the same file.
    pub(super) related: Option<(Position, &'static str)>,
    /// True if it does not matter in an object of a kind that is not compiled.
    pub(super) mild: bool,
}

impl Fault {
    pub(super) fn new(code: &'static Code, span: Span, message: impl Into<String>) -> Self {
        Self { code, span, message: message.into(), help: None, related: None, mild: false }
    }

    pub(super) fn mild(mut self) -> Self {
        self.mild = true;
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(super) fn into_diagnostic(self, file: &Arc<str>) -> Diagnostic {
        let mut diagnostic = Diagnostic::new(self.code, self.message).at(file.clone(), self.span);
        diagnostic.help = self.help;
        match self.related {
            Some((position, message)) => diagnostic.related(file.clone(), position, message),
            None => diagnostic,
        }
    }
}

/// The findings of a document; more than [`Faults::MOST`] help nobody.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    const MOST: usize = 100;

    pub(super) fn push(&mut self, fault: Fault) {
        if self.0.len() < Self::MOST {
            self.0.push(fault);
        }
    }

    pub(super) fn into_vec(self) -> Vec<Fault> {
        self.0
    }

    /// Reports a key that holds what cannot be seen.
    pub(super) fn check_key(&mut self, key: &str, span: Span) {
        if let Some(c) = unfit_for_name(key) {
            let message = format!("the key {:?} holds {}", shown(key), name_of(c));
            self.push(Fault::new(&HOSTILE_CHARACTER, span, message));
        }
    }

    /// Makes a mapping, and reports the keys that are there twice.
    pub(super) fn mapping(&mut self, entries: Vec<Entry>) -> Mapping {
        let (mapping, repeats) = Mapping::collect(entries);
        for (first, entry) in repeats {
            let line = first.start.line;
            let message = format!("the key {:?} is already on line {line}", shown(&entry.key));
            let mut fault = Fault::new(&DUPLICATE_KEY, entry.key_span, message);
            fault.related = Some((first.start, "first written here"));
            self.push(fault);
        }
        mapping
    }
}
