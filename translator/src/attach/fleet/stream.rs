//! Chains that carry bytes: one for a whole port (TCP, UDP), or one for each server name (TLS).

use super::{origin, server_names, tls};
use crate::attach::hostname::specificity;
use crate::attach::parent::Placement;
use crate::attach::table::{Filled, Owners};
use moorgate_model::ir::{FilterChain, Serves};
use std::collections::BTreeMap;

/// The chain of a port that tells nothing apart: the oldest route gets all (TCPRoute, UDPRoute).
pub(super) fn whole_port(name: &str, listeners: &[Filled<'_>]) -> Vec<FilterChain> {
    let placements = listeners.iter().flat_map(|(_, placements)| placements.iter());
    let oldest = placements.min_by(|a, b| a.age.cmp(&b.age));
    vec![FilterChain {
        name: name.to_owned(),
        server_names: Vec::new(),
        tls: None,
        origins: listeners.iter().map(|(listener, _)| origin(listener)).collect(),
        policies: listeners.iter().find_map(|(listener, _)| listener.policies.clone()),
        serves: oldest.map_or(Serves::Refuse, serves),
        tracing: None,
    }]
}

/// The chains of a TLS listener: for each server name the route that wrote the most specific hostname, and of several
/// the oldest. A name belongs to the most specific listener of the port, so the listener's own name always has a
/// chain, if only to close: otherwise a wider listener would take its connections over.
pub(super) fn by_server_name(filled: Filled<'_>, owners: &Owners<'_>) -> Vec<FilterChain> {
    let (listener, placements) = filled;
    let mut hosts: BTreeMap<&str, Option<&Placement>> = BTreeMap::new();
    hosts.insert(&listener.spec.hostname, None);
    if !listener.refuse {
        for placement in placements {
            if owners.of(&placement.host).is_some_and(|owner| std::ptr::eq(owner, listener)) {
                let best = hosts.entry(&placement.host).or_default();
                let rank = |placement: &Placement| (specificity(&placement.written), placement.age.clone());
                if best.is_none_or(|best| rank(placement) < rank(best)) {
                    *best = Some(placement);
                }
            }
        }
    }
    let name = listener.full_name();
    let chain = |(host, placement): (&str, Option<&Placement>)| FilterChain {
        name: if *host == *listener.spec.hostname { name.clone() } else { format!("{name}/{host}") },
        server_names: server_names(host),
        tls: placement.and_then(|_| tls(listener)),
        origins: vec![origin(listener)],
        policies: listener.policies.clone(),
        serves: placement.map_or(Serves::Refuse, serves),
        tracing: None,
    };
    hosts.into_iter().map(chain).collect()
}

fn serves(placement: &Placement) -> Serves {
    placement.rules.stream().map_or(Serves::Refuse, |stream| Serves::Stream(stream.clone()))
}
