//! EnvoyProxy on a real Envoy: which requests are logged and how, spans for a collector, and the order of filters.

use super::behaviour::{HOST, policy};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

/// What somebody sends to a collector of spans, request by request.
fn collector() -> (std::net::SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // It ends with the test: nobody listens any more.
        for stream in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let (mut stream, mut all, mut buffer) = (stream, Vec::new(), [0; 4096]);
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    all.extend_from_slice(&buffer[..length]);
                    let text = String::from_utf8_lossy(&all).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length =
                        head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                    if body.len() >= length.unwrap_or(0_usize) {
                        let _ = stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
                        if sender.send(text).is_err() {
                            return;
                        }
                        all.clear();
                    }
                }
            });
        }
    });
    (address, receiver)
}

#[test]
fn logs_spans_and_order_are_as_the_parameters_say() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    let (zipkin, spans) = collector();
    stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
    stack.set_endpoints("edge", "zipkin", &[zipkin]).unwrap();
    let port = ports::free().unwrap();
    let log = stack.folder().join("requests.log");
    let class = manifest::gateway_class().replace(
        "controllerName",
        "parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, namespace: edge, name: all }\n  controllerName",
    );
    let parameters = format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{ name: all, namespace: edge }}\nspec:\n  \
         filterOrder: [{{ name: envoy.filters.http.local_ratelimit, before: envoy.filters.http.rbac }}]\n  telemetry:\n    accessLog:\n      settings:\n        \
         - format: {{ type: Text, text: \"%REQ(:METHOD)% %PATH(NQ)% %RESPONSE_CODE%\\n\" }}\n          matches: [\"request.headers['x-log'] == 'yes'\"]\n          \
         sinks: [{{ type: File, file: {{ path: {} }} }}]\n    tracing:\n      samplingRate: 100\n      provider: {{ type: Zipkin, backendRefs: [{{ name: zipkin, port: 80 }}] }}\n      \
         customTags: {{ shop: {{ type: Literal, literal: {{ value: corner }} }} }}\n",
        log.display()
    );
    let guard = "  authorization: { defaultAction: Deny, rules: [{ action: Allow, principal: { headers: [{ name: x-who, values: [friend] }] } }] }\n";
    let limit = "  rateLimit: { type: Local, local: { rules: [{ limit: { requests: 2, unit: Hour } }] } }\n";
    let route = |name: &str| {
        manifest::http_route("edge", name, "edge/public", &[], &manifest::rule(&format!("/{name}"), "web"))
    };
    let documents = [
        class,
        parameters,
        manifest::service("edge", "web"),
        manifest::service("edge", "zipkin"),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        route("open"),
        route("guarded"),
        policy("guard", "SecurityPolicy", "HTTPRoute", "guarded", guard),
        policy("limit", "BackendTrafficPolicy", "HTTPRoute", "guarded", limit),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &Request::get(HOST, "/open"), "an answer", |answer| answer.status == 200).unwrap();

    // Whoever is kept out uses up the limit, because it comes first now.
    let statuses: Vec<u16> =
        (0..3).map(|_| send(&target, &Request::get(HOST, "/guarded")).unwrap().status).collect();
    assert_eq!(statuses, [403, 403, 429]);

    let logged = Request::get(HOST, "/open?token=x").header("x-log", "yes");
    assert_eq!(send(&target, &logged).unwrap().status, 200);
    // Envoy writes its buffer out each second; until then the file is there and empty.
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let lines = loop {
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        if !lines.is_empty() || std::time::Instant::now() > deadline {
            break lines;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(lines, "GET /open 200\n");
    let span = spans.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(span.starts_with("POST /api/v2/spans ") && span.contains("\"shop\":\"corner\""), "{span}");
}
