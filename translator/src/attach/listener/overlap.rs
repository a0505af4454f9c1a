//! Listeners of one port whose TLS overlaps: clients may reuse a connection of one for a host of the other
//! (`OverlappingTLSConfig`). Requests that come that way are answered 421, so this is news, and no fault.

use super::{Gateway, Listener, field};
use crate::attach::index::Key;
use crate::attach::kind::Mode;
use moorgate_model::diagnostic::semantic::OVERLAPPING_TLS;
use std::collections::{BTreeMap, BTreeSet};

/// A listener: its Gateway, and its place among that one's.
type Place<'a> = (Key<'a>, usize);

/// Whose ports these are: a Gateway's, or those of all Gateways of a merged class.
type Sharing<'a> = (bool, Key<'a>);

/// Notes for each listener another one whose hostnames it shares; Gateways of a merged class share ports.
pub(super) fn find<'a>(gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>, merged: &BTreeSet<String>) {
    let mut ports: BTreeMap<(Sharing<'a>, u16), BTreeMap<String, Place<'a>>> = BTreeMap::new();
    let has_tls = |listener: &&Listener<'_>| {
        let mode = listener.mode;
        listener.accepted
            && (listener.spec.protocol == "HTTPS"
                || matches!(mode, Some(Mode::Terminate | Mode::Passthrough)))
    };
    for (&key, gateway) in gateways.iter() {
        let shares = merged.contains(gateway.class);
        if shares && !gateway.is_served() {
            continue;
        }
        let sharing = (shares, if shares { (gateway.class, "") } else { key });
        for listener in gateway.listeners.iter().filter(has_tls) {
            let hosts = ports.entry((sharing, listener.spec.port)).or_default();
            hosts.insert(listener.spec.hostname.clone(), (key, listener.position));
        }
    }
    for hosts in ports.values() {
        for (host, &place) in hosts {
            for wider in wider(host) {
                if let Some(&other) = hosts.get(&wider) {
                    note(gateways, place, other, true);
                    note(gateways, other, place, false);
                }
            }
        }
    }
}

/// The hostnames that cover a hostname besides itself, the nearest first.
fn wider(host: &str) -> Vec<String> {
    let bare = host.strip_prefix("*.").unwrap_or(host);
    let rest = bare.match_indices('.').filter_map(|(dot, _)| bare.get(dot..));
    let mut out: Vec<String> = rest.map(|suffix| format!("*{suffix}")).collect();
    if !host.is_empty() {
        out.push(String::new());
    }
    out
}

fn note<'a>(gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>, place: Place<'a>, other: Place<'a>, warns: bool) {
    let found = gateways.get(&other.0).and_then(|gateway| gateway.listeners.get(other.1));
    let Some(found) = found else { return };
    let (name, secrets) = (found.full_name(), found.secrets.clone());
    let (owner, index) = (found.owner, found.index);
    let listener = gateways.get_mut(&place.0).and_then(|gateway| gateway.listeners.get_mut(place.1));
    let Some(listener) = listener else { return };
    let message = format!(
        "listener {:?} and listener {name:?} share hostnames on port {}",
        listener.spec.name, listener.spec.port
    );
    // With one certificate for both, clients do reuse connections.
    if warns && listener.secrets.iter().any(|secret| secrets.contains(secret)) {
        let finding = listener.owner.diagnostic(&OVERLAPPING_TLS, field(listener.index), message.clone());
        let place = owner.root.locate(&field(index)).start;
        listener.findings.push(finding.related(
            owner.origin.file.clone(),
            place,
            format!("{name:?} is here"),
        ));
    }
    listener.overlap.get_or_insert(message);
}
