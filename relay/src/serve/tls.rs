//! TLS on TCP: who the client is comes from its certificate, or from the token that it then sends.

use moorgate_snapshot::Digest;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where certificate, key and the clients' CA lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The relay's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// CA certificates that clients must descend from, PEM; none asks for no certificate.
    pub client_ca: Option<PathBuf>,
    /// A client without a certificate is let in too: it brings a token.
    pub tokens: bool,
}

/// Files that make no TLS configuration.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM of this kind.
    #[error("cannot use {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why; never its content.
        reason: String,
    },
    /// Certificate and key do not fit, or the CA is unusable.
    #[error("the certificate, key and client CA make no TLS configuration: {0}")]
    Configuration(String),
}

impl Files {
    /// Reads the files into a configuration that speaks HTTP/2 and asks every client for a certificate, if there is a CA.
    pub fn load(&self) -> Result<Arc<Tls>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let configuration = |error: rustls::Error| TlsError::Configuration(error.to_string());
        let (verifier, authorities) = match &self.client_ca {
            Some(path) => {
                let authorities = certificates(path)?;
                let digest = Digest::of_parts(authorities.iter().map(AsRef::as_ref));
                (self.verifier(authorities, &provider)?, Some(digest))
            }
            None if self.tokens => (WebPkiClientVerifier::no_client_auth(), None),
            None => return Err(TlsError::Configuration("clients would prove nothing".to_owned())),
        };
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| TlsError::File { path: self.key.clone(), reason: error.to_string() })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(configuration)?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(certificates(&self.certificate)?, key)
            .map_err(configuration)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(Tls { config: Arc::new(config), verifier, authorities }))
    }

    fn verifier(
        &self,
        authorities: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in authorities {
            roots.add(certificate).map_err(|error| TlsError::Configuration(error.to_string()))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = if self.tokens { builder.allow_unauthenticated() } else { builder };
        builder.build().map_err(|error| TlsError::Configuration(error.to_string()))
    }
}

/// TLS as the files say, and who judges the certificates of clients.
#[derive(Debug)]
pub struct Tls {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// The digest of the authorities of clients; none if no certificate is asked for.
    authorities: Option<Digest>,
}

/// A chain that a client has proven to have, its own certificate first, and what it was judged by.
#[derive(Debug)]
pub struct Proven {
    chain: Vec<CertificateDer<'static>>,
    authorities: Option<Digest>,
    /// When the client's own certificate ends, in seconds since 1970.
    end: i64,
}

impl Tls {
    /// A chain that passed a handshake under this configuration.
    pub fn proven(&self, chain: &[CertificateDer<'_>]) -> Proven {
        let own = chain.first().and_then(|own| X509Certificate::from_der(own).ok());
        Proven {
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            authorities: self.authorities,
            end: own.map_or(i64::MIN, |(_, own)| own.validity().not_after.timestamp()),
        }
    }

    /// Whether it would pass one now: it has not run out, and the authorities are the same, or still stand for it.
    pub fn trusts(&self, proven: &Proven) -> bool {
        let now = UnixTime::now();
        let Some((own, others)) = proven.chain.split_first() else { return false };
        if i64::try_from(now.as_secs()).is_ok_and(|now| now > proven.end) || self.authorities.is_none() {
            return false;
        }
        self.authorities == proven.authorities || self.verifier.verify_client_cert(own, others, now).is_ok()
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |reason: String| TlsError::File { path: path.to_owned(), reason };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|cause| error(cause.to_string()))?;
    if found.is_empty() { Err(error("no certificate in it".into())) } else { Ok(found) }
}

/// The names that a client certificate speaks for: its URIs (SPIFFE), and its DNS names in lower case.
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}
