//! TLS towards backends (EnvoyProxy `backendTLS`), where a backend has TLS at all.

use super::{Cx, at, patch};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, TlsParameters, UpstreamTlsContext,
};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    min_version: Option<String>,
    max_version: Option<String>,
    #[serde(default)]
    ciphers: Vec<String>,
    #[serde(default)]
    ecdh_curves: Vec<String>,
    #[serde(default)]
    signature_algorithms: Vec<String>,
    client_certificate_ref: Option<SecretRef>,
    /// None at all if the list is empty.
    alpn_protocols: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct SecretRef {
    name: String,
    namespace: Option<String>,
}

/// `common_tls_context.tls_params`, and four fields of it: lists do not grow.
const PARAMETERS: [&[u32]; 3] = [&[1, 1, 3], &[1, 1, 4], &[1, 1, 5]];
/// `common_tls_context.alpn_protocols`.
const PROTOCOLS: &[u32] = &[1, 4];

pub(super) fn lower(spec: &Spec, cx: &mut Cx<'_, '_>) {
    let version = |text: Option<&str>| match text {
        Some("1.0") => TlsProtocol::TlSv10,
        Some("1.1") => TlsProtocol::TlSv11,
        Some("1.2") => TlsProtocol::TlSv12,
        Some("1.3") => TlsProtocol::TlSv13,
        _ => TlsProtocol::TlsAuto,
    };
    let parameters = TlsParameters {
        tls_minimum_protocol_version: version(spec.min_version.as_deref()).into(),
        tls_maximum_protocol_version: version(spec.max_version.as_deref()).into(),
        cipher_suites: spec.ciphers.clone(),
        ecdh_curves: spec.ecdh_curves.clone(),
        signature_algorithms: spec.signature_algorithms.clone(),
        ..Default::default()
    };
    if parameters != TlsParameters::default() {
        let lists = [&spec.ciphers, &spec.ecdh_curves, &spec.signature_algorithms];
        let clear: Vec<&[u32]> = PARAMETERS
            .into_iter()
            .zip(lists)
            .filter(|(_, list)| !list.is_empty())
            .map(|(path, _)| path)
            .collect();
        let context = UpstreamTlsContext {
            common_tls_context: Some(CommonTlsContext { tls_params: Some(parameters), ..Default::default() }),
            ..Default::default()
        };
        cx.out.proxy.backend_tls.push(patch(&context, &clear));
    }
    if let Some(protocols) = &spec.alpn_protocols {
        let common = CommonTlsContext { alpn_protocols: protocols.clone(), ..Default::default() };
        let context = UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
        cx.out.proxy.backend_tls.push(patch(&context, &[PROTOCOLS]));
    }
    if let Some(secret) = &spec.client_certificate_ref {
        let own = &*cx.object.reference.namespace;
        let namespace = secret.namespace.as_deref().unwrap_or(own);
        if namespace == own {
            cx.out.proxy.client_certificate = Some(format!("{namespace}/{}", secret.name));
        } else {
            let field = at("backendTLS.clientCertificateRef.namespace");
            let why = "the Secret lies in another namespace than the EnvoyProxy";
            cx.find(
                field,
                why,
                "no certificate is shown: put it beside the EnvoyProxy, or name it in the Gateway",
            );
        }
    }
}
