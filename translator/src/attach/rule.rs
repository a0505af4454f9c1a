//! Rules of an HTTPRoute: each match of a rule becomes a route.

mod duration;
mod expression;

use super::filter::{self, Filters};
use super::index::{Index, Indexed};
use super::policy::Policies;
use super::spec::{self, HttpRoute, HttpRouteRule, Matcher};
use super::{backend, spec::BackendRef};
use moorgate_model::diagnostic::semantic::{NO_BACKENDS, REGEX_INVALID, UNSUPPORTED_VALUE};
use moorgate_model::ir::{
    Action, Cluster, Forward, HeaderMutation, PathMatch, PathRewrite, Respond, Retry, Route, RouteOrigin,
    Timeouts, ValueMatch, WeightedBackend,
};
use moorgate_model::{Diagnostic, FieldPath, Object};
use std::collections::BTreeMap;

/// The routes of one HTTPRoute, in the order of rules and matches, and what is wrong with them.
pub(super) struct Built {
    pub(super) routes: Vec<Route>,
    pub(super) findings: Vec<Diagnostic>,
}

/// Builds all routes; what cannot be carried out answers 500 and is named.
pub(super) fn build(
    index: &Index<'_>,
    route: &Indexed<'_, HttpRoute>,
    policies: &Policies,
    clusters: &mut BTreeMap<String, Cluster>,
) -> Built {
    let mut built = Built { routes: Vec::new(), findings: Vec::new() };
    for (position, rule) in route.value.spec.rules.iter().enumerate() {
        let at = FieldPath::root().key("spec").key("rules").index(position);
        let mut cx =
            filter::Context { index, route: route.object, policies, clusters, findings: &mut built.findings };
        let denied = policies.denies_route(&route.object.reference, rule.name.as_deref());
        let target = lower(&mut cx, &at, rule, denied);
        let matches = matches(&mut cx, &at, rule);
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
                .map(|(matched, found)| found.into_route(origin(matched), &target)),
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
    action: Action,
}

fn lower(cx: &mut filter::Context<'_, '_>, at: &FieldPath, rule: &HttpRouteRule, denied: bool) -> Target {
    let mut filters = filter::lower(cx, &at.key("filters"), &rule.filters);
    if rule.session_persistence.is_some() {
        let finding = cx.route.diagnostic(
            &UNSUPPORTED_VALUE,
            at.key("sessionPersistence"),
            "session persistence is not supported",
        );
        cx.findings.push(finding.help("requests are balanced without it"));
    }
    let action = if filters.broken || denied {
        // Backends are still resolved, so that what is wrong with them shows too.
        let _ = backends(cx, at, rule, &mut filters);
        Action::Respond(Respond { status: 500 })
    } else if let Some(redirect) = filters.redirect.take() {
        Action::Redirect(redirect)
    } else {
        forward(cx, at, rule, &mut filters)
    };
    let Filters { request_headers, response_headers, mirrors, cors, .. } = filters;
    Target { request_headers, response_headers, mirrors, cors, action }
}

fn forward(
    cx: &mut filter::Context<'_, '_>,
    at: &FieldPath,
    rule: &HttpRouteRule,
    filters: &mut Filters,
) -> Action {
    let backends = backends(cx, at, rule, filters);
    if backends.is_empty() {
        let message = "the rule has no backend with weight and answers 500";
        cx.findings.push(cx.route.diagnostic(&NO_BACKENDS, at.key("backendRefs"), message));
    }
    if backends.iter().all(|backend| backend.cluster.is_none()) {
        return Action::Respond(Respond { status: 500 });
    }
    Action::Forward(Forward {
        backends,
        path_rewrite: filters.path_rewrite.take(),
        host_rewrite: filters.host_rewrite.take(),
        timeouts: timeouts(rule),
        retry: retry(rule),
    })
}

/// Backends with weight. Filters of a backend may change headers; a rewrite moves up to the rule where the backend is
/// the only one, because Envoy rewrites for a route and not for a share of it.
fn backends(
    cx: &mut filter::Context<'_, '_>,
    at: &FieldPath,
    rule: &HttpRouteRule,
    filters: &mut Filters,
) -> Vec<WeightedBackend> {
    let weighty: Vec<(usize, &BackendRef)> =
        rule.backend_refs.iter().enumerate().filter(|(_, backend)| backend.weight > 0).collect();
    let alone = weighty.len() == 1;
    let mut out = Vec::with_capacity(weighty.len());
    for (position, backend) in rule.backend_refs.iter().enumerate() {
        let at = at.key("backendRefs").index(position);
        let resolved = backend::resolve(cx.index, cx.route, &at, backend, cx.policies, cx.clusters);
        let own = filter::lower(cx, &at.key("filters"), &backend.filters);
        let mut cluster = match resolved {
            Ok(cluster) => (!own.broken).then_some(cluster),
            Err(finding) => {
                cx.findings.push(finding);
                None
            }
        };
        let rewrites = own.path_rewrite.is_some() || own.host_rewrite.is_some();
        if backend.weight > 0 && rewrites && alone {
            filters.path_rewrite = own.path_rewrite.or(filters.path_rewrite.take());
            filters.host_rewrite = own.host_rewrite.or(filters.host_rewrite.take());
        } else if rewrites || own.redirect.is_some() || own.cors.is_some() || !own.mirrors.is_empty() {
            let message = "this filter is not supported on one of several backends";
            let finding = cx.route.diagnostic(&UNSUPPORTED_VALUE, at.key("filters"), message);
            cx.findings
                .push(finding.help("put the filter on the rule; this backend's share is answered with 500"));
            cluster = None;
        }
        if backend.weight > 0 {
            let (request_headers, response_headers) = (own.request_headers, own.response_headers);
            out.push(WeightedBackend { cluster, weight: backend.weight, request_headers, response_headers });
        }
    }
    out
}

fn timeouts(rule: &HttpRouteRule) -> Timeouts {
    let parse = |text: &Option<String>| text.as_deref().and_then(duration::parse);
    rule.timeouts.as_ref().map_or_else(Timeouts::default, |timeouts| Timeouts {
        request: parse(&timeouts.request),
        backend_request: parse(&timeouts.backend_request),
    })
}

fn retry(rule: &HttpRouteRule) -> Option<Retry> {
    let retry = rule.retry.as_ref()?;
    let attempts = retry.attempts.unwrap_or(1);
    let backoff = retry.backoff.as_deref().and_then(duration::parse);
    (attempts > 0).then(|| Retry { attempts, codes: retry.codes.clone(), backoff })
}

/// What a request must look like.
struct Match {
    path: PathMatch,
    method: Option<String>,
    headers: Vec<(String, ValueMatch)>,
    query: Vec<(String, ValueMatch)>,
    /// An expression is not valid: Envoy would refuse the whole route table for it, so this match is left out.
    broken: bool,
}

impl Match {
    fn into_route(self, origin: RouteOrigin, target: &Target) -> Route {
        let mut action = target.action.clone();
        if !matches!(self.path, PathMatch::Prefix(_)) {
            drop_prefix_rewrite(&mut action);
        }
        Route {
            origin,
            path: self.path,
            method: self.method,
            headers: self.headers,
            query: self.query,
            request_headers: target.request_headers.clone(),
            response_headers: target.response_headers.clone(),
            mirrors: target.mirrors.clone(),
            cors: target.cors.clone(),
            action,
        }
    }
}

/// A prefix can be replaced only where a prefix was matched (CEL of HTTPRoute); without one nothing is replaced.
fn drop_prefix_rewrite(action: &mut Action) {
    let rewrite = match action {
        Action::Forward(forward) => &mut forward.path_rewrite,
        Action::Redirect(redirect) => &mut redirect.path,
        Action::Respond(_) => return,
    };
    if matches!(rewrite, Some(PathRewrite::Prefix(_))) {
        *rewrite = None;
    }
}

fn matches(cx: &mut filter::Context<'_, '_>, at: &FieldPath, rule: &HttpRouteRule) -> Vec<Match> {
    let everything = [spec::RouteMatch::default()];
    let written = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
    written
        .iter()
        .enumerate()
        .map(|(position, found)| one_match(cx, &at.key("matches").index(position), found))
        .collect()
}

fn one_match(cx: &mut filter::Context<'_, '_>, at: &FieldPath, found: &spec::RouteMatch) -> Match {
    let mut broken = false;
    let value = found.path.as_ref().and_then(|path| path.value.as_deref()).unwrap_or("/");
    let path = match found.path.as_ref().and_then(|path| path.kind.as_deref()) {
        Some("Exact") => PathMatch::Exact(value.to_owned()),
        Some("RegularExpression") => {
            broken |= !check_regex(cx.route, cx.findings, at.key("path").key("value"), value);
            PathMatch::Regex(value.to_owned())
        }
        _ => PathMatch::Prefix(value.trim_end_matches('/').to_owned()),
    };
    let mut values = |list: &str, matchers: &[Matcher], fold: bool| -> Vec<(String, ValueMatch)> {
        let mut out: Vec<(String, ValueMatch)> = Vec::with_capacity(matchers.len());
        for (index, matcher) in matchers.iter().enumerate() {
            let name = if fold { matcher.name.to_ascii_lowercase() } else { matcher.name.clone() };
            // Only the first of equal names counts (HTTPHeaderMatch, HTTPQueryParamMatch).
            if out.iter().any(|(other, _)| *other == name) {
                continue;
            }
            let value = if matcher.kind.as_deref() == Some("RegularExpression") {
                broken |= !check_regex(
                    cx.route,
                    cx.findings,
                    at.key(list).index(index).key("value"),
                    &matcher.value,
                );
                ValueMatch::Regex(matcher.value.clone())
            } else {
                ValueMatch::Exact(matcher.value.clone())
            };
            out.push((name, value));
        }
        out.sort();
        out
    };
    let headers = values("headers", &found.headers, true);
    let query = values("queryParams", &found.query_params, false);
    Match { path, method: found.method.clone(), headers, query, broken }
}

fn check_regex(route: &Object, findings: &mut Vec<Diagnostic>, field: FieldPath, text: &str) -> bool {
    let Err(reason) = expression::check(text) else { return true };
    findings.push(route.diagnostic(
        &REGEX_INVALID,
        field,
        format!("{text:?} is not a valid expression: {reason}"),
    ));
    false
}
