//! How many routes each namespace and hostname has: the shrink guard compares them from release to release.

use moorgate_model::ir;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Four fifths of the twenty routes from which on the shrink guard looks at shares.
const NOTABLE: u64 = 16;

/// Routes of a fleet, by the namespace of their object and by hostname. Each listener's routes count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// By the namespace of the route object.
    pub namespaces: BTreeMap<String, u64>,
    /// By hostname as Envoy has it: in lower case, `*` for all; for TCP and UDP the Envoy listener's name. Hostnames
    /// without routes are left out.
    pub hostnames: BTreeMap<String, u64>,
}

impl Counts {
    /// Counts the routes of a fleet.
    pub fn of(fleet: &ir::Fleet) -> Self {
        let mut counts = Self::default();
        for (name, chain) in fleet
            .listeners
            .iter()
            .flat_map(|(name, listener)| listener.chains.iter().map(move |chain| (name, chain)))
        {
            if let Some(stream) = chain.stream() {
                let hostname = chain.server_names.first().unwrap_or(name);
                *counts.hostnames.entry(hostname.clone()).or_default() += 1;
                counts.of_namespace(&stream.origin.object.namespace);
            }
        }
        for host in fleet.tables().into_values().flat_map(|table| &table.hosts) {
            if host.routes.is_empty() {
                continue;
            }
            *counts.hostnames.entry(host.domain.clone()).or_default() += host.routes.len() as u64;
            for route in &host.routes {
                counts.of_namespace(&route.origin.object.namespace);
            }
        }
        counts
    }

    fn of_namespace(&mut self, namespace: &str) {
        match self.namespaces.get_mut(namespace) {
            Some(count) => *count += 1,
            None => drop(self.namespaces.insert(namespace.to_owned(), 1)),
        }
    }

    /// Those that the shrink guard may look at: it asks what has twenty routes or more, and lets four fifths of them pass,
    /// so what has fewer than sixteen is as good as nothing. A large fleet has few such hostnames.
    #[must_use]
    pub fn notable(&self) -> Self {
        let notable = |counts: &BTreeMap<String, u64>| {
            let enough = counts.iter().filter(|(_, count)| **count >= NOTABLE);
            enough.map(|(name, count)| (name.clone(), *count)).collect()
        };
        Self { namespaces: notable(&self.namespaces), hostnames: notable(&self.hostnames) }
    }

    /// All routes.
    pub fn total(&self) -> usize {
        usize::try_from(self.hostnames.values().sum::<u64>()).unwrap_or(usize::MAX)
    }
}
