//! Which Gateways a policy reaches, known before routes are attached.

use super::target;
use crate::attach::index::{Index, Indexed, Key};
use crate::attach::kind::RouteKind;
use crate::attach::{GATEWAY_GROUP, listener, proxy};
use moorgate_model::{Node, Object};
use moorgate_policies::ScriptCheck;
use std::collections::BTreeSet;

/// How strictly the scripts of a policy are looked at: as the strictest of its Gateways says.
pub(super) fn script_check(index: &Index<'_>, policy: &Object) -> ScriptCheck {
    let of = |key: &Key<'_>| {
        let parameters = proxy::parameters_of(index, *key);
        let name =
            parameters.as_ref().and_then(|object| object.at("spec.luaValidation")).and_then(Node::as_str);
        name.map(ScriptCheck::of_name).unwrap_or_default()
    };
    gateways(index, policy).iter().map(of).max().unwrap_or_default()
}

/// The Gateways that a policy is attached to, itself or by listeners and routes.
fn gateways<'a>(index: &Index<'a>, policy: &Object) -> BTreeSet<Key<'a>> {
    let mut out = BTreeSet::new();
    for ((object, _), ..) in target::all(index, policy) {
        let key = (&*object.namespace, &*object.name);
        match &*object.kind {
            "Gateway" => out.extend(index.gateway_key(key.0, key.1)),
            "ListenerSet" => out.extend(of_set(index, key)),
            "HTTPRoute" => out.extend(of_route(index, index.http_routes.get(&key))),
            "GRPCRoute" => out.extend(of_route(index, index.grpc_routes.get(&key))),
            _ => {}
        }
    }
    out
}

fn of_set<'a>(index: &Index<'a>, (namespace, name): (&str, &str)) -> Option<Key<'a>> {
    listener::gateway_of(index, index.listener_set(namespace, name)?)
}

fn of_route<'a, K: RouteKind>(index: &Index<'a>, route: Option<&Indexed<'a, K>>) -> Vec<Key<'a>> {
    let Some(route) = route else { return Vec::new() };
    let own = &*route.object.reference.namespace;
    let named = route
        .value
        .parent_refs()
        .iter()
        .filter(|parent| parent.group.as_deref().unwrap_or(GATEWAY_GROUP) == GATEWAY_GROUP);
    let mut out: Vec<Key<'a>> = named
        .filter_map(|parent| {
            let key = (parent.namespace.as_deref().unwrap_or(own), parent.name.as_str());
            match parent.kind.as_deref().unwrap_or("Gateway") {
                "Gateway" => index.gateway_key(key.0, key.1),
                "ListenerSet" => of_set(index, key),
                _ => None,
            }
        })
        .collect();
    if route.value.default_gateways().is_some() {
        // Any of them may be a default one.
        out.extend(index.gateways.keys());
    }
    out
}
