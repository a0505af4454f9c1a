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

/// A snapshot and its records answer as the sources do, to every kind of match and action.
#[test]
fn a_snapshot_explains_itself_as_its_sources_do() {
    use crate::explain::{Answer, Request, explain};
    let rules = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: many, namespace: shop}
spec:
  parentRefs: [{name: edge, namespace: infra}]
  hostnames: [a.example, '*.b.example']
  rules:
  - matches: [{path: {type: PathPrefix, value: /}, method: POST}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301, hostname: other.example}}]
  - name: named
    matches:
    - path: {type: RegularExpression, value: '/x[0-9]+'}
      headers: [{name: X-User, value: a}, {name: X-Team, type: RegularExpression, value: 'b.*'}]
    - path: {type: Exact, value: /q}
      queryParams: [{name: v, value: '1'}]
    backendRefs: [{name: web, port: 80, weight: 3}, {name: missing, port: 80, weight: 1}]
";
    let text = route("cart", "edge", "/cart", 80) + rules;
    let file = |name: &str, text: &str| File { name: name.into(), bytes: text.as_bytes().to_vec().into() };
    let compilation = compile(&[file("base.yaml", BASE), file("routes.yaml", &text)], &Options::default());
    let name = FleetName::gateway("infra", "edge");
    let fleet = &compilation.fleets[&name];
    let records = compilation.records(&name, fleet);
    let written = history::Written::new(&records);
    let read = xds::read(fleet.snapshot.records(), &written).unwrap();
    let mut found = 0;
    for (method, url, headers) in [
        ("GET", "http://c.example/cart", vec![]),
        ("GET", "http://a.example/cart/exact", vec![]),
        ("POST", "http://a.example/any", vec![]),
        ("GET", "http://x.b.example/x1", vec!["x-user: a", "x-team: bee"]),
        ("GET", "http://x.b.example/x1", vec!["x-user: b", "x-team: bee"]),
        ("GET", "http://a.example/q?v=1", vec![]),
        ("GET", "http://a.example/q?v=2", vec![]),
        ("GET", "http://a.example:81/q", vec![]),
    ] {
        let headers: Vec<String> = headers.into_iter().map(str::to_owned).collect();
        let request = Request::parse(method, url, &headers).unwrap();
        let (ours, stored) = (explain(&fleet.ir, &request), explain(&read, &request));
        assert_eq!(std::mem::discriminant(&ours), std::mem::discriminant(&stored), "{method} {url}");
        if let (Answer::Found(way, ours), Answer::Found(stored_way, stored)) = (ours, stored) {
            found += 1;
            assert_eq!((&ours.origin.object, ours.origin.rule), (&stored.origin.object, stored.origin.rule));
            assert_eq!(
                (&ours.path, &ours.method, &ours.headers),
                (&stored.path, &stored.method, &stored.headers)
            );
            let field = FieldPath::root().key("spec").key("rules").index(ours.origin.rule);
            let place = compilation.place(&ours.origin.object, &field).unwrap();
            let recorded = written.place(&stored.origin.object, Some(stored.origin.rule)).unwrap();
            assert!(place.starts_with(&format!("{recorded}:")), "{place} {recorded}");
            let listener = |way: &crate::explain::Trace<'_>| {
                way.chain
                    .origins
                    .iter()
                    .map(|origin| (origin.owner.clone(), origin.index))
                    .collect::<Vec<_>>()
            };
            assert_eq!(listener(&way), listener(&stored_way));
        }
    }
    assert_eq!(found, 4);
}
