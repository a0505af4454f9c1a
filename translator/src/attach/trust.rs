//! CA certificates: what is known of the object behind a reference. The relay binds them late.

use super::index::Index;
use moorgate_model::ObjectRef;
use moorgate_policies::TrustBundle;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// The group of ClusterTrustBundles.
pub(super) const CERTIFICATES_GROUP: &str = "certificates.k8s.io";

/// Whether an object holds CA certificates: a ConfigMap under the key `ca.crt`, a ClusterTrustBundle in
/// `spec.trustBundle`.
pub(super) fn bundle(index: &Index<'_>, reference: &ObjectRef) -> TrustBundle {
    let (object, section, key) = if &*reference.group == CERTIFICATES_GROUP {
        (index.trust_bundles.get(&*reference.name), "spec", "trustBundle")
    } else {
        (index.config_maps.get(&(&*reference.namespace, &*reference.name)), "data", "ca.crt")
    };
    let Some(object) = object else {
        return if index.is_open(&reference.kind) { TrustBundle::Usable } else { TrustBundle::Missing };
    };
    let text = object.root.get(section).and_then(|data| data.get(key)).and_then(|node| node.as_str());
    let Some(text) = text else { return TrustBundle::Unusable(format!("it has no {key}")) };
    match CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => TrustBundle::Usable,
        _ => TrustBundle::Unusable(format!("{key} holds no PEM certificate")),
    }
}
