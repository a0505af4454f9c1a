//! Where text comes from: directories, files, stdin and git revisions, local or behind HTTPS.
//!
//! ```text
//! SourceSpec ──▶ directory ──────────────┐
//!            ──▶ stdin ──────────────────┤
//!            ──▶ git (local) ──▶ tree ───┼──▶ gather ──▶ Sources: files, revisions, diagnostics
//!            ──▶ remote ──▶ pack ──▶ tree┘    names, budgets
//! cluster ───▶ discovery, lists ─────────▶ Sources: objects as files
//! ```
//! A source is read as hostile: links are never followed, submodules never fetched, and nothing that a repository
//! configures (hooks, filters, attributes) is ever run, because blobs are read without a checkout.

pub mod cluster;
mod directory;
mod error;
mod gather;
mod git;
mod limits;
mod names;
mod pack;
mod remote;
mod spec;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
mod tree;

pub use error::SourceError;
pub use limits::Limits;
pub(crate) use remote::chain;
pub use spec::{GitSpec, SourceSpec, Token};

use gather::Gather;
use moorgate_model::Diagnostics;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// One text to load, with the name that diagnostics show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// As a user would name it: relative to its source; `-` for stdin. With several sources the name of the source
    /// stands before it.
    pub name: Arc<str>,
    /// The raw bytes as read; `load` checks the encoding.
    pub bytes: Arc<[u8]>,
}

/// The git commit that a source was read from, or lies in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revision {
    /// The source as it was named, without credentials.
    pub source: Arc<str>,
    /// The URL of the repository, without credentials; of a local one its remote `origin`, if it has one.
    pub repository: Option<Arc<str>>,
    /// The folder of the repository that was read, empty for all of it.
    pub folder: Arc<str>,
    /// The commit, as hexadecimal digits.
    pub commit: Arc<str>,
    /// The tree of the commit, as hexadecimal digits.
    pub tree: Arc<str>,
    /// Who wrote the commit: `Name <address>`.
    pub author: Arc<str>,
    /// When the commit was made, in seconds since 1970 (UTC).
    pub time: i64,
    /// True if the files that were read are not those of the commit.
    pub dirty: bool,
    /// True if the local clone holds only part of the history.
    pub shallow: bool,
}

/// Where a source lies: turns names of files into paths of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// What stands before the names of its files; empty with one source.
    pub label: Arc<str>,
    /// Its repository: the URL or, without one, the source as it was named.
    pub repository: Arc<str>,
    /// The folder of the repository that was read, empty for all of it or without a repository.
    pub folder: Arc<str>,
}

impl Root {
    /// The path in its repository of a file that was read from this source; none for files of other sources. Without a
    /// repository it is the name within the source.
    fn path_of(&self, file: &str) -> Option<String> {
        let relative = match &*self.label {
            "" => file,
            label if label == file => label.rsplit('/').next().unwrap_or(label),
            label => file.strip_prefix(label)?.strip_prefix('/')?,
        };
        let last = self.folder.rsplit('/').next().unwrap_or_default();
        // With --path of a file the folder is that file.
        let itself = names::is_configuration(last) && (file == &*self.label || last == relative);
        Some(match (&*self.folder, itself) {
            ("", _) => relative.to_owned(),
            (folder, true) => folder.to_owned(),
            (folder, false) => format!("{folder}/{relative}"),
        })
    }
}

impl Sources {
    /// Where a file lies in its repository, for tools that look at the whole of it; a name that no source read stays as it
    /// is.
    pub fn path_in_repository(&self, file: &str) -> Option<String> {
        self.files.iter().find(|read| &*read.name == file)?;
        let mut roots: Vec<&Root> = self.roots.iter().collect();
        // Of two sources one of which lies below the other, the inner one read it.
        roots.sort_by_key(|root| std::cmp::Reverse(root.label.len()));
        roots.into_iter().find_map(|root| root.path_of(file))
    }
}

/// What sources gave.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The files, sorted by name.
    pub files: Vec<File>,
    /// The commits of those sources that have one, in the order of the sources.
    pub revisions: Vec<Revision>,
    /// Where each source lies, in their order.
    pub roots: Vec<Root>,
    /// The state of the cluster, if it was one that was read.
    pub cluster: Option<cluster::Stand>,
    /// Files that cannot be read as configuration: links, devices, colliding names, spent budgets.
    pub diagnostics: Diagnostics,
}

/// Reads all files of all sources.
pub async fn read(specs: &[SourceSpec], limits: &Limits) -> Result<Sources, SourceError> {
    read_with(specs, limits, tokio::io::stdin()).await
}

/// Reads all files of all sources, `-` from `stdin`.
async fn read_with(
    specs: &[SourceSpec],
    limits: &Limits,
    stdin: impl AsyncRead + Unpin,
) -> Result<Sources, SourceError> {
    let mut stdin = Some(stdin);
    let mut seen = BTreeSet::new();
    let mut gather = Gather::new(limits);
    let (mut revisions, mut roots) = (Vec::new(), Vec::new());
    for spec in specs {
        let label = spec.label();
        if !seen.insert(label.clone()) {
            return Err(SourceError::Usage(format!("the source {label} is given twice")));
        }
        gather.start(if specs.len() > 1 { &label } else { "" });
        let revision = match spec {
            SourceSpec::Stdin => {
                if let Some(stdin) = stdin.take() {
                    read_stdin(stdin, &mut gather).await?;
                }
                None
            }
            SourceSpec::Path(path) => {
                let (path, label) = (path.clone(), label.clone());
                blocking(&mut gather, move |gather| directory::read(&path, &label, gather)).await?
            }
            SourceSpec::Git(git) => Some(read_git(git, &label, &mut gather).await?),
        };
        roots.push(Root {
            label: if specs.len() > 1 { label.as_str().into() } else { "".into() },
            repository: repository_of(spec, revision.as_ref(), &label),
            folder: revision.as_ref().map_or_else(|| "".into(), |revision| revision.folder.clone()),
        });
        revisions.extend(revision);
    }
    Ok(Sources { roots, ..gather.finish(revisions) })
}

fn repository_of(spec: &SourceSpec, revision: Option<&Revision>, label: &str) -> Arc<str> {
    match (revision.and_then(|revision| revision.repository.clone()), spec) {
        (Some(url), _) => url,
        (None, SourceSpec::Git(git)) => git.repository.as_str().into(),
        (None, _) => label.into(),
    }
}

async fn read_stdin(stdin: impl AsyncRead + Unpin, gather: &mut Gather) -> Result<(), SourceError> {
    let most = gather.limits().file_bytes;
    let mut bytes = Vec::new();
    let read = stdin.take(most.saturating_add(1)).read_to_end(&mut bytes).await;
    read.map_err(|source| SourceError::Io { path: PathBuf::from("-"), source })?;
    gather.take(gather.alone("-"), bytes);
    Ok(())
}

async fn read_git(spec: &GitSpec, label: &str, gather: &mut Gather) -> Result<Revision, SourceError> {
    let (spec, label) = (spec.clone(), label.to_string());
    if !spec.is_remote()? {
        return blocking(gather, move |gather| git::read(&spec, &label, gather)).await;
    }
    let fetched = remote::fetch(&spec, gather.limits()).await?;
    blocking(gather, move |gather| {
        let unpacked = pack::unpack(&fetched.pack, gather.limits())
            .map_err(|problem| SourceError::remote(&fetched.url, problem.to_string()))?;
        let reader = tree::Reader {
            repository: &unpacked.repository,
            name: &spec.repository,
            dropped: unpacked.dropped,
        };
        reader.read(fetched.commit, &spec.folder, &spec.revision, &label, gather)
    })
    .await
}

/// Runs file and git work on a thread that may block, with the files so far.
async fn blocking<T, F>(gather: &mut Gather, work: F) -> Result<T, SourceError>
where
    T: Send + 'static,
    F: FnOnce(&mut Gather) -> Result<T, SourceError> + Send + 'static,
{
    let mut moved = std::mem::replace(gather, Gather::new(&Limits::DEFAULT));
    let task = tokio::task::spawn_blocking(move || {
        let result = work(&mut moved);
        (moved, result)
    });
    let (moved, result) = task.await.map_err(|error| SourceError::Interrupted(error.to_string()))?;
    *gather = moved;
    result
}
