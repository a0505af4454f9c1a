//! The intermediate representation: what the Envoys of one fleet shall do, in plain data.
//!
//! `attach` makes it from objects, `xds` turns it into Envoy resources, `explain` and `diff` read it. Everything that
//! the Gateway API leaves to precedence is already decided here: hosts and routes stand in the order in which they match.
//!
//! ```text
//! Fleet ─┬─ Listener (port) ── FilterChain (server names, TLS) ─┬─ RouteTable ── VirtualHost ── Route ── Action
//!        │                                                     └─ Stream (weighted clusters)
//!        └─ Cluster (Service port) ── endpoint sources
//! ```

mod cluster;
mod late;
mod listener;
mod policy;
mod proxy;
mod route;
mod startup;
mod tracing;

pub use cluster::{
    AddressFamily, AppProtocol, Cluster, Direct, DirectAddress, DirectEndpoint, EndpointSource, RetryBudget,
    ServerName, StaticEndpoint, UpstreamTls,
};
pub use late::{LateForm, LatePart, LateService, LateValue};
pub use listener::{
    ClientRanges, ClientValidation, DownstreamTls, FilterChain, Listener, ListenerOrigin, Serves, Stream,
    StreamBackend, Transport,
};
pub use policy::{
    Added, ChainPolicies, ClusterPolicies, Dns, DnsFamily, Extension, ListenerFilter, Module, Patch,
    PolicySource, ProxyHeader, Recompute, RouteFilter, RoutePolicies, SharedLimits,
};
pub use proxy::{BindFamily, Move, Proxy};
pub use route::{
    Action, AuthProtocol, Cors, ExternalAuth, Forward, GrpcMatch, HeaderMutation, HostRewrite, Mirror,
    PathMatch, PathRewrite, Redirect, Respond, Retry, Route, RouteOrigin, Session, Timeouts, ValueMatch,
    WeightedBackend,
};
pub use startup::{BootstrapPatch, MetricSink, OwnBootstrap, Startup};
pub use tracing::{SpanAttribute, SpanProtocol, SpanValue, Tracing};

use std::collections::BTreeMap;
use std::sync::Arc;

/// All that one fleet serves.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fleet {
    /// Envoy listeners by name (`http-80`, `https-443`, `tcp-9000`, `udp-53`), one for each port and transport.
    pub listeners: BTreeMap<String, Listener>,
    /// Clusters by name (`namespace/service/port`, variants with what differs behind a `+`).
    pub clusters: BTreeMap<String, Cluster>,
    /// What holds for all of its Envoys.
    pub proxy: Proxy,
    /// The oldest Envoy that reads all of this, major and minor, if some that are supported do not.
    pub oldest_envoy: Option<(u32, u32)>,
    /// What its rate limit service counts: by domain an encoded `RateLimitConfig` without a name.
    pub limits: BTreeMap<Arc<str>, Arc<[u8]>>,
}

impl Fleet {
    /// All route tables by name; chains may share one.
    pub fn tables(&self) -> BTreeMap<&str, &RouteTable> {
        let chains = self.listeners.values().flat_map(|listener| &listener.chains);
        chains.filter_map(FilterChain::routes).map(|routes| (routes.name.as_str(), routes)).collect()
    }
}

/// A route table, one RDS resource.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RouteTable {
    /// The RDS name.
    pub name: String,
    /// Virtual hosts sorted by name; their domains are disjoint, and Envoy picks the most specific.
    pub hosts: Vec<VirtualHost>,
}

/// Everything that answers for one hostname.
#[derive(Debug, Clone, PartialEq)]
pub struct VirtualHost {
    /// Stable name: the hostname, `*` for all.
    pub name: String,
    /// The hostname as Envoy matches it: exact, `*.suffix` or `*`.
    pub domain: String,
    /// The filter chain by whose listener requests for this host must come, where several TLS listeners share the table:
    /// those of other chains are misdirected and answered with 421. `None`: all may come.
    pub listener: Option<String>,
    /// Services that are asked before a route is looked for, in this order, and whose answers may decide which one it is
    /// (listener filters). `None` if no listener of the table asks any: then hosts that ask nobody look as ever.
    pub asked: Option<Vec<ExternalAuth>>,
    /// Routes in order of precedence: the first that matches answers. May be empty (404).
    pub routes: Vec<Route>,
}
