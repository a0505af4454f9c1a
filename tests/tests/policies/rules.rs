//! Expressions of authorization, and routes that are found again by what a token says, on a real Envoy.

use super::behaviour::{HOST, guarded, keys, policy, token};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;

pub(crate) fn get(path: &str) -> Request {
    Request::get(HOST, path)
}

pub(crate) fn status(target: &Target, request: &Request) -> u16 {
    send(target, request).unwrap().status
}

pub(crate) fn jwt(more: &str) -> String {
    format!(
        "  jwt:\n    providers:\n      - name: us\n        issuer: https://us.example\n        \
         localJWKS: {{ type: Inline, inline: '{}' }}\n{more}",
        keys()
    )
}

pub(crate) fn bearer(claims: &str) -> String {
    format!("Bearer {}", token(&format!(r#"{{"iss":"https://us.example"{claims}}}"#)))
}

const RULES: &str = r#"  authorization:
    defaultAction: Deny
    rules:
      - { action: Deny, cel: "request.headers['x-team'] == 'evil'" }
      - { action: Allow, cel: "request.method == 'GET' && request.url_path.startsWith('/cel/open') && !(request.url_path.endsWith('.key'))" }
      - action: Allow
        operation: { methods: [PUT], path: { type: Exact, value: /cel/put } }
        principal: { clientCIDRs: [127.0.0.0/8], headers: [{ name: x-who, values: [friend] }] }
        cel: "source.address.startsWith('127.0.0.1:') && int(request.headers['x-age']) >= 18"
      - { action: Allow, operation: { path: { value: /cel/plain } }, principal: { clientCIDRs: [127.0.0.0/8] } }
"#;

#[test]
fn expressions_decide_beside_everything_else() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let port = ports::free().unwrap();
    let claims = "  authorization:\n    defaultAction: Deny\n    rules:\n      \
                  - { action: Allow, cel: \"metadata.filter_metadata['envoy.filters.http.jwt_authn']['us']['role'] == 'admin'\" }\n      \
                  - action: Allow\n        cel: \"request.query == 'guest'\"\n        principal: { jwt: { provider: us, claims: [{ name: role, values: [guest] }] } }\n";
    let unknown =
        "  authorization: { rules: [{ action: Allow, cel: \"request.path.lowerAscii() == '/unknown'\" }] }\n";
    let mut documents = vec![
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
    ];
    documents.extend(guarded("cel", "web", "SecurityPolicy", RULES));
    documents.extend(guarded("claims", "web", "SecurityPolicy", &format!("{}{claims}", jwt(""))));
    documents.extend(guarded("unknown", "web", "SecurityPolicy", unknown));
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &get("/cel/open"), "an answer", |answer| answer.status == 200).unwrap();

    // The first rule that fits decides; without one nobody may.
    assert_eq!(status(&target, &get("/cel/open?x=1").header("x-team", "good")), 200);
    assert_eq!(status(&target, &get("/cel/open").header("x-team", "evil")), 403);
    assert_eq!(status(&target, &get("/cel/open/a.key")), 403);
    assert_eq!(status(&target, &get("/cel/open").method("POST")), 403);
    assert_eq!(status(&target, &get("/cel/other")), 403);
    // All of a rule must fit: what is not there, or no number, does not.
    let put = |path: &str, age: &str| get(path).method("PUT").header("x-who", "friend").header("x-age", age);
    assert_eq!(status(&target, &put("/cel/put?a=b", "18")), 200);
    for (path, age) in [("/cel/put", "17"), ("/cel/put", "old"), ("/cel/puts", "18"), ("/cel/put/a", "18")] {
        assert_eq!(status(&target, &put(path, age)), 403, "{path} {age}");
    }
    assert_eq!(status(&target, &get("/cel/put").method("PUT").header("x-age", "18")), 403);
    // Rules without one beside it.
    for (path, expected) in [("/cel/plain", 200), ("/cel/plain/x?y", 200), ("/cel/plains", 403)] {
        assert_eq!(status(&target, &get(path).method("PATCH")), expected, "{path}");
    }
    // What tokens say, as an expression and beside one.
    let with =
        |path: &str, role: &str| get(path).header("authorization", &bearer(&format!(r#","role":"{role}""#)));
    assert_eq!(status(&target, &with("/claims", "admin")), 200);
    assert_eq!(status(&target, &with("/claims", "guest")), 403);
    assert_eq!(status(&target, &with("/claims?guest", "guest")), 200);
    assert_eq!(status(&target, &with("/claims?guest", "other")), 403);
    // What Envoy has no function for lets nobody pass, and costs nobody else.
    assert_eq!(status(&target, &get("/unknown")), 500);
}

/// A rule that wants a header, too.
pub(crate) fn with_header(rule: &str, name: &str, value: &str) -> String {
    let header = format!("          headers: [{{ name: {name}, value: {value} }}]\n      backendRefs:");
    rule.replace("      backendRefs:", &header)
}

/// A rule for requests with this role, and one for all others.
fn by_role(name: &str, path: &str) -> String {
    let role = |role: &str, service: &str| with_header(&manifest::rule(path, service), "x-role", role);
    manifest::http_route(
        "edge",
        name,
        "edge/public",
        &[],
        &[role("admin", "admins"), role("user", "users"), manifest::rule(path, "web")].concat(),
    )
}

#[test]
fn a_route_is_found_again_by_what_a_token_says() {
    let mut stack = Stack::new("edge/public").unwrap();
    let backends = ["web", "admins", "users"].map(|name| Backend::start(name).unwrap());
    let port = ports::free().unwrap();
    let other = ports::free().unwrap();
    let listeners = [Listener::http("http", port), Listener::http("other", other)];
    let mut documents = vec![manifest::gateway_class(), manifest::gateway("edge", "public", &listeners)];
    for backend in &backends {
        stack.set_endpoints("edge", backend.name(), &[backend.address()]).unwrap();
        documents.push(manifest::service("edge", backend.name()));
    }
    let at = |route: String, listener: &str| {
        route.replace("- name: public", &format!("- sectionName: {listener}\n      name: public"))
    };
    let recompute =
        jwt("        claimToHeaders: [{ claim: role, header: x-role }]\n        recomputeRoute: true\n");
    documents.push(at(by_role("roles", "/roles"), "http"));
    documents.push(policy("tokens", "SecurityPolicy", "Gateway", "public, sectionName: http", &recompute));
    // Elsewhere one of the routes that could be found asks for more than the first one.
    documents.push(at(by_role("roles-there", "/roles"), "other"));
    documents.push(policy("there", "SecurityPolicy", "HTTPRoute", "roles-there", &recompute));
    let rule = manifest::rule("/roles/inner", "admins");
    let rules = format!("{}{rule}", with_header(&rule, "x-role", "owner"));
    let inner = manifest::http_route("edge", "inner", "edge/public", &[], &rules);
    documents.push(at(inner, "other"));
    documents.push(policy(
        "inner",
        "SecurityPolicy",
        "HTTPRoute",
        "inner",
        "  csrf: { additionalOrigins: ['https://a.example'] }\n",
    ));
    // A service that is asked names itself in a header.
    let ask = "  extAuth: { http: { backendRefs: [{ name: users, port: 80 }], headersToBackend: [x-backend] }, recomputeRoute: true }\n";
    let named =
        by_role("named", "/named").replace("name: x-role, value: user", "name: x-backend, value: users");
    documents.push(at(named, "other"));
    documents.push(policy("named", "SecurityPolicy", "HTTPRoute", "named", ask));
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port, other]).unwrap();
    let target = Target::plain(port);
    let asked = |claims: &str| get("/roles").header("authorization", &bearer(claims));
    send_until(&target, &asked(""), "an answer", |answer| answer.status == 200).unwrap();
    let who = |request: &Request| send(&target, request).unwrap().who();

    assert_eq!(who(&asked("")), "web");
    assert_eq!(who(&asked(r#","role":"admin""#)), "admins");
    assert_eq!(who(&asked(r#","role":"user""#)), "users");
    // What a client writes itself is replaced by what its token says, and without a token nobody passes.
    assert_eq!(who(&asked(r#","role":"user""#).header("x-role", "admin")), "users");
    // Also if its token does not say anything of that.
    assert_eq!(who(&asked("").header("x-role", "admin")), "web");
    assert_eq!(status(&target, &get("/roles")), 401);
    assert_eq!(status(&target, &get("/roles").header("x-role", "admin")), 401);
    // The route that could lead past what another one asks for answers 500, and no other.
    let there = Target::plain(other);
    assert_eq!(status(&there, &asked(r#","role":"user""#)), 500);
    assert_eq!(status(&there, &get("/roles/inner")), 200);
    // What the service said, and not what the client did, finds the route.
    assert_eq!(send(&there, &get("/named")).unwrap().who(), "users");
    assert_eq!(send(&there, &get("/named").header("x-backend", "web")).unwrap().who(), "users");
}
