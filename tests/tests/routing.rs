//! Rules of HTTPRoute and GRPCRoute on a real Envoy: publish, relay, Envoy, request.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Result, ensure};
use envoy_types::ext_authz::v3::pb::{HeaderAppendAction, HttpStatusCode};
use envoy_types::ext_authz::v3::{CheckResponseExt as _, DeniedHttpResponseBuilder, OkHttpResponseBuilder};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Answer, Http2, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;
use moorgate_tests::{browser, ports, runtime, wait};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

const HOST: &str = "shop.example.com";

/// A fleet `edge/public` with one HTTP listener, and echo backends by name, each a Service of namespace `shop`.
struct Stage {
    stack: Stack,
    port: u16,
    target: Target,
    backends: BTreeMap<String, Backend>,
}

impl Stage {
    fn lay(names: &[&str]) -> Result<Self> {
        let (stack, port) = (Stack::new("edge/public")?, ports::free()?);
        let mut backends = BTreeMap::new();
        for name in names {
            let backend = Backend::start(name)?;
            stack.set_endpoints("shop", name, &[backend.address()])?;
            backends.insert((*name).to_owned(), backend);
        }
        Ok(Self { stack, port, target: Target::plain(port), backends })
    }

    /// Publishes these objects besides class, Gateway and Services, checked against the experimental channel, and starts
    /// relay and Envoy.
    fn start(&mut self, more: &[Listener], objects: &[String]) -> Result<()> {
        let mut listeners = vec![Listener::http("http", self.port)];
        listeners.extend_from_slice(more);
        let mut all = vec![manifest::gateway_class(), manifest::gateway("edge", "public", &listeners)];
        all.extend(self.backends.keys().map(|name| manifest::service("shop", name)));
        all.extend_from_slice(objects);
        let file = self.stack.folder().join("source.yaml");
        std::fs::write(&file, manifest::documents(&all))?;
        run(self.stack.signed("publish")?.args(["--crds", "experimental"]).arg(&file))?.ended_with(&[0])?;
        self.stack.start_relay()?;
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.port).collect();
        self.stack.start_envoy(&ports)
    }

    fn answered_by(&self, request: &Request, who: &str) -> Result<Answer> {
        send_until(&self.target, request, &format!("{} by {who}", request.path), |answer| answer.who() == who)
    }
}

fn http_route(rules: &str) -> String {
    manifest::http_route("shop", "shop", "edge/public", &[HOST], rules)
}

fn grpc_route(rules: &str) -> String {
    http_route(rules)
        .replace("kind: HTTPRoute\nmetadata:\n  name: shop", "kind: GRPCRoute\nmetadata:\n  name: calls")
}

#[test]
fn grpc_calls_meet_grpc_routes_and_everything_else_http_routes() {
    let mut stage = Stage::lay(&["greeter", "admin", "any", "web"]).unwrap();
    let grpc = grpc_route(
        "    - matches: [{ method: { service: hello.Greeter, method: SayHello } }]
      backendRefs: [{ name: greeter, port: 80 }]
    - matches: [{ method: { service: hello.Greeter }, headers: [{ name: x-role, value: admin }] }]
      backendRefs: [{ name: admin, port: 80 }]
    - matches: [{ method: { type: RegularExpression, service: 'any\\.[A-Z]+', method: 'Get.*' } }]
      backendRefs: [{ name: any, port: 80 }]
    - matches: [{ method: { service: hello.Broken } }]
      backendRefs: [{ name: gone, port: 80 }]
",
    );
    let web = http_route(
        "    - matches: [{ path: { value: /hello.Greeter } }]\n      backendRefs: [{ name: web, port: 80 }]\n",
    );
    stage.start(&[], &[grpc, web]).unwrap();
    let mut connection = Http2::open(&stage.target).unwrap();
    let greeted = wait::until("an answer to the first call", || {
        let answer = connection.call(HOST, "hello.Greeter/SayHello", &[])?;
        ensure!(answer.who() == "greeter", "{} {:?}", answer.who(), answer.headers);
        Ok(answer)
    })
    .unwrap();
    assert_eq!(greeted.echo().unwrap().protocol, "HTTP/2.0");
    assert_eq!(greeted.echo().unwrap().header("x-moorgate-listener"), Vec::<&str>::new());
    let mut who = |method: &str, headers: &[(&str, &str)]| {
        let answer = connection.call(HOST, method, headers).unwrap();
        answer.header("grpc-status").map_or_else(|| answer.who(), |status| format!("grpc {status}"))
    };
    assert_eq!(who("hello.Greeter/Other", &[("x-role", "admin")]), "admin");
    // What no GRPCRoute matches falls to the HTTPRoutes of the host.
    assert_eq!(who("hello.Greeter/Other", &[]), "web");
    assert_eq!(who("any.API/GetItem", &[]), "any");
    assert_eq!(who("any.API/SetItem", &[]), "grpc 12");
    assert_eq!(who("hello.Greeters/SayHello", &[]), "grpc 12");
    assert_eq!(who("hello.Broken/Do", &[]), "grpc 14");
    let plain = send(&stage.target, &Request::get(HOST, "/hello.Greeter/SayHello")).unwrap();
    assert_eq!(plain.who(), "web");
}

#[test]
fn one_connection_for_two_listeners_is_told_to_be_two() {
    let (a, b, c) = ("a.example.com", "b.example.com", "c.example.com");
    let certificate = Certificate::for_names(&[a, b, c]).unwrap();
    let mut stage = Stage::lay(&["a", "b"]).unwrap();
    stage.stack.set_secret("edge", "certificate", &certificate).unwrap();
    let port = ports::free().unwrap();
    let listeners = [a, b].map(|host| Listener::https(&host[..1], port, "certificate").hostname(host));
    let routes = [a, b].map(|host| {
        let name = &host[..1];
        manifest::http_route("shop", name, "edge/public", &[host], &manifest::rule("/", name))
    });
    stage.start(&listeners, &routes).unwrap();
    let target = |name: &str| Target::tls(port, name, &certificate.der).unwrap();
    let mut connection = wait::until("a connection for the first host", || {
        let mut connection = Http2::open(&target(a))?;
        let answer = connection.send(&Request::get(a, "/"), b"")?;
        ensure!(answer.who() == "a", "{}", answer.who());
        Ok(connection)
    })
    .unwrap();
    // A client may send what follows over the same connection: address and certificate fit (RFC 9113 9.1.1).
    let mut status = |host: &str, headers: &[(&str, &str)]| {
        let mut request = Request::get(host, "/");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        connection.send(&request, b"").unwrap()
    };
    assert_eq!(status(b, &[]).status, 421);
    assert_eq!(status(b, &[("x-moorgate-listener", "b")]).status, 421);
    assert_eq!(status(c, &[]).status, 404);
    let again = status(a, &[("x-moorgate-listener", "forged")]);
    assert_eq!(again.who(), "a");
    assert_eq!(again.echo().unwrap().header("x-moorgate-listener"), Vec::<&str>::new());
    // And upon 421 it opens one for the host itself (RFC 9110 15.5.20).
    let mut second = Http2::open(&target(b)).unwrap();
    assert_eq!(second.send(&Request::get(b, "/"), b"").unwrap().who(), "b");
}

#[test]
fn pods_by_their_labels_are_those_of_a_service_that_selects_them() {
    let mut stage = Stage::lay(&["one", "two"]).unwrap();
    let all = ["one", "two"].map(|name| stage.backends[name].address());
    stage.stack.set_endpoints("shop", "pods", &all).unwrap();
    let service = "apiVersion: v1\nkind: Service\nmetadata: { name: pods, namespace: shop }\nspec: { selector: { app: pods }, \
                   ports: [{ name: http, port: 80, targetPort: 8080 }] }\n";
    let backend = "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackend\nmetadata: { name: pods, namespace: shop }\n\
                   spec:\n  type: EndpointSelector\n  port: { number: 8080 }\n  endpointSelector: { matchLabels: { app: pods } }\n  \
                   sessionPersistence: { type: Cookie, cookie: { name: kept } }\n";
    let rule = "    - backendRefs: [{ group: gateway.networking.x-k8s.io, kind: XBackend, name: pods }]\n";
    stage.start(&[], &[http_route(rule), service.to_owned(), backend.to_owned()]).unwrap();
    let request = Request::get(HOST, "/");
    let first =
        send_until(&stage.target, &request, "the first answer", |answer| answer.status == 200).unwrap();
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("kept="), "{cookie}");
    let kept = Request::get(HOST, "/").header("cookie", &cookie);
    assert!((0..20).all(|_| send(&stage.target, &kept).unwrap().who() == first.who()));
    let others: std::collections::BTreeSet<String> =
        (0..40).map(|_| send(&stage.target, &request).unwrap().who()).collect();
    assert_eq!(others.into_iter().collect::<Vec<_>>(), ["one", "two"], "without it both answer");
}

/// Chromium coalesces by itself (RFC 9113 §9.1.1), so the test sees what users of a browser see.
#[test]
fn a_browser_shares_a_connection_within_a_listener_and_opens_another_upon_421() {
    let (a, b, c) = ("a.example.com", "b.example.com", "c.example.com");
    let certificate = Certificate::for_names(&[a, b, c]).unwrap();
    let mut stage = Stage::lay(&["a", "b", "c"]).unwrap();
    stage.stack.set_secret("edge", "certificate", &certificate).unwrap();
    let port = ports::free().unwrap();
    let listeners = [("a", a), ("others", "*.example.com")]
        .map(|(name, host)| Listener::https(name, port, "certificate").hostname(host));
    let rule = |name: &str| {
        manifest::rule("/", name) + "      filters: [{ type: CORS, cors: { allowOrigins: ['*'] } }]\n"
    };
    let routes = [a, b, c].map(|host| {
        let name = &host[..1];
        manifest::http_route("shop", name, "edge/public", &[host], &rule(name))
    });
    stage.start(&listeners, &routes).unwrap();
    let target = Target::tls(port, c, &certificate.der).unwrap();
    send_until(&target, &Request::get(c, "/"), "the first answer", |answer| answer.who() == "c").unwrap();
    let counts = |stage: &mut Stage| {
        ["downstream_cx_total", "downstream_rq_4xx"].map(|counter| {
            let stats =
                stage.stack.envoy().unwrap().admin(&format!("/stats?filter=^http.*{counter}$")).unwrap();
            let of_listeners = stats.lines().filter(|line| !line.starts_with("http.admin."));
            of_listeners.filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok()).sum::<u64>()
        })
    };
    let before = counts(&mut stage);
    let mut fetched = |hosts: &[&str]| {
        let addresses: Vec<_> = hosts.iter().map(|host| format!("https://{host}:{port}/")).collect();
        let answers = browser::fetch(&addresses, &certificate).unwrap();
        for ((status, body), host) in answers.iter().zip(hosts) {
            assert_eq!(*status, 200, "{host}: {body}");
            assert!(body.contains(&format!("\"backend\":\"{}\"", &host[..1])), "{host}: {body}");
        }
        let after = counts(&mut stage);
        [0, 1].map(|index| after[index] - before[index])
    };
    // Two hosts of one listener share a connection.
    assert_eq!(fetched(&[b, c]), [1, 0]);
    // The second host of another listener is asked for over the first's, refused once, and answered over its own.
    assert_eq!(fetched(&[a, b]), [3, 1]);
}

#[test]
fn an_authorization_service_lets_pass_or_not() {
    let mut stage = Stage::lay(&["cart", "check"]).unwrap();
    // The echo backend says yes to everything but what starts with /no, which nothing listens for.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = closed.local_addr().unwrap();
    drop(closed);
    stage.stack.set_endpoints("shop", "dead", &[dead]).unwrap();
    let auth = |service: &str, more: &str| {
        format!(
            "{{ type: ExternalAuth, externalAuth: {{ protocol: HTTP, backendRef: {{ name: {service}, port: 80 }}{more} }} }}"
        )
    };
    let rule = |path: &str, filter: &str| {
        format!(
            "    - matches: [{{ path: {{ value: {path} }} }}]\n      filters: [{filter}]\n      backendRefs: [{{ name: cart, port: 80 }}]\n"
        )
    };
    let http = ", http: { path: /asked, allowedHeaders: [x-token], allowedResponseHeaders: [x-backend] }";
    let rules = rule("/yes", &auth("check", http))
        + &rule("/all", &auth("check", ", http: {}"))
        + &rule("/body", &auth("check", ", http: {}, forwardBody: { maxSize: 4 }"))
        + &rule("/dead", &auth("dead", ", http: {}"))
        + &rule("/gone", &auth("gone", ", http: {}"));
    stage.start(&[], &[http_route(&rules), manifest::service("shop", "dead")]).unwrap();
    let request = Request::get(HOST, "/yes").header("x-token", "a").header("x-backend", "forged");
    let answer = stage.answered_by(&request, "cart").unwrap();
    assert_eq!(answer.echo().unwrap().header("x-backend"), ["check"]);
    // The service is shown what it is to be shown, and no more.
    let shown = stage.backends["check"].last().unwrap();
    assert_eq!((shown.header("x-token"), shown.header("x-backend")), (vec!["a"], vec![]));
    let asked = stage.backends["check"].received();
    assert!(asked > 0);
    // Every header of the answer goes on, but not those that frame it.
    let all = send(&stage.target, &Request::get(HOST, "/all")).unwrap();
    assert_eq!((all.who().as_str(), all.echo().unwrap().header("x-served")), ("cart", vec!["yes"]));
    assert_eq!(all.echo().unwrap().body, 0);
    assert_eq!(stage.backends["check"].received(), asked + 1);
    let mut connection = Http2::open(&stage.target).unwrap();
    let post = Request::get(HOST, "/body").method("POST");
    assert_eq!(connection.send(&post, b"four").unwrap().who(), "cart");
    // Envoy counts whole frames, so a body is refused from the second one on that is too many.
    assert_eq!(connection.send(&post, &vec![b'a'; 100_000]).unwrap().status, 413);
    let reached = stage.backends["cart"].received();
    for path in ["/dead", "/gone"] {
        let status = send(&stage.target, &Request::get(HOST, path)).unwrap().status;
        assert!(matches!(status, 403 | 500), "{path}: {status}");
    }
    assert_eq!(stage.backends["cart"].received(), reached);
}

/// Says yes to requests that bring a token, and who they are; remembers the paths that it was asked about.
#[derive(Debug, Clone, Default)]
struct Gatekeeper(Arc<Mutex<Vec<String>>>);

#[async_trait::async_trait]
impl Authorization for Gatekeeper {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let attributes: AttributeContext = request.into_inner().attributes.unwrap_or_default();
        let asked = attributes.request.and_then(|request| request.http).unwrap_or_default();
        self.0.lock().unwrap().push(asked.path.clone());
        let mut response;
        if asked.headers.get("x-token").is_some_and(|token| token == "good") {
            let mut allowed = OkHttpResponseBuilder::new();
            allowed.add_header("x-user", "ann", Some(HeaderAppendAction::OverwriteIfExistsOrAdd), false);
            response = CheckResponse::with_status(tonic::Status::ok(""));
            response.set_http_response(allowed);
        } else {
            let mut denied = DeniedHttpResponseBuilder::new();
            denied.set_http_status(HttpStatusCode::Unauthorized).set_body("who are you?");
            response = CheckResponse::with_status(tonic::Status::unauthenticated("no token"));
            response.set_http_response(denied);
        }
        Ok(tonic::Response::new(response))
    }
}

/// A gRPC service on a local port; dropping it stops it.
struct Service {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gatekeeper {
    fn start(&self) -> Service {
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(self.clone()));
        let task = runtime().spawn(async move {
            drop(server.serve_with_incoming(TcpListenerStream::new(listener)).await);
        });
        Service { address, task }
    }
}

#[test]
fn an_authorization_service_is_asked_over_grpc() {
    let mut stage = Stage::lay(&["cart"]).unwrap();
    let gatekeeper = Gatekeeper::default();
    let service = gatekeeper.start();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = closed.local_addr().unwrap();
    drop(closed);
    stage.stack.set_endpoints("shop", "checks", &[service.address]).unwrap();
    stage.stack.set_endpoints("shop", "dead", &[dead]).unwrap();
    let rule = |path: &str, service: &str| {
        format!(
            "    - matches: [{{ path: {{ value: {path} }} }}]\n      filters: [{{ type: ExternalAuth, externalAuth: {{ protocol: GRPC, \
             backendRef: {{ name: {service}, port: 80 }}, grpc: {{}} }} }}]\n      backendRefs: [{{ name: cart, port: 80 }}]\n"
        )
    };
    let rules = rule("/asked", "checks") + &rule("/dead", "dead") + &manifest::rule("/open", "cart");
    let services = ["checks", "dead"].map(|name| manifest::service("shop", name));
    let mut objects = vec![http_route(&rules)];
    objects.extend(services);
    stage.start(&[], &objects).unwrap();
    let request = Request::get(HOST, "/asked/a?b=c").header("x-token", "good").header("x-user", "forged");
    let answer = stage.answered_by(&request, "cart").unwrap();
    assert_eq!(answer.echo().unwrap().header("x-user"), ["ann"]);
    assert_eq!(gatekeeper.0.lock().unwrap().last().map(String::as_str), Some("/asked/a?b=c"));
    let reached = stage.backends["cart"].received();
    for token in ["", "bad"] {
        let refused = send(&stage.target, &Request::get(HOST, "/asked").header("x-token", token)).unwrap();
        assert_eq!((refused.status, &*refused.body), (401, b"who are you?".as_slice()));
    }
    let unasked = send(&stage.target, &Request::get(HOST, "/dead").header("x-token", "good")).unwrap();
    assert_eq!(unasked.status, 403, "a service that does not answer has not said yes");
    assert_eq!(stage.backends["cart"].received(), reached);
    let asked = gatekeeper.0.lock().unwrap().len();
    assert_eq!(send(&stage.target, &Request::get(HOST, "/open")).unwrap().who(), "cart");
    assert_eq!(gatekeeper.0.lock().unwrap().len(), asked, "other rules ask nobody");
}

#[test]
fn a_cookie_keeps_a_client_at_its_endpoint() {
    let mut stage = Stage::lay(&["one"]).unwrap();
    let second = Backend::start("two").unwrap();
    let third = Backend::start("three").unwrap();
    let all = [stage.backends["one"].address(), second.address(), third.address()];
    stage.stack.set_endpoints("shop", "one", &all).unwrap();
    let rules = "    - sessionPersistence: { cookie: { name: stay } }\n      backendRefs: [{ name: one, port: 80 }]\n";
    stage.start(&[], &[http_route(rules)]).unwrap();
    let request = Request::get(HOST, "/");
    let first =
        send_until(&stage.target, &request, "an endpoint", |answer| answer.backend().is_some()).unwrap();
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("stay="), "{cookie}");
    let again = Request::get(HOST, "/").header("cookie", &cookie);
    for _ in 0..20 {
        assert_eq!(send(&stage.target, &again).unwrap().backend(), first.backend());
    }
    // Without the cookie the others are drawn too.
    wait::until("another endpoint", || {
        ensure!(send(&stage.target, &request)?.backend() != first.backend(), "the same");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_header_keeps_a_client_at_its_endpoint() {
    let mut stage = Stage::lay(&["one"]).unwrap();
    let (second, third) = (Backend::start("two").unwrap(), Backend::start("three").unwrap());
    let all = [stage.backends["one"].address(), second.address(), third.address()];
    stage.stack.set_endpoints("shop", "one", &all).unwrap();
    let rules = "    - sessionPersistence: { type: Header, header: { name: X-Session } }\n      backendRefs: [{ name: one, port: 80 }]\n";
    stage.start(&[], &[http_route(rules)]).unwrap();
    let request = Request::get(HOST, "/");
    let first =
        send_until(&stage.target, &request, "an endpoint", |answer| answer.backend().is_some()).unwrap();
    let session = first.header("x-session").unwrap().to_owned();
    let again = Request::get(HOST, "/").header("x-session", &session);
    for _ in 0..20 {
        assert_eq!(send(&stage.target, &again).unwrap().backend(), first.backend());
    }
    // Without the header the others are drawn too, and one that says nothing to Envoy is as good as none.
    for strange in ["", "bm90aGluZw=="] {
        let request = Request::get(HOST, "/").header("x-session", strange);
        wait::until("another endpoint", || {
            ensure!(send(&stage.target, &request)?.backend() != first.backend(), "the same");
            Ok(())
        })
        .unwrap();
    }
}

/// Answers the first try of each request with 503, and further ones with 200: those for `/held` when it is told to.
struct Fickle {
    address: SocketAddr,
    tries: Arc<Mutex<BTreeMap<String, usize>>>,
    release: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Fickle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fickle {
    fn start() -> Self {
        let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let tries: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let (release, released) = watch::channel(false);
        let counted = Arc::clone(&tries);
        let task = runtime().spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tries, released) = (Arc::clone(&counted), released.clone());
                let service =
                    hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let (tries, mut released) = (Arc::clone(&tries), released.clone());
                        async move {
                            let path = request.uri().path().to_owned();
                            let first = {
                                let mut tries = tries.lock().unwrap();
                                let count = tries.entry(path.clone()).or_default();
                                *count += 1;
                                *count == 1
                            };
                            if !first && path == "/held" {
                                drop(released.wait_for(|told| *told).await);
                            }
                            let mut response = http::Response::new(Full::new(bytes::Bytes::new()));
                            *response.status_mut() = if first {
                                http::StatusCode::SERVICE_UNAVAILABLE
                            } else {
                                http::StatusCode::OK
                            };
                            Ok::<_, std::convert::Infallible>(response)
                        }
                    });
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, tries, release, task }
    }

    fn tries(&self, path: &str) -> usize {
        self.tries.lock().unwrap().get(path).copied().unwrap_or(0)
    }
}

#[test]
fn a_budget_bounds_the_retries_in_flight() {
    let mut stage = Stage::lay(&["plain"]).unwrap();
    let fickle = Fickle::start();
    stage.stack.set_endpoints("shop", "fickle", &[fickle.address]).unwrap();
    let rules =
        "    - retry: { codes: [503], attempts: 1 }\n      backendRefs: [{ name: fickle, port: 80 }]\n";
    let policy = "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: { name: budget, namespace: shop }\n\
                  spec:\n  targetRefs: [{ group: '', kind: Service, name: fickle }]\n  \
                  retryConstraint: { budget: { percent: 0 }, minRetryRate: { count: 1 } }\n";
    let objects = [http_route(rules), manifest::service("shop", "fickle"), policy.to_owned()];
    stage.start(&[], &objects).unwrap();
    // One retry may be in flight: alone, each request gets its second try.
    let mut warm = 0;
    wait::until("a first request", || {
        warm += 1;
        let path = format!("/warm/{warm}");
        let status = send(&stage.target, &Request::get(HOST, &path))?.status;
        ensure!(status == 200 && fickle.tries(&path) == 2, "{status} after {} tries", fickle.tries(&path));
        Ok(())
    })
    .unwrap();
    let target = stage.target.clone();
    let held = std::thread::spawn(move || send(&target, &Request::get(HOST, "/held")));
    wait::until("the second try of the first", || {
        ensure!(fickle.tries("/held") == 2, "{} tries", fickle.tries("/held"));
        Ok(())
    })
    .unwrap();
    // While it lasts there is none for others.
    assert_eq!(send(&stage.target, &Request::get(HOST, "/other")).unwrap().status, 503);
    assert_eq!(fickle.tries("/other"), 1);
    fickle.release.send(true).unwrap();
    assert_eq!(held.join().unwrap().unwrap().status, 200);
    assert_eq!(send(&stage.target, &Request::get(HOST, "/later")).unwrap().status, 200);
    assert_eq!(fickle.tries("/later"), 2);
}

#[test]
fn a_connection_that_fails_is_tried_elsewhere() {
    let mut stage = Stage::lay(&["cart", "plain"]).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = closed.local_addr().unwrap();
    drop(closed);
    for service in ["cart", "plain"] {
        let alive = stage.backends[service].address();
        stage.stack.set_endpoints("shop", service, &[dead, alive]).unwrap();
    }
    let rules = "    - matches: [{ path: { value: /again } }]\n      retry: { attempts: 100 }\n      backendRefs: [{ name: cart, port: 80 }]\n    \
        - matches: [{ path: { value: /never } }]\n      retry: { attempts: 0 }\n      backendRefs: [{ name: plain, port: 80 }]\n";
    stage.start(&[], &[http_route(rules)]).unwrap();
    let again = Request::get(HOST, "/again");
    stage.answered_by(&again, "cart").unwrap();
    for _ in 0..20 {
        assert_eq!(send(&stage.target, &again).unwrap().who(), "cart");
    }
    stage.answered_by(&Request::get(HOST, "/never"), "503").unwrap();
}

#[test]
fn each_backend_has_its_own_path() {
    let mut stage = Stage::lay(&["one", "two", "three"]).unwrap();
    let rules = "    - matches: [{ path: { value: /shop } }]
      backendRefs:
        - name: one
          port: 80
          weight: 1
          filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /first } } }]
        - name: two
          port: 80
          weight: 1
          filters: [{ type: URLRewrite, urlRewrite: { hostname: two.internal, path: { type: ReplaceFullPath, replaceFullPath: /all } } }]
        - name: three
          port: 80
          weight: 2
";
    stage.start(&[], &[http_route(rules)]).unwrap();
    let request = Request::get(HOST, "/shop/a");
    for name in ["one", "two", "three"] {
        stage.answered_by(&request, name).unwrap();
    }
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..400 {
        let answer = send(&stage.target, &request).unwrap();
        let echo = answer.echo().unwrap();
        let expected = match echo.backend.as_str() {
            "one" => ("/first/a", HOST),
            "two" => ("/all", "two.internal"),
            _ => ("/shop/a", HOST),
        };
        assert_eq!((echo.path.as_str(), echo.host.as_str()), expected, "{}", echo.backend);
        *counts.entry(echo.backend).or_default() += 1;
    }
    // Four standard deviations: 100, 100 and 200 of 400.
    for (name, expected, far) in [("one", 100, 35), ("two", 100, 35), ("three", 200, 40)] {
        let count = counts.get(name).copied().unwrap_or(0);
        assert!(count.abs_diff(expected) <= far, "{name} answered {count} times: {counts:?}");
    }
}
