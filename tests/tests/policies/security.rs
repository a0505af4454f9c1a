//! Who may do what: one Envoy with a route for each way to prove who one is, with secrets beside its relay and nowhere else.

use super::behaviour::{HOST, policy};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Answer, Request, Target, send, send_until};
use moorgate_tests::redaction::Markers;
use moorgate_tests::stack::Stack;
use moorgate_tests::{manifest, ports, wait};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// What must stand nowhere but beside the relay.
const PASSWORD: &str = "marker-password-5a1d09c2";
const NEW_PASSWORD: &str = "marker-password-renewed-77";
const API_KEY: &str = "marker-api-key-0c8e44b1";
const NEW_API_KEY: &str = "marker-api-key-renewed-21";
const CLIENT_ID: &str = "marker-client-id-7d20b6fe";
const CLIENT_SECRET: &str = "marker-client-secret-e19f";
const HMAC: &str = "marker-hmac-b5c7d2380f16";

/// A server that answers by path: how often it fails before it does, and with what. Dropping it stops it.
struct Answers {
    address: SocketAddr,
    asked: Arc<AtomicU32>,
    last: Arc<Mutex<String>>,
    over: Arc<AtomicBool>,
}

impl Answers {
    fn start(failures: u32, content: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            last: Arc::default(),
            over: Arc::default(),
        };
        let (asked, last) = (Arc::clone(&server.asked), Arc::clone(&server.last));
        let over = Arc::clone(&server.over);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let before = asked.fetch_add(1, Ordering::SeqCst);
                let status = if before < failures { "503 Service Unavailable" } else { "200 OK" };
                if let Some(request) = answer(stream, status, &content) {
                    *last.lock().unwrap() = request;
                }
            }
        });
        server
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Reads one request and answers it; its text.
fn answer(mut stream: TcpStream, status: &str, content: &str) -> Option<String> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut text, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        text.push_str(&line);
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    text.push_str(&String::from_utf8_lossy(&body));
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        content.len()
    );
    stream.write_all(format!("{head}{content}").as_bytes()).ok()?;
    Some(text)
}

fn lay(stack: &Stack, name: &str, entries: &[(&str, &str)]) {
    let folder = stack.folder().join("secrets/edge").join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for (key, value) in entries {
        let new = folder.join("..new");
        std::fs::write(&new, value).unwrap();
        std::fs::rename(new, folder.join(key)).unwrap();
    }
}

fn users(user: &str, password: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
    format!("{user}:{{SHA}}{}\n", STANDARD.encode(hash.as_ref()))
}

fn guarded(name: &str, spec: &str) -> [String; 2] {
    let rule = manifest::rule(&format!("/{name}"), "web");
    let route = manifest::http_route("edge", name, "edge/public", &[], &rule);
    [route, policy(name, "SecurityPolicy", "HTTPRoute", name, spec)]
}

fn token(claims: &str) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT","kid":"k"}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"keys of a server");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()).as_ref()))
}

const OIDC: &str = "  oidc:
    provider:
      issuer: http://idp.example
      authorizationEndpoint: http://idp.example/authorize
      tokenEndpoint: http://idp.example/token
      backendRefs: [{ name: idp, port: 80 }]
      backendSettings: { timeout: { http: { requestTimeout: 5s } } }
    clientID: shop
    clientSecret: { name: login }
    redirectURL: http://shop.example.com/PATH/callback
    logoutPath: /PATH/logout
    denyRedirect: { headers: [{ name: x-requested-with, value: fetch }] }
";

fn documents() -> Vec<String> {
    let ask = |service: &str, more: &str, top: &str| {
        format!("  extAuth:\n    http:\n      backendRefs: [{{ name: {service}, port: 80 }}]\n{more}{top}")
    };
    let none =
        "      backendSettings: { circuitBreaker: { maxParallelRequests: 0, maxPendingRequests: 0 } }\n";
    let keys = "  jwt:\n    providers:\n      - name: us\n        remoteJWKS:\n          uri: http://keys.example/jwks\n          \
                backendRefs: [{ name: keys, port: 80 }]\n          backendSettings: { retry: { numRetries: 2, retryOn: { triggers: [5xx] }, \
                perRetry: { backOff: { baseInterval: 10ms } } } }\n";
    let basic = |secret: &str| {
        format!("  basicAuth: {{ users: {{ name: {secret} }}, forwardUsernameHeader: x-user }}\n")
    };
    let key = "  apiKeyAuth:\n    credentialRefs: [{ name: keys }]\n    extractFrom: [{ headers: [x-key] }, { params: [key] }, { cookies: [key] }]\n    \
               forwardClientIDHeader: x-client\n    sanitize: true\n";
    let who = "  authorization: { defaultAction: Deny, rules: [{ action: Allow, principal: { headers: [{ name: x-team, values: [blue] }] } }] }\n";
    let cors = "  cors: { allowOrigins: ['https://friend.example'], allowMethods: [GET] }\n";
    let csrf = "  csrf: { additionalOrigins: ['https://friend.example'] }\n";
    let named = OIDC.replace("PATH", "named").replace("clientID: shop", "clientIDRef: { name: named }");
    let named = named.replace("clientSecret: { name: login }", "clientSecret: { name: named }");
    [
        guarded("csrf", csrf),
        guarded("watched", "  csrf: { shadowFraction: { numerator: 1, denominator: 1 } }\n"),
        guarded("basic", &basic("staff")),
        guarded("later", &basic("later")),
        guarded("keys", key),
        guarded("private", &OIDC.replace("PATH", "private")),
        guarded("team", &format!("{}{who}", OIDC.replace("PATH", "team"))),
        guarded("named", &named),
        guarded("fetched", keys),
        guarded("open", &ask("dead", "", "    failOpen: true\n")),
        guarded("shut", &ask("dead", "", "    statusOnError: 503\n")),
        guarded("full", &ask("auth", none, "")),
        guarded(
            "shared",
            &ask("auth", "", "").replace("port: 80 }", "port: 80 }, { name: other, port: 80 }"),
        ),
        guarded("cross", &format!("{cors}{}", ask("dead", "", ""))),
    ]
    .concat()
}

struct Scene {
    stack: Stack,
    web: Backend,
    asked: [Backend; 2],
    idp: Answers,
    keys: Answers,
    target: Target,
    markers: Markers,
}

fn scene() -> Scene {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    let asked = ["auth", "other"].map(|name| Backend::start(name).unwrap());
    let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"ann","iss":"http://idp.example","exp":4102444800}"#);
    let given = format!(
        r#"{{"access_token":"an-access-token","id_token":"eyJhbGciOiJub25lIn0.{claims}.","token_type":"Bearer","expires_in":3600}}"#
    );
    let idp = Answers::start(0, given);
    let secret = URL_SAFE_NO_PAD.encode("keys of a server");
    let keys =
        Answers::start(1, format!(r#"{{"keys":[{{"kty":"oct","alg":"HS256","kid":"k","k":"{secret}"}}]}}"#));
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let places = [
        ("web", web.address()),
        ("auth", asked[0].address()),
        ("other", asked[1].address()),
        ("idp", idp.address),
        ("keys", keys.address),
        ("dead", dead),
    ];
    let mut all = vec![manifest::gateway_class()];
    for (service, address) in places {
        stack.set_endpoints("edge", service, &[address]).unwrap();
        all.push(manifest::service("edge", service));
    }
    let port = ports::free().unwrap();
    all.push(manifest::gateway("edge", "public", &[manifest::Listener::http("http", port)]));
    all.push(manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")));
    all.extend(documents());
    lay(&stack, "staff", &[(".htpasswd", &users("ann", PASSWORD))]);
    lay(&stack, "keys", &[("team-a", API_KEY), ("team-b", "another-key-of-team-b")]);
    lay(&stack, "login", &[("client-secret", CLIENT_SECRET)]);
    lay(&stack, "named", &[("client-id", CLIENT_ID), ("client-secret", CLIENT_SECRET)]);
    lay(&stack, "envoy-oidc-hmac", &[("hmac-secret", HMAC)]);
    let mut markers = Markers::default();
    for (name, text) in [
        ("the password", PASSWORD),
        ("the new password", NEW_PASSWORD),
        ("the key", API_KEY),
        ("the new key", NEW_API_KEY),
        ("the client's id", CLIENT_ID),
        ("the client's secret", CLIENT_SECRET),
        ("the key of sessions", HMAC),
        ("the hash", users("ann", PASSWORD).trim_start_matches("ann:{SHA}").trim_end()),
    ] {
        markers.text(name, text);
    }
    stack.publish_documents(&all).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &get("/free"), "an answer", |answer| answer.status == 200).unwrap();
    Scene { stack, web, asked, idp, keys, target, markers }
}

fn get(path: &str) -> Request {
    Request::get(HOST, path)
}

impl Scene {
    fn status(&self, request: &Request) -> u16 {
        send(&self.target, request).unwrap().status
    }

    fn becomes(&self, request: &Request, status: u16, what: &str) {
        send_until(&self.target, request, what, |answer| answer.status == status).unwrap();
    }
}

#[test]
fn each_way_to_prove_who_one_is_lets_pass_and_stops() {
    let scene = scene();
    forged(&scene);
    passwords(&scene);
    keys(&scene);
    services(&scene);
    sessions(&scene);
    assert!(scene.web.received() > 0);
    let told = lie_beside_the_relay_alone(&scene.stack, &scene.markers);
    assert!(told.contains("envoy.filters.http.basic_auth"), "what is bound is told by name: {told}");
}

/// Nothing of these secrets is in the store, in what the relay keeps or tells, or in what programs printed; where the relay reads
/// them, they are found. Gives what the relay tells.
pub(crate) fn lie_beside_the_relay_alone(stack: &Stack, markers: &Markers) -> String {
    for folder in ["store", "cache", "logs"] {
        let (found, read) = markers.find_below(&stack.folder().join(folder)).unwrap();
        assert!(found.is_empty() && read > 0, "{folder}: {found:?}");
    }
    let (found, _) = markers.find_below(&stack.folder().join("secrets")).unwrap();
    assert!(!found.is_empty(), "the search finds nothing at all");
    let told = stack.relay_admin("/snapshot").unwrap().to_string();
    assert!(markers.find(told.as_bytes()).is_empty(), "{told}");
    told
}

/// A request that changes something says where it comes from.
fn forged(scene: &Scene) {
    let post = |path: &str, origin: &str| scene.status(&get(path).method("POST").header("origin", origin));
    assert_eq!(post("/csrf", "http://shop.example.com"), 200);
    assert_eq!(post("/csrf", "https://friend.example"), 200);
    assert_eq!(post("/csrf", "https://foe.example"), 403);
    assert_eq!(scene.status(&get("/csrf").method("POST")), 403);
    assert_eq!(scene.status(&get("/csrf").header("origin", "https://foe.example")), 200);
    assert_eq!(post("/watched", "https://foe.example"), 200);
}

fn basic(path: &str, user: &str, password: &str) -> Request {
    get(path).header("authorization", &format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn passwords(scene: &Scene) {
    let good = basic("/basic", "ann", PASSWORD);
    let answer = send(&scene.target, &good).unwrap();
    assert_eq!((answer.status, answer.echo().unwrap().header("x-user")), (200, vec!["ann"]));
    let wrong = [get("/basic"), basic("/basic", "ann", "no"), basic("/basic", "bob", PASSWORD)];
    assert_eq!(wrong.map(|request| scene.status(&request)), [401, 401, 401]);
    // A new password needs no compile, and the old one ends.
    lay(&scene.stack, "staff", &[(".htpasswd", &users("ann", NEW_PASSWORD))]);
    scene.becomes(&basic("/basic", "ann", NEW_PASSWORD), 200, "the new password");
    assert_eq!(scene.status(&good), 401);
    // One that Envoy would refuse changes nothing, and costs no neighbour anything.
    lay(&scene.stack, "staff", &[(".htpasswd", "ann:plain\n")]);
    lay(&scene.stack, "keys", &[("team-a", NEW_API_KEY)]);
    scene.becomes(&get("/keys").header("x-key", NEW_API_KEY), 200, "the new key");
    assert_eq!(scene.status(&basic("/basic", "ann", NEW_PASSWORD)), 200);
    // Without its Secret nothing passes, until it is there.
    assert_eq!(scene.status(&basic("/later", "ann", PASSWORD)), 500);
    lay(&scene.stack, "later", &[(".htpasswd", &users("ann", PASSWORD))]);
    scene.becomes(&basic("/later", "ann", PASSWORD), 200, "the Secret that was missing");
    assert_eq!(scene.status(&get("/later")), 401);
}

fn keys(scene: &Scene) {
    assert_eq!(scene.status(&get("/keys")), 401);
    assert_eq!(scene.status(&get("/keys").header("x-key", API_KEY)), 401, "it was renewed");
    let ways = [
        get("/keys").header("x-key", NEW_API_KEY),
        get(&format!("/keys?key={NEW_API_KEY}")),
        get("/keys").header("cookie", &format!("key={NEW_API_KEY}")),
    ];
    for request in ways {
        let answer = send(&scene.target, &request).unwrap();
        let echo = answer.echo().unwrap();
        assert_eq!((answer.status, echo.header("x-client")), (200, vec!["team-a"]));
        assert!(!format!("{echo:?}").contains(NEW_API_KEY), "it is taken out: {echo:?}");
    }
}

/// Services that Envoy asks itself, reached as their settings say.
fn services(scene: &Scene) {
    assert_eq!(scene.status(&get("/open")), 200);
    assert_eq!(scene.status(&get("/shut")), 503);
    assert_eq!(scene.status(&get("/full")), 403, "the service may not be asked at all");
    let before = scene.asked.each_ref().map(Backend::received);
    assert!((0..40).all(|_| scene.status(&get("/shared")) == 200));
    let after = scene.asked.each_ref().map(Backend::received);
    assert!(before.iter().zip(after).all(|(before, after)| *before < after), "{before:?} {after:?}");
    // A preflight carries no credentials: nobody is asked. What follows it is.
    let preflight = get("/cross").method("OPTIONS").header("origin", "https://friend.example");
    let answer = send(&scene.target, &preflight.header("access-control-request-method", "GET")).unwrap();
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://friend.example"));
    assert_eq!(scene.status(&get("/cross").header("origin", "https://friend.example")), 403);
    // Keys that are there at the second try.
    assert_eq!(scene.status(&get("/fetched")), 401);
    let bearer = format!("Bearer {}", token(r#"{"sub":"ann"}"#));
    assert_eq!(scene.status(&get("/fetched").header("authorization", &bearer)), 200);
    assert_eq!(scene.keys.asked.load(Ordering::SeqCst), 2);
}

/// The cookies that an answer sets, as a browser would send them back.
fn cookies(answer: &Answer, jar: &mut BTreeMap<String, String>) {
    for (_, value) in answer.headers.iter().filter(|(name, _)| name == "set-cookie") {
        let pair = value.split(';').next().unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        if value == "deleted" {
            jar.remove(name);
        } else {
            jar.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn with(path: &str, jar: &BTreeMap<String, String>) -> Request {
    let text: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
    get(path).header("cookie", &text.join("; "))
}

fn parameters(location: &str) -> BTreeMap<String, String> {
    let query = location.split_once('?').unwrap().1;
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

/// A user who logs in at a path of this client of the provider: the cookies of his session.
fn log_in(scene: &Scene, path: &str, client: &str) -> BTreeMap<String, String> {
    let sent = send(&scene.target, &get(path)).unwrap();
    let location = sent.header("location").unwrap_or_else(|| panic!("{sent:?}")).to_owned();
    assert!(sent.status == 302 && location.starts_with("http://idp.example/authorize?"), "{sent:?}");
    let asked = parameters(&location);
    assert_eq!((asked["client_id"].as_str(), asked["response_type"].as_str()), (client, "code"));
    assert_eq!(asked["redirect_uri"], format!("http%3A%2F%2Fshop.example.com%2F{}%2Fcallback", &path[1..]));
    assert!(asked["scope"].contains("openid") && !asked["code_challenge"].is_empty(), "{asked:?}");
    let mut jar = BTreeMap::new();
    cookies(&sent, &mut jar);
    let callback = format!("{path}/callback?code=a-code&state={}", asked["state"]);
    // Somebody else's code is worth nothing without what the browser was given.
    assert_ne!(scene.status(&get(&callback)), 302);
    let back = send(&scene.target, &with(&callback, &jar)).unwrap();
    assert!(back.status == 302 && back.header("location").unwrap().ends_with(path), "{back:?}");
    cookies(&back, &mut jar);
    jar
}

fn sessions(scene: &Scene) {
    let told_by = |client: &str| {
        let credentials = format!("Basic {}", STANDARD.encode(format!("{client}:{CLIENT_SECRET}")));
        wait::until("the provider to be told", || {
            let told = scene.idp.last.lock().unwrap().clone();
            let whole = told.starts_with("POST /token")
                && told.contains(&credentials)
                && told.contains("code=a-code");
            anyhow::ensure!(whole, "{told}");
            Ok(())
        })
        .unwrap();
    };
    let jar = log_in(scene, "/private", "shop");
    told_by("shop");
    assert_eq!(scene.status(&with("/private", &jar)), 200);
    // A session that was made up, or changed.
    let mut forged = jar.clone();
    let name = forged.keys().find(|name| name.starts_with("OauthHMAC")).unwrap().clone();
    forged.insert(name, STANDARD.encode([7; 32]));
    assert_eq!(scene.status(&with("/private", &forged)), 302);
    // What is no browser is not sent away.
    assert_eq!(scene.status(&get("/private").header("x-requested-with", "fetch")), 401);
    let out = send(&scene.target, &with("/private/logout", &jar)).unwrap();
    assert_eq!(out.status, 302);
    let mut after = jar.clone();
    cookies(&out, &mut after);
    assert!(after.is_empty(), "{after:?}");
    assert_eq!(scene.status(&with("/private", &after)), 302, "the session is over: {after:?}");
    // Who has a session needs the right header too, where rights ask for it.
    let jar = log_in(scene, "/team", "shop");
    assert_eq!(scene.status(&with("/team", &jar)), 403);
    assert_eq!(scene.status(&with("/team", &jar).header("x-team", "blue")), 200);
    // A client that its Secret alone names.
    let jar = log_in(scene, "/named", CLIENT_ID);
    told_by(CLIENT_ID);
    assert_eq!(scene.status(&with("/named", &jar)), 200);
    assert_eq!(scene.status(&get("/named")), 302);
}

/// While the key of sessions is missing, nobody has a session, and neighbours are served.
#[test]
fn a_missing_key_of_sessions_costs_its_routes_only() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let port = ports::free().unwrap();
    let mut all = vec![
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::service("edge", "idp"),
        manifest::gateway("edge", "public", &[manifest::Listener::http("http", port)]),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")),
    ];
    all.extend(guarded("private", &OIDC.replace("PATH", "private")));
    stack.publish_documents(&all).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &get("/free"), "a neighbour", |answer| answer.status == 200).unwrap();
    let sent = send(&target, &get("/private")).unwrap();
    assert_eq!(sent.status, 302);
    // Signed with nothing: what would pass if Envoy had an empty key.
    let mut jar = BTreeMap::new();
    cookies(&sent, &mut jar);
    let nonce = jar.keys().find(|name| name.starts_with("OauthNonce")).unwrap().clone();
    let suffix = nonce.split_once('-').unwrap().1;
    let expires = "4102444800";
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"");
    let signed = format!("{HOST}\n{expires}\nAT\nID\n");
    let tag = ring::hmac::sign(&key, signed.as_bytes());
    let made = [
        (format!("OauthHMAC-{suffix}"), STANDARD.encode(tag.as_ref())),
        (format!("OauthExpires-{suffix}"), expires.to_owned()),
        (format!("AccessToken-{suffix}"), "AT".to_owned()),
        (format!("IdToken-{suffix}"), "ID".to_owned()),
    ];
    assert_eq!(send(&target, &with("/private", &made.into())).unwrap().status, 302);
    let told = stack.relay_admin("/snapshot").unwrap().to_string();
    assert!(told.contains("Secret/edge/envoy-oidc-hmac/hmac-secret") && told.contains("missing"), "{told}");
}
