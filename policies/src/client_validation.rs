//! Certificates of clients (ClientTrafficPolicy `tls.clientValidation`).

use crate::{About, Capability, Effect, Kind, Lowering, SecretRef};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::BoolValue;
use moorgate_model::FieldPath;
use moorgate_model::ir::ClientValidation as Validation;
use serde::Deserialize;

/// The capability.
pub(crate) struct ClientValidation;

#[derive(Debug, Deserialize)]
pub(crate) struct Spec {
    tls: Option<Tls>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tls {
    client_validation: Option<Rules>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rules {
    optional: Option<bool>,
    mode: Option<String>,
    #[serde(default)]
    ca_certificate_refs: Vec<Reference>,
    #[serde(default)]
    spki_hashes: Vec<String>,
    #[serde(default)]
    certificate_hashes: Vec<String>,
    subject_alt_names: Option<Names>,
    allow_expired_certificate: Option<bool>,
    crl: Option<Lists>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lists {
    #[serde(default)]
    refs: Vec<SecretRef>,
    only_verify_leaf_certificate: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Reference {
    #[serde(default)]
    group: String,
    #[serde(default)]
    kind: String,
    name: String,
    namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Names {
    #[serde(default, rename = "dnsNames")]
    dns: Vec<Text>,
    #[serde(default, rename = "emailAddresses")]
    email: Vec<Text>,
    #[serde(default, rename = "ipAddresses")]
    ip: Vec<Text>,
    #[serde(default)]
    uris: Vec<Text>,
    #[serde(default, rename = "otherNames")]
    other: Vec<Text>,
}

#[derive(Debug, Deserialize)]
struct Text {
    #[serde(rename = "type")]
    kind: Option<String>,
    value: String,
    /// Of other names only: what kind of name it is.
    oid: Option<String>,
}

/// The key of a Secret that holds authorities.
const AUTHORITY: &str = "ca.crt";
/// The key of a Secret that holds a list of revoked certificates.
const LIST: &str = "ca.crl";
/// `DownstreamTlsContext.require_client_certificate`
const REQUIRED: &[u32] = &[2];

impl Capability for ClientValidation {
    type Spec = Spec;
    const ABOUT: About = About {
        file: "client_validation",
        kind: Kind::ClientTraffic,
        fields: &["tls.clientValidation"],
        except: &[],
        since: "0.1.0",
        docs: "\
Clients of HTTPS listeners show a certificate that an authority in caCertificateRefs has signed (ConfigMaps and Secrets, key \
ca.crt, read by the relay; Secrets of other namespaces by a ReferenceGrant): mode RequireAndVerify, or VerifyIfGiven (as optional) for those that show one. spkiHashes, certificateHashes \
and subjectAltNames (DNS, e-mail, address, URI, other names by their oid) bound which. crl.refs name Secrets whose key ca.crl lists certificates that do not count any \
more (PEM); the relay reads them too, and a new list needs no compile. Envoy asks for a list of each authority on the way, or of the \
client's own with onlyVerifyLeafCertificate. With allowExpiredCertificate one that is out of date is \
taken. In place of the Gateway's own tls.frontend. By mode Request clients are asked for a certificate, and by RequireAny they must show one, and \
whatever they show is taken: nothing of it is proven, which is for whoever reads it behind. Only Request needs no authority, as Envoy requires \
a certificate only where one is named.",
        effect: Effect::DownstreamTls,
    };

    fn lower(spec: &Spec, cx: &mut Lowering<'_>) {
        let Some(rules) = spec.tls.as_ref().and_then(|tls| tls.client_validation.as_ref()) else { return };
        let at = FieldPath::parse("spec.tls.clientValidation");
        // Whether a certificate is optional, and whether whatever is shown is taken.
        let (optional, any) = match rules.mode.as_deref() {
            Some("RequireAndVerify") => (false, false),
            Some("VerifyIfGiven") => (true, false),
            Some("Request") => (true, true),
            Some("RequireAny") => (false, true),
            None => (rules.optional == Some(true), false),
            Some(other) => {
                return cx.unsupported(at.key("mode"), &format!("mode {other} is not known"));
            }
        };
        let named = &rules.ca_certificate_refs;
        let ca_bundles = if any && named.is_empty() {
            if !optional {
                let why =
                    "Envoy requires a certificate only where an authority is named, whatever it takes then";
                return cx.invalid(at.key("caCertificateRefs"), why);
            }
            Vec::new()
        } else {
            let Some(bundles) = bundles(named, &at.key("caCertificateRefs"), cx) else { return };
            bundles
        };
        let Some(names) = names(rules.subject_alt_names.as_ref(), &at.key("subjectAltNames"), cx) else {
            return;
        };
        let Some(mut revoked) = revoked(rules.crl.as_ref(), &at.key("crl").key("refs"), cx) else { return };
        if ca_bundles.is_empty() && !revoked.is_empty() {
            cx.approximate(at.key("crl"), "without an authority there is nothing that a list could speak of");
            revoked.clear();
        }
        let alone = ca_bundles.is_empty();
        // Whoever shows a certificate is checked, whether or not he has to.
        cx.clients(Validation { ca_bundles, optional: any, revoked });
        let only_leaf = rules.crl.as_ref().and_then(|crl| crl.only_verify_leaf_certificate);
        let context = CertificateValidationContext {
            verify_certificate_spki: rules.spki_hashes.clone(),
            verify_certificate_hash: rules.certificate_hashes.clone(),
            match_typed_subject_alt_names: names,
            only_verify_leaf_cert_crl: only_leaf == Some(true),
            allow_expired_certificate: rules.allow_expired_certificate == Some(true),
            ..Default::default()
        };
        // As what it is put over: without an authority nothing comes from elsewhere.
        let checks = if alone {
            ValidationContextType::ValidationContext(context)
        } else {
            ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(context),
                ..Default::default()
            })
        };
        let common = CommonTlsContext { validation_context_type: Some(checks), ..Default::default() };
        let required = BoolValue { value: !optional };
        let tls = DownstreamTlsContext {
            common_tls_context: Some(common),
            require_client_certificate: Some(required),
            ..Default::default()
        };
        cx.tls(&tls, &[REQUIRED]);
    }
}

fn bundles(references: &[Reference], at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<String>> {
    if references.is_empty() {
        cx.invalid(at.clone(), "without an authority no certificate can be checked");
        return None;
    }
    let mut out = Vec::new();
    for (index, reference) in references.iter().enumerate() {
        let at = at.index(index);
        let Reference { group, kind, name, namespace } = reference;
        let elsewhere = namespace.as_ref().filter(|namespace| *namespace != cx.namespace());
        let bundle = match elsewhere {
            None => cx.authority(&at, group, kind, name)?,
            // A grant of that namespace has to allow it.
            Some(namespace) if kind == "Secret" => {
                let secret = SecretRef {
                    group: group.clone(),
                    kind: kind.clone(),
                    name: name.clone(),
                    namespace: Some(namespace.clone()),
                };
                format!("Secret/{}", cx.secret(&at, &secret, &[AUTHORITY])?.path())
            }
            Some(_) => {
                cx.unsupported(at.key("namespace"), "a ConfigMap is taken from the policy's namespace");
                return None;
            }
        };
        out.push(bundle);
    }
    Some(out)
}

/// The Secrets that list what does not count any more. One that is missing at the relay lets nobody in.
fn revoked(crl: Option<&Lists>, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<String>> {
    let Some(crl) = crl else { return Some(Vec::new()) };
    if crl.refs.is_empty() {
        cx.invalid(at.clone(), "no Secret holds a list");
        return None;
    }
    let numbered = crl.refs.iter().enumerate();
    numbered.map(|(index, reference)| Some(cx.secret(&at.index(index), reference, &[LIST])?.path())).collect()
}

fn names(names: Option<&Names>, at: &FieldPath, cx: &mut Lowering<'_>) -> Option<Vec<SubjectAltNameMatcher>> {
    let Some(names) = names else { return Some(Vec::new()) };
    let mut out = Vec::new();
    for (list, kind, texts) in [
        ("dnsNames", SanType::Dns, &names.dns),
        ("emailAddresses", SanType::Email, &names.email),
        ("ipAddresses", SanType::IpAddress, &names.ip),
        ("uris", SanType::Uri, &names.uris),
        ("otherNames", SanType::OtherName, &names.other),
    ] {
        for (index, text) in texts.iter().enumerate() {
            let value = text.value.clone();
            let oid = text.oid.clone().unwrap_or_default();
            let dotted = |oid: &str| {
                oid.split('.').count() > 1 && oid.split('.').all(|part| part.parse::<u64>().is_ok())
            };
            if kind == SanType::OtherName && !dotted(&oid) {
                cx.invalid(at.key(list).index(index).key("oid"), "it is an object identifier, as 1.3.6.1");
                return None;
            }
            let pattern = match text.kind.as_deref() {
                None | Some("Exact") => MatchPattern::Exact(value),
                Some("Prefix") => MatchPattern::Prefix(value),
                Some("Suffix") => MatchPattern::Suffix(value),
                Some("RegularExpression") => cx.expression(at.key(list).index(index).key("value"), &value)?,
                Some(other) => {
                    cx.invalid(at.key(list).index(index).key("type"), &format!("type {other} is not known"));
                    return None;
                }
            };
            let matcher = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
            out.push(SubjectAltNameMatcher { san_type: kind.into(), oid, matcher: Some(matcher) });
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lowering::testing::{self, patched};

    #[test]
    fn clients_are_checked_by_bundles_names_and_hashes() {
        for (mode, required) in [
            ("", true),
            (r#", "mode": "RequireAndVerify""#, true),
            (r#", "mode": "VerifyIfGiven""#, false),
            (r#", "optional": true"#, false),
        ] {
            let spec = format!(
                r#"{{"tls": {{"clientValidation": {{"caCertificateRefs": [{{"kind": "ConfigMap", "name": "ca"}}],
                    "spkiHashes": ["a"], "subjectAltNames": {{"uris": [{{"type": "Prefix", "value": "spiffe://a/"}}]}}{mode}}}}}}}"#
            );
            let compiled = testing::compile(Kind::ClientTraffic, &spec);
            assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
            let part = &compiled.parts["client_validation"];
            let clients = part.clients.as_ref().unwrap();
            assert_eq!(
                (clients.ca_bundles.as_slice(), clients.optional),
                (&["ConfigMap/shop/ca".to_owned()][..], false)
            );
            let context: DownstreamTlsContext = patched(&part.tls);
            assert_eq!(context.require_client_certificate, Some(BoolValue { value: required }), "{mode}");
            let common = context.common_tls_context.unwrap();
            let Some(ValidationContextType::CombinedValidationContext(combined)) =
                common.validation_context_type
            else {
                panic!("combined")
            };
            let checks = combined.default_validation_context.unwrap();
            assert_eq!(
                (checks.verify_certificate_spki.len(), checks.match_typed_subject_alt_names.len()),
                (1, 1)
            );
        }
    }

    #[test]
    fn lists_of_what_does_not_count_any_more_are_named() {
        let spec = r#"{"tls": {"clientValidation": {"caCertificateRefs": [{"kind": "ConfigMap", "name": "ca"}],
            "crl": {"refs": [{"name": "list"}, {"name": "more", "namespace": "vault"}], "onlyVerifyLeafCertificate": true}}}}"#;
        let compiled = testing::compile(Kind::ClientTraffic, spec);
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let part = &compiled.parts["client_validation"];
        assert_eq!(part.clients.as_ref().unwrap().revoked, ["shop/list", "vault/more"]);
        let context: DownstreamTlsContext = patched(&part.tls);
        let Some(ValidationContextType::CombinedValidationContext(combined)) =
            context.common_tls_context.unwrap().validation_context_type
        else {
            panic!("combined")
        };
        assert!(combined.default_validation_context.unwrap().only_verify_leaf_cert_crl);
    }

    #[test]
    fn authorities_lie_in_config_maps_and_secrets() {
        let spec = r#"{"tls": {"clientValidation": {"caCertificateRefs": [{"kind": "ConfigMap", "name": "a"}, {"kind": "Secret", "name": "b"},
            {"kind": "Secret", "name": "c", "namespace": "vault"}]}}}"#;
        let compiled = testing::compile(Kind::ClientTraffic, spec);
        assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
        let clients = compiled.parts["client_validation"].clients.as_ref().unwrap();
        assert_eq!(clients.ca_bundles, ["ConfigMap/shop/a", "Secret/shop/b", "Secret/vault/c"]);
    }

    #[test]
    fn whatever_is_shown_is_taken_if_that_is_asked_for() {
        let ca = r#", "caCertificateRefs": [{"kind": "ConfigMap", "name": "ca"}]"#;
        for (mode, authority, required) in
            [("Request", "", false), ("Request", ca, false), ("RequireAny", ca, true)]
        {
            let alone = authority.is_empty();
            let spec = format!(r#"{{"tls": {{"clientValidation": {{"mode": "{mode}"{authority}}}}}}}"#);
            let compiled = testing::compile(Kind::ClientTraffic, &spec);
            assert!(compiled.findings.is_empty() && !compiled.closed, "{:?}", compiled.findings);
            let part = &compiled.parts["client_validation"];
            let clients = part.clients.as_ref().unwrap();
            assert_eq!((clients.optional, clients.ca_bundles.is_empty()), (true, alone));
            let context: DownstreamTlsContext = patched(&part.tls);
            assert_eq!(context.require_client_certificate, Some(BoolValue { value: required }));
            let checks = context.common_tls_context.unwrap().validation_context_type.unwrap();
            assert_eq!(matches!(checks, ValidationContextType::ValidationContext(_)), alone, "{mode}");
        }
    }

    #[test]
    fn clients_that_cannot_be_checked_are_refused() {
        let ca = r#""caCertificateRefs": [{"kind": "ConfigMap", "name": "ca"}]"#;
        for (rules, said) in [
            (String::new(), "MG4002 spec.tls.clientValidation.caCertificateRefs"),
            (format!(r#"{ca}, "mode": "Always""#), "MG4105 spec.tls.clientValidation.mode"),
            (r#""mode": "RequireAny""#.into(), "MG4002 spec.tls.clientValidation.caCertificateRefs"),
            (format!(r#"{ca}, "crl": {{"refs": []}}"#), "MG4002 spec.tls.clientValidation.crl.refs"),
            (
                format!(r#"{ca}, "crl": {{"refs": [{{"name": "gone"}}]}}"#),
                "MG4002 spec.tls.clientValidation.crl.refs[0]",
            ),
            (
                r#""caCertificateRefs": [{"kind": "Service", "name": "ca"}]"#.into(),
                "MG4002 spec.tls.clientValidation.caCertificateRefs[0].kind",
            ),
            (
                r#""caCertificateRefs": [{"kind": "ConfigMap", "name": "gone"}]"#.into(),
                "MG4002 spec.tls.clientValidation.caCertificateRefs[0].name",
            ),
            (
                r#""caCertificateRefs": [{"kind": "ConfigMap", "name": "ca", "namespace": "vault"}]"#.into(),
                "MG4105 spec.tls.clientValidation.caCertificateRefs[0].namespace",
            ),
        ] {
            let spec = format!(r#"{{"tls": {{"clientValidation": {{{rules}}}}}}}"#);
            let compiled = testing::compile(Kind::ClientTraffic, &spec);
            assert_eq!((testing::said(&compiled), compiled.closed), (vec![said.to_owned()], true), "{spec}");
        }
    }
}
