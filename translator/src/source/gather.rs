//! Files as they come in: names checked, budgets counted.

use super::names::{folded, unusable};
use super::{File, Limits, Revision, Sources};
use moorgate_model::diagnostic::syntax::{NAME_COLLISION, NAME_UNUSABLE, TOO_LARGE};
use moorgate_model::{Code, Diagnostic, Diagnostics, Position, Span};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The files so far, of all sources.
#[derive(Debug)]
pub(super) struct Gather {
    limits: Limits,
    prefix: String,
    files: Vec<File>,
    diagnostics: Diagnostics,
    bytes: u64,
    entries: usize,
    names: BTreeMap<String, Arc<str>>,
    full: bool,
}

impl Gather {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            limits: limits.clone(),
            prefix: String::new(),
            files: Vec::new(),
            diagnostics: Diagnostics::default(),
            bytes: 0,
            entries: 0,
            names: BTreeMap::new(),
            full: false,
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The files of another source follow; names get its label before them unless it is empty.
    pub(super) fn start(&mut self, label: &str) {
        self.prefix = label.to_string();
    }

    /// The name of a file for messages.
    pub(super) fn name(&self, relative: &str) -> Arc<str> {
        match (self.prefix.as_str(), relative) {
            ("", relative) => relative.into(),
            // A source that is one file, or stdin: its label is its name.
            (prefix, "") => prefix.into(),
            (prefix, relative) => format!("{prefix}/{relative}").into(),
        }
    }

    /// The name, within its source, of a source that is one file: nothing where the label says it already.
    pub(super) fn alone<'a>(&self, name: &'a str) -> &'a str {
        if self.prefix.is_empty() { name } else { "" }
    }

    /// Reports a file.
    pub(super) fn say(&mut self, code: &'static Code, relative: &str, message: impl Into<String>) {
        let start = Position { line: 1, column: 1 };
        let name = self.name(relative);
        self.diagnostics.push(Diagnostic::new(code, message).at(name, Span { start, end: start }));
    }

    /// Reports a whole source, which has no file to point at.
    pub(super) fn say_all(&mut self, code: &'static Code, message: impl Into<String>, help: &str) {
        self.diagnostics.push(Diagnostic::new(code, message).help(help));
    }

    /// Counts one more entry of a folder or tree; false if nothing more may be read.
    pub(super) fn entry(&mut self) -> bool {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let most = self.limits.entries;
            self.spend(format!("the sources hold more than {most} files and folders"));
        }
        !self.full
    }

    /// True if a folder may be entered at this depth.
    pub(super) fn may_enter(&mut self, relative: &str, depth: usize) -> bool {
        if depth > self.limits.folder_depth {
            let message = format!("more than {} folders within folders", self.limits.folder_depth);
            self.say(&TOO_LARGE, relative, message);
            return false;
        }
        !self.full
    }

    /// True if a file of this name and size is to be read.
    pub(super) fn admit(&mut self, relative: &str, size: u64) -> bool {
        if self.full {
            return false;
        }
        if let Some(why) = unusable(relative) {
            self.say(
                &NAME_UNUSABLE,
                relative,
                format!("the name {:?} cannot be used: {why}", relative.escape_debug().to_string()),
            );
            return false;
        }
        let name = self.name(relative);
        if let Some(first) = self.names.insert(folded(&name), name.clone()) {
            let message = format!("{name} and {first} are one file on some systems");
            self.say(&NAME_COLLISION, relative, message);
        }
        if size > self.limits.file_bytes {
            let message = format!("the file has {size} bytes; at most {} are read", self.limits.file_bytes);
            self.say(&TOO_LARGE, relative, message);
            return false;
        }
        if self.files.len() >= self.limits.files {
            let most = self.limits.files;
            self.spend(format!("the sources hold more than {most} files"));
        } else if self.bytes.saturating_add(size) > self.limits.total_bytes {
            let most = self.limits.total_bytes;
            self.spend(format!("the sources hold more than {most} bytes"));
        }
        !self.full
    }

    /// True if a file that was named by itself is to be read: its name is the user's business.
    pub(super) fn admit_alone(&mut self, relative: &str, size: u64) -> bool {
        if size > self.limits.file_bytes {
            let message = format!("the file has {size} bytes; at most {} are read", self.limits.file_bytes);
            self.say(&TOO_LARGE, relative, message);
            return false;
        }
        !self.full
    }

    /// Adds a file that was admitted.
    pub(super) fn add(&mut self, relative: &str, bytes: Vec<u8>) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.files.push(File { name: self.name(relative), bytes: bytes.into() });
    }

    /// Adds the only file of a source that is no folder, if its size allows.
    pub(super) fn take(&mut self, relative: &str, bytes: Vec<u8>) {
        let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if size > self.limits.file_bytes {
            let message = format!("the text has more than {} bytes", self.limits.file_bytes);
            return self.say(&TOO_LARGE, relative, message);
        }
        self.add(relative, bytes);
    }

    /// The files of the present source, from the given count on.
    pub(super) fn since(&self, first: usize) -> &[File] {
        self.files.get(first..).unwrap_or_default()
    }

    /// How many files there are.
    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    fn spend(&mut self, message: String) {
        if !self.full {
            self.full = true;
            self.say_all(&TOO_LARGE, message, "name the folders that hold objects");
        }
    }

    pub(super) fn finish(mut self, revisions: Vec<Revision>) -> Sources {
        self.files.sort_by(|a, b| a.name.cmp(&b.name));
        Sources { files: self.files, revisions, diagnostics: self.diagnostics.finish(), ..Sources::default() }
    }
}
