//! Traffic to backends: one Envoy with a route for each capability, and servers that answer as a test needs it.

use super::behaviour::{HOST, guarded, keys, policy, token};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Answer, Request, Target, send, send_until};
use moorgate_tests::manifest;
use moorgate_tests::ports;
use moorgate_tests::program::run;
use moorgate_tests::stack::Stack;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A server that answers every connection alike, and keeps the first bytes of each.
pub(crate) struct Canned {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Canned {
    /// Answers what `answer` makes of the first bytes; nothing if it gives none. It ends with the test's process.
    pub(crate) fn start(answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let (kept, answer) = (Arc::clone(&seen), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let mut bytes = vec![0; 4096];
                    let length = stream.read(&mut bytes).unwrap_or_default();
                    bytes.truncate(length);
                    let said = answer(&bytes);
                    kept.lock().unwrap().push(bytes);
                    let _ = stream.write_all(&said);
                    // Until the other side has read it and goes.
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
                    while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {}
                });
            }
        });
        Self { address, seen }
    }

    fn seen(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().clone()
    }
}

/// A server that answers each `ping` of a connection, however many come and however late, and requests too. Envoy counts a
/// connection that is closed between two checks as a failure, and looks again after a minute where nothing was asked.
fn pong() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    let pinged = bytes[..length].starts_with(b"ping");
                    let answer = if pinged { b"pong".to_vec() } else { plain("200 OK", "", "pong") };
                    if stream.write_all(&answer).is_err() || !pinged {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// An answer of HTTP/1.1 after which the connection is closed.
pub(crate) fn plain(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
        .into_bytes()
}

/// A server of names that answers each question about IPv4 with this machine's own address.
pub(crate) fn names() -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let asked: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let kept = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut bytes = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let question = &bytes[..length];
            // RFC 1035: a name ends with an empty label, and the kind of the question follows.
            let Some(end) = question[12..].iter().position(|byte| *byte == 0).map(|at| at + 12) else {
                continue;
            };
            let kind = question.get(end + 2).copied();
            let known = kind == Some(1);
            let mut answer = question[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(known), 0, 0, 0, 0]);
            answer.extend(&question[12..end + 5]);
            if known {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            kept.lock().unwrap().push(question[12..end].to_vec());
            let _ = socket.send_to(&answer, from);
        }
    });
    (address, asked)
}

/// An Envoy that asks this server of names and no other.
pub(crate) fn resolver(address: SocketAddr) -> String {
    format!(
        r#"{{"typed_dns_resolver_config": {{"name": "envoy.network.dns_resolver.cares", "typed_config": {{
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [{{"socket_address": {{"address": "{}", "port_value": {}}}}}], "use_resolvers_as_fallback": false,
            "dns_resolver_options": {{"no_default_search_domain": true}}}}}}}}"#,
        address.ip(),
        address.port()
    )
}

fn routes(log: &str) -> Vec<String> {
    let of = |name: &str, service: &str, spec: &str| guarded(name, service, "BackendTrafficPolicy", spec);
    let replaced = "  responseOverride:
    - match: { statusCodes: [{ type: Range, range: { start: 500, end: 502 } }] }
      source: Backend
      response: { statusCode: 299, contentType: text/plain, body: { type: Inline, inline: 'was %RESPONSE_CODE%' }, header: { set: [{ name: x-replaced, value: '1' }] } }
    - match: { responseHeaders: [{ name: x-error, value: { type: Prefix, value: db- } }] }
      response: { statusCode: 298 }
";
    let local = "  responseOverride: [{ match: { statusCodes: [{ value: 503 }] }, source: Local, response: { statusCode: 297 } }]\n";
    let pinged = |path: &str| {
        format!(
            "  healthCheck:\n    active:\n      type: TCP\n      timeout: 1s\n      interval: 1s\n      unhealthyThreshold: 1\n      tcp: {{ send: {{ type: Text, text: ping }}, receive: {{ type: Text, text: pong }} }}\n      \
             healthCheckLog: {{ sinks: [{{ type: File, file: {{ path: {path} }} }}] }}\n"
        )
    };
    [
        of("proxied", "mirror", "  proxyProtocol: { version: V1 }\n"),
        of("binary", "mirror", "  proxyProtocol: { version: V2 }\n"),
        of("held", "two-mirror", "  connection: { socketBufferLimit: 16Ki }\n"),
        of("buffered", "web", "  requestBuffer: { limit: 1Ki }\n"),
        of("slow", "large", "  bandwidthLimit: { response: { limit: { value: 4Ki, unit: Second } } }\n"),
        of(
            "admitted",
            "broken",
            "  admissionControl: { samplingWindow: 60s, minSuccessRate: 100, maxRejectionPercent: 100 }\n",
        ),
        of("replaced", "broken", replaced),
        of("replaced-header", "odd", replaced),
        of("local", "dead", local),
        of("local-not", "overloaded", local),
        of("upgraded", "mirror", "  httpUpgrade: [{ type: spdy/3.1 }]\n"),
        of("counted", "web", "  telemetry: { metrics: { routeStatName: '%ROUTE_KIND%/%ROUTE_NAMESPACE%/%ROUTE_NAME%' } }\n"),
        of(
            "sticky",
            "pair",
            "  loadBalancer: { type: ConsistentHash, consistentHash: { type: Cookie, cookie: { name: shop, ttl: 1h, attributes: { SameSite: Strict } } } }\n",
        ),
        of(
            "chosen",
            "pair",
            "  loadBalancer: { type: RoundRobin, endpointOverride: { extractFrom: [{ header: x-endpoint }] } }\n",
        ),
        of("used", "busy", "  loadBalancer: { type: BackendUtilization, backendUtilization: { blackoutPeriod: 1s } }\n"),
        of(
            "used-told",
            "busy",
            "  loadBalancer: { type: BackendUtilization, backendUtilization: { keepResponseHeaders: true } }\n",
        ),
        of("same", "two-speaker", "  useClientProtocol: true\n"),
        of("windowed", "two-mirror", "  http2: { initialStreamWindowSize: 128Ki, maxConcurrentStreams: 9 }\n"),
        of("named", "far", "  dns: { dnsRefreshRate: 5s, respectDnsTtl: false, lookupFamily: IPv4 }\n"),
        of("well", "pong", &pinged(log)),
        of("unwell", "mirror", &pinged(log)),
        [
            manifest::http_route("edge", "checked", "edge/public", &["checked.example.com"], &manifest::rule("/", "asked")),
            policy("checked", "BackendTrafficPolicy", "HTTPRoute", "checked", "  healthCheck: { active: { type: HTTP, interval: 1s, http: { path: /up } } }\n"),
        ],
        of("tried", "half", "  retry: { numRetries: 5, numAttemptsPerPriority: 1, retryOn: { triggers: [connect-failure] } }\n"),
    ]
    .concat()
}

/// All servers that routes go to.
struct Servers {
    web: Backend,
    one: Backend,
    two: Backend,
    mirror: Canned,
    two_mirror: Canned,
    broken: Canned,
    others: Vec<(&'static str, Canned)>,
    dead: SocketAddr,
    pong: SocketAddr,
}

impl Servers {
    fn start() -> Self {
        let [web, one, two] = ["web", "one", "two"].map(|name| Backend::start(name).unwrap());
        // Says back what it was told, or changes the protocol if it is asked to.
        let mirror = Canned::start(|bytes| {
            let said = String::from_utf8_lossy(bytes).into_owned();
            if said.contains("upgrade: ") {
                b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: spdy/3.1\r\n\r\n"
                    .to_vec()
            } else {
                plain("200 OK", "", &said)
            }
        });
        let others = vec![
            ("large", Canned::start(|_| plain("200 OK", "", &"x".repeat(9 * 1024)))),
            ("odd", Canned::start(|_| plain("200 OK", "x-error: db-17\r\n", "odd"))),
            // It is well only for those who name the host of its route.
            (
                "asked",
                Canned::start(|bytes| {
                    let named = String::from_utf8_lossy(bytes).contains("host: checked.example.com\r\n");
                    plain(if named { "200 OK" } else { "404 Not Found" }, "", "asked")
                }),
            ),
            ("overloaded", Canned::start(|_| plain("503 Busy", "", "busy"))),
            (
                "busy",
                Canned::start(|_| {
                    plain(
                        "200 OK",
                        "endpoint-load-metrics: TEXT cpu_utilization=0.9,rps_fractional=9\r\n",
                        "busy",
                    )
                }),
            ),
        ];
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = closed.local_addr().unwrap();
        drop(closed);
        let broken = Canned::start(|_| plain("500 Broken", "", "broken"));
        let two_mirror = Canned::start(|_| Vec::new());
        Self { web, one, two, mirror, two_mirror, broken, others, dead, pong: pong() }
    }

    /// Each Service with its endpoints.
    fn places(&self) -> Vec<(&'static str, Vec<SocketAddr>)> {
        let (web, one, two) = (self.web.address(), self.one.address(), self.two.address());
        let own = [
            ("web", vec![web]),
            ("pair", vec![one, two]),
            ("half", vec![web, self.dead]),
            ("dead", vec![self.dead]),
            ("pong", vec![self.pong]),
            ("mirror", vec![self.mirror.address]),
            ("broken", vec![self.broken.address]),
            ("two-speaker", vec![web]),
            ("two-mirror", vec![self.two_mirror.address]),
        ];
        own.into_iter()
            .chain(self.others.iter().map(|(name, server)| (*name, vec![server.address])))
            .collect()
    }
}

#[test]
fn traffic_flows_as_its_policies_say() {
    let mut stack = Stack::new("edge/public").unwrap();
    let servers = Servers::start();
    let (asked, questions) = names();
    stack.envoy_arguments = vec!["--config-yaml".into(), resolver(asked)];
    let port = ports::free().unwrap();
    let mut documents = vec![
        manifest::gateway_class(),
        manifest::gateway("edge", "public", &[manifest::Listener::http("http", port)]),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")),
        manifest::http_route("edge", "bare", "edge/public", &[], &manifest::rule("/bare", "broken")),
    ];
    for (service, addresses) in servers.places() {
        stack.set_endpoints("edge", service, &addresses).unwrap();
        let service_yaml = manifest::service("edge", service);
        documents.push(if service.starts_with("two-") {
            service_yaml.replace("port: 80\n", "port: 80\n      appProtocol: kubernetes.io/h2c\n")
        } else {
            service_yaml
        });
    }
    documents.push(format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackend\nmetadata: {{ name: far, namespace: edge }}\nspec:\n  \
         type: ExternalHostname\n  port: {{ number: {} }}\n  externalHostname: {{ hostname: far.example.net }}\n",
        servers.web.address().port()
    ));
    let log = stack.folder().join("health.log");
    documents.extend(routes(log.to_str().unwrap()));
    for document in &mut documents {
        if document.contains("name: far\n          port: 80") {
            *document = document
                .replace(
                    "name: far\n",
                    "group: gateway.networking.x-k8s.io\n          kind: XBackend\n          name: far\n",
                )
                .replace("\n          port: 80", "");
        }
    }
    let file = stack.folder().join("source.yaml");
    std::fs::write(&file, manifest::documents(&documents)).unwrap();
    run(stack.signed("publish").unwrap().args(["--crds", "experimental"]).arg(&file))
        .unwrap()
        .ended_with(&[0])
        .unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &Request::get(HOST, "/free"), "an answer", |answer| answer.status == 200).unwrap();
    let admin = Target::plain(stack.admin_port());
    connections(&target, &servers, port);
    bodies(&target, &admin, port);
    failures(&target, &servers);
    balanced(&target, &servers);
    protocols(&target, &servers, port);
    looked_for(&target, &admin, &questions.lock().unwrap(), &log);
}

fn ask(target: &Target, path: &str) -> Answer {
    send(target, &Request::get(HOST, path)).unwrap()
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// What comes back for these bytes, until the other side closes.
pub(crate) fn raw(port: u16, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(sent).unwrap();
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The head of what comes back for these bytes. Behind it a connection may go on in another protocol.
fn head(port: u16, sent: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let mut one = [0];
    while !answer.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut one), Ok(1)) {
        answer.extend(one);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The client's address comes first, in both versions, and the kernel holds what it was told to.
fn connections(target: &Target, servers: &Servers, port: u16) {
    let told = text(&ask(target, "/proxied"));
    assert!(
        told.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && told.contains(&format!(" {port}\r\n")),
        "{told}"
    );
    assert_eq!(ask(target, "/binary").status, 200);
    // Its signature (PROXY protocol 2.2).
    let binary =
        servers.mirror.seen().into_iter().filter(|bytes| bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n")).count();
    assert_eq!(binary, 1);
    // A request that is not answered keeps its connection open.
    let mut held = TcpStream::connect(("127.0.0.1", port)).unwrap();
    held.write_all(format!("GET /held HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    let side = format!(":{}", servers.two_mirror.address.port());
    moorgate_tests::wait::until("a connection with small buffers", || {
        let mut ss = Command::new("ss");
        ss.args(["-tmnH", "state", "established", "dport", "=", &side]);
        let sockets = run(&mut ss)?.ended_with(&[0])?.stdout;
        // Linux doubles the number.
        anyhow::ensure!(sockets.contains("tb32768"), "{sockets}");
        Ok(())
    })
    .unwrap();
}

fn bodies(target: &Target, admin: &Target, port: u16) {
    let sent = |path: &str, length: usize| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        raw(port, format!("{head}{}", "x".repeat(length)).as_bytes())
    };
    assert!(sent("/buffered", 1000).starts_with("HTTP/1.1 200"));
    assert!(sent("/buffered", 3000).starts_with("HTTP/1.1 413"));
    assert!(sent("/free", 3000).starts_with("HTTP/1.1 200"));
    assert_eq!(ask(target, "/slow").body.len(), 9 * 1024);
    let stats = text(&ask(admin, "/stats?filter=bandwidth_limit.response_enforced"));
    let count: u64 = stats.trim().rsplit_once(": ").unwrap().1.parse().unwrap();
    assert!(count > 0, "{stats}");
    assert_eq!(ask(target, "/counted").status, 200);
    let stats = text(&ask(admin, "/stats?filter=route.httproute/edge/counted.upstream_rq_2xx"));
    assert!(stats.contains(": 1"), "{stats}");
}

fn failures(target: &Target, servers: &Servers) {
    // Load is shed: the backend sees fewer requests than there are.
    // A connection may be opened for a request that is shed.
    let asked = || servers.broken.seen().iter().filter(|bytes| !bytes.is_empty()).count();
    let before = asked();
    let answers: Vec<u16> = (0..60).map(|_| ask(target, "/admitted").status).collect();
    let reached = asked() - before;
    let shed = answers.iter().filter(|status| **status == 503).count();
    assert!(shed > 0 && reached + shed == 60, "{reached} reached, {shed} were shed");
    // Responses in place of others.
    let replaced = ask(target, "/replaced");
    assert_eq!((replaced.status, text(&replaced).as_str()), (299, "was 500"));
    assert_eq!(
        (replaced.header("x-replaced"), replaced.header("content-type")),
        (Some("1"), Some("text/plain"))
    );
    assert_eq!(ask(target, "/replaced-header").status, 298);
    assert_eq!(ask(target, "/bare").status, 500);
    assert_eq!((ask(target, "/local").status, ask(target, "/local-not").status), (297, 503));
    // An endpoint that is gone is passed over.
    assert!((0..10).all(|_| ask(target, "/tried").status == 200));
}

fn balanced(target: &Target, servers: &Servers) {
    let first = ask(target, "/sticky");
    let cookie = first.header("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("shop=") && cookie.contains("SameSite=Strict"), "{cookie}");
    let own = cookie.split(';').next().unwrap();
    assert!(
        (0..10).all(|_| send(target, &Request::get(HOST, "/sticky").header("cookie", own)).unwrap().who()
            == first.who())
    );
    let named = |endpoint: &str| {
        send(target, &Request::get(HOST, "/chosen").header("x-endpoint", endpoint)).unwrap().who()
    };
    assert!((0..6).all(|_| named(&servers.two.address().to_string()) == "two"));
    let fallen: std::collections::BTreeSet<String> = (0..6).map(|_| named("192.0.2.1:80")).collect();
    assert_eq!(fallen.len(), 2, "an endpoint that the backend does not have is not taken");
    let told = |path: &str| ask(target, path).header("endpoint-load-metrics").map(str::to_owned);
    assert_eq!((told("/used"), told("/used-told").is_some()), (None, true));
}

fn protocols(target: &Target, servers: &Servers, port: u16) {
    let asked = |path: &str, protocol: &str| {
        let asks = format!("connection: upgrade\r\nupgrade: {protocol}\r\n\r\n");
        head(port, &format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\n{asks}"))
    };
    assert!(asked("/upgraded", "spdy/3.1").starts_with("HTTP/1.1 101"));
    assert!(asked("/upgraded", "websocket").starts_with("HTTP/1.1 403"));
    // What is held until all of it is there would never go on.
    assert!(asked("/buffered", "websocket").starts_with("HTTP/1.1 403"));
    assert_eq!(ask(target, "/same").echo().unwrap().protocol, "HTTP/1.1");
    // The settings with which a connection of HTTP/2 begins: 4 is the window of a stream. Nobody answers there.
    let mut held = TcpStream::connect(("127.0.0.1", port)).unwrap();
    held.write_all(format!("GET /windowed HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    let window = [&[0, 4][..], &(128_u32 * 1024).to_be_bytes()].concat();
    moorgate_tests::wait::until("the settings of a connection", || {
        let begun = servers.two_mirror.seen();
        let told = begun.iter().any(|bytes| bytes.windows(6).any(|six| six == window));
        anyhow::ensure!(told, "{begun:?}");
        Ok(())
    })
    .unwrap();
}

fn looked_for(target: &Target, admin: &Target, questions: &[Vec<u8>], log: &std::path::Path) {
    assert_eq!(ask(target, "/named").who(), "web");
    assert!(questions.iter().any(|name| name.windows(7).any(|part| part == b"example")), "{questions:?}");
    // An endpoint that answers as it is expected, and one that does not.
    send_until(target, &Request::get(HOST, "/unwell"), "the endpoint to be found unwell", |answer| {
        answer.status == 503
    })
    .unwrap();
    send_until(target, &Request::get(HOST, "/well"), "the endpoint to be found well", |answer| {
        answer.status == 200
    })
    .unwrap();
    send_until(target, &Request::get("checked.example.com", "/"), "the host of the route", |answer| {
        answer.status == 200
    })
    .unwrap();
    let clusters = text(&ask(admin, "/clusters"));
    assert!(clusters.contains("failed_active_hc"), "{clusters}");
    moorgate_tests::wait::until("health events in the file", || {
        let told = std::fs::read_to_string(log).unwrap_or_default();
        anyhow::ensure!(told.contains("health_checker_type"), "{told}");
        Ok(())
    })
    .unwrap();
}

/// Limits that each Envoy counts: what each condition lets pass, and what it stops.
#[test]
fn limits_bite_where_their_conditions_hold() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let port = ports::free().unwrap();
    let mut documents = vec![
        manifest::gateway_class(),
        manifest::service("edge", "web"),
        manifest::gateway("edge", "public", &[manifest::Listener::http("http", port)]),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")),
        manifest::http_route("edge", "other", "edge/public", &[], &manifest::rule("/other", "web")),
    ];
    let one = "limit: { requests: 1, unit: Hour }";
    let when = |selector: &str| format!("clientSelectors: [{{ {selector} }}]\n          {one}");
    for (name, rule) in [
        ("path", when("path: { type: PathPrefix, value: /path/pay }")),
        ("query", when("queryParams: [{ name: plan, value: free }]")),
        ("each", when("headers: [{ name: x-user, type: Distinct }]")),
        ("here", when("sourceCIDR: { value: 127.0.0.0/8 }")),
        ("there", when("sourceCIDR: { value: 10.0.0.0/8 }")),
        ("not-there", when("sourceCIDR: { value: 10.0.0.0/8, invert: true }")),
        ("methods", when("methods: [{ value: PUT }, { value: DELETE }]")),
        (
            "dear",
            "cost: { request: { from: Number, number: 2 } }\n          limit: { requests: 3, unit: Hour }"
                .into(),
        ),
        ("told", format!("xRateLimitHeaders: DraftVersion03\n          {one}")),
        ("together", format!("shared: true\n          {one}")),
    ] {
        let spec = format!("  rateLimit:\n    local:\n      rules:\n        - {rule}\n");
        let [route, mut policy] = guarded(name, "web", "BackendTrafficPolicy", &spec);
        if name == "together" {
            // Both routes have one count.
            let second = "{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: other }";
            policy = policy.replace("name: together }]", &format!("name: together }}, {second}]"));
        }
        documents.extend([route, policy]);
    }
    // A limit by a claim: what the token says is a header by the time that it is counted.
    let each = when("headers: [{ name: x-sub, type: Distinct }]");
    let limit = format!("  rateLimit:\n    local:\n      rules:\n        - {each}\n");
    documents.extend(guarded("claimed", "web", "BackendTrafficPolicy", &limit));
    let provider = format!(
        "  jwt:\n    providers:\n      - name: us\n        issuer: https://us.example\n        audiences: [shop]\n        \
         localJWKS: {{ type: Inline, inline: '{}' }}\n        claimToHeaders: [{{ claim: sub, header: x-sub }}]\n",
        keys()
    );
    documents.push(policy("claimed", "SecurityPolicy", "HTTPRoute", "claimed", &provider));
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &Request::get(HOST, "/free"), "an answer", |answer| answer.status == 200).unwrap();
    let status = |request: Request| send(&target, &request).unwrap().status;
    let twice = |path: &str| [(); 2].map(|()| status(Request::get(HOST, path)));
    assert_eq!((twice("/path/pay?now=1"), twice("/path/paid")), ([200, 429], [200, 200]));
    assert_eq!((twice("/query?plan=free"), twice("/query?plan=gold")), ([200, 429], [200, 200]));
    let of = |user: &str| status(Request::get(HOST, "/each").header("x-user", user));
    assert_eq!([of("ann"), of("bob"), of("ann"), of("bob")], [200, 200, 429, 429]);
    assert_eq!((twice("/here"), twice("/there"), twice("/not-there")), ([200, 429], [200, 200], [200, 429]));
    let by = |method: &str| status(Request::get(HOST, "/methods").method(method));
    assert_eq!([by("PUT"), by("DELETE"), by("GET"), by("GET")], [200, 429, 200, 200]);
    assert_eq!(twice("/dear"), [200, 429]);
    let told = send(&target, &Request::get(HOST, "/told")).unwrap();
    assert_eq!(told.header("x-ratelimit-remaining"), Some("0"), "{told:?}");
    let claims = |user: &str| {
        let token = token(&format!(r#"{{"iss":"https://us.example","aud":"shop","sub":"{user}"}}"#));
        // What a client says of itself does not count.
        status(
            Request::get(HOST, "/claimed")
                .header("authorization", &format!("Bearer {token}"))
                .header("x-sub", "me"),
        )
    };
    assert_eq!([claims("ann"), claims("bob"), claims("ann")], [200, 200, 429]);
    assert_eq!(status(Request::get(HOST, "/claimed").header("x-sub", "eve")), 401);
    assert_eq!([status(Request::get(HOST, "/together")), status(Request::get(HOST, "/other"))], [200, 429]);
}

/// Retries, a limit for each try and a bound on what is under way, together on one route.
#[test]
fn retries_their_limits_and_circuit_breakers_together() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    // Takes a request and says nothing.
    let mute = Canned::start(|_| Vec::new());
    stack.set_endpoints("edge", "half", &[mute.address, web.address()]).unwrap();
    stack.set_endpoints("edge", "mute", &[mute.address]).unwrap();
    let port = ports::free().unwrap();
    let both = "  retry: { numRetries: 3, retryOn: { triggers: [reset, connect-failure] }, perRetry: { timeout: 300ms } }\n";
    let documents = [
        manifest::gateway_class(),
        manifest::service("edge", "half"),
        manifest::service("edge", "mute"),
        manifest::gateway("edge", "public", &[manifest::Listener::http("http", port)]),
        manifest::http_route("edge", "tried", "edge/public", &[], &manifest::rule("/tried", "half")),
        manifest::http_route("edge", "bound", "edge/public", &[], &manifest::rule("/bound", "mute")),
        policy("tried", "BackendTrafficPolicy", "HTTPRoute", "tried", both),
        policy(
            "bound",
            "BackendTrafficPolicy",
            "HTTPRoute",
            "bound",
            &format!("{both}  circuitBreaker: {{ maxParallelRetries: 0 }}\n"),
        ),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &Request::get(HOST, "/tried"), "an answer", |answer| answer.status == 200).unwrap();
    // A try that is not answered in time is given up, and the next endpoint answers.
    assert!((0..6).all(|_| ask(&target, "/tried").who() == "web"));
    // Where no retry may be under way, the first try is the only one.
    let before = mute.seen().len();
    assert_eq!(ask(&target, "/bound").status, 504);
    assert_eq!(mute.seen().len() - before, 1);
}
