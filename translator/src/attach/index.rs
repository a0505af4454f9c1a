//! All objects that decide anything, decoded and findable by name.

use super::backend::X_GROUP;
use super::spec::{
    Gateway, GatewayClass, GrpcRoute, HttpRoute, ListenerSet, Metadata, Namespace, ReferenceGrant, RouteRule,
    Service, TcpRoute, TlsRoute, UdpRoute, XBackend,
};
use super::trust::CERTIFICATES_GROUP;
use super::{GATEWAY_GROUP, Options};
use crate::{inputs, parameters};
use moorgate_model::diagnostic::policy::INPUT_TWICE;
use moorgate_model::diagnostic::schema::TYPE_MISMATCH;
use moorgate_model::node::decode;
use moorgate_model::{Diagnostics, FieldPath, Object, ObjectRef};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A decoded object beside its tree.
#[derive(Debug)]
pub(super) struct Indexed<'a, T> {
    pub(super) object: &'a Object,
    pub(super) value: T,
}

/// Namespaced names.
pub(super) type Key<'a> = (&'a str, &'a str);

/// Everything, by kind; iteration is in the order of names.
pub(super) struct Index<'a> {
    pub(super) options: &'a Options,
    pub(super) classes: BTreeMap<&'a str, Indexed<'a, GatewayClass>>,
    pub(super) gateways: BTreeMap<Key<'a>, Indexed<'a, Gateway>>,
    /// Keys of `gateways` by namespace and name, so that a key can be found from text of any lifetime.
    gateway_keys: BTreeMap<&'a str, BTreeMap<&'a str, Key<'a>>>,
    pub(super) listener_sets: BTreeMap<Key<'a>, Indexed<'a, ListenerSet>>,
    set_keys: BTreeMap<&'a str, BTreeMap<&'a str, Key<'a>>>,
    pub(super) http_routes: BTreeMap<Key<'a>, Indexed<'a, HttpRoute>>,
    pub(super) grpc_routes: BTreeMap<Key<'a>, Indexed<'a, GrpcRoute>>,
    pub(super) tls_routes: BTreeMap<Key<'a>, Indexed<'a, TlsRoute>>,
    pub(super) tcp_routes: BTreeMap<Key<'a>, Indexed<'a, TcpRoute>>,
    pub(super) udp_routes: BTreeMap<Key<'a>, Indexed<'a, UdpRoute>>,
    pub(super) services: BTreeMap<Key<'a>, Indexed<'a, Service>>,
    pub(super) x_backends: BTreeMap<Key<'a>, Indexed<'a, XBackend>>,
    pub(super) secrets: BTreeMap<Key<'a>, &'a Object>,
    pub(super) config_maps: BTreeMap<Key<'a>, &'a Object>,
    pub(super) envoy_proxies: BTreeMap<Key<'a>, &'a Object>,
    /// Declared inputs by namespace and URL.
    pub(super) inputs: BTreeMap<Key<'a>, &'a Object>,
    /// What policies ask for, noted while they are compiled.
    pub(super) wants: RefCell<inputs::Wants>,
    /// ClusterTrustBundles by name.
    pub(super) trust_bundles: BTreeMap<&'a str, &'a Object>,
    grants: BTreeMap<&'a str, Vec<ReferenceGrant>>,
    namespaces: BTreeMap<&'a str, BTreeMap<String, String>>,
    /// Kinds of the Gateway API family that this version cannot compile.
    pub(super) others: Vec<&'a Object>,
}

#[derive(Deserialize)]
struct HasMetadata {
    metadata: Metadata,
}

/// The metadata of an object that is not decoded otherwise.
pub(super) fn metadata(object: &Object) -> Option<Metadata> {
    decode::<HasMetadata>(&object.root).ok().map(|value| value.metadata)
}

impl<'a> Index<'a> {
    pub(super) fn new(objects: &'a [Object], options: &'a Options, diagnostics: &mut Diagnostics) -> Self {
        let mut index = Self {
            options,
            classes: BTreeMap::new(),
            gateways: BTreeMap::new(),
            gateway_keys: BTreeMap::new(),
            listener_sets: BTreeMap::new(),
            set_keys: BTreeMap::new(),
            http_routes: BTreeMap::new(),
            grpc_routes: BTreeMap::new(),
            tls_routes: BTreeMap::new(),
            tcp_routes: BTreeMap::new(),
            udp_routes: BTreeMap::new(),
            services: BTreeMap::new(),
            x_backends: BTreeMap::new(),
            secrets: BTreeMap::new(),
            config_maps: BTreeMap::new(),
            envoy_proxies: BTreeMap::new(),
            inputs: BTreeMap::new(),
            wants: RefCell::default(),
            trust_bundles: BTreeMap::new(),
            grants: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            others: Vec::new(),
        };
        objects.iter().for_each(|object| index.add(object, diagnostics));
        index.others.sort_by_key(|object| &object.reference);
        index
    }

    fn add(&mut self, object: &'a Object, diagnostics: &mut Diagnostics) {
        let reference = &object.reference;
        let key = (&*reference.namespace, &*reference.name);
        match (&*reference.group, &*reference.kind) {
            (GATEWAY_GROUP, "GatewayClass") => {
                if let Some(value) = typed(object, diagnostics) {
                    self.classes.insert(&reference.name, Indexed { object, value });
                }
            }
            (GATEWAY_GROUP, "Gateway") => {
                if let Some(value) = typed(object, diagnostics) {
                    self.gateway_keys.entry(key.0).or_default().insert(key.1, key);
                    self.gateways.insert(key, Indexed { object, value });
                }
            }
            (GATEWAY_GROUP, "ListenerSet") => {
                self.set_keys.entry(key.0).or_default().insert(key.1, key);
                insert(&mut self.listener_sets, object, diagnostics);
            }
            (GATEWAY_GROUP, "HTTPRoute") => insert(&mut self.http_routes, object, diagnostics),
            (GATEWAY_GROUP, "GRPCRoute") => insert(&mut self.grpc_routes, object, diagnostics),
            (GATEWAY_GROUP, "TLSRoute") => insert(&mut self.tls_routes, object, diagnostics),
            (GATEWAY_GROUP, "TCPRoute") => insert(&mut self.tcp_routes, object, diagnostics),
            (GATEWAY_GROUP, "UDPRoute") => insert(&mut self.udp_routes, object, diagnostics),
            (GATEWAY_GROUP, "ReferenceGrant") => {
                if let Some(value) = typed(object, diagnostics) {
                    self.grants.entry(&reference.namespace).or_default().push(value);
                }
            }
            (X_GROUP, "XBackend") => insert(&mut self.x_backends, object, diagnostics),
            (inputs::GROUP, inputs::KIND) => self.add_input(object, diagnostics),
            (parameters::GROUP, parameters::KIND) => drop(self.envoy_proxies.insert(key, object)),
            (GATEWAY_GROUP | X_GROUP | parameters::GROUP, _) => {
                self.others.push(object);
            }
            ("", "Service") => insert(&mut self.services, object, diagnostics),
            ("", "Namespace") => {
                if let Some(Namespace { metadata }) = typed(object, diagnostics) {
                    self.namespaces.insert(&reference.name, metadata.labels);
                }
            }
            ("", "Secret") => drop(self.secrets.insert(key, object)),
            ("", "ConfigMap") => drop(self.config_maps.insert(key, object)),
            (CERTIFICATES_GROUP, "ClusterTrustBundle") => {
                self.trust_bundles.insert(&reference.name, object);
            }
            _ => {}
        }
    }

    /// Of several Inputs of a URL the first by name counts, in whatever order they come.
    fn add_input(&mut self, object: &'a Object, diagnostics: &mut Diagnostics) {
        let Some(url) = inputs::url(object) else { return };
        let key = (&*object.reference.namespace, url);
        let known = self.inputs.get(&key).copied();
        let first = known.filter(|known| known.reference < object.reference).unwrap_or(object);
        self.inputs.insert(key, first);
        if let Some(known) = known {
            let second = if std::ptr::eq(first, object) { known } else { object };
            let message = format!("{} declares {url} too", first.reference);
            let field = FieldPath::root().key("spec").key("url");
            let start = first.origin.start;
            let finding = second.diagnostic(&INPUT_TWICE, field, message);
            diagnostics.push(finding.related(first.origin.file.clone(), start, "declared here"));
        }
    }

    /// The key of a Gateway in this source.
    pub(super) fn gateway_key(&self, namespace: &str, name: &str) -> Option<Key<'a>> {
        self.gateway_keys.get(namespace)?.get(name).copied()
    }

    /// All routes, of whatever kind.
    pub(super) fn routes(&self) -> impl Iterator<Item = &'a Object> {
        let http = self.http_routes.values().map(|route| route.object);
        let grpc = self.grpc_routes.values().map(|route| route.object);
        let tls = self.tls_routes.values().map(|route| route.object);
        let tcp = self.tcp_routes.values().map(|route| route.object);
        let udp = self.udp_routes.values().map(|route| route.object);
        http.chain(grpc).chain(tls).chain(tcp).chain(udp)
    }

    /// True if a route has a rule of this name.
    pub(super) fn has_rule(&self, route: &ObjectRef, rule: &str) -> bool {
        fn named<M>(rules: &[RouteRule<M>], name: &str) -> bool {
            rules.iter().any(|rule| rule.name.as_deref() == Some(name))
        }
        let key = (&*route.namespace, &*route.name);
        match &*route.kind {
            "GRPCRoute" => {
                self.grpc_routes.get(&key).is_some_and(|route| named(&route.value.spec.rules, rule))
            }
            _ => self.http_routes.get(&key).is_some_and(|route| named(&route.value.spec.rules, rule)),
        }
    }

    /// A ListenerSet of this source.
    pub(super) fn listener_set(&self, namespace: &str, name: &str) -> Option<&Indexed<'a, ListenerSet>> {
        self.listener_sets.get(self.set_keys.get(namespace)?.get(name)?)
    }

    /// True if the source does not hold all objects of this kind.
    pub(super) fn is_open(&self, kind: &str) -> bool {
        self.options.open.contains(kind)
    }

    /// The labels of a namespace: its object's, and the name label that every API server sets.
    pub(super) fn namespace_labels(&self, namespace: &str) -> BTreeMap<String, String> {
        let mut labels = self.namespaces.get(namespace).cloned().unwrap_or_default();
        labels.insert("kubernetes.io/metadata.name".into(), namespace.into());
        labels
    }

    /// The grants that lie in a namespace: only there do they count.
    pub(super) fn grants(&self, namespace: &str) -> &[ReferenceGrant] {
        self.grants.get(namespace).map_or(&[], Vec::as_slice)
    }
}

fn insert<'a, T: DeserializeOwned>(
    all: &mut BTreeMap<Key<'a>, Indexed<'a, T>>,
    object: &'a Object,
    diagnostics: &mut Diagnostics,
) {
    if let Some(value) = typed(object, diagnostics) {
        all.insert((&object.reference.namespace, &object.reference.name), Indexed { object, value });
    }
}

/// Decodes; `validate` has refused what does not fit, so a failure here is a kind that it let pass.
fn typed<T: DeserializeOwned>(object: &Object, diagnostics: &mut Diagnostics) -> Option<T> {
    match decode(&object.root) {
        Ok(value) => Some(value),
        Err(error) => {
            diagnostics.push(object.diagnostic(&TYPE_MISMATCH, error.path, error.message));
            None
        }
    }
}
