//! Clusters and where their endpoints come from.

use super::ClusterPolicies;
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
        }
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
        }
    }
}
