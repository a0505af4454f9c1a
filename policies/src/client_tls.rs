//! TLS towards clients (ClientTrafficPolicy `tls`).

use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, TlsParameters,
};
use moorgate_model::FieldPath;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientTls;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    tls: Option<Settings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    min_version: Option<String>,
    max_version: Option<String>,
    #[serde(default)]
    ciphers: Vec<String>,
    #[serde(default, rename = "ecdhCurves")]
    curves: Vec<String>,
    #[serde(default)]
    signature_algorithms: Vec<String>,
    alpn_protocols: Option<Vec<String>>,
}

/// Of the TLS context: `common_tls_context.tls_params.tls_{minimum,maximum}_protocol_version`, `common_tls_context.alpn_protocols`
const LEAST: &[u32] = &[1, 1, 1];
const MOST: &[u32] = &[1, 1, 2];
const PROTOCOLS: &[u32] = &[1, 4];

/// What BoringSSL, Envoy's TLS library, has names for: with another one Envoy would refuse the listener.
pub(crate) const CIPHERS: &[&str] = &[
    "AES128-GCM-SHA256",
    "AES128-SHA",
    "AES256-GCM-SHA384",
    "AES256-SHA",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-CHACHA20-POLY1305",
];
pub(crate) const CURVES: &[&str] = &["P-256", "P-384", "P-521", "X25519", "X25519MLKEM768"];
pub(crate) const SIGNATURES: &[&str] = &[
    "ecdsa_secp256r1_sha256",
    "ecdsa_secp384r1_sha384",
    "ecdsa_secp521r1_sha512",
    "ed25519",
    "rsa_pkcs1_sha256",
    "rsa_pkcs1_sha384",
    "rsa_pkcs1_sha512",
    "rsa_pss_rsae_sha256",
    "rsa_pss_rsae_sha384",
    "rsa_pss_rsae_sha512",
];

impl Capability for ClientTls {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_tls",
        kind: Kind::ClientTraffic,
        fields: &[
            "tls.alpnProtocols",
            "tls.ciphers",
            "tls.ecdhCurves",
            "tls.maxVersion",
            "tls.minVersion",
            "tls.signatureAlgorithms",
        ],
        except: &[],
        since: "0.1.0",
        docs: "\
Versions of TLS (1.2 and 1.3 without a policy), ciphers of TLS 1.2 and below, curves, signature algorithms, and the protocols that are \
negotiated (h2 and http/1.1 without a policy; none if the list is empty).",
        effect: Effect::DownstreamTls,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(settings) = &spec.tls else { return };
        let at = FieldPath::parse("spec.tls");
        for (field, names, known) in [
            ("ciphers", &settings.ciphers, CIPHERS),
            ("ecdhCurves", &settings.curves, CURVES),
            ("signatureAlgorithms", &settings.signature_algorithms, SIGNATURES),
        ] {
            if let Some(index) = names.iter().position(|name| !known.contains(&name.as_str())) {
                return cx.invalid(at.key(field).index(index), "Envoy has nothing of this name");
            }
        }
        let mut clear: Vec<&[u32]> = Vec::new();
        let mut params = TlsParameters {
            cipher_suites: settings.ciphers.clone(),
            ecdh_curves: settings.curves.clone(),
            signature_algorithms: settings.signature_algorithms.clone(),
            ..Default::default()
        };
        if let Some(text) = &settings.min_version {
            let Some(version) = version(text, &at.key("minVersion"), cx) else { return };
            params.set_tls_minimum_protocol_version(version);
            clear.push(LEAST);
        }
        if let Some(text) = &settings.max_version {
            let Some(version) = version(text, &at.key("maxVersion"), cx) else { return };
            params.set_tls_maximum_protocol_version(version);
            clear.push(MOST);
        }
        if settings.alpn_protocols.is_some() {
            clear.push(PROTOCOLS);
        }
        let changes = params != TlsParameters::default();
        if !changes && clear.is_empty() {
            return;
        }
        let common = CommonTlsContext {
            tls_params: changes.then_some(params),
            alpn_protocols: settings.alpn_protocols.clone().unwrap_or_default(),
            ..Default::default()
        };
        cx.tls(&DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() }, &clear);
    }
}

pub(crate) fn version(text: &str, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<TlsProtocol> {
    Some(match text {
        "Auto" => TlsProtocol::TlsAuto,
        "1.0" => TlsProtocol::TlSv10,
        "1.1" => TlsProtocol::TlSv11,
        "1.2" => TlsProtocol::TlSv12,
        "1.3" => TlsProtocol::TlSv13,
        other => {
            cx.invalid(at.clone(), &format!("{other:?} is no version of TLS"));
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn versions_ciphers_and_protocols() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"tls": {"minVersion": "1.3", "maxVersion": "Auto", "ciphers": ["ECDHE-RSA-AES128-GCM-SHA256"], "ecdhCurves": ["X25519"],
                "signatureAlgorithms": ["rsa_pss_rsae_sha256"], "alpnProtocols": []}}"#,
        );
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let part = &compiled.parts["client_tls"].tls;
        assert_eq!(part[0].clear, [vec![1, 1, 1], vec![1, 1, 2], vec![1, 4]]);
        let params = patched::<DownstreamTlsContext>(part).common_tls_context.unwrap().tls_params.unwrap();
        assert_eq!(params.tls_minimum_protocol_version(), TlsProtocol::TlSv13);
        assert_eq!((params.cipher_suites.len(), params.ecdh_curves.len()), (1, 1));
    }

    #[test]
    fn clients_that_must_be_checked_and_are_not_close() {
        let compiled = testing::compile(
            Kind::ClientTraffic,
            r#"{"tls": {"minVersion": "1.3", "clientValidation": {}}}"#,
        );
        assert_eq!(
            (testing::said(&compiled), compiled.closed),
            (vec!["MG4002 spec.tls.clientValidation.caCertificateRefs".to_owned()], true)
        );
        let compiled = testing::compile(Kind::ClientTraffic, r#"{"tls": {"ciphers": ["ROT13"]}}"#);
        assert_eq!(testing::said(&compiled), ["MG4002 spec.tls.ciphers[0]"]);
        let compiled = testing::compile(Kind::ClientTraffic, r#"{"tls": {"minVersion": "9"}}"#);
        assert_eq!(
            (testing::said(&compiled), compiled.closed),
            (vec!["MG4002 spec.tls.minVersion".to_owned()], false)
        );
    }
}
