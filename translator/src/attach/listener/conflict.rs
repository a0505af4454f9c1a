//! Listeners that cannot be told apart.

use super::{Gateway, Listener, field};
use crate::attach::kind::Mode;
use moorgate_model::diagnostic::semantic::LISTENER_CONFLICT;
use moorgate_model::{Object, origin::Position};
use std::collections::BTreeMap;

/// What shares a port: server names tell listeners with TLS apart, hostnames those with plain HTTP, nothing others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sharing {
    Plain,
    Tls,
    Connections,
    Datagrams,
}

impl Sharing {
    fn of(listener: &Listener<'_>) -> Option<Self> {
        Some(match listener.mode? {
            Mode::Http if listener.spec.protocol == "HTTP" => Self::Plain,
            Mode::Http | Mode::Terminate | Mode::Passthrough => Self::Tls,
            Mode::Tcp => Self::Connections,
            Mode::Udp => Self::Datagrams,
        })
    }
}

/// A listener as the others see it.
#[derive(Debug, Clone)]
struct Other<'a> {
    name: String,
    protocol: String,
    sharing: Sharing,
    owner: &'a Object,
    place: Position,
}

/// What is taken of one port and transport.
#[derive(Debug, Default)]
pub(super) struct Port<'a> {
    kinds: BTreeMap<Sharing, Other<'a>>,
    hosts: BTreeMap<String, Other<'a>>,
}

pub(super) type Ports<'a> = BTreeMap<(u16, bool), Port<'a>>;

/// Finds listeners that share a port and cannot be told apart. Of a Gateway's own none is served, because nobody can say
/// which was meant (Gateway `listeners`). One of a ListenerSet loses to those before it: the Gateway's, then those of
/// older ListenerSets (GEP-1713). It loses to conflicting ones of the Gateway too, so that no tenant takes what the
/// Gateway's owner asked for.
pub(super) fn find(gateway: &mut Gateway<'_>) {
    let (own, of_sets): (Vec<usize>, Vec<usize>) =
        (0..gateway.listeners.len()).partition(|position| is_own(gateway, *position));
    let mut ports = Ports::new();
    // Once in their order and once against it: each then meets the rivals before and behind it.
    let mut clashes: BTreeMap<usize, (Other<'_>, &'static str)> = BTreeMap::new();
    for order in [own.iter().rev().copied().collect(), own] {
        let mut seen = Ports::new();
        for position in order {
            let Some(listener) = gateway.listeners.get(position) else { continue };
            let Some(me) = other(listener) else { continue };
            if let Some(clash) = clash(&seen, listener, &me) {
                clashes.insert(position, clash);
            }
            take(&mut seen, listener, me);
        }
        ports = seen;
    }
    for (position, (other, what)) in clashes {
        if let Some(listener) = gateway.listeners.get_mut(position) {
            lose(listener, &other, what);
        }
    }
    for position in of_sets {
        let Some(listener) = gateway.listeners.get_mut(position) else { continue };
        let Some(me) = other(listener) else { continue };
        match clash(&ports, listener, &me) {
            Some((other, what)) => lose(listener, &other, what),
            None => take(&mut ports, listener, me),
        }
    }
}

/// The same across Gateways that share a fleet: those before have taken what they have, and this one takes what is left.
pub(super) fn across<'a>(gateway: &mut Gateway<'a>, taken: &mut Ports<'a>) {
    let mut own = Ports::new();
    std::mem::swap(&mut own, taken);
    let mut mine = Vec::new();
    for listener in gateway.listeners.iter_mut().filter(|listener| listener.accepted) {
        let Some(me) = other(listener) else { continue };
        match clash(&own, listener, &me) {
            Some((other, what)) => lose(listener, &other, what),
            None => mine.push((listener.position, me)),
        }
    }
    for (position, me) in mine {
        if let Some(listener) = gateway.listeners.get(position) {
            take(&mut own, listener, me);
        }
    }
    *taken = own;
}

fn is_own(gateway: &Gateway<'_>, position: usize) -> bool {
    let owner = gateway.listeners.get(position).map(|listener| &listener.owner.reference);
    owner == Some(&gateway.object.reference)
}

fn other<'a>(listener: &Listener<'a>) -> Option<Other<'a>> {
    Some(Other {
        name: listener.full_name(),
        protocol: listener.spec.protocol.clone(),
        sharing: Sharing::of(listener)?,
        owner: listener.owner,
        place: listener.owner.root.locate(&field(listener.index)).start,
    })
}

fn key(listener: &Listener<'_>, sharing: Sharing) -> (u16, bool) {
    (listener.spec.port, sharing == Sharing::Datagrams)
}

fn clash<'a>(
    ports: &Ports<'a>,
    listener: &Listener<'_>,
    me: &Other<'_>,
) -> Option<(Other<'a>, &'static str)> {
    let port = ports.get(&key(listener, me.sharing))?;
    if let Some((_, other)) = port.kinds.iter().find(|(sharing, _)| **sharing != me.sharing) {
        return Some((other.clone(), "protocol"));
    }
    let other = port.hosts.get(&listener.spec.hostname)?;
    let what = if other.protocol == me.protocol { "hostname" } else { "protocol" };
    Some((other.clone(), what))
}

fn take<'a>(ports: &mut Ports<'a>, listener: &Listener<'_>, me: Other<'a>) {
    let port = ports.entry(key(listener, me.sharing)).or_default();
    port.kinds.entry(me.sharing).or_insert_with(|| me.clone());
    port.hosts.entry(listener.spec.hostname.clone()).or_insert(me);
}

fn lose(listener: &mut Listener<'_>, other: &Other<'_>, what: &str) {
    let message =
        format!("listener {:?} conflicts with {:?}: same port, {what} clash", listener.spec.name, other.name);
    let finding = listener.owner.diagnostic(&LISTENER_CONFLICT, field(listener.index), message);
    let file = other.owner.origin.file.clone();
    let finding = finding.related(file, other.place, format!("{:?} is here", other.name));
    listener.findings.push(finding.help("give one of them another port or hostname"));
    listener.accepted = false;
}
