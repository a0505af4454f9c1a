//! What an EnvoyProxy says of all Envoys of a fleet, as messages that only `xds` opens.

use super::{ListenerFilter, Patch, Startup};

/// Settings of a fleet. Without any Envoy is set up as ever.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Proxy {
    /// Clusters that logs and spans are sent to.
    pub clusters: Vec<String>,
    /// Encoded `AccessLog`s of requests, in the place of the usual one.
    pub request_logs: Option<Vec<Vec<u8>>>,
    /// The same of connections that carry no HTTP.
    pub connection_logs: Option<Vec<Vec<u8>>>,
    /// The same of listeners: of connections that no filter chain is for, or of all.
    pub listener_logs: Option<Vec<Vec<u8>>>,
    /// An encoded `HttpConnectionManager.Tracing`, where no policy says anything else.
    pub tracing: Option<Vec<u8>>,
    /// Over Envoy's `HttpConnectionManager`, before what policies say.
    pub manager: Vec<Patch>,
    /// Over Envoy's `UpstreamTlsContext`, where a backend has TLS.
    pub backend_tls: Vec<Patch>,
    /// An encoded `HealthCheck` that says where findings are written, over checks of which nothing says it.
    pub health_log: Option<Vec<u8>>,
    /// The Secret that is shown to backends, `namespace/name`, where neither Gateway nor backend has one.
    pub client_certificate: Option<String>,
    /// Filters of requests that stand elsewhere than usual, each moved in turn.
    pub order: Vec<Move>,
    /// The addresses that listeners bind.
    pub family: BindFamily,
    /// The rules of a route are tried in the order in which they are written.
    pub keeps_order: bool,
    /// Services are reached by their own addresses, where no policy says otherwise.
    pub by_service: bool,
    /// Over Envoy's `Cluster`, for all clusters.
    pub cluster: Vec<Patch>,
    /// Requests are counted for each virtual host.
    pub counts_hosts: bool,
    /// An encoded filter of requests that counts calls of gRPC, and its place.
    pub counts_calls: Option<ListenerFilter>,
    /// What the statistics of a route's clusters are called, with operators for parts of the route's name.
    pub cluster_stat_name: Option<String>,
    /// What stands in the bootstrap.
    pub startup: Startup,
}

/// A filter of requests, by the beginning of its name, that is to stand before or behind another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The filter that is moved.
    pub filter: String,
    /// True: before the other one.
    pub before: bool,
    /// The other one.
    pub other: String,
}

/// The addresses that listeners bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BindFamily {
    /// All of IPv4, which every machine has.
    #[default]
    V4,
    /// All of IPv6.
    V6,
    /// All of both.
    Dual,
}
