//! Rules of an HTTPRoute or GRPCRoute: each match of a rule becomes a route.

mod expression;
mod matches;

pub(super) use expression::check as check_expression;
pub(super) use matches::Conditions;

use super::backend;
use super::filter::{self, Filters};
use super::index::{Index, Indexed};
use super::policy::Policies;
use super::spec::{RouteRule, RuleRoute};
use moorgate_model::diagnostic::semantic::{NO_BACKENDS, UNSUPPORTED_VALUE};
use moorgate_model::ir::{
    Action, Added, Cluster, ClusterPolicies, Extension, Forward, HeaderMutation, PathRewrite, PolicySource,
    Respond, Retry, Route, RouteFilter, RouteOrigin, RoutePolicies, Session, Timeouts, WeightedBackend,
};
use moorgate_model::{Diagnostic, FieldPath, Object, duration};
use moorgate_policies::{Cookies, Lowered, session};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// The routes of one route object, in the order of rules and matches, and what is wrong with them.
pub(super) struct Built {
    pub(super) routes: Vec<Route>,
    pub(super) findings: Vec<Diagnostic>,
}

/// Builds all routes; what cannot be carried out answers 500 and is named.
pub(super) fn build<M: Conditions>(
    index: &Index<'_>,
    route: &Indexed<'_, RuleRoute<M>>,
    policies: &Policies,
    clusters: &mut BTreeMap<String, Cluster>,
) -> Built {
    let mut built = Built { routes: Vec::new(), findings: Vec::new() };
    for (position, rule) in route.value.spec.rules.iter().enumerate() {
        let at = FieldPath::root().key("spec").key("rules").index(position);
        let mut cx =
            filter::Context { index, route: route.object, policies, clusters, findings: &mut built.findings };
        let denied = policies.denies_route(&route.object.reference, rule.name.as_deref());
        let target = lower(&mut cx, &at, (position, rule), denied);
        let matches = matches::lower(&mut cx, &at, rule);
        let origin = |matched| RouteOrigin {
            object: route.object.reference.clone(),
            rule: position,
            rule_name: rule.name.clone(),
            matched,
        };
        built.routes.extend(
            matches
                .into_iter()
                .enumerate()
                .filter(|(_, found)| !found.broken)
                .flat_map(|(matched, found)| found.into_routes(&origin(matched), &target)),
        );
    }
    built
}

/// What happens to requests of a rule, the same for all of its matches.
struct Target {
    request_headers: HeaderMutation,
    response_headers: HeaderMutation,
    mirrors: Vec<moorgate_model::ir::Mirror>,
    cors: Option<moorgate_model::ir::Cors>,
    auth: Option<moorgate_model::ir::ExternalAuth>,
    /// What HTTPRouteFilters add.
    policies: Added<RoutePolicies>,
    /// One of these must be met too, if there are any.
    cookies: Vec<Cookies>,
    action: Action,
}

fn lower<M>(
    cx: &mut filter::Context<'_, '_>,
    at: &FieldPath,
    (position, rule): (usize, &RouteRule<M>),
    denied: bool,
) -> Target {
    let mut filters = filter::lower(cx, &at.key("filters"), &rule.filters);
    let action = if filters.broken || denied {
        // Backends are still resolved, so that what is wrong with them shows too.
        let _ = backends(cx, at, rule, &mut Filters::default());
        filters.auth = None;
        filters.extensions = Lowered { rule: filters.extensions.rule, ..Lowered::default() };
        Action::Respond(Respond { status: 500 })
    } else if let Some(status) = filters.extensions.rule.respond {
        let _ = backends(cx, at, rule, &mut Filters::default());
        Action::Respond(Respond { status })
    } else if let Some(redirect) = filters.redirect.take() {
        Action::Redirect(redirect)
    } else {
        forward(cx, at, (position, rule), &mut filters)
    };
    let Filters { request_headers, response_headers, mirrors, cors, auth, extensions, sources, .. } = filters;
    let Lowered { mut filters, route, forward, clusters, rule, late, .. } = extensions;
    filters.sort();
    let mut added = RoutePolicies { sources, filters, route, forward, late, ..RoutePolicies::default() };
    added.clusters = clusters;
    let policies = (added != RoutePolicies::default()).then(|| Arc::new(added));
    Target { request_headers, response_headers, mirrors, cors, auth, policies, cookies: rule.cookies, action }
}

fn forward<M>(
    cx: &mut filter::Context<'_, '_>,
    at: &FieldPath,
    (position, rule): (usize, &RouteRule<M>),
    filters: &mut Filters,
) -> Action {
    let mut backends = backends(cx, at, rule, filters);
    dynamic(cx, at, &mut backends, filters);
    if backends.is_empty() {
        let message = "the rule has no backend with weight and answers 500";
        cx.findings.push(cx.route.diagnostic(&NO_BACKENDS, at.key("backendRefs"), message));
    }
    if backends.iter().all(|backend| backend.cluster.is_none()) {
        return Action::Respond(Respond { status: unresolved_status(cx.route) });
    }
    Action::Forward(Forward {
        backends,
        path_rewrite: filters.path_rewrite.take(),
        host_rewrite: filters.host_rewrite.take(),
        timeouts: timeouts(rule),
        retry: retry(rule),
        session: persistence(cx, at, (position, rule)),
    })
}

/// How a client keeps its endpoint. Envoy draws a backend before it looks for a session, so with several of them there
/// is nothing to keep.
fn persistence<M>(
    cx: &mut filter::Context<'_, '_>,
    at: &FieldPath,
    (position, rule): (usize, &RouteRule<M>),
) -> Option<Session> {
    let spec = rule.session_persistence.as_ref()?;
    let field = at.key("sessionPersistence");
    let part = rule.name.clone().unwrap_or_else(|| position.to_string());
    let (mut session, mut note) = session(spec, &field, &cx.route.reference, &part);
    if rule.backend_refs.iter().filter(|backend| backend.weight > 0).count() > 1 {
        session = None;
        note = Some((field, "session persistence over several backends is not supported"));
    }
    if let Some((field, message)) = note {
        let finding = cx.route.diagnostic(&UNSUPPORTED_VALUE, field, message);
        cx.findings.push(finding.help("requests are balanced without it"));
    }
    session
}

/// What is answered for a backend that could not be resolved (see [`Route::unresolved_status`]).
fn unresolved_status(route: &Object) -> u16 {
    if &*route.reference.kind == "GRPCRoute" { 503 } else { 500 }
}

/// Backends with weight, each with its own filters; what these need of Secrets becomes the rule's. What is not possible for a share
/// of a rule's requests costs that share.
fn backends<M>(
    cx: &mut filter::Context<'_, '_>,
    at: &FieldPath,
    rule: &RouteRule<M>,
    of_rule: &mut Filters,
) -> Vec<WeightedBackend> {
    let mut out = Vec::with_capacity(rule.backend_refs.len());
    // Backends that are asked where no other can be.
    let mut last: Vec<String> = Vec::new();
    for (position, backend) in rule.backend_refs.iter().enumerate() {
        let at = at.key("backendRefs").index(position);
        let resolved = cx.resolve(cx.usage(), &at, backend);
        let mut own = filter::lower(cx, &at.key("filters"), &backend.filters);
        let mut cluster = match resolved {
            Ok(cluster) => (!own.broken).then_some(cluster),
            Err(finding) => {
                cx.findings.push(finding);
                None
            }
        };
        let extended = if let Some(injected) = injected(&own) {
            cluster = cluster.and_then(|name| with_filters(cx, &name, injected, &own.sources));
            of_rule.extensions.late.append(&mut own.extensions.late);
            of_rule.sources.append(&mut own.sources);
            false
        } else {
            !own.sources.is_empty()
        };
        if own.redirect.is_some() || own.cors.is_some() || own.auth.is_some() || extended {
            let message = "this filter is not supported on a backend";
            let finding = cx.route.diagnostic(&UNSUPPORTED_VALUE, at.key("filters"), message);
            cx.findings
                .push(finding.help("put the filter on the rule; this backend's share is answered with 500"));
            cluster = None;
        }
        if backend::direct::is_fallback(cx.policies, &cx.route.reference.namespace, backend) {
            last.extend(cluster);
            continue;
        }
        if backend.weight > 0 {
            out.push(WeightedBackend {
                cluster,
                weight: backend.weight,
                request_headers: own.request_headers,
                response_headers: own.response_headers,
                path_rewrite: own.path_rewrite,
                host_rewrite: own.host_rewrite,
                mirrors: own.mirrors,
                session: backend::session(cx, backend),
            });
        }
    }
    if out.is_empty() && !last.is_empty() {
        out.push(WeightedBackend::plain(Some(last.remove(0)), 1));
    }
    if !last.is_empty() {
        for cluster in out.iter_mut().filter_map(|backend| backend.cluster.as_mut()) {
            let members: Vec<String> = std::iter::once(&*cluster).chain(&last).cloned().collect();
            if let Some(name) = backend::direct::in_turn(cx.clusters, &members) {
                *cluster = name;
            }
        }
    }
    out
}

/// Filters of a backend that run on the way to its cluster alone: those that stand whole on listeners (what is put into requests)
/// can do that. None if there are none, or something else is among what HTTPRouteFilters say.
fn injected(own: &Filters) -> Option<Vec<(String, Extension)>> {
    let Lowered { filters, late, .. } = &own.extensions;
    let these = Lowered { filters: filters.clone(), late: late.clone(), ..Lowered::default() };
    let only = own.extensions == these && !filters.is_empty() && filters.iter().all(RouteFilter::is_whole);
    only.then(|| filters.iter().map(|filter| (filter.name.clone(), filter.base.clone())).collect())
}

/// The name of the cluster with these filters in it, which the objects say that are its mark.
fn with_filters(
    cx: &mut filter::Context<'_, '_>,
    cluster: &str,
    filters: Vec<(String, Extension)>,
    sources: &[PolicySource],
) -> Option<String> {
    let mut name = cluster.to_owned();
    for object in sources.iter().map(|source| &source.object) {
        // A policy's own mark has a dot behind the namespace.
        let _ = write!(name, "+{}:{}", object.namespace, object.name);
    }
    let added = ClusterPolicies { filters, ..ClusterPolicies::default() };
    let variant = cx.clusters.get(cluster)?.with(&added, "");
    cx.clusters.entry(name.clone()).or_insert(variant);
    Some(name)
}

/// A backend to whatever host a request names needs filters of its own, and stands alone: the host of a request is one.
fn dynamic(
    cx: &mut filter::Context<'_, '_>,
    at: &FieldPath,
    backends: &mut [WeightedBackend],
    filters: &mut Filters,
) {
    let is_dynamic = |cx: &filter::Context<'_, '_>, backend: &WeightedBackend| {
        let found = backend.cluster.as_ref().and_then(|name| cx.clusters.get(name));
        found.is_some_and(|cluster| {
            cluster.is_dynamic()
                || cluster.members().any(|name| cx.clusters.get(name).is_some_and(Cluster::is_dynamic))
        })
    };
    if !backends.iter().any(|backend| is_dynamic(cx, backend)) {
        return;
    }
    let whole = |backend: &WeightedBackend| {
        cx.clusters.get(backend.cluster.as_deref().unwrap_or_default()).is_some_and(Cluster::is_dynamic)
    };
    if backends.len() > 1 || !backends.iter().all(whole) {
        let message = "a Backend of type DynamicResolver is the only one of its rule";
        let finding = cx.route.diagnostic(&UNSUPPORTED_VALUE, at.key("backendRefs"), message);
        cx.findings.push(finding.help("requests for it are answered with 500"));
        backends.iter_mut().for_each(|backend| backend.cluster = None);
        return;
    }
    let ranges = backend::forbidden_ranges(cx.index);
    filters.extensions.filters.extend(moorgate_policies::dynamic_filters(&ranges));
}

fn timeouts<M>(rule: &RouteRule<M>) -> Timeouts {
    let parse = |text: &Option<String>| text.as_deref().and_then(duration::parse);
    rule.timeouts.as_ref().map_or_else(Timeouts::default, |timeouts| Timeouts {
        request: parse(&timeouts.request),
        backend_request: parse(&timeouts.backend_request),
    })
}

fn retry<M>(rule: &RouteRule<M>) -> Option<Retry> {
    let retry = rule.retry.as_ref()?;
    // The Gateway API sets no upper bound, and Envoy counts up to 32 bits.
    let attempts = u32::try_from(retry.attempts.unwrap_or(1).max(0)).unwrap_or(u32::MAX);
    let backoff = retry.backoff.as_deref().and_then(duration::parse);
    (attempts > 0).then(|| Retry { attempts, codes: retry.codes.clone(), backoff })
}

/// A prefix can be replaced only where a prefix was matched (CEL of HTTPRoute); without one nothing is replaced.
fn drop_prefix_rewrite(action: &mut Action) {
    let drop = |rewrite: &mut Option<PathRewrite>| {
        if matches!(rewrite, Some(PathRewrite::Prefix(_))) {
            *rewrite = None;
        }
    };
    match action {
        Action::Forward(forward) => {
            drop(&mut forward.path_rewrite);
            forward.backends.iter_mut().for_each(|backend| drop(&mut backend.path_rewrite));
        }
        Action::Redirect(redirect) => drop(&mut redirect.path),
        Action::Respond(_) => {}
    }
}
