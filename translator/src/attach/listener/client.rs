//! Certificates on both ends that are the Gateway's matter: those that clients must show (`tls.frontend`), and the one
//! that the Gateway shows to backends (`tls.backend`).

use super::{Gateway, Listener, certificate};
use crate::attach::GATEWAY_GROUP;
use crate::attach::grant::{From, To, permit};
use crate::attach::index::{Index, Indexed};
use crate::attach::spec;
use crate::attach::trust::{self, CERTIFICATES_GROUP};
use moorgate_model::diagnostic::semantic::{
    CLIENT_CA_INVALID, CLIENT_CA_KIND, INSECURE_FALLBACK, NO_CLIENT_CA, REF_NOT_PERMITTED,
};
use moorgate_model::ir::ClientValidation;
use moorgate_model::{Diagnostic, FieldPath, Object, ObjectRef};
use moorgate_policies::TrustBundle;

/// The validation that holds for a port, and its field: that of the port, even if it says nothing, before the default.
fn of_port(gateway: &spec::GatewaySpec, port: u16) -> Option<(FieldPath, &spec::FrontendValidation)> {
    let frontend = gateway.tls.as_ref()?.frontend.as_ref()?;
    let at = FieldPath::parse("spec.tls.frontend");
    let per_port = frontend.per_port.iter().enumerate().find(|(_, own)| own.port == port);
    let (at, validation) = match per_port {
        Some((index, own)) => (at.key("perPort").index(index).key("tls"), own.tls.validation.as_ref()),
        None => (at.key("default"), frontend.default.as_ref()?.validation.as_ref()),
    };
    Some((at.key("validation"), validation?))
}

/// Decides how the clients of an HTTPS listener are checked; the listener refuses connections if they cannot be.
pub(super) fn resolve(index: &Index<'_>, gateway: &Indexed<'_, spec::Gateway>, listener: &mut Listener<'_>) {
    let Some((at, validation)) = of_port(&gateway.value.spec, listener.spec.port) else { return };
    let object = gateway.object;
    let mut names = Vec::new();
    for (position, reference) in validation.ca_certificate_refs.iter().enumerate() {
        let at = at.key("caCertificateRefs").index(position);
        match bundle(index, object, &at, reference) {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(finding) => listener.findings.push(*finding),
        }
    }
    let help = "the listener refuses connections: clients cannot be checked";
    if names.is_empty() {
        let message = "no CA certificate reference is valid";
        let finding = object.diagnostic(&NO_CLIENT_CA, at.key("caCertificateRefs"), message);
        listener.findings.push(finding.help(help));
        listener.refuse = true;
    } else {
        let optional = is_fallback(validation);
        listener.clients = Some(ClientValidation { ca_bundles: names, optional, revoked: Vec::new() });
    }
}

/// The SDS name of a CA bundle that the Gateway may use.
fn bundle(
    index: &Index<'_>,
    gateway: &Object,
    at: &FieldPath,
    reference: &spec::CaRef,
) -> Result<String, Box<Diagnostic>> {
    let spec::CaRef { group, kind, name, namespace } = reference;
    let object = match (group.as_str(), kind.as_str()) {
        ("", "ConfigMap") => {
            let from =
                From { group: GATEWAY_GROUP, kind: "Gateway", namespace: &gateway.reference.namespace };
            let to = To { group, kind, namespace: namespace.as_deref(), name };
            let permitted = permit(index, from, to).ok_or_else(|| {
                let namespace = namespace.as_deref().unwrap_or_default();
                let message =
                    format!("ConfigMap {namespace}/{name} may not be used from {}", gateway.reference);
                let finding = gateway.diagnostic(&REF_NOT_PERMITTED, at.clone(), message);
                Box::new(finding.help(format!("add a ReferenceGrant in namespace {namespace}")))
            })?;
            ObjectRef::new(group, kind, &permitted.namespace, &permitted.name)
        }
        (CERTIFICATES_GROUP, "ClusterTrustBundle") => ObjectRef::new(group, kind, "", name),
        _ => {
            let message = format!("a CA certificate cannot be taken from a {kind} of group {group:?}");
            let finding = gateway.diagnostic(&CLIENT_CA_KIND, at.key("kind"), message);
            return Err(Box::new(finding.help("use a ConfigMap with key ca.crt, or a ClusterTrustBundle")));
        }
    };
    let why = match trust::bundle(index, &object) {
        TrustBundle::Usable => return Ok(format!("{kind}/{}/{name}", object.namespace)),
        TrustBundle::Missing => format!("{object} is not in this source"),
        TrustBundle::Unusable(why) => format!("{object} holds no usable CA certificate: {why}"),
    };
    Err(Box::new(gateway.diagnostic(&CLIENT_CA_INVALID, at.key("name"), why)))
}

fn is_fallback(validation: &spec::FrontendValidation) -> bool {
    validation.mode.as_deref() == Some("AllowInsecureFallback")
}

/// Where a Gateway lets clients pass that show no valid certificate.
pub(super) fn fallbacks(object: &Object, gateway: &spec::GatewaySpec) -> Vec<Diagnostic> {
    let Some(frontend) = gateway.tls.as_ref().and_then(|tls| tls.frontend.as_ref()) else {
        return Vec::new();
    };
    let at = FieldPath::parse("spec.tls.frontend");
    let default = frontend.default.iter().map(|tls| (at.key("default"), tls));
    let per_port = frontend.per_port.iter().enumerate();
    let per_port = per_port.map(|(index, own)| (at.key("perPort").index(index).key("tls"), &own.tls));
    let fallback = |(at, tls): (FieldPath, &spec::PortTls)| {
        let found = tls.validation.as_ref().filter(|validation| is_fallback(validation));
        found.map(|_| {
            let message = "connections without a valid client certificate pass";
            object.diagnostic(&INSECURE_FALLBACK, at.key("validation").key("mode"), message)
        })
    };
    default.chain(per_port).filter_map(fallback).collect()
}

/// Resolves the certificate that the Gateway shows to backends. Without a usable one they are reached without it, and
/// may refuse.
pub(super) fn towards_backends(index: &Index<'_>, spec: &spec::GatewaySpec, gateway: &mut Gateway<'_>) {
    let backend = spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) else { return };
    let at = FieldPath::parse("spec.tls.backend.clientCertificateRef");
    let findings = gateway.references.insert(Vec::new());
    gateway.client_certificate = certificate::secret(index, gateway.object, &at, reference, None, findings);
}
