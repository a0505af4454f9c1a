//! What the statistics of a route's clusters are called (EnvoyProxy `telemetry.metrics.clusterStatName`).
//!
//! A cluster has one name for its statistics, so rules that are called differently have clusters of their own, with the same
//! endpoints. A cluster's name says what its statistics are called, and not which rule came first: none moves because another
//! rule is there.

use moorgate_model::ir::{Action, Cluster, Fleet, RouteOrigin, RouteTable, Serves};
use moorgate_model::{FieldPath, Node, Object, ObjectRef};
use moorgate_policies::proxy::named_cluster;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The operator that stands for the backends of a rule.
const BACKENDS: &str = "%BACKEND_REFS%";

/// Leads the routes of a fleet to clusters that are called as the pattern says; these are given back.
pub(super) fn apply(
    fleet: &mut Fleet,
    clusters: &BTreeMap<String, Cluster>,
    objects: &[Object],
) -> BTreeMap<String, Cluster> {
    let mut made = BTreeMap::new();
    let Some(pattern) = fleet.proxy.cluster_stat_name.clone() else { return made };
    let named = pattern.contains(BACKENDS);
    let routes = objects.iter().filter(|object| named && object.reference.kind.ends_with("Route"));
    let routes: BTreeMap<&ObjectRef, &Object> = routes.map(|object| (&object.reference, object)).collect();
    let name = |origin: &RouteOrigin| {
        let backends = routes.get(&origin.object).map(|object| backends(object, origin.rule));
        filled(&pattern, origin, &backends.unwrap_or_default())
    };
    // Chains of one port share their table.
    let mut tables: BTreeMap<String, Arc<RouteTable>> = BTreeMap::new();
    for chain in fleet.listeners.values_mut().flat_map(|listener| &mut listener.chains) {
        let Serves::Http(table) = &mut chain.serves else { continue };
        if let Some(done) = tables.get(&table.name) {
            *table = Arc::clone(done);
            continue;
        }
        for route in Arc::make_mut(table).hosts.iter_mut().flat_map(|host| &mut host.routes) {
            let Action::Forward(forward) = &mut route.action else { continue };
            let stat_name = name(&route.origin);
            for cluster in forward.backends.iter_mut().filter_map(|backend| backend.cluster.as_mut()) {
                let Some(base) = clusters.get(cluster.as_str()) else { continue };
                // No name of an object has an equals sign.
                let own = format!("{cluster}+stat={stat_name}");
                made.entry(own.clone()).or_insert_with(|| {
                    let mut variant = base.clone();
                    variant.policies.cluster.push(named_cluster(&stat_name));
                    variant
                });
                *cluster = own;
            }
        }
        tables.insert(table.name.clone(), Arc::clone(table));
    }
    made
}

/// The pattern with the parts of a rule's name, as Envoy Gateway fills it.
fn filled(pattern: &str, origin: &RouteOrigin, backends: &str) -> String {
    let object = &origin.object;
    let rule = origin.rule.to_string();
    let part = |operator: &str| match operator {
        "ROUTE_NAME" => &*object.name,
        "ROUTE_NAMESPACE" => &*object.namespace,
        "ROUTE_RULE_NAME" => origin.rule_name.as_deref().unwrap_or("-"),
        "ROUTE_RULE_NUMBER" => &rule,
        "BACKEND_REFS" => backends,
        _ => "",
    };
    let kind = object.kind.to_ascii_lowercase();
    let parts = pattern.split('%').enumerate().map(|(index, text)| match (index % 2, text) {
        (0, text) => text,
        (_, "ROUTE_KIND") => &kind,
        (_, operator) => part(operator),
    });
    parts.collect()
}

/// The backends of a rule as it names them, `namespace/name` each.
fn backends(route: &Object, rule: usize) -> String {
    let at = FieldPath::parse("spec.rules").index(rule).key("backendRefs");
    let list = route.root.at(&at).and_then(Node::as_sequence).unwrap_or_default();
    let one = |backend: &Node| {
        let text = |field: &str| backend.get(field).and_then(Node::as_str);
        let namespace = text("namespace").unwrap_or(&route.reference.namespace);
        format!("{namespace}/{}", text("name").unwrap_or_default())
    };
    list.iter().map(one).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_stand_for_parts_of_the_rule() {
        let object = ObjectRef::new("gateway.networking.k8s.io", "HTTPRoute", "shop", "cart");
        let origin = |rule_name: Option<&str>| RouteOrigin {
            object: object.clone(),
            rule: 3,
            rule_name: rule_name.map(str::to_owned),
            matched: 0,
        };
        let all = "%ROUTE_KIND%/%ROUTE_NAMESPACE%/%ROUTE_NAME%/%ROUTE_RULE_NAME%/%ROUTE_RULE_NUMBER%/%BACKEND_REFS%";
        assert_eq!(filled(all, &origin(Some("pay")), "a/b|c/d"), "httproute/shop/cart/pay/3/a/b|c/d");
        assert_eq!(filled(all, &origin(None), ""), "httproute/shop/cart/-/3/");
        assert_eq!(filled("plain", &origin(None), "x"), "plain");
    }
}
