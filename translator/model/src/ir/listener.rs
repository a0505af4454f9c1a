//! Listeners: ports, and what a connection meets there.

use super::{Added, ChainPolicies, PolicySource, RouteOrigin, RouteTable, Tracing};
use crate::object::ObjectRef;
use ipnet::IpNet;
use std::sync::Arc;

/// An Envoy listener: a port of one transport, shared by all Gateway listeners of that port.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// The port, 1 to 65535.
    pub port: u16,
    /// What arrives there. One port number may have a listener of each.
    pub transport: Transport,
    /// Filter chains in a stable order; a port without TLS has exactly one, without server names.
    pub chains: Vec<FilterChain>,
}

/// The transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams; those of one client address and port are a session.
    Udp,
}

/// What a connection meets, chosen by server name (SNI) where there is TLS.
#[derive(Debug, Clone, PartialEq)]
pub struct FilterChain {
    /// Stable name: the Gateway listener's name (`namespace/set/listener` for one of a ListenerSet), with the hostname
    /// behind it where a listener has a chain for each hostname of its routes.
    pub name: String,
    /// SNI names this chain is for: exact or `*.suffix`; empty for any.
    pub server_names: Vec<String>,
    /// TLS termination; `None` is plain text, TLS that is passed through, or a chain that refuses.
    pub tls: Option<DownstreamTls>,
    /// The Gateway listeners served here (one, or several HTTP listeners that share a port).
    pub origins: Vec<ListenerOrigin>,
    /// What policies add.
    pub policies: Added<ChainPolicies>,
    /// What happens to connections.
    pub serves: Serves,
    /// What a collector is told of the requests, if there are any.
    pub tracing: Option<Arc<Tracing>>,
}

/// What happens to the connections of a filter chain.
#[derive(Debug, Clone, PartialEq)]
pub enum Serves {
    /// Nothing can be served here (no certificate, no route, or clients cannot be checked): connections are closed at
    /// once, and no chain with a wider name takes them over.
    Refuse,
    /// HTTP, by routes that are served by RDS under [`RouteTable::name`]; all TLS chains of a port share one table.
    Http(Arc<RouteTable>),
    /// Bytes go to backends as they are.
    Stream(Stream),
}

impl FilterChain {
    /// True if connections are closed at once.
    pub fn refuses(&self) -> bool {
        matches!(self.serves, Serves::Refuse)
    }

    /// True if it speaks HTTP/3 too, on the UDP port of the same number.
    pub fn speaks_http3(&self) -> bool {
        let wanted = self.policies.as_ref().is_some_and(|added| added.http3);
        let asks = self.tls.as_ref().is_none_or(|tls| tls.clients.is_some());
        wanted && !asks && self.routes().is_some()
    }

    /// The routes, if it serves HTTP.
    pub fn routes(&self) -> Option<&RouteTable> {
        match &self.serves {
            Serves::Http(routes) => Some(routes),
            Serves::Refuse | Serves::Stream(_) => None,
        }
    }

    /// The routes, to be changed for this chain alone.
    pub fn routes_mut(&mut self) -> Option<&mut RouteTable> {
        match &mut self.serves {
            Serves::Http(routes) => Some(Arc::make_mut(routes)),
            Serves::Refuse | Serves::Stream(_) => None,
        }
    }

    /// Where bytes go, if it serves no HTTP.
    pub fn stream(&self) -> Option<&Stream> {
        match &self.serves {
            Serves::Stream(stream) => Some(stream),
            Serves::Refuse | Serves::Http(_) => None,
        }
    }
}

/// A rule of a TCPRoute, TLSRoute or UDPRoute: each connection, or session of datagrams, goes to one backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The rule it comes from.
    pub origin: RouteOrigin,
    /// Backends with weight over zero; without any, connections are closed.
    pub backends: Vec<StreamBackend>,
    /// Which endpoint of its backend a client gets depends on its address.
    pub by_source: bool,
    /// Whose connections are carried; `None` for everybody's.
    pub clients: Option<ClientRanges>,
    /// The policies that have a say, and those that others took the place of.
    pub policies: Vec<PolicySource>,
}

impl Stream {
    /// Clients, where connections are carried and not everybody's are.
    pub fn told_apart(&self) -> Option<&ClientRanges> {
        let carries = !self.backends.is_empty();
        self.clients.as_ref().filter(|clients| carries && !clients.denied.is_empty())
    }
}

/// Clients by their address. Of all ranges that hold an address the longest counts, and one of them holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientRanges {
    /// Those whose connections are carried, in order.
    pub allowed: Vec<IpNet>,
    /// Those whose connections are closed at once, in order.
    pub denied: Vec<IpNet>,
}

/// A share of the connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamBackend {
    /// The cluster's name; `None` closes this share of the connections, and drops this share of the sessions.
    pub cluster: Option<String>,
    /// The share, 1 to 1,000,000.
    pub weight: u32,
}

/// A Gateway listener as its owner knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListenerOrigin {
    /// The Gateway or ListenerSet that the listener stands in.
    pub owner: ObjectRef,
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
    /// How clients prove who they are; `None` asks them for nothing.
    pub clients: Option<ClientValidation>,
}

/// Certificates of clients (Gateway `tls.frontend`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientValidation {
    /// The bundles of which one signs them, `Kind/namespace/name`; empty only if they are optional.
    pub ca_bundles: Vec<String>,
    /// Connections without a certificate, or with one that nobody signed, pass too (`AllowInsecureFallback`).
    pub optional: bool,
    /// Secrets, `namespace/name`, whose key `ca.crl` lists certificates that do not count any more.
    pub revoked: Vec<String>,
}
