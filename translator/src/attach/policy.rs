//! Policies: which target each meets, which of several wins, and what follows from those that cannot be compiled.
//!
//! What a policy says is its own file's matter (`policies`); here it meets its targets. A policy that restricts
//! access and cannot be carried out makes its targets answer 500 (DESIGN §8, fail closed).

mod cel;
mod client;
mod condition;
mod held;
mod host;
mod merge;
mod reach;
mod settle;
mod target;
mod telemetry;
mod world;

pub(super) use client::listeners;
pub(crate) use held::Merge;
pub(super) use host::hosts;
pub(crate) use merge::merged_object;
pub(super) use settle::{by_service, settle};

use super::index::{Index, Key, metadata};
use super::listener::Gateway;
use super::parent::Routes;
use super::precedence::Age;
use super::{GATEWAY_GROUP, backend, trust};
use crate::patches;
use crate::status::{self, AncestorStatus, Condition, ParentReference, Status, Statuses};
use crate::validate::nearest;
use moorgate_model::diagnostic::policy::{
    PATCH_OFF, POLICY_CONFLICTED, POLICY_RESTRICTS, POLICY_SECTION_NOT_FOUND, POLICY_TARGET_NOT_FOUND,
    POLICY_UNSUPPORTED,
};
use moorgate_model::ir::{Cluster, UpstreamTls};
use moorgate_model::{Diagnostics, FieldPath, Node, Object, ObjectRef};
use moorgate_policies::{
    AnyPolicy, BackendTls, BackendTraffic, Compiled, Context, Effects, Judgement, Kind, Policy, Telemetry,
    Verdict, compile,
};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use target::Target;
pub(super) use telemetry::resolve as telemetry;
pub(super) use world::Sources;

/// A kind of policy, and a backend or one of its ports by name.
type BackendTarget = (&'static str, ObjectRef, Option<String>);

/// How many ancestors a policy's status has at most (GEP-713): of more Gateways the first by name.
const MAX_ANCESTORS: usize = 16;

/// What policies say about routes, Gateways and Services.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// Routes of which all rules, or the named one, answer 500.
    denied_routes: BTreeSet<(ObjectRef, Option<String>)>,
    /// Gateways whose routes all answer 500.
    denied_gateways: BTreeSet<ObjectRef>,
    /// What policies do to backends: the oldest of each kind.
    effects: BTreeMap<BackendTarget, Effects>,
    /// Services of which no policy says anything that holds, but some policy was meant to.
    refused_services: BTreeSet<ObjectRef>,
    /// Policies with what became of them, for their status.
    attached: Vec<Attached>,
    /// Policies of Envoy Gateway's kinds.
    held: held::Held,
    /// Backends and HTTPRouteFilters, which others refer to; none of one that validation refused.
    referred: BTreeMap<ObjectRef, Option<Compiled>>,
    /// Clusters that they need.
    clusters: BTreeMap<String, Cluster>,
    /// Where they were met.
    settled: settle::Settled,
}

#[derive(Debug)]
struct Attached {
    policy: ObjectRef,
    generation: Option<i64>,
    verdict: Verdict,
    /// Every target was taken by an older policy.
    conflicted: bool,
    /// No target is there, with the section that is asked for.
    lost: bool,
    services: Vec<ObjectRef>,
    /// Gateways that it targets, each with the reason and message of its not being in effect there.
    gateways: BTreeMap<ObjectRef, Option<(&'static str, String)>>,
    /// What these Gateways tell a collector.
    telemetry: Option<Telemetry>,
}

impl Policies {
    /// True if requests to this rule must be answered with 500.
    pub(super) fn denies_route(&self, route: &ObjectRef, rule: Option<&str>) -> bool {
        !self.denied_routes.is_empty()
            && (self.denied_routes.contains(&(route.clone(), None))
                || rule
                    .is_some_and(|rule| self.denied_routes.contains(&(route.clone(), Some(rule.to_owned())))))
    }

    /// What an HTTPRouteFilter or Backend says; none inside if it was refused.
    pub(super) fn referred(&self, object: &ObjectRef) -> Option<&Option<Compiled>> {
        self.referred.get(object)
    }

    /// All Backends.
    pub(super) fn backends(&self) -> impl Iterator<Item = (&ObjectRef, &Option<Compiled>)> {
        self.referred.iter().filter(|(object, _)| Kind::of(object) == Some(Kind::Backend))
    }

    /// TLS towards a Backend, if a policy asks for it; one for the port beats one for all of it.
    pub(super) fn backend_tls(&self, backend: &ObjectRef, port: Option<u16>) -> Option<UpstreamTls> {
        let of = |section| self.effects.get(&(BackendTls::KIND, backend.clone(), section));
        let found = port.and_then(|port| of(Some(port.to_string()))).or_else(|| of(None));
        found.and_then(|effects| effects.upstream_tls.clone())
    }

    /// True if all requests to this Gateway must be answered with 500.
    pub(super) fn denies_gateway(&self, gateway: &ObjectRef) -> bool {
        self.denied_gateways.contains(gateway)
    }

    /// TLS towards a Service port, if a policy asks for it; one for the port beats one for the Service.
    pub(super) fn upstream_tls(
        &self,
        namespace: &str,
        service: &str,
        port_name: &str,
    ) -> Option<UpstreamTls> {
        if self.effects.is_empty() && self.refused_services.is_empty() {
            return None;
        }
        let service = ObjectRef::new("", "Service", namespace, service);
        let refused = self.refused_services.contains(&service);
        let of = |section| self.effects.get(&(BackendTls::KIND, service.clone(), section));
        let found = of(Some(port_name.to_owned())).or_else(|| of(None));
        found.and_then(|effects| effects.upstream_tls.clone()).or_else(|| refused.then(UpstreamTls::refused))
    }

    /// What a policy about traffic says of a backend.
    pub(super) fn traffic(&self, backend: &ObjectRef) -> Option<&Effects> {
        if self.effects.is_empty() {
            return None;
        }
        self.effects.get(&(BackendTraffic::KIND, backend.clone(), None))
    }
}

/// Whether an object of Envoy Gateway's group restricts access: without it requests would pass that must not. A kind that
/// is not known, a field of another type, or a name that is nearly one that restricts may be meant so, and counts.
fn restricts(object: &Object) -> bool {
    let like = |node: &Node, wanted: &'static str| match node.as_mapping() {
        Some(fields) => {
            let mut keys = fields.entries().iter().map(|field| &*field.key);
            keys.any(|key| key == wanted || nearest(key, [wanted]).is_some())
        }
        None => true,
    };
    let Some(spec) = object.root.get("spec") else { return true };
    match &*object.reference.kind {
        "ClientTrafficPolicy" => {
            like(spec, "clientIPDetection")
                || match spec.get("tls") {
                    Some(tls) => like(tls, "clientValidation"),
                    None => like(spec, "tls"),
                }
        }
        "BackendTrafficPolicy" => like(spec, "rateLimit"),
        patches::KIND => patches::restricts(object),
        _ => true,
    }
}

/// Whether an EnvoyPatchPolicy is applied. Validation has said what is wrong with others.
fn is_patched(index: &Index<'_>, object: &Object) -> bool {
    index.options.patches && !index.options.refused.contains(&object.reference)
}

/// Reads all policies of the source, the oldest first, so that the first to take a target keeps it.
pub(super) fn attach(index: &Index<'_>, diagnostics: &mut Diagnostics) -> Policies {
    let mut policies = Policies { denied_gateways: index.options.denied.clone(), ..Policies::default() };
    let mut known: Vec<(Age, &Object, &'static dyn AnyPolicy)> = Vec::new();
    let mut capable: Vec<(Kind, &Object)> = Vec::new();
    let mut referred: Vec<(Kind, &Object, bool)> = Vec::new();
    for object in &index.others {
        if let Some(policy) = moorgate_policies::find(&object.reference) {
            let created = metadata(object).and_then(|metadata| metadata.creation_timestamp);
            known.push((
                Age::new(created.as_deref(), &object.reference.namespace, &object.reference.name),
                object,
                policy,
            ));
        } else if let Some(kind) = Kind::of(&object.reference) {
            if !kind.is_attached() {
                referred.push((kind, object, index.options.refused.contains(&object.reference)));
            } else if !index.options.refused.contains(&object.reference) {
                capable.push((kind, object));
            } else if restricts(object) {
                // Validation has said what is wrong with it.
                deny(index, object, &mut policies);
            }
        } else if &*object.reference.kind == patches::KIND && is_patched(index, object) {
            // It is applied when all else is done.
        } else if &*object.reference.group == moorgate_policies::GROUP {
            unsupported(index, object, &mut policies, diagnostics);
        }
    }
    known.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, object, policy) in known {
        attach_one(index, object, policy, &mut policies, diagnostics);
    }
    // They may refer to backends, of which the policies above speak.
    let mut clusters = BTreeMap::new();
    // Backends first: others refer to them.
    for (kind, object, refused) in referred {
        let mut sources = world::Sources { index, policies: &policies, clusters: &mut clusters };
        let compiled = (!refused).then(|| compile(kind, object, &mut sources));
        diagnostics.extend(compiled.iter().flat_map(|compiled| compiled.findings.iter().cloned()));
        policies.referred.insert(object.reference.clone(), compiled);
    }
    policies.held = held::attach(index, capable, &mut policies, &mut clusters, diagnostics);
    policies.clusters = clusters;
    policies
}

fn attach_one(
    index: &Index<'_>,
    object: &Object,
    policy: &'static dyn AnyPolicy,
    policies: &mut Policies,
    diagnostics: &mut Diagnostics,
) {
    let trust_bundle = |reference: &ObjectRef| trust::bundle(index, reference);
    let outcome = policy.compile(object, &Context { trust_bundle: &trust_bundle });
    diagnostics.extend(outcome.diagnostics);
    let (targets, findings) = policy.targets(object);
    diagnostics.extend(findings);
    if policy.restricts() {
        policies.refused_services.extend(misnamed(object));
    }
    let (mut taken, mut lost, mut services) = (0, 0, Vec::new());
    let mut gateways = BTreeMap::new();
    let total = targets.len();
    for target in targets {
        if gateways.contains_key(&target.object) {
            continue;
        }
        let mut refused = None;
        if !exists(index, &target.object, target.section.as_deref()) {
            lost += 1;
            let port = target.section.as_deref().filter(|_| policy.restricts());
            let port = port.filter(|_| exists(index, &target.object, None));
            let (code, message) = if let Some(port) = port {
                policies.refused_services.insert(target.object.clone());
                (&POLICY_SECTION_NOT_FOUND, format!("{} has no port named {port:?}", target.object))
            } else {
                (&POLICY_TARGET_NOT_FOUND, format!("{} is not in this source", target.object))
            };
            refused = Some(("TargetNotFound", message.clone()));
            let help = "what is named is not there: correct the name";
            diagnostics.push(object.diagnostic(code, target.field.clone(), message).help(help));
        }
        let key = (policy.kind(), target.object.clone(), target.section.map(String::from));
        match policies.effects.entry(key) {
            Entry::Occupied(_) => {
                taken += 1;
                let message =
                    format!("{} has an older policy of this kind, which is in effect", target.object);
                refused.get_or_insert(("Conflicted", message.clone()));
                diagnostics.push(object.diagnostic(&POLICY_CONFLICTED, target.field, message));
            }
            Entry::Vacant(free) => drop(free.insert(outcome.effects.clone())),
        }
        if &*target.object.kind == "Gateway" {
            gateways.insert(target.object, refused);
        } else {
            services.push(target.object);
        }
    }
    policies.attached.push(Attached {
        policy: object.reference.clone(),
        generation: metadata(object).and_then(|metadata| metadata.generation),
        verdict: outcome.verdict,
        conflicted: total > 0 && taken == total,
        lost: total > 0 && lost == total,
        services,
        gateways,
        telemetry: outcome.effects.telemetry,
    });
}

/// Services that a policy names by another kind: they were meant, and must not be reached without it.
fn misnamed(policy: &Object) -> Vec<ObjectRef> {
    let targets = policy.at("spec.targetRefs").and_then(Node::as_sequence).unwrap_or_default();
    let text =
        |target: &Node, key: &str| target.get(key).and_then(Node::as_str).unwrap_or_default().to_owned();
    let wrong = targets
        .iter()
        .filter(|target| text(target, "kind") != "Service" || !text(target, "group").is_empty())
        .filter(|target| {
            text(target, "kind") != "Backend" || text(target, "group") != moorgate_policies::GROUP
        });
    let namespace = &policy.reference.namespace;
    wrong.map(|target| ObjectRef::new("", "Service", namespace, &text(target, "name"))).collect()
}

fn exists(index: &Index<'_>, service: &ObjectRef, section: Option<&str>) -> bool {
    if &*service.kind == "Backend" {
        return index.others.iter().any(|object| object.reference == *service);
    }
    if &*service.kind == "XBackend" {
        return index.x_backends.contains_key(&(&*service.namespace, &*service.name))
            || index.is_open("XBackend");
    }
    if &*service.kind == "Gateway" {
        return index.gateway_key(&service.namespace, &service.name).is_some() || index.is_open("Gateway");
    }
    match index.services.get(&(&*service.namespace, &*service.name)) {
        Some(found) => section.is_none_or(|name| found.value.spec.ports.iter().any(|port| port.name == name)),
        None => index.is_open("Service"),
    }
}

fn unsupported(index: &Index<'_>, object: &Object, policies: &mut Policies, diagnostics: &mut Diagnostics) {
    let restricts = restricts(object);
    let off = &*object.reference.kind == patches::KIND;
    let code = match (restricts, off) {
        (true, _) => &POLICY_RESTRICTS,
        (false, true) => &PATCH_OFF,
        (false, false) => &POLICY_UNSUPPORTED,
    };
    let why = if off { "applied without --envoy-patch-policy" } else { "supported by this version" };
    let message = format!("{} is not {why}", object.reference.kind);
    let finding = object.diagnostic(code, FieldPath::root().key("kind"), message);
    if restricts {
        deny(index, object, policies);
        let of_class = target::targets(index, object).unwrap_or_default();
        let of_class = off && of_class.iter().any(|target| &*target.object.kind == "GatewayClass");
        diagnostics.push(finding.help(if of_class {
            "Gateways of the class in its own namespace answer 500, because it restricts access, and others go on without it"
        } else {
            "what it targets answers 500, because it restricts access"
        }));
    } else {
        diagnostics.push(finding.help("it has no effect"));
    }
}

/// Closes what a policy targets; everything in its namespace if that cannot be told. What it may not target stays open: no
/// mistake of one namespace closes another.
fn deny(index: &Index<'_>, policy: &Object, policies: &mut Policies) {
    let Some(targets) = target::targets(index, policy) else {
        return deny_namespace(index, &policy.reference.namespace, policies);
    };
    targets.into_iter().for_each(|target| deny_target(index, policy, target, policies));
    target::unreadable(policy).iter().for_each(|wrong| deny_selected(index, policy, wrong, policies));
}

/// Closes one target of a policy.
fn deny_target(index: &Index<'_>, policy: &Object, target: Target, policies: &mut Policies) {
    let namespace = &*policy.reference.namespace;
    let Target { object, section } = target;
    match &*object.kind {
        "HTTPRoute" | "GRPCRoute" => {
            // A section that no rule has was meant to be one of them.
            let section = section.filter(|name| index.has_rule(&object, name));
            policies.denied_routes.insert((object, section));
        }
        // A section of a Gateway is one listener; closing the whole Gateway errs on the safe side.
        "Gateway" => drop(policies.denied_gateways.insert(object)),
        "GatewayClass" => {
            // A class is everybody's: only patches concern one, where somebody allows them.
            let all = &*policy.reference.kind == patches::KIND && index.options.patches;
            let of_class = |gateway: &&super::index::Indexed<'_, super::spec::Gateway>| {
                gateway.value.spec.gateway_class_name == *object.name
                    && (all || *gateway.object.reference.namespace == *namespace)
            };
            let gateways = index.gateways.values().filter(of_class);
            policies.denied_gateways.extend(gateways.map(|gateway| gateway.object.reference.clone()));
        }
        // The API has one rule in these, so a section is all of it.
        "TLSRoute" | "TCPRoute" | "UDPRoute" => drop(policies.denied_routes.insert((object, None))),
        // Routes of other kinds are not compiled, and Services are reached by routes only.
        _ => deny_namespace(index, namespace, policies),
    }
}

/// Closes what a selector that cannot be read may have meant in the policy's own namespace.
fn deny_selected(index: &Index<'_>, policy: &Object, wrong: &target::Unreadable, policies: &mut Policies) {
    let Some(kind) = &wrong.kind else {
        return deny_namespace(index, &policy.reference.namespace, policies);
    };
    let inside = |object: &&Object| object.reference.namespace == policy.reference.namespace;
    for object in target::candidates(index, kind).filter(inside) {
        let target = Target { object: object.reference.clone(), section: None };
        deny_target(index, policy, target, policies);
    }
}

fn deny_namespace(index: &Index<'_>, namespace: &str, policies: &mut Policies) {
    let inside = |object: &Object| *object.reference.namespace == *namespace;
    let routes = index.routes().filter(|object| inside(object));
    policies.denied_routes.extend(routes.map(|route| (route.reference.clone(), None)));
    let gateways = index.gateways.values().map(|gateway| gateway.object).filter(|object| inside(object));
    policies.denied_gateways.extend(gateways.map(|gateway| gateway.reference.clone()));
}

/// Writes the status of policies: one entry for each Gateway of ours that serves a target, or is one.
pub(super) fn report(
    index: &Index<'_>,
    policies: &Policies,
    own: &BTreeMap<Key<'_>, Gateway<'_>>,
    routes: &Routes<'_>,
    statuses: &mut Statuses,
) {
    condition::report(index, policies, own, routes, statuses);
    for attached in &policies.attached {
        let mut gateways: BTreeSet<Key<'_>> = BTreeSet::new();
        for service in &attached.services {
            let key = (service.namespace.to_string(), backend::key(service));
            gateways.extend(routes.ancestors.get(&key).into_iter().flatten());
        }
        let ancestors: Vec<AncestorStatus> = gateways
            .into_iter()
            .take(MAX_ANCESTORS)
            .map(|gateway| ancestor(attached, gateway, statuses.controller_name()))
            .chain(telemetry::ancestors(attached, own, statuses.controller_name()))
            .collect();
        if !ancestors.is_empty() {
            statuses.set(attached.policy.clone(), Status::Policy { ancestors });
        }
    }
}

fn ancestor(attached: &Attached, gateway: Key<'_>, controller_name: &str) -> AncestorStatus {
    let mut accepted = condition("Accepted", &attached.verdict.accepted, attached.generation);
    if attached.conflicted && attached.verdict.accepted.status {
        let message = "an older policy of this kind has the same targets";
        accepted = status::fails("Accepted", "Conflicted", message, attached.generation);
    }
    if attached.lost && accepted.status == "True" {
        let message = "no target of the policy is there, or none has the port that it names";
        accepted = status::fails("Accepted", "TargetNotFound", message, attached.generation);
    }
    entry(attached, gateway, accepted, controller_name)
}

/// The entry of a Gateway in the status of a policy.
fn entry(
    attached: &Attached,
    (namespace, name): (&str, &str),
    accepted: Condition,
    controller_name: &str,
) -> AncestorStatus {
    AncestorStatus {
        ancestor_ref: ParentReference::gateway(namespace, name),
        controller_name: controller_name.to_owned(),
        conditions: vec![
            accepted,
            condition("ResolvedRefs", &attached.verdict.resolved_refs, attached.generation),
        ],
    }
}

fn condition(kind: &'static str, judgement: &Judgement, generation: Option<i64>) -> Condition {
    Condition {
        kind,
        status: if judgement.status { "True" } else { "False" },
        reason: judgement.reason,
        message: judgement.message.clone(),
        observed_generation: generation,
    }
}

/// A reference to an object of the Gateway API group.
fn gateway_object(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef::new(GATEWAY_GROUP, kind, namespace, name)
}
