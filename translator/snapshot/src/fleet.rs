//! Names of fleets.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// Envoys that share one configuration: those of a Gateway, or of a whole GatewayClass if its Gateways are merged.
/// Written `namespace/gateway` or `class/NAME`; no namespace may be called `class` in the first form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FleetName {
    /// One Gateway.
    Gateway {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// All Gateways of a class.
    Class {
        /// The name of the class.
        name: String,
    },
}

/// Text that names no fleet.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no fleet: write namespace/gateway or class/NAME")]
pub struct FleetNameError(String);

impl FleetName {
    /// The fleet of one Gateway.
    pub fn gateway(namespace: &str, name: &str) -> Self {
        Self::Gateway { namespace: namespace.into(), name: name.into() }
    }

    /// One path segment that stands for the fleet, for sockets and folders: `namespace.gateway` or `class.NAME`.
    /// A namespace has no dot, so no two fleets share one.
    pub fn socket_name(&self) -> String {
        self.to_string().replacen('/', ".", 1)
    }

    /// The prefix of the fleet in a store: `fleets/gateway/<ns>/<name>` or `fleets/class/<name>`.
    pub fn prefix(&self) -> String {
        match self {
            Self::Gateway { namespace, name } => format!("fleets/gateway/{namespace}/{name}"),
            Self::Class { name } => format!("fleets/class/{name}"),
        }
    }
}

impl fmt::Display for FleetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Class { name } => write!(f, "class/{name}"),
        }
    }
}

impl FromStr for FleetName {
    type Err = FleetNameError;

    /// Parts are Kubernetes names: lower-case letters, digits, `-` and `.`, so that a name is safe in paths and keys.
    fn from_str(text: &str) -> Result<Self, FleetNameError> {
        let valid = |part: &str| {
            !part.is_empty()
                && part.len() <= 253
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
                && part.as_bytes()[0].is_ascii_alphanumeric()
                && part.as_bytes()[part.len() - 1].is_ascii_alphanumeric()
        };
        match text.split_once('/') {
            Some(("class", name)) if valid(name) => Ok(Self::Class { name: name.into() }),
            Some((namespace, name)) if namespace != "class" && valid(namespace) && valid(name) => {
                Ok(Self::gateway(namespace, name))
            }
            _ => Err(FleetNameError(text.into())),
        }
    }
}

impl TryFrom<String> for FleetName {
    type Error = FleetNameError;

    fn try_from(text: String) -> Result<Self, FleetNameError> {
        text.parse()
    }
}

impl From<FleetName> for String {
    fn from(name: FleetName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_paths_do_not_escape() {
        for text in ["shop/edge", "class/moorgate"] {
            assert_eq!(text.parse::<FleetName>().unwrap().to_string(), text);
        }
        for text in ["edge", "../edge", "a/b/c", "a/", "/b", "A/b", "a/..", "class/", "a/b\0"] {
            assert!(text.parse::<FleetName>().is_err(), "{text}");
        }
    }
}
