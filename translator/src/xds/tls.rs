//! TLS on both sides.

use super::{route, value};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, TransportSocket, data_source, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use moorgate_model::ir::{AppProtocol, DownstreamTls, UpstreamTls};
use prost::{Message, Name};

/// How long Envoy waits for a secret before it goes on without: one missing secret must not hold up its neighbours
/// on the listener. Handshakes that need it fail until it comes.
const SECRET_TIMEOUT_SECONDS: i64 = 2;

/// Where distributions, and Envoy's own images, keep the roots.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// TLS 1.2 and 1.3. The cipher suites stay Envoy's: forward secret AEAD only, and FIPS builds have a list of their
/// own that a list of ours would break.
fn parameters() -> TlsParameters {
    TlsParameters {
        tls_minimum_protocol_version: TlsProtocol::TlSv12.into(),
        tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
        ..Default::default()
    }
}

fn secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig { name: name.to_owned(), sds_config: Some(value::ads(SECRET_TIMEOUT_SECONDS)) }
}

fn socket<M: Message + Name>(context: &M) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(ConfigType::TypedConfig(value::any(context))),
    }
}

pub(super) fn downstream(tls: &DownstreamTls) -> TransportSocket {
    socket(&DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(parameters()),
            tls_certificate_sds_secret_configs: tls.secrets.iter().map(|name| secret(name)).collect(),
            alpn_protocols: vec!["h2".into(), "http/1.1".into()],
            ..Default::default()
        }),
        ..Default::default()
    })
}

pub(super) fn upstream(tls: &UpstreamTls, protocol: AppProtocol) -> TransportSocket {
    let alpn = match protocol {
        AppProtocol::Http1 => "http/1.1",
        AppProtocol::Http2 => "h2",
    };
    socket(&UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(parameters()),
            alpn_protocols: vec![alpn.into()],
            validation_context_type: Some(validation(tls)),
            ..Default::default()
        }),
        sni: tls.hostname.clone(),
        ..Default::default()
    })
}

/// The certificate must carry the hostname, or one of the alternative names if there are any; then the hostname is
/// for SNI only (BackendTLSPolicy `subjectAltNames`).
fn names(tls: &UpstreamTls) -> Vec<SubjectAltNameMatcher> {
    let matcher = |kind: SanType, name: &str| SubjectAltNameMatcher {
        san_type: kind.into(),
        matcher: Some(route::exact(name)),
        ..Default::default()
    };
    let dns = tls.dns_names.iter().map(|name| matcher(SanType::Dns, name));
    let uris = tls.uris.iter().map(|uri| matcher(SanType::Uri, uri));
    let mut names: Vec<_> = dns.chain(uris).collect();
    if names.is_empty() {
        names.push(matcher(SanType::Dns, &tls.hostname));
    }
    names
}

fn validation(tls: &UpstreamTls) -> ValidationContextType {
    let mut context =
        CertificateValidationContext { match_typed_subject_alt_names: names(tls), ..Default::default() };
    // One bundle at most: Envoy takes one source of roots. More never come from `attach`.
    if let Some(bundle) = tls.ca_bundles.first() {
        return ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(context),
            validation_context_sds_secret_config: Some(secret(bundle)),
            ..Default::default()
        });
    }
    context.trusted_ca = Some(DataSource {
        specifier: Some(data_source::Specifier::Filename(SYSTEM_ROOTS.into())),
        ..Default::default()
    });
    ValidationContextType::ValidationContext(context)
}
