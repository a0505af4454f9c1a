//! Gateways of ours, and the verdict on each of their listeners.

mod certificate;

use super::GATEWAY_GROUP;
use super::index::{Index, Indexed};
use super::spec;
use crate::status::{self, Condition, ListenerStatus, RouteGroupKind, Status, Statuses};
use moorgate_model::diagnostic::semantic::{
    CLASS_NOT_FOUND, INVALID_PARAMETERS, INVALID_ROUTE_KINDS, LISTENER_CONFLICT, UNSUPPORTED_ADDRESS,
    UNSUPPORTED_PROTOCOL, UNSUPPORTED_VALUE,
};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Object};
use std::collections::{BTreeMap, BTreeSet};

/// A Gateway that is ours.
#[derive(Debug)]
pub(super) struct Gateway<'a> {
    pub(super) object: &'a Object,
    pub(super) generation: Option<i64>,
    /// Fields that this version cannot carry out, and that restrict nothing.
    pub(super) notes: Vec<Diagnostic>,
    /// What makes the whole Gateway unacceptable; its listeners are not served.
    pub(super) refused: Vec<Diagnostic>,
    pub(super) listeners: Vec<Listener>,
}

/// One of its listeners.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) index: usize,
    pub(super) spec: spec::Listener,
    /// Everything that is wrong with it.
    pub(super) findings: Vec<Diagnostic>,
    /// Routes of these kinds can attach.
    pub(super) kinds: Vec<&'static str>,
    /// Routes may attach, and their status is judged.
    pub(super) accepted: bool,
    /// Connections are refused: there is no certificate to serve, or clients cannot be checked.
    pub(super) refuse: bool,
    /// Secrets to serve, `namespace/name`; empty for plain HTTP.
    pub(super) secrets: Vec<String>,
    /// How many routes attached.
    pub(super) attached: usize,
}

impl Gateway<'_> {
    /// True if any of its listeners shall be served.
    pub(super) fn is_served(&self) -> bool {
        self.refused.is_empty()
    }
}

/// Judges every Gateway whose class is ours; those of other controllers pass in silence.
pub(super) fn gateways<'a>(
    index: &Index<'a>,
    diagnostics: &mut Diagnostics,
) -> BTreeMap<super::index::Key<'a>, Gateway<'a>> {
    let mut out = BTreeMap::new();
    for (&key, gateway) in &index.gateways {
        let class_name = gateway.value.spec.gateway_class_name.as_str();
        let Some(class) = index.classes.get(class_name) else {
            if !index.is_open("GatewayClass") {
                diagnostics.push(
                    gateway
                        .object
                        .diagnostic(
                            &CLASS_NOT_FOUND,
                            FieldPath::parse("spec.gatewayClassName"),
                            format!("GatewayClass {class_name:?} is not in this source"),
                        )
                        .help(
                            "add the GatewayClass, or say --open GatewayClass if another controller owns it",
                        ),
                );
            }
            continue;
        };
        if class.value.spec.controller_name == index.options.controller_name {
            out.insert(key, judge(index, class, gateway));
        }
    }
    for gateway in out.values() {
        diagnostics.extend(gateway.refused.iter().chain(&gateway.notes).cloned());
        diagnostics.extend(gateway.listeners.iter().flat_map(|listener| listener.findings.iter().cloned()));
    }
    out
}

fn judge<'a>(
    index: &Index<'a>,
    class: &Indexed<'a, spec::GatewayClass>,
    gateway: &Indexed<'a, spec::Gateway>,
) -> Gateway<'a> {
    let object = gateway.object;
    let spec = &gateway.value.spec;
    let mut refused = Vec::new();
    if let Some(parameters) = &class.value.spec.parameters_ref {
        refused.push(invalid_parameters(
            class.object,
            "spec.parametersRef",
            &parameters.kind,
            &parameters.name,
        ));
    }
    if let Some(parameters) = spec.infrastructure.as_ref().and_then(|value| value.parameters_ref.as_ref()) {
        refused.push(invalid_parameters(
            object,
            "spec.infrastructure.parametersRef",
            &parameters.kind,
            &parameters.name,
        ));
    }
    for (position, address) in spec.addresses.iter().enumerate() {
        let kind = address.kind.as_deref().unwrap_or("IPAddress");
        if kind != "IPAddress" && kind != "Hostname" {
            let field = FieldPath::parse("spec.addresses").index(position).key("type");
            refused.push(object.diagnostic(
                &UNSUPPORTED_ADDRESS,
                field,
                format!("address type {kind:?} is not supported"),
            ));
        }
    }
    let mut listeners: Vec<_> = spec
        .listeners
        .iter()
        .enumerate()
        .map(|(position, listener)| judge_listener(index, gateway, position, listener))
        .collect();
    conflicts(object, &mut listeners);
    let notes = notes(object, spec);
    Gateway { object, generation: gateway.value.metadata.generation, notes, refused, listeners }
}

fn notes(object: &Object, spec: &spec::GatewaySpec) -> Vec<Diagnostic> {
    let unsupported = |field: &str, what: &str| {
        object.diagnostic(&UNSUPPORTED_VALUE, FieldPath::parse(field), format!("{what} is not supported"))
    };
    let scope = spec.default_scope.as_ref().map(|_| unsupported("spec.defaultScope", "a default scope"));
    let backend = spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let client = backend.and_then(|backend| backend.client_certificate_ref.as_ref()).map(|_| {
        unsupported("spec.tls.backend.clientCertificateRef", "a client certificate towards backends")
            .help("backends are reached without it, and may refuse")
    });
    scope.into_iter().chain(client).collect()
}

fn invalid_parameters(object: &Object, field: &str, kind: &str, name: &str) -> Diagnostic {
    object
        .diagnostic(
            &INVALID_PARAMETERS,
            FieldPath::parse(field),
            format!("parameters of kind {kind} ({name:?}) are not supported"),
        )
        .help("remove parametersRef: this version takes no parameters")
}

/// The field of a listener.
pub(super) fn field(position: usize) -> FieldPath {
    FieldPath::root().key("spec").key("listeners").index(position)
}

fn judge_listener(
    index: &Index<'_>,
    gateway: &Indexed<'_, spec::Gateway>,
    position: usize,
    spec: &spec::Listener,
) -> Listener {
    let object = gateway.object;
    let at = field(position);
    let mut listener = Listener {
        index: position,
        spec: spec.clone(),
        findings: Vec::new(),
        kinds: Vec::new(),
        accepted: matches!(spec.protocol.as_str(), "HTTP" | "HTTPS"),
        refuse: false,
        secrets: Vec::new(),
        attached: 0,
    };
    if !listener.accepted {
        let message = format!("protocol {:?} is not supported", spec.protocol);
        let finding = object.diagnostic(&UNSUPPORTED_PROTOCOL, at.key("protocol"), message);
        listener.findings.push(finding.help("this version serves HTTP and HTTPS"));
        return listener;
    }
    listener.kinds = allowed_kinds(object, &at, spec, &mut listener.findings);
    if spec.protocol == "HTTPS" {
        certificate::resolve(index, object, &mut listener);
    }
    let unsupported = |field: FieldPath, what: &str| {
        object.diagnostic(&UNSUPPORTED_VALUE, field, format!("{what} is not supported"))
    };
    let tls = gateway.value.spec.tls.as_ref();
    if spec.protocol == "HTTPS" && tls.is_some_and(|tls| tls.frontend.is_some()) {
        // Client certificates restrict access: without them nobody may come in.
        listener.refuse = true;
        let finding = unsupported(FieldPath::parse("spec.tls.frontend"), "client certificate validation");
        listener
            .findings
            .push(finding.help("the listener refuses connections until this version can check clients"));
    }
    if spec.filters.is_some() {
        listener.refuse = true;
        listener.findings.push(
            unsupported(at.key("filters"), "a filter on a listener").help("the listener refuses connections"),
        );
    }
    if let Some(option) = spec.tls.as_ref().and_then(|tls| tls.options.keys().next()) {
        listener.findings.push(unsupported(at.key("tls").key("options").key(option), "a TLS option"));
    }
    listener
}

/// The kinds that may attach; kinds that do not fit the protocol are named and left out.
fn allowed_kinds(
    object: &Object,
    at: &FieldPath,
    spec: &spec::Listener,
    findings: &mut Vec<Diagnostic>,
) -> Vec<&'static str> {
    if spec.allowed_routes.kinds.is_empty() {
        return vec!["HTTPRoute"];
    }
    let mut kinds = BTreeSet::new();
    for (position, kind) in spec.allowed_routes.kinds.iter().enumerate() {
        if kind.group == GATEWAY_GROUP && kind.kind == "HTTPRoute" {
            kinds.insert("HTTPRoute");
        } else {
            let field = at.key("allowedRoutes").key("kinds").index(position);
            let message =
                format!("a {} listener cannot serve {} of group {:?}", spec.protocol, kind.kind, kind.group);
            findings.push(object.diagnostic(&INVALID_ROUTE_KINDS, field, message));
        }
    }
    kinds.into_iter().collect()
}

/// Listeners of one Gateway must differ in port and hostname, and a port has one protocol: none of those that
/// clash is served (Gateway `listeners`: indistinct listeners are all conflicted).
fn conflicts(object: &Object, listeners: &mut [Listener]) {
    let clashing: Vec<(usize, usize, &'static str)> = listeners
        .iter()
        .flat_map(|a| listeners.iter().map(move |b| (a, b)))
        .filter(|(a, b)| a.index != b.index && a.accepted && b.accepted && a.spec.port == b.spec.port)
        .filter_map(|(a, b)| {
            if a.spec.protocol != b.spec.protocol {
                Some((a.index, b.index, "protocol"))
            } else if a.spec.hostname == b.spec.hostname {
                Some((a.index, b.index, "hostname"))
            } else {
                None
            }
        })
        .collect();
    for (position, other, what) in clashing {
        let name = listeners[other].spec.name.clone();
        let Some(listener) = listeners.get_mut(position) else { continue };
        if listener.accepted {
            let message =
                format!("listener {:?} conflicts with {name:?}: same port, {what} clash", listener.spec.name);
            let other_place = object.root.locate(&field(other)).start;
            listener.findings.push(object.diagnostic(&LISTENER_CONFLICT, field(position), message).related(
                object.origin.file.clone(),
                other_place,
                format!("{name:?} is here"),
            ));
            listener.accepted = false;
        }
    }
}

/// Writes the status of classes and Gateways.
pub(super) fn report(
    index: &Index<'_>,
    gateways: &BTreeMap<super::index::Key<'_>, Gateway<'_>>,
    statuses: &mut Statuses,
) {
    for class in index.classes.values() {
        if class.value.spec.controller_name == index.options.controller_name {
            let generation = class.value.metadata.generation;
            let accepted = match &class.value.spec.parameters_ref {
                None => status::holds("Accepted", "Accepted", generation),
                Some(parameters) => {
                    let message = format!("parameters of kind {} are not supported", parameters.kind);
                    status::fails("Accepted", "InvalidParameters", &message, generation)
                }
            };
            statuses.set(class.object.reference.clone(), Status::Class { conditions: vec![accepted] });
        }
    }
    for gateway in gateways.values() {
        let listeners =
            gateway.listeners.iter().map(|listener| listener_status(listener, gateway.generation)).collect();
        let status = Status::Gateway { conditions: gateway_conditions(gateway), listeners };
        statuses.set(gateway.object.reference.clone(), status);
    }
}

fn gateway_conditions(gateway: &Gateway<'_>) -> Vec<Condition> {
    let generation = gateway.generation;
    let accepted = if let Some(finding) = gateway.refused.first() {
        let reason = if finding.code.id == UNSUPPORTED_ADDRESS.id {
            "UnsupportedAddress"
        } else {
            "InvalidParameters"
        };
        status::fails("Accepted", reason, &finding.message, generation)
    } else if gateway.listeners.iter().all(|listener| listener.accepted) {
        status::holds("Accepted", "Accepted", generation)
    } else {
        let message = "some listeners are not valid";
        let mut condition = status::fails("Accepted", "ListenersNotValid", message, generation);
        if gateway.listeners.iter().any(|listener| listener.accepted) {
            condition.status = "True";
        }
        condition
    };
    let programmed = if accepted.status == "True" {
        status::pending(generation)
    } else {
        status::fails("Programmed", "Invalid", "the Gateway is not accepted", generation)
    };
    vec![accepted, programmed]
}

fn listener_status(listener: &Listener, generation: Option<i64>) -> ListenerStatus {
    let decide = |kind, good| status::decide(kind, good, &listener.findings, status::of_listener, generation);
    let mut conflicted = decide("Conflicted", "NoConflicts");
    if conflicted.reason == "NoConflicts" {
        conflicted.status = "False";
    } else if conflicted.message.contains("protocol clash") {
        conflicted.reason = "ProtocolConflict";
    }
    let mut accepted = decide("Accepted", "Accepted");
    if conflicted.status == "True" {
        accepted = status::fails("Accepted", conflicted.reason, &conflicted.message, generation);
    }
    let resolved = decide("ResolvedRefs", "ResolvedRefs");
    let programmed = if listener.accepted && !listener.refuse {
        status::pending(generation)
    } else {
        let message = "the listener is not served; see its other conditions";
        status::fails("Programmed", "Invalid", message, generation)
    };
    let kind = |kind: &&str| RouteGroupKind { group: GATEWAY_GROUP.into(), kind: (*kind).into() };
    ListenerStatus {
        name: listener.spec.name.clone(),
        supported_kinds: listener.kinds.iter().map(kind).collect(),
        attached_routes: listener.attached,
        conditions: vec![accepted, programmed, resolved, conflicted],
    }
}
