//! HTTPRouteFilter, Backend and EnvoyExtensionPolicy on a real Envoy.

use super::behaviour::{HOST, policy};
use super::security::lie_beside_the_relay_alone;
use async_trait::async_trait;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse, ProcessingRequest,
    ProcessingResponse, processing_request, processing_response,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use futures::{Stream, StreamExt as _};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Answer, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::program::run;
use moorgate_tests::redaction::Markers;
use moorgate_tests::runtime;
use moorgate_tests::stack::Stack;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::Pin;
use tokio_stream::wrappers::TcpListenerStream;

fn get(path: &str) -> Request {
    Request::get(HOST, path)
}

fn body(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}

/// An object of Envoy Gateway's group in namespace `edge`.
pub(crate) fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: edge }}\nspec:\n{spec}"
    )
}

/// A rule `/name` of a Service with a filter of this name.
fn filtered(name: &str, service: Option<&str>) -> String {
    let backends = service.map(|name| format!("      backendRefs: [{{ name: {name}, port: 80 }}]\n"));
    format!(
        "    - matches: [{{ path: {{ type: PathPrefix, value: /{name} }} }}]\n      filters: [{{ type: ExtensionRef, \
         extensionRef: {{ group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: {name} }} }}]\n{}",
        backends.unwrap_or_default()
    )
}

/// A stack whose Gateway has these listeners and documents; the first listener is plain. What is wrong in them is no matter
/// of the publisher.
fn serving(stack: &mut Stack, listeners: &[Listener], documents: Vec<String>, arguments: &[&str]) -> Target {
    let ports: Vec<u16> = listeners.iter().map(|listener| listener.port).collect();
    let mut all = vec![manifest::gateway_class(), manifest::gateway("edge", "public", listeners)];
    all.extend(documents);
    let file = stack.folder().join("source.yaml");
    std::fs::write(&file, manifest::documents(&all)).unwrap();
    run(stack.signed("publish").unwrap().args(arguments).arg(&file)).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&ports).unwrap();
    let target = Target::plain(ports[0]);
    send_until(&target, &get("/free"), "an answer", |answer| answer.status == 200).unwrap();
    target
}

/// A route with a rule for each filter, and the filters.
fn route_filters(long: &str) -> Vec<String> {
    let rules = [
        manifest::rule("/free", "web"),
        filtered("inline", None),
        filtered("map", Some("web")),
        filtered("regex", Some("web")),
        filtered("header", Some("web")),
        filtered("tenant", Some("web")),
        filtered("cookie", Some("web")),
        filtered("wrong", Some("web")),
        filtered("gone", Some("web")),
    ];
    let path = |pattern: &str, to: &str| format!("{{ pattern: '{pattern}', substitution: '{to}' }}");
    vec![
        manifest::service("edge", "web"),
        manifest::http_route("edge", "all", "edge/public", &[], &rules.concat()),
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: pages, namespace: edge }}\ndata: {{ response.body: '{long}' }}\n"
        ),
        object(
            "HTTPRouteFilter",
            "inline",
            "  directResponse:\n    statusCode: 418\n    contentType: text/plain\n    body: { type: Inline, inline: 'no %REQ(x-drink)%, 100%% sure' }\n    \
             header: { set: [{ name: x-share, value: '50%' }] }\n",
        ),
        object(
            "HTTPRouteFilter",
            "map",
            "  directResponse: { body: { type: ValueRef, valueRef: { group: '', kind: ConfigMap, name: pages } } }\n",
        ),
        object(
            "HTTPRouteFilter",
            "regex",
            &format!(
                "  urlRewrite: {{ path: {{ type: ReplaceRegexMatch, replaceRegexMatch: {} }} }}\n",
                path("^/regex/([^/]+)(/.*)$", r"\2/of/\1")
            ),
        ),
        object(
            "HTTPRouteFilter",
            "header",
            "  urlRewrite: { hostname: { type: Header, header: x-real }, appendXForwardedHost: false }\n",
        ),
        object(
            "HTTPRouteFilter",
            "tenant",
            &format!(
                "  urlRewrite: {{ hostname: {{ type: PathRegex, pathRegex: {} }} }}\n",
                path("^/tenant/([a-z]+)/.*", r"\1.internal")
            ),
        ),
        object(
            "HTTPRouteFilter",
            "cookie",
            "  matches: [{ cookies: [{ name: beta, value: '1' }, { name: user, type: RegularExpression, value: '[a-z]+' }] }, \
             { cookies: [{ name: staff, value: 'yes' }] }]\n",
        ),
        object("HTTPRouteFilter", "wrong", "  directResponse: { body: { type: Inline, inline: '50%' } }\n"),
    ]
}

#[test]
fn filters_of_rules_answer_rewrite_and_match() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let long = "closed on Sundays. ".repeat(1000);
    let documents = route_filters(&long);
    let port = ports::free().unwrap();
    let target = serving(&mut stack, &[Listener::http("http", port)], documents, &[]);
    let ask = |request: &Request| send(&target, request).unwrap();

    let inline = ask(&get("/inline").header("x-drink", "coffee"));
    assert_eq!((inline.status, body(&inline).as_str()), (418, "no coffee, 100% sure"));
    assert_eq!((inline.header("content-type"), inline.header("x-share")), (Some("text/plain"), Some("50%")));
    let map = ask(&get("/map"));
    assert_eq!(
        (map.status, body(&map) == long),
        (200, true),
        "a long body is whole, and no backend is asked"
    );
    let echo = |request: &Request| ask(request).echo().unwrap();
    assert_eq!(echo(&get("/regex/tea/cup")).path, "/cup/of/tea");
    assert_eq!(echo(&get("/regex")).path, "/regex", "what is not met stays");
    let seen = echo(&get("/header").header("x-real", "other.example.com"));
    assert_eq!((seen.host.as_str(), seen.header("x-forwarded-host").len()), ("other.example.com", 0));
    let seen = echo(&get("/tenant/blue/a"));
    assert_eq!((seen.host.as_str(), seen.header("x-forwarded-host")), ("blue.internal", vec![HOST]));
    for (cookie, status) in [
        ("beta=1; user=ann", 200),
        ("beta=1; user=7", 404),
        ("beta=2; user=ann", 404),
        ("a=b; staff=yes", 200),
        ("", 404),
    ] {
        assert_eq!(ask(&get("/cookie").header("cookie", cookie)).status, status, "{cookie}");
    }
    // What cannot be carried out, or is not there, is never passed over.
    assert_eq!((ask(&get("/wrong")).status, ask(&get("/gone")).status), (500, 500));
    let explain = |path: &str, cookie: &str| {
        let mut command = moorgate_tests::program::moorgate().unwrap();
        let url = format!("http://{HOST}:{port}{path}");
        command.args(["explain", "-H", cookie]).arg(stack.folder().join("source.yaml")).args(["GET", &url]);
        run(&mut command).unwrap().ended_with(&[0, 1]).unwrap().stdout
    };
    assert!(explain("/cookie", "cookie: staff=yes").contains("HTTPRouteFilter edge/cookie"));
    assert!(explain("/inline", "x-a: b").contains("418 by Envoy itself; as a filter says"));
}

/// Answers every connection with these bytes of a body, by HTTP/1.1, until the test ends.
pub(crate) fn answering<S: Read + Write + Send + 'static>(
    accept: impl Fn() -> std::io::Result<S> + Send + 'static,
    body: Vec<u8>,
) {
    std::thread::spawn(move || {
        while let Ok(mut stream) = accept() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(&[answer.as_bytes(), &body].concat());
        }
    });
}

/// A route `/name` to a Backend, whose path is then `/free`.
fn to_backends(name: &str, backends: &[&str]) -> String {
    let refs: Vec<String> = backends
        .iter()
        .map(|name| format!("{{ group: gateway.envoyproxy.io, kind: Backend, name: {name} }}"))
        .collect();
    let rules = format!(
        "    - matches: [{{ path: {{ type: PathPrefix, value: /{name} }} }}]\n      filters: [{{ type: URLRewrite, urlRewrite: \
         {{ path: {{ type: ReplaceFullPath, replaceFullPath: /free }} }} }}]\n      backendRefs: [{}]\n",
        refs.join(", ")
    );
    manifest::http_route("edge", name, "edge/public", &[], &rules)
}

/// A route to each Backend: those on a port of their own, on one with TLS, and on one where nobody listens.
fn backend_documents([port, secure, dead]: [u16; 3], socket: &Path) -> Vec<String> {
    let ip = |port: u16, more: &str| {
        format!("  endpoints: [{{ ip: {{ address: 127.0.0.1, port: {port} }} }}]\n{more}")
    };
    let tls = |ca: &str| {
        format!(
            "  tls: {{ sni: {HOST}, caCertificateRefs: [{{ group: '', kind: ConfigMap, name: {ca} }}] }}\n"
        )
    };
    let check = "  healthCheck: { active: { type: TCP, tcp: {}, timeout: 1s, interval: 1s } }\n";
    vec![
        manifest::service("edge", "web"),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")),
        object("Backend", "ip", &ip(port, "")),
        object("Backend", "two", &ip(port, "  appProtocols: [gateway.envoyproxy.io/h2c]\n")),
        object(
            "Backend",
            "name",
            &format!("  endpoints: [{{ fqdn: {{ hostname: localhost, port: {port} }} }}]\n"),
        ),
        object("Backend", "unix", &format!("  endpoints: [{{ unix: {{ path: {} }} }}]\n", socket.display())),
        object("Backend", "dead", &ip(dead, "")),
        object("Backend", "last", &ip(port, "  fallback: true\n")),
        object("Backend", "safe", &ip(secure, &tls("ca"))),
        object("Backend", "host", &ip(secure, &tls("ca").replace(&format!("sni: {HOST}, "), ""))),
        object("Backend", "liar", &ip(secure, &tls("other-ca"))),
        object(
            "Backend",
            "blind",
            &ip(secure, &format!("  tls: {{ sni: {HOST}, insecureSkipVerify: true }}\n")),
        ),
        object("Backend", "metadata", "  endpoints: [{ ip: { address: 169.254.169.254, port: 80 } }]\n"),
        object("Backend", "any", "  type: DynamicResolver\n"),
        to_backends("ip", &["ip"]),
        to_backends("two", &["two"]),
        to_backends("name", &["name"]),
        to_backends("unix", &["unix"]),
        to_backends("last", &["dead", "last"]),
        policy("check", "BackendTrafficPolicy", "HTTPRoute", "last", check),
        to_backends("safe", &["safe"]),
        to_backends("host", &["host"]),
        to_backends("liar", &["liar"]),
        to_backends("blind", &["blind"]),
        to_backends("metadata", &["metadata"]),
        to_backends("any", &["any"]),
    ]
}

#[test]
fn backends_lie_where_they_say() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let socket = stack.folder().join("app.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    answering(move || listener.accept().map(|(stream, _)| stream), b"unix".to_vec());
    let (authority, server) = Certificate::signed(HOST).unwrap();
    let (other, _) = Certificate::signed(HOST).unwrap();
    stack.set_secret("edge", "cert", &server).unwrap();
    for (name, authority) in [("ca", &authority), ("other-ca", &other)] {
        let folder = stack.folder().join("secrets/edge").join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("ca.crt"), &authority.certificate).unwrap();
    }
    // Nobody listens there while the socket is held and not listened on.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = closed.local_addr().unwrap().port();
    drop(closed);
    let secure = ports::free().unwrap();
    let port = web.address().port();
    let documents = backend_documents([port, secure, dead], &socket);
    let listeners =
        [Listener::http("http", ports::free().unwrap()), Listener::https("secure", secure, "cert")];
    let allowed = ["--allow-address", "127.0.0.0/8", "--allow-address", "localhost"];
    let target = serving(&mut stack, &listeners, documents, &allowed);
    let ask = |path: &str| send(&target, &get(path)).unwrap();
    for path in ["/ip", "/two", "/name", "/safe", "/host", "/blind"] {
        send_until(&target, &get(path), path, |answer| answer.status == 200 && answer.who() == "web")
            .unwrap();
    }
    let protocol = |path: &str| ask(path).echo().unwrap().protocol;
    assert_eq!((protocol("/two").as_str(), protocol("/ip").as_str()), ("HTTP/2.0", "HTTP/1.1"));
    assert_eq!(body(&ask("/unix")), "unix");
    // The first has no endpoint that is healthy.
    send_until(&target, &get("/last"), "the last resort", |answer| answer.status == 200).unwrap();
    assert!((0..10).all(|_| ask("/last").status == 200));
    // Somebody else's certificate, and a place that is nobody's.
    assert_eq!((ask("/liar").status, ask("/metadata").status), (503, 500));
    // Whatever host a request names, but not what is near the proxy.
    let any = |host: &str| send(&target, &Request::get(host, "/any")).unwrap();
    let found = any(&format!("127.0.0.1:{port}"));
    assert_eq!((found.status, found.who().as_str()), (200, "web"));
    assert_eq!(any(&format!("localhost:{port}")).status, 200);
    for host in ["169.254.169.254", "[::1]:80", "0.0.0.0:80"] {
        assert_eq!(any(host).status, 403, "{host}");
    }
    assert_ne!(any(&format!("[::ffff:127.0.0.1]:{port}")).status, 200);
}

/// A module that adds the header `x-wasm` with this value to requests (proxy-wasm ABI 0.2.1), byte by byte.
pub(crate) fn module(value: [u8; 8]) -> Vec<u8> {
    fn number(mut value: usize, out: &mut Vec<u8>) {
        loop {
            let byte = u8::try_from(value & 0x7f).unwrap();
            value >>= 7;
            out.push(if value > 0 { byte | 0x80 } else { byte });
            if value == 0 {
                return;
            }
        }
    }
    fn counted(items: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        number(items.len(), &mut out);
        out.extend(items.concat());
        out
    }
    fn sized(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        number(bytes.len(), &mut out);
        out.extend_from_slice(bytes);
        out
    }
    const I32: u8 = 0x7f;
    let signature = |takes: usize, gives: usize| {
        [&[0x60][..], &sized(&vec![I32; takes]), &sized(&vec![I32; gives])].concat()
    };
    let constant = |value: u8| vec![0x41, value];
    let code = |body: &[u8]| sized(&[&[0][..], body, &[0x0b]].concat());
    let types = [
        signature(5, 1),
        signature(0, 0),
        signature(1, 1),
        signature(2, 0),
        signature(2, 1),
        signature(3, 1),
    ];
    let import = [sized(b"env"), sized(b"proxy_add_header_map_value"), vec![0, 0]].concat();
    // The key lies at 16, the value at 32.
    let arguments = [0, 16, 6, 32, 8].map(constant).concat();
    let adds = [arguments, vec![0x10, 0, 0x1a], constant(0)].concat();
    // Memory is given out at 1024, once.
    let functions: [(&str, u8, Vec<u8>); 6] = [
        ("proxy_abi_version_0_2_1", 1, Vec::new()),
        ("proxy_on_memory_allocate", 2, vec![0x41, 0x80, 0x08]),
        ("proxy_on_context_create", 3, Vec::new()),
        ("proxy_on_vm_start", 4, constant(1)),
        ("proxy_on_configure", 4, constant(1)),
        ("proxy_on_request_headers", 5, adds),
    ];
    let kinds: Vec<Vec<u8>> = functions.iter().map(|(_, kind, _)| vec![*kind]).collect();
    let mut exports: Vec<Vec<u8>> = (1..)
        .zip(&functions)
        .map(|(index, (name, ..))| [sized(name.as_bytes()), vec![0, index]].concat())
        .collect();
    exports.push([sized(b"memory"), vec![2, 0]].concat());
    let bodies: Vec<Vec<u8>> = functions.iter().map(|(_, _, body)| code(body)).collect();
    let data = |at: u8, bytes: &[u8]| [vec![0, 0x41, at, 0x0b], sized(bytes)].concat();
    let sections = [
        (1, counted(&types)),
        (2, counted(&[import])),
        (3, counted(&kinds)),
        (5, vec![1, 0, 1]),
        (7, counted(&exports)),
        (10, counted(&bodies)),
        (11, counted(&[data(16, b"x-wasm"), data(32, &value)])),
    ];
    let mut out = b"\0asm\x01\0\0\0".to_vec();
    for (number, content) in sections {
        out.push(number);
        out.extend(sized(&content));
    }
    out
}

#[test]
fn scripts_and_modules_run_and_what_fails_lets_nothing_pass() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let module = module(*b"was here");
    let digest = ring::digest::digest(&ring::digest::SHA256, &module);
    let digest = digest.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let modules = server.local_addr().unwrap().port();
    // The name means both.
    if let Ok(server) = TcpListener::bind(("::1", modules)) {
        let module = module.clone();
        answering(move || server.accept().map(|(stream, _)| stream), module);
    }
    answering(move || server.accept().map(|(stream, _)| stream), module);
    let script = |text: &str| {
        format!("  lua:\n    - type: Inline\n      inline: |\n        {}\n", text.replace('\n', "\n        "))
    };
    let wasm = |digest: &str, more: &str| {
        format!(
            "  wasm:\n    - name: m\n      {more}code: {{ type: HTTP, http: {{ url: 'http://localhost:{modules}/m.wasm', sha256: {digest} }} }}\n"
        )
    };
    let lua = "function envoy_on_request(handle)\n  handle:headers():add(\"x-tier\", handle:filterContext():get(\"tier\"))\nend\n\
               function envoy_on_response(handle)\n  handle:headers():add(\"x-by\", \"lua]]\")\nend";
    let asks = "function envoy_on_request(handle)\n  local headers = handle:httpCall(\"edge/web/80\", {[\":method\"] = \"GET\", [\":path\"] = \"/\", \
                [\":authority\"] = \"a\"}, \"\", 1000)\n  handle:headers():add(\"x-asked\", headers[\":status\"])\n  error(\"no\")\nend";
    let wrong = "f".repeat(64);
    let mut documents = vec![
        manifest::service("edge", "web"),
        manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web")),
    ];
    for (name, spec) in [
        ("script", format!("{}      filterContext: {{ tier: gold }}\n", script(lua))),
        ("fails", script(asks)),
        ("breaks", script("error('at once')")),
        ("syntax", script("function envoy_on_request(handle)")),
        ("module", wasm(&digest, "")),
        ("unknown", wasm(&wrong, "")),
        ("open", wasm(&wrong, "failOpen: true\n      ")),
    ] {
        documents.push(manifest::http_route(
            "edge",
            name,
            "edge/public",
            &[],
            &manifest::rule(&format!("/{name}"), "web"),
        ));
        documents.push(policy(name, "EnvoyExtensionPolicy", "HTTPRoute", name, &spec));
    }
    let listeners = [Listener::http("http", ports::free().unwrap())];
    let target = serving(&mut stack, &listeners, documents, &["--allow-address", "localhost"]);
    let ask = |path: &str| send(&target, &get(path)).unwrap();
    let script = ask("/script");
    assert_eq!((script.status, script.header("x-by")), (200, Some("lua]]")));
    assert_eq!(script.echo().unwrap().header("x-tier"), ["gold"]);
    // A script that fails after it has waited for somebody, one that cannot be loaded, and one that is none.
    assert_eq!(["/fails", "/breaks", "/syntax"].map(|path| ask(path).status), [500; 3]);
    send_until(&target, &get("/module"), "the module", |answer| {
        answer.status == 200 && answer.echo().is_ok_and(|echo| echo.header("x-wasm") == ["was here"])
    })
    .unwrap();
    // Another module than the one that was meant does not run, and nothing passes without it.
    assert!(ask("/unknown").status >= 500);
    assert_eq!(ask("/open").status, 200);
}

/// A service that sees requests: it adds a header to those that it lets pass, and answers others itself.
struct Processor;

#[async_trait]
impl ExternalProcessor for Processor {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, tonic::Status>> + Send>>;

    async fn process(
        &self,
        request: tonic::Request<tonic::Streaming<ProcessingRequest>>,
    ) -> Result<tonic::Response<Self::ProcessStream>, tonic::Status> {
        let answers = request.into_inner().map(|message| message.map(|message| answered(&message)));
        Ok(tonic::Response::new(Box::pin(answers)))
    }
}

fn answered(message: &ProcessingRequest) -> ProcessingResponse {
    use processing_request::Request as Seen;
    let common = |added: Option<(&str, &str)>| {
        let set_headers = added.into_iter().map(|(key, value)| HeaderValueOption {
            header: Some(HeaderValue { key: key.into(), raw_value: value.into(), ..Default::default() }),
            ..Default::default()
        });
        let mutation = HeaderMutation { set_headers: set_headers.collect(), ..Default::default() };
        Some(CommonResponse { header_mutation: Some(mutation), ..Default::default() })
    };
    let response = match &message.request {
        Some(Seen::RequestHeaders(seen)) => {
            let headers = seen.headers.iter().flat_map(|map| &map.headers);
            let mut named = headers.filter(|header| header.key == "x-token");
            if named.any(|header| header.raw_value == b"bad" || header.value == "bad") {
                processing_response::Response::ImmediateResponse(ImmediateResponse {
                    status: Some(HttpStatus { code: 401 }),
                    ..Default::default()
                })
            } else {
                processing_response::Response::RequestHeaders(HeadersResponse {
                    response: common(Some(("x-processed", "yes"))),
                })
            }
        }
        Some(Seen::RequestBody(body)) => {
            let length = body.body.len().to_string();
            processing_response::Response::RequestBody(BodyResponse {
                response: common(Some(("x-length", &length))),
            })
        }
        Some(Seen::ResponseHeaders(_)) => processing_response::Response::ResponseHeaders(HeadersResponse {
            response: common(Some(("x-answered", "yes"))),
        }),
        other => panic!("{other:?} was not asked for"),
    };
    ProcessingResponse { response: Some(response), ..Default::default() }
}

#[test]
fn services_see_and_change_requests_and_without_them_nothing_passes() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let processor = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(ExternalProcessorServer::new(Processor));
    let task = runtime().spawn(async move {
        drop(server.serve_with_incoming(TcpListenerStream::new(listener)).await);
    });
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead = closed.local_addr().unwrap();
    drop(closed);
    let mut documents =
        vec![manifest::http_route("edge", "free", "edge/public", &[], &manifest::rule("/free", "web"))];
    for (name, address) in [("web", web.address()), ("processor", processor), ("dead", dead)] {
        stack.set_endpoints("edge", name, &[address]).unwrap();
        documents.push(manifest::service("edge", name));
    }
    let asked = |service: &str, more: &str| {
        format!(
            "  extProc:\n    - backendRefs: [{{ name: {service}, port: 80 }}]\n      messageTimeout: 5s\n{more}"
        )
    };
    let headers = "      processingMode: { request: {}, response: {} }\n";
    for (name, spec) in [
        ("seen", asked("processor", headers)),
        ("whole", asked("processor", "      processingMode: { request: { body: Buffered } }\n")),
        ("alone", asked("dead", headers)),
        ("said", asked("dead", &format!("{headers}      statusOnError: 503\n"))),
        ("open", asked("dead", &format!("{headers}      failOpen: true\n"))),
        (
            "settings",
            asked(
                "processor",
                &format!(
                    "{headers}      backendSettings: {{ circuitBreaker: {{ maxParallelRequests: 0 }} }}\n"
                ),
            ),
        ),
    ] {
        documents.push(manifest::http_route(
            "edge",
            name,
            "edge/public",
            &[],
            &manifest::rule(&format!("/{name}"), "web"),
        ));
        documents.push(policy(name, "EnvoyExtensionPolicy", "HTTPRoute", name, &spec));
    }
    let target = serving(&mut stack, &[Listener::http("http", ports::free().unwrap())], documents, &[]);
    let ask = |request: &Request| send(&target, request).unwrap();
    send_until(&target, &get("/seen"), "the service", |answer| answer.status == 200).unwrap();
    let seen = ask(&get("/seen"));
    assert_eq!(
        (seen.header("x-answered"), seen.echo().unwrap().header("x-processed")),
        (Some("yes"), vec!["yes"])
    );
    assert_eq!(ask(&get("/seen").header("x-token", "bad")).status, 401);
    assert_eq!(ask(&get("/free").header("x-token", "bad")).status, 200);
    let whole = ask(&get("/whole"));
    assert_eq!((whole.status, whole.header("x-answered")), (200, None));
    // A service that is not there.
    assert_eq!(["/alone", "/said", "/open"].map(|path| ask(&get(path)).status), [500, 503, 200]);
    // One that may not be asked at all.
    assert_eq!(ask(&get("/settings")).status, 500);
    task.abort();
}

const CREDENTIAL: &str = "Bearer only-the-backend-knows";

#[test]
fn credentials_are_put_in_and_lie_nowhere_else() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    let folder = stack.folder().join("secrets/edge/keys");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("credential"), CREDENTIAL).unwrap();
    let mut markers = Markers::default();
    markers.text("the credential", CREDENTIAL.trim_start_matches("Bearer "));
    let credential = |name: &str, more: &str| {
        format!("  credentialInjection: {{ credential: {{ valueRef: {{ name: {name} }} }}{more} }}\n")
    };
    let rules =
        [manifest::rule("/free", "web"), filtered("kept", Some("web")), filtered("forced", Some("web"))];
    // On a backend it is for the requests that go there, and for no others of the rule.
    let share = |named: &str, header: &str, filters: &str| {
        format!(
            "    - matches: [{{ path: {{ type: PathPrefix, value: /{named} }}, headers: [{{ name: x-to, value: {header} }}] }}]\n      \
             backendRefs: [{{ name: web, port: 80{filters} }}]\n"
        )
    };
    let own = ", filters: [{ type: ExtensionRef, extensionRef: { group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: kept } }]";
    let rules = [rules.concat(), share("backend", "keys", own), share("backend", "none", "")];
    let documents = vec![
        manifest::service("edge", "web"),
        manifest::http_route("edge", "all", "edge/public", &[], &rules.concat()),
        object("HTTPRouteFilter", "kept", &credential("keys", "")),
        object("HTTPRouteFilter", "forced", &credential("keys", ", overwrite: true, header: x-key")),
    ];
    let target = serving(&mut stack, &[Listener::http("http", ports::free().unwrap())], documents, &[]);
    let seen = |path: &str, header: &str| {
        let answer = send(&target, &get(path).header(header, "mine")).unwrap();
        answer.echo().unwrap().header(header).join(",")
    };
    let whole =
        |answer: &Answer| answer.echo().is_ok_and(|echo| echo.header("authorization") == [CREDENTIAL]);
    send_until(&target, &get("/kept"), "the credential", |answer| answer.status == 200 && whole(answer))
        .unwrap();
    assert_eq!(seen("/kept", "authorization"), "mine");
    assert_eq!(seen("/forced", "x-key"), CREDENTIAL);
    assert_eq!(seen("/free", "authorization"), "mine");
    let put = |to: &str| {
        let answer = send(&target, &get("/backend").header("x-to", to)).unwrap();
        answer.echo().unwrap().header("authorization").join(",")
    };
    assert_eq!(["keys", "none"].map(put), [CREDENTIAL, ""]);
    let told = lie_beside_the_relay_alone(&stack, &markers);
    assert!(told.contains("Secret/edge/keys/credential"), "{told}");
}
