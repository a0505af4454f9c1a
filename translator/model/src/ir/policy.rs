//! What policies of Envoy Gateway's kinds add to routes, listeners and clusters, as bytes that only `xds` opens.
//!
//! A policy's own file makes Envoy messages; here they are plain data, so that a new capability changes neither this
//! representation nor what is made of it.

use super::LateValue;
use crate::field::FieldPath;
use crate::object::ObjectRef;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// An encoded message that is put over another one as protobuf merges: fields that it sets win, messages are merged
/// field by field, lists grow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
pub struct Patch {
    /// The message.
    pub message: Vec<u8>,
    /// Fields that are taken out of the other message before, each as the numbers from its root: what a merge cannot
    /// set back to a default, and lists that do not grow.
    pub clear: Vec<Vec<u32>>,
    /// Lists grow at their front.
    pub first: bool,
}

/// A message with its type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Extension {
    /// Such as `type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault`.
    pub type_url: String,
    /// The message.
    pub value: Vec<u8>,
}

/// A filter of requests that a route switches on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteFilter {
    /// Its place among the filters of a listener: lower runs earlier.
    pub place: u16,
    /// Its name; under it a route keeps its own configuration.
    pub name: String,
    /// What stands on the listener. Those of several routes are merged into one.
    pub base: Extension,
    /// What this route says.
    pub own: Extension,
    /// What a virtual host says where the filter has to run on all routes, to keep it from doing anything; none if it
    /// does nothing by itself.
    pub off: Option<Extension>,
}

impl RouteFilter {
    /// Whether it stands on listeners whole and is only switched on by a route (`envoy.config.route.v3.FilterConfig`): whoever
    /// has it is then decided by the first route that Envoy finds, and not by the one that answers.
    pub fn is_whole(&self) -> bool {
        self.own.type_url.ends_with("/envoy.config.route.v3.FilterConfig")
    }

    /// Whether it may run on all routes of a table: it does nothing where no route says anything of it, and what it does is
    /// said by the route that a request has at last.
    pub fn is_idle(&self) -> bool {
        self.off.is_none() && !self.is_whole()
    }
}

/// A policy that had a say, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicySource {
    /// The policy.
    pub object: ObjectRef,
    /// The field that names the target.
    pub field: FieldPath,
    /// What it is attached to, such as `Gateway infra/edge listener http`.
    pub target: String,
    /// The capabilities of it that are in force here; none if it has no effect here.
    pub capabilities: Vec<&'static str>,
    /// What took its place, if anything.
    pub overridden_by: Option<ObjectRef>,
}

/// A module of code that the relay hands out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    /// SHA-256 of its bytes, as 64 hexadecimal digits in lower case.
    pub digest: String,
    /// The module.
    pub bytes: Arc<[u8]>,
}

/// Where a route is looked for again, and by whose wish. The last filter of a request that does so counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recompute {
    /// The place of the filter.
    pub place: u16,
    /// Whoever wrote the filter may have changed everything about the request by then: its host and path, too.
    pub freely: bool,
    /// The policy that says so.
    pub policy: ObjectRef,
    /// Its field that does.
    pub field: FieldPath,
}

/// What policies add to a route.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutePolicies {
    /// Which policies, the most specific first.
    pub sources: Vec<PolicySource>,
    /// Filters, in the order of places.
    pub filters: Vec<RouteFilter>,
    /// Over Envoy's `Route`.
    pub route: Vec<Patch>,
    /// Over Envoy's `RouteAction`, where the request goes to backends.
    pub forward: Vec<Patch>,
    /// Clusters that filters ask.
    pub clusters: Vec<String>,
    /// Envoy knows what the route is, so that a filter can tell a service.
    pub described: bool,
    /// Values that filters need and relays make of Secrets.
    pub late: Vec<LateValue>,
    /// Modules that filters load from the relay.
    pub modules: Vec<Module>,
    /// The route is looked for again behind one of the filters.
    pub recomputes: Option<Recompute>,
    /// What the fleet's rate limit service has to know for it: by the domain of the counts an encoded `RateLimitConfig`
    /// without a name.
    pub counted: Vec<(Arc<str>, Arc<[u8]>)>,
    /// Headers that only filters set, and only for each other: none that a client sends comes in, and none goes on to a backend.
    pub reserved: Vec<String>,
    /// The oldest Envoy that reads all of this, major and minor, if some that are supported do not.
    pub oldest_envoy: Option<(u32, u32)>,
}

/// What a service counts for all Envoys of a fleet together, as messages that only the policy's own file opens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SharedLimits {
    /// Whose they are, in the name of their counts: `namespace/name` of the policy, and behind a plus sign of the one that
    /// it is merged with.
    pub of: String,
    /// What each rule of a route has a count of its own for: an encoded `RateLimitPerRoute`.
    pub apart: Vec<u8>,
    /// What all routes of the policy have one count for: another one.
    pub together: Vec<u8>,
    /// The limits, as the service reads them: an encoded `RateLimitConfig` without a name.
    pub config: Arc<[u8]>,
    /// The oldest Envoy that reads them, major and minor, if some that are supported do not.
    pub oldest_envoy: Option<(u32, u32)>,
}

/// A filter of requests that stands on a listener and runs for all of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerFilter {
    /// Its place among the filters of the listener: lower runs earlier.
    pub place: u16,
    /// Its name.
    pub name: String,
    /// Its configuration.
    pub config: Extension,
}

/// What policies add to a filter chain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainPolicies {
    /// Which policies, the most specific first.
    pub sources: Vec<PolicySource>,
    /// Over Envoy's `HttpConnectionManager`.
    pub manager: Vec<Patch>,
    /// Over Envoy's `FilterChain`.
    pub chain: Vec<Patch>,
    /// Over Envoy's `DownstreamTlsContext`, where TLS ends.
    pub tls: Vec<Patch>,
    /// Over Envoy's `Listener`: all chains of a listener say the same.
    pub listener: Vec<Patch>,
    /// Filters of all requests.
    pub filters: Vec<ListenerFilter>,
    /// Over the configuration of a filter that stands there anyway, by its name.
    pub changes: Vec<(String, Patch)>,
    /// Over Envoy's `TcpProxy`, where bytes are passed on as they are.
    pub stream: Vec<Patch>,
    /// Over Envoy's `TlsInspector`, which a listener has once: what any of its chains asks.
    pub inspector: Vec<Patch>,
    /// HTTP/3 is spoken beside what the chain speaks, on the UDP port of the same number.
    pub http3: bool,
    /// The host of requests of HTTP/1.0 that name none; empty while it is not known.
    pub default_host: Option<String>,
}

/// How Envoy itself looks for the addresses of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Dns {
    /// How often, where the answer does not say.
    pub refresh: Duration,
    /// Whether the answer's own time counts.
    pub respect_ttl: bool,
    /// Which addresses.
    pub family: DnsFamily,
}

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum DnsFamily {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// IPv4, and IPv6 if there is none.
    PreferV4,
    /// IPv6, and IPv4 if there is none.
    PreferV6,
    /// Both.
    All,
}

/// The version of the PROXY protocol that is written to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ProxyHeader {
    /// As text.
    V1,
    /// As bytes.
    V2,
}

/// What policies add to a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is something that may be asked for by itself")]
pub struct ClusterPolicies {
    /// Over Envoy's `Cluster`.
    pub cluster: Vec<Patch>,
    /// The same, where Envoy chooses among endpoints: it does not where requests go to whatever host they name.
    // Names of clusters are made of what is written here: what came later is left out where nobody asks for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub balancing: Vec<Patch>,
    /// The same, where HTTP/2 is spoken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub over_http2: Vec<Patch>,
    /// Over the `HttpProtocolOptions` inside, where HTTP is spoken.
    pub upstream: Vec<Patch>,
    /// Over the `Http2ProtocolOptions` inside, where HTTP/2 is spoken.
    pub http2: Vec<Patch>,
    /// The backend is spoken to by the protocol that the client speaks.
    pub client_protocol: bool,
    /// Filters of the requests to this cluster, with their names, where HTTP is spoken.
    pub filters: Vec<(String, Extension)>,
    /// The address of the client is told at the beginning of a connection.
    pub proxy_header: Option<ProxyHeader>,
    /// Envoy looks for the addresses of names itself, where all endpoints are names.
    pub dns: Option<Dns>,
    /// Whether a Service is reached by its own address (true) or by those of its endpoints.
    pub by_service: Option<bool>,
    /// Connections and datagrams get their endpoint by the client's address, as requests do by what the route says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_source: bool,
    /// The host that health checks by HTTP ask for where neither the policy nor the endpoint has a name for them; empty while no
    /// route is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked_as: Option<String>,
    /// Weights of zones, by name; a zone that is not there has 1. Empty: zones have none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<String, u32>,
    /// Requests stay in Envoy's own zone while it has endpoints enough.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_zone: bool,
    /// HTTP/2 is spoken to whoever would be spoken to by HTTP/1.1.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub speaks_http2: bool,
}

impl ClusterPolicies {
    /// True if nothing is added.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what others ask.
    pub fn add(&mut self, other: &Self) {
        self.cluster.extend(other.cluster.iter().cloned());
        self.balancing.extend(other.balancing.iter().cloned());
        self.over_http2.extend(other.over_http2.iter().cloned());
        self.upstream.extend(other.upstream.iter().cloned());
        self.http2.extend(other.http2.iter().cloned());
        self.client_protocol |= other.client_protocol;
        self.filters.extend(other.filters.iter().cloned());
        self.proxy_header = other.proxy_header.or(self.proxy_header);
        self.dns = other.dns.or(self.dns);
        self.by_service = other.by_service.or(self.by_service);
        self.by_source |= other.by_source;
        self.checked_as = other.checked_as.clone().or(self.checked_as.take());
        if !other.zones.is_empty() {
            self.zones.clone_from(&other.zones);
        }
        self.in_zone |= other.in_zone;
        self.speaks_http2 |= other.speaks_http2;
    }
}

/// What policies add, shared by everything that they add it to; `None`: nothing.
pub type Added<T> = Option<Arc<T>>;
