//! What is served: immutable sets of resources, shared by all streams of a fleet.

mod batch;
mod set;

pub use batch::Batch;
pub use set::{Difference, Leaf, TypeSet, contents};
pub(in crate::serve) use set::{ENTRY_OVERHEAD, still_says};

use bytes::Bytes;
use moorgate_snapshot::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The name of a resource.
pub type Name = Arc<str>;

/// Names with their versions, `None` for one that is gone: what a response says.
pub type Contents = BTreeMap<Name, Option<Arc<str>>>;

/// Hexadecimal digits of a version: enough that two values of one name never share it.
const VERSION_DIGITS: usize = 16;

/// One resource, encoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Value {
    version: Arc<str>,
    chunks: Vec<Bytes>,
    len: usize,
    endpoints: Vec<Name>,
}

impl Value {
    /// A resource from the pieces of its encoding, in order, and the endpoint names that it needs.
    pub fn new(chunks: Vec<Bytes>, endpoints: Vec<Name>) -> Self {
        let digest = Digest::of_parts(chunks.iter().map(AsRef::as_ref));
        let len = chunks.iter().map(Bytes::len).sum();
        Self { version: version_of(&digest), chunks, len, endpoints }
    }

    /// The version that clients see: the first digits of the digest, the same on every relay.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// Whether these pieces are its own, byte for byte in the same memory: nothing has to be compared then.
    pub fn shares(&self, chunks: &[Bytes]) -> bool {
        let same =
            |(own, other): (&Bytes, &Bytes)| own.as_ptr() == other.as_ptr() && own.len() == other.len();
        self.chunks.len() == chunks.len() && self.chunks.iter().zip(chunks).all(same)
    }

    /// The encoded message, in pieces.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// The length of the encoded message.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the encoded message has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The endpoint names that it needs.
    pub fn endpoints(&self) -> &[Name] {
        &self.endpoints
    }
}

impl std::fmt::Debug for Value {
    /// Without the content: it may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({} {} bytes)", self.version, self.len)
    }
}

/// The version that stands for a digest.
pub fn version_of(digest: &Digest) -> Arc<str> {
    let text = digest.to_string();
    Arc::from(text.get(..VERSION_DIGITS).unwrap_or(&text))
}

/// The configuration of one snapshot.
#[derive(Debug)]
pub struct Config {
    /// The snapshot.
    pub id: Digest,
    /// Its id, short, for people.
    pub label: Arc<str>,
    /// Resources by type URL.
    pub types: BTreeMap<Name, Arc<TypeSet>>,
}

impl Config {
    /// A configuration from resources by type and name; what equals `before` is shared with it.
    pub fn new(
        id: Digest,
        types: BTreeMap<Name, BTreeMap<Name, Arc<Value>>>,
        before: Option<&Self>,
    ) -> Arc<Self> {
        let types = types
            .into_iter()
            .map(|(type_url, values)| {
                let old = before.and_then(|before| before.types.get(&type_url));
                let set = match old {
                    Some(old) => TypeSet::following(old, values, BTreeSet::new()),
                    None => TypeSet::new(values, BTreeSet::new()),
                };
                (type_url, set)
            })
            .collect();
        Arc::new(Self { id, label: id.short().into(), types })
    }

    /// A configuration from the leaves of each type, by the names in them; a type that equals `before` is shared with it.
    pub fn of_leaves(id: Digest, types: BTreeMap<Name, Vec<Arc<Leaf>>>, before: Option<&Self>) -> Arc<Self> {
        let types = types.into_iter().map(|(type_url, leaves)| {
            let old = before.and_then(|before| before.types.get(&type_url));
            let set = TypeSet::of_leaves(old, leaves);
            (type_url, set)
        });
        Arc::new(Self { id, label: id.short().into(), types: types.collect() })
    }
}

/// All that a stream may be served at one moment.
#[derive(Debug)]
pub struct View {
    /// The configuration in force.
    pub config: Arc<Config>,
    /// The configuration for an Envoy that refuses the one in force.
    pub fallback: Option<Arc<Config>>,
    /// Endpoint sets, of both configurations.
    pub endpoints: Arc<TypeSet>,
    /// Secrets and trust bundles, of both configurations.
    pub secrets: Arc<TypeSet>,
    /// Configuration of filters with secrets in it, of both configurations.
    pub extensions: Arc<TypeSet>,
    /// Endpoint sets that only the fallback names: they are kept up for whoever has not left it yet.
    pub leftover: Arc<BTreeSet<Name>>,
}

impl View {
    /// The resources of a type under one of the view's configurations.
    pub fn set<'a>(&'a self, config: &'a Config, type_url: &str) -> Option<&'a Arc<TypeSet>> {
        match type_url {
            super::types::ENDPOINT => Some(&self.endpoints),
            super::types::SECRET => Some(&self.secrets),
            super::types::EXTENSION => {
                config.types.get(type_url).filter(|_| self.extensions.is_empty()).or(Some(&self.extensions))
            }
            _ => config.types.get(type_url),
        }
    }

    /// Endpoint sets that a client under one of the view's configurations will not need any more.
    pub fn leftover(&self, config: &Config) -> &BTreeSet<Name> {
        static NONE: BTreeSet<Name> = BTreeSet::new();
        if config.id == self.config.id { &self.leftover } else { &NONE }
    }
}
