//! TLS towards a Backend (Backend `tls`).

use crate::client_tls::{CIPHERS, CURVES, SIGNATURES, version};
use crate::lowering::OfBackend;
use crate::{About, Capability, Effect, Kind, Lowering};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, TlsParameters, UpstreamTlsContext,
};
use moorgate_model::FieldPath;
use moorgate_model::ir::{Patch, ServerName, UpstreamTls};
use prost::Message as _;
use serde::Deserialize;

/// The capability.
pub(crate) struct AddressTls;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    tls: Option<Settings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    #[serde(default)]
    ca_certificate_refs: Vec<CaRef>,
    #[serde(rename = "wellKnownCACertificates")]
    well_known: Option<String>,
    insecure_skip_verify: Option<bool>,
    sni: Option<String>,
    #[serde(rename = "autoSNIFromEndpointHostname")]
    sni_of_endpoint: Option<bool>,
    client_certificate_ref: Option<ClientRef>,
    alpn_protocols: Option<Vec<String>>,
    #[serde(default)]
    ciphers: Vec<String>,
    #[serde(default)]
    ecdh_curves: Vec<String>,
    #[serde(default)]
    signature_algorithms: Vec<String>,
    min_version: Option<String>,
    max_version: Option<String>,
}

#[derive(Debug, Deserialize)]
struct CaRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct ClientRef {
    namespace: Option<String>,
}

/// `common_tls_context` in `UpstreamTlsContext`, and in that `alpn_protocols`, `tls_params` with the least and the most version.
const PROTOCOLS: [u32; 2] = [1, 4];
const LEAST: [u32; 3] = [1, 1, 1];
const MOST: [u32; 3] = [1, 1, 2];

impl Capability for AddressTls {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "address_tls",
        kind: Kind::Backend,
        fields: &["tls"],
        except: &["tls.fingerprints"],
        since: "0.2.0",
        docs: "\
Connections to the backend use TLS. Its certificate must be signed by an authority of caCertificateRefs (key ca.crt of ConfigMaps and Secrets, \
ClusterTrustBundles; bound by the relay) or by the roots of Envoy's image (wellKnownCACertificates: System), and carry the server name: sni, or \
what the endpoint is called (autoSNIFromEndpointHostname), or the host of the request if neither is set. insecureSkipVerify takes any \
certificate. clientCertificateRef is what the backend is shown; it lies in the Backend's own namespace. Versions, ciphers, curves, \
signature algorithms and alpnProtocols are as in ClientTrafficPolicy. A BackendTLSPolicy for the Backend takes the place of all of this. TLS that cannot be carried \
out leaves the backend unused.",
        effect: Effect::Cluster,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(settings) = &spec.tls else { return };
        let at = FieldPath::parse("spec.tls");
        let unverified = settings.insecure_skip_verify == Some(true);
        let system_roots = match settings.well_known.as_deref().filter(|name| !name.is_empty()) {
            None => false,
            Some("System") => true,
            Some(other) => {
                let why = format!("{other:?} is not known, only \"System\" is");
                return cx.invalid(at.key("wellKnownCACertificates"), &why);
            }
        };
        let refs = &settings.ca_certificate_refs;
        if system_roots && !refs.is_empty() {
            return cx.invalid(at, "caCertificateRefs and wellKnownCACertificates are both set");
        }
        let mut ca_bundles = Vec::new();
        for (index, reference) in refs.iter().enumerate() {
            let CaRef { group, kind, name } = reference;
            let at = at.key("caCertificateRefs").index(index);
            let Some(name) = cx.authority(&at, group, kind, name) else { return };
            ca_bundles.push(name);
        }
        if !unverified && !system_roots && ca_bundles.is_empty() {
            let why = "neither caCertificateRefs nor wellKnownCACertificates is set, and insecureSkipVerify is not true";
            return cx.invalid(at, why);
        }
        let server_name = match (&settings.sni, settings.sni_of_endpoint == Some(true)) {
            (Some(_), true) => {
                return cx.invalid(at.key("autoSNIFromEndpointHostname"), "sni says another name");
            }
            (Some(_), false) => ServerName::Given,
            (None, true) => ServerName::OfEndpoint,
            (None, false) => ServerName::OfRequest,
        };
        let at_client = at.key("clientCertificateRef");
        let client_certificate = match &settings.client_certificate_ref {
            None => None,
            Some(reference) => {
                let own = cx.namespace();
                if reference.namespace.as_deref().is_some_and(|other| other != own) {
                    let why = "the Secret lies in the namespace of the Backend";
                    return cx.invalid(at_client.key("namespace"), why);
                }
                let Some(name) = cx.certificate(&at_client) else { return };
                Some(name)
            }
        };
        let Some(added) = parameters(settings, &at, cx) else { return };
        let tls = UpstreamTls {
            hostname: settings.sni.clone().unwrap_or_default(),
            ca_bundles,
            system_roots,
            client_certificate,
            refuse: false,
            server_name,
            unverified,
            added,
            ..UpstreamTls::refused()
        };
        cx.of_backend(&OfBackend { tls: Some(tls), ..OfBackend::default() });
    }
}

/// What is put over the context that Moorgate makes by itself.
fn parameters(settings: &Settings, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<Patch>> {
    for (field, names, known) in [
        ("ciphers", &settings.ciphers, CIPHERS),
        ("ecdhCurves", &settings.ecdh_curves, CURVES),
        ("signatureAlgorithms", &settings.signature_algorithms, SIGNATURES),
    ] {
        if let Some(index) = names.iter().position(|name| !known.contains(&name.as_str())) {
            cx.invalid(at.key(field).index(index), "Envoy has nothing of this name");
            return None;
        }
    }
    let mut clear: Vec<Vec<u32>> = Vec::new();
    let mut params = TlsParameters {
        cipher_suites: settings.ciphers.clone(),
        ecdh_curves: settings.ecdh_curves.clone(),
        signature_algorithms: settings.signature_algorithms.clone(),
        ..Default::default()
    };
    if let Some(text) = &settings.min_version {
        params.set_tls_minimum_protocol_version(version(text, &at.key("minVersion"), cx)?);
        clear.push(LEAST.to_vec());
    }
    if let Some(text) = &settings.max_version {
        params.set_tls_maximum_protocol_version(version(text, &at.key("maxVersion"), cx)?);
        clear.push(MOST.to_vec());
    }
    if settings.alpn_protocols.is_some() {
        clear.push(PROTOCOLS.to_vec());
    }
    let changes = params != TlsParameters::default();
    if !changes && clear.is_empty() {
        return Some(Vec::new());
    }
    let common = CommonTlsContext {
        tls_params: changes.then_some(params),
        alpn_protocols: settings.alpn_protocols.clone().unwrap_or_default(),
        ..Default::default()
    };
    let context = UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    Some(vec![Patch { message: context.encode_to_vec(), clear, first: false }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    fn tls(settings: &str) -> UpstreamTls {
        let compiled = testing::compile(Kind::Backend, &format!(r#"{{"tls": {settings}}}"#));
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        compiled.parts["address_tls"].backend.tls.clone().unwrap()
    }

    #[test]
    fn who_is_believed_and_what_is_named() {
        let found = tls(
            r#"{"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}, {"group": "", "kind": "Secret", "name": "ca"}],
                "sni": "a.example", "clientCertificateRef": {"name": "me"}}"#,
        );
        assert_eq!(found.ca_bundles, ["ConfigMap/shop/ca", "Secret/shop/ca"]);
        assert_eq!((found.hostname.as_str(), found.server_name), ("a.example", ServerName::Given));
        assert_eq!((found.client_certificate.as_deref(), found.unverified), (Some("shop/me"), false));
        let found = tls(r#"{"wellKnownCACertificates": "System"}"#);
        assert_eq!((found.system_roots, found.server_name), (true, ServerName::OfRequest));
        let found = tls(r#"{"wellKnownCACertificates": "System", "autoSNIFromEndpointHostname": true}"#);
        assert_eq!(found.server_name, ServerName::OfEndpoint);
        let found = tls(r#"{"insecureSkipVerify": true}"#);
        assert!(found.unverified && !found.refuse);
    }

    #[test]
    fn parameters_are_put_over_what_is_there() {
        let found = tls(
            r#"{"wellKnownCACertificates": "System", "minVersion": "1.3", "alpnProtocols": ["h2"], "ecdhCurves": ["X25519"]}"#,
        );
        assert_eq!(found.added[0].clear, [LEAST.to_vec(), PROTOCOLS.to_vec()]);
        let context: UpstreamTlsContext = patched(&found.added);
        let common = context.common_tls_context.unwrap();
        assert_eq!(
            (common.alpn_protocols, common.tls_params.unwrap().ecdh_curves),
            (vec!["h2".to_owned()], vec!["X25519".to_owned()])
        );
    }

    #[test]
    fn what_cannot_be_verified_is_no_backend() {
        for (settings, field) in [
            ("{}", ""),
            (r#"{"wellKnownCACertificates": "Mine"}"#, ".wellKnownCACertificates"),
            (
                r#"{"wellKnownCACertificates": "System", "caCertificateRefs": [{"kind": "ConfigMap", "name": "a"}]}"#,
                "",
            ),
            (
                r#"{"caCertificateRefs": [{"kind": "ConfigMap", "name": "gone"}]}"#,
                ".caCertificateRefs[0].name",
            ),
            (r#"{"caCertificateRefs": [{"kind": "Service", "name": "a"}]}"#, ".caCertificateRefs[0].kind"),
            (
                r#"{"wellKnownCACertificates": "System", "sni": "a", "autoSNIFromEndpointHostname": true}"#,
                ".autoSNIFromEndpointHostname",
            ),
            (
                r#"{"wellKnownCACertificates": "System", "clientCertificateRef": {"name": "a", "namespace": "b"}}"#,
                ".clientCertificateRef.namespace",
            ),
            (r#"{"wellKnownCACertificates": "System", "ciphers": ["NULL"]}"#, ".ciphers[0]"),
        ] {
            let compiled = testing::compile(Kind::Backend, &format!(r#"{{"tls": {settings}}}"#));
            let said = format!("MG4002 spec.tls{field}");
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said], true), "{settings}");
        }
    }
}
