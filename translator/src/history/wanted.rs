//! Which object somebody asks for.

use super::object;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// An object as people write it: `KIND/NAMESPACE/NAME`, or `KIND/NAME` for kinds without a namespace. The kind may carry
/// its group, `HTTPRoute.gateway.networking.k8s.io`; without one, any group will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    group: Option<String>,
    kind: String,
    namespace: String,
    name: String,
}

/// Text that names no object.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no object: write KIND/NAMESPACE/NAME, or KIND/NAME for kinds without a namespace")]
pub struct WantedError(String);

impl Wanted {
    /// Whether this is its [`super::key`].
    pub fn fits(&self, key: &str) -> bool {
        object(key).is_some_and(|object| {
            self.group.as_ref().is_none_or(|group| *group == *object.group)
                && self.kind.eq_ignore_ascii_case(&object.kind)
                && (self.namespace.as_str(), self.name.as_str()) == (&*object.namespace, &*object.name)
        })
    }
}

impl FromStr for Wanted {
    type Err = WantedError;

    fn from_str(text: &str) -> Result<Self, WantedError> {
        let parts: Vec<&str> = text.split('/').collect();
        let (kind, namespace, name) = match parts.as_slice() {
            [kind, namespace, name] => (*kind, *namespace, *name),
            [kind, name] => (*kind, "", *name),
            _ => return Err(WantedError(text.chars().take(80).collect())),
        };
        if kind.is_empty() || name.is_empty() {
            return Err(WantedError(text.chars().take(80).collect()));
        }
        let (kind, group) = kind.split_once('.').map_or((kind, None), |(kind, group)| (kind, Some(group)));
        let owned = |text: &str| text.to_owned();
        Ok(Self {
            group: group.map(owned),
            kind: owned(kind),
            namespace: owned(namespace),
            name: owned(name),
        })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if let Some(group) = &self.group {
            write!(f, ".{group}")?;
        }
        if !self.namespace.is_empty() {
            write!(f, "/{}", self.namespace)?;
        }
        write!(f, "/{}", self.name)
    }
}
