//! The host that requests of HTTP/1.0 are for if they name none (ClientTrafficPolicy `http1.http10.useDefaultHost`).

use super::Policies;
use crate::attach::index::{Index, Key};
use crate::attach::listener::{Gateway, Listener};
use crate::attach::parent::{Placement, Routes};
use moorgate_model::diagnostic::policy::POLICY_INVALID;
use moorgate_model::{Diagnostics, FieldPath, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Finds these hosts: that of the listener, or else that of the only HTTPRoute there that names one.
pub(in crate::attach) fn hosts<'a>(
    index: &Index<'a>,
    policies: &mut Policies,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    routes: &Routes<'a>,
    diagnostics: &mut Diagnostics,
) {
    let mut lost: BTreeMap<ObjectRef, BTreeSet<Key<'a>>> = BTreeMap::new();
    for (&key, gateway) in gateways.iter_mut() {
        for listener in &mut gateway.listeners {
            let Some(added) = listener.policies.as_ref().filter(|added| added.default_host.is_some()) else {
                continue;
            };
            let placed = routes.placements.get(&(key, listener.position)).map(Vec::as_slice);
            match host(index, listener, placed.unwrap_or_default()) {
                Some(found) => {
                    let mut own = added.as_ref().clone();
                    own.default_host = Some(found);
                    listener.policies = Some(Arc::new(own));
                }
                None => {
                    if let Some(speaker) = added.sources.first() {
                        lost.entry(speaker.object.clone()).or_default().insert(key);
                    }
                }
            }
        }
    }
    let message = "neither the listener has a hostname, nor one HTTPRoute alone";
    for (number, one) in policies.held.all.iter().enumerate() {
        let Some(gateways) = lost.get(&one.object.reference) else { continue };
        for (namespace, name) in gateways {
            let key = (number, ((*namespace).to_owned(), (*name).to_owned()));
            policies.settled.unmet.entry(key).or_default().insert(message.to_owned());
        }
        let field = FieldPath::parse("spec.http1.http10.useDefaultHost");
        let finding = one.object.diagnostic(&POLICY_INVALID, field, message);
        diagnostics.push(finding.help("requests of HTTP/1.0 without a host are refused"));
    }
}

fn host(index: &Index<'_>, listener: &Listener<'_>, placed: &[Placement]) -> Option<String> {
    let exact = |name: &&str| !name.is_empty() && !name.starts_with('*');
    if let Some(own) = Some(listener.spec.hostname.as_str()).filter(|name| exact(name)) {
        return Some(own.to_owned());
    }
    let mut named: BTreeMap<&ObjectRef, &str> = BTreeMap::new();
    for route in placed.iter().flat_map(|placement| placement.rules.http()) {
        let object = &route.origin.object;
        let found = index
            .http_routes
            .get(&(&*object.namespace, &*object.name))
            .filter(|_| &*object.kind == "HTTPRoute");
        let names = found.map(|found| found.value.spec.hostnames.as_slice()).unwrap_or_default();
        if let Some(first) = names.iter().map(String::as_str).find(exact) {
            named.insert(object, first);
        }
    }
    let mut names = named.into_values();
    names.next().filter(|_| names.next().is_none()).map(str::to_owned)
}
