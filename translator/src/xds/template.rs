//! Late values as a snapshot holds them.

use super::binding;
use bytes::Bytes;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use moorgate_model::ir::{ClientValidation, LateForm, LatePart, LateValue};
use moorgate_snapshot::Template;
use moorgate_snapshot::record::{BindingKind, ObjectSource};
use moorgate_snapshot::template::{Entry, Form, Part};
use prost::Message as _;

/// The template of a value.
pub(super) fn of(value: &LateValue) -> Template {
    let objects = value.objects.iter().map(|(kind, namespace, name)| ObjectSource {
        kind: kind.as_str().into(),
        namespace: namespace.as_str().into(),
        name: name.as_str().into(),
    });
    Template { objects: objects.collect(), parts: parts(&value.parts) }
}

/// `Secret.validation_context`, `trusted_ca` and `crl` in that, and the bytes of both.
const VALIDATION: u32 = 4;
const TRUSTED: u32 = 1;
const REVOKED: u32 = 7;
const INLINE: u32 = 2;

/// CA certificates together with lists of certificates that do not count any more: Envoy takes both from one place.
pub(super) fn validation(name: &str, clients: &ClientValidation) -> Template {
    let mut objects = Vec::new();
    let mut lines = |object: ObjectSource, key: &str, form: Form| {
        let number = u32::try_from(objects.len()).unwrap_or(u32::MAX);
        objects.push(object);
        let entry = Part::Entry(Entry { object: number, key: key.into(), form, or_random: false });
        [entry, Part::Bytes(Bytes::from_static(b"\n"))]
    };
    let authorities: Vec<Part> = clients
        .ca_bundles
        .iter()
        .flat_map(|bundle| lines(binding::one(BindingKind::TrustBundle, bundle), "ca.crt", Form::Authorities))
        .collect();
    let revoked: Vec<Part> = clients
        .revoked
        .iter()
        .flat_map(|secret| lines(binding::one(BindingKind::Secret, secret), "ca.crl", Form::Revoked))
        .collect();
    let field = |number, parts| Part::Field { number, parts };
    let both =
        vec![field(TRUSTED, vec![field(INLINE, authorities)]), field(REVOKED, vec![field(INLINE, revoked)])];
    let named = Secret { name: name.to_owned(), ..Default::default() };
    let parts = vec![Part::Bytes(named.encode_to_vec().into()), field(VALIDATION, both)];
    Template { objects, parts }
}

fn parts(found: &[LatePart]) -> Vec<Part> {
    found.iter().map(part).collect()
}

fn part(part: &LatePart) -> Part {
    match part {
        LatePart::Bytes(bytes) => Part::Bytes(Bytes::copy_from_slice(bytes)),
        LatePart::Field(number, inner) => Part::Field { number: *number, parts: parts(inner) },
        LatePart::Entry { object, key, form, or_random } => Part::Entry(Entry {
            object: *object,
            key: key.as_str().into(),
            form: self::form(*form),
            or_random: *or_random,
        }),
        LatePart::Each(inner) => Part::Each(parts(inner)),
        LatePart::Name => Part::Name,
        LatePart::Value => Part::Value,
    }
}

fn form(form: LateForm) -> Form {
    match form {
        LateForm::Opaque => Form::Opaque,
        LateForm::Htpasswd => Form::Htpasswd,
        LateForm::Word => Form::Word,
        LateForm::Authorities => Form::Authorities,
        LateForm::Revoked => Form::Revoked,
    }
}
