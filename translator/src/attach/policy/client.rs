//! What policies make of listeners (ClientTrafficPolicy).

use super::Policies;
use super::held::{One, Target};
use crate::attach::Options;
use crate::attach::index::Key;
use crate::attach::kind::Mode;
use crate::attach::listener::Gateway;
use moorgate_model::diagnostic::policy::POLICY_PORT_CONFLICT;
use moorgate_model::ir::{ChainPolicies, Patch, PolicySource};
use moorgate_model::{Diagnostic, Diagnostics, ObjectRef};
use moorgate_policies::{Kind, Lowered};
use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A listener by its Gateway and place, with the policies in its scopes, the narrowest first.
type Member<'a> = (Key<'a>, usize, Vec<usize>);

/// Listeners of a fleet that share a port: plain or TLS, datagrams apart.
type Port = (FleetName, u16, bool);

/// Puts policies on every listener.
pub(in crate::attach) fn listeners<'a>(
    policies: &mut Policies,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    options: &Options,
    diagnostics: &mut Diagnostics,
) {
    if policies.held.all.iter().all(|one| one.kind != Kind::ClientTraffic) {
        return;
    }
    let mut ports: BTreeMap<Port, Vec<Member<'a>>> = BTreeMap::new();
    for (&key, gateway) in gateways.iter() {
        let fleet = options.fleet(gateway.class, key.0, key.1);
        for listener in &gateway.listeners {
            let numbers = policies.held.of_listener(Kind::ClientTraffic, listener, &gateway.object.reference);
            let port = (fleet.clone(), listener.spec.port, listener.mode == Some(Mode::Udp));
            ports.entry(port).or_default().push((key, listener.position, numbers));
        }
    }
    let mut told = BTreeSet::new();
    for members in ports.values() {
        port(policies, gateways, members, (&mut told, diagnostics));
    }
}

fn port<'a>(
    policies: &mut Policies,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    members: &[Member<'a>],
    (told, diagnostics): (&mut BTreeSet<usize>, &mut Diagnostics),
) {
    let lowered: Vec<Option<Lowered>> = members
        .iter()
        .map(|(.., numbers)| Some(policies.held.all.get(*numbers.first()?)?.compiled.together()))
        .collect();
    let plain = members.iter().any(|(key, position, _)| {
        let listener = gateways.get(key).and_then(|gateway| gateway.listeners.get(*position));
        listener.is_some_and(|listener| listener.spec.protocol == "HTTP")
    });
    // Without server names a port has one chain; what comes before TLS all chains share.
    let (all_agree, early_agree) = (agree(&lowered, Clone::clone), agree(&lowered, early));
    let fine = if plain { all_agree } else { early_agree };
    for ((key, position, numbers), mut lowered) in members.iter().zip(lowered) {
        let Some(gateway) = gateways.get_mut(key) else { continue };
        let reference = &gateway.object.reference;
        let name = (reference.namespace.to_string(), reference.name.to_string());
        let Some(listener) = gateway.listeners.get_mut(*position) else { continue };
        let Some((&number, wider)) = numbers.split_first() else { continue };
        let Some(one) = policies.held.all.get(number) else { continue };
        let winner = one.object.reference.clone();
        let settled = &mut policies.settled;
        for other in wider {
            settled.overridden.entry((*other, name.clone())).or_default().insert(winner.clone());
        }
        listener.refuse |= one.compiled.closed;
        let target = one.targets.iter().find(|target| target.place.0 == listener.owner.reference);
        let Some(target) = target.or_else(|| one.targets.first()) else { continue };
        if !fine {
            if told.insert(number) {
                diagnostics.push(disagree(one, target, listener.spec.port));
            }
            listener.refuse |= one.kind.asks(&one.object);
            if plain {
                continue;
            }
            if let Some(found) = &mut lowered {
                found.listener.clear();
            }
        }
        let Some(lowered) = lowered else { continue };
        if lowered.clients.is_some() {
            listener.clients.clone_from(&lowered.clients);
        }
        let mut sources = vec![one.source(target, one.compiled.parts.keys().copied().collect(), None)];
        sources.extend(wider.iter().filter_map(|number| overridden(policies, *number, &winner)));
        let Lowered { manager, chain, listener: before, tls, .. } = lowered;
        let Lowered { on_listener: filters, changes, stream, inspector, http3, default_host, .. } = lowered;
        listener.policies = Some(Arc::new(ChainPolicies {
            sources,
            manager,
            chain,
            tls,
            listener: before,
            filters,
            changes,
            stream,
            inspector,
            http3,
            default_host: default_host.then(String::new),
        }));
    }
}

/// A wider policy that has no say, for `explain`.
fn overridden(policies: &Policies, number: usize, winner: &ObjectRef) -> Option<PolicySource> {
    let one = policies.held.all.get(number)?;
    Some(one.source(one.targets.first()?, Vec::new(), Some(winner.clone())))
}

fn disagree(one: &One, target: &Target, port: u16) -> Diagnostic {
    let message = format!("listeners of port {port} that share it have other policies, or none");
    let finding = one.object.diagnostic(&POLICY_PORT_CONFLICT, target.field.clone(), message);
    finding.help(if one.kind.asks(&one.object) {
        "the listeners refuse requests, because the policy restricts access"
    } else {
        "attach one policy to all listeners of the port"
    })
}

/// What concerns connections before TLS.
fn early(lowered: &Lowered) -> Lowered {
    let listener: Vec<Patch> = lowered.listener.clone();
    Lowered { listener, ..Lowered::default() }
}

/// Whether all listeners say the same of a part.
fn agree(lowered: &[Option<Lowered>], part: impl Fn(&Lowered) -> Lowered) -> bool {
    let mut parts = lowered.iter().map(|one| one.as_ref().map(&part).unwrap_or_default());
    let first = parts.next();
    parts.all(|other| Some(&other) == first.as_ref())
}
