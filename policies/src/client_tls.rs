//! TLS towards clients (ClientTrafficPolicy `tls`).

use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, TlsParameters,
};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use serde::Deserialize;
use serde::de::IgnoredAny;

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
    #[serde(default)]
    fingerprints: Vec<String>,
    session: Option<Session>,
}

#[derive(Debug, Deserialize)]
struct Session {
    resumption: Option<Resumption>,
}

#[derive(Debug, Deserialize)]
struct Resumption {
    stateless: Option<IgnoredAny>,
    stateful: Option<IgnoredAny>,
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
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
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
            "tls.fingerprints",
            "tls.maxVersion",
            "tls.minVersion",
            "tls.session",
            "tls.signatureAlgorithms",
        ],
        except: &[],
        since: "0.1.0",
        docs: "\
Versions of TLS (1.2 and 1.3 without a policy), ciphers of TLS 1.2 and below, curves, signature algorithms, and the protocols that are \
negotiated (h2 and http/1.1 without a policy; none if the list is empty). fingerprints finds JA3 or JA4 out of the handshake, for %TLS_JA3_FINGERPRINT% and \
%TLS_JA4_FINGERPRINT%. session.resumption says how sessions are taken up again: stateless by tickets, stateful by ids; what it does not name is switched off.",
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
        if !fingerprints(&settings.fingerprints, &at.key("fingerprints"), cx) {
            return;
        }
        if let Some(resumption) = settings.session.as_ref().and_then(|session| session.resumption.as_ref()) {
            let tls = DownstreamTlsContext {
                disable_stateful_session_resumption: resumption.stateful.is_none(),
                session_ticket_keys_type: resumption
                    .stateless
                    .is_none()
                    .then_some(SessionTicketKeysType::DisableStatelessSessionResumption(true)),
                ..Default::default()
            };
            if tls != DownstreamTlsContext::default() {
                cx.tls(&tls, &[]);
            }
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

/// Has fingerprints of clients found out; false if one is not known.
fn fingerprints(names: &[String], at: &FieldPath, cx: &mut Lowering<'_>) -> bool {
    let mut inspector = TlsInspector::default();
    for (index, name) in names.iter().enumerate() {
        match name.as_str() {
            "JA3" => inspector.enable_ja3_fingerprinting = Some(BoolValue { value: true }),
            "JA4" => inspector.enable_ja4_fingerprinting = Some(BoolValue { value: true }),
            other => {
                cx.invalid(at.index(index), &format!("{other:?} is neither JA3 nor JA4"));
                return false;
            }
        }
    }
    if !names.is_empty() {
        cx.inspector(&inspector);
    }
    true
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
    fn sessions_and_fingerprints() {
        let part = |tls: &str| {
            let compiled = testing::compile(Kind::ClientTraffic, &format!(r#"{{"tls": {tls}}}"#));
            assert!(compiled.findings.is_empty(), "{:?}", compiled.findings);
            compiled.parts.get("client_tls").cloned().unwrap_or_default()
        };
        let off = |tls: &str| {
            let context: DownstreamTlsContext = patched(&part(tls).tls);
            (context.disable_stateful_session_resumption, context.session_ticket_keys_type.is_some())
        };
        assert_eq!(off(r#"{"session": {"resumption": {}}}"#), (true, true));
        assert_eq!(off(r#"{"session": {"resumption": {"stateless": {}}}}"#), (true, false));
        assert_eq!(off(r#"{"session": {"resumption": {"stateful": {}}}}"#), (false, true));
        assert!(part(r#"{"session": {"resumption": {"stateful": {}, "stateless": {}}}}"#).tls.is_empty());
        let inspector: TlsInspector = patched(&part(r#"{"fingerprints": ["JA4"]}"#).inspector);
        assert!(
            inspector.enable_ja3_fingerprinting.is_none() && inspector.enable_ja4_fingerprinting.is_some()
        );
        let wrong = testing::compile(Kind::ClientTraffic, r#"{"tls": {"fingerprints": ["JA3", "JA5"]}}"#);
        assert_eq!(testing::said(&wrong), ["MG4002 spec.tls.fingerprints[1]"]);
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
