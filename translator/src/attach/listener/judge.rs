//! One listener by itself: its protocol, its kinds of routes, its TLS.

use super::{Listener, certificate, client, field};
use crate::attach::GATEWAY_GROUP;
use crate::attach::hostname::is_address;
use crate::attach::index::{Index, Indexed};
use crate::attach::kind::Mode;
use crate::attach::spec;
use moorgate_model::diagnostic::semantic::{
    HOSTNAME_IS_ADDRESS, INVALID_ROUTE_KINDS, UNSUPPORTED_PROTOCOL, UNSUPPORTED_VALUE,
};
use moorgate_model::{Diagnostic, FieldPath, Object};
use std::collections::BTreeSet;

/// Judges the listeners of a Gateway or of one of its ListenerSets.
pub(super) fn all<'a>(
    index: &Index<'a>,
    gateway: &Indexed<'a, spec::Gateway>,
    owner: &'a Object,
    listeners: &[spec::Listener],
    out: &mut Vec<Listener<'a>>,
) {
    for (position, listener) in listeners.iter().enumerate() {
        let mut judged = one(index, gateway, owner, position, listener);
        judged.position = out.len();
        out.push(judged);
    }
}

fn one<'a>(
    index: &Index<'a>,
    gateway: &Indexed<'a, spec::Gateway>,
    owner: &'a Object,
    position: usize,
    spec: &spec::Listener,
) -> Listener<'a> {
    let at = field(position);
    let mode = Mode::of(spec);
    let mut listener = Listener {
        owner,
        prefix: String::new(),
        index: position,
        position,
        spec: spec.clone(),
        mode,
        findings: Vec::new(),
        kinds: Vec::new(),
        accepted: mode.is_some(),
        refuse: false,
        secrets: Vec::new(),
        clients: None,
        asked: Vec::new(),
        policies: None,
        tracing: None,
        overlap: None,
        attached: BTreeSet::new(),
    };
    let Some(mode) = mode else {
        let message = format!("protocol {:?} is not supported", spec.protocol);
        let finding = owner.diagnostic(&UNSUPPORTED_PROTOCOL, at.key("protocol"), message);
        listener.findings.push(finding.help("this version serves HTTP, HTTPS, TLS, TCP and UDP"));
        return listener;
    };
    if is_address(&spec.hostname) {
        let message = format!("{:?} is an IP address, and no hostname", spec.hostname);
        let finding = owner.diagnostic(&HOSTNAME_IS_ADDRESS, at.key("hostname"), message);
        listener
            .findings
            .push(finding.help("leave hostname away to answer requests for any host, addresses too"));
        listener.accepted = false;
    }
    listener.kinds = allowed_kinds(owner, &at, spec, mode, &mut listener.findings);
    if spec.protocol == "HTTPS" || mode == Mode::Terminate {
        certificate::resolve(index, &mut listener);
    }
    if spec.protocol == "HTTPS" {
        client::resolve(index, gateway, &mut listener);
    }
    let unsupported = |field: FieldPath, what: &str| -> Diagnostic {
        owner.diagnostic(&UNSUPPORTED_VALUE, field, format!("{what} is not supported"))
    };
    if let Some(option) = spec.tls.as_ref().and_then(|tls| tls.options.keys().next()) {
        let field = at.key("tls").key("options").key(option);
        listener.findings.push(unsupported(field, "a TLS option").help("leave it out: it has no effect"));
    }
    listener
}

/// The kinds that may attach; kinds that do not fit the protocol are named and left out.
fn allowed_kinds(
    object: &Object,
    at: &FieldPath,
    spec: &spec::Listener,
    mode: Mode,
    findings: &mut Vec<Diagnostic>,
) -> Vec<&'static str> {
    let fitting = mode.kinds();
    if spec.allowed_routes.kinds.is_empty() {
        return fitting.to_vec();
    }
    let mut kinds = BTreeSet::new();
    for (position, kind) in spec.allowed_routes.kinds.iter().enumerate() {
        let known = fitting.iter().position(|fitting| kind.group == GATEWAY_GROUP && kind.kind == **fitting);
        if let Some(known) = known {
            kinds.insert(known);
        } else {
            let field = at.key("allowedRoutes").key("kinds").index(position);
            let message =
                format!("a {} listener cannot serve {} of group {:?}", spec.protocol, kind.kind, kind.group);
            let help = format!("it serves {}", fitting.join(", "));
            findings.push(object.diagnostic(&INVALID_ROUTE_KINDS, field, message).help(help));
        }
    }
    kinds.into_iter().filter_map(|known| fitting.get(known).copied()).collect()
}
