//! TLS of our own clients: rustls on ring, and what this machine trusts.

use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ConfigBuilder, Error, RootCertStore, WantsVerifier};
use rustls_pki_types::CertificateDer;
use rustls_platform_verifier::Verifier;
use std::sync::Arc;

/// Trusts what this machine trusts, and these authorities besides.
///
/// # Errors
/// There is nobody to trust, or one of these is no certificate.
pub(crate) fn trusting(authorities: Vec<CertificateDer<'static>>) -> Result<ClientConfig, Error> {
    let (builder, provider) = builder()?;
    // With and without authorities of one's own it is the same verifier.
    let verifier = Verifier::new_with_extra_roots(authorities, provider)?;
    // It is the platform's own; this is how rustls takes one.
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// Trusts nobody: for clients of plain HTTP that may be redirected.
///
/// # Errors
/// TLS cannot be set up.
pub(super) fn distrusting() -> Result<ClientConfig, Error> {
    Ok(builder()?.0.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

type Builder = ConfigBuilder<ClientConfig, WantsVerifier>;

fn builder() -> Result<(Builder, Arc<CryptoProvider>), Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    Ok((builder.with_safe_default_protocol_versions()?, provider))
}
