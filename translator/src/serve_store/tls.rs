//! The server's certificate: from files that somebody renews, or of the store's own authority.

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;

/// How often files are looked at.
const RELOAD: Duration = Duration::from_mins(1);

/// What the server shows to those who connect; none before there is a certificate.
pub type Shown = Option<Arc<ServerConfig>>;

/// The files of a certificate and its key, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The chain, the server's own certificate first.
    pub chain: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// What makes no certificate.
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
    #[error("the certificate and its key cannot be used: {0}")]
    Configuration(String),
}

impl Certificate {
    /// Reads the files.
    pub fn load(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let file = |path: &PathBuf, reason: String| CertificateError::File { path: path.clone(), reason };
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| file(path, error.to_string()));
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&read(&self.chain)?)
            .collect::<Result<_, _>>()
            .map_err(|error| file(&self.chain, error.to_string()))?;
        if chain.is_empty() {
            return Err(file(&self.chain, "no certificate in it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|error| file(&self.key, error.to_string()))?;
        config(chain, key)
    }

    /// Reads the files again and again, for a server that is shown what they hold.
    pub async fn keep(self, shown: watch::Sender<Shown>) {
        loop {
            tokio::time::sleep(RELOAD).await;
            match self.load() {
                Ok(loaded) => drop(shown.send_replace(Some(loaded))),
                Err(error) => tracing::error!(%error, "the certificate that was read before stays in use"),
            }
        }
    }
}

/// A certificate and key in PEM.
pub(super) fn of_pem(chain: &str, key: &str) -> Result<Arc<ServerConfig>, CertificateError> {
    let wrong = |error: rustls_pki_types::pem::Error| CertificateError::Configuration(error.to_string());
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().map_err(wrong)?;
    config(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(wrong)?)
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, CertificateError> {
    let wrong = |error: rustls::Error| CertificateError::Configuration(error.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(wrong)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
