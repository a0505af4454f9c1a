//! CA certificates: what is known of the object behind a reference. The relay binds them late.

use super::index::Index;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorgate_model::{Object, ObjectRef};
use moorgate_policies::TrustBundle;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// The group of ClusterTrustBundles.
pub(super) const CERTIFICATES_GROUP: &str = "certificates.k8s.io";

/// Whether an object holds CA certificates: a ConfigMap under the key `ca.crt`, a ClusterTrustBundle in
/// `spec.trustBundle`.
pub(super) fn bundle(index: &Index<'_>, reference: &ObjectRef) -> TrustBundle {
    let key = (&*reference.namespace, &*reference.name);
    if reference.group.is_empty() && &*reference.kind == "Secret" {
        // What a Secret holds is for nobody to read here; whether it has the key is no secret.
        return match index.secrets.get(&key) {
            None if index.is_open("Secret") => TrustBundle::Usable,
            None => TrustBundle::Missing,
            Some(secret) => {
                let has =
                    |section: &str| secret.root.get(section).is_some_and(|data| data.get("ca.crt").is_some());
                let found = has("data") || has("stringData");
                if found { TrustBundle::Usable } else { TrustBundle::Unusable("it has no ca.crt".to_owned()) }
            }
        };
    }
    let (object, section, key) = if &*reference.group == CERTIFICATES_GROUP {
        (index.trust_bundles.get(&*reference.name), "spec", "trustBundle")
    } else {
        (index.config_maps.get(&key), "data", "ca.crt")
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

/// The certificates of a bundle by its name, `Kind/namespace/name`, as far as the source has them.
pub(super) fn text(index: &Index<'_>, bundle: &str) -> Option<String> {
    let (kind, rest) = bundle.split_once('/')?;
    let (namespace, name) = rest.split_once('/')?;
    let key = (namespace, name);
    let of = |object: &Object, section: &str, key: &str| {
        object.root.get(section)?.get(key)?.as_str().map(str::to_owned)
    };
    match kind {
        "ConfigMap" => of(index.config_maps.get(&key)?, "data", "ca.crt"),
        "ClusterTrustBundle" => of(index.trust_bundles.get(name)?, "spec", "trustBundle"),
        // Of a Secret, certificates of authorities are kept when it is read, and nothing else.
        "Secret" => {
            let secret = index.secrets.get(&key)?;
            of(secret, "stringData", "ca.crt").or_else(|| {
                let bytes = STANDARD.decode(of(secret, "data", "ca.crt")?).ok()?;
                String::from_utf8(bytes).ok()
            })
        }
        _ => None,
    }
}
