//! EnvoyPatchPolicies on a real Envoy: one that is in force, one that would open a route, and one that closes its Gateway.

use super::behaviour::HOST;
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;

/// A policy with one patch.
fn patch(name: &str, annotations: &str, kind: &str, of: &str, operation: &str) -> String {
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyPatchPolicy\nmetadata: {{ name: {name}, namespace: edge, annotations: {{ {annotations} }} }}\n\
         spec:\n  type: JSONPatch\n  targetRef: {{ group: gateway.networking.k8s.io, kind: Gateway, name: public }}\n  jsonPatches:\n    \
         - {{ type: type.googleapis.com/envoy.config.{kind}, name: {of}, operation: {operation} }}\n"
    )
}

#[test]
fn patches_change_what_envoy_does_and_open_nothing() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let port = ports::free().unwrap();
    let listener = format!("http-{port}");
    let route = |name: &str| {
        manifest::http_route("edge", name, "edge/public", &[], &manifest::rule(&format!("/{name}"), "web"))
    };
    // It cannot be carried out, so the route is closed.
    let keys = "  jwt: { providers: [{ name: a, localJWKS: { type: Inline, inline: '{\"keys\":[]}' } }] }\n";
    let closed = super::behaviour::policy("closed", "SecurityPolicy", "HTTPRoute", "closed", keys);
    let base = [
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        route("open"),
        route("closed"),
        closed,
        patch(
            "named",
            "",
            "route.v3.RouteConfiguration",
            &listener,
            "{ op: add, path: /response_headers_to_add, value: [{ header: { key: x-patched, value: here } }] }",
        ),
        // Whatever stands first in the host: a patch by place would answer before the closed route.
        patch(
            "shortcut",
            "",
            "route.v3.RouteConfiguration",
            &listener,
            "{ op: add, path: /virtual_hosts/0/routes/0, value: { name: all, match: { prefix: / }, route: { cluster: edge/web/80 } } }",
        ),
    ];
    let publish = |stack: &Stack, documents: &[String]| {
        stack.publish_documents_with(documents, &["--envoy-patch-policy"]).unwrap().ended_with(&[0]).unwrap()
    };
    publish(&stack, &base);
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    let found = send_until(&target, &Request::get(HOST, "/open"), "an answer", |answer| answer.status == 200)
        .unwrap();
    assert_eq!(found.header("x-patched"), Some("here"), "{found:?}");
    assert_eq!(send(&target, &Request::get(HOST, "/other")).unwrap().status, 200, "the patch answers");
    assert_eq!(send(&target, &Request::get(HOST, "/closed")).unwrap().status, 500);

    // A patch that would let only some connections in does not meet its listener: nobody is let in.
    let lost = patch(
        "strict",
        "",
        "listener.v3.Listener",
        "http-1",
        "{ op: add, path: /filter_chains/0/filters/0, value: { name: envoy.filters.network.rbac } }",
    );
    let said = publish(&stack, &[base.to_vec(), vec![lost]].concat());
    assert!(said.stderr.contains("MG4041"), "{said:?}");
    send_until(&target, &Request::get(HOST, "/open"), "a closed Gateway", |answer| answer.status == 500)
        .unwrap();
}
