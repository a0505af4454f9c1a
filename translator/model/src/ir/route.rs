//! Routes: what a request must look like, and what happens to it.

use super::{Added, RoutePolicies};
use crate::object::ObjectRef;
use std::sync::Arc;
use std::time::Duration;

/// One match of one rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The rule it comes from.
    pub origin: RouteOrigin,
    /// The path.
    pub path: PathMatch,
    /// The method, if it matters.
    pub method: Option<String>,
    /// Headers that must all match, names in lower case, sorted by name.
    pub headers: Vec<(String, ValueMatch)>,
    /// Query parameters that must all match, sorted by name; names are case-sensitive.
    pub query: Vec<(String, ValueMatch)>,
    /// Cookies that must all match; names are case-sensitive.
    pub cookies: Vec<(String, ValueMatch)>,
    /// Set if only gRPC requests match (GRPCRoute): what was asked of service and method, which the path says too.
    pub grpc: Option<GrpcMatch>,
    /// Changes to the request's headers.
    pub request_headers: HeaderMutation,
    /// Changes to the response's headers.
    pub response_headers: HeaderMutation,
    /// Copies of the request.
    pub mirrors: Vec<Mirror>,
    /// Cross-origin rules.
    pub cors: Option<Cors>,
    /// Who is asked whether a request may pass.
    pub auth: Option<ExternalAuth>,
    /// What policies add.
    pub policies: Added<RoutePolicies>,
    /// What answers.
    pub action: Action,
}

/// Where a route was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteOrigin {
    /// The route object.
    pub object: ObjectRef,
    /// The rule, from zero.
    pub rule: usize,
    /// The rule's own name, if it has one.
    pub rule_name: Option<String>,
    /// The match within the rule, from zero.
    pub matched: usize,
}

impl Route {
    /// The clusters that it needs, some of them more than once.
    pub fn clusters(&self) -> impl Iterator<Item = &str> {
        let backends = match &self.action {
            Action::Forward(forward) => forward.backends.as_slice(),
            Action::Redirect(_) | Action::Respond(_) => &[],
        };
        let own = backends.iter().flat_map(|backend| &backend.mirrors);
        let mirrors = self.mirrors.iter().chain(own).map(|mirror| mirror.cluster.as_str());
        let asked = self.auth.iter().map(|auth| auth.cluster.as_str());
        let policies = self.policies.iter().flat_map(|added| &added.clusters).map(String::as_str);
        let backends = backends.iter().filter_map(|backend| backend.cluster.as_deref());
        backends.chain(mirrors).chain(asked).chain(policies)
    }

    /// Answers all requests with a status and does nothing else: neither filters nor services have a say any more. Which
    /// policies were meant to stays known.
    pub fn refuse(&mut self, status: u16) {
        self.action = Action::Respond(Respond { status });
        self.mirrors.clear();
        self.auth = None;
        self.policies = self.policies.take().map(|added| {
            Arc::new(RoutePolicies { sources: added.sources.clone(), ..RoutePolicies::default() })
        });
    }

    /// Takes out clusters that must not be reached: their share is answered with an error, copies are not made, and
    /// without the service that would be asked nothing passes.
    pub fn close(&mut self, refused: impl Fn(&str) -> bool) {
        let status = self.unresolved_status();
        self.mirrors.retain(|mirror| !refused(&mirror.cluster));
        if self.auth.as_ref().is_some_and(|auth| refused(&auth.cluster)) {
            self.auth = None;
            self.action = Action::Respond(Respond { status });
        }
        if self.policies.iter().flat_map(|added| &added.clusters).any(|name| refused(name)) {
            self.policies = None;
            self.action = Action::Respond(Respond { status });
        }
        let Action::Forward(forward) = &mut self.action else { return };
        for backend in &mut forward.backends {
            backend.mirrors.retain(|mirror| !refused(&mirror.cluster));
            backend.cluster = backend.cluster.take().filter(|name| !refused(name));
        }
        if forward.backends.iter().all(|backend| backend.cluster.is_none()) {
            self.action = Action::Respond(Respond { status });
        }
    }

    /// What Envoy answers for a backend that could not be resolved: HTTPRoute asks for 500, GRPCRoute for the gRPC
    /// status UNAVAILABLE, which Envoy makes of 503.
    pub fn unresolved_status(&self) -> u16 {
        if self.grpc.is_some() { 503 } else { 500 }
    }
}

/// Service and method of a gRPC request; what is `None` may be any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GrpcMatch {
    /// The service with its package, such as `helloworld.Greeter`.
    pub service: Option<ValueMatch>,
    /// The method.
    pub method: Option<ValueMatch>,
}

/// How the path must look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole path segments from the start, without a trailing slash; empty for any path.
    Prefix(String),
    /// A regular expression (RE2) over the whole path.
    Regex(String),
}

/// How a header's or parameter's value must look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueMatch {
    /// The whole value.
    Exact(String),
    /// A regular expression (RE2) over the whole value.
    Regex(String),
}

/// Header changes, in the API's order: set, add, remove. Names are in lower case, values are literal text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderMutation {
    /// Overwrites or adds.
    pub set: Vec<(String, String)>,
    /// Appends.
    pub add: Vec<(String, String)>,
    /// Removes.
    pub remove: Vec<String>,
}

/// What happens to a matching request.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Goes to backends.
    Forward(Forward),
    /// Is sent elsewhere.
    Redirect(Redirect),
    /// Is answered here.
    Respond(Respond),
}

/// A forwarded request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forward {
    /// Backends with weight over zero; those that could not be resolved have no cluster and answer 500.
    pub backends: Vec<WeightedBackend>,
    /// A change of the path.
    pub path_rewrite: Option<PathRewrite>,
    /// A change of the host.
    pub host_rewrite: Option<HostRewrite>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Retries.
    pub retry: Option<Retry>,
    /// How a client keeps its endpoint; the only backend's own where it has one.
    pub session: Option<Session>,
}

/// A share of the requests.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedBackend {
    /// The cluster's name; `None` answers 500 for this share.
    pub cluster: Option<String>,
    /// The share, 1 to 1,000,000.
    pub weight: u32,
    /// Changes to requests that go here.
    pub request_headers: HeaderMutation,
    /// Changes to responses that come from here.
    pub response_headers: HeaderMutation,
    /// A change of the path for requests that go here, in place of the rule's.
    pub path_rewrite: Option<PathRewrite>,
    /// A change of the host for requests that go here, in place of the rule's.
    pub host_rewrite: Option<HostRewrite>,
    /// Copies of requests that go here, besides the rule's.
    pub mirrors: Vec<Mirror>,
    /// How a client keeps its endpoint among those of this backend.
    pub session: Option<Session>,
}

impl WeightedBackend {
    /// A backend without changes of its own.
    pub fn plain(cluster: Option<String>, weight: u32) -> Self {
        Self {
            cluster,
            weight,
            request_headers: HeaderMutation::default(),
            response_headers: HeaderMutation::default(),
            path_rewrite: None,
            host_rewrite: None,
            mirrors: Vec::new(),
            session: None,
        }
    }
}

/// A new path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// Replaces the whole path.
    Full(String),
    /// Replaces the matched prefix (the route's [`PathMatch::Prefix`]).
    Prefix(String),
}

/// A new host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRewrite(pub String);

/// A redirect; what is `None` is kept from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The port; already derived from scheme and listener as the API says.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// An answer without a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Respond {
    /// The status code.
    pub status: u16,
}

/// Time limits; zero switches a limit off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// From the request's last byte to the response's, over all tries. `None`: no limit of ours.
    pub request: Option<Duration>,
    /// For one try.
    pub backend_request: Option<Duration>,
}

/// Retries besides the first try (Gateway API v1.7 `retry`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// How many at most, not zero.
    pub attempts: u32,
    /// Status codes to retry besides connection failures.
    pub codes: Vec<u32>,
    /// The base interval between tries.
    pub backoff: Option<Duration>,
}

/// A copy of the request that is sent and forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The cluster.
    pub cluster: String,
    /// The share as a fraction: numerator, denominator (100, 10,000 or 1,000,000 in Envoy; any here).
    pub fraction: (u32, u32),
}

/// Cross-origin rules (HTTPRoute filter CORS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Origins: `*`, exact, or with `*` in the host.
    pub allow_origins: Vec<String>,
    /// Methods, or `*`.
    pub allow_methods: Vec<String>,
    /// Request headers, or `*`.
    pub allow_headers: Vec<String>,
    /// Response headers that scripts may read.
    pub expose_headers: Vec<String>,
    /// Whether cookies may be sent.
    pub allow_credentials: bool,
    /// How long a preflight answer holds, in seconds.
    pub max_age: u32,
}

/// A service that says whether a request may pass (HTTPRoute filter ExternalAuth). If it does not answer, nothing passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalAuth {
    /// The cluster of the service.
    pub cluster: String,
    /// How it is asked.
    pub protocol: AuthProtocol,
    /// How many bytes of the body it gets at most, over zero; longer bodies are refused. `None`: no body.
    pub body: Option<u32>,
}

/// How an authorization service is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthProtocol {
    /// Envoy's own protocol, `envoy.service.auth.v3`, with all headers.
    Grpc,
    /// The request without its body; status 200 means yes.
    Http {
        /// What stands before the path.
        prefix: String,
        /// Headers that are sent besides host, method, path, length and `authorization`; names in lower case.
        request_headers: Vec<String>,
        /// Headers of the answer that go on to the backend, names in lower case; empty for all.
        response_headers: Vec<String>,
    },
}

/// How a client keeps its endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Session {
    /// By a cookie that Envoy sets.
    Cookie {
        /// Its name.
        name: String,
        /// Its path.
        path: String,
        /// How long it lives; `None`: as long as the client's own session.
        ttl: Option<Duration>,
    },
    /// By a header that Envoy sends and the client repeats.
    Header {
        /// Its name, in lower case.
        name: String,
    },
}
