//! Who may define what: git has no RBAC, so a file on the protected branch says which paths may define which objects.
//!
//! The file is read from a revision that the proposed change cannot touch. Each entry joins paths with what their
//! files may define; an object passes if one entry allows all of it, and everything else is a breach. Pure: the file's
//! text and the places of the sources come in with the options of the compile.

mod check;
mod file;
mod pattern;

pub use check::{Verdict, check};
pub use file::OwnershipError;

use crate::source::Root;
use pattern::{Paths, Words};

/// Where the file lies in its repository unless the user says otherwise.
pub const DEFAULT_PATH: &str = ".moorgate/ownership.yaml";

/// An ownership file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    entries: Vec<Entry>,
    /// Where each source lies, so that names of files become paths in repositories.
    roots: Vec<Root>,
}

/// What the files of some paths may define.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// For messages.
    name: String,
    /// The repository that the paths are of; that of the first source if none is named.
    repository: Option<String>,
    paths: Paths,
    namespaces: Words,
    /// None: every kind that lives in a namespace.
    kinds: Option<Words>,
    /// Hostnames, `*.suffix`, or `*` for all; in lower case.
    hostnames: Vec<String>,
    /// Namespaces whose requests may be taken.
    takes_from: Words,
}

impl Ownership {
    /// The file, read from text; `roots` are the sources that it judges, in their order.
    ///
    /// # Errors
    /// Text that is no ownership file, with the line. Nothing is read over: what is not understood could be a limit.
    pub fn parse(name: &str, bytes: &[u8], roots: Vec<Root>) -> Result<Self, OwnershipError> {
        Ok(Self { entries: file::parse(name, bytes)?, roots })
    }

    /// The paths in repositories that the name of a file may mean, each with its repository. Names are ambiguous only
    /// where one source lies below another; then every meaning must be allowed.
    fn places(&self, file: &str) -> Vec<Place> {
        let mut places = Vec::new();
        for root in &self.roots {
            let relative = if root.label.is_empty() || file == &*root.label {
                if root.label.is_empty() { Some(file) } else { Some("") }
            } else {
                file.strip_prefix(&*root.label).and_then(|rest| rest.strip_prefix('/'))
            };
            let Some(relative) = relative else { continue };
            let join = |folder: &str, relative: &str| {
                let parts = [folder, relative].into_iter().filter(|part| !part.is_empty());
                parts.collect::<Vec<_>>().join("/")
            };
            let home = self.roots.first().is_some_and(|first| first.repository == root.repository);
            let place = |path| Place { repository: root.repository.to_string(), home, path };
            places.push(place(join(&root.folder, relative)));
            // A source that is one file names itself as its folder.
            if root.folder.rsplit('/').next() == Some(relative) {
                places.push(place(root.folder.to_string()));
            }
        }
        places
    }

    /// The entries that speak of a file, wherever it may lie.
    fn entries_of(&self, file: &str) -> Vec<&Entry> {
        let places = self.places(file);
        let all = |entry: &&Entry| !places.is_empty() && places.iter().all(|place| entry.covers(place));
        self.entries.iter().filter(all).collect()
    }
}

/// A path in a repository.
struct Place {
    repository: String,
    /// Whether it is the repository of the first source.
    home: bool,
    path: String,
}

impl Entry {
    fn covers(&self, place: &Place) -> bool {
        let repository = match &self.repository {
            Some(repository) => *repository == place.repository,
            None => place.home,
        };
        repository && self.paths.fit(&place.path)
    }
}

#[cfg(test)]
mod tests;
