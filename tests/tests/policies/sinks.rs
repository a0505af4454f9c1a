//! Lines of requests for a gRPC access log service and for OpenTelemetry, from a real Envoy.

use super::behaviour::HOST;
use super::traffic::{names, resolver};
use bytes::Bytes;
use envoy_types::pb::envoy::data::accesslog::v3::HttpAccessLogEntry;
use envoy_types::pb::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use moorgate_tests::wait;
use prost::Message as _;
use std::convert::Infallible;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A message of gRPC.
pub(super) struct Message {
    /// The path that it was sent to.
    pub(super) path: String,
    /// The header `x-key` that came with it.
    pub(super) key: Option<String>,
    pub(super) bytes: Vec<u8>,
}

/// Messages of gRPC.
pub(super) type Told = mpsc::Receiver<Message>;

/// What came on connections.
type Bytewise = Arc<Mutex<Vec<Vec<u8>>>>;

/// A server that takes whatever is sent to it by gRPC; it ends with the runtime that it is given.
pub(super) fn server() -> (tokio::runtime::Runtime, SocketAddr, Told) {
    let (runtime, address, told, _) = overheard();
    (runtime, address, told)
}

/// The same, with what comes on each of its connections, byte by byte.
fn overheard() -> (tokio::runtime::Runtime, SocketAddr, Told, Bytewise) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, told) = mpsc::channel();
    let heard = Bytewise::default();
    let all = Arc::clone(&heard);
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request| taken(request, sender.clone()));
            let index = {
                let mut all = all.lock().unwrap();
                all.push(Vec::new());
                all.len() - 1
            };
            let stream = Overheard { stream, all: Arc::clone(&all), index };
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    (runtime, address, told, heard)
}

/// A connection of which what is read is kept.
struct Overheard {
    stream: TcpStream,
    all: Bytewise,
    index: usize,
}

impl AsyncRead for Overheard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.all.lock().unwrap()[self.index].extend_from_slice(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A server that takes spans by HTTP/1.1, behind whatever stands before a request, and what came on its connections. It ends
/// with the test's process.
fn zipkin() -> (SocketAddr, Bytewise) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Bytewise::default();
    let all = Arc::clone(&heard);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let all = Arc::clone(&all);
            std::thread::spawn(move || {
                let index = {
                    let mut all = all.lock().unwrap();
                    all.push(Vec::new());
                    all.len() - 1
                };
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut bytes) {
                    let mut all = all.lock().unwrap();
                    all[index].extend_from_slice(&bytes[..length]);
                    // Spans end a list.
                    if all[index].ends_with(b"]") {
                        let _ = stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n");
                    }
                }
            });
        }
    });
    (address, heard)
}

/// Tells of each message as soon as it is whole; a stream of them may never end.
async fn taken(
    request: http::Request<Incoming>,
    sender: mpsc::Sender<Message>,
) -> Result<http::Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let path = request.uri().path().to_owned();
    let key = request.headers().get("x-key").map(|key| key.to_str().unwrap().to_owned());
    let (mut body, mut all) = (request.into_body(), Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            all.extend_from_slice(data);
        }
        // A flag, the length, and the message.
        while let Some(length) = all.get(1..5).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap())) {
            let end = 5 + length as usize;
            let Some(message) = all.get(5..end) else { break };
            let message = Message { path: path.clone(), key: key.clone(), bytes: message.to_vec() };
            let _ = sender.send(message);
            all.drain(..end);
        }
    }
    let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let empty = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
    Ok(http::Response::builder().header("content-type", "application/grpc").body(empty).unwrap())
}

/// A class, and what holds for all of its Envoys.
fn all(spec: &str) -> [String; 2] {
    let class = manifest::gateway_class().replace(
        "controllerName",
        "parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, namespace: edge, name: all }\n  controllerName",
    );
    let head = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: { name: all, namespace: edge }\nspec:";
    [class, format!("{head}\n{}", spec.trim_start_matches('\n'))]
}

#[test]
fn lines_go_to_services_by_grpc() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    let (_als_runtime, als, told) = server();
    let (_otel_runtime, otel, collected) = server();
    for (name, address) in [("web", web.address()), ("als", als), ("otel", otel)] {
        stack.set_endpoints("edge", name, &[address]).unwrap();
    }
    let port = ports::free().unwrap();
    let parameters = "
  telemetry:
    accessLog:
      settings:
        - format: { type: Text, text: \"%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%\" }
          sinks:
            - type: ALS
              als: { type: HTTP, logName: corner, backendRefs: [{ name: als, port: 80 }], http: { requestHeaders: [x-user] } }
            - type: OpenTelemetry
              openTelemetry: { backendRefs: [{ name: otel, port: 80 }], resourceAttributes: { team: blue } }
";
    let [class, parameters] = all(parameters);
    let documents = [
        class,
        parameters,
        manifest::service("edge", "web"),
        manifest::service("edge", "als"),
        manifest::service("edge", "otel"),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        manifest::http_route("edge", "all", "edge/public", &[], &manifest::rule("/", "web")),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &Request::get(HOST, "/first"), "an answer", |answer| answer.status == 200).unwrap();
    let request = Request::get(HOST, "/asked").header("x-user", "ann");
    assert_eq!(send(&target, &request).unwrap().status, 200);

    let mut log_name = None;
    let entry = loop {
        let Message { path, bytes: message, .. } = told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(path, "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs");
        let message = StreamAccessLogsMessage::decode(message.as_slice()).unwrap();
        // Only the first message of a stream says whose it is.
        log_name = message.identifier.map(|identifier| identifier.log_name).or(log_name);
        let Some(LogEntries::HttpLogs(logs)) = message.log_entries else { panic!("lines of requests") };
        let is_asked = |entry: &&HttpAccessLogEntry| {
            entry.request.as_ref().is_some_and(|request| request.path == "/asked")
        };
        if let Some(entry) = logs.log_entry.iter().find(is_asked) {
            break entry.clone();
        }
    };
    assert_eq!(log_name.as_deref(), Some("corner"));
    let (request, response) = (entry.request.unwrap(), entry.response.unwrap());
    assert_eq!(request.request_headers.get("x-user").map(String::as_str), Some("ann"));
    assert_eq!(response.response_code.unwrap().value, 200);

    loop {
        let Message { path, bytes: message, .. } = collected.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(path, "/opentelemetry.proto.collector.logs.v1.LogsService/Export");
        let holds = |text: &str| message.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(holds("team") && holds("blue"), "{}", String::from_utf8_lossy(&message));
        if holds("GET /asked 200") {
            break;
        }
    }
}

/// Sinks by `host` and `port`, each reached as its `backendSettings` say: where they speak of names, Envoy looks for them itself.
fn outside(otel: u16, spans: u16) -> [String; 2] {
    all(&format!(
        "
  telemetry:
    accessLog:
      settings:
        - type: Route
          format: {{ type: Text, text: \"%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE%\" }}
          sinks:
            - type: ALS
              als:
                type: HTTP
                backendRefs: [{{ name: als, port: 80 }}]
                backendSettings: {{ http2: {{ initialStreamWindowSize: 128Ki }}, circuitBreaker: {{ maxConnections: 7 }} }}
            - type: OpenTelemetry
              openTelemetry:
                host: otel.example.net
                port: {otel}
                backendSettings: {{ http2: {{ initialStreamWindowSize: 96Ki }}, dns: {{ lookupFamily: IPv4 }} }}
    tracing:
      samplingRate: 100
      provider:
        type: Zipkin
        host: zipkin.example.net
        port: {spans}
        backendSettings: {{ proxyProtocol: {{ version: V1 }}, dns: {{ lookupFamily: IPv4 }} }}
",
    ))
}

#[test]
fn sinks_outside_are_reached_as_their_settings_say() {
    let mut stack = Stack::new("edge/public").unwrap();
    let web = Backend::start("web").unwrap();
    let (_als_runtime, als, told, als_heard) = overheard();
    let (_otel_runtime, otel, collected, otel_heard) = overheard();
    let (spans, spans_heard) = zipkin();
    let (asked, questions) = names();
    stack.envoy_arguments = vec!["--config-yaml".into(), resolver(asked)];
    for (name, address) in [("web", web.address()), ("als", als)] {
        stack.set_endpoints("edge", name, &[address]).unwrap();
    }
    let port = ports::free().unwrap();
    let [class, parameters] = outside(otel.port(), spans.port());
    let documents = [
        class,
        parameters,
        manifest::service("edge", "web"),
        manifest::service("edge", "als"),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        manifest::http_route("edge", "all", "edge/public", &[], &manifest::rule("/", "web")),
    ];
    stack.publish_documents(&documents).unwrap().ended_with(&[0]).unwrap();
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &Request::get(HOST, "/asked"), "an answer", |answer| answer.status == 200).unwrap();

    let holds = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    for told in [&told, &collected] {
        loop {
            let Ok(message) = told.recv_timeout(Duration::from_secs(30)) else {
                panic!("no line came: {}", stack.envoy().unwrap().admin("/clusters").unwrap());
            };
            if holds(&message.bytes, b"/asked") {
                break;
            }
        }
    }
    // The settings with which a connection of HTTP/2 begins: 4 is the window of a stream.
    for (heard, window) in [(&als_heard, 128_u32), (&otel_heard, 96)] {
        let setting = [&[0, 4][..], &(window * 1024).to_be_bytes()].concat();
        let heard = heard.lock().unwrap();
        assert!(!heard.is_empty() && heard.iter().all(|bytes| holds(bytes, &setting)), "{window} {heard:?}");
    }
    let clusters = stack.envoy().unwrap().admin("/clusters").unwrap();
    let bounded = |line: &&str| line.ends_with("default_priority::max_connections::7");
    let bounded: Vec<&str> = clusters.lines().filter(bounded).collect();
    assert!(bounded.len() == 1 && bounded[0].contains("edge/als/"), "{clusters}");
    // Spans come behind a header that says whose connection it is; Envoy sends them from time to time.
    wait::until("a span", || {
        let heard = spans_heard.lock().unwrap();
        let all: Vec<String> =
            heard.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        let whole = |text: &String| {
            text.starts_with("PROXY ")
                && text.contains("\r\nPOST /api/v2/spans HTTP/1.1\r\n")
                && text.contains("zipkin.example.net")
                && text.contains("/asked")
        };
        anyhow::ensure!(all.iter().any(whole), "{all:?}");
        Ok(())
    })
    .unwrap();
    for name in [&b"\x04otel"[..], b"\x06zipkin"] {
        assert!(questions.lock().unwrap().iter().any(|question| holds(question, name)), "{questions:?}");
    }
}
