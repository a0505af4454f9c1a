//! Routes to listeners: which parents take a route, and for which hostnames.

use super::index::{Index, Indexed, Key};
use super::kind::{Building, Built, Mode, RouteKind, Rules};
use super::listener::{Gateway, Listener};
use super::policy::Policies;
use super::precedence::Age;
use super::spec::{self, From, ParentRef};
use super::{GATEWAY_GROUP, hostname};
use crate::status::{self, ParentStatus, Status, Statuses};
use moorgate_model::diagnostic::semantic::{
    HOSTNAME_IS_ADDRESS, NO_MATCHING_HOSTNAME, NO_MATCHING_PARENT, NOT_ALLOWED_BY_LISTENERS,
    PARENT_NOT_FOUND, PARENT_NOT_SUPPORTED,
};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Object, ir};
use std::collections::{BTreeMap, BTreeSet};

/// A route at one hostname of one listener.
#[derive(Debug)]
pub(super) struct Placement {
    /// The hostname both agree on; empty for all.
    pub(super) host: String,
    /// The hostname as the route wrote it: decides precedence.
    pub(super) written: String,
    pub(super) age: Age,
    pub(super) rules: Rules,
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

/// Attaches every route of every kind.
pub(super) fn attach<'a>(
    index: &Index<'a>,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    policies: &Policies,
    diagnostics: &mut Diagnostics,
    statuses: &mut Statuses,
) -> Routes<'a> {
    let mut attaching =
        Attaching { index, gateways, policies, diagnostics, statuses, out: Routes::default() };
    attaching.all(&index.http_routes);
    attaching.all(&index.grpc_routes);
    attaching.all(&index.tls_routes);
    attaching.all(&index.tcp_routes);
    attaching.all(&index.udp_routes);
    attaching.out
}

struct Attaching<'x, 'a> {
    index: &'x Index<'a>,
    gateways: &'x mut BTreeMap<Key<'a>, Gateway<'a>>,
    policies: &'x Policies,
    diagnostics: &'x mut Diagnostics,
    statuses: &'x mut Statuses,
    out: Routes<'a>,
}

impl<'a> Attaching<'_, 'a> {
    fn all<K: RouteKind>(&mut self, routes: &BTreeMap<Key<'a>, Indexed<'a, K>>) {
        for route in routes.values() {
            self.one(route);
        }
    }

    fn one<K: RouteKind>(&mut self, route: &Indexed<'a, K>) {
        // A route is read once for each mode of the listeners that take it.
        let mut built: BTreeMap<Mode, Built> = BTreeMap::new();
        let mut parents = Vec::new();
        let defaults = self.defaults(route);
        let written = route.value.parent_refs().iter().enumerate();
        let written = written
            .map(|(index, parent)| (FieldPath::root().key("spec").key("parentRefs").index(index), parent));
        let asked = defaults.iter().map(|parent| (FieldPath::parse("spec.useDefaultGateways"), parent));
        let count = route.value.parent_refs().len();
        for (position, (at, parent)) in written.chain(asked).enumerate() {
            let Some((key, owner)) = self.find(route.object, parent, &at) else { continue };
            let Some(gateway) = self.gateways.get_mut(&key) else { continue };
            let attached = match_listeners(self.index, gateway, owner, route, parent, &at);
            if position >= count && attached.is_err() {
                // A default Gateway that does not take the route is none of its.
                continue;
            }
            let modes: BTreeSet<Mode> = match &attached {
                Ok(placed) => placed.iter().map(|placed| placed.mode).collect(),
                Err(_) => BTreeSet::from([K::MODE]),
            };
            for &mode in &modes {
                let (index, policies, clusters) = (self.index, self.policies, &mut self.out.clusters);
                built
                    .entry(mode)
                    .or_insert_with(|| K::build(&mut Building { index, policies, clusters }, route, mode));
            }
            let findings: Vec<&Diagnostic> =
                modes.iter().filter_map(|mode| built.get(mode)).flat_map(|built| &built.findings).collect();
            parents.push(parent_status(
                self.statuses.controller_name(),
                parent,
                attached.as_ref().err(),
                &findings,
                route.value.metadata().generation,
            ));
            match attached {
                Err(finding) => self.diagnostics.push(finding),
                Ok(placed) => self.place(route, key, placed, &built),
            }
        }
        for built in built.into_values() {
            self.diagnostics.extend(built.findings);
        }
        if !parents.is_empty() {
            self.diagnostics.extend(addresses(route.object, route.value.hostnames()));
            self.statuses.set(route.object.reference.clone(), Status::Route { parents });
        }
    }

    /// The default Gateways that a route asks for, besides those that it names itself (GEP-3793).
    fn defaults<K: RouteKind>(&self, route: &Indexed<'a, K>) -> Vec<ParentRef> {
        if route.value.default_gateways() != Some("All") {
            return Vec::new();
        }
        let own = &route.object.reference.namespace;
        let named = |key: &Key<'a>| {
            route.value.parent_refs().iter().any(|parent| {
                let namespace = parent.namespace.as_deref().unwrap_or(own);
                parent.kind.as_deref().unwrap_or("Gateway") == "Gateway" && *key == (namespace, &*parent.name)
            })
        };
        let defaults = self.gateways.iter().filter(|(key, gateway)| gateway.is_default && !named(key));
        defaults
            .map(|((namespace, name), _)| ParentRef {
                group: None,
                kind: None,
                namespace: Some((*namespace).to_owned()),
                name: (*name).to_owned(),
                section_name: None,
                port: None,
            })
            .collect()
    }

    fn place<K: RouteKind>(
        &mut self,
        route: &Indexed<'a, K>,
        gateway: Key<'a>,
        placed: Vec<Placed>,
        built: &BTreeMap<Mode, Built>,
    ) {
        let reference = &route.object.reference;
        let created = route.value.metadata().creation_timestamp.as_deref();
        let age = Age::new(created, &reference.namespace, &reference.name);
        for Placed { listener, mode, host, written } in placed {
            let Some(Built { rules, .. }) = built.get(&mode) else { continue };
            let placements = self.out.placements.entry((gateway, listener)).or_default();
            // Two parentRefs may meet the same listener: it counts and serves the route once.
            let mut own = placements.iter().rev().take_while(|other| other.rules.same(rules));
            if !own.any(|other| other.host == host) {
                placements.push(Placement { host, written, age: age.clone(), rules: rules.clone() });
            }
            rules.clusters().into_iter().for_each(|cluster| self.out.note(cluster, gateway));
        }
    }

    /// The Gateway of ours that a parent reference means, and the object whose listeners it means: the Gateway itself
    /// or a ListenerSet of it. Others are passed over, and missing ones named.
    fn find(&mut self, route: &Object, parent: &ParentRef, at: &FieldPath) -> Option<(Key<'a>, &'a Object)> {
        let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        let namespace = parent.namespace.as_deref().unwrap_or(&route.reference.namespace);
        let found = match (group, kind) {
            (GATEWAY_GROUP, "Gateway") => self.index.gateway_key(namespace, &parent.name).map(|key| {
                let object = self.gateways.get(&key).map(|gateway| gateway.object);
                (key, object)
            }),
            (GATEWAY_GROUP, "ListenerSet") => self.index.listener_set(namespace, &parent.name).map(|set| {
                let key = super::listener::gateway_of(self.index, set);
                (key.unwrap_or(("", "")), Some(set.object))
            }),
            _ => {
                let message = format!("a parent of kind {kind} is not supported");
                let finding = route.diagnostic(&PARENT_NOT_SUPPORTED, at.key("kind"), message);
                self.diagnostics.push(finding.help("name a Gateway or a ListenerSet"));
                return None;
            }
        };
        if found.is_none() && !self.index.is_open(kind) {
            let message = format!("{kind} {namespace}/{} is not in this source", parent.name);
            self.diagnostics.push(route.diagnostic(&PARENT_NOT_FOUND, at.key("name"), message));
        }
        let (key, object) = found?;
        self.gateways.contains_key(&key).then_some((key, object?))
    }
}

impl<'a> Routes<'a> {
    /// Notes that a Gateway serves the backend of a cluster.
    pub(super) fn note(&mut self, cluster: &str, gateway: Key<'a>) {
        let mut parts = cluster.split('/');
        let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else { return };
        let gateways = self.ancestors.entry((namespace.to_owned(), name.to_owned())).or_default();
        if !gateways.contains(&gateway) {
            gateways.push(gateway);
        }
    }
}

/// A hostname of a listener at which a route is placed.
struct Placed {
    listener: usize,
    mode: Mode,
    host: String,
    written: String,
}

/// The listeners that take the route, with the hostnames; or why none does.
fn match_listeners<K: RouteKind>(
    index: &Index<'_>,
    gateway: &mut Gateway<'_>,
    owner: &Object,
    route: &Indexed<'_, K>,
    parent: &ParentRef,
    at: &FieldPath,
) -> Result<Vec<Placed>, Diagnostic> {
    let object = route.object;
    let own = || gateway.listeners.iter().filter(|listener| listener.owner.reference == owner.reference);
    let named: Vec<usize> = own()
        .filter(|listener| parent.section_name.as_ref().is_none_or(|name| *name == listener.spec.name))
        .filter(|listener| parent.port.is_none_or(|port| port == listener.spec.port))
        .map(|listener| listener.position)
        .collect();
    if named.is_empty() {
        let names: Vec<_> = own().map(|listener| listener.spec.name.as_str()).collect();
        let what = match (&parent.section_name, parent.port) {
            (Some(name), Some(port)) => format!(" named {name:?} on port {port}"),
            (Some(name), None) => format!(" named {name:?}"),
            (None, Some(port)) => format!(" on port {port}"),
            (None, None) => String::new(),
        };
        let message = format!("{} has no listener{what}", owner.reference);
        let field = match (&parent.section_name, parent.port) {
            (Some(_), _) => at.key("sectionName"),
            (None, Some(_)) => at.key("port"),
            (None, None) => at.key("name"),
        };
        return Err(object
            .diagnostic(&NO_MATCHING_PARENT, field, message)
            .help(format!("listeners: {}", names.join(", "))));
    }
    let allowed: Vec<usize> = named
        .into_iter()
        .filter(|&position| {
            gateway.listeners.get(position).is_some_and(|listener| allows::<K>(index, listener, object))
        })
        .collect();
    if allowed.is_empty() {
        let message = format!("no listener of {} allows {}", owner.reference, object.reference);
        let kind = &owner.reference.kind;
        let help = format!(
            "see allowedRoutes of the listeners: by default only routes of the {kind}'s namespace attach"
        );
        return Err(object.diagnostic(&NOT_ALLOWED_BY_LISTENERS, at.clone(), message).help(help));
    }
    let mut placed = Vec::new();
    for position in allowed {
        let Some(listener) = gateway.listeners.get_mut(position) else { continue };
        let Some(mode) = listener.mode else { continue };
        let hosts = hosts(&listener.spec.hostname, route.value.hostnames());
        if !hosts.is_empty() {
            listener.attached.insert(object.reference.clone());
        }
        let place = |(host, written)| Placed { listener: position, mode, host, written };
        placed.extend(hosts.into_iter().map(place));
    }
    if placed.is_empty() {
        let hostnames = route.value.hostnames().join(", ");
        let message = format!("none of {hostnames} fits a listener of {}", owner.reference);
        let own = gateway.listeners.iter().filter(|listener| listener.owner.reference == owner.reference);
        let listeners: Vec<_> = own
            .map(|listener| listener.spec.hostname.as_str())
            .map(|hostname| if hostname.is_empty() { "any" } else { hostname })
            .collect();
        let help = format!("hostnames of the listeners: {}", listeners.join(", "));
        let finding = object.diagnostic(&NO_MATCHING_HOSTNAME, FieldPath::parse("spec.hostnames"), message);
        return Err(finding.help(help));
    }
    Ok(placed)
}

/// Whether a listener admits a route, by its kind and its namespace; `Same` is the namespace in which the listener
/// was written.
fn allows<K: RouteKind>(index: &Index<'_>, listener: &Listener<'_>, route: &Object) -> bool {
    let namespace = &*route.reference.namespace;
    let spec::NamespacesFrom { from, selector } = &listener.spec.allowed_routes.namespaces;
    let namespace_allowed = match from {
        From::All => true,
        From::Same => *namespace == *listener.owner.reference.namespace,
        From::Selector => selector.matches(&index.namespace_labels(namespace)),
        From::None => false,
    };
    listener.accepted && namespace_allowed && listener.kinds.contains(&K::KIND)
}

/// Hostnames of a route that are addresses, which no listener takes for a name.
fn addresses(route: &Object, hostnames: &[String]) -> Vec<Diagnostic> {
    let found = hostnames.iter().enumerate().filter(|(_, name)| hostname::is_address(name));
    let say = |(position, name): (usize, &String)| {
        let at = FieldPath::parse("spec.hostnames").index(position);
        let message = format!("{name:?} is an IP address, and no hostname");
        let help = "leave hostnames away to answer requests for any host, addresses too";
        route.diagnostic(&HOSTNAME_IS_ADDRESS, at, message).help(help)
    };
    found.map(say).collect()
}

/// Where listener and route meet: each hostname once, with the most specific one that the route wrote for it.
fn hosts(listener: &str, route: &[String]) -> Vec<(String, String)> {
    if route.is_empty() {
        return vec![(listener.to_owned(), String::new())];
    }
    let mut hosts: BTreeMap<&str, &str> = BTreeMap::new();
    for written in route.iter().filter(|name| !hostname::is_address(name)) {
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
    findings: &[&Diagnostic],
    generation: Option<i64>,
) -> ParentStatus {
    let decide =
        |kind, good| status::decide(kind, good, findings.iter().copied(), status::of_route, generation);
    let mut conditions = vec![
        status::decide("Accepted", "Accepted", refusal, status::of_route, generation),
        decide("ResolvedRefs", "ResolvedRefs"),
    ];
    let partial = decide("PartiallyInvalid", "Valid");
    if partial.reason != "Valid" {
        conditions.push(partial);
    }
    ParentStatus { parent_ref: parent.into(), controller_name: controller_name.to_owned(), conditions }
}
