//! Route tables: all placements of a port or filter chain, by hostname and in order of precedence.

use super::filter::redirect_port;
use super::listener::Listener;
use super::parent::Placement;
use super::precedence::{rank, written};
use super::recomputed::Unguarded;
use super::takes::{self, Takes};
use moorgate_model::diagnostic::policy::POLICY_FIELD_UNSUPPORTED_RESTRICTS;
use moorgate_model::diagnostic::semantic::{CROSS_NAMESPACE_MATCH, SHADOWED_MATCH};
use moorgate_model::ir::{
    Action, PathMatch, Respond, Route, RouteFilter, RouteTable, ValueMatch, VirtualHost,
};
use moorgate_model::{Diagnostic, FieldPath, Object, ObjectRef};
use std::collections::BTreeMap;

/// A listener with what is attached to it.
pub(super) type Filled<'l> = (&'l Listener<'l>, &'l [Placement]);

/// A match that is hidden behind an equal one, for the caller to report with both places.
pub(super) struct Shadow {
    pub(super) winner: Route,
    pub(super) loser: Route,
    pub(super) host: String,
}

/// What building tables found.
#[derive(Default)]
pub(super) struct Found {
    /// Matches hidden behind equal ones.
    pub(super) shadows: Vec<Shadow>,
    /// Matches that take requests from another namespace.
    pub(super) takes: Takes,
    /// Fields by which a route could be found that is not guarded then.
    pub(super) unguarded: Unguarded,
    /// Routes that answer 500, because another route's filters may lead to them behind their own.
    pub(super) passed: Vec<Route>,
}

/// Builds one route table from the listeners that share it. Each hostname belongs to the most specific listener that
/// names it (GEP-1713, listener isolation), so a listener's own hostname always gets a virtual host, if only to
/// answer 404.
///
/// A request is answered by one virtual host; routes of less specific hostnames are not tried behind it, as in the
/// other implementations on Envoy, and because copying them would cost hosts times routes.
pub(super) fn build(
    name: String,
    listeners: &[Filled<'_>],
    keeps_order: bool,
    found: &mut Found,
) -> RouteTable {
    let mut hosts: BTreeMap<&str, Vec<(&Placement, &Route, &Listener<'_>)>> = BTreeMap::new();
    let owners = Owners::new(listeners);
    let asks = listeners.iter().any(|(listener, _)| !listener.asked.is_empty());
    let guarded =
        listeners.len() > 1 && listeners.iter().all(|(listener, _)| listener.spec.protocol != "HTTP");
    for (listener, placements) in listeners {
        hosts.entry(&listener.spec.hostname).or_default();
        for placement in *placements {
            if owners.of(&placement.host).is_some_and(|owner| owner.position == listener.position) {
                let routes = placement.rules.http().iter().map(|route| (placement, route, *listener));
                hosts.entry(&placement.host).or_default().extend(routes);
            }
        }
    }
    let hosts = hosts.into_iter().map(|(host, mut routes)| {
        if keeps_order {
            routes.sort_by_cached_key(|(placement, route, _)| {
                written(&placement.written, &placement.age, route)
            });
        } else {
            routes
                .sort_by_cached_key(|(placement, route, _)| rank(&placement.written, &placement.age, route));
        }
        find_shadows(host, &routes, &mut found.shadows);
        takes::find(host, &routes, &mut found.takes);
        let domain = if host.is_empty() { "*".to_owned() } else { host.to_ascii_lowercase() };
        let routes = routes.into_iter().map(|(_, route, listener)| finish(route, listener));
        let mut routes: Vec<Route> = routes.collect();
        for route in routes.iter_mut().filter(|route| asks && has_whole_filter(route)) {
            // A service that listeners ask may change what the route was found by, when its filter is left out already.
            route.action = Action::Respond(Respond { status: 500 });
            found.passed.push(route.clone());
            route.policies = None;
        }
        let owner = owners.of(host);
        let listener = owner.filter(|_| guarded).map(Listener::full_name);
        let asked = asks.then(|| owner.map(|owner| owner.asked.clone()).unwrap_or_default());
        VirtualHost { name: domain.clone(), domain, listener, asked, routes }
    });
    let mut hosts: Vec<_> = hosts.collect();
    if asks && hosts.iter().all(|host| host.domain != "*") {
        let any = "*".to_owned();
        let asked = Some(Vec::new());
        hosts.push(VirtualHost { name: any.clone(), domain: any, listener: None, asked, routes: Vec::new() });
    }
    hosts.sort_by(|a, b| a.name.cmp(&b.name));
    RouteTable { name, hosts }
}

/// To which listener of a port each hostname belongs: the most specific that names it (GEP-1713).
pub(super) struct Owners<'l>(BTreeMap<&'l str, &'l Listener<'l>>);

impl<'l> Owners<'l> {
    pub(super) fn new(listeners: &[Filled<'l>]) -> Self {
        Self(listeners.iter().map(|(listener, _)| (listener.spec.hostname.as_str(), *listener)).collect())
    }

    /// The owner, found by the name itself, then by wildcards from the longest on: a port may have thousands of
    /// listeners, and a name has few labels.
    pub(super) fn of(&self, host: &str) -> Option<&'l Listener<'l>> {
        if let Some(owner) = self.0.get(host) {
            return Some(owner);
        }
        let mut rest = host.strip_prefix("*.").unwrap_or(host);
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(owner) = self.0.get(format!("*.{parent}").as_str()) {
                return Some(owner);
            }
            rest = parent;
        }
        self.0.get("").copied()
    }
}

fn has_whole_filter(route: &Route) -> bool {
    let filters = route.policies.iter().flat_map(|added| &added.filters);
    filters.into_iter().any(RouteFilter::is_whole)
}

/// What to say of a route that another route's filters may lead to.
pub(super) fn passed(route: &Route) -> Option<Diagnostic> {
    let source = route.policies.as_ref()?.sources.first()?;
    let message = format!(
        "{} cannot be guarded: filters of its listener may lead a request to it after this policy's filter was left out",
        route.origin.object
    );
    let finding = Diagnostic::new(&POLICY_FIELD_UNSUPPORTED_RESTRICTS, message);
    let finding = finding.about(source.object.clone(), source.field.clone());
    Some(finding.help("the route answers 500: use other filters on the listener, or jwt or extAuth here"))
}

/// What to say of a field by which a route could be found that is not guarded then.
pub(super) fn unguarded(objects: &[Object], found: &Unguarded) -> Vec<Diagnostic> {
    let say = |((policy, field), message): (&(ObjectRef, FieldPath), &String)| {
        let object = objects.iter().find(|object| object.reference == *policy)?;
        let finding = object.diagnostic(&POLICY_FIELD_UNSUPPORTED_RESTRICTS, field.clone(), message.as_str());
        Some(
            finding
                .help("the first route answers 500: attach to the Gateway what both of them are to ask for"),
        )
    };
    found.iter().filter_map(say).collect()
}

/// What depends on the listener is filled in.
fn finish(route: &Route, listener: &Listener<'_>) -> Route {
    let mut route = route.clone();
    if listener.refuse {
        // What restricts access to a plain listener cannot be carried out. Its neighbours on the port go on.
        route.refuse(500);
    }
    if let Action::Redirect(redirect) = &mut route.action {
        redirect.port = redirect_port(redirect, &listener.spec.protocol, listener.spec.port);
    }
    route
}

type Values = [(String, ValueMatch)];
type Conditions<'r> = (&'r PathMatch, &'r Option<String>, [&'r Values; 3], bool);

fn find_shadows(host: &str, routes: &[(&Placement, &Route, &Listener<'_>)], shadows: &mut Vec<Shadow>) {
    let mut seen: BTreeMap<Conditions<'_>, &Route> = BTreeMap::new();
    for (_, route, _) in routes {
        let values = [&*route.headers, &*route.query, &*route.cookies];
        let conditions = (&route.path, &route.method, values, route.grpc.is_some());
        if let Some(winner) = seen.get(&conditions) {
            shadows.push(Shadow {
                winner: (*winner).clone(),
                loser: (*route).clone(),
                host: host.to_owned(),
            });
        } else {
            seen.insert(conditions, route);
        }
    }
}

/// The field of a match.
pub(super) fn match_field(route: &Route) -> FieldPath {
    let rule = FieldPath::root().key("spec").key("rules").index(route.origin.rule);
    rule.key("matches").index(route.origin.matched)
}

/// Says who hides whom, at both places.
pub(super) fn describe(shadow: &Shadow, objects: &BTreeMap<&ObjectRef, &Object>) -> Option<Diagnostic> {
    let loser = objects.get(&shadow.loser.origin.object)?;
    let winner = objects.get(&shadow.winner.origin.object)?;
    let across = loser.reference.namespace != winner.reference.namespace;
    let code = if across { &CROSS_NAMESPACE_MATCH } else { &SHADOWED_MATCH };
    let host = if shadow.host.is_empty() { "all hosts" } else { &shadow.host };
    let message = format!("{} answers these requests for {host} first", winner.reference);
    let place = winner.root.locate(&match_field(&shadow.winner)).start;
    let finding = loser.diagnostic(code, match_field(&shadow.loser), message);
    Some(finding.related(winner.origin.file.clone(), place, "this match wins"))
}
