//! The few protobuf messages that the relay speaks, with the field numbers of Envoy's API v3.
//!
//! Requests are decoded into these types, and fields that the relay does not use are skipped unread. Responses are
//! not built from them: their bytes are put together by [`super::frame`] from what the snapshot holds. The endpoint
//! and secret messages are encoded here, because only the relay knows their values.

/// `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryRequest {
    /// Who asks; required on the first message of a stream only.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// The type asked for; implied on the service of one type.
    #[prost(string, tag = "2")]
    pub type_url: String,
    /// Names to add to the subscription, `*` for all.
    #[prost(string, repeated, tag = "3")]
    pub resource_names_subscribe: Vec<String>,
    /// Names to take from the subscription.
    #[prost(string, repeated, tag = "4")]
    pub resource_names_unsubscribe: Vec<String>,
    /// What the client holds already: name and version, on the first request of a type only.
    #[prost(btree_map = "string, string", tag = "5")]
    pub initial_resource_versions: std::collections::BTreeMap<String, String>,
    /// The response that this request acknowledges or refuses.
    #[prost(string, tag = "6")]
    pub response_nonce: String,
    /// Why the response was refused.
    #[prost(message, optional, tag = "7")]
    pub error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryRequest {
    /// The version that the client holds.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Who asks; required on the first message of a stream only.
    #[prost(message, optional, tag = "2")]
    pub node: Option<Node>,
    /// The whole subscription.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// The type asked for; implied on the service of one type.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// The response that this request acknowledges or refuses.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Why the response was refused.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DeltaDiscoveryResponse`, as a client reads it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeltaDiscoveryResponse {
    /// For people: the snapshot.
    #[prost(string, tag = "1")]
    pub system_version_info: String,
    /// New and changed resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Resource>,
    /// The type of all of them.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Unique within the stream and type.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Names that are gone, or never were.
    #[prost(string, repeated, tag = "6")]
    pub removed_resources: Vec<String>,
    /// Who answered.
    #[prost(message, optional, tag = "7")]
    pub control_plane: Option<ControlPlane>,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`, as a client reads it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryResponse {
    /// The version of the type.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// The resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// The type of all of them.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Unique within the stream and type.
    #[prost(string, tag = "5")]
    pub nonce: String,
    /// Who answered.
    #[prost(message, optional, tag = "6")]
    pub control_plane: Option<ControlPlane>,
}

/// `envoy.service.discovery.v3.Resource`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// The version of this resource.
    #[prost(string, tag = "1")]
    pub version: String,
    /// Its content.
    #[prost(message, optional, tag = "2")]
    pub resource: Option<Any>,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Other names that it was asked for by. With one and no content: nobody knows that name (VHDS).
    #[prost(string, repeated, tag = "4")]
    pub aliases: Vec<String>,
    /// When the client drops it, unless it hears of it again. Without content: it lives on (a heartbeat).
    #[prost(message, optional, tag = "6")]
    pub ttl: Option<Duration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Duration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest, in nanoseconds.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    /// The type of the message.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message, encoded.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: bytes::Bytes,
}

/// `envoy.config.core.v3.ControlPlane`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ControlPlane {
    /// Relay and snapshot; Envoy shows it as a text statistic.
    #[prost(string, tag = "1")]
    pub identifier: String,
}

/// The part of `envoy.config.core.v3.Node` that the relay shows to people. Nothing is decided by it, but whether a time to
/// live is understood.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Node {
    /// The node's id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The cluster that it says it belongs to.
    #[prost(string, tag = "2")]
    pub cluster: String,
    /// Where it runs.
    #[prost(message, optional, tag = "4")]
    pub locality: Option<Locality>,
    /// `envoy` or another client.
    #[prost(string, tag = "6")]
    pub user_agent_name: String,
    /// The client's version, from Envoy.
    #[prost(message, optional, tag = "8")]
    pub user_agent_build_version: Option<BuildVersion>,
    /// What the client understands besides, such as [`super::types::TTL_FEATURE`].
    #[prost(string, repeated, tag = "10")]
    pub client_features: Vec<String>,
}

/// `envoy.config.core.v3.BuildVersion`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct BuildVersion {
    /// The version.
    #[prost(message, optional, tag = "1")]
    pub version: Option<SemanticVersion>,
}

/// `envoy.type.v3.SemanticVersion`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SemanticVersion {
    /// Major.
    #[prost(uint32, tag = "1")]
    pub major: u32,
    /// Minor.
    #[prost(uint32, tag = "2")]
    pub minor: u32,
    /// Patch.
    #[prost(uint32, tag = "3")]
    pub patch: u32,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// A gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// The client's own words.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `envoy.config.core.v3.Locality`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct Locality {
    /// Region.
    #[prost(string, tag = "1")]
    pub region: String,
    /// Zone.
    #[prost(string, tag = "2")]
    pub zone: String,
    /// Sub-zone.
    #[prost(string, tag = "3")]
    pub sub_zone: String,
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClusterLoadAssignment {
    /// The EDS name.
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    /// Endpoints by locality.
    #[prost(message, repeated, tag = "2")]
    pub endpoints: Vec<LocalityLbEndpoints>,
}

/// `envoy.config.endpoint.v3.LocalityLbEndpoints`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LocalityLbEndpoints {
    /// Where these endpoints are.
    #[prost(message, optional, tag = "1")]
    pub locality: Option<Locality>,
    /// The endpoints.
    #[prost(message, repeated, tag = "2")]
    pub lb_endpoints: Vec<LbEndpoint>,
    /// The share of this locality.
    #[prost(message, optional, tag = "3")]
    pub load_balancing_weight: Option<UInt32Value>,
}

/// `envoy.config.endpoint.v3.LbEndpoint`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LbEndpoint {
    /// The endpoint.
    #[prost(message, optional, tag = "1")]
    pub endpoint: Option<Endpoint>,
    /// A [`HealthStatus`].
    #[prost(enumeration = "HealthStatus", tag = "2")]
    pub health_status: i32,
    /// The share of this endpoint.
    #[prost(message, optional, tag = "4")]
    pub load_balancing_weight: Option<UInt32Value>,
}

/// `envoy.config.endpoint.v3.Endpoint`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Endpoint {
    /// Where to dial.
    #[prost(message, optional, tag = "1")]
    pub address: Option<Address>,
}

/// `envoy.config.core.v3.Address`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// An address of the network.
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<SocketAddress>,
}

/// `envoy.config.core.v3.SocketAddress`, always TCP here: EDS hosts carry no protocol of their own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct SocketAddress {
    /// An IP address.
    #[prost(string, tag = "2")]
    pub address: String,
    /// The port. Encoded even if zero, because it is in a oneof.
    #[prost(uint32, optional, tag = "3")]
    pub port_value: Option<u32>,
}

/// `google.protobuf.UInt32Value`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct UInt32Value {
    /// The number.
    #[prost(uint32, tag = "1")]
    pub value: u32,
}

/// `envoy.config.core.v3.HealthStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum HealthStatus {
    /// Nothing is known: counts as healthy.
    Unknown = 0,
    /// Healthy.
    Healthy = 1,
    /// Gets nothing.
    Unhealthy = 2,
    /// Finishes what it has.
    Draining = 3,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct Secret {
    /// The SDS name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A certificate and its key.
    #[prost(message, optional, tag = "2")]
    pub tls_certificate: Option<TlsCertificate>,
    /// CA certificates.
    #[prost(message, optional, tag = "4")]
    pub validation_context: Option<CertificateValidationContext>,
}

/// `envoy.extensions.transport_sockets.tls.v3.TlsCertificate`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct TlsCertificate {
    /// The chain, PEM.
    #[prost(message, optional, tag = "1")]
    pub certificate_chain: Option<DataSource>,
    /// The key, PEM.
    #[prost(message, optional, tag = "2")]
    pub private_key: Option<DataSource>,
}

/// `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct CertificateValidationContext {
    /// CA certificates, PEM.
    #[prost(message, optional, tag = "1")]
    pub trusted_ca: Option<DataSource>,
}

/// `envoy.config.core.v3.DataSource`, inline only. Its debug text hides the content.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct DataSource {
    /// The content.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub inline_bytes: Option<bytes::Bytes>,
}

/// Debug text that names the message and nothing of its content.
macro_rules! redacted {
    ($($message:ident),*) => {$(
        impl std::fmt::Debug for $message {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($message), "(redacted)"))
            }
        }
    )*};
}
redacted!(Secret, TlsCertificate, CertificateValidationContext, DataSource);
