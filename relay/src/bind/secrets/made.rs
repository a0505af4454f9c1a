//! Values that are made of entries of objects by a template of the snapshot. What they mean is not known here: keys and
//! lengths of protobuf fields are written, entries are checked and put in, and nothing grows beyond its bound.

use super::{Reloaded, SecretError, Served, Source, pair};
use crate::bind::live::Pem;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use moorgate_snapshot::template::{Entry, Form, Part};
use moorgate_snapshot::{Binding, Digest, Template};
use prost::encoding::{WireType, encode_key, encode_varint};
use ring::rand::{SecureRandom as _, SystemRandom};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The most that a value may hold: Secrets have up to 1 MiB each, and most of them a few words.
const MAX_MADE: usize = 4 << 20;
/// So long objects may be unknown before what stands in for them is served.
const UNKNOWN: Duration = Duration::from_secs(3);
/// A user whose password nobody knows: none is known whose SHA-1 is all zeros.
const NOBODY: &str = "nobody:{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// SHA-1, as `htpasswd -s` writes it.
const SHA1_BYTES: usize = 20;

/// What stands in for entries that have never been there, and since when they are waited for.
#[derive(Debug, Default)]
pub(super) struct Made {
    random: BTreeMap<Arc<str>, Random>,
    waiting: BTreeMap<Arc<str>, Instant>,
}

/// Bytes that nobody knows.
#[derive(Clone)]
struct Random(Vec<u8>);

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random(…)")
    }
}

impl Made {
    /// The value of a binding: the last one while nothing better can be made, and what stands in where there is none.
    pub(super) fn read(
        &mut self,
        source: Source<'_>,
        (binding, template): (&Binding, &Template),
        last: Option<Served>,
        out: &mut Reloaded,
    ) -> Option<Served> {
        let name = &binding.name;
        let read: Option<Vec<_>> = template.objects.iter().map(|object| source.entries(object)).collect();
        let objects = match read {
            Some(read) => {
                self.waiting.remove(name);
                // Whoever takes away what names clients lets none of them in any more.
                let revoked = last.is_some() && names_clients(&template.parts);
                let known = |read: Result<Pem, SecretError>| match read {
                    Err(gone) if revoked && gone.label() == "missing" => {
                        out.errors.insert(Arc::clone(name), gone);
                        Ok(Pem::default())
                    }
                    read => read,
                };
                read.into_iter().map(known).collect::<Result<Vec<Pem>, _>>()
            }
            None if last.is_some() => return last,
            None => {
                let since = *self.waiting.entry(Arc::clone(name)).or_insert_with(Instant::now);
                if since.elapsed() < UNKNOWN || !stands_in(template) {
                    out.pending.insert(Arc::clone(name));
                    return None;
                }
                Err(SecretError::Untold("no source has told anything yet".to_owned()))
            }
        };
        let error = match objects.and_then(|objects| fill(template, &objects)) {
            Ok((bytes, not_after)) => {
                self.random.remove(name);
                let made_of = Digest::of(&bytes);
                return Some(Served { bytes: bytes.into(), not_after, made_of, stands_in: false });
            }
            Err(error) => error,
        };
        out.errors.insert(Arc::clone(name), error);
        last.filter(|last| !last.stands_in).or_else(|| self.stand_in(name, template))
    }

    /// Forgets all other names.
    pub(super) fn keep<'n>(&mut self, names: impl Iterator<Item = &'n Arc<str>>) {
        let names: BTreeSet<_> = names.collect();
        self.random.retain(|name, _| names.contains(name));
        self.waiting.retain(|name, _| names.contains(name));
    }

    fn stand_in(&mut self, name: &Arc<str>, template: &Template) -> Option<Served> {
        if !stands_in(template) {
            return None;
        }
        let random = if let Some(random) = self.random.get(name) {
            random.clone()
        } else {
            let mut bytes = [0; 32];
            SystemRandom::new().fill(&mut bytes).ok()?;
            let random = Random(URL_SAFE_NO_PAD.encode(bytes).into_bytes());
            self.random.entry(Arc::clone(name)).or_insert(random).clone()
        };
        let mut made = Making { objects: &[], random: Some(&random.0), not_after: None };
        let bytes = made.parts(&template.parts, None).ok()?;
        let made_of = Digest::of(&bytes);
        Some(Served { bytes: bytes.into(), not_after: None, made_of, stands_in: true })
    }
}

/// Whether it is made of nothing but clients and what proves who they are: without one it lets nobody in.
fn names_clients(parts: &[Part]) -> bool {
    parts.iter().all(|part| match part {
        Part::Bytes(_) | Part::Each(_) | Part::Name | Part::Value => true,
        Part::Field { parts, .. } => names_clients(parts),
        Part::Entry(entry) => entry.form == Form::Htpasswd,
    })
}

/// Whether everything in it may be stood in for.
fn stands_in(template: &Template) -> bool {
    fn all(parts: &[Part]) -> bool {
        parts.iter().all(|part| match part {
            Part::Bytes(_) => true,
            Part::Field { parts, .. } => all(parts),
            Part::Entry(entry) => entry.or_random,
            Part::Each(_) | Part::Name | Part::Value => false,
        })
    }
    all(&template.parts)
}

/// The value, and when its first certificate ends, if it holds any.
fn fill(template: &Template, objects: &[Pem]) -> Result<(Vec<u8>, Option<i64>), SecretError> {
    let mut making = Making { objects, random: None, not_after: None };
    let bytes = making.parts(&template.parts, None)?;
    Ok((bytes, making.not_after))
}

/// A value on the way.
struct Making<'a> {
    objects: &'a [Pem],
    random: Option<&'a [u8]>,
    not_after: Option<i64>,
}

impl Making<'_> {
    fn parts(&mut self, parts: &[Part], each: Option<(&str, &[u8])>) -> Result<Vec<u8>, SecretError> {
        let mut out = Vec::new();
        for part in parts {
            match part {
                Part::Bytes(bytes) => put(&mut out, bytes)?,
                Part::Field { number, parts } => {
                    let inner = self.parts(parts, each)?;
                    encode_key(*number, WireType::LengthDelimited, &mut out);
                    encode_varint(inner.len() as u64, &mut out);
                    put(&mut out, &inner)?;
                }
                Part::Entry(entry) => {
                    let value = self.entry(entry)?;
                    put(&mut out, &value)?;
                }
                Part::Each(parts) => self.each(parts, &mut out)?,
                Part::Name => put(&mut out, each.map_or(&[][..], |(name, _)| name.as_bytes()))?,
                Part::Value => put(&mut out, each.map_or(&[][..], |(_, value)| value))?,
            }
        }
        Ok(out)
    }

    fn entry(&mut self, entry: &Entry) -> Result<Vec<u8>, SecretError> {
        if let Some(random) = self.random {
            return Ok(random.to_vec());
        }
        let object = self.objects.get(entry.object as usize).ok_or(SecretError::Unaskable)?;
        let value = match (value(object, &entry.key), entry.form) {
            (Some(value), _) => value,
            // A list that is gone is one without users, once there was one.
            (None, Form::Htpasswd) if object.entries.is_empty() => &[],
            (None, _) => return Err(SecretError::Lacks(entry.key.to_string())),
        };
        match entry.form {
            Form::Opaque if value.is_empty() => Err(SecretError::Form("it is empty")),
            Form::Opaque => Ok(value.to_vec()),
            Form::Htpasswd => htpasswd(value),
            Form::Word => word(value).map(<[u8]>::to_vec),
            Form::Authorities => {
                let end = pair::check_bundle(value)?;
                self.not_after = Some(self.not_after.map_or(end, |other| other.min(end)));
                Ok(value.to_vec())
            }
            Form::Revoked => pair::check_revoked(value).map(|()| value.to_vec()),
        }
    }

    /// All entries of all objects. Two with one value would be one client with two names.
    fn each(&mut self, parts: &[Part], out: &mut Vec<u8>) -> Result<(), SecretError> {
        let mut names = BTreeSet::new();
        let mut values = BTreeSet::new();
        for object in self.objects {
            for (name, value) in &object.entries {
                if !names.insert(name.as_str()) {
                    continue;
                }
                let value = word(value)?;
                if !values.insert(value) {
                    return Err(SecretError::Form("two of its entries have the same value"));
                }
                let made = self.parts(parts, Some((name, value)))?;
                put(out, &made)?;
            }
        }
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), SecretError> {
    if out.len().saturating_add(bytes.len()) > MAX_MADE {
        return Err(SecretError::Form("what is made of it is too large"));
    }
    out.extend_from_slice(bytes);
    Ok(())
}

fn value<'p>(object: &'p Pem, key: &str) -> Option<&'p [u8]> {
    let known = match key {
        "tls.crt" => object.chain.as_ref(),
        "tls.key" => object.key.as_ref(),
        "ca.crt" => object.bundle.as_ref(),
        _ => None,
    };
    known.or_else(|| object.entries.get(key)).map(Vec::as_slice)
}

/// A word that can stand in a header, a query and a cookie; the end of a line behind it is none of it.
fn word(value: &[u8]) -> Result<&[u8], SecretError> {
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    let fits = !value.is_empty() && value.iter().all(u8::is_ascii_graphic);
    if fits { Ok(value) } else { Err(SecretError::Form("an entry is no word of visible letters")) }
}

/// Users and passwords as Envoy reads them: it refuses the whole file for a line that it does not know. Empty lines and notes
/// are left out.
fn htpasswd(value: &[u8]) -> Result<Vec<u8>, SecretError> {
    let text = std::str::from_utf8(value).map_err(|_| SecretError::Form("it is no text"))?;
    let (mut users, mut lines) = (BTreeSet::new(), Vec::new());
    for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let form = |why| Err(SecretError::Form(why));
        let Some((user, hash)) = line.split_once(':') else {
            return form("a line has no colon between user and password");
        };
        let Some(hash) = hash.strip_prefix("{SHA}") else {
            return form("a password is not hashed by SHA-1: write it with htpasswd -s");
        };
        if STANDARD.decode(hash).map(|hash| hash.len()) != Ok(SHA1_BYTES) {
            return form("a hash is no SHA-1");
        }
        if user.is_empty() || !users.insert(user) {
            return form("a user has no name, or is there twice");
        }
        lines.push(line);
    }
    if lines.is_empty() {
        // Envoy takes no list without users.
        lines.push(NOBODY);
    }
    Ok(lines.join("\n").into_bytes())
}

#[cfg(test)]
mod tests;
