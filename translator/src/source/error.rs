//! Failures of the world while reading a source.

use std::io;
use std::path::PathBuf;

/// Why a source could not be read. What is wrong with single files is a diagnostic instead.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// A file or folder could not be read.
    #[error("cannot read {path}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is a device or socket.
    #[error("{path} is neither a file nor a folder", path = .0.display())]
    NotAFile(PathBuf),
    /// No repository is there, or it cannot be opened.
    #[error("cannot open the git repository {repository}: {message}{}", helped(help.as_deref()))]
    Repository {
        /// Where.
        repository: String,
        /// What git says.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// The repository does not have this revision.
    #[error("{repository} has no revision {revision}: {message}{}", helped(help.as_deref()))]
    Revision {
        /// The repository.
        repository: String,
        /// What was asked for.
        revision: String,
        /// What git says.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// The commit does not have this folder.
    #[error("{repository} has no folder {folder} at {revision}")]
    Folder {
        /// The repository.
        repository: String,
        /// The revision.
        revision: String,
        /// What was asked for.
        folder: String,
    },
    /// An object that the commit names is missing or broken.
    #[error("{repository}: object {object} cannot be read: {message}{}", helped(help.as_deref()))]
    Object {
        /// The repository.
        repository: String,
        /// The object's id.
        object: String,
        /// What git says.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// A remote repository did not answer as one.
    #[error("{url}: {message}{}", helped(help.as_deref()))]
    Remote {
        /// The URL, without credentials.
        url: String,
        /// What went wrong.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// The reading thread was ended.
    #[error("reading was interrupted: {0}")]
    Interrupted(String),
}

fn helped(help: Option<&str>) -> String {
    help.map(|help| format!("\nhelp: {help}")).unwrap_or_default()
}

impl SourceError {
    /// A remote that failed without a known remedy.
    pub(super) fn remote(url: &str, message: impl Into<String>) -> Self {
        Self::Remote { url: url.to_string(), message: message.into(), help: None }
    }

    /// True if the arguments are at fault and not the world.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_))
    }
}
