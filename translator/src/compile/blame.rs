//! Whose mistake: which fleets an error concerns, and which of them it keeps from being published.

use super::{Fleets, Options};
use crate::attach::GATEWAY_GROUP;
use moorgate_model::{Class, Diagnostic, Diagnostics, Node, Object, ObjectRef, Severity, Value};
use moorgate_policies::GROUP;
use moorgate_snapshot::FleetName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Fleets that errors concern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocked {
    /// A file could not be read, or an object that could concern any fleet is wrong.
    pub all: bool,
    /// Fleets that an object with an error names.
    pub fleets: BTreeSet<FleetName>,
}

impl Blocked {
    /// True if this fleet is concerned.
    pub fn blocks(&self, fleet: &FleetName) -> bool {
        self.all || self.fleets.contains(fleet)
    }
}

/// The fleets that each object names, noted before invalid objects are dropped.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// What is not here could concern any fleet.
    fleets: BTreeMap<ObjectRef, BTreeSet<FleetName>>,
    /// Gateways of classes that are ours, or whose class does not say whose it is.
    ours: BTreeSet<FleetName>,
}

impl Named {
    /// Notes what objects name; those without a namespace are in the default one, as validation will say.
    pub(super) fn new(objects: &[Object], options: &Options) -> Self {
        let namespace = options.validate.namespace.as_deref();
        let (mut named, mut ours) = (BTreeMap::new(), BTreeSet::new());
        let mut services: BTreeMap<ObjectRef, BTreeSet<FleetName>> = BTreeMap::new();
        let mut classes: BTreeMap<ObjectRef, BTreeSet<FleetName>> = BTreeMap::new();
        let sets = listener_sets(objects, namespace);
        // Fleets that refer into a namespace.
        let mut granted: BTreeMap<String, BTreeSet<FleetName>> = BTreeMap::new();
        let reference = |object: &Object| with_namespace(&object.reference, namespace);
        for object in objects {
            let reference = reference(object);
            match &*reference.kind {
                "Gateway" => {
                    let fleet = FleetName::gateway(&reference.namespace, &reference.name);
                    if let Some(class) = text(&object.root, &["spec", "gatewayClassName"]) {
                        let class = ObjectRef::new(GATEWAY_GROUP, "GatewayClass", "", class);
                        classes.entry(class).or_default().insert(fleet.clone());
                    }
                    for namespace in certificate_namespaces(object) {
                        granted.entry(namespace).or_default().insert(fleet.clone());
                    }
                    named.insert(reference, BTreeSet::from([fleet]));
                }
                "ListenerSet" => {
                    let Some(fleet) = sets.get(&reference) else { continue };
                    for namespace in certificate_namespaces(object) {
                        granted.entry(namespace).or_default().insert(fleet.clone());
                    }
                    named.insert(reference, BTreeSet::from([fleet.clone()]));
                }
                "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" | "UDPRoute" | "XTelemetryPolicy" => {
                    let fleets = match &*reference.kind {
                        "XTelemetryPolicy" => targeted_gateways(object, &reference),
                        _ => parents(object, &reference, &sets),
                    };
                    let Some(fleets) = fleets else { continue };
                    let mut backends = BTreeSet::new();
                    collect_backends(&object.root, &reference.namespace, &mut backends);
                    for service in backends {
                        granted
                            .entry(service.namespace.to_string())
                            .or_default()
                            .extend(fleets.iter().cloned());
                        services.entry(service).or_default().extend(fleets.iter().cloned());
                    }
                    named.insert(reference, fleets);
                }
                _ => {}
            }
        }
        for object in objects {
            let reference = reference(object);
            match &*reference.kind {
                kind @ ("Service" | "Backend" | "HTTPRouteFilter") => {
                    // Policies may refer to the latter too: where no route does, they could concern any fleet.
                    let nobody = (kind == "Service").then(BTreeSet::new);
                    let fleets = services.get(&reference).cloned().or(nobody);
                    named.extend(fleets.map(|fleets| (reference, fleets)));
                }
                "GatewayClass" => {
                    let fleets = classes.get(&reference).cloned().unwrap_or_default();
                    let controller = text(&object.root, &["spec", "controllerName"]);
                    if controller.is_none_or(|name| name == options.attach.controller_name) {
                        ours.extend(fleets.iter().cloned());
                    }
                    named.insert(reference, fleets);
                }
                "ReferenceGrant" => {
                    let fleets = granted.get(&*reference.namespace).cloned().unwrap_or_default();
                    named.insert(reference, fleets);
                }
                kind if kind.ends_with("Policy") => {
                    if let Some(fleets) = targets(object, &reference, &named, &services) {
                        named.insert(reference, fleets);
                    }
                }
                _ => {}
            }
        }
        named.extend(parameters(objects, namespace, &named));
        Self { fleets: named, ours }
    }

    /// The same for the fleets that serve what is named.
    pub(super) fn served(self, by: &Fleets) -> Self {
        let fleets = self.fleets.into_iter().map(|(object, fleets)| (object, by.all_serving(fleets)));
        Self { fleets: fleets.collect(), ours: by.all_serving(self.ours) }
    }

    /// Syntax and schema errors block the fleets that their object names; all, if it names none or could not be read. So
    /// do other errors that `holds` picks: those whose isolation could let something pass.
    pub(super) fn blocked(&self, diagnostics: &Diagnostics, holds: impl Fn(&Diagnostic) -> bool) -> Blocked {
        self.concerned(diagnostics, |found| found.code.class != Class::Semantic || holds(found))
    }

    /// The fleets that errors of any class concern.
    pub(super) fn erring(&self, diagnostics: &Diagnostics) -> Blocked {
        self.concerned(diagnostics, |_| true)
    }

    /// The fleets that an object names; none if it could concern any.
    pub(super) fn fleets_of(&self, object: &ObjectRef) -> Option<BTreeSet<FleetName>> {
        self.fleets.get(object).cloned()
    }

    /// Fleets of Gateways of ours.
    pub(super) fn ours(&self) -> &BTreeSet<FleetName> {
        &self.ours
    }

    fn concerned(&self, diagnostics: &Diagnostics, counts: impl Fn(&Diagnostic) -> bool) -> Blocked {
        let mut blocked = Blocked::default();
        for diagnostic in diagnostics {
            if diagnostic.severity != Severity::Error || !counts(diagnostic) {
                continue;
            }
            match diagnostic.object.as_ref().and_then(|object| self.fleets.get(object)) {
                Some(fleets) => blocked.fleets.extend(fleets.iter().cloned()),
                None => blocked.all = true,
            }
        }
        blocked
    }
}

/// The fleets that a route names; none if it cannot be told.
pub(super) fn fleets_of_route(object: &Object, sets: &Sets) -> Option<BTreeSet<FleetName>> {
    parents(object, &object.reference, sets)
}

/// The Gateways of ListenerSets.
pub(super) type Sets = BTreeMap<ObjectRef, FleetName>;

/// The ListenerSets among objects.
pub(super) fn sets<'o>(objects: impl Iterator<Item = &'o Object>) -> Sets {
    let sets = objects.filter(|object| &*object.reference.kind == "ListenerSet");
    sets.filter_map(|set| Some((set.reference.clone(), set_fleet(set, &set.reference)?))).collect()
}

/// The namespaces of the Gateways, ListenerSets and Services that a route names.
pub(super) fn referred_namespaces(object: &Object, sets: &Sets) -> BTreeSet<String> {
    let mut backends = BTreeSet::new();
    collect_backends(&object.root, &object.reference.namespace, &mut backends);
    let mut namespaces: BTreeSet<String> =
        backends.into_iter().map(|service| service.namespace.to_string()).collect();
    // A ListenerSet lies in another namespace than its Gateway, perhaps, and decides as much.
    let named = object.at("spec.parentRefs").and_then(Node::as_sequence).unwrap_or_default();
    namespaces.extend(named.iter().filter_map(|parent| Some(text(parent, &["namespace"])?.to_owned())));
    for fleet in parents(object, &object.reference, sets).unwrap_or_default() {
        if let FleetName::Gateway { namespace, .. } = fleet {
            namespaces.insert(namespace);
        }
    }
    namespaces
}

/// The fleets whose Gateways, or the classes of these, take their parameters from an object.
fn parameters(
    objects: &[Object],
    namespace: Option<&str>,
    named: &BTreeMap<ObjectRef, BTreeSet<FleetName>>,
) -> BTreeMap<ObjectRef, BTreeSet<FleetName>> {
    let mut found: BTreeMap<ObjectRef, BTreeSet<FleetName>> = BTreeMap::new();
    for object in objects {
        let owner = with_namespace(&object.reference, namespace);
        if &*owner.kind == crate::parameters::KIND {
            // Nobody's parameters concern nobody.
            found.entry(owner).or_default();
            continue;
        }
        let at = match &*owner.kind {
            "Gateway" => "spec.infrastructure.parametersRef",
            "GatewayClass" => "spec.parametersRef",
            _ => continue,
        };
        let (Some(named_here), Some(fleets)) = (object.at(at), named.get(&owner)) else { continue };
        let of = |key| text(named_here, &[key]);
        let namespace = of("namespace").or_else(|| Some(&*owner.namespace).filter(|name| !name.is_empty()));
        let reference = crate::parameters::reference(
            of("group").unwrap_or_default(),
            of("kind").unwrap_or_default(),
            namespace,
            of("name").unwrap_or_default(),
        );
        if let Ok(reference) = reference {
            found.entry(reference).or_default().extend(fleets.iter().cloned());
        }
    }
    found
}

/// The Gateway that a ListenerSet names, if it can be told.
/// ListenerSets, each with the fleet of its Gateway.
fn listener_sets(objects: &[Object], namespace: Option<&str>) -> Sets {
    let sets = objects.iter().filter(|object| &*object.reference.kind == "ListenerSet");
    sets.filter_map(|set| {
        let reference = with_namespace(&set.reference, namespace);
        let fleet = set_fleet(set, &reference)?;
        Some((reference, fleet))
    })
    .collect()
}

fn set_fleet(set: &Object, reference: &ObjectRef) -> Option<FleetName> {
    let parent = set.at("spec.parentRef")?;
    let namespace = text(parent, &["namespace"]).unwrap_or(&reference.namespace);
    Some(FleetName::gateway(namespace, text(parent, &["name"])?))
}

fn with_namespace(reference: &ObjectRef, namespace: Option<&str>) -> ObjectRef {
    let mut reference = reference.clone();
    if let Some(namespace) = namespace
        && reference.namespace.is_empty()
        && crate::validate::is_namespaced(&reference.group, &reference.kind) != Some(false)
    {
        reference.namespace = Arc::from(namespace);
    }
    reference
}

fn text<'a>(node: &'a Node, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(node, |node, key| node.get(key))?.as_str()
}

/// The Gateways that a route names, itself or by a ListenerSet; none if it cannot be told, or if it names none.
fn parents(object: &Object, reference: &ObjectRef, sets: &Sets) -> Option<BTreeSet<FleetName>> {
    // Which Gateways are default ones is not known here.
    if object.at("spec.useDefaultGateways").is_some_and(|scope| scope.as_str() != Some("None")) {
        return None;
    }
    let parents = object.at("spec.parentRefs")?.as_sequence()?;
    let mut fleets = BTreeSet::new();
    for parent in parents {
        let namespace = text(parent, &["namespace"]).unwrap_or(&reference.namespace);
        if namespace.is_empty() {
            // A route without a namespace means Gateways of a namespace that nobody knows.
            return None;
        }
        let name = text(parent, &["name"])?;
        fleets.insert(match text(parent, &["kind"]) {
            Some("ListenerSet") => {
                sets.get(&ObjectRef::new(GATEWAY_GROUP, "ListenerSet", namespace, name))?.clone()
            }
            _ => FleetName::gateway(namespace, name),
        });
    }
    (!fleets.is_empty()).then_some(fleets)
}

/// The fleets of the Gateways that a policy targets; none if it can be told of none.
fn targeted_gateways(policy: &Object, reference: &ObjectRef) -> Option<BTreeSet<FleetName>> {
    let targets = policy.at("spec.targetRefs")?.as_sequence()?;
    let fleet = |target| Some(FleetName::gateway(&reference.namespace, text(target, &["name"])?));
    let fleets: BTreeSet<FleetName> = targets.iter().filter_map(fleet).collect();
    (!fleets.is_empty()).then_some(fleets)
}

/// Other namespaces that the listeners of a Gateway or ListenerSet take certificates from.
fn certificate_namespaces(gateway: &Object) -> BTreeSet<String> {
    let listeners = gateway.at("spec.listeners").and_then(Node::as_sequence).unwrap_or_default();
    let refs =
        listeners.iter().filter_map(|listener| listener.get("tls")?.get("certificateRefs")?.as_sequence());
    refs.flatten().filter_map(|certificate| Some(text(certificate, &["namespace"])?.to_owned())).collect()
}

/// The Services and Backends that stand below `backendRefs` and `backendRef`, wherever these are, and filters that are objects
/// of their own.
fn collect_backends(node: &Node, namespace: &str, found: &mut BTreeSet<ObjectRef>) {
    match &node.value {
        Value::Sequence(items) => items.iter().for_each(|item| collect_backends(item, namespace, found)),
        Value::Mapping(fields) => {
            for entry in fields.entries() {
                let backends = match (&*entry.key, &entry.value.value) {
                    ("backendRefs", Value::Sequence(items)) => items.as_slice(),
                    ("backendRef" | "extensionRef", _) => std::slice::from_ref(&entry.value),
                    _ => &[],
                };
                found.extend(backends.iter().filter_map(|backend| {
                    let namespace = text(backend, &["namespace"]).unwrap_or(namespace);
                    let (group, kind) = match (text(backend, &["group"]), text(backend, &["kind"])) {
                        (Some(GROUP), Some(kind)) => (GROUP, kind),
                        _ => ("", "Service"),
                    };
                    Some(ObjectRef::new(group, kind, namespace, text(backend, &["name"])?))
                }));
                collect_backends(&entry.value, namespace, found);
            }
        }
        _ => {}
    }
}

/// The fleets that the targets of a policy name; none if some target could concern any fleet.
fn targets(
    object: &Object,
    reference: &ObjectRef,
    named: &BTreeMap<ObjectRef, BTreeSet<FleetName>>,
    services: &BTreeMap<ObjectRef, BTreeSet<FleetName>>,
) -> Option<BTreeSet<FleetName>> {
    let spec = object.root.get("spec")?;
    if spec.get("targetSelectors").is_some() {
        return None;
    }
    let many = match spec.get("targetRefs") {
        Some(refs) => refs.as_sequence()?,
        None => &[],
    };
    let mut fleets = BTreeSet::new();
    for target in many.iter().chain(spec.get("targetRef")) {
        let (kind, name) = (text(target, &["kind"])?, text(target, &["name"])?);
        if kind == "Service" {
            let service = ObjectRef::new("", "Service", &reference.namespace, name);
            fleets.extend(services.get(&service).into_iter().flatten().cloned());
        } else {
            let target = ObjectRef::new(GATEWAY_GROUP, kind, &reference.namespace, name);
            fleets.extend(named.get(&target)?.iter().cloned());
        }
    }
    (!fleets.is_empty()).then_some(fleets)
}
