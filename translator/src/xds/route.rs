//! Route tables: virtual hosts, matches and actions.

use super::{header, rewrite, value};
use crate::xds::rewrite::Rewrite;
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, RetryPolicy, RouteAction,
    RouteMatch, WeightedCluster, header_matcher, query_parameter_matcher, redirect_action, retry_policy,
    route_match, weighted_cluster,
};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use moorgate_model::ir::{
    Action, Cors, Forward, HeaderMutation, Mirror, PathMatch, Redirect, Retry, Route, RouteOrigin,
    ValueMatch, VirtualHost, WeightedBackend,
};
use std::time::Duration;

/// The field of a route table that holds its virtual hosts.
pub(super) const VIRTUAL_HOSTS: u32 = 2;

/// Takes the share of backends that could not be resolved: no cluster has this name, and such requests get 500.
pub(super) const NO_CLUSTER: &str = "no-such-backend";

/// The name of the CORS filter, under which a route keeps its rules.
pub(super) const CORS_FILTER: &str = "envoy.filters.http.cors";

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
        // The port in Host does not choose the host, and reaches the backend unchanged.
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

pub(super) fn host(host: &VirtualHost) -> pb::VirtualHost {
    pb::VirtualHost {
        name: host.name.clone(),
        domains: vec![host.domain.clone()],
        routes: host.routes.iter().map(route).collect(),
        ..Default::default()
    }
}

pub(super) fn route(route: &Route) -> pb::Route {
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
    if let Some(cors) = &route.cors {
        out.typed_per_filter_config.insert(CORS_FILTER.to_owned(), value::any(&self::cors(cors)));
    }
    out
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
    RouteMatch {
        headers: method.chain(headers).collect(),
        query_parameters: query.collect(),
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

fn regex(regex: String) -> RegexMatcher {
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
        return direct_response(500);
    }
    let unresolved = forward.backends.iter().any(|backend| backend.cluster.is_none());
    let mut action = RouteAction {
        cluster_specifier: Some(clusters(&forward.backends)),
        // Envoy's own limit of 15 seconds is not the API's.
        timeout: Some(value::duration(forward.timeouts.request.unwrap_or_default())),
        idle_timeout: idle(forward.timeouts.request).map(value::duration),
        retry_policy: retry(forward),
        request_mirror_policies: route.mirrors.iter().filter_map(mirror).collect(),
        ..Default::default()
    };
    if unresolved {
        action.cluster_not_found_response_code = ClusterNotFoundResponseCode::InternalServerError.into();
    }
    match forward.path_rewrite.as_ref().map(|rewrite| rewrite::lower(&route.path, rewrite)) {
        Some(Rewrite::Prefix(text)) => action.prefix_rewrite = text,
        Some(rewrite) => action.regex_rewrite = rewrite::substitution(rewrite),
        None => {}
    }
    let host = forward.host_rewrite.as_ref().map(|host| host.0.as_str());
    if let Some(host) = host.or_else(|| header::host(&route.request_headers)) {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(host.to_owned()));
        action.append_x_forwarded_host = true;
    }
    pb::route::Action::Route(action)
}

/// A request that may take longer than the listener lets a stream idle must not be cut by that.
fn idle(request: Option<Duration>) -> Option<Duration> {
    request.filter(|limit| limit.is_zero() || *limit > STREAM_IDLE)
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
        let host = header::host(&backend.request_headers).map(str::to_owned);
        weighted_cluster::ClusterWeight {
            name: backend.cluster.clone().unwrap_or_else(|| NO_CLUSTER.to_owned()),
            weight: value::number(backend.weight),
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            host_rewrite_specifier: host
                .map(weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
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
        default_value: Some(fraction(numerator, denominator)),
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

/// The fraction over the smallest of Envoy's denominators that holds it; others are rounded down to millionths.
fn fraction(numerator: u32, denominator: u32) -> FractionalPercent {
    let denominators = [
        (100, DenominatorType::Hundred),
        (10_000, DenominatorType::TenThousand),
        (1_000_000, DenominatorType::Million),
    ];
    let (numerator, denominator) = (u64::from(numerator), u64::from(denominator.max(1)));
    let exact = denominators.into_iter().find(|(scale, _)| (numerator * scale).is_multiple_of(denominator));
    let (scale, kind) = exact.unwrap_or((1_000_000, DenominatorType::Million));
    FractionalPercent {
        numerator: u32::try_from(numerator * scale / denominator).unwrap_or(u32::MAX),
        denominator: kind.into(),
    }
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

/// CORS rules. A literal `*` does not cover requests with credentials (Fetch standard), so methods are then listed.
fn cors(cors: &Cors) -> CorsPolicy {
    const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, CONNECT, TRACE";
    let any_method = cors.allow_methods.iter().any(|method| method == "*");
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().map(|origin| self::origin(origin)).collect(),
        allow_methods: if any_method && cors.allow_credentials {
            METHODS.into()
        } else {
            cors.allow_methods.join(", ")
        },
        allow_headers: cors.allow_headers.join(", "),
        expose_headers: cors.expose_headers.join(", "),
        max_age: cors.max_age.to_string(),
        allow_credentials: value::truth(cors.allow_credentials),
        // A preflight of a foreign origin is answered here, without permission, instead of by the backend.
        forward_not_matching_preflights: value::truth(false),
        ..Default::default()
    }
}

/// `*` takes any origin; `https://*.example.com` takes any number of labels, but no port that is not written.
fn origin(origin: &str) -> StringMatcher {
    if !origin.contains('*') {
        return exact(origin);
    }
    let pattern = if origin == "*" {
        ".*".to_owned()
    } else {
        origin.split('*').map(rewrite::quote).collect::<Vec<_>>().join("[-A-Za-z0-9.]+")
    };
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::SafeRegex(regex(pattern))),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_exact_where_envoy_can() {
        for ((numerator, denominator), expected, kind) in [
            ((1, 2), 50, DenominatorType::Hundred),
            ((1, 8), 1250, DenominatorType::TenThousand),
            ((1, 3), 333_333, DenominatorType::Million),
            ((1, 1_000_000), 1, DenominatorType::Million),
        ] {
            let percent = fraction(numerator, denominator);
            assert_eq!(
                (percent.numerator, percent.denominator()),
                (expected, kind),
                "{numerator}/{denominator}"
            );
        }
    }

    #[test]
    fn a_mirror_of_all_has_no_fraction_and_of_none_is_no_mirror() {
        let mirror = |fraction| mirror(&Mirror { cluster: "a/b/80".into(), fraction });
        assert_eq!(mirror((0, 100)), None);
        assert_eq!(mirror((100, 100)).unwrap().runtime_fraction, None);
        assert!(mirror((1, 100)).unwrap().runtime_fraction.is_some());
    }

    #[test]
    fn origins_with_wildcards_keep_to_the_host() {
        let Some(string_matcher::MatchPattern::SafeRegex(matcher)) =
            origin("https://*.example.com").match_pattern
        else {
            panic!("a pattern")
        };
        let regex = regex::Regex::new(&format!("^(?:{})$", matcher.regex.replace("\\:", ":"))).unwrap();
        assert!(regex.is_match("https://a.b.example.com"));
        for foreign in ["https://example.com", "https://evil.com/.example.com", "https://aXexample.com"] {
            assert!(!regex.is_match(foreign), "{foreign}");
        }
    }

    #[test]
    fn long_requests_are_not_cut_by_the_idle_limit() {
        assert_eq!(idle(None), None);
        assert_eq!(idle(Some(Duration::from_secs(10))), None);
        assert_eq!(idle(Some(Duration::from_mins(10))), Some(Duration::from_mins(10)));
        assert_eq!(idle(Some(Duration::ZERO)), Some(Duration::ZERO));
    }
}
