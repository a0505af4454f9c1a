//! Local git repositories: opened, asked for a revision, compared with the files of a work tree.
//!
//! libgit2 checks that a repository belongs to the user; that check stays on, because another user's repository
//! could name any path of this machine in its configuration.

use super::gather::Gather;
use super::spec::without_credentials;
use super::tree::{Listing, Reader, is_read};
use super::{GitSpec, Revision, SourceError};
use git2::{Commit, ErrorCode, ObjectType, Oid, Repository};
use moorgate_model::diagnostic::syntax::{NOT_COMMITTED, SUBMODULE};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What to do about a clone that lacks history.
pub(super) const SHALLOW_HELP: &str =
    "this clone is shallow: run git fetch --unshallow, or let CI check out with fetch-depth: 0";

/// Reads the files of a local repository at a revision.
pub(super) fn read(spec: &GitSpec, label: &str, gather: &mut Gather) -> Result<Revision, SourceError> {
    let path = spec.local_path();
    let repository = open(&path).map_err(|error| not_opened(&spec.repository, &error))?;
    let commit = resolve(&repository, spec)?;
    let below = folder_below(&repository, &path).unwrap_or_default();
    let folder = [below.as_str(), &spec.folder]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/");
    let reader = Reader { repository: &repository, name: &spec.repository, dropped: false };
    reader.read(commit, &folder, &spec.revision, label, gather)
}

/// The repository at a path or above it. The environment (`GIT_DIR` and the like) does not count.
fn open(path: &Path) -> Result<Repository, git2::Error> {
    Repository::open(path).or_else(|error| match error.code() {
        ErrorCode::NotFound => Repository::discover(path),
        _ => Err(error),
    })
}

fn not_opened(repository: &str, error: &git2::Error) -> SourceError {
    let help = match error.code() {
        ErrorCode::Owner => Some(format!(
            "the repository belongs to another user; if you trust it: git config --global --add safe.directory {repository}"
        )),
        ErrorCode::NotFound => Some("--rev needs a git repository".to_string()),
        _ => None,
    };
    SourceError::Repository { repository: repository.to_string(), message: error.message().to_string(), help }
}

/// The folder of the work tree at a path, with `/` between; empty for the work tree itself.
fn folder_below(repository: &Repository, path: &Path) -> Option<String> {
    let root = repository.workdir()?.canonicalize().ok()?;
    let path = path.canonicalize().ok()?;
    let inside = repository.path().canonicalize().is_ok_and(|git| path.starts_with(git));
    let below = path.strip_prefix(root).ok().filter(|_| !inside)?;
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/"))
}

/// The commit that a revision names: an id, also abbreviated, a tag, a branch, or a branch of `origin`, as CI often
/// has nothing else.
fn resolve(repository: &Repository, spec: &GitSpec) -> Result<Oid, SourceError> {
    let find =
        |name: &str| repository.revparse_single(name)?.peel(ObjectType::Commit).map(|commit| commit.id());
    let revision = &spec.revision;
    let found = find(revision).or_else(|error| match error.code() {
        ErrorCode::NotFound => find(&format!("refs/remotes/origin/{revision}")).map_err(|_| error),
        _ => Err(error),
    });
    found.map_err(|error| SourceError::Revision {
        repository: spec.repository.clone(),
        revision: revision.clone(),
        message: error.message().to_string(),
        help: repository.is_shallow().then(|| SHALLOW_HELP.to_string()),
    })
}

/// Describes a commit.
pub(super) fn describe(repository: &Repository, commit: &Commit<'_>, source: &str, folder: &str) -> Revision {
    let origin = repository.find_remote("origin").ok();
    let origin = origin.as_ref().and_then(|remote| remote.url().ok()).filter(|url| !url.is_empty());
    let author = commit.author();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Revision {
        source: source.into(),
        repository: origin.map(|url| without_credentials(url).into()),
        folder: folder.into(),
        commit: commit.id().to_string().into(),
        tree: commit.tree_id().to_string().into(),
        author: format!("{} <{}>", text(author.name_bytes()), text(author.email_bytes())).into(),
        time: commit.time().seconds(),
        dirty: false,
        shallow: repository.is_shallow(),
    }
}

/// The commit that files of a folder belong to, and whether they are its files. `only` names the one file that was
/// read; `first` is the number of files that were gathered before.
///
/// Files are compared by content with the tree of the commit. The index, filters and ignore rules do not matter: a
/// file that is read and is not in the commit makes the source dirty.
pub(super) fn revision_of(
    folder: &Path,
    only: Option<&str>,
    label: &str,
    gather: &mut Gather,
    first: usize,
) -> Option<Revision> {
    let repository = match Repository::discover(folder) {
        Ok(repository) => repository,
        Err(error) if error.code() == ErrorCode::NotFound => return None,
        Err(error) => {
            let message = format!("the git repository of {label} cannot be read: {}", error.message());
            gather.say_all(
                &NOT_COMMITTED,
                message,
                "if you trust it: git config --global --add safe.directory FOLDER",
            );
            return None;
        }
    };
    let below = folder_below(&repository, folder)?;
    let commit = repository.head().and_then(|head| head.peel_to_commit());
    let Ok(commit) = commit else {
        let help = if repository.is_shallow() { SHALLOW_HELP } else { "commit the files" };
        gather.say_all(&NOT_COMMITTED, format!("the git repository of {label} has no commit"), help);
        return None;
    };
    let mut revision = describe(&repository, &commit, label, &below);
    match committed(&repository, &commit, &below, gather) {
        Ok(listing) => {
            for path in listing
                .submodules
                .iter()
                .filter(|path| only.is_none() && !folder.join(path).join(".git").exists())
            {
                gather.say(&SUBMODULE, path, "a submodule: not fetched");
            }
            if is_clean(&listing, only, gather, first) {
                return Some(revision);
            }
            revision.dirty = true;
            let message = format!("the files of {label} are not those of its commit {:.12}", revision.commit);
            gather.say_all(&NOT_COMMITTED, message, "commit them, or compile a revision with --rev");
        }
        Err(error) => {
            revision.dirty = true;
            let message = format!("the files of {label} cannot be compared with its commit: {error}");
            gather.say_all(&NOT_COMMITTED, message, "compile a revision with --rev");
        }
    }
    Some(revision)
}

/// The files of a commit below a folder; none if it has no such folder.
fn committed(
    repository: &Repository,
    commit: &Commit<'_>,
    below: &str,
    gather: &Gather,
) -> Result<Listing, SourceError> {
    // What is wrong with names is reported from the files, not twice.
    let mut scratch = Gather::new(gather.limits());
    let reader = Reader { repository, name: "the work tree", dropped: false };
    match reader.list(commit, below, "HEAD", &mut scratch) {
        Err(SourceError::Folder { .. }) => Ok(Listing::default()),
        listing => listing,
    }
}

/// True if the files from number `first` on are those of the listing: all of them, or `only` this one.
fn is_clean(listing: &Listing, only: Option<&str>, gather: &Gather, first: usize) -> bool {
    let files = gather.since(first);
    if let Some(only) = only {
        // It may go by the name of a link that was named.
        return match (files, listing.blobs.get(only)) {
            ([file], Some(id)) => is_blob(&file.bytes, *id),
            _ => false,
        };
    }
    let committed: BTreeMap<Arc<str>, Oid> = listing
        .blobs
        .iter()
        .filter(|(path, _)| is_read(path))
        .map(|(path, id)| (gather.name(path), *id))
        .collect();
    files.len() == committed.len()
        && files.iter().all(|file| committed.get(&file.name).is_some_and(|id| is_blob(&file.bytes, *id)))
}

/// True if the bytes are those of a blob, or were before line ends were turned into those of Windows.
fn is_blob(bytes: &[u8], id: Oid) -> bool {
    let is = |bytes: &[u8]| Oid::hash_object(ObjectType::Blob, bytes).is_ok_and(|found| found == id);
    if is(bytes) {
        return true;
    }
    let mut unix = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter().peekable();
    while let Some(byte) = rest.next() {
        if !(*byte == b'\r' && rest.peek() == Some(&&b'\n')) {
            unix.push(*byte);
        }
    }
    unix.len() != bytes.len() && is(&unix)
}
