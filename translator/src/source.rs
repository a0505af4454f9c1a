//! Where text comes from: directories, files, stdin and git revisions.

mod limits;

pub use limits::Limits;

use std::sync::Arc;

/// One text to load, with the name that diagnostics show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// As a user would name it: relative to its source; `-` for stdin.
    pub name: Arc<str>,
    /// The raw bytes as read; `load` checks the encoding.
    pub bytes: Arc<[u8]>,
}
