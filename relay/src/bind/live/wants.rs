//! What a fleet's bindings want of a cluster.

use moorgate_snapshot::{Binding, BindingSource, ObjectSource};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// The kinds of objects that values of secrets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A certificate with its key, or CA certificates.
    Secret,
    /// CA certificates.
    ConfigMap,
    /// CA certificates of the whole cluster.
    ClusterTrustBundle,
    /// A Secret with all its entries.
    Entries,
}

impl Kind {
    /// The kind as API servers and metrics write it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Secret | Self::Entries => "secrets",
            Self::ConfigMap => "configmaps",
            Self::ClusterTrustBundle => "clustertrustbundles",
        }
    }
}

/// One object by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its namespace, empty if the kind has none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl Object {
    /// The object behind a binding; none if it is of another kind or has a name that no object can have.
    pub fn of(source: &BindingSource) -> Option<Self> {
        let BindingSource::Object { kind, namespace, name } = source else { return None };
        Self::named(kind, namespace, name)
    }

    /// An object with all its entries.
    pub fn whole(object: &ObjectSource) -> Option<Self> {
        let named = Self::named(&object.kind, &object.namespace, &object.name)?;
        let kind = if named.kind == Kind::Secret { Kind::Entries } else { named.kind };
        Some(Self { kind, ..named })
    }

    fn named(kind: &str, namespace: &Arc<str>, name: &Arc<str>) -> Option<Self> {
        let kind = match kind {
            "Secret" => Kind::Secret,
            "ConfigMap" => Kind::ConfigMap,
            "ClusterTrustBundle" => Kind::ClusterTrustBundle,
            _ => return None,
        };
        let fits = match kind {
            Kind::Secret | Kind::Entries | Kind::ConfigMap => is_name(namespace) && is_name(name),
            // Bundles of a signer are named `example.com:signer:name`.
            Kind::ClusterTrustBundle => namespace.is_empty() && is_name(&name.replace(':', "-")),
        };
        fits.then(|| Self { kind, namespace: Arc::clone(namespace), name: Arc::clone(name) })
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.plural().trim_end_matches('s');
        if self.namespace.is_empty() {
            write!(f, "{kind} {}", self.name)
        } else {
            write!(f, "{kind} {}/{}", self.namespace, self.name)
        }
    }
}

/// What a fleet wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wants {
    /// Services by namespace.
    pub services: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Objects.
    pub objects: BTreeSet<Object>,
}

impl Wants {
    /// What these bindings want. Names that Kubernetes cannot have are passed over: they end up in URLs.
    pub fn of<'b>(bindings: impl Iterator<Item = &'b Binding>) -> Self {
        let mut wants = Self::default();
        for binding in bindings {
            match &binding.source {
                BindingSource::Endpoints(sources) | BindingSource::Zoned(sources, _) => {
                    let services = sources.iter().filter(|source| {
                        source.hostname.is_empty()
                            && source.addresses.is_empty()
                            && is_name(&source.namespace)
                            && is_name(&source.service)
                    });
                    for source in services {
                        let namespace = wants.services.entry(Arc::clone(&source.namespace)).or_default();
                        namespace.insert(Arc::clone(&source.service));
                    }
                }
                object @ BindingSource::Object { .. } => wants.objects.extend(Object::of(object)),
                BindingSource::Template(template) => {
                    wants.objects.extend(template.objects.iter().filter_map(Object::whole));
                }
                BindingSource::Objects(objects) => {
                    let named = |one: &ObjectSource| Object::named(&one.kind, &one.namespace, &one.name);
                    wants.objects.extend(objects.iter().filter_map(named));
                }
            }
        }
        wants
    }
}

/// A DNS subdomain, RFC 1123: what names of Kubernetes' objects are.
fn is_name(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 253 && bytes.iter().copied().all(plain) && edge(bytes.first()) && edge(bytes.last())
}
