//! TLS on both sides.

use super::{patch, route, value};
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
    certificate_validation_context::TrustChainVerification,
};
use moorgate_model::ir::{
    AppProtocol, ChainPolicies, ClientValidation, Cluster, DownstreamTls, Patch, ServerName, UpstreamTls,
};
use moorgate_snapshot::record::{BindingKind, Reference};
use prost::{Message, Name};
use std::collections::BTreeSet;

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

const SOCKET: &str = "envoy.transport_sockets.tls";

/// A transport socket of a name with its configuration.
pub(super) fn socket<M: Message + Name>(name: &str, context: &M) -> TransportSocket {
    TransportSocket { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(value::any(context))) }
}

/// What an HTTPS listener speaks, the best first.
pub(super) const HTTP_PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// TLS towards clients; without protocols none is negotiated, as behind it there may be anything.
pub(super) fn downstream(
    tls: &DownstreamTls,
    protocols: &[&str],
    added: Option<&ChainPolicies>,
) -> TransportSocket {
    let mut context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(parameters()),
            tls_certificate_sds_secret_configs: tls.secrets.iter().map(|name| secret(name)).collect(),
            alpn_protocols: protocols.iter().map(|name| (*name).to_owned()).collect(),
            validation_context_type: tls.clients.as_ref().map(clients),
            ..Default::default()
        }),
        ..Default::default()
    };
    if let Some(clients) = &tls.clients {
        context.require_client_certificate = value::truth(!clients.optional);
    }
    if let Some(added) = added {
        patch::apply(&mut context, &added.tls);
    }
    socket(SOCKET, &context)
}

/// The names that a listener's TLS needs.
pub(super) fn references(tls: &DownstreamTls) -> impl Iterator<Item = Reference> {
    let secrets = tls.secrets.iter().map(|name| (BindingKind::Secret, name));
    let secrets = secrets.map(|(kind, name)| Reference { kind, name: name.as_str().into() });
    let clients = tls.clients.as_ref().filter(|clients| clients.revoked.is_empty());
    secrets.chain(clients.and_then(|clients| trust(&clients.ca_bundles)))
}

/// The SDS name of all these bundles together: Envoy takes the roots of a connection from one place. No name of an object
/// has a plus sign.
fn joined(bundles: &[String]) -> Option<String> {
    let bundles: BTreeSet<&str> = bundles.iter().map(String::as_str).collect();
    (!bundles.is_empty()).then(|| bundles.into_iter().collect::<Vec<_>>().join("+"))
}

fn trust(bundles: &[String]) -> Option<Reference> {
    joined(bundles).map(|name| Reference { kind: BindingKind::TrustBundle, name: name.into() })
}

/// The SDS name of what clients are checked by: bundles, and lists of what does not count any more behind them.
pub(super) fn trust_of(clients: &ClientValidation) -> Option<String> {
    let revoked = clients.revoked.iter().map(|name| format!("+Revoked/{name}"));
    joined(&clients.ca_bundles).map(|name| revoked.fold(name, |all, one| all + &one))
}

/// Certificates of clients must be signed by the bundle. If they are optional, Envoy still asks for one and takes
/// whatever comes, also none.
fn clients(clients: &ClientValidation) -> ValidationContextType {
    let trust = if clients.optional {
        TrustChainVerification::AcceptUntrusted
    } else {
        TrustChainVerification::VerifyTrustChain
    };
    let context =
        CertificateValidationContext { trust_chain_verification: trust.into(), ..Default::default() };
    let Some(authority) = trust_of(clients) else {
        return ValidationContextType::ValidationContext(context);
    };
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(context),
        validation_context_sds_secret_config: Some(secret(&authority)),
        ..Default::default()
    })
}

pub(super) fn upstream(tls: &UpstreamTls, cluster: &Cluster, added: &[Patch]) -> TransportSocket {
    let alpn = match cluster.protocol {
        // Envoy asks for what it is going to speak.
        _ if cluster.policies.client_protocol => None,
        AppProtocol::Http1 => Some("http/1.1"),
        AppProtocol::Http2 => Some("h2"),
        // What is spoken inside is not known.
        AppProtocol::Tcp | AppProtocol::Udp => None,
    };
    let mut context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(parameters()),
            tls_certificate_sds_secret_configs: tls
                .client_certificate
                .iter()
                .map(|name| secret(name))
                .collect(),
            alpn_protocols: alpn.into_iter().map(str::to_owned).collect(),
            validation_context_type: (!tls.unverified).then(|| validation(tls)),
            ..Default::default()
        }),
        sni: tls.hostname.clone(),
        auto_host_sni: tls.server_name == ServerName::OfEndpoint,
        auto_sni_san_validation: tls.server_name == ServerName::OfEndpoint && !tls.unverified,
        ..Default::default()
    };
    patch::apply(&mut context, added);
    patch::apply(&mut context, &tls.added);
    socket(SOCKET, &context)
}

/// The names that TLS towards a backend needs.
pub(super) fn upstream_references(tls: &UpstreamTls) -> impl Iterator<Item = Reference> {
    let certificate = tls.client_certificate.iter();
    let certificate =
        certificate.map(|name| Reference { kind: BindingKind::Secret, name: name.as_str().into() });
    trust(&tls.ca_bundles).into_iter().chain(certificate)
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
    // Names that are not known before are verified by whoever finds them.
    if names.is_empty() && tls.server_name == ServerName::Given {
        names.push(matcher(SanType::Dns, &tls.hostname));
    }
    names
}

fn validation(tls: &UpstreamTls) -> ValidationContextType {
    let mut context =
        CertificateValidationContext { match_typed_subject_alt_names: names(tls), ..Default::default() };
    if let Some(bundle) = joined(&tls.ca_bundles) {
        return ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(context),
            validation_context_sds_secret_config: Some(secret(&bundle)),
            ..Default::default()
        });
    }
    context.trusted_ca = Some(DataSource {
        specifier: Some(data_source::Specifier::Filename(SYSTEM_ROOTS.into())),
        ..Default::default()
    });
    ValidationContextType::ValidationContext(context)
}
