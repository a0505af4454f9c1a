//! Bindings of secrets and trust bundles to SDS resources, from mounted files.
//!
//! `DIR/<namespace>/<name>/{tls.crt,tls.key}` is a pair, `DIR/<namespace>/<name>/ca.crt` a bundle: the layout in which
//! Kubernetes mounts Secrets and ConfigMaps. Each pair is checked before Envoy sees it. A bad one keeps the last good
//! one in service and costs nobody else anything. Keys stay in memory; they are neither logged nor cached.

mod pair;

pub use pair::SecretError;

use crate::serve::proto::{CertificateValidationContext, DataSource, Secret, TlsCertificate};
use bytes::Bytes;
use moorgate_snapshot::{Binding, BindingKind, BindingSource};
use prost::Message as _;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most that one file of a secret may hold: Kubernetes allows 1 MiB for all of them.
const MAX_BYTES: u64 = 1 << 20;

/// A value that Envoy can be given.
#[derive(Clone, PartialEq, Eq)]
pub struct Served {
    /// The encoded `Secret`.
    pub bytes: Bytes,
    /// When its first certificate ends, in seconds since 1970.
    pub not_after: i64,
}

impl std::fmt::Debug for Served {
    /// Without the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Served(not_after {})", self.not_after)
    }
}

/// All secrets that are or were good.
#[derive(Debug, Default)]
pub struct Secrets {
    served: BTreeMap<Arc<str>, Served>,
}

impl Secrets {
    /// Reads the files of every binding again and returns what is wrong, by SDS name. A missing or bad one keeps its
    /// last good value; a name that no binding asks for is dropped.
    pub fn reload<'b>(
        &mut self,
        folder: &Path,
        bindings: impl Iterator<Item = &'b Binding>,
    ) -> Vec<(Arc<str>, SecretError)> {
        let mut errors = Vec::new();
        let mut served = BTreeMap::new();
        for binding in bindings {
            let BindingSource::Object { namespace, name, .. } = &binding.source else { continue };
            match path(folder, namespace, name).and_then(|path| read(binding, &path)) {
                Ok(value) => drop(served.insert(binding.name.clone(), value)),
                Err(error) => {
                    if let Some(last) = self.served.remove(&binding.name) {
                        served.insert(binding.name.clone(), last);
                    }
                    errors.push((binding.name.clone(), error));
                }
            }
        }
        self.served = served;
        errors
    }

    /// All values, by SDS name.
    pub fn served(&self) -> &BTreeMap<Arc<str>, Served> {
        &self.served
    }
}

/// The folder of an object. Names come from a verified snapshot, and still must not leave the folder.
fn path(folder: &Path, namespace: &str, name: &str) -> Result<PathBuf, SecretError> {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\\', '\0']);
    if plain(namespace) && plain(name) {
        Ok(folder.join(namespace).join(name))
    } else {
        Err(SecretError::Name)
    }
}

fn read(binding: &Binding, folder: &Path) -> Result<Served, SecretError> {
    let file = |name: &str| {
        let path = folder.join(name);
        super::file::read(&path, MAX_BYTES).map_err(|source| SecretError::Io { path, source })
    };
    let inline = |bytes: Vec<u8>| Some(DataSource { inline_bytes: Some(bytes.into()) });
    let (secret, not_after) = match binding.kind {
        BindingKind::TrustBundle => {
            let bundle = file("ca.crt")?;
            let not_after = pair::check_bundle(&bundle)?;
            let context = CertificateValidationContext { trusted_ca: inline(bundle) };
            (
                Secret {
                    name: binding.name.to_string(),
                    tls_certificate: None,
                    validation_context: Some(context),
                },
                not_after,
            )
        }
        BindingKind::Secret | BindingKind::Endpoints => {
            let (chain, key) = (file("tls.crt")?, file("tls.key")?);
            let not_after = pair::check_pair(&chain, &key)?;
            let pair = TlsCertificate { certificate_chain: inline(chain), private_key: inline(key) };
            (
                Secret {
                    name: binding.name.to_string(),
                    tls_certificate: Some(pair),
                    validation_context: None,
                },
                not_after,
            )
        }
    };
    Ok(Served { bytes: secret.encode_to_vec().into(), not_after })
}

#[cfg(test)]
mod tests;
