//! Trust bundles of several objects, one behind the other.

use super::{Reloaded, SecretError, Source, pair};
use crate::bind::live::Pem;
use moorgate_snapshot::{Binding, BindingSource, ObjectSource};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The last good part of each object, by SDS name.
#[derive(Debug, Default)]
pub(super) struct Joined {
    parts: BTreeMap<Arc<str>, BTreeMap<ObjectSource, Vec<u8>>>,
}

impl Joined {
    /// What the objects of a binding hold together. A bad one costs its own part only, of which the last good state stays;
    /// `None` while nothing is there and something may come yet.
    pub(super) fn read(
        &mut self,
        source: Source<'_>,
        binding: &Binding,
        objects: &[ObjectSource],
        out: &mut Reloaded,
    ) -> Option<Result<Pem, SecretError>> {
        let parts = self.parts.entry(Arc::clone(&binding.name)).or_default();
        parts.retain(|object, _| objects.contains(object));
        let (mut pending, mut wrong) = (false, None);
        for object in objects {
            let ObjectSource { kind, namespace, name } = object.clone();
            let of = BindingSource::Object { kind, namespace, name };
            match source.read(&Binding { source: of, ..binding.clone() }).map(|read| read.and_then(bundle)) {
                None => pending = true,
                Some(Ok(part)) => drop(parts.insert(object.clone(), part)),
                Some(Err(error)) => drop(wrong.get_or_insert(error)),
            }
        }
        if parts.is_empty() {
            return if pending { None } else { Some(Err(wrong.unwrap_or(SecretError::Absent))) };
        }
        if let Some(error) = wrong {
            out.errors.insert(Arc::clone(&binding.name), error);
        }
        let mut bundle = Vec::new();
        for part in parts.values() {
            bundle.extend_from_slice(part);
            if !part.ends_with(b"\n") {
                bundle.push(b'\n');
            }
        }
        Some(Ok(Pem { bundle: Some(bundle), ..Pem::default() }))
    }

    /// Forgets the parts of all other names.
    pub(super) fn keep<'n>(&mut self, names: impl Iterator<Item = &'n Arc<str>>) {
        let names: std::collections::BTreeSet<_> = names.collect();
        self.parts.retain(|name, _| names.contains(name));
    }
}

fn bundle(pem: Pem) -> Result<Vec<u8>, SecretError> {
    let bundle = pem.bundle.ok_or(SecretError::Incomplete("ca.crt"))?;
    pair::check_bundle(&bundle).map(|_| bundle)
}
