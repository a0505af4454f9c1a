//! The files of a commit, from its trees and blobs. No checkout, so no hooks, filters or attributes; links and
//! submodules are seen and not followed.

use super::gather::Gather;
use super::git::{SHALLOW_HELP, describe};
use super::names::{is_configuration, is_hidden};
use super::{Revision, SourceError};
use git2::{Commit, ErrorCode, Object, ObjectType, Odb, Oid, Repository, Tree};
use moorgate_model::diagnostic::syntax::{NAME_UNUSABLE, SUBMODULE, SYMLINK, TOO_LARGE};
use std::collections::BTreeMap;
use std::path::Path;

/// Reads the commits of one repository.
pub(super) struct Reader<'a> {
    pub(super) repository: &'a Repository,
    /// As the user named it, for messages.
    pub(super) name: &'a str,
    /// True if objects beyond the size limit were left out when it was fetched.
    pub(super) dropped: bool,
}

/// What a commit holds below a folder, by path from there.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Regular files, those included that are not read.
    pub(super) blobs: BTreeMap<String, Oid>,
    /// Submodules.
    pub(super) submodules: Vec<String>,
}

/// True for the path of a file that is read from a folder.
pub(super) fn is_read(path: &str) -> bool {
    is_configuration(path) && !path.split('/').any(is_hidden)
}

const TREE: i32 = 0o040_000;
const LINK: i32 = 0o120_000;
const SUBMODULE_MODE: i32 = 0o160_000;

impl Reader<'_> {
    /// Adds the files of a commit, and says which commit it was.
    pub(super) fn read(
        &self,
        commit: Oid,
        folder: &str,
        revision: &str,
        label: &str,
        gather: &mut Gather,
    ) -> Result<Revision, SourceError> {
        let object = self.sized(commit, gather)?;
        let commit = object.peel_to_commit().map_err(|error| self.failed(commit, &error))?;
        let listing = self.list(&commit, folder, revision, gather)?;
        let odb = self.odb()?;
        for path in &listing.submodules {
            gather.say(&SUBMODULE, path, "a submodule: not fetched");
        }
        let alone = folder.rsplit('/').next().unwrap_or_default();
        for (path, id) in &listing.blobs {
            if path.is_empty() {
                // The folder itself, which is a file then.
                self.file(&odb, gather.alone(alone), *id, true, gather)?;
            } else if is_read(path) {
                self.file(&odb, path, *id, false, gather)?;
            }
        }
        let mut revision = describe(self.repository, &commit, label, folder);
        if revision.repository.is_none() && self.name.contains("://") {
            revision.repository = Some(self.name.into());
        }
        Ok(revision)
    }

    fn file(
        &self,
        odb: &Odb<'_>,
        path: &str,
        id: Oid,
        named: bool,
        gather: &mut Gather,
    ) -> Result<(), SourceError> {
        let size = match odb.read_header(id) {
            Ok((size, _)) => u64::try_from(size).unwrap_or(u64::MAX),
            Err(error) if self.dropped && error.code() == ErrorCode::NotFound => {
                let most = gather.limits().file_bytes;
                gather.say(&TOO_LARGE, path, format!("the file has more than {most} bytes"));
                return Ok(());
            }
            Err(error) => return Err(self.failed(id, &error)),
        };
        let admitted = if named { gather.admit_alone(path, size) } else { gather.admit(path, size) };
        if admitted {
            let object = odb.read(id).map_err(|error| self.failed(id, &error))?;
            gather.add(path, object.data().to_vec());
        }
        Ok(())
    }

    /// Lists a folder of a commit. Links and unusable names are reported.
    pub(super) fn list(
        &self,
        commit: &Commit<'_>,
        folder: &str,
        revision: &str,
        gather: &mut Gather,
    ) -> Result<Listing, SourceError> {
        let root = self.tree(commit.tree_id(), gather)?;
        let mut listing = Listing::default();
        let start = match self.descend(&root, folder, gather)? {
            Some((id, Some(ObjectType::Tree))) => id,
            Some((id, Some(ObjectType::Blob))) => {
                listing.blobs.insert(String::new(), id);
                return Ok(listing);
            }
            _ => {
                return Err(SourceError::Folder {
                    repository: self.name.to_string(),
                    revision: revision.to_string(),
                    folder: folder.to_string(),
                });
            }
        };
        let mut folders = vec![(start, String::new(), 0_usize)];
        while let Some((id, below, depth)) = folders.pop() {
            let tree = self.tree(id, gather)?;
            for entry in &tree {
                if !gather.entry() {
                    return Ok(listing);
                }
                let Ok(name) = entry.name() else {
                    let shown = format!("{below}{}", String::from_utf8_lossy(entry.name_bytes()));
                    if entry.filemode() == TREE || is_configuration(&shown) {
                        gather.say(&NAME_UNUSABLE, &shown, "the name is not UTF-8");
                    }
                    continue;
                };
                let path = format!("{below}{name}");
                let syntax = matches!(name, "" | "." | "..") || name.contains(['/', '\0']);
                if syntax || (entry.filemode() == TREE && name.contains('\\')) {
                    gather.say(&NAME_UNUSABLE, &path, "the name holds path syntax");
                    continue;
                }
                if is_hidden(name) {
                    continue;
                }
                match entry.filemode() {
                    TREE => {
                        if gather.may_enter(&path, depth + 1) {
                            folders.push((entry.id(), format!("{path}/"), depth + 1));
                        }
                    }
                    LINK => self.link(&root, folder, &path, entry.id(), gather),
                    SUBMODULE_MODE => listing.submodules.push(path),
                    _ => drop(listing.blobs.insert(path, entry.id())),
                }
            }
        }
        listing.submodules.sort();
        Ok(listing)
    }

    /// The object at a path below a tree, links not followed.
    fn descend(
        &self,
        root: &Tree<'_>,
        path: &str,
        gather: &Gather,
    ) -> Result<Option<(Oid, Option<ObjectType>)>, SourceError> {
        let mut at = (root.id(), Some(ObjectType::Tree));
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if at.1 != Some(ObjectType::Tree) {
                return Ok(None);
            }
            let tree = self.tree(at.0, gather)?;
            let Some(entry) = tree.get_name(part) else { return Ok(None) };
            let kind = if entry.filemode() == LINK { None } else { entry.kind() };
            at = (entry.id(), kind);
        }
        Ok(Some(at))
    }

    /// Reports a link that would have mattered: with the name of a file that is read, or to anything but a file.
    fn link(&self, root: &Tree<'_>, folder: &str, path: &str, id: Oid, gather: &mut Gather) {
        if is_configuration(path) || !self.leads_to_file(root, folder, path, id) {
            gather.say(&SYMLINK, path, "a symbolic link: not followed");
        }
    }

    fn leads_to_file(&self, root: &Tree<'_>, folder: &str, path: &str, id: Oid) -> bool {
        const LONGEST: usize = 4096;
        let Ok(odb) = self.odb() else { return false };
        if !odb.read_header(id).is_ok_and(|(size, _)| size <= LONGEST) {
            return false;
        }
        let Ok(target) = odb.read(id) else { return false };
        let Ok(target) = std::str::from_utf8(target.data()) else { return false };
        let mut at: Vec<&str> =
            folder.split('/').chain(path.split('/')).filter(|part| !part.is_empty()).collect();
        at.pop();
        if target.starts_with('/') {
            return false;
        }
        for part in target.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if at.pop().is_none() {
                        return false;
                    }
                }
                part => at.push(part),
            }
        }
        let entry = root.get_path(Path::new(&at.join("/")));
        entry.is_ok_and(|entry| entry.kind() == Some(ObjectType::Blob) && entry.filemode() != LINK)
    }

    fn odb(&self) -> Result<Odb<'_>, SourceError> {
        self.repository.odb().map_err(|error| SourceError::Repository {
            repository: self.name.to_string(),
            message: error.message().to_string(),
            help: None,
        })
    }

    fn tree(&self, id: Oid, gather: &Gather) -> Result<Tree<'_>, SourceError> {
        self.sized(id, gather)?.into_tree().map_err(|_| self.refused(id, "it is no tree"))
    }

    /// An object, after its header says that it is small enough to be read.
    fn sized(&self, id: Oid, gather: &Gather) -> Result<Object<'_>, SourceError> {
        let (size, _) = self.odb()?.read_header(id).map_err(|error| self.failed(id, &error))?;
        if u64::try_from(size).is_ok_and(|size| size > gather.limits().file_bytes) {
            return Err(self.refused(id, &format!("it has {size} bytes")));
        }
        self.repository.find_object(id, None).map_err(|error| self.failed(id, &error))
    }

    fn refused(&self, id: Oid, message: &str) -> SourceError {
        SourceError::Object {
            repository: self.name.to_string(),
            object: id.to_string(),
            message: message.to_string(),
            help: None,
        }
    }

    fn failed(&self, id: Oid, error: &git2::Error) -> SourceError {
        let shallow = error.code() == ErrorCode::NotFound && self.repository.is_shallow();
        let partial = error.code() == ErrorCode::NotFound && !shallow && !self.dropped;
        SourceError::Object {
            repository: self.name.to_string(),
            object: id.to_string(),
            message: error.message().to_string(),
            help: if shallow {
                Some(SHALLOW_HELP.to_string())
            } else {
                partial.then(|| {
                    "if this clone is partial, fetch what is missing: git fetch --refetch".to_string()
                })
            },
        }
    }
}
