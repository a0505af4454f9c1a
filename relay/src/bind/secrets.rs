//! Bindings of secrets and trust bundles to SDS resources, from mounted files or from a cluster.
//!
//! `DIR/<namespace>/<name>/{tls.crt,tls.key}` is a pair, `DIR/<namespace>/<name>/ca.crt` a bundle: the layout in which
//! Kubernetes mounts Secrets and ConfigMaps; a ClusterTrustBundle is `DIR/<name>/ca.crt`. Where a template asks for other entries, each
//! is a file of its name. Each pair is checked before Envoy sees it. A bad one keeps the last good
//! one in service and costs nobody else anything. Keys stay in memory; they are neither logged nor cached.

mod joined;
mod made;
mod pair;

pub use pair::SecretError;

use super::late::Late;
use super::live::{Answer, Live, Object, Pem};
use crate::serve::proto::{CertificateValidationContext, DataSource, Secret, TlsCertificate};
use bytes::Bytes;
use moorgate_snapshot::{Binding, BindingKind, BindingSource, Digest, ObjectSource};
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
    /// When its first certificate ends, in seconds since 1970, if it holds any.
    pub not_after: Option<i64>,
    /// Of what it was made: the same is not checked again.
    made_of: Digest,
    /// It stands in for what has never been there.
    pub stands_in: bool,
}

impl std::fmt::Debug for Served {
    /// Without the content.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Served(not_after {:?})", self.not_after)
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
    made: made::Made,
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
        let (mut served, mut wanted) = (BTreeMap::new(), Vec::new());
        for binding in bindings {
            let name = &binding.name;
            wanted.push(Arc::clone(name));
            let last = self.served.remove(name);
            if let BindingSource::Template(template) = &binding.source {
                let value = self.made.read(source, (binding, template), last, &mut out);
                served.extend(value.map(|value| (Arc::clone(name), value)));
                continue;
            }
            let read = match &binding.source {
                BindingSource::Objects(objects) => self.joined.read(source, binding, objects, &mut out),
                BindingSource::Object { .. }
                | BindingSource::Endpoints(_)
                | BindingSource::Zoned(..)
                | BindingSource::Template(_) => source.read(binding),
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
        self.made.keep(wanted.iter());
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
        let object = Object::of(&binding.source);
        self.find((kind, namespace, name), object, |folder| files(binding.kind, folder))
    }

    /// All entries of an object; `None` if they may come yet.
    fn entries(self, object: &ObjectSource) -> Option<Result<Pem, SecretError>> {
        let ObjectSource { kind, namespace, name } = object;
        self.find((kind, namespace, name), Object::whole(object), all_files)
    }

    fn find(
        self,
        (kind, namespace, name): (&str, &str, &str),
        object: Option<Object>,
        files: impl Fn(&Path) -> Result<Pem, SecretError>,
    ) -> Option<Result<Pem, SecretError>> {
        let file =
            self.folder.map(|folder| path(folder, kind, namespace, name).and_then(|folder| files(&folder)));
        let missing = match file {
            Some(Err(error)) if error.label() == "missing" => Some(error),
            Some(read) => return Some(read),
            None => None,
        };
        if let Some(sealed) = self.late.and_then(|late| late.secret(namespace, name)) {
            return Some(sealed.map(|pem| Pem::clone(&pem)).map_err(SecretError::Sealed));
        }
        match self.live {
            Some(live) => told(live, object),
            // What the store has is not known yet.
            None if self.late.is_some_and(|late| !late.synced()) => None,
            None => Some(Err(missing.unwrap_or(SecretError::Absent))),
        }
    }
}

fn told(live: &Live, object: Option<Object>) -> Option<Result<Pem, SecretError>> {
    let Some(object) = object else { return Some(Err(SecretError::Unaskable)) };
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
        BindingKind::Secret | BindingKind::Extension | BindingKind::Endpoints => {
            Ok(Pem { chain: file("tls.crt")?, key: file("tls.key")?, ..Pem::default() })
        }
    }
}

/// All entries of an object, each a file. A name with two dots before it is one of the folders in which Kubernetes keeps
/// the generations of a mounted object.
fn all_files(folder: &Path) -> Result<Pem, SecretError> {
    let io = |path: &Path, source| SecretError::Io { path: path.to_path_buf(), source };
    let mut entries = BTreeMap::new();
    let mut left = MAX_BYTES;
    for entry in std::fs::read_dir(folder).map_err(|source| io(folder, source))? {
        let path = entry.map_err(|source| io(folder, source))?.path();
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or("..").to_owned();
        if name.starts_with("..") || !path.is_file() {
            continue;
        }
        let bytes = crate::bind::file::read(&path, left).map_err(|source| io(&path, source))?;
        left = left.saturating_sub(bytes.len() as u64);
        entries.insert(name, bytes);
    }
    Ok(Pem { entries, ..Pem::default() })
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
        BindingKind::Secret | BindingKind::Extension | BindingKind::Endpoints => {
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
    let bytes = secret.encode_to_vec().into();
    Ok(Served { not_after: Some(not_after), bytes, made_of, stands_in: false })
}

#[cfg(test)]
mod tests;
