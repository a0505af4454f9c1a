//! The intermediate representation: what the Envoys of one fleet shall do, in plain data.
//!
//! `attach` makes it from objects, `xds` turns it into Envoy resources, `explain` and `diff` read it. Everything that
//! the Gateway API leaves to precedence is already decided here: hosts and routes stand in the order in which they match.
//!
//! ```text
//! Fleet ─┬─ Listener (port) ── FilterChain (server names, TLS) ── RouteTable ── VirtualHost ── Route ── Action
//!        └─ Cluster (Service port) ── endpoint sources
//! ```

mod cluster;
mod route;

pub use cluster::{AddressFamily, AppProtocol, Cluster, EndpointSource, StaticEndpoint, UpstreamTls};
pub use route::{
    Action, Cors, Forward, HeaderMutation, HostRewrite, Mirror, PathMatch, PathRewrite, Redirect, Respond,
    Retry, Route, RouteOrigin, Timeouts, ValueMatch, WeightedBackend,
};

use crate::object::ObjectRef;
use std::collections::BTreeMap;

/// All that one fleet serves.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Fleet {
    /// Envoy listeners by name (`http-80`, `https-443`), one for each port.
    pub listeners: BTreeMap<String, Listener>,
    /// Clusters by name (`namespace/service/port`, variants with what differs behind a `+`).
    pub clusters: BTreeMap<String, Cluster>,
}

/// An Envoy listener: a port, shared by all Gateway listeners of that port.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// The port, 1 to 65535.
    pub port: u16,
    /// Filter chains in a stable order; a plain HTTP port has exactly one without server names.
    pub chains: Vec<FilterChain>,
}

/// What a connection meets, chosen by server name (SNI) where there is TLS.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterChain {
    /// Stable name: the Gateway listener's name, with its Gateway in front where a fleet has several.
    pub name: String,
    /// SNI names this chain is for: exact or `*.suffix`; empty for any.
    pub server_names: Vec<String>,
    /// Nothing can be served here (no certificate, or clients cannot be checked): connections are closed at once,
    /// and no chain with a wider name takes them over.
    pub refuse: bool,
    /// TLS termination; `None` is plain text, or a chain that refuses.
    pub tls: Option<DownstreamTls>,
    /// The Gateway listeners served here (one, or several HTTP listeners that share a port).
    pub origins: Vec<ListenerOrigin>,
    /// The routes, served by RDS under [`RouteTable::name`].
    pub routes: RouteTable,
}

/// A Gateway listener as its owner knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerOrigin {
    /// The Gateway.
    pub gateway: ObjectRef,
    /// The listener's name.
    pub listener: String,
    /// The index in `spec.listeners`, to find its line.
    pub index: usize,
    /// Its hostname, empty for all.
    pub hostname: String,
}

/// TLS towards clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownstreamTls {
    /// SDS names of the certificates, `namespace/secret`, in listed order. Never empty.
    pub secrets: Vec<String>,
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
    /// Routes in order of precedence: the first that matches answers. May be empty (404).
    pub routes: Vec<Route>,
}
