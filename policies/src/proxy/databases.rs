//! Databases that know where addresses are (EnvoyProxy `geoIP`).

use super::Cx;
use moorgate_model::{FieldPath, Node, Object};
use std::collections::BTreeMap;

/// The databases that there are, by what they know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Database {
    Anonymous,
    Asn,
    City,
    Country,
    Isp,
}

/// Names of paths in Linux are not longer than this.
const MOST_BYTES: usize = 4096;

impl Database {
    const ALL: [Self; 5] = [Self::Anonymous, Self::Asn, Self::City, Self::Country, Self::Isp];

    /// The field that names it, below `geoIP.provider.maxMind`.
    pub(crate) const fn field(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymousIpDbSource",
            Self::Asn => "asnDbSource",
            Self::City => "cityDbSource",
            Self::Country => "countryDbSource",
            Self::Isp => "ispDbSource",
        }
    }

    fn path(self) -> FieldPath {
        FieldPath::parse("spec.geoIP.provider.maxMind").key(self.field()).key("local").key("path")
    }
}

/// The paths of the databases that parameters name, as far as Envoy takes them.
pub(crate) fn named(parameters: &Object) -> BTreeMap<Database, &str> {
    let path = |database: Database| {
        let path = parameters.root.at(&database.path()).and_then(Node::as_str)?;
        is_path(path).then_some((database, path))
    };
    Database::ALL.into_iter().filter_map(path).collect()
}

/// Envoy refuses a listener with another path. An EnvoyProxy in a ConfigMap was not seen by any API server.
#[allow(clippy::case_sensitive_file_extension_comparisons, reason = "Envoy compares letters")]
fn is_path(path: &str) -> bool {
    path.ends_with(".mmdb") && path.len() < MOST_BYTES && !path.chars().any(char::is_control)
}

/// Says which paths are none.
pub(super) fn check(cx: &mut Cx<'_, '_>) {
    for database in Database::ALL {
        let at = database.path();
        let path = cx.object.root.at(&at).and_then(Node::as_str);
        if let Some(path) = path.filter(|path| !is_path(path)) {
            let message = format!("{path:?} is no path of a database, which ends in .mmdb");
            cx.find(at, message, "rules that need it answer 500");
        }
    }
}
