//! Why the store did not do what it was asked.

use std::fmt;
use thiserror::Error;

/// The longest words of a backend that are repeated, in characters.
const WORDS: usize = 400;

/// Why the store did not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// A URL that this version cannot open.
    #[error("store {url}: {reason}")]
    Url {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The credentials do not suffice.
    #[error("{path}: access denied")]
    Denied {
        /// The object.
        path: String,
        /// The backend's words.
        #[source]
        source: Backend,
    },
    /// Network, disk or service.
    #[error("{path}: the store failed")]
    Failed {
        /// The object.
        path: String,
        /// The backend's words.
        #[source]
        source: Backend,
    },
    /// An object is larger than such an object may be.
    #[error("{path}: more than {limit} bytes")]
    TooLarge {
        /// The object.
        path: String,
        /// In bytes.
        limit: usize,
    },
    /// More objects than a folder may have.
    #[error("{path}: more than {limit} objects")]
    Crowded {
        /// The folder.
        path: String,
        /// How many are looked at.
        limit: usize,
    },
    /// A name that is no path.
    #[error("{0}: no valid path in a store")]
    Path(String),
    /// The store says that an object exists, and does not have it; or keeps another one than was written.
    #[error("{0}: the store does not keep what it confirms")]
    Broken(String),
}

impl StoreError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Url { .. } | Self::Path(_) => "store_url",
            Self::Denied { .. } => "store_denied",
            Self::Failed { .. } => "store_failed",
            Self::TooLarge { .. } | Self::Crowded { .. } => "too_large",
            Self::Broken(_) => "store_broken",
        }
    }

    /// An error of a backend about an object.
    pub(super) fn of_backend(path: &str, error: &object_store::Error) -> Self {
        let (path, source) = (path.to_owned(), Backend::new(error));
        match error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::Denied { path, source }
            }
            _ => Self::Failed { path, source },
        }
    }
}

/// The words of a backend: cut, and on one line, for they may repeat what a server sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Backend(String);

impl Backend {
    fn new(error: &object_store::Error) -> Self {
        // The library's errors repeat their causes in their own text.
        let text = error.to_string();
        let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        let mut text: String = words.collect::<Vec<_>>().join(" ");
        if let Some((end, _)) = text.char_indices().nth(WORDS) {
            text.truncate(end);
            text.push('…');
        }
        Self(text)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Backend {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_sent_is_cut_and_on_one_line() {
        let body = format!("no\nsuch\u{1b}[31m thing {}", "ä".repeat(1_000));
        let error = object_store::Error::Generic { store: "S3", source: body.into() };
        let error = StoreError::of_backend("log/a/1", &error);
        assert_eq!(error.label(), "store_failed");
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(text.starts_with("Generic S3 error: no such [31m thing ää"), "{text}");
        assert_eq!(text.chars().count(), WORDS + 1);
    }
}
