//! Where things were written.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A point in a text; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

/// A stretch of one text, end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// The first character.
    pub start: Position,
    /// Behind the last character.
    pub end: Position,
}

/// Where an object was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The file as a user would name it: relative to its source, or a URL-like name for stdin (`-`).
    pub file: Arc<str>,
    /// Where the object starts in that file.
    pub start: Position,
    /// The template or overlay that rendered it, from Helm's `# Source:` comment or kustomize's
    /// `config.kubernetes.io/origin` annotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rendered_from: Option<Arc<str>>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.start.line, self.start.column)
    }
}
