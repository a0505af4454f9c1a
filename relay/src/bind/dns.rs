//! Names that are resolved instead of looked up in Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

/// How often a name is resolved again: the system resolver does not tell a TTL.
pub const INTERVAL: Duration = Duration::from_secs(30);

/// How long one name may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Addresses by name and port, as last resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    names: BTreeMap<(String, u16), Vec<SocketAddr>>,
}

impl Resolved {
    /// Resolves every name once. One that fails or has no address keeps its last ones; one that is no longer asked
    /// for is forgotten. Returns the names that failed.
    pub async fn refresh(&mut self, wanted: &BTreeSet<(String, u16)>) -> Vec<String> {
        self.names.retain(|key, _| wanted.contains(key));
        let mut failed = Vec::new();
        for (name, port) in wanted {
            let lookup =
                tokio::time::timeout(DEADLINE, tokio::net::lookup_host((name.as_str(), *port))).await;
            let mut addresses: Vec<SocketAddr> = match lookup {
                Ok(Ok(addresses)) => addresses.collect(),
                Ok(Err(_)) | Err(_) => Vec::new(),
            };
            addresses.sort_unstable();
            addresses.dedup();
            if addresses.is_empty() {
                failed.push(name.clone());
            } else {
                self.names.insert((name.clone(), *port), addresses);
            }
        }
        failed
    }

    /// The addresses of a name; `None` if it was never resolved.
    pub fn get(&self, name: &str, port: u16) -> Option<&[SocketAddr]> {
        self.names.get(&(name.to_owned(), port)).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_resolve_and_failures_keep_the_last_addresses() {
        let mut resolved = Resolved::default();
        let local = ("localhost".to_owned(), 80);
        assert!(resolved.refresh(&[local.clone()].into()).await.is_empty());
        assert!(
            resolved
                .get("localhost", 80)
                .is_some_and(|found| found.iter().all(|address| address.ip().is_loopback()))
        );
        let bad = ("name.invalid".to_owned(), 80);
        assert_eq!(resolved.refresh(&[local, bad.clone()].into()).await, ["name.invalid"]);
        resolved.refresh(&[bad].into()).await;
        assert_eq!(resolved.get("localhost", 80), None);
    }
}
