//! Who the pods are, and what they may read: the objects that the fleet's bindings name, by name where Kubernetes can
//! tell names apart.

use super::Needs;
use super::metadata::Metadata;
use serde_json::{Value, json};

/// Verbs of a watch on a kind.
const KIND: [&str; 2] = ["list", "watch"];
/// Verbs of a watch on one object: it needs no list, by which contents could be read under other names.
const OBJECT: [&str; 2] = ["get", "watch"];

/// The identity of pods. Its token is mounted into the relay alone.
pub(super) fn service_account(metadata: &Metadata) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata.of_fleet(),
        "automountServiceAccountToken": false,
    })
}

/// A Role and a RoleBinding in each namespace that the fleet reads in, and their cluster-wide kin for kinds that lie in
/// no namespace.
pub(super) fn roles(needs: &Needs, metadata: &Metadata) -> Vec<Value> {
    let mut out = Vec::new();
    let rules = rules(needs, "");
    if !rules.is_empty() {
        out.extend(pair(metadata, "", &rules));
    }
    for namespace in needs.namespaces() {
        out.extend(pair(metadata, namespace, &self::rules(needs, namespace)));
    }
    out
}

fn rules(needs: &Needs, namespace: &str) -> Vec<Value> {
    let mut rules = Vec::new();
    if needs.endpoints.contains(namespace) {
        // Names of EndpointSlices are made up by their controller: they can only be watched by label.
        rules
            .push(json!({"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": KIND}));
    }
    for ((_, kind), names) in needs.objects.iter().filter(|((found, _), _)| found == namespace) {
        let (group, resource) = match kind.as_str() {
            "ConfigMap" => ("", "configmaps"),
            "ClusterTrustBundle" => ("certificates.k8s.io", "clustertrustbundles"),
            _ => ("", "secrets"),
        };
        rules.push(json!({
            "apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": OBJECT,
        }));
    }
    rules
}

fn pair(metadata: &Metadata, namespace: &str, rules: &[Value]) -> [Value; 2] {
    const API: &str = "rbac.authorization.k8s.io/v1";
    let own = metadata.elsewhere(namespace);
    let (role, binding) =
        if namespace.is_empty() { ("ClusterRole", "ClusterRoleBinding") } else { ("Role", "RoleBinding") };
    let subject = json!({
        "kind": "ServiceAccount", "name": metadata.name, "namespace": metadata.namespace,
    });
    [
        json!({"apiVersion": API, "kind": role, "metadata": own, "rules": rules}),
        json!({
            "apiVersion": API, "kind": binding, "metadata": own, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": own["name"]},
        }),
    ]
}
