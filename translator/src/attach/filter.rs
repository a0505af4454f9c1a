//! Filters of a rule or backend.

mod auth;
mod extension;

use super::backend::{self, Use};
use super::index::Index;
use super::kind::Building;
use super::policy::Policies;
use super::spec::{
    BackendRef, CorsFilter, ExternalAuthFilter, Filter, Fraction, HeaderFilter, PathModifier, RedirectFilter,
};
use moorgate_model::diagnostic::semantic::{
    CORS_ANY_ORIGIN, FORMATTER_ESCAPED, REDIRECT_LOOP, UNSUPPORTED_VALUE,
};
use moorgate_model::ir::{
    Cluster, Cors, ExternalAuth, HeaderMutation, HostRewrite, Mirror, PathRewrite, PolicySource, Redirect,
};
use moorgate_model::{Diagnostic, FieldPath, Object};
use moorgate_policies::Lowered;
use std::collections::BTreeMap;

/// All filters of one list, taken together.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) request_headers: HeaderMutation,
    pub(super) response_headers: HeaderMutation,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) cors: Option<Cors>,
    pub(super) auth: Option<ExternalAuth>,
    pub(super) redirect: Option<Redirect>,
    pub(super) path_rewrite: Option<PathRewrite>,
    pub(super) host_rewrite: Option<HostRewrite>,
    /// What HTTPRouteFilters say, and which they are.
    pub(super) extensions: Lowered,
    pub(super) sources: Vec<PolicySource>,
    /// A filter could not be carried out: requests must get an error, not pass without it
    /// (HTTPRoute `filters`: "MUST NOT be skipped").
    pub(super) broken: bool,
}

/// What lowering needs besides the filters.
pub(super) struct Context<'c, 'a> {
    pub(super) index: &'c Index<'a>,
    pub(super) route: &'c Object,
    pub(super) policies: &'c Policies,
    pub(super) clusters: &'c mut BTreeMap<String, Cluster>,
    pub(super) findings: &'c mut Vec<Diagnostic>,
}

impl Context<'_, '_> {
    /// How the backends of the route's rules are used.
    pub(super) fn usage(&self) -> Use {
        if &*self.route.reference.kind == "GRPCRoute" { Use::Http2 } else { Use::Requests }
    }

    /// The cluster of a backend, or why there is none.
    pub(super) fn resolve(
        &mut self,
        usage: Use,
        at: &FieldPath,
        backend: &BackendRef,
    ) -> Result<String, Diagnostic> {
        let (index, policies, clusters) = (self.index, self.policies, &mut *self.clusters);
        backend::resolve_for(usage, &mut Building { index, policies, clusters }, self.route, at, backend)
    }

    fn unsupported(&mut self, field: FieldPath, message: String) {
        let finding = self.route.diagnostic(&UNSUPPORTED_VALUE, field, message);
        self.findings.push(finding.help("requests that meet this filter are answered with 500"));
    }
}

/// Lowers a list of filters in its order.
pub(super) fn lower(cx: &mut Context<'_, '_>, at: &FieldPath, filters: &[Filter]) -> Filters {
    let mut out = Filters::default();
    for (position, filter) in filters.iter().enumerate() {
        let at = at.index(position);
        match filter.kind.as_str() {
            "RequestHeaderModifier" => {
                if let Some(headers) = &filter.request_header_modifier {
                    let at = at.key("requestHeaderModifier");
                    out.broken |= !mutate(cx, &at, headers, &mut out.request_headers);
                }
            }
            "ResponseHeaderModifier" => {
                if let Some(headers) = &filter.response_header_modifier {
                    let at = at.key("responseHeaderModifier");
                    out.broken |= !mutate(cx, &at, headers, &mut out.response_headers);
                }
            }
            "RequestMirror" => mirror(cx, &at, filter, &mut out),
            "RequestRedirect" => {
                if out.extensions.rule.respond.is_some() {
                    out.broken = true;
                    cx.unsupported(at.clone(), "the rule answers requests already".into());
                }
                out.redirect = filter.request_redirect.as_ref().map(redirect);
                let same = |to: &Redirect| {
                    to.scheme.is_none() && to.host.is_none() && to.port.is_none() && to.path.is_none()
                };
                if out.redirect.as_ref().is_some_and(same) {
                    let message = "the redirect changes neither scheme, host, port nor path";
                    cx.findings.push(cx.route.diagnostic(&REDIRECT_LOOP, at.key("requestRedirect"), message));
                }
            }
            "URLRewrite" => {
                if let Some(rewrite) = &filter.url_rewrite {
                    out.path_rewrite = rewrite.path.as_ref().and_then(path_rewrite);
                    out.host_rewrite = rewrite.hostname.clone().map(HostRewrite);
                    let has = &out.extensions.rule;
                    if (has.path && out.path_rewrite.is_some()) || (has.host && out.host_rewrite.is_some()) {
                        out.broken = true;
                        cx.unsupported(at.key("urlRewrite"), "the rule rewrites path or host already".into());
                    }
                }
            }
            "CORS" => {
                out.cors = filter.cors.as_ref().map(cors);
                let any =
                    |cors: &Cors| cors.allow_credentials && cors.allow_origins.iter().any(|one| one == "*");
                if out.cors.as_ref().is_some_and(any) {
                    let message = "all origins are allowed, with credentials";
                    cx.findings.push(cx.route.diagnostic(&CORS_ANY_ORIGIN, at.key("cors"), message));
                }
            }
            "ExternalAuth" if filter.external_auth.is_some() => {
                if let Some(filter) = &filter.external_auth {
                    auth::lower(cx, &at, filter, &mut out);
                }
            }
            "ExtensionRef" if extension::is(filter) => extension::lower(cx, &at, filter, &mut out),
            kind => {
                out.broken = true;
                cx.unsupported(at.key("type"), format!("a filter of type {kind} is not supported"));
            }
        }
    }
    out
}

/// A service that is asked, as a filter of type ExternalAuth says at this place; findings say why there is none.
pub(super) fn external_auth(
    cx: &mut Context<'_, '_>,
    at: &FieldPath,
    filter: &ExternalAuthFilter,
) -> Option<ExternalAuth> {
    let mut out = Filters::default();
    auth::lower(cx, at, filter, &mut out);
    out.auth.filter(|_| !out.broken)
}

/// Headers that Envoy owns or that frame the message: changing them would break routing or the protocol.
fn is_protected(name: &str) -> bool {
    name.starts_with(':')
        || name.starts_with("x-envoy-")
        || matches!(
            name,
            "host"
                | "content-length"
                | "transfer-encoding"
                | "connection"
                | "keep-alive"
                | "te"
                | "trailer"
                | "upgrade"
                | "proxy-connection"
        )
}

fn mutate(cx: &mut Context<'_, '_>, at: &FieldPath, filter: &HeaderFilter, out: &mut HeaderMutation) -> bool {
    let mut good = true;
    for (list, headers) in [("set", &filter.set), ("add", &filter.add)] {
        for (position, header) in headers.iter().enumerate() {
            let name = header.name.to_ascii_lowercase();
            let field = at.key(list).index(position);
            if is_protected(&name) {
                cx.unsupported(field.key("name"), format!("header {:?} cannot be changed", header.name));
                good = false;
                continue;
            }
            if header.value.chars().any(|c| c.is_control() && c != '\t') {
                cx.unsupported(
                    field.key("value"),
                    format!("the value of header {:?} holds control characters", header.name),
                );
                good = false;
                continue;
            }
            if header.value.contains('%') {
                let message = format!(
                    "the value of header {:?} holds a percent sign and is sent as it stands",
                    header.name
                );
                cx.findings.push(cx.route.diagnostic(&FORMATTER_ESCAPED, field.key("value"), message));
            }
            let target = if list == "set" { &mut out.set } else { &mut out.add };
            target.push((name, header.value.clone()));
        }
    }
    for (position, name) in filter.remove.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        if is_protected(&lower) {
            cx.unsupported(at.key("remove").index(position), format!("header {name:?} cannot be removed"));
            good = false;
        } else {
            out.remove.push(lower);
        }
    }
    good
}

fn mirror(cx: &mut Context<'_, '_>, at: &FieldPath, filter: &Filter, out: &mut Filters) {
    let Some(mirror) = &filter.request_mirror else { return };
    let at = at.key("requestMirror");
    let fraction = match (&mirror.fraction, mirror.percent) {
        (Some(Fraction { numerator, denominator }), _) => (*numerator, *denominator),
        (None, Some(percent)) => (percent, 100),
        (None, None) => (100, 100),
    };
    let target = at.key("backendRef");
    match cx.resolve(cx.usage(), &target, &mirror.backend_ref) {
        Ok(cluster) => out.mirrors.push(Mirror { cluster, fraction }),
        // Gateway API: an invalid mirror is dropped, and the request itself goes on.
        Err(finding) => cx.findings.push(finding),
    }
}

fn path_rewrite(modifier: &PathModifier) -> Option<PathRewrite> {
    let full = modifier.replace_full_path.clone().map(PathRewrite::Full);
    full.or_else(|| modifier.replace_prefix_match.clone().map(PathRewrite::Prefix))
}

fn redirect(filter: &RedirectFilter) -> Redirect {
    Redirect {
        scheme: filter.scheme.clone(),
        host: filter.hostname.clone(),
        port: filter.port,
        path: filter.path.as_ref().and_then(path_rewrite),
        status: filter.status_code.unwrap_or(302),
    }
}

/// The `Location` port for one listener (HTTPRouteFilter `requestRedirect.port`): the filter's own, else that of its
/// scheme, else the listener's; left out where it says nothing. A host that is kept may carry the listener's port,
/// so a listener on an unusual port always gets an explicit one.
pub(super) fn redirect_port(redirect: &Redirect, protocol: &str, listener_port: u16) -> Option<u16> {
    let well_known = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let own_scheme = if protocol == "HTTPS" { "https" } else { "http" };
    let scheme_port = well_known(redirect.scheme.as_deref().unwrap_or(own_scheme));
    let wanted = redirect.port.unwrap_or(if redirect.scheme.is_some() { scheme_port } else { listener_port });
    let unusual = listener_port != well_known(own_scheme);
    (wanted != scheme_port || (unusual && redirect.host.is_none())).then_some(wanted)
}

fn cors(filter: &CorsFilter) -> Cors {
    Cors {
        allow_origins: filter.allow_origins.clone(),
        allow_methods: filter.allow_methods.clone(),
        allow_headers: filter.allow_headers.clone(),
        expose_headers: filter.expose_headers.clone(),
        allow_credentials: filter.allow_credentials,
        max_age: filter.max_age.unwrap_or(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_ports_follow_the_filter_then_the_scheme_then_the_listener() {
        let redirect = |scheme: Option<&str>, host: Option<&str>, port| Redirect {
            scheme: scheme.map(Into::into),
            host: host.map(Into::into),
            port,
            path: None,
            status: 302,
        };
        let cases = [
            (redirect(None, Some("a"), None), "HTTP", 80, None),
            (redirect(None, Some("a"), None), "HTTP", 8080, Some(8080)),
            (redirect(Some("https"), Some("a"), None), "HTTP", 8080, None),
            (redirect(Some("https"), None, None), "HTTP", 8080, Some(443)),
            (redirect(Some("https"), None, None), "HTTP", 80, None),
            (redirect(Some("https"), Some("a"), Some(8443)), "HTTP", 80, Some(8443)),
            (redirect(Some("https"), Some("a"), Some(443)), "HTTP", 80, None),
            (redirect(None, Some("a"), Some(80)), "HTTPS", 443, Some(80)),
        ];
        for (redirect, protocol, port, expected) in cases {
            assert_eq!(
                redirect_port(&redirect, protocol, port),
                expected,
                "{redirect:?} on {protocol} {port}"
            );
        }
    }
}
