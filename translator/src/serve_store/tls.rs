//! The server's certificate, read anew while it serves.

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::Arc;
use thiserror::Error;

/// The files of a certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The chain, the server's own certificate first.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Files that make no certificate.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// A file cannot be read, or holds no PEM of this kind.
    #[error("cannot use {path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why; never its content.
        reason: String,
    },
    /// Certificate and key do not fit.
    #[error("certificate and key cannot be used: {0}")]
    Configuration(String),
}

impl Certificate {
    /// Reads the files.
    pub fn load(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let file = |path: &PathBuf, reason: String| CertificateError::File { path: path.clone(), reason };
        let chain: Vec<_> = CertificateDer::pem_file_iter(&self.chain)
            .and_then(Iterator::collect)
            .map_err(|error| file(&self.chain, error.to_string()))?;
        if chain.is_empty() {
            return Err(file(&self.chain, "no certificate in it".to_owned()));
        }
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|error| file(&self.key, error.to_string()))?;
        let configuration = |error: rustls::Error| CertificateError::Configuration(error.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(configuration)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(configuration)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
