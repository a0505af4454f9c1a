//! What is served: immutable sets of resources, shared by all streams of a fleet.

use bytes::Bytes;
use moorgate_snapshot::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The name of a resource.
pub type Name = Arc<str>;

/// How many differences a set remembers: streams lag by one or two sets, not by many.
const REMEMBERED_DIFFERENCES: usize = 8;

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

/// All resources of one type.
#[derive(Debug)]
pub struct TypeSet {
    id: u64,
    values: BTreeMap<Name, Arc<Value>>,
    pending: BTreeSet<Name>,
    version: OnceLock<Arc<str>>,
    differences: Mutex<Vec<(u64, Arc<Difference>)>>,
}

/// What changed between two sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Names that are new or have another value, sorted.
    pub changed: Vec<Name>,
    /// Names that are gone, sorted.
    pub removed: Vec<Name>,
}

impl TypeSet {
    /// A set. `pending` names exist, but their value is not known yet.
    pub fn new(values: BTreeMap<Name, Arc<Value>>, pending: BTreeSet<Name>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            values,
            pending,
            version: OnceLock::new(),
            differences: Mutex::default(),
        })
    }

    /// A set that shares what it can with the one before: equal values become one, and an equal set is the old one.
    pub fn following(
        before: &Arc<Self>,
        mut values: BTreeMap<Name, Arc<Value>>,
        pending: BTreeSet<Name>,
    ) -> Arc<Self> {
        let mut same = values.len() == before.values.len() && pending == before.pending;
        for (name, value) in &mut values {
            match before.values.get(name) {
                Some(old) if old.version == value.version && old.endpoints == value.endpoints => {
                    *value = Arc::clone(old);
                }
                _ => same = false,
            }
        }
        if same { Arc::clone(before) } else { Self::new(values, pending) }
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Value>> {
        self.values.get(name)
    }

    /// All resources, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<Value>)> {
        self.values.iter()
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no resource.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether the name exists, though its value is not known yet.
    pub fn is_pending(&self, name: &str) -> bool {
        self.pending.contains(name)
    }

    /// The version of the whole set: a digest of its names and their versions.
    pub fn version(&self) -> &Arc<str> {
        self.version.get_or_init(|| {
            version_of(&contents(self.values.iter().map(|(name, value)| (name, Some(value.version())))))
        })
    }

    /// What changed since `before`; worked out once for all streams.
    pub fn since(&self, before: &Self) -> Arc<Difference> {
        let mut known = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, difference)) = known.iter().find(|(id, _)| *id == before.id) {
            return Arc::clone(difference);
        }
        let difference = Arc::new(self.compare(before));
        if known.len() >= REMEMBERED_DIFFERENCES {
            known.remove(0);
        }
        known.push((before.id, Arc::clone(&difference)));
        difference
    }

    fn compare(&self, before: &Self) -> Difference {
        let changed = |(name, value): &(&Name, &Arc<Value>)| {
            before
                .values
                .get(*name)
                .is_none_or(|old| !Arc::ptr_eq(old, value) && old.version != value.version)
        };
        let gone = |name: &&Name| !self.values.contains_key(*name);
        Difference {
            changed: self.values.iter().filter(changed).map(|(name, _)| Arc::clone(name)).collect(),
            removed: before.values.keys().filter(gone).map(Arc::clone).collect(),
        }
    }
}

/// A digest of names and versions, `None` for a removal.
pub fn contents<'a>(entries: impl Iterator<Item = (&'a Name, Option<&'a Arc<str>>)>) -> Digest {
    let mut bytes = Vec::new();
    for (name, version) in entries {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(version.map_or(&b"-"[..], |version| version.as_bytes()));
        bytes.push(0);
    }
    Digest::of(&bytes)
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
    /// Endpoint sets that only the fallback names: they are kept up for whoever has not left it yet.
    pub leftover: Arc<BTreeSet<Name>>,
}

impl View {
    /// The resources of a type under one of the view's configurations.
    pub fn set<'a>(&'a self, config: &'a Config, type_url: &str) -> Option<&'a Arc<TypeSet>> {
        match type_url {
            super::types::ENDPOINT => Some(&self.endpoints),
            super::types::SECRET => Some(&self.secrets),
            _ => config.types.get(type_url),
        }
    }

    /// Endpoint sets that a client under one of the view's configurations will not need any more.
    pub fn leftover(&self, config: &Config) -> &BTreeSet<Name> {
        static NONE: BTreeSet<Name> = BTreeSet::new();
        if config.id == self.config.id { &self.leftover } else { &NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[(&str, &'static str)]) -> Arc<TypeSet> {
        let value =
            |bytes: &'static str| Arc::new(Value::new(vec![Bytes::from_static(bytes.as_bytes())], vec![]));
        TypeSet::new(entries.iter().map(|(n, b)| (Name::from(*n), value(b))).collect(), BTreeSet::new())
    }

    #[test]
    fn differences_are_worked_out_once_and_right() {
        let (a, b) = (set(&[("a", "1"), ("b", "1"), ("c", "1")]), set(&[("b", "1"), ("c", "2"), ("d", "1")]));
        let difference = b.since(&a);
        assert_eq!(difference.changed, ["c".into(), "d".into()] as [Name; 2]);
        assert_eq!(difference.removed, ["a".into()] as [Name; 1]);
        assert!(Arc::ptr_eq(&difference, &b.since(&a)));
        for _ in 0..50 {
            b.since(&set(&[]));
        }
        assert!(b.differences.lock().unwrap().len() <= REMEMBERED_DIFFERENCES);
    }

    #[test]
    fn an_equal_set_is_the_old_one_and_versions_are_of_content() {
        let old = set(&[("a", "1"), ("b", "2")]);
        let equal = set(&[("a", "1"), ("b", "2")]);
        assert_eq!(old.version(), equal.version());
        let values = |set: &TypeSet| set.iter().map(|(n, v)| (Arc::clone(n), Arc::clone(v))).collect();
        assert!(Arc::ptr_eq(&old, &TypeSet::following(&old, values(&equal), BTreeSet::new())));
        let other = set(&[("a", "1"), ("b", "3")]);
        let next = TypeSet::following(&old, values(&other), BTreeSet::new());
        assert!(Arc::ptr_eq(old.get("a").unwrap(), next.get("a").unwrap()));
        assert_ne!(old.version(), next.version());
    }
}
