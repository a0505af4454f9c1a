use super::super::{Options, compile};
use super::*;
use crate::source::File;

const BASE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: moorgate}
spec: {controllerName: moorgate.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  gatewayClassName: moorgate
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: infra}
spec:
  gatewayClassName: moorgate
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{port: 80}]}
";

fn route(name: &str, gateway: &str, path: &str, port: u16) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{name: {gateway}, namespace: infra}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs: [{{name: web, port: {port}}}]
  - matches: [{{path: {{type: Exact, value: {path}/exact}}}}]
    backendRefs: [{{name: web, port: {port}}}]
"
    )
}

fn records(routes: &str) -> Records {
    let file = |name: &str, text: &str| File { name: name.into(), bytes: text.as_bytes().to_vec().into() };
    let files = [file("base.yaml", BASE), file("routes.yaml", routes)];
    let compilation = compile(&files, &Options::default());
    let fleet = FleetName::gateway("infra", "edge");
    compilation.records(&fleet, &compilation.fleets[&fleet])
}

#[test]
fn a_fleet_records_its_own_objects_with_places_and_marks() {
    let routes = route("cart", "edge", "/cart", 80) + &route("foreign", "other", "/x", 80);
    let records = records(&routes);
    let names: Vec<&str> = records.objects.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "/Service/shop/web",
            "gateway.networking.k8s.io/Gateway/infra/edge",
            "gateway.networking.k8s.io/GatewayClass//moorgate",
            "gateway.networking.k8s.io/HTTPRoute/shop/cart",
        ]
    );
    let cart = &records.objects["gateway.networking.k8s.io/HTTPRoute/shop/cart"];
    assert_eq!((cart.place(None), cart.place(Some(1))), ("routes.yaml:2".into(), "routes.yaml:10".into()));
    assert!(cart.parts.iter().all(|part| part.makes.len() == 1) && !cart.effective.is_empty());
    assert!(cart.status.is_some());
    let gateway = &records.objects["gateway.networking.k8s.io/Gateway/infra/edge"];
    assert_eq!(gateway.parts[0].makes, ["http-80/http-80/http"]);
    assert_eq!(records.objects["/Service/shop/web"].place(None), "base.yaml:22");
}

#[test]
fn digests_follow_what_is_said_and_what_envoy_gets() {
    let key = "gateway.networking.k8s.io/HTTPRoute/shop/cart";
    let before = records(&route("cart", "edge", "/cart", 80)).objects.remove(key).unwrap();
    let shifted = format!("# a comment\n{}", route("cart", "edge", "/cart", 80));
    let shifted = records(&shifted).objects.remove(key).unwrap();
    assert_eq!(shifted, Item { line: before.line + 1, ..before.clone() });
    let other = records(&route("cart", "edge", "/basket", 80)).objects.remove(key).unwrap();
    assert!(other.content != before.content && other.effective != before.effective);
    // The Service loses its port: the route says the same, and Envoy gets something else.
    let closed = records(&route("cart", "edge", "/cart", 81)).objects.remove(key).unwrap();
    assert!(closed.effective != before.effective);
}
