//! Filters of listeners: they run in the order in which they stand, before a route is looked for (Gateway API v1.7,
//! `ListenerFilters`). ExternalAuth restricts access, so a filter that cannot be carried out closes its listener.

use super::{Gateway, Listener, field};
use crate::attach::filter::{self, Context};
use crate::attach::index::{Index, Key};
use crate::attach::kind::Mode;
use crate::attach::parent::Routes;
use crate::attach::policy::Policies;
use moorgate_model::diagnostic::semantic::UNSUPPORTED_VALUE;
use moorgate_model::ir::ExternalAuth;
use moorgate_model::{Diagnostic, Diagnostics, FieldPath};
use std::collections::BTreeMap;

/// Resolves the filters of all listeners, and makes the clusters of the services that are asked.
pub(in crate::attach) fn resolve<'a>(
    index: &Index<'a>,
    policies: &Policies,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    routes: &mut Routes<'a>,
    diagnostics: &mut Diagnostics,
) {
    for (&key, gateway) in gateways {
        for listener in &mut gateway.listeners {
            let mut findings = Vec::new();
            let asked = of_listener(index, policies, listener, routes, &mut findings);
            asked.iter().for_each(|auth| routes.note(&auth.cluster, key));
            listener.asked = asked;
            if !findings.is_empty() {
                listener.refuse = true;
                diagnostics.extend(findings.iter().cloned());
                listener.findings.append(&mut findings);
            }
        }
    }
}

fn of_listener(
    index: &Index<'_>,
    policies: &Policies,
    listener: &Listener<'_>,
    routes: &mut Routes<'_>,
    findings: &mut Vec<Diagnostic>,
) -> Vec<ExternalAuth> {
    let Some(filters) = listener.spec.filters.as_ref().filter(|filters| !filters.requests.is_empty()) else {
        return Vec::new();
    };
    let at = field(listener.index).key("filters").key("requests");
    let unsupported = |field: FieldPath, message: String| {
        let help = if listener.spec.protocol == "HTTP" {
            "its routes answer 500"
        } else {
            "the listener refuses connections"
        };
        listener.owner.diagnostic(&UNSUPPORTED_VALUE, field, message).help(help)
    };
    if listener.mode != Some(Mode::Http) {
        let message =
            format!("a {} listener sees no requests, and cannot filter them", listener.spec.protocol);
        findings.push(unsupported(at, message));
        return Vec::new();
    }
    let mut asked = Vec::new();
    for (position, filter) in filters.requests.iter().enumerate() {
        let at = at.index(position);
        match (filter.kind.as_str(), &filter.external_auth) {
            ("ExternalAuth", Some(found)) => {
                let clusters = &mut routes.clusters;
                let mut cx = Context { index, route: listener.owner, policies, clusters, findings };
                asked.extend(filter::external_auth(&mut cx, &at, found));
            }
            (kind, _) => {
                let message = format!("a filter of type {kind} is not supported on a listener");
                findings.push(unsupported(at.key("type"), message));
            }
        }
    }
    asked
}
