//! Records: what a snapshot is made of.

use crate::template::Template;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// The type of resources that are modules of code: no protobuf, and not sent by xDS. A relay hands them out over HTTP under
/// [`module_path`]. Their names are the SHA-256 of their bytes, as hexadecimal digits. Needs the feature `modules`.
pub const MODULE_TYPE: &str = "moorgate.dev/module";

/// Bytes of one part of a module. Two do not fit into a page, so that pages stay small, and hold nothing but modules.
pub const MODULE_PART_BYTES: usize = 192 << 10;

/// Where a relay hands out the module of this digest.
pub fn module_path(digest: &str) -> String {
    format!("{MODULE_FOLDER}{digest}")
}

/// The digest of the module for which a path stands, if it is that of one.
pub fn module_of(path: &str) -> Option<&str> {
    path.strip_prefix(MODULE_FOLDER)
}

/// The beginning of [`module_path`].
const MODULE_FOLDER: &str = "/modules/sha256/";

/// One entry of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A piece of an xDS resource, ready to send.
    Resource(Resource),
    /// A name that the relay resolves late.
    Binding(Binding),
}

/// An xDS resource in canonical bytes, or one part of a large one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its type, such as `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
    pub type_url: Arc<str>,
    /// Its xDS name.
    pub name: Arc<str>,
    /// Empty for a whole resource and for the first part; later parts are put behind it in the order of this key.
    /// Parts are cut where protobuf may be concatenated: a route table at its virtual hosts.
    pub part: Arc<str>,
    /// The encoded message (the value of the `Any`).
    pub bytes: Bytes,
    /// What it needs, sorted: so that a relay can order and re-send without decoding.
    pub refs: Vec<Reference>,
}

/// A name that a resource needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// What kind of name.
    pub kind: BindingKind,
    /// The EDS or SDS name.
    pub name: Arc<str>,
}

/// Kinds of late-bound names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BindingKind {
    /// Endpoints, served by EDS.
    Endpoints,
    /// The configuration of a filter with secrets in it, served by ECDS.
    Extension,
    /// A certificate with its key, or another secret that Envoy knows by name, served by SDS.
    Secret,
    /// CA certificates, served by SDS.
    TrustBundle,
}

/// A late-bound name and where its value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// What kind of name.
    pub kind: BindingKind,
    /// The EDS or SDS name.
    pub name: Arc<str>,
    /// Where the value comes from: what of the two is set follows from the kind.
    pub source: BindingSource,
}

/// Where a bound value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindingSource {
    /// Endpoints of these Services, names or addresses, together.
    Endpoints(Vec<EndpointSource>),
    /// The same, with weights of zones. Needs the feature `zone-weights`.
    Zoned(Vec<EndpointSource>, Vec<ZoneWeight>),
    /// A Kubernetes object that holds the value.
    Object {
        /// `Secret`, `ConfigMap` or `ClusterTrustBundle`.
        kind: Arc<str>,
        /// Its namespace, empty if the kind has none.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
    /// CA certificates of several objects, two and more, one behind the other: trust in any of them is enough.
    /// Needs the feature `joined-bundles`.
    Objects(Vec<ObjectSource>),
    /// What the relay makes of entries of objects. Needs the feature `secret-templates`.
    Template(Template),
}

impl BindingSource {
    /// Where endpoints come from, if it is endpoints that are bound.
    pub fn endpoints(&self) -> Option<&[EndpointSource]> {
        match self {
            Self::Endpoints(sources) | Self::Zoned(sources, _) => Some(sources),
            Self::Object { .. } | Self::Objects(_) | Self::Template(_) => None,
        }
    }
}

/// One of several Kubernetes objects that hold a value together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectSource {
    /// `ConfigMap`, `ClusterTrustBundle` or `Secret`.
    pub kind: Arc<str>,
    /// Its namespace, empty if the kind has none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The share of a zone of endpoints; one that is not named has the weight 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZoneWeight {
    /// The zone.
    pub zone: Arc<str>,
    /// Its weight, 1 and up.
    pub weight: u32,
}

/// One source of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointSource {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service.
    pub service: Arc<str>,
    /// The Service port's name, empty if it has none: EndpointSlice ports are matched by it.
    pub port_name: Arc<str>,
    /// The Service port's number; for names and addresses the port to dial.
    pub port: u16,
    /// Which addresses count.
    pub family: Family,
    /// The share among the sources, 1 and up.
    pub weight: u32,
    /// A DNS name to resolve instead of a Service; empty if none.
    pub hostname: Arc<str>,
    /// Fixed addresses, `ip:port` or `[ip]:port`; empty if none.
    pub addresses: Vec<Arc<str>>,
}

/// Which addresses of a source count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// What records are sorted by: no two records of a snapshot have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key<'a> {
    /// The type URL, or `binding/` and a kind.
    pub section: &'a str,
    /// The xDS name.
    pub name: &'a str,
    /// The part key; empty for whole resources, first parts and bindings.
    pub part: &'a str,
}

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.section.rsplit(['.', '/']).next().unwrap_or(self.section);
        write!(f, "{kind} {}", self.name)?;
        if self.part.is_empty() { Ok(()) } else { write!(f, " part {}", self.part) }
    }
}
