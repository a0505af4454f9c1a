//! Policies: which target each meets, and what follows from those that cannot be compiled.
//!
//! A policy that restricts access and cannot be carried out makes its targets answer 500 (DESIGN §8, fail closed).

mod target;

use super::GATEWAY_GROUP;
use super::index::{Index, Key};
use super::listener::Gateway;
use super::parent::Routes;
use crate::status::Statuses;
use moorgate_model::diagnostic::policy::{POLICY_RESTRICTS, POLICY_UNSUPPORTED};
use moorgate_model::ir::UpstreamTls;
use moorgate_model::{Diagnostics, FieldPath, Object, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};
use target::Target;

/// What policies say about routes, Gateways and Services.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// Routes of which all rules, or the named one, answer 500.
    denied_routes: BTreeSet<(ObjectRef, Option<String>)>,
    /// Gateways whose routes all answer 500.
    denied_gateways: BTreeSet<ObjectRef>,
}

impl Policies {
    /// True if requests to this rule must be answered with 500.
    pub(super) fn denies_route(&self, route: &ObjectRef, rule: Option<&str>) -> bool {
        !self.denied_routes.is_empty()
            && (self.denied_routes.contains(&(route.clone(), None))
                || rule
                    .is_some_and(|rule| self.denied_routes.contains(&(route.clone(), Some(rule.to_owned())))))
    }

    /// True if all requests to this Gateway must be answered with 500.
    pub(super) fn denies_gateway(&self, gateway: &ObjectRef) -> bool {
        self.denied_gateways.contains(gateway)
    }

    /// TLS towards a Service port, if a policy asks for it.
    pub(super) fn upstream_tls(
        &self,
        _namespace: &str,
        _service: &str,
        _port_name: &str,
    ) -> Option<UpstreamTls> {
        None
    }
}

/// Kinds of Envoy Gateway that restrict access: without them requests would pass that must not.
fn restricts(object: &Object) -> bool {
    match &*object.reference.kind {
        "SecurityPolicy" | "EnvoyExtensionPolicy" => true,
        "ClientTrafficPolicy" => object.at("spec.tls.clientValidation").is_some(),
        "BackendTrafficPolicy" => object.at("spec.rateLimit").is_some(),
        _ => false,
    }
}

/// Reads all policies of the source.
pub(super) fn attach(index: &Index<'_>, diagnostics: &mut Diagnostics) -> Policies {
    let mut policies = Policies::default();
    for object in &index.others {
        if &*object.reference.group != "gateway.envoyproxy.io" {
            continue;
        }
        let restricts = restricts(object);
        let code = if restricts { &POLICY_RESTRICTS } else { &POLICY_UNSUPPORTED };
        let message = format!("{} is not supported by this version", object.reference);
        let finding = object.diagnostic(code, FieldPath::root().key("kind"), message);
        if restricts {
            deny(index, object, &mut policies);
            diagnostics.push(finding.help("what it targets answers 500, because it restricts access"));
        } else {
            diagnostics.push(finding.help("it has no effect"));
        }
    }
    policies
}

fn deny(index: &Index<'_>, policy: &Object, policies: &mut Policies) {
    for Target { object, section } in target::targets(index, policy) {
        match &*object.kind {
            "HTTPRoute" => drop(policies.denied_routes.insert((object, section))),
            // A section of a Gateway is one listener; closing the whole Gateway errs on the safe side.
            "Gateway" => drop(policies.denied_gateways.insert(object)),
            _ => {}
        }
    }
}

/// Writes the status of policies.
pub(super) fn report(_: &Policies, _: &BTreeMap<Key<'_>, Gateway<'_>>, _: &Routes<'_>, _: &mut Statuses) {}

/// A reference to an object of the Gateway API group.
fn gateway_object(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef::new(GATEWAY_GROUP, kind, namespace, name)
}
