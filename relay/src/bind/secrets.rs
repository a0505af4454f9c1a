//! Bindings of secrets and trust bundles to SDS resources, from mounted files or from a cluster.
//!
//! `DIR/<namespace>/<name>/{tls.crt,tls.key}` is a pair, `DIR/<namespace>/<name>/ca.crt` a bundle: the layout in which
//! Kubernetes mounts Secrets and ConfigMaps; a ClusterTrustBundle is `DIR/<name>/ca.crt`. Each pair is checked before Envoy sees it. A bad one keeps the last good
//! one in service and costs nobody else anything. Keys stay in memory; they are neither logged nor cached.

mod joined;
mod pair;

pub use pair::SecretError;

use super::late::Late;
use super::live::{Answer, Live, Object, Pem};
use crate::serve::proto::{CertificateValidationContext, DataSource, Secret, TlsCertificate};
use bytes::Bytes;
use moorgate_snapshot::{Binding, BindingKind, BindingSource, Digest};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Of what it was made: the same is not checked again.
    made_of: Digest,
}

impl std::fmt::Debug for Served {
    /// Without the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Served(not_after {})", self.not_after)
    }
}

/// Where secrets are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'s> {
    /// Mounted files. What they hold counts before what a cluster says.
    pub folder: Option<&'s Path>,
    /// The store's own, sealed. What they hold counts before what a cluster says.
    pub late: Option<&'s Late>,
    /// A cluster.
    pub live: Option<&'s Live>,
}

/// What came of reading.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// What is wrong, by SDS name.
    pub errors: BTreeMap<Arc<str>, SecretError>,
    /// Names of which nothing is known yet.
    pub pending: BTreeSet<Arc<str>>,
}

/// All secrets that are or were good.
#[derive(Debug, Default)]
pub struct Secrets {
    served: BTreeMap<Arc<str>, Served>,
    joined: joined::Joined,
}

impl Secrets {
    /// Reads the object of every binding again. A missing or bad one keeps its last good value; a name that no binding
    /// asks for is dropped.
    pub fn reload<'b>(
        &mut self,
        source: Source<'_>,
        bindings: impl Iterator<Item = &'b Binding>,
    ) -> Reloaded {
        let mut out = Reloaded::default();
        let mut served = BTreeMap::new();
        for binding in bindings {
            let name = &binding.name;
            let last = self.served.remove(name);
            let read = match &binding.source {
                BindingSource::Objects(objects) => self.joined.read(source, binding, objects, &mut out),
                BindingSource::Object { .. } | BindingSource::Endpoints(_) => source.read(binding),
            };
            let value = match read {
                None => {
                    if last.is_none() {
                        out.pending.insert(Arc::clone(name));
                    }
                    last
                }
                Some(read) => match read.and_then(|pem| serve(binding, &pem, last.as_ref())) {
                    Ok(value) => Some(value),
                    Err(error) => {
                        out.errors.insert(Arc::clone(name), error);
                        last
                    }
                },
            };
            served.extend(value.map(|value| (Arc::clone(name), value)));
        }
        self.joined.keep(served.keys());
        self.served = served;
        out
    }

    /// All values, by SDS name.
    pub fn served(&self) -> &BTreeMap<Arc<str>, Served> {
        &self.served
    }
}

impl Source<'_> {
    /// The entries behind a binding; `None` if they may come yet.
    fn read(self, binding: &Binding) -> Option<Result<Pem, SecretError>> {
        let BindingSource::Object { kind, namespace, name } = &binding.source else {
            return Some(Err(SecretError::Unaskable));
        };
        let file = self.folder.map(|folder| {
            path(folder, kind, namespace, name).and_then(|folder| files(binding.kind, &folder))
        });
        let missing = match file {
            Some(Err(error)) if error.label() == "missing" => Some(error),
            Some(read) => return Some(read),
            None => None,
        };
        if let Some(sealed) = self.late.and_then(|late| late.secret(namespace, name)) {
            return Some(sealed.map(|pem| Pem::clone(&pem)).map_err(SecretError::Sealed));
        }
        match self.live {
            Some(live) => told(live, binding),
            // What the store has is not known yet.
            None if self.late.is_some_and(|late| !late.synced()) => None,
            None => Some(Err(missing.unwrap_or(SecretError::Absent))),
        }
    }
}

fn told(live: &Live, binding: &Binding) -> Option<Result<Pem, SecretError>> {
    let Some(object) = Object::of(&binding.source) else { return Some(Err(SecretError::Unaskable)) };
    match live.object(&object) {
        Answer::Pending => None,
        Answer::Absent => Some(Err(SecretError::Absent)),
        Answer::Failed(reason) => Some(Err(SecretError::Untold(reason))),
        Answer::Found(pem) => Some(Ok(Pem::clone(&pem))),
    }
}

/// The folder of an object. Names come from a verified snapshot, and still must not leave the folder.
fn path(folder: &Path, kind: &str, namespace: &str, name: &str) -> Result<PathBuf, SecretError> {
    let plain = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['/', '\\', '\0']);
    if kind == "ClusterTrustBundle" && namespace.is_empty() && plain(name) {
        // It lies in no namespace.
        Ok(folder.join(name))
    } else if plain(namespace) && plain(name) {
        Ok(folder.join(namespace).join(name))
    } else {
        Err(SecretError::Name)
    }
}

fn files(kind: BindingKind, folder: &Path) -> Result<Pem, SecretError> {
    let file = |name: &str| {
        let path = folder.join(name);
        super::file::read(&path, MAX_BYTES).map(Some).map_err(|source| SecretError::Io { path, source })
    };
    match kind {
        BindingKind::TrustBundle => Ok(Pem { bundle: file("ca.crt")?, ..Pem::default() }),
        BindingKind::Secret | BindingKind::Endpoints => {
            Ok(Pem { chain: file("tls.crt")?, key: file("tls.key")?, bundle: None })
        }
    }
}

/// The resource of a binding, checked; the last one if it was made of the same.
fn serve(binding: &Binding, pem: &Pem, last: Option<&Served>) -> Result<Served, SecretError> {
    fn entry<'p>(entry: Option<&'p Vec<u8>>, name: &'static str) -> Result<&'p [u8], SecretError> {
        entry.map(Vec::as_slice).ok_or(SecretError::Incomplete(name))
    }
    let inline = |bytes: &[u8]| Some(DataSource { inline_bytes: Some(bytes.to_vec().into()) });
    let mut secret =
        Secret { name: binding.name.to_string(), tls_certificate: None, validation_context: None };
    let (made_of, not_after) = match binding.kind {
        BindingKind::TrustBundle => {
            let bundle = entry(pem.bundle.as_ref(), "ca.crt")?;
            let made_of = Digest::of(bundle);
            if let Some(last) = last.filter(|last| last.made_of == made_of) {
                return Ok(last.clone());
            }
            secret.validation_context = Some(CertificateValidationContext { trusted_ca: inline(bundle) });
            (made_of, pair::check_bundle(bundle)?)
        }
        BindingKind::Secret | BindingKind::Endpoints => {
            let chain = entry(pem.chain.as_ref(), "tls.crt")?;
            let key = entry(pem.key.as_ref(), "tls.key")?;
            let lengths = (chain.len() as u64).to_be_bytes();
            let made_of = Digest::of_parts([&lengths[..], chain, key]);
            if let Some(last) = last.filter(|last| last.made_of == made_of) {
                return Ok(last.clone());
            }
            let pair = TlsCertificate { certificate_chain: inline(chain), private_key: inline(key) };
            secret.tls_certificate = Some(pair);
            (made_of, pair::check_pair(chain, key)?)
        }
    };
    Ok(Served { not_after, bytes: secret.encode_to_vec().into(), made_of })
}

#[cfg(test)]
mod tests;
