//! The part of `envoy.service.status.v3` that the relay speaks, with the field numbers of Envoy's API v3.

use crate::serve::proto::Node;

/// `envoy.service.status.v3.ClientStatusRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClientStatusRequest {
    /// Nodes that are asked for: all that one of these fits; all without any.
    #[prost(message, repeated, tag = "1")]
    pub node_matchers: Vec<NodeMatcher>,
}

/// `envoy.type.matcher.v3.NodeMatcher`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NodeMatcher {
    /// The id.
    #[prost(message, optional, tag = "1")]
    pub node_id: Option<StringMatcher>,
    /// `StructMatcher`s: known to be there, and not read.
    #[prost(message, repeated, tag = "2")]
    pub node_metadatas: Vec<Unread>,
}

/// A message of which only counts that it is there.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Unread {}

/// `envoy.type.matcher.v3.StringMatcher`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringMatcher {
    /// The pattern; none for a kind that is not known here, such as a regular expression.
    #[prost(oneof = "string_matcher::Pattern", tags = "1, 2, 3, 7")]
    pub pattern: Option<string_matcher::Pattern>,
    /// Whether letters are the same whatever their case.
    #[prost(bool, tag = "6")]
    pub ignore_case: bool,
}

/// What a [`StringMatcher`] is made of.
pub mod string_matcher {
    /// The pattern.
    #[derive(Clone, PartialEq, Eq, prost::Oneof)]
    pub enum Pattern {
        /// The whole text.
        #[prost(string, tag = "1")]
        Exact(String),
        /// How it begins.
        #[prost(string, tag = "2")]
        Prefix(String),
        /// How it ends.
        #[prost(string, tag = "3")]
        Suffix(String),
        /// What is in it.
        #[prost(string, tag = "7")]
        Contains(String),
    }
}

/// `envoy.service.status.v3.ClientStatusResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClientStatusResponse {
    /// One a client.
    #[prost(message, repeated, tag = "1")]
    pub config: Vec<ClientConfig>,
}

/// `envoy.service.status.v3.ClientConfig`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClientConfig {
    /// Who it says it is.
    #[prost(message, optional, tag = "1")]
    pub node: Option<Node>,
    /// One a type.
    #[prost(message, repeated, tag = "3")]
    pub generic_xds_configs: Vec<GenericXdsConfig>,
    /// The fleet.
    #[prost(string, tag = "4")]
    pub client_scope: String,
}

/// `envoy.service.status.v3.ClientConfig.GenericXdsConfig`, without content.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GenericXdsConfig {
    /// The type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The snapshot whose resources of this type the client took last.
    #[prost(string, tag = "3")]
    pub version_info: String,
    /// How far the client is, as the relay sees it.
    #[prost(enumeration = "ConfigStatus", tag = "6")]
    pub config_status: i32,
    /// The same in the client's words.
    #[prost(enumeration = "ClientResourceStatus", tag = "7")]
    pub client_status: i32,
    /// What the client refuses.
    #[prost(message, optional, tag = "8")]
    pub error_state: Option<UpdateFailureState>,
}

/// `envoy.admin.v3.UpdateFailureState`, without the configuration that failed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct UpdateFailureState {
    /// The client's words.
    #[prost(string, tag = "3")]
    pub details: String,
    /// The snapshot that it refused.
    #[prost(string, tag = "4")]
    pub version_info: String,
}

/// `envoy.service.status.v3.ConfigStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ConfigStatus {
    /// Not known.
    Unknown = 0,
    /// Sent and taken.
    Synced = 1,
    /// Not sent.
    NotSent = 2,
    /// Sent, and not answered yet.
    Stale = 3,
    /// Sent and refused.
    Error = 4,
}

/// `envoy.admin.v3.ClientResourceStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ClientResourceStatus {
    /// Not known.
    Unknown = 0,
    /// Asked for, and not there yet.
    Requested = 1,
    /// Asked for, and there is none.
    DoesNotExist = 2,
    /// Taken.
    Acked = 3,
    /// Refused.
    Nacked = 4,
}
