//! Route tables: virtual hosts, matches and actions.

use super::{auth, cors, header, patch, rewrite, session, value};
use crate::xds::rewrite::Rewrite;
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::{
    CookieMatcher, DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, RetryPolicy,
    RouteAction, RouteMatch, WeightedCluster, header_matcher, query_parameter_matcher, redirect_action,
    retry_policy, route_match, weighted_cluster,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use envoy_types::pb::google::protobuf::Duration as PbDuration;
use moorgate_model::ir::{
    Action, ExternalAuth, Forward, HeaderMutation, Mirror, PathMatch, Redirect, Retry, Route, RouteOrigin,
    Session, ValueMatch, VirtualHost, WeightedBackend,
};
use std::time::Duration;

/// The field of a route table that holds its virtual hosts.
pub(super) const VIRTUAL_HOSTS: u32 = 2;

/// Takes the share of backends that could not be resolved: no cluster has this name, and such requests get 500.
pub(super) const NO_CLUSTER: &str = "no-such-backend";

/// Without a limit of its own a stream may be idle this long (see `listener`); a longer request limit takes it along.
pub(super) const STREAM_IDLE: Duration = Duration::from_mins(5);

/// Everything of a table but its virtual hosts.
pub(super) fn head(name: &str) -> pb::RouteConfiguration {
    pb::RouteConfiguration {
        name: name.to_owned(),
        // A backend's own header changes come after those of its rule.
        most_specific_header_mutations_wins: true,
        // A missing cluster costs its routes, not the table.
        validate_clusters: value::truth(false),
        // Only this table asks by which listener a request came.
        request_headers_to_remove: vec![header::LISTENER.to_owned()],
        // The port in Host does not choose the host, and reaches the backend unchanged.
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

pub(super) fn host(host: &VirtualHost) -> pb::VirtualHost {
    let mut out = pb::VirtualHost {
        name: host.name.clone(),
        domains: vec![host.domain.clone()],
        routes: host
            .listener
            .iter()
            .map(|name| misdirected(name))
            .chain(host.routes.iter().flat_map(routes))
            .collect(),
        ..Default::default()
    };
    if let Some(asked) = &host.asked {
        ask(&mut out, asked);
    }
    out
}

/// What counts all requests of a host: its name has no dots, at which names of statistics are cut.
pub(super) fn counted(host: &VirtualHost) -> pb::VirtualCluster {
    let any = HeaderMatcher {
        name: ":authority".into(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    };
    pb::VirtualCluster { name: host.domain.replace('.', "_"), headers: vec![any] }
}

/// The name of the route that takes what no other takes (see [`ask`]).
pub(super) const UNMATCHED: &str = "unmatched";

/// A host of a table whose listeners ask before a route is looked for. Envoy decides by the first route that it finds
/// which filters run, and a filter may then lead to another route. So each host asks for all of its routes, one that
/// answers 404 among them; and the filter of rules, which other listeners switch on by their routes, is always on and
/// switched off here, where a route can still switch it on.
fn ask(host: &mut pb::VirtualHost, asked: &[ExternalAuth]) {
    for name in auth::FILTERS {
        host.typed_per_filter_config.insert(name.to_owned(), value::any(&auth::nobody()));
    }
    for (position, auth) in asked.iter().enumerate() {
        let name = auth::of_listener(auth::filter_of(auth), position);
        // The listener that owns the host is not the one that was chosen: it is not to be asked.
        if let Some(other) = host.routes.first_mut().filter(|route| route.name == MISDIRECTED) {
            other.typed_per_filter_config.insert(name.clone(), value::any(&auth::nobody()));
        }
        host.typed_per_filter_config.insert(name, value::any(&auth::lower(auth)));
    }
    host.routes.push(pb::Route {
        name: UNMATCHED.to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(direct_response(404)),
        ..Default::default()
    });
}

/// The name of the route that answers 421 (see [`misdirected`]).
pub(super) const MISDIRECTED: &str = "misdirected";

/// A client may send requests for any host over a connection that it has (RFC 9113 9.1.1), and the listener that its
/// server name chose may have other certificates, client checks or routes than the one that owns the host: such a
/// request is answered with 421, upon which the client opens a connection of its own (RFC 9110 15.5.20).
///
/// All listeners of a port share one table, in which Envoy finds the owner of a host; each listener notes its name in a
/// header, and one route a host compares. So a table grows with its hosts, and not with pairs of listeners.
fn misdirected(listener: &str) -> pb::Route {
    let other = HeaderMatcher { invert_match: true, ..header_exact(header::LISTENER, listener) };
    pb::Route {
        name: MISDIRECTED.to_owned(),
        r#match: Some(RouteMatch {
            headers: vec![other],
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(direct_response(421)),
        ..Default::default()
    }
}

/// The listener that a route of [`misdirected`] lets pass.
pub(super) fn owner_of(route: &pb::Route) -> Option<&str> {
    let matched = route.r#match.as_ref().filter(|_| route.name == MISDIRECTED)?;
    let header = matched.headers.first().filter(|header| header.name == header::LISTENER)?;
    let Some(header_matcher::HeaderMatchSpecifier::StringMatch(wanted)) = &header.header_match_specifier
    else {
        return None;
    };
    match &wanted.match_pattern {
        Some(string_matcher::MatchPattern::Exact(name)) => Some(name),
        _ => None,
    }
}

/// The shares of a rule whose backends change the path each in their own way are counted in millionths.
pub(super) const SHARES: u32 = 1_000_000;

/// A route as Envoy has it: one, or one for each backend where each has a path or copies of its own. Envoy changes the
/// path for a route and not for a share of it.
///
/// Envoy draws one number for a request and compares it with each fraction on its way, so fractions are sums: of the
/// weights 1, 1, 2 they are 25 %, 50 %, and no fraction for the last, which takes what is left.
pub(super) fn routes(route: &Route) -> Vec<pb::Route> {
    let Action::Forward(forward) = &route.action else { return vec![self::route(route)] };
    let own = |backend: &WeightedBackend| backend.path_rewrite.is_some() || !backend.mirrors.is_empty();
    if forward.backends.len() < 2 || !forward.backends.iter().any(own) {
        return vec![self::route(route)];
    }
    let total: u64 = forward.backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut sum = 0;
    let share = |backend: &WeightedBackend| {
        sum += u64::from(backend.weight);
        let alone = Forward { backends: vec![backend.clone()], ..forward.clone() };
        let mut out = self::route(&Route { action: Action::Forward(alone), ..route.clone() });
        if sum < total {
            let numerator = u32::try_from(sum * u64::from(SHARES) / total).unwrap_or(SHARES);
            let share = FractionalPercent { numerator, denominator: DenominatorType::Million.into() };
            out.r#match.get_or_insert_default().runtime_fraction =
                Some(RuntimeFractionalPercent { default_value: Some(share), ..Default::default() });
        }
        out
    };
    forward.backends.iter().map(share).collect()
}

fn route(route: &Route) -> pb::Route {
    let (request_headers_to_add, request_headers_to_remove) = header::lower(&route.request_headers);
    let (response_headers_to_add, response_headers_to_remove) = header::lower(&route.response_headers);
    let mut out = pb::Route {
        name: name(&route.origin),
        r#match: Some(matches(route)),
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        action: Some(match &route.action {
            Action::Forward(forward) => self::forward(route, forward),
            Action::Redirect(redirect) => pb::route::Action::Redirect(self::redirect(&route.path, redirect)),
            Action::Respond(respond) => direct_response(respond.status),
        }),
        ..Default::default()
    };
    let filters = &mut out.typed_per_filter_config;
    if let Some(cors) = &route.cors {
        filters.insert(cors::FILTER.to_owned(), value::any(&cors::lower(cors)));
    }
    if let Some(auth) = &route.auth {
        filters.insert(auth::filter_of(auth).to_owned(), value::any(&auth::lower(auth)));
    }
    if let Action::Forward(forward) = &route.action
        && let Some(session) = session_of(forward)
    {
        filters.insert(session::FILTER.to_owned(), value::any(&session::lower(session)));
    }
    let own = match &out.action {
        Some(pb::route::Action::Route(action)) => Some(action.clone()),
        _ => None,
    };
    if let Some(added) = &route.policies {
        patch::route(&mut out, added, &route.origin);
    }
    if let (Action::Forward(forward), Some(own), Some(pb::route::Action::Route(action))) =
        (&route.action, own, &mut out.action)
    {
        own_first(action, own, forward);
        action.idle_timeout = action.idle_timeout.or_else(|| idle(action.timeout));
        // Envoy's own limit of 15 seconds is not the API's.
        action.timeout.get_or_insert_default();
    }
    out
}

/// What a rule itself says of limits and retries comes before what policies say.
fn own_first(action: &mut RouteAction, own: RouteAction, forward: &Forward) {
    if forward.timeouts.request.is_some() {
        action.timeout = own.timeout;
    }
    if forward.retry.is_some() {
        action.retry_policy = own.retry_policy;
    } else if let (Some(retry), Some(own)) = (&mut action.retry_policy, own.retry_policy) {
        retry.per_try_timeout = own.per_try_timeout.or(retry.per_try_timeout);
    }
}

/// The session of a whole route: its own, or that of its only backend.
fn session_of(forward: &Forward) -> Option<&Session> {
    let own = if let [backend] = forward.backends.as_slice() { backend.session.as_ref() } else { None };
    forward.session.as_ref().or(own)
}

/// `httproute/<namespace>/<name>[/<rule name>]`: stays what it is when a rule is inserted before it.
fn name(origin: &RouteOrigin) -> String {
    let object = &origin.object;
    let mut name = object.kind.to_ascii_lowercase();
    let parts = [Some(&*object.namespace), Some(&*object.name), origin.rule_name.as_deref()];
    for part in parts.into_iter().flatten() {
        name.push('/');
        name.push_str(part);
    }
    name
}

pub(super) fn matches(route: &Route) -> RouteMatch {
    let method = route.method.iter().map(|method| header_exact(":method", method));
    let headers = route.headers.iter().map(|(name, wanted)| HeaderMatcher {
        name: name.clone(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(string(wanted))),
        ..Default::default()
    });
    let query = route.query.iter().map(|(name, wanted)| QueryParameterMatcher {
        name: name.clone(),
        query_parameter_match_specifier: Some(
            query_parameter_matcher::QueryParameterMatchSpecifier::StringMatch(string(wanted)),
        ),
    });
    let cookies = route.cookies.iter().map(|(name, wanted)| CookieMatcher {
        name: name.clone(),
        string_match: Some(string(wanted)),
        ..Default::default()
    });
    RouteMatch {
        headers: method.chain(headers).collect(),
        query_parameters: query.collect(),
        cookies: cookies.collect(),
        grpc: route.grpc.as_ref().map(|_| route_match::GrpcRouteMatchOptions {}),
        path_specifier: Some(path(&route.path)),
        ..Default::default()
    }
}

fn path(path: &PathMatch) -> route_match::PathSpecifier {
    use route_match::PathSpecifier;
    match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Regex(regex) => PathSpecifier::SafeRegex(self::regex(regex.clone())),
        PathMatch::Prefix(prefix) => match prefix.trim_end_matches('/') {
            "" => PathSpecifier::Prefix("/".into()),
            // Envoy refuses a prefix with these and with it the table; no path holds them, so none matches.
            prefix if prefix.contains(['?', '#']) => PathSpecifier::Path(prefix.into()),
            prefix => PathSpecifier::PathSeparatedPrefix(prefix.into()),
        },
    }
}

fn header_exact(name: &str, wanted: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(exact(wanted))),
        ..Default::default()
    }
}

fn string(wanted: &ValueMatch) -> StringMatcher {
    match wanted {
        ValueMatch::Exact(text) => exact(text),
        ValueMatch::Regex(regex) => StringMatcher {
            match_pattern: Some(string_matcher::MatchPattern::SafeRegex(self::regex(regex.clone()))),
            ..Default::default()
        },
    }
}

pub(super) fn exact(text: &str) -> StringMatcher {
    let match_pattern = Some(string_matcher::MatchPattern::Exact(text.to_owned()));
    StringMatcher { match_pattern, ..Default::default() }
}

pub(super) fn regex(regex: String) -> RegexMatcher {
    RegexMatcher { regex, engine_type: None }
}

fn direct_response(status: u16) -> pb::route::Action {
    pb::route::Action::DirectResponse(DirectResponseAction {
        status: u32::from(status),
        ..Default::default()
    })
}

fn forward(route: &Route, forward: &Forward) -> pb::route::Action {
    if forward.backends.iter().all(|backend| backend.cluster.is_none()) {
        return direct_response(route.unresolved_status());
    }
    // What a backend asks for itself is the route's where it is the only one.
    let alone = if let [backend] = forward.backends.as_slice() { Some(backend) } else { None };
    let copies = alone.into_iter().flat_map(|backend| &backend.mirrors).chain(&route.mirrors);
    let mut action = RouteAction {
        cluster_specifier: Some(clusters(&forward.backends)),
        timeout: forward.timeouts.request.map(value::duration),
        retry_policy: retry(forward),
        request_mirror_policies: copies.filter_map(mirror).collect(),
        ..Default::default()
    };
    let unresolved = forward.backends.iter().any(|backend| backend.cluster.is_none());
    if unresolved && route.unresolved_status() == 500 {
        action.cluster_not_found_response_code = ClusterNotFoundResponseCode::InternalServerError.into();
    }
    let path_rewrite = alone.and_then(|backend| backend.path_rewrite.as_ref());
    let path_rewrite = path_rewrite.or(forward.path_rewrite.as_ref());
    match path_rewrite.map(|rewrite| rewrite::lower(&route.path, rewrite)) {
        Some(Rewrite::Prefix(text)) => action.prefix_rewrite = text,
        Some(rewrite) => action.regex_rewrite = rewrite::substitution(rewrite),
        None => {}
    }
    let own_host = alone.and_then(|backend| backend.host_rewrite.as_ref());
    let host = own_host.or(forward.host_rewrite.as_ref()).map(|host| host.0.as_str());
    if let Some(host) = host.or_else(|| header::host(&route.request_headers)) {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(host.to_owned()));
        action.append_x_forwarded_host = true;
    }
    action.append_x_forwarded_host |= forward.backends.iter().any(|backend| backend.host_rewrite.is_some());
    pb::route::Action::Route(action)
}

/// A request that may take longer than the listener lets a stream idle must not be cut by that, whoever says how long.
fn idle(request: Option<PbDuration>) -> Option<PbDuration> {
    let longest = value::duration(STREAM_IDLE);
    let after = |limit: &PbDuration| (limit.seconds, limit.nanos) > (longest.seconds, longest.nanos);
    request.filter(|limit| *limit == PbDuration::default() || after(limit))
}

fn clusters(backends: &[WeightedBackend]) -> ClusterSpecifier {
    if let [backend] = backends
        && let Some(cluster) = &backend.cluster
        && backend.request_headers == HeaderMutation::default()
        && backend.response_headers == HeaderMutation::default()
    {
        return ClusterSpecifier::Cluster(cluster.clone());
    }
    let clusters = backends.iter().map(|backend| {
        let (request_headers_to_add, request_headers_to_remove) = header::lower(&backend.request_headers);
        let (response_headers_to_add, response_headers_to_remove) = header::lower(&backend.response_headers);
        let host = backend.host_rewrite.as_ref().map(|host| host.0.as_str());
        let host = host.or_else(|| header::host(&backend.request_headers)).map(str::to_owned);
        weighted_cluster::ClusterWeight {
            name: backend.cluster.clone().unwrap_or_else(|| NO_CLUSTER.to_owned()),
            weight: value::number(backend.weight),
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            host_rewrite_specifier: host
                .map(weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
            typed_per_filter_config: backend
                .session
                .iter()
                .map(|session| (session::FILTER.to_owned(), value::any(&session::lower(session))))
                .collect(),
            ..Default::default()
        }
    });
    ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: clusters.collect(), ..Default::default() })
}

/// Retries where the backend did not take the request, or answered with a listed code (Gateway API `retry`): no
/// connection, a stream it refused, gRPC UNAVAILABLE, a reset before the request was sent. A reset later is no
/// reason: the backend may have acted. Without `retry` a limit for one try still needs a policy.
fn retry(forward: &Forward) -> Option<RetryPolicy> {
    let per_try_timeout =
        forward.timeouts.backend_request.filter(|limit| !limit.is_zero()).map(value::duration);
    let Some(Retry { attempts, codes, backoff }) = &forward.retry else {
        return per_try_timeout.map(|limit| RetryPolicy {
            per_try_timeout: Some(limit),
            num_retries: value::number(0),
            ..Default::default()
        });
    };
    let mut retry_on = "connect-failure,refused-stream,unavailable,reset-before-request".to_owned();
    if !codes.is_empty() {
        retry_on.push_str(",retriable-status-codes");
    }
    let backoff = backoff.filter(|interval| !interval.is_zero());
    Some(RetryPolicy {
        retry_on,
        num_retries: value::number(*attempts),
        per_try_timeout,
        retriable_status_codes: codes.clone(),
        retry_back_off: backoff.map(|interval| retry_policy::RetryBackOff {
            base_interval: Some(value::duration(interval)),
            max_interval: None,
        }),
        retry_host_predicate: vec![retry_policy::RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".into(),
            config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(value::any(
                &PreviousHostsPredicate {},
            ))),
        }],
        // How often another endpoint is drawn before the same one is taken again.
        host_selection_retry_max_attempts: 3,
        ..Default::default()
    })
}

fn mirror(mirror: &Mirror) -> Option<RequestMirrorPolicy> {
    let (numerator, denominator) = mirror.fraction;
    if numerator == 0 {
        return None;
    }
    let share = (numerator < denominator).then(|| RuntimeFractionalPercent {
        default_value: Some(value::fraction(numerator, denominator)),
        ..Default::default()
    });
    Some(RequestMirrorPolicy {
        cluster: mirror.cluster.clone(),
        runtime_fraction: share,
        // The copy keeps the host of the request.
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    })
}

fn redirect(path: &PathMatch, redirect: &Redirect) -> RedirectAction {
    use redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
    let rewrite = redirect.path.as_ref().map_or(Rewrite::Nothing, |to| rewrite::lower(path, to));
    let code = match redirect.status {
        301 => pb::redirect_action::RedirectResponseCode::MovedPermanently,
        303 => pb::redirect_action::RedirectResponseCode::SeeOther,
        307 => pb::redirect_action::RedirectResponseCode::TemporaryRedirect,
        308 => pb::redirect_action::RedirectResponseCode::PermanentRedirect,
        _ => pb::redirect_action::RedirectResponseCode::Found,
    };
    RedirectAction {
        host_redirect: redirect.host.clone().unwrap_or_default(),
        port_redirect: redirect.port.map_or(0, u32::from),
        response_code: code.into(),
        scheme_rewrite_specifier: redirect.scheme.clone().map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: match rewrite {
            Rewrite::Nothing => None,
            Rewrite::Prefix(text) => Some(PathRewriteSpecifier::PrefixRewrite(text)),
            Rewrite::Whole(path) => Some(PathRewriteSpecifier::PathRedirect(path)),
            regex @ Rewrite::Regex(..) => {
                rewrite::substitution(regex).map(PathRewriteSpecifier::RegexRewrite)
            }
        },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
