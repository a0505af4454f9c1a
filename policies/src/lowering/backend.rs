//! What a Backend is: where it lies, and how it is spoken to.

use super::Lowering;
use crate::TrustBundle;
use moorgate_model::ir::{AppProtocol, EndpointSource, UpstreamTls};
use moorgate_model::{FieldPath, ObjectRef};

/// What makes a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfBackend {
    /// Where its endpoints are.
    pub sources: Vec<EndpointSource>,
    /// What it speaks; nothing if the route decides.
    pub protocol: Option<AppProtocol>,
    /// It is asked where no other backend of the rule can be.
    pub fallback: bool,
    /// TLS towards it.
    pub tls: Option<UpstreamTls>,
}

impl OfBackend {
    /// Adds what another one says.
    pub(super) fn add(&mut self, other: &Self) {
        self.sources.extend(other.sources.iter().cloned());
        self.protocol = self.protocol.or(other.protocol);
        self.fallback |= other.fallback;
        self.tls = other.tls.clone().or(self.tls.take());
    }
}

impl Lowering<'_> {
    /// Something of the backend.
    pub(crate) fn of_backend(&mut self, backend: &OfBackend) {
        self.out.backend.add(backend);
    }

    /// Whether proxies may connect to a place: an address, a name, or the path of a socket. It makes the backend invalid if not.
    pub(crate) fn allowed(&mut self, at: &FieldPath, place: &str) -> bool {
        match self.world.allowed(place) {
            Ok(()) => true,
            Err(why) => {
                self.invalid(at.clone(), &why);
                false
            }
        }
    }

    /// The bundle of CA certificates in an object of the policy's namespace, or of the whole cluster. Without it the policy is
    /// not valid.
    pub(crate) fn authority(
        &mut self,
        at: &FieldPath,
        group: &str,
        kind: &str,
        name: &str,
    ) -> Option<String> {
        let object = match (group, kind) {
            ("", "ConfigMap" | "Secret") => ObjectRef::new(group, kind, self.namespace(), name),
            ("certificates.k8s.io", "ClusterTrustBundle") => ObjectRef::new(group, kind, "", name),
            _ => {
                let why = format!("a CA certificate cannot be taken from a {kind} of group {group:?}");
                self.invalid(at.key("kind"), &why);
                return None;
            }
        };
        match self.trust_bundle(&object) {
            TrustBundle::Usable => Some(format!("{kind}/{}/{name}", object.namespace)),
            TrustBundle::Missing => {
                self.invalid(at.key("name"), &format!("{object} is not in this source"));
                None
            }
            TrustBundle::Unusable(why) => {
                let message = format!("{object} holds no usable CA certificate: {why}");
                self.invalid(at.key("name"), &message);
                None
            }
        }
    }

    /// The cluster of a server outside that one of these CA certificates signs.
    pub(crate) fn outside_signed(
        &mut self,
        at: &FieldPath,
        host: &str,
        port: u16,
        bundle: &str,
    ) -> Option<String> {
        match self.world.outside_signed(host, port, bundle) {
            Ok(name) => {
                self.out.clusters.push(name.clone());
                Some(name)
            }
            Err(message) => {
                self.invalid(at.clone(), &message);
                None
            }
        }
    }

    /// The SDS name of a certificate for a reference at a field. Without it the backend is not valid.
    pub(crate) fn certificate(&mut self, at: &FieldPath) -> Option<String> {
        let found = self.world.certificate(self.object, at);
        match found {
            Ok(name) => Some(name),
            Err(finding) => {
                self.invalid.get_or_insert_with(|| finding.message.clone());
                self.failed = true;
                self.closed |= self.kind.restricts(at);
                self.findings.push(*finding);
                None
            }
        }
    }
}
