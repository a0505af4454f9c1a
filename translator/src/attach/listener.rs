//! Gateways of ours with the listeners that they and their ListenerSets have, and the verdict on each.

mod certificate;
mod client;
mod conflict;
mod filters;
mod judge;
mod merge;
mod names;
mod overlap;
mod report;
mod set;

use super::index::{Index, Indexed, Key};
use super::kind::Mode;
use super::precedence::Age;
use super::{parameters, spec};
pub(super) use certificate::secret;
pub(super) use filters::resolve as filters;
pub(super) use merge::close;
use moorgate_model::diagnostic::semantic::{CLASS_NOT_FOUND, UNSUPPORTED_ADDRESS, UNSUPPORTED_ROUTABILITY};
use moorgate_model::ir::{Added, ChainPolicies, ClientValidation, ExternalAuth, Tracing};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Object, ObjectRef};
pub(super) use report::report;
pub(super) use set::gateway_of;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A Gateway that is ours.
#[derive(Debug)]
pub(super) struct Gateway<'a> {
    pub(super) object: &'a Object,
    pub(super) generation: Option<i64>,
    /// Its class.
    pub(super) class: &'a str,
    /// Of several that share a fleet the oldest comes first.
    pub(super) age: Age,
    /// What makes the whole Gateway unacceptable; its listeners are not served.
    pub(super) refused: Vec<Diagnostic>,
    /// Modes in which clients pass without a valid certificate.
    fallbacks: Vec<Diagnostic>,
    /// What is wrong with references of the Gateway itself, if it has any.
    references: Option<Vec<Diagnostic>>,
    /// The Secret that is shown to backends, `namespace/secret`.
    pub(super) client_certificate: Option<String>,
    /// Routes that ask for default Gateways attach.
    pub(super) is_default: bool,
    /// Its own listeners, then those of its ListenerSets in the order of their age.
    pub(super) listeners: Vec<Listener<'a>>,
    /// ListenerSets that name it, in the order of their age.
    sets: Vec<set::Set<'a>>,
    /// It says which ListenerSets may attach.
    speaks_of_sets: bool,
}

/// A listener of a Gateway or of one of its ListenerSets.
#[derive(Debug)]
pub(super) struct Listener<'a> {
    /// The Gateway or ListenerSet that it stands in.
    pub(super) owner: &'a Object,
    /// What stands before its name, so that no other listener of the fleet has it.
    prefix: String,
    /// Its place in the owner's list.
    pub(super) index: usize,
    /// Its place among all listeners of the Gateway.
    pub(super) position: usize,
    pub(super) spec: spec::Listener,
    /// What it makes of connections; `None` if its protocol is not known.
    pub(super) mode: Option<Mode>,
    /// Everything that is wrong with it.
    pub(super) findings: Vec<Diagnostic>,
    /// Routes of these kinds can attach.
    pub(super) kinds: Vec<&'static str>,
    /// Routes may attach, and their status is judged.
    pub(super) accepted: bool,
    /// Connections are refused: there is no certificate to serve, or clients cannot be checked.
    pub(super) refuse: bool,
    /// Secrets to serve, `namespace/name`; empty where TLS does not end here.
    pub(super) secrets: Vec<String>,
    /// How its clients are checked.
    pub(super) clients: Option<ClientValidation>,
    /// Services that are asked before a route is looked for, in this order.
    pub(super) asked: Vec<ExternalAuth>,
    /// What policies add.
    pub(super) policies: Added<ChainPolicies>,
    /// What a collector is told of its requests.
    pub(super) tracing: Option<Arc<Tracing>>,
    /// Another listener of its port has TLS for hostnames that this one's overlap.
    overlap: Option<String>,
    /// The routes that are attached.
    pub(super) attached: BTreeSet<ObjectRef>,
}

impl Gateway<'_> {
    /// True if any of its listeners shall be served.
    pub(super) fn is_served(&self) -> bool {
        self.refused.is_empty()
    }
}

impl Listener<'_> {
    /// A name that no other listener of the fleet has: a ListenerSet's name stands before the listener's, and that of the
    /// Gateway where several share a fleet.
    pub(super) fn full_name(&self) -> String {
        let owner = &self.owner.reference;
        match &*owner.kind {
            "ListenerSet" => format!("{}{}/{}/{}", self.prefix, owner.namespace, owner.name, self.spec.name),
            _ => format!("{}{}", self.prefix, self.spec.name),
        }
    }
}

/// Judges every Gateway whose class is ours; those of other controllers pass in silence.
pub(super) fn gateways<'a>(
    index: &Index<'a>,
    diagnostics: &mut Diagnostics,
) -> BTreeMap<Key<'a>, Gateway<'a>> {
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
    names::find(index, &mut out);
    set::attach(index, &mut out, diagnostics);
    out.values_mut().for_each(conflict::find);
    merge::all(&mut out, &index.options.merged);
    overlap::find(&mut out, &index.options.merged);
    for gateway in out.values() {
        let own = gateway.refused.iter().chain(&gateway.fallbacks).chain(gateway.references.iter().flatten());
        diagnostics.extend(own.cloned());
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
    let own = spec.infrastructure.as_ref().and_then(|value| value.parameters_ref.as_ref());
    let own = own.and_then(|named| {
        let at = FieldPath::parse("spec.infrastructure.parametersRef");
        parameters::refuse(index, object, at, named, Some(&object.reference.namespace))
    });
    let mut refused: Vec<_> = parameters::of_class(index, class).into_iter().chain(own).collect();
    if refused.is_empty() {
        let at = FieldPath::parse("spec.infrastructure.parametersRef");
        refused.extend(parameters::merged(index, object, at, &class.object.reference.name));
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
        refused.extend(unroutable(object, position, kind, &address.routability));
    }
    let created = gateway.value.metadata.creation_timestamp.as_deref();
    let mut out = Gateway {
        object,
        class: &class.object.reference.name,
        age: Age::new(created, &object.reference.namespace, &object.reference.name),
        generation: gateway.value.metadata.generation,
        refused,
        fallbacks: client::fallbacks(object, spec),
        references: None,
        client_certificate: None,
        is_default: spec.default_scope.as_deref() == Some("All"),
        listeners: Vec::new(),
        sets: Vec::new(),
        speaks_of_sets: spec.allowed_listeners.is_some(),
    };
    client::towards_backends(index, spec, &mut out);
    judge::all(index, gateway, object, &spec.listeners, &mut out.listeners);
    out
}

/// Whether an address asks to be reachable from where it cannot be: only an IP address can be that of a Service inside of
/// the cluster (GEP-1651, `Cluster`), and other values are of other implementations.
fn unroutable(object: &Object, position: usize, kind: &str, routability: &str) -> Option<Diagnostic> {
    if routability.is_empty() || (routability == "Cluster" && kind == "IPAddress") {
        return None;
    }
    let field = FieldPath::parse("spec.addresses").index(position).key("routability");
    let message = format!("routability {routability:?} of an address of type {kind} is not supported");
    let finding = object.diagnostic(&UNSUPPORTED_ROUTABILITY, field, message);
    Some(finding.help("leave it out, or write Cluster for an IPAddress that only the cluster reaches"))
}

/// The field of a listener.
pub(super) fn field(position: usize) -> FieldPath {
    FieldPath::root().key("spec").key("listeners").index(position)
}
