//! Sources as they are found: folders, repositories, servers. Tests of hostile input carry the number of their row.

use super::*;
use git2::{Oid, Repository, Signature, Time};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

mod directory;
mod git;
mod packs;
mod remote;

const FILE: i32 = 0o100_644;
const LINK: i32 = 0o120_000;

/// Writes files below a folder.
fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

async fn read_all(specs: &[SourceSpec], limits: &Limits) -> Result<Sources, SourceError> {
    read_with(specs, limits, tokio::io::empty()).await
}

async fn read_folder(path: &Path) -> Sources {
    read_all(&[SourceSpec::Path(path.to_path_buf())], &Limits::DEFAULT).await.unwrap()
}

fn at(repository: &str, revision: &str, folder: Option<&str>) -> SourceSpec {
    SourceSpec::parse(repository, Some(revision), folder).unwrap()
}

async fn read_git(repository: &Path, revision: &str, folder: Option<&str>) -> Result<Sources, SourceError> {
    read_all(&[at(repository.to_str().unwrap(), revision, folder)], &Limits::DEFAULT).await
}

/// `name=text` of each file.
fn texts(sources: &Sources) -> Vec<String> {
    let show = |file: &File| format!("{}={}", file.name, String::from_utf8_lossy(&file.bytes));
    sources.files.iter().map(show).collect()
}

/// `code file` of each finding.
fn findings(sources: &Sources) -> Vec<String> {
    let show = |d: &moorgate_model::Diagnostic| format!("{} {}", d.code.id, d.file.as_deref().unwrap_or("-"));
    sources.diagnostics.iter().map(show).collect()
}

/// Commits a tree of entries (path, mode, content or commit id) on top of `main`; nothing else of the repository is used.
fn commit(repository: &Repository, entries: &[(&str, i32, &[u8])]) -> Oid {
    let odb = repository.odb().unwrap();
    let tree = tree_of(&odb, entries);
    let author = Signature::new("Ada", "ada@example.com", &Time::new(1_700_000_000, 0)).unwrap();
    let tree = repository.find_tree(tree).unwrap();
    let parent =
        repository.find_reference("refs/heads/main").ok().and_then(|main| main.peel_to_commit().ok());
    let parents: Vec<_> = parent.iter().collect();
    repository.commit(Some("refs/heads/main"), &author, &author, "Change", &tree, &parents).unwrap()
}

/// Trees are written as bytes, so that they can hold what git itself would not. `//` stands between folders.
fn tree_of(odb: &git2::Odb<'_>, entries: &[(&str, i32, &[u8])]) -> Oid {
    let mut names: Vec<&str> = entries.iter().map(|(path, ..)| path.split("//").next().unwrap()).collect();
    let is_folder = |name: &str| entries.iter().any(|(path, ..)| path.starts_with(&format!("{name}//")));
    names.sort_by_key(|name| if is_folder(name) { format!("{name}/") } else { (*name).to_string() });
    names.dedup();
    let mut bytes = Vec::new();
    for name in names {
        let below = format!("{name}//");
        let inner: Vec<_> =
            entries.iter().filter_map(|(path, m, c)| Some((path.strip_prefix(&below)?, *m, *c))).collect();
        let (mode, id) = if inner.is_empty() {
            let (_, mode, content) = entries.iter().find(|(path, ..)| *path == name).unwrap();
            let id = match *mode {
                0o160_000 => Oid::from_bytes(content).unwrap(),
                _ => odb.write(git2::ObjectType::Blob, content).unwrap(),
            };
            (*mode, id)
        } else {
            (0o040_000, tree_of(odb, &inner))
        };
        bytes.extend_from_slice(format!("{mode:o} {name}\0").as_bytes());
        bytes.extend_from_slice(id.as_bytes());
    }
    odb.write(git2::ObjectType::Tree, &bytes).unwrap()
}

/// A bare repository with one commit of ordinary files on `main`.
fn repository() -> (TempDir, Repository) {
    let folder = tempfile::tempdir().unwrap();
    let repository = Repository::init_bare(folder.path()).unwrap();
    commit(
        &repository,
        &[
            ("a.yaml", FILE, b"a"),
            ("b//c.json", FILE, b"c"),
            ("b//d.txt", FILE, b"d"),
            (".x.yaml", FILE, b"x"),
        ],
    );
    (folder, repository)
}
