//! Diagnostics: what is wrong with the user's configuration.
//!
//! They are collected, never fail-fast. One value renders as text, JSON, SARIF, GitHub annotation and Gateway API
//! condition; each has a [`Code`] from one catalogue, which `moorgate explain CODE` prints.

pub mod policy;
pub mod schema;
pub mod semantic;
pub mod syntax;

use crate::field::FieldPath;
use crate::object::ObjectRef;
use crate::origin::{Position, Span};
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// `check` fails.
    Error,
    /// Worth a look; `check --deny-warnings` fails.
    Warning,
}

/// Whose rule was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The file could not be read as objects.
    Syntax,
    /// An API server would refuse the object.
    Schema,
    /// References, conflicts, ownership, policies: valid objects that do not fit together.
    Semantic,
}

/// An entry of the catalogue. Codes never change their meaning and are never used again.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code {
    /// `MG` and four digits: 1 syntax, 2 schema, 3 semantic, 4 policies.
    pub id: &'static str,
    /// Whose rule.
    pub class: Class,
    /// How bad.
    pub severity: Severity,
    /// One line, for lists.
    pub title: &'static str,
    /// A paragraph: what it means, why it matters, what to do.
    pub explanation: &'static str,
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id)
    }
}

/// Declares the codes of one class and the slice that lists them.
#[macro_export]
macro_rules! codes {
    ($class:ident; $($(#[$doc:meta])* $name:ident = $id:literal, $severity:ident, $title:literal, $explanation:literal;)*) => {
        $(#[doc = $title] $(#[$doc])*
        pub static $name: $crate::diagnostic::Code = $crate::diagnostic::Code {
            id: $id,
            class: $crate::diagnostic::Class::$class,
            severity: $crate::diagnostic::Severity::$severity,
            title: $title,
            explanation: $explanation,
        };)*

        /// Every code of this class, in order.
        pub static ALL: &[&$crate::diagnostic::Code] = &[$(&$name),*];
    };
}

/// Every code there is, in order.
pub fn catalogue() -> impl Iterator<Item = &'static Code> {
    [syntax::ALL, schema::ALL, semantic::ALL, policy::ALL].into_iter().flatten().copied()
}

/// A second place that belongs to a diagnostic, such as the other half of a conflict.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Related {
    /// The file.
    pub file: Arc<str>,
    /// Its position there.
    #[serde(flatten)]
    pub position: Position,
    /// What is to be seen there.
    pub message: String,
}

/// One finding. Serialised as DESIGN §8 has it: `code class severity object field file line column message help`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The code.
    pub code: &'static Code,
    /// How bad: the code's severity unless a flag changed it.
    pub severity: Severity,
    /// The object, if the file could be read as objects.
    pub object: Option<ObjectRef>,
    /// The field, empty for the whole object.
    pub field: FieldPath,
    /// The file, if there is one.
    pub file: Option<Arc<str>>,
    /// The place in the file.
    pub span: Span,
    /// What is wrong, in one sentence, with the value at fault.
    pub message: String,
    /// What to do, if it can be said.
    pub help: Option<String>,
    /// Other places.
    pub related: Vec<Related>,
}

impl Diagnostic {
    /// A finding that still lacks its place.
    pub fn new(code: &'static Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity,
            object: None,
            field: FieldPath::root(),
            file: None,
            span: Span::default(),
            message: message.into(),
            help: None,
            related: Vec::new(),
        }
    }

    /// Names object and field.
    #[must_use]
    pub fn about(mut self, object: ObjectRef, field: FieldPath) -> Self {
        self.object = Some(object);
        self.field = field;
        self
    }

    /// Names the place.
    #[must_use]
    pub fn at(mut self, file: Arc<str>, span: Span) -> Self {
        self.file = Some(file);
        self.span = span;
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Points at a second place.
    #[must_use]
    pub fn related(mut self, file: Arc<str>, position: Position, message: impl Into<String>) -> Self {
        self.related.push(Related { file, position, message: message.into() });
        self
    }

    /// Places first, so that a list reads like the files; then severity, code, object, field and text.
    #[allow(clippy::type_complexity)] // a sort key, used once
    fn key(
        &self,
    ) -> (&Option<Arc<str>>, Position, Severity, &'static str, &Option<ObjectRef>, &FieldPath, &str) {
        (&self.file, self.span.start, self.severity, self.code.id, &self.object, &self.field, &self.message)
    }
}

impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("Diagnostic", 11)?;
        out.serialize_field("code", self.code.id)?;
        out.serialize_field("class", &self.code.class)?;
        out.serialize_field("severity", &self.severity)?;
        out.serialize_field("object", &self.object)?;
        out.serialize_field("field", &self.field.to_string())?;
        out.serialize_field("file", &self.file)?;
        let placed = self.file.is_some() && self.span.start.line > 0;
        out.serialize_field("line", &placed.then_some(self.span.start.line))?;
        out.serialize_field("column", &placed.then_some(self.span.start.column))?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("help", &self.help)?;
        out.serialize_field("related", &self.related)?;
        out.end()
    }
}

/// A collection of findings; [`Diagnostics::finish`] puts them in an order that depends on nothing but themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds all of another collection.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Sorts by place, and drops exact repeats.
    #[must_use]
    pub fn finish(mut self) -> Self {
        self.0.sort_by(|a, b| a.key().cmp(&b.key()));
        self.0.dedup();
        self
    }

    /// True if any is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The findings.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Treats every warning as an error (`--deny-warnings`).
    pub fn deny_warnings(&mut self) {
        for diagnostic in &mut self.0 {
            diagnostic.severity = Severity::Error;
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True without findings.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Diagnostics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl Extend<Diagnostic> for Diagnostics {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, items: I) {
        self.0.extend(items);
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_named_by_class_and_explained() {
        let mut seen = BTreeSet::new();
        for code in catalogue() {
            assert!(seen.insert(code.id), "{} is used twice", code.id);
            assert!(code.id.len() == 6 && code.id.starts_with("MG"), "{}", code.id);
            let digit = code.id.as_bytes()[2];
            let fits = match code.class {
                Class::Syntax => digit == b'1',
                Class::Schema => digit == b'2',
                Class::Semantic => digit == b'3' || digit == b'4',
            };
            assert!(fits, "{} is not of class {:?}", code.id, code.class);
            assert!(code.title.len() > 8 && code.explanation.len() > 40, "{} says too little", code.id);
        }
    }
}
