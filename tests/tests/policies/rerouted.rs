//! Requests that are led to another route behind one of their filters, on a real Envoy: what that route asks for is asked for.

use super::behaviour::policy;
use super::extensions::{answering, module};
use super::rules::{bearer, get, jwt, status, with_header};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use std::net::TcpListener;

/// Who may use the routes of admins.
const FRIENDS: &str = "  authorization:\n    defaultAction: Deny\n    rules:\n      \
                       - { action: Allow, principal: { headers: [{ name: x-friend, values: ['yes'] }] } }\n";

/// A route for everybody at a path, and one for requests with a header; at a listener.
fn routes(name: &str, (header, value): (&str, &str), listener: &str) -> [String; 2] {
    let at = |name: &str, rule: &str| {
        let route = manifest::http_route("edge", name, "edge/public", &[], rule);
        route.replace("- name: public", &format!("- sectionName: {listener}\n      name: public"))
    };
    let path = format!("/{name}");
    let guarded = with_header(&manifest::rule(&path, "admins"), header, value);
    [at(name, &manifest::rule(&path, "web")), at(&format!("{name}-admin"), &guarded)]
}

fn script(text: &str) -> String {
    format!(
        "  lua:\n    - type: Inline\n      inline: |\n        function envoy_on_request(h)\n          {text}\n        end\n"
    )
}

fn documents(listeners: &[Listener], modules: u16) -> Vec<String> {
    let mut out = vec![
        manifest::gateway_class(),
        manifest::gateway("edge", "public", listeners),
        manifest::service("edge", "web"),
        manifest::service("edge", "admins"),
    ];
    let recompute =
        jwt("        claimToHeaders: [{ claim: role, header: x-role }]\n        recomputeRoute: true\n");
    let rename = "h:headers():replace(\"x-role\", h:headers():get(\"x-r\") or \"\")";
    let digest = ring::digest::digest(&ring::digest::SHA256, &module(*b"was here"));
    let digest = digest.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let wasm = format!(
        "  wasm:\n    - name: m\n      code: {{ type: HTTP, http: {{ url: 'http://localhost:{modules}/m.wasm', sha256: {digest} }} }}\n"
    );
    let role = ("x-role", "admin");
    for (name, header, kind, spec) in [
        ("tokens", role, "SecurityPolicy", recompute.clone()),
        ("renamed", role, "EnvoyExtensionPolicy", script(rename)),
        ("led", role, "EnvoyExtensionPolicy", script(&format!("{rename}; h:clearRouteCache()"))),
        (
            "hidden",
            role,
            "EnvoyExtensionPolicy",
            script(&format!("{rename}; h[\"clearRoute\" .. \"Cache\"](h)")),
        ),
        ("module", ("x-wasm", "was here"), "EnvoyExtensionPolicy", wasm),
    ] {
        out.extend(routes(name, header, "http"));
        out.push(policy(name, kind, "HTTPRoute", name, &spec));
        let admin = format!("{name}-admin");
        out.push(policy(&admin, "SecurityPolicy", "HTTPRoute", &admin, FRIENDS));
    }
    // The Gateway reads tokens, and the route of admins asks for more.
    out.extend(routes("wide", role, "other"));
    out.push(policy("other", "SecurityPolicy", "Gateway", "public, sectionName: other", &recompute));
    let merged = format!("  mergeType: StrategicMerge\n{FRIENDS}");
    out.push(policy("wide-admin", "SecurityPolicy", "HTTPRoute", "wide-admin", &merged));
    let limit = "  rateLimit: { type: Local, local: { rules: [{ limit: { requests: 1, unit: Hour } }] } }\n";
    out.push(policy("wide-admin", "BackendTrafficPolicy", "HTTPRoute", "wide-admin", limit));
    out
}

#[test]
fn a_route_that_is_found_again_asks_for_what_it_says() {
    let mut stack = Stack::new("edge/public").unwrap();
    let backends = ["web", "admins"].map(|name| Backend::start(name).unwrap());
    for backend in &backends {
        stack.set_endpoints("edge", backend.name(), &[backend.address()]).unwrap();
    }
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let modules = server.local_addr().unwrap().port();
    // The name means both.
    if let Ok(server) = TcpListener::bind(("::1", modules)) {
        answering(move || server.accept().map(|(stream, _)| stream), module(*b"was here"));
    }
    answering(move || server.accept().map(|(stream, _)| stream), module(*b"was here"));
    let [port, other] = [ports::free().unwrap(), ports::free().unwrap()];
    let listeners = [Listener::http("http", port), Listener::http("other", other)];
    let documents = documents(&listeners, modules);
    stack.publish_documents_with(&documents, &["--allow-address", "localhost"]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port, other]).unwrap();
    let (target, wide) = (Target::plain(port), Target::plain(other));
    let (admin, user) = (bearer(r#","role":"admin""#), bearer(r#","role":"user""#));
    let tokens = |role: &str| get("/tokens").header("authorization", role);
    send_until(&target, &tokens(&user), "an answer", |answer| answer.status == 200).unwrap();

    // A token leads to the route of admins, which asks who is a friend.
    assert_eq!(send(&target, &tokens(&user)).unwrap().who(), "web");
    assert_eq!(status(&target, &tokens(&admin)), 403);
    assert_eq!(send(&target, &tokens(&admin).header("x-friend", "yes")).unwrap().who(), "admins");
    // The Gateway reads tokens: rights and limits of the route that is found count.
    let of_gateway = |role: &str| get("/wide").header("authorization", role);
    assert_eq!(send(&wide, &of_gateway(&user)).unwrap().who(), "web");
    assert_eq!(status(&wide, &of_gateway(&admin)), 403);
    assert_eq!(status(&wide, &of_gateway(&admin).header("x-friend", "yes")), 200);
    assert_eq!(status(&wide, &of_gateway(&admin).header("x-friend", "yes")), 429);
    assert_eq!(status(&wide, &of_gateway(&user)), 200);
    // What a script changes leads nowhere, unless it says so by its name.
    assert_eq!(send(&target, &get("/renamed").header("x-r", "admin")).unwrap().who(), "web");
    assert_eq!(send(&target, &get("/led").header("x-r", "user")).unwrap().who(), "web");
    assert_eq!(status(&target, &get("/led").header("x-r", "admin")), 403);
    let friend = get("/led").header("x-r", "admin").header("x-friend", "yes");
    assert_eq!(send(&target, &friend).unwrap().who(), "admins");
    assert_eq!(status(&target, &get("/hidden").header("x-r", "admin")), 500);
    // A module that changes a header always does.
    let friend = get("/module").header("x-friend", "yes");
    send_until(&target, &friend, "the module", |answer| answer.status == 200 && answer.who() == "admins")
        .unwrap();
    assert_eq!(status(&target, &get("/module")), 403);
}
