//! Routes to listeners: which parents take a route, and for which hostnames.

use super::index::{Index, Indexed, Key};
use super::listener::Gateway;
use super::policy::Policies;
use super::precedence::Age;
use super::spec::{self, From, HttpRoute, ParentRef};
use super::{GATEWAY_GROUP, hostname, rule};
use crate::status::{self, ParentReference, ParentStatus, Status, Statuses};
use moorgate_model::diagnostic::semantic::{
    NO_MATCHING_HOSTNAME, NO_MATCHING_PARENT, NOT_ALLOWED_BY_LISTENERS, PARENT_NOT_FOUND,
    PARENT_NOT_SUPPORTED, UNSUPPORTED_VALUE,
};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, ir};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A route at one hostname of one listener.
#[derive(Debug)]
pub(super) struct Placement {
    /// The hostname both agree on; empty for all.
    pub(super) host: String,
    /// The hostname as the route wrote it: decides precedence.
    pub(super) written: String,
    pub(super) age: Age,
    pub(super) routes: Rc<Vec<ir::Route>>,
}

/// Everything that is attached, and the clusters that it needs.
#[derive(Debug, Default)]
pub(super) struct Routes<'a> {
    /// By Gateway and position of the listener.
    pub(super) placements: BTreeMap<(Key<'a>, usize), Vec<Placement>>,
    /// All clusters, by name.
    pub(super) clusters: BTreeMap<String, ir::Cluster>,
    /// Which Gateways serve a Service: (namespace, name) to Gateways.
    pub(super) ancestors: BTreeMap<(String, String), Vec<Key<'a>>>,
}

/// Attaches every HTTPRoute.
pub(super) fn attach<'a>(
    index: &Index<'a>,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    policies: &Policies,
    diagnostics: &mut Diagnostics,
    statuses: &mut Statuses,
) -> Routes<'a> {
    let mut out = Routes::default();
    for route in index.http_routes.values() {
        attach_one(index, gateways, policies, route, &mut out, diagnostics, statuses);
    }
    out
}

#[allow(clippy::too_many_arguments)] // one loop body, split off for its length
fn attach_one<'a>(
    index: &Index<'a>,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    policies: &Policies,
    route: &Indexed<'a, HttpRoute>,
    out: &mut Routes<'a>,
    diagnostics: &mut Diagnostics,
    statuses: &mut Statuses,
) {
    let reference = &route.object.reference;
    let metadata = &route.value.metadata;
    let age = Age::new(metadata.creation_timestamp.as_deref(), &reference.namespace, &reference.name);
    let mut built = None;
    let mut parents = Vec::new();
    for (position, parent) in route.value.spec.parent_refs.iter().enumerate() {
        let at = FieldPath::root().key("spec").key("parentRefs").index(position);
        let Some((key, gateway)) = find(index, gateways, route, parent, &at, diagnostics) else { continue };
        let attached = match_listeners(index, gateway, route, parent, &at);
        let (rules, findings) = built.get_or_insert_with(|| {
            let built = rule::build(index, route, policies, &mut out.clusters);
            (Rc::new(built.routes), built.findings)
        });
        parents.push(parent_status(
            statuses.controller_name(),
            parent,
            attached.as_ref().err(),
            findings,
            metadata.generation,
        ));
        match attached {
            Err(finding) => diagnostics.push(finding),
            Ok(placed) => {
                for (listener, host, written) in placed {
                    let placements = out.placements.entry((key, listener)).or_default();
                    // Two parentRefs may meet the same listener: it counts and serves the route once.
                    let mut own =
                        placements.iter().rev().take_while(|other| Rc::ptr_eq(&other.routes, rules));
                    if own.any(|other| other.host == host) {
                        continue;
                    }
                    placements.push(Placement { host, written, age: age.clone(), routes: Rc::clone(rules) });
                }
                note_ancestors(&mut out.ancestors, rules, key);
            }
        }
    }
    if let Some((_, findings)) = built {
        diagnostics.extend(findings);
    }
    if route.value.spec.use_default_gateways.is_some() {
        let field = FieldPath::parse("spec.useDefaultGateways");
        diagnostics.push(route.object.diagnostic(
            &UNSUPPORTED_VALUE,
            field,
            "useDefaultGateways is not supported",
        ));
    }
    if !parents.is_empty() {
        statuses.set(reference.clone(), Status::Route { parents });
    }
}

fn note_ancestors<'a>(
    ancestors: &mut BTreeMap<(String, String), Vec<Key<'a>>>,
    routes: &[ir::Route],
    gateway: Key<'a>,
) {
    for route in routes {
        let ir::Action::Forward(forward) = &route.action else { continue };
        for cluster in forward.backends.iter().filter_map(|backend| backend.cluster.as_deref()) {
            let mut parts = cluster.split('/');
            let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else { continue };
            let gateways = ancestors.entry((namespace.to_owned(), name.to_owned())).or_default();
            if !gateways.contains(&gateway) {
                gateways.push(gateway);
            }
        }
    }
}

/// The Gateway of ours that a parent reference names; others are passed over, and missing ones named.
fn find<'g, 'a>(
    index: &Index<'a>,
    gateways: &'g mut BTreeMap<Key<'a>, Gateway<'a>>,
    route: &Indexed<'a, HttpRoute>,
    parent: &ParentRef,
    at: &FieldPath,
    diagnostics: &mut Diagnostics,
) -> Option<(Key<'a>, &'g mut Gateway<'a>)> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    if (group, kind) != (GATEWAY_GROUP, "Gateway") {
        let message = format!("a parent of kind {kind} is not supported");
        diagnostics.push(route.object.diagnostic(&PARENT_NOT_SUPPORTED, at.key("kind"), message));
        return None;
    }
    let namespace = parent.namespace.as_deref().unwrap_or(&route.object.reference.namespace);
    let Some(key) = index.gateway_key(namespace, &parent.name) else {
        if !index.is_open("Gateway") {
            let message = format!("Gateway {namespace}/{} is not in this source", parent.name);
            diagnostics.push(route.object.diagnostic(&PARENT_NOT_FOUND, at.key("name"), message));
        }
        return None;
    };
    gateways.get_mut(&key).map(|gateway| (key, gateway))
}

type Placed = Vec<(usize, String, String)>;

/// The listeners that take the route, with the hostnames; or why none does.
fn match_listeners(
    index: &Index<'_>,
    gateway: &mut Gateway<'_>,
    route: &Indexed<'_, HttpRoute>,
    parent: &ParentRef,
    at: &FieldPath,
) -> Result<Placed, Diagnostic> {
    let object = route.object;
    let gateway_namespace = gateway.object.reference.namespace.clone();
    let named: Vec<usize> = gateway
        .listeners
        .iter()
        .enumerate()
        .filter(|(_, listener)| parent.section_name.as_ref().is_none_or(|name| *name == listener.spec.name))
        .filter(|(_, listener)| parent.port.is_none_or(|port| port == listener.spec.port))
        .map(|(position, _)| position)
        .collect();
    if named.is_empty() {
        let names: Vec<_> = gateway.listeners.iter().map(|listener| listener.spec.name.as_str()).collect();
        let what = match (&parent.section_name, parent.port) {
            (Some(name), Some(port)) => format!("named {name:?} on port {port}"),
            (Some(name), None) => format!("named {name:?}"),
            (None, port) => format!("on port {}", port.unwrap_or_default()),
        };
        let message = format!("{} has no listener {what}", gateway.object.reference);
        let field = if parent.section_name.is_some() { at.key("sectionName") } else { at.key("port") };
        return Err(object
            .diagnostic(&NO_MATCHING_PARENT, field, message)
            .help(format!("listeners: {}", names.join(", "))));
    }
    let allowed: Vec<usize> = named
        .into_iter()
        .filter(|&position| {
            gateway
                .listeners
                .get(position)
                .is_some_and(|listener| allows(index, &gateway_namespace, listener, route))
        })
        .collect();
    if allowed.is_empty() {
        let message = format!("no listener of {} allows {}", gateway.object.reference, object.reference);
        let help =
            "see allowedRoutes of the listeners: by default only routes of the Gateway's namespace attach";
        return Err(object.diagnostic(&NOT_ALLOWED_BY_LISTENERS, at.clone(), message).help(help));
    }
    let mut placed = Placed::new();
    for position in allowed {
        let Some(listener) = gateway.listeners.get_mut(position) else { continue };
        let hosts = hosts(&listener.spec.hostname, &route.value.spec.hostnames);
        if !hosts.is_empty() {
            listener.attached += 1;
        }
        placed.extend(hosts.into_iter().map(|(host, written)| (position, host, written)));
    }
    if placed.is_empty() {
        let message = format!(
            "none of {} fits a listener of {}",
            route.value.spec.hostnames.join(", "),
            gateway.object.reference
        );
        return Err(object.diagnostic(&NO_MATCHING_HOSTNAME, FieldPath::parse("spec.hostnames"), message));
    }
    Ok(placed)
}

fn allows(
    index: &Index<'_>,
    gateway_namespace: &str,
    listener: &super::listener::Listener,
    route: &Indexed<'_, HttpRoute>,
) -> bool {
    let namespace = &*route.object.reference.namespace;
    let spec::NamespacesFrom { from, selector } = &listener.spec.allowed_routes.namespaces;
    let namespace_allowed = match from {
        From::All => true,
        From::Same => namespace == gateway_namespace,
        From::Selector => selector.matches(&index.namespace_labels(namespace)),
        From::None => false,
    };
    listener.accepted && namespace_allowed && listener.kinds.contains(&"HTTPRoute")
}

/// Where listener and route meet: each hostname once, with the most specific one that the route wrote for it.
fn hosts(listener: &str, route: &[String]) -> Vec<(String, String)> {
    if route.is_empty() {
        return vec![(listener.to_owned(), String::new())];
    }
    let mut hosts: BTreeMap<&str, &str> = BTreeMap::new();
    for written in route {
        if let Some(host) = hostname::intersect(listener, written) {
            let best = hosts.entry(host).or_insert(written);
            if hostname::specificity(written) < hostname::specificity(best) {
                *best = written;
            }
        }
    }
    hosts.into_iter().map(|(host, written)| (host.to_owned(), written.to_owned())).collect()
}

fn parent_status(
    controller_name: &str,
    parent: &ParentRef,
    refusal: Option<&Diagnostic>,
    findings: &[Diagnostic],
    generation: Option<i64>,
) -> ParentStatus {
    let mut conditions = vec![
        status::decide("Accepted", "Accepted", refusal, status::of_route, generation),
        status::decide("ResolvedRefs", "ResolvedRefs", findings, status::of_route, generation),
    ];
    let partial = status::decide("PartiallyInvalid", "Valid", findings, status::of_route, generation);
    if partial.reason != "Valid" {
        conditions.push(partial);
    }
    let parent_ref = ParentReference {
        group: parent.group.clone().unwrap_or_else(|| GATEWAY_GROUP.into()),
        kind: parent.kind.clone().unwrap_or_else(|| "Gateway".into()),
        namespace: parent.namespace.clone(),
        name: parent.name.clone(),
        section_name: parent.section_name.clone(),
        port: parent.port,
    };
    ParentStatus { parent_ref, controller_name: controller_name.to_owned(), conditions }
}
