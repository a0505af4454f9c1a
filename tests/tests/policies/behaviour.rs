//! One Envoy with a route for each capability: a request that passes, and one that does not.

use super::handshakes::Client;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest;
use moorgate_tests::ports;
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

pub(crate) const HOST: &str = "shop.example.com";
const SECRET: &[u8] = b"a key that only this test knows.";

/// A route `/name` to a Service, with a policy of a kind on it.
pub(crate) fn guarded(name: &str, service: &str, kind: &str, spec: &str) -> [String; 2] {
    let route =
        manifest::http_route("edge", name, "edge/public", &[], &manifest::rule(&format!("/{name}"), service));
    [route, policy(name, kind, "HTTPRoute", name, spec)]
}

pub(crate) fn policy(name: &str, kind: &str, target: &str, of: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: edge }}\nspec:\n  \
         targetRefs: [{{ group: gateway.networking.k8s.io, kind: {target}, name: {of} }}]\n{spec}"
    )
}

/// A token signed with the key of these tests.
pub(crate) fn token(claims: &str) -> String {
    signed_with(SECRET, claims)
}

/// A token signed with a shared key (RFC 7515, HS256).
pub(crate) fn signed_with(secret: &[u8], claims: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT","kid":"k"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let tag = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
}

pub(crate) fn keys() -> String {
    keys_of(SECRET)
}

/// A set of one shared key.
pub(crate) fn keys_of(secret: &[u8]) -> String {
    let key = URL_SAFE_NO_PAD.encode(secret);
    format!(r#"{{"keys":[{{"kty":"oct","alg":"HS256","kid":"k","k":"{key}"}}]}}"#)
}

/// A place where nobody listens, and one that takes connections and never says anything.
struct Silent {
    dead: SocketAddr,
    mute: TcpListener,
}

impl Silent {
    fn new() -> Self {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = closed.local_addr().unwrap();
        Self { dead, mute: TcpListener::bind("127.0.0.1:0").unwrap() }
    }
}

fn security() -> Vec<String> {
    let jwt = format!(
        "  jwt:\n    providers:\n      - name: us\n        issuer: https://us.example\n        audiences: [shop]\n        \
         localJWKS: {{ type: Inline, inline: '{}' }}\n        claimToHeaders: [{{ claim: sub, header: x-sub }}]\n",
        keys()
    );
    let claims = "  authorization:\n    defaultAction: Deny\n    rules:\n      - action: Allow\n        principal:\n          \
                  jwt: { provider: us, scopes: [read], claims: [{ name: role, values: [admin, owner] }] }\n";
    let rights = "  authorization:\n    defaultAction: Deny\n    rules:\n      - action: Deny\n        principal: { headers: [{ name: x-team, values: [evil] }] }\n      \
                  - action: Allow\n        operation: { methods: [GET] }\n        principal: { clientCIDRs: [127.0.0.0/8] }\n";
    let ask = |service: &str| {
        format!(
            "  extAuth:\n    http:\n      backendRefs: [{{ name: {service}, port: 80 }}]\n      headersToBackend: [x-backend]\n"
        )
    };
    let cors = "  cors: { allowOrigins: ['https://*.friend.example'], allowMethods: [GET], maxAge: 60s }\n";
    [
        guarded("cors", "web", "SecurityPolicy", cors),
        guarded("jwt", "web", "SecurityPolicy", &jwt),
        guarded("claims", "web", "SecurityPolicy", &format!("{jwt}{claims}")),
        guarded("rights", "web", "SecurityPolicy", rights),
        guarded("asked", "web", "SecurityPolicy", &ask("auth")),
        guarded("mute-asked", "web", "SecurityPolicy", &ask("dead")),
        // A field of it is not supported, so nothing passes.
        guarded(
            "closed",
            "web",
            "SecurityPolicy",
            &format!("{cors}  authorization: {{ rules: [{{ action: Allow, principal: {{ clientIPGeoLocations: [{{ country: DE }}] }} }}] }}\n"),
        ),
    ]
    .concat()
}

fn traffic() -> Vec<String> {
    let limit = "  rateLimit:\n    type: Local\n    local:\n      rules:\n        - limit: { requests: 2, unit: Hour }\n        \
                 - clientSelectors: [{ headers: [{ name: x-user, value: free }] }]\n          limit: { requests: 1, unit: Hour }\n";
    let hash = "  loadBalancer: { type: ConsistentHash, consistentHash: { type: Header, header: { name: x-user } } }\n";
    [
        guarded("limited", "web", "BackendTrafficPolicy", limit),
        guarded(
            "retried",
            "half",
            "BackendTrafficPolicy",
            "  retry: { numRetries: 5, retryOn: { triggers: [connect-failure] } }\n",
        ),
        guarded("timed", "mute", "BackendTrafficPolicy", "  timeout: { http: { requestTimeout: 200ms } }\n"),
        guarded("full", "web", "BackendTrafficPolicy", "  circuitBreaker: { maxParallelRequests: 0 }\n"),
        guarded(
            "faulty",
            "web",
            "BackendTrafficPolicy",
            "  faultInjection: { abort: { httpStatus: 418, percentage: 100 } }\n",
        ),
        guarded("hashed", "pair", "BackendTrafficPolicy", hash),
        guarded(
            "checked",
            "half",
            "BackendTrafficPolicy",
            "  healthCheck: { active: { type: TCP, tcp: {}, timeout: 1s, interval: 1s } }\n",
        ),
        guarded("packed", "web", "BackendTrafficPolicy", "  compression: [{ type: Gzip }]\n"),
    ]
    .concat()
}

/// A stack with everything, and the ports of its plain listener and of the one with a policy of its own.
fn everything() -> (Stack, Vec<Backend>, Silent, [u16; 2]) {
    let mut stack = Stack::new("edge/public").unwrap();
    let backends = ["web", "auth", "one", "two"].map(|name| Backend::start(name).unwrap());
    let silent = Silent::new();
    let [web, auth, one, two] = backends.each_ref().map(Backend::address);
    let mute = silent.mute.local_addr().unwrap();
    let places: [(&str, &[SocketAddr]); 6] = [
        ("web", &[web]),
        ("auth", &[auth]),
        ("pair", &[one, two]),
        ("half", &[web, silent.dead]),
        ("dead", &[silent.dead]),
        ("mute", &[mute]),
    ];
    let mut documents = vec![manifest::gateway_class()];
    for (service, addresses) in places {
        stack.set_endpoints("edge", service, addresses).unwrap();
        documents.push(manifest::service("edge", service));
    }
    let (port, own) = (ports::free().unwrap(), ports::free().unwrap());
    let listeners = [manifest::Listener::http("http", port), manifest::Listener::http("own", own)];
    documents.push(manifest::gateway("edge", "public", &listeners));
    documents.push(manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")));
    documents.extend(security());
    documents.extend(traffic());
    let inside = "  authorization: { defaultAction: Deny, rules: [{ action: Allow, principal: { clientCIDRs: [203.0.113.0/24] } }] }\n";
    documents.extend(guarded("inside", "web", "SecurityPolicy", inside));
    let client = policy(
        "client",
        "ClientTrafficPolicy",
        "Gateway",
        "public, sectionName: own",
        "  clientIPDetection: { xForwardedFor: { numTrustedHops: 1 } }\n  path: { escapedSlashesAction: RejectRequest }\n  \
         timeout: { http: { requestHeadersReceivedTimeout: 1s } }\n  connection: { connectionLimit: { maxRequestsPerConnection: 1 } }\n",
    );
    documents.push(client);
    let file = stack.folder().join("source.yaml");
    std::fs::write(&file, manifest::documents(&documents)).unwrap();
    // The policy that is not supported is an error; what it targets is closed, and the rest goes out.
    run(stack.signed("publish").unwrap().arg(&file)).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port, own]).unwrap();
    send_until(&Target::plain(port), &Request::get(HOST, "/free"), "an answer", |answer| {
        answer.status == 200
    })
    .unwrap();
    (stack, backends.into(), silent, [port, own])
}

fn get(path: &str) -> Request {
    Request::get(HOST, path)
}

fn status(target: &Target, request: &Request) -> u16 {
    send(target, request).unwrap().status
}

#[test]
fn each_capability_lets_pass_and_stops() {
    let (_stack, backends, _silent, [port, own]) = everything();
    let target = Target::plain(port);
    tokens(&target);
    who_may(&target);
    limits(&target);
    endpoints(&target);
    listeners(&target, own);
    assert!(backends.iter().all(|backend| backend.received() > 0));
}

fn tokens(target: &Target) {
    assert_eq!(status(target, &get("/jwt")), 401);
    let good = format!("Bearer {}", token(r#"{"iss":"https://us.example","aud":"shop","sub":"ann"}"#));
    let answer = send(target, &get("/jwt").header("authorization", &good)).unwrap();
    assert_eq!((answer.status, answer.echo().unwrap().header("x-sub")), (200, vec!["ann"]));
    for claims in
        [r#"{"iss":"https://them.example","aud":"shop"}"#, r#"{"iss":"https://us.example","aud":"bank"}"#]
    {
        let other = format!("Bearer {}", token(claims));
        let refused = status(target, &get("/jwt").header("authorization", &other));
        assert!([401, 403].contains(&refused), "{claims}: {refused}");
    }
    let with = |more: &str| {
        let claims = format!(r#"{{"iss":"https://us.example","aud":"shop",{more}}}"#);
        get("/claims").header("authorization", &format!("Bearer {}", token(&claims)))
    };
    assert_eq!(status(target, &with(r#""role":"owner","scope":"write read""#)), 200);
    assert_eq!(status(target, &with(r#""role":"guest","scope":"read""#)), 403);
    assert_eq!(status(target, &with(r#""role":"admin","scope":"write""#)), 403);
}

fn who_may(target: &Target) {
    assert_eq!(status(target, &get("/rights")), 200);
    assert_eq!(status(target, &get("/rights").method("PUT")), 403);
    assert_eq!(status(target, &get("/rights").header("x-team", "evil")), 403);
    // A service that is asked, and one that does not answer.
    let answer = send(target, &get("/asked")).unwrap();
    assert_eq!((answer.status, answer.echo().unwrap().header("x-backend")), (200, vec!["auth"]));
    assert_eq!(status(target, &get("/mute-asked")), 403);
    // Cross-origin requests.
    let preflight = |origin: &str| {
        let request = get("/cors").method("OPTIONS").header("origin", origin);
        send(target, &request.header("access-control-request-method", "GET")).unwrap()
    };
    let allowed = preflight("https://a.friend.example");
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://a.friend.example"));
    assert_eq!(allowed.header("access-control-max-age"), Some("60"));
    assert_eq!(preflight("https://foe.example").header("access-control-allow-origin"), None);
    // What cannot be carried out lets nothing pass.
    assert_eq!(status(target, &get("/closed")), 500);
}

fn limits(target: &Target) {
    let free = get("/limited").header("x-user", "free");
    assert_eq!([status(target, &free), status(target, &free)], [200, 429]);
    assert_eq!([(); 3].map(|()| status(target, &get("/limited"))), [200, 200, 429]);
    assert_eq!(status(target, &get("/timed")), 504);
    let full = send(target, &get("/full")).unwrap();
    assert_eq!((full.status, full.header("x-envoy-overloaded")), (503, Some("true")));
    assert_eq!(status(target, &get("/faulty")), 418);
}

fn endpoints(target: &Target) {
    // An endpoint that is gone is passed over; without retries it would answer for its half.
    assert!((0..20).all(|_| status(target, &get("/retried")) == 200));
    // The same endpoints, of which one was found not to be there before any request went to it.
    assert!((0..20).all(|_| status(target, &get("/checked")) == 200));
    let who = |user: &str| send(target, &get("/hashed").header("x-user", user)).unwrap().who();
    let first = who("ann");
    assert!((0..20).all(|_| who("ann") == first));
    let all: BTreeSet<String> = (0..40).map(|user| who(&format!("user-{user}"))).collect();
    assert_eq!(all.into_iter().collect::<Vec<_>>(), ["one", "two"]);
    let packed = |accepted: &str| {
        let answer = send(target, &get("/packed").header("accept-encoding", accepted)).unwrap();
        answer.header("content-encoding").map(str::to_owned)
    };
    assert_eq!((packed("gzip").as_deref(), packed("identity")), (Some("gzip"), None));
}

/// A listener with a policy of its own, and its neighbour without.
fn listeners(target: &Target, own: u16) {
    let there = Target::plain(own);
    let from = |target: &Target, address: &str| {
        send(target, &get("/inside").header("x-forwarded-for", address)).unwrap().status
    };
    assert_eq!(from(&there, "203.0.113.7"), 200);
    let forged = "203.0.113.7, 198.51.100.1";
    assert_eq!(from(&there, forged), 403, "the entry before the last was written by a client");
    assert_eq!(from(target, "203.0.113.7"), 403, "nobody is believed there");
    assert_eq!(status(&there, &get("/free/a%2Fb")), 400);
    assert_eq!(status(target, &get("/free/a%2Fb")), 307);
    let last = |target: &Target| send(target, &get("/free")).unwrap().header("connection").map(str::to_owned);
    assert_eq!((last(&there).as_deref(), last(target)), (Some("close"), None));
    let mut slow = TcpStream::connect(("127.0.0.1", own)).unwrap();
    slow.write_all(b"GET /free HTTP/1.1\r\nhost: a\r\n").unwrap();
    let mut said = String::new();
    let _ = slow.read_to_string(&mut said);
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
}

#[test]
fn clients_of_a_listener_show_a_certificate() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let server = Certificate::for_names(&[HOST]).unwrap();
    stack.set_secret("edge", "cert", &server).unwrap();
    let (authority, device) = Certificate::signed("a.devices.example.com").unwrap();
    let (_, stranger) = Certificate::signed("a.devices.example.com").unwrap();
    let bundle = stack.folder().join("secrets/edge/devices");
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("ca.crt"), &authority.certificate).unwrap();
    let ports = [ports::free().unwrap(), ports::free().unwrap(), ports::free().unwrap()];
    let [must, may, named] = ports;
    let listener = |name: &str, port| manifest::Listener::https(name, port, "cert");
    let client = |name: &str, more: &str| {
        let of = format!("public, sectionName: {name}");
        let spec = format!(
            "  tls:\n    minVersion: '1.3'\n    clientValidation:\n      {more}\n      \
             caCertificateRefs: [{{ group: '', kind: ConfigMap, name: devices }}]\n"
        );
        policy(name, "ClientTrafficPolicy", "Gateway", &of, &spec)
    };
    let documents = [
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::gateway(
            "edge",
            "public",
            &[listener("must", must), listener("may", may), listener("named", named)],
        ),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/", "web")),
        client("must", "mode: RequireAndVerify"),
        client("may", "mode: VerifyIfGiven"),
        client("named", "subjectAltNames: { dnsNames: [{ type: Suffix, value: .other.example.com }] }"),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&ports).unwrap();
    let request = Request::get(HOST, "/");
    let target =
        |port, client: Option<&Certificate>| Target::mutual(port, HOST, &server.der, client).unwrap();
    send_until(&target(must, Some(&device)), &request, "a device", |answer| answer.status == 200).unwrap();
    send_until(&target(may, None), &request, "anybody", |answer| answer.status == 200).unwrap();
    assert_eq!(send(&target(may, Some(&device)), &request).unwrap().status, 200);
    for (port, client) in
        [(must, None), (must, Some(&stranger)), (may, Some(&stranger)), (named, Some(&device))]
    {
        let answer = send(&target(port, client), &request);
        assert!(answer.is_err(), "{port} {answer:?}");
    }
    // TLS 1.2 is not spoken there.
    let mut old = Client::of(&server);
    assert!(old.agrees(may).is_some());
    old.suites.retain(|suite| suite.tls13().is_none());
    assert!(old.agrees(may).is_none(), "TLS 1.2 was spoken");
}
