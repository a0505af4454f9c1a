//! Services that are asked whether a request may pass, and that answer (SecurityPolicy `extAuth`), over HTTP and over gRPC.

use super::behaviour::guarded;
use super::rules::get;
use async_trait::async_trait;
use bytes::Bytes;
use envoy_types::ext_authz::v3::pb::{HeaderAppendAction, HttpStatusCode};
use envoy_types::ext_authz::v3::{CheckResponseExt as _, DeniedHttpResponseBuilder, OkHttpResponseBuilder};
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::protobuf::Value;
use envoy_types::pb::google::protobuf::value::Kind;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Answer, Http2, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, runtime};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::TcpListenerStream;

/// A page that may ask, and the header that says so.
const FRIEND: &str = "https://friend.example";
const ALLOWED: &str = "access-control-allow-origin";
/// What happens to requests that a service does not answer: nothing passes, all passes, another status.
const FAILURES: [&str; 3] = ["shut", "open", "coded"];

/// What a service was shown of a request.
#[derive(Debug, Clone, Default)]
struct Shown {
    path: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
    context: BTreeMap<String, String>,
    route: BTreeMap<String, String>,
}

impl Shown {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// All that a service was shown, in order.
type Notes = Arc<Mutex<Vec<Shown>>>;

enum Verdict {
    Yes,
    No,
    /// The service fails.
    Broken,
}

fn verdict(shown: &Shown) -> Verdict {
    match shown.header("x-token") {
        Some("broken") => Verdict::Broken,
        Some("good") if shown.body != b"forbidden" => Verdict::Yes,
        _ => Verdict::No,
    }
}

/// A service on a local port; dropping it stops it.
struct Service {
    address: SocketAddr,
    notes: Notes,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    fn over_http() -> Self {
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Notes::default();
        let kept = Arc::clone(&notes);
        let task = runtime().spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let notes = Arc::clone(&kept);
                    async move { Ok::<_, Infallible>(judged(request, &notes).await) }
                });
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, notes, task }
    }

    fn over_grpc() -> Self {
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Notes::default();
        let gatekeeper = Gatekeeper(Arc::clone(&notes));
        let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(gatekeeper));
        let task = runtime().spawn(async move {
            drop(server.serve_with_incoming(TcpListenerStream::new(listener)).await);
        });
        Self { address, notes, task }
    }

    /// How often it was asked.
    fn count(&self) -> usize {
        self.notes.lock().unwrap().len()
    }

    /// What it was shown last.
    fn last(&self) -> Shown {
        self.notes.lock().unwrap().last().cloned().unwrap()
    }
}

/// The answer of the service over HTTP.
async fn judged(request: http::Request<Incoming>, notes: &Notes) -> http::Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let shown = Shown { path: head.uri.to_string(), headers, body, ..Shown::default() };
    let verdict = verdict(&shown);
    notes.lock().unwrap().push(shown);
    let answer = http::Response::builder();
    let answer = match verdict {
        Verdict::Yes => answer.header("x-user", "ann").header("x-own", "secret").body(Full::default()),
        Verdict::No => answer
            .status(http::StatusCode::FORBIDDEN)
            .header("x-why", "no friend")
            .body(Full::from("who are you?")),
        Verdict::Broken => answer.status(http::StatusCode::INTERNAL_SERVER_ERROR).body(Full::default()),
    };
    answer.unwrap()
}

/// The service over gRPC.
struct Gatekeeper(Notes);

#[async_trait]
impl Authorization for Gatekeeper {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        let route = described(attributes.route_metadata_context.as_ref());
        let asked = attributes.request.and_then(|request| request.http).unwrap_or_default();
        let shown = Shown {
            path: asked.path,
            headers: asked.headers.into_iter().collect(),
            // As bytes: as text, Envoy would change those that are no UTF-8.
            body: asked.raw_body,
            context: attributes.context_extensions.into_iter().collect(),
            route,
        };
        let verdict = verdict(&shown);
        self.0.lock().unwrap().push(shown);
        let mut response;
        match verdict {
            Verdict::Yes => {
                let set = Some(HeaderAppendAction::OverwriteIfExistsOrAdd);
                let mut allowed = OkHttpResponseBuilder::new();
                allowed.add_header("x-user", "ann", set, false).remove_header("x-token");
                allowed.add_response_header("x-checked", "yes", set, false);
                response = CheckResponse::with_status(tonic::Status::ok(""));
                response.set_http_response(allowed);
            }
            Verdict::No => {
                let set = Some(HeaderAppendAction::OverwriteIfExistsOrAdd);
                let mut denied = DeniedHttpResponseBuilder::new();
                denied.set_http_status(HttpStatusCode::Unauthorized).set_body("who are you?");
                denied.add_header("x-why", "no friend", set, false);
                response = CheckResponse::with_status(tonic::Status::permission_denied("no friend"));
                response.set_http_response(denied);
            }
            Verdict::Broken => return Err(tonic::Status::unavailable("the service fails")),
        }
        Ok(tonic::Response::new(response))
    }
}

/// What a route says of itself: kind, name, namespace and rule.
fn described(metadata: Option<&Metadata>) -> BTreeMap<String, String> {
    let route = metadata.and_then(|metadata| metadata.filter_metadata.get("envoy-gateway"));
    let resources = route.and_then(|route| route.fields.get("resources")?.kind.as_ref());
    let Some(Kind::ListValue(resources)) = resources else { return BTreeMap::new() };
    let fields = resources.values.iter().filter_map(|resource| match &resource.kind {
        Some(Kind::StructValue(resource)) => Some(&resource.fields),
        _ => None,
    });
    let text = |(name, value): (&String, &Value)| match &value.kind {
        Some(Kind::StringValue(text)) => Some((name.clone(), text.clone())),
        _ => None,
    };
    fields.flatten().filter_map(text).collect()
}

fn texts(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

/// A policy that asks: whom, with fields of the protocol, and with fields of both.
fn asked(protocol: &str, service: &str, own: &str, more: &str) -> String {
    format!("  extAuth:\n    {protocol}: {{ backendRefs: [{{ name: {service}, port: 80 }}]{own} }}\n{more}")
}

/// A route for each way to ask.
fn documents() -> Vec<String> {
    let guarded = |name: &str, spec: &str| guarded(name, "web", "SecurityPolicy", spec);
    let shown = "    headersToExtAuth: [X-Token]\n";
    let body = "    bodyToExtAuth: { maxRequestBytes: 1024 }\n";
    let told = "    includeRouteMetadata: true\n    contextExtensions:\n      - { name: team, type: Value, value: blue }\n      \
                - { name: shop, type: ValueRef, valueRef: { group: '', kind: ConfigMap, name: texts, key: shop } }\n";
    let cors = format!("  cors: {{ allowOrigins: ['{FRIEND}'], allowMethods: [GET] }}\n");
    let own = ", path: /check, headersToBackend: [x-user]";
    let mut out = vec![
        "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: texts, namespace: edge }\ndata: { shop: carts }\n"
            .to_owned(),
    ];
    out.extend(guarded("asked", &asked("http", "checks", own, shown)));
    out.extend(guarded("posted", &asked("http", "checks", own, &format!("{shown}{body}"))));
    out.extend(guarded("unseen", &asked("http", "checks", ", pathOverride: /verdict", "")));
    let [route, policy] = guarded("call", &asked("grpc", "calls", "", &format!("{shown}{body}{told}")));
    out.push(route.replace("    - matches:", "    - name: checkout\n      matches:"));
    out.push(policy);
    out.extend(guarded("call-all", &asked("grpc", "calls", "", "")));
    let failures = ["", "    failOpen: true\n", "    statusOnError: 503\n"];
    for (protocol, service) in [("http", "checks"), ("grpc", "calls")] {
        for (name, failure) in FAILURES.iter().zip(failures) {
            let more = format!("{shown}{failure}");
            out.extend(guarded(&format!("{protocol}-{name}"), &asked(protocol, service, "", &more)));
            out.extend(guarded(&format!("{protocol}-dead-{name}"), &asked(protocol, "dead", "", &more)));
        }
        let spec = format!("{cors}{}", asked(protocol, service, "", shown));
        out.extend(guarded(&format!("{protocol}-pages"), &spec));
    }
    out
}

struct Scene {
    _stack: Stack,
    web: Backend,
    checks: Service,
    calls: Service,
    target: Target,
}

fn scene() -> Scene {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    let (checks, calls) = (Service::over_http(), Service::over_grpc());
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = ports::free().unwrap();
    let mut all =
        vec![manifest::gateway_class(), manifest::gateway("edge", "public", &[Listener::http("http", port)])];
    for (service, address) in
        [("web", web.address()), ("checks", checks.address), ("calls", calls.address), ("dead", dead)]
    {
        stack.set_endpoints("edge", service, &[address]).unwrap();
        all.push(manifest::service("edge", service));
    }
    all.extend(documents());
    stack.publish_documents(&all).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    Scene { _stack: stack, web, checks, calls, target: Target::plain(port) }
}

#[test]
fn services_that_answer_let_pass_and_stop() {
    let scene = scene();
    over_http(&scene);
    over_grpc(&scene);
    bodies(&scene);
    failures(&scene);
    pages(&scene);
}

/// A request that brings a token, a name that it gave itself, and something that is nobody's business.
fn with(path: &str, token: &str) -> Request {
    get(path).header("x-token", token).header("x-user", "forged").header("x-other", "here")
}

/// The service's own words.
fn refuses(answer: &Answer, status: u16) {
    assert_eq!(
        (answer.status, answer.header("x-why"), &*answer.body),
        (status, Some("no friend"), b"who are you?".as_slice()),
        "{answer:?}"
    );
}

fn over_http(scene: &Scene) {
    let ask = |request: &Request| send(&scene.target, request).unwrap();
    let yes = with("/asked/a?b=c", "good");
    let answer = send_until(&scene.target, &yes, "a yes over HTTP", |answer| answer.status == 200).unwrap();
    // The backend is told who it is, by the service and not by the client, and nothing else of what the service said.
    let echo = answer.echo().unwrap();
    assert_eq!((echo.header("x-user"), echo.header("x-own")), (vec!["ann"], vec![]));
    assert_eq!(answer.header("x-own"), None);
    // The service is shown what it is to be shown, and no more.
    let shown = scene.checks.last();
    assert_eq!(shown.path, "/check/asked/a?b=c");
    assert_eq!((shown.header("x-token"), shown.header("x-other")), (Some("good"), None));
    let reached = scene.web.received();
    refuses(&ask(&with("/asked", "bad")), 403);
    refuses(&ask(&get("/asked")), 403);
    assert_eq!(scene.checks.last().header("x-token"), None, "what a request does not bring is not made up");
    // A token that is not shown is as good as none.
    refuses(&ask(&with("/unseen", "good")), 403);
    let shown = scene.checks.last();
    assert_eq!((shown.path.as_str(), shown.header("x-token")), ("/verdict", None));
    assert_eq!(scene.web.received(), reached);
}

fn over_grpc(scene: &Scene) {
    let ask = |request: &Request| send(&scene.target, request).unwrap();
    let yes = with("/call/a?b=c", "good").header("authorization", "Basic YTpi");
    let answer = send_until(&scene.target, &yes, "a yes over gRPC", |answer| answer.status == 200).unwrap();
    let echo = answer.echo().unwrap();
    let seen = ["x-user", "x-token", "x-other"].map(|name| echo.header(name));
    assert_eq!(seen, [vec!["ann"], vec![], vec!["here"]]);
    assert_eq!(answer.header("x-checked"), Some("yes"));
    let shown = scene.calls.last();
    assert_eq!(shown.path, "/call/a?b=c");
    assert_eq!((shown.header("x-token"), shown.header("x-other")), (Some("good"), None));
    assert_eq!(shown.header("authorization"), None, "nobody listed it");
    assert_eq!(texts(&shown.context), "shop=carts, team=blue");
    assert_eq!(
        texts(&shown.route),
        "kind=HTTPRoute, name=call, namespace=edge, sectionName=checkout",
        "a route says what it is"
    );
    // Where nothing is said of all that, the service is shown every header and told nothing besides.
    assert_eq!(ask(&with("/call-all", "good").header("authorization", "Basic YTpi")).status, 200);
    let shown = scene.calls.last();
    assert_eq!((shown.header("x-token"), shown.header("x-other")), (Some("good"), Some("here")));
    assert_eq!(shown.header("authorization"), Some("Basic YTpi"));
    assert_eq!((texts(&shown.context), texts(&shown.route)), (String::new(), String::new()));
    let reached = scene.web.received();
    for path in ["/call", "/call-all"] {
        refuses(&ask(&with(path, "bad")), 401);
        refuses(&ask(&get(path)), 401);
    }
    assert_eq!(scene.web.received(), reached);
}

/// Bodies are shown where they are to be shown: whole, or the request is refused.
fn bodies(scene: &Scene) {
    for (path, blind, refusal, service) in
        [("/posted", "/asked", 403, &scene.checks), ("/call", "/call-all", 401, &scene.calls)]
    {
        let mut connection = Http2::open(&scene.target).unwrap();
        let post = |path: &str| with(path, "good").method("POST");
        // No UTF-8: it arrives as it was sent.
        let passed = connection.send(&post(path), b"allowed\xff\x00").unwrap();
        assert_eq!((passed.status, passed.echo().unwrap().body), (200, 9), "{path}");
        assert_eq!(service.last().body, b"allowed\xff\x00", "{path}");
        refuses(&connection.send(&post(path), b"forbidden").unwrap(), refusal);
        // A service that is not shown the body cannot mind it.
        let unseen = connection.send(&post(blind), b"forbidden").unwrap();
        assert_eq!((unseen.status, unseen.echo().unwrap().body), (200, 9), "{blind}");
        assert!(service.last().body.is_empty(), "{blind}");
        let asked = service.count();
        assert_eq!(connection.send(&post(path), &vec![b'a'; 100_000]).unwrap().status, 413, "{path}");
        assert_eq!(service.count(), asked, "nobody is asked about a part of a body");
    }
}

/// A service that fails, and one that is not there; what is left open is open to that alone, and not to a no.
fn failures(scene: &Scene) {
    for (protocol, refusal) in [("http", 403), ("grpc", 401)] {
        let ask = |name: &str, token: &str| {
            let answer = send(&scene.target, &with(&format!("/{protocol}-{name}"), token)).unwrap();
            (answer.status, answer.header("x-why").is_some())
        };
        let unanswered = [(403, false), (200, false), (503, false)];
        assert_eq!(FAILURES.map(|name| ask(name, "good")), [(200, false); 3], "{protocol}");
        assert_eq!(FAILURES.map(|name| ask(name, "bad")), [(refusal, true); 3], "{protocol}");
        assert_eq!(FAILURES.map(|name| ask(name, "broken")), unanswered, "{protocol}");
        let dead = FAILURES.map(|name| ask(&format!("dead-{name}"), "good"));
        assert_eq!(dead, unanswered, "{protocol}");
    }
}

/// Pages of another origin: nobody is asked about a preflight, and they can read what follows it, a refusal too.
fn pages(scene: &Scene) {
    for (path, refusal, service) in [("/http-pages", 403, &scene.checks), ("/grpc-pages", 401, &scene.calls)]
    {
        let from =
            |origin: &str, request: Request| send(&scene.target, &request.header("origin", origin)).unwrap();
        let asked = service.count();
        let preflight = get(path).method("OPTIONS").header("access-control-request-method", "GET");
        let preflight = from(FRIEND, preflight);
        assert_eq!((preflight.status, preflight.header(ALLOWED)), (200, Some(FRIEND)), "{path}");
        assert_eq!(service.count(), asked, "{path}");
        let passed = from(FRIEND, with(path, "good"));
        assert_eq!((passed.who().as_str(), passed.header(ALLOWED)), ("web", Some(FRIEND)), "{path}");
        let stopped = from(FRIEND, with(path, "bad"));
        refuses(&stopped, refusal);
        assert_eq!(stopped.header(ALLOWED), Some(FRIEND), "{path}");
        assert_eq!(service.count(), asked + 2, "{path}");
        // A page that is no friend reads nothing of what the same service lets pass.
        let other = from("https://foe.example", with(path, "good"));
        assert_eq!((other.status, other.header(ALLOWED)), (200, None), "{path}");
    }
}
