//! Whether a certificate and its key can be served.

use crate::bind::late::SealError;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::PathBuf;
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Error};
use x509_parser::revocation_list::CertificateRevocationList;

/// Why a secret cannot be served. No variant holds its content.
#[derive(Debug, Error)]
pub enum SecretError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Namespace or name cannot be a folder's name.
    #[error("the name cannot be that of a folder")]
    Name,
    /// The API server has no such object.
    #[error("there is no such object")]
    Absent,
    /// The API server does not tell.
    #[error("it cannot be read: {0}")]
    Untold(String),
    /// The object lacks an entry.
    #[error("it has no {0}")]
    Incomplete(&'static str),
    /// The object lacks an entry that a template asks for.
    #[error("it has no {0}")]
    Lacks(String),
    /// An entry is not what is needed.
    #[error("{0}")]
    Form(&'static str),
    /// The binding's object is of a kind, or has a name, that cannot be asked for.
    #[error("no API server can have it")]
    Unaskable,
    /// The certificates cannot be parsed.
    #[error("no usable certificate: {0}")]
    Certificate(&'static str),
    /// The key cannot be parsed, or is of a kind that is not served.
    #[error("no usable private key")]
    Key,
    /// It lies sealed in the store, and does not open.
    #[error(transparent)]
    Sealed(SealError),
    /// The key belongs to another certificate.
    #[error("the private key does not fit the certificate")]
    Mismatch,
    /// A certificate of the chain was not issued by the next one: clients would not find the way to a root.
    #[error("certificate {0} of the chain was not issued by the one after it")]
    Chain(usize),
}

impl SecretError {
    /// A stable word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => "missing",
            Self::Absent => "missing",
            Self::Io { .. } | Self::Untold(_) => "unreadable",
            Self::Name | Self::Unaskable => "name",
            Self::Incomplete(_) | Self::Lacks(_) => "incomplete",
            Self::Form(_) => "form",
            Self::Certificate(_) => "certificate",
            Self::Key => "key",
            Self::Sealed(_) => "sealed",
            Self::Mismatch => "mismatch",
            Self::Chain(_) => "chain",
        }
    }
}

/// Checks a chain and its key; the end of the first certificate, in seconds since 1970. An expired one is good enough
/// to be served: clients decide, and an alarm tells.
pub(super) fn check_pair(chain: &[u8], key: &[u8]) -> Result<i64, SecretError> {
    let chain = certificates(chain)?;
    let not_after = end(&chain)?;
    check_chain(&chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| SecretError::Key)?;
    let key = any_supported_type(&key).map_err(|_| SecretError::Key)?;
    match CertifiedKey::new(chain, key).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(not_after),
        Err(_) => Err(SecretError::Mismatch),
    }
}

/// Checks that a bundle holds certificates; the earliest end of them.
pub(super) fn check_bundle(bundle: &[u8]) -> Result<i64, SecretError> {
    end(&certificates(bundle)?)
}

/// Checks that a file holds lists of revoked certificates. One that is out of date is good enough: it says of those that it
/// names what was true.
pub(super) fn check_revoked(lists: &[u8]) -> Result<(), SecretError> {
    let found = CertificateRevocationListDer::pem_slice_iter(lists).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|_| SecretError::Form("it is no PEM"))?;
    let parses = |list: &CertificateRevocationListDer<'_>| CertificateRevocationList::from_der(list).is_ok();
    if found.is_empty() || !found.iter().all(parses) {
        return Err(SecretError::Form("it holds no list of revoked certificates"));
    }
    Ok(())
}

/// Each certificate was issued by the next one (RFC 5246 section 7.4.2; RFC 8446 relaxes that for clients, and many of
/// them still ask for it). What cannot be judged, a signature of a kind that is not known here, is let through.
fn check_chain(chain: &[CertificateDer<'static>]) -> Result<(), SecretError> {
    for (position, pair) in chain.windows(2).enumerate() {
        let [subject, issuer] = pair else { continue };
        let parsed = X509Certificate::from_der(subject).ok().zip(X509Certificate::from_der(issuer).ok());
        let Some(((_, subject), (_, issuer))) = parsed else { continue };
        let named = subject.issuer().as_raw() == issuer.subject().as_raw();
        let signed = match subject.verify_signature(Some(issuer.public_key())) {
            Ok(()) | Err(X509Error::SignatureUnsupportedAlgorithm) => true,
            Err(_) => false,
        };
        if !named || !signed {
            return Err(SecretError::Chain(position + 1));
        }
    }
    Ok(())
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SecretError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| SecretError::Certificate("it is no PEM"))?;
    if found.is_empty() { Err(SecretError::Certificate("the file holds none")) } else { Ok(found) }
}

fn end(chain: &[CertificateDer<'static>]) -> Result<i64, SecretError> {
    let mut earliest = i64::MAX;
    for certificate in chain {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|_| SecretError::Certificate("it is no X.509"))?;
        earliest = earliest.min(parsed.validity().not_after.timestamp());
    }
    Ok(earliest)
}
