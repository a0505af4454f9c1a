//! Gateways of a merged class: one fleet serves them all, so that their listeners share ports.

use super::{Gateway, conflict};
use crate::attach::index::Key;
use crate::attach::precedence::Age;
use moorgate_model::diagnostic::semantic::UNSUPPORTED_VALUE;
use moorgate_model::{Diagnostic, FieldPath, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};

/// Tells the listeners of all Gateways of a merged class apart. What an older Gateway has is not taken from it: a younger
/// one's listener that conflicts with it is not served, and says so. The same for what a whole fleet can have once only: the
/// certificate that its Envoys show to backends.
pub(super) fn all<'a>(gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>, merged: &BTreeSet<String>) {
    let mut classes: BTreeMap<&str, Vec<(Age, Key<'a>)>> = BTreeMap::new();
    for (key, gateway) in gateways.iter().filter(|(_, gateway)| merged.contains(gateway.class)) {
        classes.entry(gateway.class).or_default().push((gateway.age.clone(), *key));
    }
    for mut order in classes.into_values() {
        order.sort();
        let mut taken = conflict::Ports::new();
        let mut oldest: Option<(ObjectRef, Option<String>)> = None;
        for (_, key) in order {
            let Some(gateway) = gateways.get_mut(&key) else { continue };
            let prefix = format!("{}/{}/", key.0, key.1);
            gateway.listeners.iter_mut().for_each(|listener| listener.prefix.clone_from(&prefix));
            if !gateway.is_served() {
                continue;
            }
            let shown = gateway.client_certificate.clone();
            let (first, certificate) =
                oldest.get_or_insert_with(|| (gateway.object.reference.clone(), shown.clone()));
            if *certificate == shown {
                conflict::across(gateway, &mut taken);
            } else {
                let finding = other_certificate(gateway, first);
                gateway.refused.push(finding);
            }
        }
    }
}

fn other_certificate(gateway: &Gateway<'_>, first: &ObjectRef) -> Diagnostic {
    let field = FieldPath::parse("spec.tls.backend.clientCertificateRef");
    let message = format!("{first} shares its fleet and shows another certificate to backends, or none");
    let help = "Gateways of a merged class show one certificate: name the same one, or use another class";
    gateway.object.diagnostic(&UNSUPPORTED_VALUE, field, message).help(help)
}

/// Closes the listeners of Gateways that share their fleet, where nothing of the Gateway may be reached: its neighbours go
/// on. (A fleet of one Gateway is closed as a whole.)
pub(in crate::attach) fn close(
    gateways: &mut BTreeMap<Key<'_>, Gateway<'_>>,
    merged: &BTreeSet<String>,
    denied: impl Fn(&ObjectRef) -> bool,
) {
    let shares = |gateway: &&mut Gateway<'_>| merged.contains(gateway.class);
    for gateway in gateways.values_mut().filter(shares) {
        if denied(&gateway.object.reference) {
            gateway.listeners.iter_mut().for_each(|listener| listener.refuse = true);
        }
    }
}
