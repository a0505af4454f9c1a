//! `BackendTLSPolicy` (Gateway API v1.7, GEP-1897): TLS towards a Service.

#[cfg(test)]
pub(crate) mod tests;

use crate::{Context, Effects, Policy, Report, TargetKind, TrustBundle};
use moorgate_model::diagnostic::policy::{
    CA_KIND_UNSUPPORTED, CA_NOT_FOUND, CA_UNUSABLE, POLICY_INVALID, POLICY_OPTION_IGNORED,
};
use moorgate_model::ir::UpstreamTls;
use moorgate_model::{Diagnostic, FieldPath, Object, ObjectRef};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The reasons of the Gateway API (`BackendTLSPolicy` conditions).
const NO_VALID_CA: &str = "NoValidCACertificate";
const INVALID_CA_REF: &str = "InvalidCACertificateRef";
const INVALID_KIND: &str = "InvalidKind";
const INVALID: &str = "Invalid";

/// The policy.
#[derive(Debug)]
pub struct BackendTls;

/// `spec`.
#[derive(Debug, Deserialize)]
pub struct Spec {
    validation: Validation,
    #[serde(default)]
    options: BTreeMap<String, String>,
}

/// How a backend's certificate is verified: `validation` of this policy, and of an XBackend's `tls`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    hostname: String,
    #[serde(default)]
    ca_certificate_refs: Vec<CaRef>,
    #[serde(rename = "wellKnownCACertificates")]
    well_known: Option<String>,
    #[serde(default)]
    subject_alt_names: Vec<AltName>,
}

#[derive(Debug, Deserialize)]
struct CaRef {
    #[serde(default)]
    group: String,
    kind: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct AltName {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    uri: String,
}

fn validation() -> FieldPath {
    FieldPath::root().key("spec").key("validation")
}

fn invalid(report: &mut Report<'_>, field: FieldPath, message: &str) {
    report.find(&POLICY_INVALID, field, message, "the Service is not reached until the policy is valid");
    report.reject(INVALID, message);
}

impl Policy for BackendTls {
    type Spec = Spec;
    const GROUP: &'static str = "gateway.networking.k8s.io";
    const KIND: &'static str = "BackendTLSPolicy";
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha3"];
    const TARGETS: &'static [TargetKind] =
        &[TargetKind { group: "", kind: "Service" }, TargetKind { group: crate::GROUP, kind: "Backend" }];
    const SINCE: &'static str = "0.1.0";
    const FILE: &'static str = "backend_tls";
    const DOCS: &'static str = "\
Connections to the targeted Service or Backend, or to the port that sectionName names (of a Backend by its number), use TLS. The certificate must be signed by \
an authority in caCertificateRefs (ConfigMaps, key ca.crt, and ClusterTrustBundles, read by the relay) or by the roots of Envoy's image \
(wellKnownCACertificates: System), and must carry hostname, or one of subjectAltNames if there are any; hostname is \
also the server name that is sent (SNI). A policy that cannot be carried out closes its target: no connection is made, \
in plain text or otherwise.";

    /// What the published schema says already, again: nothing may pass if one of these is missing.
    fn validate(spec: &Spec, report: &mut Report<'_>) {
        check(&spec.validation, &validation(), report);
        for key in spec.options.keys() {
            let field = FieldPath::root().key("spec").key("options").key(key);
            let message = format!("the option {key:?} is not known and has no effect");
            report.find(&POLICY_OPTION_IGNORED, field, &message, "");
        }
    }

    fn lower(spec: &Spec, cx: &Context<'_>, report: &mut Report<'_>) -> Effects {
        Effects { upstream_tls: Some(tls(&spec.validation, &validation(), cx, report)), ..Effects::default() }
    }

    fn refused() -> Effects {
        Effects { upstream_tls: Some(UpstreamTls::refused()), ..Effects::default() }
    }
}

/// The TLS that an object's `validation` at this place asks for; [`UpstreamTls::refused`] if it cannot be carried out.
pub fn upstream_tls(
    object: &Object,
    spec: &Validation,
    at: &FieldPath,
    cx: &Context<'_>,
) -> (UpstreamTls, Vec<Diagnostic>) {
    let mut report = Report::new(object);
    check(spec, at, &mut report);
    let made = report.is_accepted().then(|| tls(spec, at, cx, &mut report));
    let made = made.filter(|_| report.is_accepted()).unwrap_or_else(UpstreamTls::refused);
    (made, report.finish(Effects::default()).diagnostics)
}

fn check(spec: &Validation, at: &FieldPath, report: &mut Report<'_>) {
    let Validation { hostname, ca_certificate_refs, well_known, subject_alt_names } = spec;
    if hostname.is_empty() {
        invalid(report, at.key("hostname"), "the hostname is empty");
    }
    match (ca_certificate_refs.is_empty(), well_known.as_deref().filter(|name| !name.is_empty())) {
        (true, None) => {
            invalid(report, at.clone(), "neither caCertificateRefs nor wellKnownCACertificates is set");
        }
        (false, Some(_)) => {
            invalid(report, at.clone(), "caCertificateRefs and wellKnownCACertificates are both set");
        }
        (true, Some(name)) if name != "System" => {
            let message = format!("wellKnownCACertificates {name:?} is not known, only \"System\" is");
            invalid(report, at.key("wellKnownCACertificates"), &message);
        }
        _ => {}
    }
    for (index, name) in subject_alt_names.iter().enumerate() {
        let field = at.key("subjectAltNames").index(index);
        match (name.kind.as_str(), name.hostname.is_empty(), name.uri.is_empty()) {
            ("Hostname", false, true) | ("URI", true, false) => {}
            ("Hostname" | "URI", ..) => {
                invalid(report, field, "exactly the field that the type names must be set");
            }
            (kind, ..) => invalid(report, field.key("type"), &format!("the type {kind:?} is not known")),
        }
    }
}

fn tls(spec: &Validation, at: &FieldPath, cx: &Context<'_>, report: &mut Report<'_>) -> UpstreamTls {
    let Validation { hostname, ca_certificate_refs, well_known, subject_alt_names } = spec;
    let names = |kind: &'static str| subject_alt_names.iter().filter(move |name| name.kind == kind);
    UpstreamTls {
        hostname: hostname.clone(),
        ca_bundles: bundles(ca_certificate_refs, at, cx, report),
        system_roots: well_known.is_some(),
        dns_names: names("Hostname").map(|name| name.hostname.clone()).collect(),
        uris: names("URI").map(|name| name.uri.clone()).collect(),
        refuse: false,
        ..UpstreamTls::refused()
    }
}

/// The usable bundles. A broken reference beside a good one is reported and left out; without a good one the policy is
/// not accepted (`caCertificateRefs`).
fn bundles(refs: &[CaRef], at: &FieldPath, cx: &Context<'_>, report: &mut Report<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for (index, reference) in refs.iter().enumerate() {
        let field = at.key("caCertificateRefs").index(index);
        let CaRef { group, kind, name } = reference;
        let object = match (group.as_str(), kind.as_str()) {
            ("", "ConfigMap") => ObjectRef::new(group, kind, report.namespace(), name),
            // It belongs to the whole cluster (Kubernetes `ClusterTrustBundle`).
            ("certificates.k8s.io", "ClusterTrustBundle") => ObjectRef::new(group, kind, "", name),
            _ => {
                let message = format!("a CA certificate cannot be taken from a {kind} of group {group:?}");
                let help = "use a ConfigMap with key ca.crt, or a ClusterTrustBundle";
                report.find(&CA_KIND_UNSUPPORTED, field.key("kind"), &message, help);
                report.unresolved(INVALID_KIND, &message);
                continue;
            }
        };
        match (cx.trust_bundle)(&object) {
            TrustBundle::Usable => names.push(format!("{kind}/{}/{name}", object.namespace)),
            TrustBundle::Missing => {
                let message = format!("{object} is not in this source");
                report.find(&CA_NOT_FOUND, field.key("name"), &message, "");
                report.unresolved(INVALID_CA_REF, &message);
            }
            TrustBundle::Unusable(why) => {
                let message = format!("{object} holds no usable CA certificate: {why}");
                report.find(&CA_UNUSABLE, field.key("name"), &message, "it must hold PEM certificates");
                report.unresolved(INVALID_CA_REF, &message);
            }
        }
    }
    if names.is_empty() && !refs.is_empty() {
        report.reject(NO_VALID_CA, "no CA certificate reference is valid");
    }
    names
}
