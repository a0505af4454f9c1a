//! Kinds of routes: what attaching asks of each, so that a kind is one small file.

mod http;
mod stream;

use super::index::{Index, Indexed};
use super::policy::Policies;
use super::spec::{self, Metadata, ParentRef};
use moorgate_model::{Diagnostic, ir};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a listener makes of connections: it decides which kinds may attach, and how their rules are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// Requests (HTTP and HTTPS).
    Http,
    /// TLS that ends here, with anything inside.
    Terminate,
    /// TLS that goes on as it is.
    Passthrough,
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Mode {
    /// The mode of a listener, if its protocol is known.
    pub(super) fn of(listener: &spec::Listener) -> Option<Self> {
        let mode = listener.tls.as_ref().and_then(|tls| tls.mode.as_deref());
        Some(match listener.protocol.as_str() {
            "HTTP" | "HTTPS" => Self::Http,
            "TLS" if mode == Some("Passthrough") => Self::Passthrough,
            "TLS" => Self::Terminate,
            "TCP" => Self::Tcp,
            "UDP" => Self::Udp,
            _ => return None,
        })
    }

    /// The kinds that may attach, in the order in which status lists them.
    pub(super) fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Http => &["HTTPRoute", "GRPCRoute"],
            // Where TLS ends, connections are what is inside.
            Self::Terminate => &["TLSRoute", "TCPRoute"],
            Self::Passthrough => &["TLSRoute"],
            Self::Tcp => &["TCPRoute"],
            Self::Udp => &["UDPRoute"],
        }
    }
}

/// A kind of route.
pub(super) trait RouteKind: DeserializeOwned {
    /// Its name.
    const KIND: &'static str;
    /// How rules are read where no listener takes the route: what is wrong with them shows all the same.
    const MODE: Mode;
    fn metadata(&self) -> &Metadata;
    fn parent_refs(&self) -> &[ParentRef];
    /// Gateways with this `defaultScope` are parents too.
    fn default_gateways(&self) -> Option<&str>;
    /// Hostnames that choose the route; empty for any, and for kinds without.
    fn hostnames(&self) -> &[String];
    /// The rules as a listener of this mode carries them out, and what is wrong with them.
    fn build(cx: &mut Building<'_, '_>, route: &Indexed<'_, Self>, mode: Mode) -> Built;
}

/// What rules are built with.
pub(super) struct Building<'b, 'i> {
    pub(super) index: &'b Index<'i>,
    pub(super) policies: &'b Policies,
    /// All clusters so far.
    pub(super) clusters: &'b mut BTreeMap<String, ir::Cluster>,
}

/// What came of the rules of a route.
pub(super) struct Built {
    pub(super) rules: Rules,
    pub(super) findings: Vec<Diagnostic>,
}

/// Rules, shared by all places where a route is attached.
#[derive(Debug, Clone)]
pub(super) enum Rules {
    /// Of requests.
    Http(Rc<Vec<ir::Route>>),
    /// Of connections or datagrams.
    Stream(Rc<ir::Stream>),
}

impl Rules {
    /// True if both are of one route, read in one way.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(a), Self::Http(b)) => Rc::ptr_eq(a, b),
            (Self::Stream(a), Self::Stream(b)) => Rc::ptr_eq(a, b),
            (Self::Http(_) | Self::Stream(_), _) => false,
        }
    }

    /// The rules of requests; none if these are others.
    pub(super) fn http(&self) -> &[ir::Route] {
        match self {
            Self::Http(routes) => routes,
            Self::Stream(_) => &[],
        }
    }

    /// The rule of connections, if this is one.
    pub(super) fn stream(&self) -> Option<&ir::Stream> {
        match self {
            Self::Http(_) => None,
            Self::Stream(stream) => Some(stream),
        }
    }

    /// The clusters that requests or connections need.
    pub(super) fn clusters(&self) -> Vec<&str> {
        let requests = self.http().iter().flat_map(ir::Route::clusters);
        let streams = self.stream().into_iter().flat_map(|stream| &stream.backends);
        requests.chain(streams.filter_map(|backend| backend.cluster.as_deref())).collect()
    }
}
