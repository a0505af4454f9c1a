//! Where credentials and endpoints of buckets come from: the environment, as with each cloud's own tools.

use super::cloud::front;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// What names of variables begin with that clouds read, or their whole names.
const READ: [&str; 10] = [
    "AWS_",
    "AZURE_",
    "GOOGLE_",
    "CLOUDSDK_AUTH_ACCESS_TOKEN",
    "STORAGE_EMULATOR_HOST",
    "IDENTITY_ENDPOINT",
    "MSI_ENDPOINT",
    "HOME",
    front::TOKEN_FILE,
    front::CA_FILE,
];

/// The variables from which a bucket is opened. Names show in debug output, values never.
#[derive(Clone, Default)]
pub struct Settings {
    variables: BTreeMap<String, String>,
}

impl Settings {
    /// The environment of this process: only what clouds read, and only here. It decides how a bucket is reached, and
    /// cannot get into a snapshot or an entry.
    pub fn from_env() -> Self {
        let read = |name: &String| READ.iter().any(|prefix| name.starts_with(prefix));
        let texts = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok().filter(read)?, value.into_string().ok()?))
        });
        Self { variables: texts.collect() }
    }

    /// These variables and no others.
    pub fn of<N: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        Self { variables: variables.collect() }
    }

    /// These, and for stores at `https://` the file of a token and the file of the CA, where one is given.
    #[must_use]
    pub fn with_front(mut self, token: Option<&Path>, ca: Option<&Path>) -> Self {
        for (name, path) in [(front::TOKEN_FILE, token), (front::CA_FILE, ca)] {
            let text = path.and_then(Path::to_str).map(str::to_owned);
            self.variables.extend(text.map(|text| (name.to_owned(), text)));
        }
        self
    }

    /// A variable; an empty one counts as none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The first of these that is set.
    pub(super) fn first(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    /// A file in the home directory, unless a variable names it.
    pub(super) fn file(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        let named = self.get(variable).map(PathBuf::from);
        named.or_else(|| self.get("HOME").map(|home| PathBuf::from(home).join(in_home)))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_do_not_show() {
        let settings = Settings::of([("AWS_SECRET_ACCESS_KEY", "hunter2"), ("AWS_PROFILE", "")]);
        assert_eq!(format!("{settings:?}"), r#"{"AWS_PROFILE", "AWS_SECRET_ACCESS_KEY"}"#);
        assert_eq!(settings.get("AWS_PROFILE"), None);
        assert_eq!(settings.first(&["AWS_X", "AWS_SECRET_ACCESS_KEY"]), Some("hunter2"));
    }
}
