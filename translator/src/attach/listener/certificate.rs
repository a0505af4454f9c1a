//! Certificates of a listener: who may use them, and whether what is known of them fits.
//!
//! A Secret is bound late by the relay, and its key never comes near the translator. If the source holds the public
//! half, its form and names are checked here, so that a mistake shows in the pull request and not at night.

use super::{Listener, field};
use crate::attach::grant::{From, To, permit};
use crate::attach::hostname::covers;
use crate::attach::index::Index;
use crate::attach::spec;
use base64::Engine as _;
use moorgate_model::diagnostic::semantic::{
    CERTIFICATE_NAMES, INVALID_CERTIFICATE, INVALID_KIND, REF_NOT_PERMITTED, TLS_REQUIRED,
};
use moorgate_model::{Diagnostic, FieldPath, Object, ObjectRef};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use x509_parser::public_key::PublicKey;

/// Resolves all certificate references; the listener refuses connections if none is left.
pub(super) fn resolve(index: &Index<'_>, listener: &mut Listener<'_>) {
    let gateway = listener.owner;
    let at = field(listener.index).key("tls");
    let references = listener.spec.tls.as_ref().map(|tls| tls.certificate_refs.clone()).unwrap_or_default();
    if references.is_empty() {
        let message =
            format!("{} listener {:?} has no certificate", listener.spec.protocol, listener.spec.name);
        listener
            .findings
            .push(gateway.diagnostic(&TLS_REQUIRED, at.clone(), message).help("add tls.certificateRefs"));
    }
    for (position, reference) in references.iter().enumerate() {
        let at = at.key("certificateRefs").index(position);
        if let Some(name) =
            secret(index, gateway, &at, reference, Some(&listener.spec.hostname), &mut listener.findings)
            && !listener.secrets.contains(&name)
        {
            listener.secrets.push(name);
        }
    }
    listener.refuse |= listener.secrets.is_empty();
}

/// The SDS name of a Secret that an object may use, if nothing that is known of it is wrong. A certificate that does not
/// cover `hostname` is named and served.
pub(in crate::attach) fn secret(
    index: &Index<'_>,
    owner: &Object,
    at: &FieldPath,
    reference: &spec::CertificateRef,
    hostname: Option<&str>,
    findings: &mut Vec<Diagnostic>,
) -> Option<String> {
    if !reference.group.is_empty() || reference.kind != "Secret" {
        let message = format!("a certificate cannot be a {} of group {:?}", reference.kind, reference.group);
        findings.push(owner.diagnostic(&INVALID_KIND, at.key("kind"), message).help("use kind Secret"));
        return None;
    }
    let ObjectRef { group, kind, namespace, .. } = &owner.reference;
    let from = From { group, kind, namespace };
    let to =
        To { group: "", kind: "Secret", namespace: reference.namespace.as_deref(), name: &reference.name };
    let Some(permitted) = permit(index, from, to) else {
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        let message =
            format!("Secret {namespace}/{} may not be used from {}", reference.name, owner.reference);
        findings.push(
            owner
                .diagnostic(&REF_NOT_PERMITTED, at.clone(), message)
                .help(format!("add a ReferenceGrant in namespace {namespace}")),
        );
        return None;
    };
    let name = format!("{}/{}", permitted.namespace, permitted.name);
    match index.secrets.get(&(permitted.namespace.as_str(), permitted.name.as_str())) {
        None if index.is_open("Secret") => Some(name),
        None => {
            let message = format!("Secret {name} is not in this source");
            let help = "add the Secret, or correct the name";
            findings.push(owner.diagnostic(&INVALID_CERTIFICATE, at.clone(), message).help(help));
            None
        }
        Some(secret) => match read(secret) {
            Err(problem) => {
                let message = format!("Secret {name} is no usable certificate: {problem}");
                let place = secret.root.span.start;
                let finding = owner
                    .diagnostic(&INVALID_CERTIFICATE, at.clone(), message)
                    .help("this reference is left out; a listener without any refuses connections");
                findings.push(finding.related(secret.origin.file.clone(), place, "the Secret is here"));
                None
            }
            Ok(read) => {
                let hostname = hostname.unwrap_or_default();
                if !hostname.is_empty() && !read.names.iter().any(|pattern| certifies(pattern, hostname)) {
                    let message = format!(
                        "the certificate of Secret {name} is for {}, not for {hostname:?}",
                        read.names.join(", ")
                    );
                    let help = "it is served all the same; put the hostname among its DNS names";
                    findings.push(owner.diagnostic(&CERTIFICATE_NAMES, at.clone(), message).help(help));
                }
                if let Some(problem) = index.options.now.and_then(|now| read.out_of_date(now)) {
                    let message = format!("Secret {name}: {problem}");
                    let help = "it is served all the same; renew it";
                    findings.push(owner.diagnostic(&CERTIFICATE_NAMES, at.clone(), message).help(help));
                }
                Some(name)
            }
        },
    }
}

/// RFC 6125: a wildcard stands for exactly one label; a wildcard listener is served if its own wildcard is certified.
fn certifies(pattern: &str, hostname: &str) -> bool {
    pattern.eq_ignore_ascii_case(hostname)
        || (covers(pattern, hostname)
            && hostname.strip_suffix(&pattern[1..]).is_some_and(|label| !label.contains('.') && label != "*"))
}

/// Envoy takes RSA keys from 2048 bits up, and elliptic curves P-256, P-384 and P-521. For another key it would refuse
/// the Secret, and the listener would stand without a certificate.
fn key_fits(leaf: &X509Certificate<'_>) -> Result<(), String> {
    match leaf.public_key().parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < 2048 => {
            Err(format!("its RSA key has {} bits, and must have 2048 or more", key.key_size()))
        }
        Ok(PublicKey::EC(key)) if ![256, 384, 521, 528].contains(&key.key_size()) => {
            Err(format!("its elliptic curve of {} bits is not one of P-256, P-384 and P-521", key.key_size()))
        }
        Ok(PublicKey::DSA(_)) => Err("DSA keys are not supported".into()),
        _ => Ok(()),
    }
}

/// What a Secret says of its certificates.
struct Certificates {
    /// The DNS names of the first.
    names: Vec<String>,
    /// Of each the seconds since 1970 from which and up to which it holds, and that as text.
    times: Vec<(i64, i64, String, String)>,
}

impl Certificates {
    /// The first that does not hold at this time. Whoever serves it has no better one, so it is said and no more.
    fn out_of_date(&self, now: i64) -> Option<String> {
        let which = |position| match position {
            0 => "the certificate".to_owned(),
            _ => format!("certificate {} of the chain", position + 1),
        };
        self.times.iter().enumerate().find_map(|(position, (from, to, begin, end))| match now {
            now if now < *from => Some(format!("{} is not valid before {begin}", which(position))),
            now if now > *to => Some(format!("{} expired on {end}", which(position))),
            _ => None,
        })
    }
}

/// The certificates in a Secret of type `kubernetes.io/tls`.
fn read(secret: &Object) -> Result<Certificates, String> {
    let kind = secret.at("type").and_then(|node| node.as_str()).unwrap_or("Opaque");
    if kind != "kubernetes.io/tls" {
        return Err(format!("its type is {kind}, not kubernetes.io/tls"));
    }
    let field = |section: &str| {
        secret.root.get(section).and_then(|data| data.get("tls.crt")).and_then(|node| node.as_str())
    };
    let pem = match (field("stringData"), field("data")) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(text)) => base64::engine::general_purpose::STANDARD
            .decode(text.trim())
            .map_err(|_| "tls.crt is no base64".to_owned())?,
        (None, None) => return Err("it has no tls.crt".into()),
    };
    let chain: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|_| "tls.crt is no PEM".to_owned())?;
    let chain: Vec<X509Certificate<'_>> = chain
        .iter()
        .map(|one| X509Certificate::from_der(one).map(|(_, certificate)| certificate))
        .collect::<Result<_, _>>()
        .map_err(|_| "tls.crt holds no X.509 certificate".to_owned())?;
    let leaf = chain.first().ok_or("tls.crt holds no certificate")?;
    key_fits(leaf)?;
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.map(|names| &names.value.general_names).into_iter().flatten();
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    let times = chain.iter().map(|one| {
        let valid = one.validity();
        let (from, to) = (valid.not_before, valid.not_after);
        (from.timestamp(), to.timestamp(), from.to_string(), to.to_string())
    });
    Ok(Certificates { names: names.collect(), times: times.collect() })
}
