//! Listeners of one port whose TLS overlaps: clients may reuse a connection of one for a host of the other
//! (`OverlappingTLSConfig`). Requests that come that way are answered 421, so this is news, and no fault.

use super::{Gateway, Listener, field};
use crate::attach::kind::Mode;
use moorgate_model::diagnostic::semantic::OVERLAPPING_TLS;
use std::collections::BTreeMap;

/// Notes for each listener another one whose hostnames it shares.
pub(super) fn find(gateway: &mut Gateway<'_>) {
    let mut ports: BTreeMap<u16, BTreeMap<String, usize>> = BTreeMap::new();
    let has_tls = |listener: &&Listener<'_>| {
        let mode = listener.mode;
        listener.accepted
            && (listener.spec.protocol == "HTTPS"
                || matches!(mode, Some(Mode::Terminate | Mode::Passthrough)))
    };
    for listener in gateway.listeners.iter().filter(has_tls) {
        let hosts = ports.entry(listener.spec.port).or_default();
        hosts.insert(listener.spec.hostname.clone(), listener.position);
    }
    for hosts in ports.values() {
        for (host, &position) in hosts {
            for wider in wider(host) {
                if let Some(&other) = hosts.get(&wider) {
                    note(gateway, position, other, true);
                    note(gateway, other, position, false);
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

fn note(gateway: &mut Gateway<'_>, position: usize, other: usize, warns: bool) {
    let Some(found) = gateway.listeners.get(other) else { return };
    let (name, secrets) = (found.full_name(), found.secrets.clone());
    let (owner, index) = (found.owner, found.index);
    let Some(listener) = gateway.listeners.get_mut(position) else { return };
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
