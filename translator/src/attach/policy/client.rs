//! What policies make of listeners (ClientTrafficPolicy).

use super::Policies;
use super::held::{Held, One, State, Target};
use crate::attach::Options;
use crate::attach::index::Key;
use crate::attach::kind::Mode;
use crate::attach::listener::{Gateway, Listener};
use moorgate_model::diagnostic::policy::{POLICY_FIELD_UNSUPPORTED, POLICY_PORT_CONFLICT};
use moorgate_model::ir::{ChainPolicies, Patch, PolicySource};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, ObjectRef};
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
    let mut quic = Quic::default();
    for (place, members) in &ports {
        quic.taken = ports.contains_key(&(place.0.clone(), place.1, true));
        port(policies, gateways, members, (&mut told, &mut quic, diagnostics));
    }
    diagnostics.extend(quic.silent(&policies.held));
    diagnostics.extend(unchecked(&policies.held, gateways));
}

/// What is said of policies that ask for certificates of clients where TLS does not end, so that nobody checks one.
fn unchecked(held: &Held, gateways: &BTreeMap<Key<'_>, Gateway<'_>>) -> Vec<Diagnostic> {
    let listeners = || {
        gateways.values().flat_map(|gateway| {
            let reference = &gateway.object.reference;
            gateway.listeners.iter().map(move |listener| (reference, listener))
        })
    };
    let field = FieldPath::parse("spec.tls.clientValidation");
    let mut out = Vec::new();
    for one in held.all.iter().filter(|one| one.kind == Kind::ClientTraffic) {
        if one.object.root.at(&field).is_none() {
            continue;
        }
        for Target { place: (object, section), .. } in
            one.targets.iter().filter(|target| target.state == State::Attached)
        {
            let mut inside = listeners().filter(|(gateway, listener)| match section {
                Some(name) => listener.owner.reference == *object && listener.spec.name == *name,
                None => listener.owner.reference == *object || *gateway == object,
            });
            let Some((_, first)) = inside.next() else { continue };
            if ends_tls(first) || inside.any(|(_, listener)| ends_tls(listener)) {
                continue;
            }
            let section = section.as_ref().map(|name| format!(" listener {name:?}")).unwrap_or_default();
            let message =
                format!("TLS does not end at {object}{section}: nobody checks certificates of clients");
            let finding = one.object.diagnostic(&POLICY_FIELD_UNSUPPORTED, field.clone(), message);
            out.push(finding.help("target a listener of protocol HTTPS, or of TLS in mode Terminate"));
        }
    }
    out
}

fn ends_tls(listener: &Listener<'_>) -> bool {
    match listener.mode {
        Some(Mode::Http) => listener.spec.protocol == "HTTPS",
        Some(Mode::Terminate) => true,
        Some(Mode::Passthrough | Mode::Tcp | Mode::Udp) | None => false,
    }
}

/// Who speaks HTTP/3, of those who are asked to.
#[derive(Default)]
struct Quic {
    /// The UDP port of the listeners that are looked at is a listener's own.
    taken: bool,
    spoken: BTreeSet<usize>,
    /// Policies of which a listener does not, and why.
    silent: BTreeMap<usize, &'static str>,
}

impl Quic {
    /// Whether a listener speaks it, as a policy asks.
    fn may(&mut self, number: usize, listener: &Listener<'_>) -> bool {
        if listener.spec.protocol != "HTTPS" {
            // Others of the policy's listeners may.
            self.silent.entry(number).or_insert(NO_TLS);
            return false;
        }
        let why = if self.taken {
            "another listener has the UDP port of this number: HTTP/3 is not spoken"
        } else if listener.clients.is_some() {
            "not all supported Envoys check certificates of clients over QUIC, so that HTTP/3 is not spoken"
        } else {
            self.spoken.insert(number);
            return true;
        };
        self.silent.insert(number, why);
        false
    }

    /// What is said of policies that are not carried out, or not everywhere.
    fn silent(self, held: &Held) -> Vec<Diagnostic> {
        let Self { spoken, silent, .. } = self;
        let silent = silent.into_iter().filter(|(number, why)| *why != NO_TLS || !spoken.contains(number));
        let said = silent.filter_map(|(number, why)| {
            let field = FieldPath::parse("spec.http3");
            let finding = held.all.get(number)?.object.diagnostic(&POLICY_FIELD_UNSUPPORTED, field, why);
            Some(finding.help("requests are answered over TCP"))
        });
        said.collect()
    }
}

const NO_TLS: &str = "no HTTPS listener is in the scope of the policy, and HTTP/3 needs TLS";

fn port<'a>(
    policies: &mut Policies,
    gateways: &mut BTreeMap<Key<'a>, Gateway<'a>>,
    members: &[Member<'a>],
    (told, quic, diagnostics): (&mut BTreeSet<usize>, &mut Quic, &mut Diagnostics),
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
                let message = format!(
                    "listeners of port {} that share it have other policies, or none",
                    listener.spec.port
                );
                settled.unmet.entry((number, name)).or_default().insert(message);
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
            http3: http3 && quic.may(number, listener),
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
