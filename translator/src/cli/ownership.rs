//! Where the ownership file is read from: a revision that the proposed change cannot touch.

use super::{Exit, Failure};
use crate::ownership::{DEFAULT_PATH, Ownership};
use crate::source::{self, Limits, Root, SourceSpec, Token};
use anyhow::{Context as _, anyhow};
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// More bytes than any ownership file may have: it is refused when it is parsed.
const BYTES: u64 = (1 << 20) + 1;

/// `git:REV[:PATH]` or `file:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OwnershipSource {
    /// A file of a revision of the repository of the first source.
    Git {
        /// A commit, tag or branch.
        revision: String,
        /// From the root of the repository.
        path: String,
    },
    /// A file on disk, outside of the sources.
    File(PathBuf),
}

impl FromStr for OwnershipSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("git", rest)) if !rest.is_empty() => {
                let (revision, path) = rest.split_once(':').unwrap_or((rest, DEFAULT_PATH));
                Ok(Self::Git { revision: revision.to_owned(), path: path.to_owned() })
            }
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err("write git:REV, git:REV:PATH or file:PATH".to_owned()),
        }
    }
}

impl fmt::Display for OwnershipSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Git { revision, path } => write!(f, "git:{revision}:{path}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl OwnershipSource {
    /// Reads the file; `roots` are those of the sources that it judges.
    ///
    /// # Errors
    /// It is not there or not valid: then nothing is compiled, because nobody would know who may define what.
    pub(super) async fn read(
        &self,
        sources: &[String],
        token: Option<Token>,
        roots: Vec<Root>,
    ) -> Result<Ownership, Failure> {
        let (name, bytes) = match self {
            Self::Git { revision, path } => {
                let first = sources.first().map(String::as_str).unwrap_or_default();
                (format!("{revision}:{path}"), from_git(first, revision, path, token).await?)
            }
            Self::File(path) => (path.display().to_string(), from_disk(path, sources)?),
        };
        let parsed = Ownership::parse(&name, &bytes, roots);
        parsed.map_err(|error| Failure::new(Exit::Environment, anyhow!("ownership file {error}")))
    }
}

async fn from_git(first: &str, revision: &str, path: &str, token: Option<Token>) -> Result<Vec<u8>, Failure> {
    let usage = |error: source::SourceError| {
        let exit = if error.is_usage() { Exit::Usage } else { Exit::Environment };
        Failure::new(exit, anyhow!(error).context("ownership file"))
    };
    let repository = repository(first)?;
    let spec = SourceSpec::parse(&repository, Some(revision), Some(path)).map_err(usage)?.with_token(token);
    let read = source::read(&[spec], &Limits::default()).await.map_err(usage)?;
    match read.files.as_slice() {
        [file] => Ok(file.bytes.to_vec()),
        _ => Err(anyhow!("ownership file: {path} is no file at {revision}").into()),
    }
}

/// The root of the repository that a source is of or lies in.
fn repository(source: &str) -> Result<String, Failure> {
    if source.contains("://") && !source.starts_with("file://") {
        return Ok(source.to_owned());
    }
    let path = Path::new(source.strip_prefix("file://").unwrap_or(source));
    let repository = git2::Repository::discover(path).map_err(|error| {
        let message = error.message().to_owned();
        let what = format!("ownership file: {source} lies in no git repository ({message}): give file:PATH");
        Failure::new(Exit::Usage, anyhow!(what))
    })?;
    Ok(repository.workdir().unwrap_or_else(|| repository.path()).display().to_string())
}

fn from_disk(path: &Path, sources: &[String]) -> Result<Vec<u8>, Failure> {
    let context = || format!("ownership file {}", path.display());
    let real = path.canonicalize().with_context(context)?;
    for source in sources.iter().map(|source| source.strip_prefix("file://").unwrap_or(source)) {
        if Path::new(source).canonicalize().is_ok_and(|source| real.starts_with(source)) {
            let message = "lies in the source that it shall judge, so whoever changes one can change the other: \
                           read it from a protected revision with git:REV";
            return Err(Failure::new(Exit::Usage, anyhow!("{} {message}", context())));
        }
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&real).with_context(context)?;
    file.take(BYTES).read_to_end(&mut bytes).with_context(context)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::{CheckArgs, run};
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Check {
        #[command(flatten)]
        args: CheckArgs,
    }

    async fn check(words: &[&str]) -> Exit {
        let words = ["check"].iter().chain(words);
        run(Check::try_parse_from(words).unwrap().args).await.unwrap_or_else(|failure| failure.exit)
    }

    #[test]
    fn it_is_named_by_revision_or_by_path() {
        let git = |revision: &str, path: &str| OwnershipSource::Git {
            revision: revision.into(),
            path: path.into(),
        };
        assert_eq!("git:main".parse(), Ok(git("main", ".moorgate/ownership.yaml")));
        assert_eq!("git:origin/main:who.yaml".parse(), Ok(git("origin/main", "who.yaml")));
        assert_eq!("file:/etc/who.yaml".parse(), Ok(OwnershipSource::File("/etc/who.yaml".into())));
        for wrong in ["", "git:", "file:", "main", "dir:x"] {
            assert!(wrong.parse::<OwnershipSource>().is_err(), "{wrong}");
        }
    }

    /// The proposed change rewrites the file to allow itself; what counts is the file of the protected branch.
    #[tokio::test]
    async fn the_file_of_the_protected_revision_counts() {
        let dir = tempfile::tempdir().unwrap();
        let repository = git2::Repository::init(dir.path()).unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let commit = || {
            let mut index = repository.index().unwrap();
            index.add_all(["*"], git2::IndexAddOption::FORCE, None).unwrap();
            let tree = repository.find_tree(index.write_tree().unwrap()).unwrap();
            let author = git2::Signature::new("a", "a@example.com", &git2::Time::new(1, 0)).unwrap();
            let parent = repository.head().ok().and_then(|head| head.peel_to_commit().ok());
            let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
            repository.commit(Some("HEAD"), &author, &author, "m", &tree, &parents).unwrap().to_string()
        };
        let entry = "version: 1\nentries:\n- {name: shop, paths: [gateways/shop/], namespaces: [shop]}\n";
        write(".moorgate/ownership.yaml", entry);
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{port: 80}]}\n";
        write("gateways/shop/a.yaml", service);
        let base = commit();
        write("gateways/shop/b.yaml", &service.replace("namespace: shop", "namespace: blog"));
        write(".moorgate/ownership.yaml", &entry.replace("[shop]", "[shop, blog]"));
        let proposed = commit();
        let root = dir.path().display().to_string();
        let gateways = dir.path().join("gateways").display().to_string();
        let at = |revision: &str| format!("git:{revision}");
        assert_eq!(check(&[&gateways]).await, Exit::Fine);
        assert_eq!(check(&[&gateways, "--ownership", &at(&base)]).await, Exit::No);
        assert_eq!(check(&[&gateways, "--ownership", &at(&proposed)]).await, Exit::Fine);
        let by_rev = ["--rev", &proposed, "--path", "gateways"];
        let check_rev = async |at: &str| check(&[&[&*root, "--ownership", at], &by_rev[..]].concat()).await;
        assert_eq!(check_rev(&at(&base)).await, Exit::No);
        assert_eq!(check_rev(&at(&proposed)).await, Exit::Fine);
        // What cannot be read is no permission.
        assert_eq!(
            check(&[&gateways, "--ownership", &format!("git:{base}:other.yaml")]).await,
            Exit::Environment
        );
        assert_eq!(check(&[&gateways, "--ownership", "git:nowhere"]).await, Exit::Environment);
        assert_eq!(check(&["-", "--ownership", &at(&base)]).await, Exit::Usage);
        let inside = format!("file:{root}/.moorgate/ownership.yaml");
        assert_eq!(check(&[&root, "--ownership", &inside]).await, Exit::Usage);
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), entry).unwrap();
        let outside = format!("file:{}", outside.path().display());
        assert_eq!(check(&[&gateways, "--ownership", &outside]).await, Exit::No);
    }
}
