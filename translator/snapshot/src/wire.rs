//! The stored messages, as protobuf. Field numbers are never used again; there are no maps and no floats.
//!
//! prost writes fields in the order of these structs, skips defaults and drops unknown fields. So bytes are canonical if
//! they equal the encoding of what was decoded from them, and readers refuse all others.

use bytes::Bytes;
use prost::Message;

/// A page: records of one section, by (name, part).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Page {
    /// A type URL, or `binding/` and a kind.
    #[prost(string, tag = "1")]
    pub(crate) section: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) resources: Vec<Resource>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) bindings: Vec<Binding>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Resource {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) part: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) bytes: Bytes,
    #[prost(message, repeated, tag = "4")]
    pub(crate) refs: Vec<Reference>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Reference {
    /// 0 endpoints, 1 secret, 2 trust bundle, 3 extension.
    #[prost(uint32, tag = "1")]
    pub(crate) kind: u32,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Binding {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// In `binding/endpoints` only.
    #[prost(message, repeated, tag = "2")]
    pub(crate) endpoints: Vec<EndpointSource>,
    /// In the other sections only.
    #[prost(message, optional, tag = "3")]
    pub(crate) object: Option<ObjectSource>,
    /// In `binding/trust-bundle`, instead of `object`: two and more; with a template what it is made of.
    #[prost(message, repeated, tag = "4")]
    pub(crate) objects: Vec<ObjectSource>,
    /// In `binding/secret` and `binding/extension`, instead of `object`.
    #[prost(message, repeated, tag = "5")]
    pub(crate) template: Vec<Part>,
    /// In `binding/endpoints`, sorted by zone.
    #[prost(message, repeated, tag = "6")]
    pub(crate) zones: Vec<ZoneWeight>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ZoneWeight {
    #[prost(string, tag = "1")]
    pub(crate) zone: String,
    #[prost(uint32, tag = "2")]
    pub(crate) weight: u32,
}

/// A piece of a template.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Part {
    /// 0 bytes, 1 a field, 2 an entry, 3 each entry, 4 its name, 5 its value.
    #[prost(uint32, tag = "1")]
    pub(crate) what: u32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) bytes: Bytes,
    /// Of a field, or which object.
    #[prost(uint32, tag = "3")]
    pub(crate) number: u32,
    #[prost(string, tag = "4")]
    pub(crate) key: String,
    /// 0 opaque, 1 htpasswd, 2 word, 3 authorities, 4 revoked.
    #[prost(uint32, tag = "5")]
    pub(crate) form: u32,
    #[prost(bool, tag = "6")]
    pub(crate) or_random: bool,
    #[prost(message, repeated, tag = "7")]
    pub(crate) parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndpointSource {
    #[prost(string, tag = "1")]
    pub(crate) namespace: String,
    #[prost(string, tag = "2")]
    pub(crate) service: String,
    #[prost(string, tag = "3")]
    pub(crate) port_name: String,
    #[prost(uint32, tag = "4")]
    pub(crate) port: u32,
    /// 0 any, 4 IPv4, 6 IPv6.
    #[prost(uint32, tag = "5")]
    pub(crate) family: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) weight: u32,
    #[prost(string, tag = "7")]
    pub(crate) hostname: String,
    #[prost(string, repeated, tag = "8")]
    pub(crate) addresses: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ObjectSource {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) namespace: String,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
}

/// The list of a snapshot's pages; its digest is the snapshot's id.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Manifest {
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    /// Features that a reader must know, sorted.
    #[prost(string, repeated, tag = "2")]
    pub(crate) required: Vec<String>,
    /// Features that a reader may ignore, sorted.
    #[prost(string, repeated, tag = "3")]
    pub(crate) optional: Vec<String>,
    #[prost(string, tag = "4")]
    pub(crate) oldest_envoy: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) pages: Vec<PageRef>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct PageRef {
    /// The key of the first record.
    #[prost(string, tag = "1")]
    pub(crate) section: String,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(string, tag = "3")]
    pub(crate) part: String,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) digest: Bytes,
    #[prost(uint64, tag = "5")]
    pub(crate) size: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) records: u64,
    /// The page itself, in a small snapshot.
    #[prost(bytes = "bytes", tag = "7")]
    pub(crate) inline: Bytes,
}

/// Pages of one snapshot in one object, for cold starts.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Bundle {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(crate) pages: Vec<Bytes>,
}
