//! Templates: how a value is made of Secrets by somebody who does not know what it means.
//!
//! ```text
//! Bytes ‖ Field(2) of ( Bytes ‖ Field(1) of ( Entry ".htpasswd" ) ) ‖ Bytes
//! ```
//! Some configuration of Envoy takes credentials only in its midst, where no reference can stand. So a snapshot holds what is
//! around them, and a relay puts them in: it writes keys and lengths of protobuf fields, and needs no more of protobuf.

use crate::limits;
use crate::record::{BindingKind, ObjectSource};
use crate::snapshot::SnapshotError;
use crate::wire;
use bytes::Bytes;
use std::sync::Arc;

/// How a value is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The objects that it is made of, in the order in which they count.
    pub objects: Vec<ObjectSource>,
    /// What it consists of, one behind the other.
    pub parts: Vec<Part>,
}

/// A piece of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// These bytes.
    Bytes(Bytes),
    /// A protobuf field of delimited type with what these parts make.
    Field {
        /// Its number.
        number: u32,
        /// What is in it.
        parts: Vec<Part>,
    },
    /// An entry of an object.
    Entry(Entry),
    /// These parts once for each entry of all objects: by objects, then by the entries' names. Of two with one name the
    /// first counts.
    Each(Vec<Part>),
    /// Inside `Each`: the name of the entry.
    Name,
    /// Inside `Each`: its value, a word that fits into a header.
    Value,
}

/// An entry of an object, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which of the template's objects.
    pub object: u32,
    /// The key of the entry.
    pub key: Arc<str>,
    /// What is checked before it is used.
    pub form: Form,
    /// While there has never been a good one, random bytes stand for it, which nobody knows: what is protected by it stays
    /// closed, and who waits for it does not wait for ever. Otherwise the whole value is missing.
    pub or_random: bool,
}

/// What an entry must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One byte and more.
    Opaque,
    /// Lines `user:{SHA}…` (Apache `htpasswd -s`), at least one, each user once.
    Htpasswd,
    /// A word that can stand in a URL.
    Word,
    /// CA certificates in PEM.
    Authorities,
    /// Lists of revoked certificates in PEM (RFC 5280).
    Revoked,
}

/// The most objects of one template.
const MAX_OBJECTS: usize = 64;
/// The most parts, on all levels.
const MAX_PARTS: usize = 4096;
/// How deep parts may be nested.
const MAX_DEPTH: usize = 16;
/// The largest number of a protobuf field.
const MAX_FIELD: u32 = (1 << 29) - 1;

impl Template {
    /// Whether a binding of this kind can have it, and whoever fills it in can trust it to be bounded.
    pub(crate) fn fits(&self, kind: BindingKind) -> bool {
        let known = |object: &ObjectSource| matches!(&*object.kind, "Secret" | "ConfigMap");
        let mut left = MAX_PARTS;
        matches!(kind, BindingKind::Secret | BindingKind::Extension)
            && !self.parts.is_empty()
            && (1..=MAX_OBJECTS).contains(&self.objects.len())
            && self.objects.iter().all(known)
            && self.is_sound(&self.parts, MAX_DEPTH, false, &mut left)
    }

    fn is_sound(&self, parts: &[Part], depth: usize, each: bool, left: &mut usize) -> bool {
        let Some(deeper) = depth.checked_sub(1) else { return false };
        let Some(rest) = left.checked_sub(parts.len()) else { return false };
        *left = rest;
        parts.iter().all(|part| match part {
            Part::Bytes(bytes) => !bytes.is_empty(),
            Part::Field { number, parts } => {
                (1..=MAX_FIELD).contains(number) && self.is_sound(parts, deeper, each, left)
            }
            Part::Entry(entry) => {
                (entry.object as usize) < self.objects.len()
                    && (1..=limits::NAME_BYTES).contains(&entry.key.len())
            }
            Part::Each(parts) => !each && self.is_sound(parts, deeper, true, left),
            Part::Name | Part::Value => each,
        })
    }

    /// As it is stored.
    pub(crate) fn write(parts: &[Part]) -> Vec<wire::Part> {
        parts.iter().map(write).collect()
    }

    /// What is stored. Each part is written in one way only.
    pub(crate) fn read(parts: Vec<wire::Part>) -> Result<Vec<Part>, SnapshotError> {
        parts.into_iter().map(read).collect()
    }
}

fn write(part: &Part) -> wire::Part {
    let nothing = wire::Part::default();
    match part {
        Part::Bytes(bytes) => wire::Part { bytes: bytes.clone(), ..nothing },
        Part::Field { number, parts } => {
            wire::Part { what: 1, number: *number, parts: Template::write(parts), ..nothing }
        }
        Part::Entry(Entry { object, key, form, or_random }) => wire::Part {
            what: 2,
            number: *object,
            key: key.to_string(),
            form: match form {
                Form::Opaque => 0,
                Form::Htpasswd => 1,
                Form::Word => 2,
                Form::Authorities => 3,
                Form::Revoked => 4,
            },
            or_random: *or_random,
            ..nothing
        },
        Part::Each(parts) => wire::Part { what: 3, parts: Template::write(parts), ..nothing },
        Part::Name => wire::Part { what: 4, ..nothing },
        Part::Value => wire::Part { what: 5, ..nothing },
    }
}

fn read(part: wire::Part) -> Result<Part, SnapshotError> {
    let again = part.clone();
    let malformed = || SnapshotError::Malformed("template");
    let read = match part.what {
        0 => Part::Bytes(part.bytes),
        1 => Part::Field { number: part.number, parts: Template::read(part.parts)? },
        2 => Part::Entry(Entry {
            object: part.number,
            key: part.key.into(),
            form: match part.form {
                0 => Form::Opaque,
                1 => Form::Htpasswd,
                2 => Form::Word,
                3 => Form::Authorities,
                4 => Form::Revoked,
                _ => return Err(malformed()),
            },
            or_random: part.or_random,
        }),
        3 => Part::Each(Template::read(part.parts)?),
        4 => Part::Name,
        5 => Part::Value,
        _ => return Err(malformed()),
    };
    // Fields that mean nothing here would be a second way to write the same.
    if write(&read) == again { Ok(read) } else { Err(SnapshotError::NotCanonical("template")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Binding, BindingSource, Record};
    use crate::{Page, Snapshot};
    use prost::Message as _;

    fn secret(name: &str) -> ObjectSource {
        ObjectSource { kind: "Secret".into(), namespace: "shop".into(), name: name.into() }
    }

    fn entry(object: u32) -> Part {
        Part::Entry(Entry { object, key: "k".into(), form: Form::Htpasswd, or_random: false })
    }

    fn build(kind: BindingKind, objects: &[&str], parts: Vec<Part>) -> Result<Snapshot, SnapshotError> {
        let objects = objects.iter().map(|name| secret(name)).collect();
        let source = BindingSource::Template(Template { objects, parts });
        Snapshot::build(vec![Record::Binding(Binding { kind, name: "x".into(), source })])
    }

    fn everything() -> Vec<Part> {
        let forms = [Form::Opaque, Form::Htpasswd, Form::Word, Form::Authorities, Form::Revoked];
        let entries = forms.map(|form| {
            Part::Entry(Entry { object: 1, key: "k".into(), form, or_random: form == Form::Opaque })
        });
        let each = vec![Part::Name, Part::Field { number: 2, parts: vec![Part::Value] }];
        let inside = entries.into_iter().chain([Part::Each(each)]).collect();
        vec![Part::Bytes("begin".into()), Part::Field { number: MAX_FIELD, parts: inside }]
    }

    #[test]
    fn templates_are_read_as_they_were_written_by_those_who_know_them() {
        for kind in [BindingKind::Secret, BindingKind::Extension] {
            let snapshot = build(kind, &["a", "b"], everything()).unwrap();
            assert_eq!(snapshot.manifest().required_features(), ["secret-templates"]);
            let pages = snapshot.pages().iter().map(|page| Page::decode(page.raw().clone()).unwrap());
            let again = Snapshot::from_pages(snapshot.manifest().clone(), pages.collect()).unwrap();
            assert_eq!(again, snapshot);
        }
    }

    #[test]
    fn what_whoever_fills_it_in_could_not_trust_is_refused() {
        let field = |number, parts| Part::Field { number, parts };
        let deep = |depth| (0..depth).fold(vec![entry(0)], |parts, _| vec![field(1, parts)]);
        assert!(build(BindingKind::Secret, &["a"], deep(MAX_DEPTH - 1)).is_ok());
        let one = Part::Bytes("a".into());
        let refused = [
            build(BindingKind::TrustBundle, &["a"], vec![entry(0)]),
            build(BindingKind::Endpoints, &["a"], vec![entry(0)]),
            build(BindingKind::Secret, &[], vec![one.clone()]),
            build(BindingKind::Secret, &["a"; MAX_OBJECTS + 1], vec![entry(0)]),
            build(BindingKind::Secret, &["a"], vec![entry(1)]),
            build(BindingKind::Secret, &["a"], vec![field(0, vec![entry(0)])]),
            build(BindingKind::Secret, &["a"], vec![field(MAX_FIELD + 1, vec![entry(0)])]),
            build(BindingKind::Secret, &["a"], vec![Part::Value]),
            build(BindingKind::Secret, &["a"], vec![Part::Each(vec![Part::Each(vec![Part::Name])])]),
            build(BindingKind::Secret, &["a"], vec![Part::Bytes(Bytes::new())]),
            build(BindingKind::Secret, &["a"], deep(MAX_DEPTH)),
            build(BindingKind::Secret, &["a"], vec![one; MAX_PARTS + 1]),
        ];
        for wrong in refused {
            assert!(matches!(wrong, Err(SnapshotError::BindingSource(_))), "{wrong:?}");
        }
    }

    #[test]
    fn there_is_one_way_to_write_each() {
        let nothing = wire::Part::default();
        for part in [
            wire::Part { number: 1, bytes: "a".into(), ..nothing.clone() },
            wire::Part { what: 4, key: "a".into(), ..nothing.clone() },
            wire::Part { what: 1, number: 1, or_random: true, ..nothing.clone() },
            wire::Part { what: 2, key: "a".into(), form: 5, ..nothing.clone() },
            wire::Part { what: 6, ..nothing.clone() },
        ] {
            let binding = wire::Binding { name: "x".into(), template: vec![part], ..Default::default() };
            let page = wire::Page {
                section: "binding/extension".into(),
                bindings: vec![binding],
                ..Default::default()
            };
            assert!(Page::decode(page.encode_to_vec().into()).is_err());
        }
    }
}
