//! What a request must look like: matches of HTTPRoute and GRPCRoute.

use super::{Target, expression};
use crate::attach::filter;
use crate::attach::spec::{GrpcRouteMatch, Matcher, RouteMatch, RouteRule};
use moorgate_model::diagnostic::semantic::REGEX_INVALID;
use moorgate_model::ir::{GrpcMatch, PathMatch, Route, RouteOrigin, ValueMatch};
use moorgate_model::{Diagnostic, FieldPath, Object};

/// What a request must look like.
pub(in crate::attach) struct Match {
    path: PathMatch,
    method: Option<String>,
    headers: Vec<(String, ValueMatch)>,
    query: Vec<(String, ValueMatch)>,
    grpc: Option<GrpcMatch>,
    /// An expression is not valid: Envoy would refuse the whole route table for it, so this match is left out.
    pub(super) broken: bool,
}

impl Match {
    /// The routes that match so: one, or one for each set of cookies of which a request must have one.
    pub(super) fn into_routes(self, origin: &RouteOrigin, target: &Target) -> Vec<Route> {
        let route = self.into_route(origin.clone(), target);
        if target.cookies.is_empty() {
            return vec![route];
        }
        let cookies = target.cookies.iter();
        cookies.map(|cookies| Route { cookies: cookies.clone(), ..route.clone() }).collect()
    }

    fn into_route(self, origin: RouteOrigin, target: &Target) -> Route {
        let mut action = target.action.clone();
        if !matches!(self.path, PathMatch::Prefix(_)) {
            super::drop_prefix_rewrite(&mut action);
        }
        Route {
            origin,
            path: self.path,
            method: self.method,
            headers: self.headers,
            query: self.query,
            cookies: Vec::new(),
            grpc: self.grpc,
            request_headers: target.request_headers.clone(),
            response_headers: target.response_headers.clone(),
            mirrors: target.mirrors.clone(),
            cors: target.cors.clone(),
            auth: target.auth.clone(),
            policies: target.policies.clone(),
            action,
        }
    }
}

/// One entry of a rule's `matches`; the default is what a rule without any means.
pub(in crate::attach) trait Conditions: Default {
    /// Lowers it; what is wrong goes to the findings.
    fn lower(&self, cx: &mut filter::Context<'_, '_>, at: &FieldPath) -> Match;
}

/// All matches of a rule.
pub(super) fn lower<M: Conditions>(
    cx: &mut filter::Context<'_, '_>,
    at: &FieldPath,
    rule: &RouteRule<M>,
) -> Vec<Match> {
    let everything = [M::default()];
    let written = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
    let fields = (0..).map(|position| at.key("matches").index(position));
    written.iter().zip(fields).map(|(found, at)| found.lower(cx, &at)).collect()
}

impl Conditions for RouteMatch {
    fn lower(&self, cx: &mut filter::Context<'_, '_>, at: &FieldPath) -> Match {
        let mut broken = false;
        let value = self.path.as_ref().and_then(|path| path.value.as_deref()).unwrap_or("/");
        let path = match self.path.as_ref().and_then(|path| path.kind.as_deref()) {
            Some("Exact") => PathMatch::Exact(value.to_owned()),
            Some("RegularExpression") => {
                broken |= !check_regex(cx.route, cx.findings, at.key("path").key("value"), value);
                PathMatch::Regex(value.to_owned())
            }
            _ => PathMatch::Prefix(value.trim_end_matches('/').to_owned()),
        };
        let (headers, bad) = values(cx, &at.key("headers"), &self.headers, true);
        let (query, worse) = values(cx, &at.key("queryParams"), &self.query_params, false);
        broken |= bad | worse;
        Match { path, method: self.method.clone(), headers, query, grpc: None, broken }
    }
}

impl Conditions for GrpcRouteMatch {
    fn lower(&self, cx: &mut filter::Context<'_, '_>, at: &FieldPath) -> Match {
        let mut grpc = GrpcMatch::default();
        let mut broken = false;
        if let Some(method) = &self.method {
            let regex = method.kind.as_deref() == Some("RegularExpression");
            let mut value = |field: &str, text: &Option<String>| {
                // An empty service or method is none (GRPCMethodMatch).
                let text = text.as_ref().filter(|text| !text.is_empty())?;
                if !regex {
                    return Some(ValueMatch::Exact(text.clone()));
                }
                broken |= !check_regex(cx.route, cx.findings, at.key("method").key(field), text);
                Some(ValueMatch::Regex(text.clone()))
            };
            grpc.service = value("service", &method.service);
            grpc.method = value("method", &method.method);
        }
        let (headers, bad) = values(cx, &at.key("headers"), &self.headers, true);
        broken |= bad;
        let path = grpc_path(&grpc);
        Match { path, method: None, headers, query: Vec::new(), grpc: Some(grpc), broken }
    }
}

/// gRPC calls `/service/method`. What is not asked for may be anything but a slash.
fn grpc_path(wanted: &GrpcMatch) -> PathMatch {
    use ValueMatch::Exact;
    match (&wanted.service, &wanted.method) {
        (None, None) => PathMatch::Prefix(String::new()),
        (Some(Exact(service)), None) => PathMatch::Prefix(format!("/{service}")),
        (Some(Exact(service)), Some(Exact(method))) => PathMatch::Exact(format!("/{service}/{method}")),
        (service, method) => {
            let part = |value: &Option<ValueMatch>| match value {
                None => "[^/]+".to_owned(),
                Some(Exact(text)) => regex_syntax::escape(text),
                Some(ValueMatch::Regex(text)) => format!("(?:{text})"),
            };
            PathMatch::Regex(format!("/{}/{}", part(service), part(method)))
        }
    }
}

/// Conditions on named values, sorted by name, and whether an expression among them is broken.
fn values(
    cx: &mut filter::Context<'_, '_>,
    at: &FieldPath,
    matchers: &[Matcher],
    fold: bool,
) -> (Vec<(String, ValueMatch)>, bool) {
    let mut broken = false;
    let mut out: Vec<(String, ValueMatch)> = Vec::with_capacity(matchers.len());
    for (index, matcher) in matchers.iter().enumerate() {
        let name = if fold { matcher.name.to_ascii_lowercase() } else { matcher.name.clone() };
        // Only the first of equal names counts (HTTPHeaderMatch, HTTPQueryParamMatch).
        if out.iter().any(|(other, _)| *other == name) {
            continue;
        }
        let value = if matcher.kind.as_deref() == Some("RegularExpression") {
            let field = at.index(index).key("value");
            broken |= !check_regex(cx.route, cx.findings, field, &matcher.value);
            ValueMatch::Regex(matcher.value.clone())
        } else {
            ValueMatch::Exact(matcher.value.clone())
        };
        out.push((name, value));
    }
    out.sort();
    (out, broken)
}

fn check_regex(route: &Object, findings: &mut Vec<Diagnostic>, field: FieldPath, text: &str) -> bool {
    let Err(reason) = expression::check(text) else { return true };
    let message = format!("{text:?} is not a valid expression: {reason}");
    let help = "write it in the syntax of RE2 (https://github.com/google/re2/wiki/Syntax), and shorter if it is too large";
    findings.push(route.diagnostic(&REGEX_INVALID, field, message).help(help));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_matches_are_paths() {
        let exact = |text: &str| Some(ValueMatch::Exact(text.into()));
        let regex = |text: &str| Some(ValueMatch::Regex(text.into()));
        let cases = [
            (None, None, PathMatch::Prefix(String::new())),
            (exact("a.B"), None, PathMatch::Prefix("/a.B".into())),
            (exact("a.B"), exact("C"), PathMatch::Exact("/a.B/C".into())),
            (None, exact("C"), PathMatch::Regex("/[^/]+/C".into())),
            (regex("a|b"), None, PathMatch::Regex("/(?:a|b)/[^/]+".into())),
            (regex("a.*"), regex("Get|Set"), PathMatch::Regex("/(?:a.*)/(?:Get|Set)".into())),
        ];
        for (service, method, expected) in cases {
            let wanted = GrpcMatch { service, method };
            assert_eq!(grpc_path(&wanted), expected, "{wanted:?}");
        }
    }
}
