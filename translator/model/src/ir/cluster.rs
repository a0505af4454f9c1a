//! Clusters and where their endpoints come from.

use super::{ClusterPolicies, Patch};
use std::net::IpAddr;

/// One backend: a Service port with one treatment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// What the backend speaks.
    pub protocol: AppProtocol,
    /// TLS towards the backend (BackendTLSPolicy); `None` is plain text.
    pub tls: Option<UpstreamTls>,
    /// The EDS name and its sources, bound late by the relay: `namespace/service/port`.
    pub eds_name: String,
    /// Where the endpoints come from.
    pub sources: Vec<EndpointSource>,
    /// How many retries there may be at a time; `None`: Envoy's own bound.
    pub retry_budget: Option<RetryBudget>,
    /// What policies add.
    pub policies: ClusterPolicies,
}

impl Cluster {
    /// The same with what policies add to what filters of the backend did. Where these weigh zones, its endpoints have a name of their own, with this mark.
    #[must_use]
    pub fn with(&self, policies: &ClusterPolicies, mark: &str) -> Self {
        let mut out = self.clone();
        out.policies.add(policies);
        if !policies.zones.is_empty() {
            out.eds_name.push_str(mark);
        }
        out
    }

    /// The clusters that it stands for, in the order of their turns; none if it has endpoints of its own.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().filter_map(|source| match source.direct.as_ref()? {
            Direct::Cluster(name) => Some(name.as_str()),
            Direct::Endpoint(_) | Direct::Request => None,
        })
    }

    /// True if all of its connections speak HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        self.protocol == AppProtocol::Http2 && !self.policies.client_protocol
    }

    /// True if requests go to whatever host they name.
    pub fn is_dynamic(&self) -> bool {
        self.sources.iter().any(|source| source.direct == Some(Direct::Request))
    }
}

/// A bound on retries that grows with the traffic (XBackendTrafficPolicy `retryConstraint`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// The share of requests in flight that may be retries, 0 to 100.
    pub percent: u32,
    /// So many retries may always be in flight.
    pub min_retries: u32,
}

/// What a backend speaks (the kind of the route, Service `appProtocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AppProtocol {
    /// HTTP/1.1, WebSocket upgrades allowed.
    Http1,
    /// HTTP/2 with prior knowledge or by ALPN.
    Http2,
    /// Bytes of a connection, as they come (TCPRoute, TLSRoute).
    Tcp,
    /// Datagrams (UDPRoute).
    Udp,
}

/// The relay resolves this from EndpointSlices, DNS, files or the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointSource {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The Service port's name, empty if it has none: EndpointSlice ports are matched by it.
    pub port_name: String,
    /// The Service port's number.
    pub port: u16,
    /// Which addresses.
    pub family: AddressFamily,
    /// The share among sources, 1 and up.
    pub weight: u32,
    /// A DNS name instead of a Service (ExternalName, XBackend), if so.
    pub hostname: Option<String>,
    /// Addresses that the configuration itself names.
    pub addresses: Vec<StaticEndpoint>,
    /// What needs no binding, if it is that: then nothing of the above says where the endpoints are.
    pub direct: Option<Direct>,
}

/// Endpoints of which no relay has to know anything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direct {
    /// One that stands in the configuration itself.
    Endpoint(DirectEndpoint),
    /// Those of another cluster. Of several, each has its turn while those before have none that is healthy.
    Cluster(String),
    /// Whatever host a request names.
    Request,
}

/// An endpoint that stands in the configuration itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectEndpoint {
    /// Where it is.
    pub address: DirectAddress,
    /// What it is called.
    pub hostname: Option<String>,
    /// Where it lies.
    pub zone: Option<String>,
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum DirectAddress {
    /// An address and port.
    Ip(StaticEndpoint),
    /// A name, which Envoy looks up, and a port.
    Host(String, u16),
    /// The path of a socket on Envoy's machine.
    Pipe(String),
}

impl EndpointSource {
    /// All addresses of a Service's port.
    pub fn of_service(namespace: &str, service: &str, port_name: &str, port: u16) -> Self {
        Self {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            port_name: port_name.to_owned(),
            port,
            family: AddressFamily::Any,
            weight: 1,
            hostname: None,
            addresses: Vec::new(),
            direct: None,
        }
    }

    /// What needs no binding, for an object of this namespace.
    pub fn of_direct(namespace: &str, direct: Direct) -> Self {
        let mut source = Self::of_service(namespace, "", "", 0);
        match &direct {
            Direct::Endpoint(DirectEndpoint { address: DirectAddress::Host(host, port), .. }) => {
                (source.hostname, source.port) = (Some(host.clone()), *port);
            }
            Direct::Endpoint(DirectEndpoint { address: DirectAddress::Ip(address), .. }) => {
                source.addresses.push(address.clone());
            }
            Direct::Endpoint(_) | Direct::Cluster(_) | Direct::Request => {}
        }
        Self { direct: Some(direct), ..source }
    }

    /// All addresses of a DNS name, for an object of this namespace.
    pub fn of_host(namespace: &str, hostname: &str, port: u16) -> Self {
        Self { hostname: Some(hostname.to_owned()), ..Self::of_service(namespace, "", "", port) }
    }
}

/// Which addresses of a Service count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressFamily {
    /// IPv4 and IPv6.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// An address written in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StaticEndpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// TLS towards a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// SNI, and the name to verify where no alternative names are given.
    pub hostname: String,
    /// CA bundles, `Kind/namespace/name` (`ConfigMap/shop/ca`), which no Secret's `namespace/name` can be: one of them
    /// signs the certificate. Empty with `system_roots`.
    pub ca_bundles: Vec<String>,
    /// Verify against the roots of the Envoy image.
    pub system_roots: bool,
    /// DNS names of which one must be in the certificate.
    pub dns_names: Vec<String>,
    /// URIs of which one must be in the certificate.
    pub uris: Vec<String>,
    /// The SDS name of the certificate that is shown to the backend (Gateway `tls.backend`), `namespace/secret`.
    pub client_certificate: Option<String>,
    /// The policy was invalid: no connection may succeed.
    pub refuse: bool,
    /// Which server name is sent and verified.
    pub server_name: ServerName,
    /// Whoever answers is believed: no certificate is verified.
    pub unverified: bool,
    /// Over Envoy's `UpstreamTlsContext`.
    pub added: Vec<Patch>,
}

/// Which server name a backend is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum ServerName {
    /// [`UpstreamTls::hostname`].
    #[default]
    Given,
    /// The host of each request.
    OfRequest,
    /// What the endpoint is called.
    OfEndpoint,
}

impl UpstreamTls {
    /// TLS with which no connection succeeds: what stands for a policy that cannot be carried out.
    pub fn refused() -> Self {
        Self {
            hostname: String::new(),
            ca_bundles: Vec::new(),
            system_roots: false,
            dns_names: Vec::new(),
            uris: Vec::new(),
            client_certificate: None,
            refuse: true,
            server_name: ServerName::Given,
            unverified: false,
            added: Vec::new(),
        }
    }
}
