use super::*;
use crate::compile::{Options, compile};
use serde_json::{Value, json};

/// An object as an API server gives it.
fn object(kind: &Kind, value: Value) -> Live {
    Live::of(serde_json::from_value(value).unwrap(), kind).unwrap()
}

fn gateway_kind(kind: &str, plural: &str, namespaced: bool) -> Kind {
    Kind::new(crate::attach::GATEWAY_GROUP, "v1", kind, plural, namespaced)
}

fn cluster() -> Objects {
    let mut objects = Objects::default();
    let class = gateway_kind("GatewayClass", "gatewayclasses", false);
    let gateway = gateway_kind("Gateway", "gateways", true);
    let route = gateway_kind("HTTPRoute", "httproutes", true);
    let [namespace, service] = core();
    for (name, controller) in [("moorgate", crate::attach::CONTROLLER_NAME), ("other", "example.com/other")] {
        objects.insert(object(
            &class,
            json!({"metadata": {"name": name, "generation": 1, "resourceVersion": "3"},
                   "spec": {"controllerName": controller}}),
        ));
    }
    objects.insert(object(
        &namespace,
        json!({"metadata": {"name": "kube-system", "uid": "u-1", "resourceVersion": "1"}, "spec": {}}),
    ));
    let listener = |secret: &str| {
        json!([{"name": "https", "port": 443, "protocol": "HTTPS", "hostname": "a.example",
            "allowedRoutes": {"namespaces": {"from": "Same"}},
            "tls": {"mode": "Terminate", "certificateRefs": [{"group": "", "kind": "Secret", "name": secret}]}}])
    };
    for (name, class, secret) in [("edge", "moorgate", "edge-cert"), ("foreign", "other", "foreign-cert")] {
        objects.insert(object(
            &gateway,
            json!({
                "metadata": {"name": name, "namespace": "shop", "generation": 4, "resourceVersion": "17",
                    "creationTimestamp": "2026-01-01T00:00:00Z", "uid": "u-2",
                    "managedFields": [{"manager": "kubectl", "operation": "Apply"}],
                    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}},
                "spec": {"gatewayClassName": class, "listeners": listener(secret)},
                "status": {"conditions": [{"type": "Accepted", "status": "Unknown"}]},
            }),
        ));
    }
    objects.insert(object(
        &service,
        json!({"metadata": {"name": "cart", "namespace": "shop", "resourceVersion": "5"},
               "spec": {"type": "ClusterIP", "clusterIP": "10.0.0.7", "ports": [
                    {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]}}),
    ));
    objects.insert(object(
        &route,
        json!({"metadata": {"name": "cart", "namespace": "shop", "generation": 2, "resourceVersion": "23"},
               "spec": {"parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}],
                        "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                                   "backendRefs": [{"group": "", "kind": "Service", "name": "cart", "port": 80,
                                                    "weight": 1}]}]}}),
    ));
    objects
}

#[test]
fn what_the_api_server_keeps_for_itself_is_no_part_of_the_text() {
    let objects = cluster();
    let edge = objects.get(&ObjectRef::new(crate::attach::GATEWAY_GROUP, "Gateway", "shop", "edge")).unwrap();
    let text = String::from_utf8(edge.file.bytes.to_vec()).unwrap();
    for gone in ["status", "managedFields", "resourceVersion", "last-applied"] {
        assert!(!text.contains(gone), "{gone} in {text}");
    }
    assert_eq!(&*edge.file.name, "Gateway/shop/edge");
    assert_eq!((edge.generation, &*edge.resource_version), (Some(4), "17"));
    assert_eq!(edge.status["conditions"][0]["type"], "Accepted");
    // A write of status alone changes nothing that is compiled.
    let again = Live { status: json!({}), resource_version: "18".into(), ..(**edge).clone() };
    assert_eq!(again.file, edge.file);
}

#[test]
fn only_what_gateways_of_ours_name_is_read() {
    let found = references(&cluster(), crate::attach::CONTROLLER_NAME);
    let names: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["Secret shop/edge-cert"]);
}

#[test]
fn the_state_of_a_cluster_stands_where_a_commit_stands() {
    let objects = cluster();
    let stand = sources(&objects, "https://127.0.0.1/").cluster.unwrap();
    let source = stand.source();
    assert_eq!(source.repository, "kubernetes:u-1");
    assert_eq!(source.revision, "resourceVersion:23");
    assert_eq!(source.committed, None);
    assert_eq!(descends("resourceVersion:22", &source.revision), Some(true));
    assert_eq!(descends("resourceVersion:23", &source.revision), Some(true));
    assert_eq!(descends("resourceVersion:24", &source.revision), Some(false));
    assert_eq!(descends("0123abcd", &source.revision), None);
    // A deletion is newer than all that is left.
    let mut later = objects.clone();
    later.seen(Some("40"));
    assert_eq!(sources(&later, "").cluster.unwrap().resource_version, 40);
}

#[test]
fn objects_of_a_cluster_give_the_snapshot_of_their_yaml() {
    let yaml = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: moorgate}
spec: {controllerName: moorgate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: moorgate
  listeners:
  - {name: https, port: 443, protocol: HTTPS, hostname: a.example, tls: {certificateRefs: [{name: edge-cert}]}}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 80}]}]}
";
    let files = [crate::source::File { name: "in.yaml".into(), bytes: yaml.as_bytes().into() }];
    let offline = compile(&files, &Options::default());
    assert!(offline.diagnostics.is_empty(), "{:?}", offline.diagnostics);
    // The Secret is open here too: whether it is there is the other half of closing.
    let online = compile(&sources(&cluster(), "").files, &Options::default());
    let ids = |compilation: &crate::compile::Compilation| {
        let fleets = compilation.fleets.iter();
        fleets.map(|(name, fleet)| (name.to_string(), fleet.snapshot.id())).collect::<Vec<_>>()
    };
    assert_eq!(ids(&online).len(), 1);
    assert_eq!(ids(&online), ids(&offline));
}
