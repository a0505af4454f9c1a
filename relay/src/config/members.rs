//! Who may ask for which fleet: `NAME=FLEET`, from flags and from a file that is read again while the relay runs.

use super::{ConfigError, proof, wrong};
use crate::bind::file;
use crate::serve::tls::Files;
use moorgate_snapshot::FleetName;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The largest file of members.
const MAX_FILE: u64 = 16 << 20;

/// Fleets by the names that clients prove.
pub type Members = BTreeMap<String, FleetName>;

/// The file of members, and what it has to fit to.
#[derive(Debug, Clone)]
pub struct MemberFile {
    /// The file: `NAME=FLEET` a line; empty lines and those that begin with `#` say nothing.
    pub path: PathBuf,
    /// Those of the flags, which it does not change.
    pub(super) flags: Members,
    /// The fleets that are served, unless any is that somebody is a member of.
    pub(super) fleets: Option<Vec<FleetName>>,
    /// What proofs are taken.
    pub(super) tls: Files,
}

impl MemberFile {
    /// Reads the file: its members and those of the flags.
    ///
    /// # Errors
    /// It cannot be read, or one of its lines cannot be taken: nobody may be let in or cut off by half a file.
    pub fn read(&self) -> Result<Members, ConfigError> {
        let error = |reason: String| ConfigError::File { path: self.path.clone(), reason };
        let bytes = file::read(&self.path, MAX_FILE).map_err(|cause| error(cause.to_string()))?;
        let text = std::str::from_utf8(&bytes).map_err(|cause| error(cause.to_string()))?;
        let mut members = self.flags.clone();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let at = |cause: &dyn std::fmt::Display| error(format!("line {}: {cause}", number + 1));
            let (name, fleet) = member(line).map_err(|cause| at(&cause))?;
            if members.insert(name, fleet.clone()).is_some_and(|other| other != fleet) {
                return Err(at(&"this name is of another fleet already"));
            }
        }
        check(&members, self.fleets.as_deref(), Some(&self.tls)).map_err(|cause| error(cause.to_string()))?;
        Ok(members)
    }
}

/// The file of members, if there is one: only TLS lets clients prove their names.
pub(super) fn of_file(
    path: Option<PathBuf>,
    flags: &Members,
    fleets: Option<&[FleetName]>,
    tls: Option<&Files>,
) -> Result<Option<MemberFile>, ConfigError> {
    match (path, tls) {
        (None, _) => Ok(None),
        (Some(_), None) => Err(ConfigError::Together("--member-file goes with --client-ca or --token-keys")),
        (Some(path), Some(tls)) => {
            let (flags, fleets) = (flags.clone(), fleets.map(<[_]>::to_vec));
            Ok(Some(MemberFile { path, flags, fleets, tls: tls.clone() }))
        }
    }
}

/// Reads `NAME=FLEET`.
pub(super) fn member(text: &str) -> Result<(String, FleetName), ConfigError> {
    let (name, fleet) = text.rsplit_once('=').ok_or_else(|| wrong("member", text, "write NAME=FLEET"))?;
    // SPIFFE ids and accounts have one spelling; names of hosts have many.
    let name = if name.contains(':') { name.to_owned() } else { name.to_ascii_lowercase() };
    Ok((name, fleet.parse().map_err(|error| wrong("member", text, &error))?))
}

/// Members are of fleets that are served, and prove themselves in a way that is taken.
pub(super) fn check(
    members: &Members,
    fleets: Option<&[FleetName]>,
    tls: Option<&Files>,
) -> Result<(), ConfigError> {
    if fleets.is_some_and(|fleets| members.values().any(|fleet| !fleets.contains(fleet))) {
        return Err(ConfigError::Together("--member names a fleet that is not served"));
    }
    proof::check_members(members, tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Members, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("members");
        std::fs::write(&path, text).unwrap();
        let fleets = vec![FleetName::gateway("a", "b"), FleetName::gateway("c", "d")];
        let tls =
            Files { certificate: "c".into(), key: "k".into(), client_ca: Some("ca".into()), tokens: true };
        let flags = [("fixed".to_owned(), fleets[0].clone())].into();
        let members = MemberFile { path, flags, fleets: Some(fleets), tls };
        members.read().map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_adds_to_the_flags_and_is_taken_whole_or_not_at_all() {
        let text =
            "# who\n\nEnvoy.Example=a/b\n spiffe://x/Y=c/d \nsystem:serviceaccount:a:envoy=a/b\nfixed=a/b\n";
        let names = ["envoy.example", "fixed", "spiffe://x/Y", "system:serviceaccount:a:envoy"];
        assert_eq!(file(text).unwrap().keys().collect::<Vec<_>>(), names.each_ref());
        assert_eq!(file("").unwrap().len(), 1, "nobody but those of the flags");
        for (text, reason) in [
            ("x=a/b\ny", "line 2"),
            ("x=a/b\nx=c/d", "line 2: this name is of another fleet already"),
            ("fixed=c/d", "another fleet"),
            ("x=e/f", "not served"),
            ("system:serviceaccount:a=a/b", "NAMESPACE:NAME"),
        ] {
            let error = file(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
