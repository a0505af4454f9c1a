//! Certificates for tests: self-signed, made anew in each run.

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};

/// A certificate with its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate (PEM).
    pub certificate: String,
    /// Its private key (PEM).
    pub key: String,
    /// The certificate (DER), for clients that trust it.
    pub der: Vec<u8>,
}

impl Certificate {
    /// A certificate for these DNS names, valid for a year around today.
    pub fn for_names(names: &[&str]) -> Result<Self> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        Ok(Self { certificate: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() })
    }
}
