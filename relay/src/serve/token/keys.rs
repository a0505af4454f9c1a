//! The public keys of a cluster's tokens, as a JSON Web Key Set (RFC 7517): from a file, or from the API server and then
//! kept on disk, so that Envoys are let in while the API server is down.

use super::TokenError;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// The largest set of keys, in bytes.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// The most keys that are kept.
const MAX_KEYS: usize = 64;
/// Keys are not read again sooner than this, however many tokens name a key that is not known.
const PAUSE: Duration = Duration::from_secs(1);
/// The API server has so long to tell its keys.
#[cfg(feature = "kubernetes")]
const ANSWER: Duration = Duration::from_secs(5);

/// Keys that cannot be had.
#[derive(Debug, Error)]
pub enum KeysError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The text is no set of keys.
    #[error("no set of keys (JWKS): {0}")]
    Form(String),
    /// The API server does not tell.
    #[error("the API server tells no keys: {0}")]
    Untold(String),
}

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// A file, as `kubectl get --raw /openid/v1/jwks` prints it.
    File(PathBuf),
    /// The API server, and the file where its keys are kept for the time when it is down.
    #[cfg(feature = "kubernetes")]
    Api(crate::bind::kubernetes::Api, Option<PathBuf>),
}

/// Whether tokens that are signed so count: what API servers sign by, and nothing that a client could forge with a public key.
pub(super) fn counts(algorithm: &str) -> bool {
    matches!(algorithm, "RS256" | "ES256" | "ES384")
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    algorithm: &'static str,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Point(Vec<u8>),
}

impl Key {
    /// Whether this key made this signature by this method.
    pub(super) fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> Result<(), TokenError> {
        if algorithm != self.algorithm {
            return Err(TokenError::Algorithm);
        }
        let verified = match &self.material {
            Material::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            Material::Point(point) => {
                let method = if self.algorithm == "ES384" {
                    &ECDSA_P384_SHA384_FIXED
                } else {
                    &ECDSA_P256_SHA256_FIXED
                };
                UnparsedPublicKey::new(method, point).verify(message, signature)
            }
        };
        verified.map_err(|_| TokenError::Signature)
    }
}

/// Keys by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet(BTreeMap<String, Key>);

#[derive(Deserialize)]
struct Document {
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set. Keys of other kinds, for other purposes or without an id are passed over.
    ///
    /// # Errors
    /// It is none, or holds no key that counts.
    pub fn parse(json: &[u8]) -> Result<Self, KeysError> {
        if json.len() > MAX_BYTES {
            return Err(KeysError::Form("it is too large".to_owned()));
        }
        let document: Document =
            serde_json::from_slice(json).map_err(|error| KeysError::Form(error.to_string()))?;
        let usable = document.keys.into_iter().filter_map(|entry| Some((entry.kid.clone()?, key(&entry)?)));
        let keys: BTreeMap<String, Key> = usable.take(MAX_KEYS).collect();
        if keys.is_empty() {
            return Err(KeysError::Form("no key in it counts: RS256, ES256 and ES384 do".to_owned()));
        }
        Ok(Self(keys))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn key(entry: &Entry) -> Option<Key> {
    let part = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    if entry.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let (algorithm, material) = match (entry.kty.as_str(), entry.crv.as_deref()) {
        ("RSA", _) => ("RS256", Material::Rsa { n: part(&entry.n)?, e: part(&entry.e)? }),
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let (algorithm, length) = if curve == "P-256" { ("ES256", 32) } else { ("ES384", 48) };
            let (x, y) = (part(&entry.x)?, part(&entry.y)?);
            // Leading zeros belong to a coordinate (RFC 7518 §6.2.1.2).
            if x.len() != length || y.len() != length {
                return None;
            }
            (algorithm, Material::Point([&[4][..], &x, &y].concat()))
        }
        _ => return None,
    };
    let fits = entry.alg.as_deref().is_none_or(|stated| stated == algorithm);
    fits.then_some(Key { algorithm, material })
}

/// The keys of the moment.
#[derive(Debug)]
pub struct Keys {
    source: KeySource,
    current: Mutex<Arc<KeySet>>,
    /// When the source was asked last; held while it is asked.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Keys {
    /// The keys of a source. A file must be readable now; an API server need not answer if its keys were kept.
    ///
    /// # Errors
    /// The file is not usable.
    pub async fn open(source: KeySource) -> Result<Arc<Self>, KeysError> {
        let keys = Self { source, current: Mutex::default(), asked: tokio::sync::Mutex::new(None) };
        match &keys.source {
            KeySource::File(_) => keys.refresh().await?,
            #[cfg(feature = "kubernetes")]
            KeySource::Api(_, kept) => {
                if let Some(set) = kept.as_ref().and_then(|path| load(path).ok()) {
                    keys.put(set);
                }
                if let Err(error) = keys.refresh().await {
                    tracing::warn!(%error, kept = keys.now().len(), "tokens are judged by the keys that were kept");
                }
            }
        }
        Ok(Arc::new(keys))
    }

    /// Reads the keys again.
    ///
    /// # Errors
    /// They cannot be had: those of before stay.
    pub async fn refresh(&self) -> Result<(), KeysError> {
        self.ask(Duration::ZERO).await
    }

    /// The key of an id. One that is not known may be new: the source is asked, though not for each token anew.
    pub(super) async fn find(&self, id: &str) -> Option<Key> {
        if let Some(key) = self.now().0.get(id) {
            return Some(key.clone());
        }
        if let Err(error) = self.ask(PAUSE).await {
            tracing::warn!(%error, "the keys of tokens that were read before stay in use");
        }
        self.now().0.get(id).cloned()
    }

    /// Asks the source, unless somebody did within this time. Whoever comes meanwhile waits for that answer.
    async fn ask(&self, within: Duration) -> Result<(), KeysError> {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < within) {
            return Ok(());
        }
        let fetched = self.fetch().await;
        *asked = Some(Instant::now());
        let set = fetched?;
        if *self.now() != set {
            tracing::info!(keys = set.len(), "tokens are judged by other keys from now on");
            self.put(set);
        }
        Ok(())
    }

    async fn fetch(&self) -> Result<KeySet, KeysError> {
        match &self.source {
            KeySource::File(path) => load(path),
            #[cfg(feature = "kubernetes")]
            KeySource::Api(api, kept) => {
                let told = tokio::time::timeout(ANSWER, api.token_keys()).await;
                let json = told.unwrap_or_else(|_| Err("it does not answer in time".to_owned()));
                let json = json.map_err(KeysError::Untold)?;
                let set = KeySet::parse(json.as_bytes())?;
                if let Some(path) = kept.as_ref().filter(|_| *self.now() != set)
                    && let Err(error) = keep(path, json.as_bytes())
                {
                    tracing::warn!(%error, "the keys of tokens are not kept on disk");
                }
                Ok(set)
            }
        }
    }

    fn now(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, set: KeySet) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(set);
    }
}

fn load(path: &std::path::Path) -> Result<KeySet, KeysError> {
    let json = crate::bind::file::read(path, MAX_BYTES as u64)
        .map_err(|source| KeysError::Io { path: path.to_owned(), source })?;
    KeySet::parse(&json)
}

/// Writes a file so that a reader sees the old text or the new one.
#[cfg(feature = "kubernetes")]
fn keep(path: &std::path::Path, json: &[u8]) -> Result<(), KeysError> {
    use crate::cache::{Disk as _, LocalDisk};
    let error = |source| KeysError::Io { path: path.to_owned(), source };
    let beside = path.with_added_extension("new");
    LocalDisk.write(&beside, json).map_err(error)?;
    LocalDisk.sync_file(&beside).map_err(error)?;
    LocalDisk.rename(&beside, path).map_err(error)
}
