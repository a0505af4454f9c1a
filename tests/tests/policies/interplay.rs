//! What users combine: each of two policies may be right alone and wrong together.

use super::behaviour::{HOST, policy};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SECRET: &[u8] = b"a key that nobody else knows....";

/// A token of somebody (RFC 7515, HS256).
fn token(subject: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT","kid":"k"}"#);
    let claims = format!(r#"{{"iss":"https://us.example","aud":"shop","sub":"{subject}"}}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
    let tag = ring::hmac::sign(&key, signed.as_bytes());
    format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

/// A backend that takes connections, never answers, and counts.
fn silent() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&counted);
    std::thread::spawn(move || {
        // Kept open, so that nobody is refused; it ends with the test.
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    });
    (address, counted)
}

/// A route `/name` to a Service, and its policies by kind.
fn route(name: &str, service: &str, policies: &[(&str, &str)]) -> Vec<String> {
    let mut out = vec![manifest::http_route(
        "edge",
        name,
        "edge/public",
        &[],
        &manifest::rule(&format!("/{name}"), service),
    )];
    out.extend(policies.iter().map(|(kind, spec)| policy(name, kind, "HTTPRoute", name, spec)));
    out
}

#[test]
fn policies_that_users_combine_work_together() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    let ((mute, tries), (dumb, once)) = (silent(), silent());
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let key = URL_SAFE_NO_PAD.encode(SECRET);
    let jwt = format!(
        "  jwt:\n    providers:\n      - name: us\n        issuer: https://us.example\n        audiences: [shop]\n        \
         localJWKS: {{ type: Inline, inline: '{{\"keys\":[{{\"kty\":\"oct\",\"alg\":\"HS256\",\"kid\":\"k\",\"k\":\"{key}\"}}]}}' }}\n        \
         claimToHeaders: [{{ claim: sub, header: x-sub }}]\n"
    );
    let by_claim = "  rateLimit:\n    type: Local\n    local:\n      rules:\n        - clientSelectors: [{ headers: [{ name: x-sub, value: ann }] }]\n          \
                    limit: { requests: 1, unit: Hour }\n";
    let asked = "  cors: { allowOrigins: ['https://friend.example'], allowMethods: [GET] }\n  \
                 extAuth: { http: { backendRefs: [{ name: nobody, port: 80 }] } }\n";
    let retried =
        "  retry: { numRetries: 2, retryOn: { triggers: [gateway-error] }, perRetry: { timeout: 150ms } }\n";
    let broken = format!("{retried}  circuitBreaker: {{ maxParallelRetries: 0 }}\n");
    let mut documents = vec![manifest::gateway_class()];
    for (service, address) in [("web", web.address()), ("nobody", nobody), ("mute", mute), ("dumb", dumb)] {
        stack.set_endpoints("edge", service, &[address]).unwrap();
        documents.push(manifest::service("edge", service));
    }
    let port = ports::free().unwrap();
    documents.push(manifest::gateway("edge", "public", &[Listener::http("http", port)]));
    documents.extend(route("free", "web", &[]));
    documents.extend(route("claims", "web", &[("SecurityPolicy", &jwt), ("BackendTrafficPolicy", by_claim)]));
    documents.extend(route("asked", "web", &[("SecurityPolicy", asked)]));
    documents.extend(route("tried", "mute", &[("BackendTrafficPolicy", retried)]));
    documents.extend(route("broken", "dumb", &[("BackendTrafficPolicy", &broken)]));
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    let get = |path: &str| Request::get(HOST, path);
    let status = |request: &Request| send(&target, request).unwrap().status;
    send_until(&target, &get("/free"), "an answer", |answer| answer.status == 200).unwrap();

    // A limit by claim: whoever is not let in uses up nothing, and nobody can be ann by a header.
    let who = |name: &str| get("/claims").header("authorization", &token(name));
    assert_eq!(status(&get("/claims").header("x-sub", "ann")), 401);
    assert_eq!([status(&who("ann")), status(&who("ann"))], [200, 429]);
    assert_eq!([status(&who("bob").header("x-sub", "ann")), status(&who("bob"))], [200, 200]);

    // A preflight carries no credentials and is answered before anybody is asked; the refusal of the request itself can be
    // read by the page that sent it.
    let from = |request: Request| send(&target, &request.header("origin", "https://friend.example")).unwrap();
    let preflight = from(get("/asked").method("OPTIONS").header("access-control-request-method", "GET"));
    assert_eq!(
        (preflight.status, preflight.header("access-control-allow-origin")),
        (200, Some("https://friend.example"))
    );
    let refused = from(get("/asked"));
    assert_eq!(
        (refused.status, refused.header("access-control-allow-origin")),
        (403, Some("https://friend.example"))
    );

    // Each try has its own time; without room for retries there is one.
    assert_eq!((status(&get("/tried")), tries.load(Ordering::SeqCst)), (504, 3));
    assert_eq!((status(&get("/broken")), once.load(Ordering::SeqCst)), (504, 1));
}
