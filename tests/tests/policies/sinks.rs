//! Lines of requests for a gRPC access log service and for OpenTelemetry, from a real Envoy.

use super::behaviour::HOST;
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
use prost::Message as _;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

/// Messages of gRPC, each with the path that it was sent to.
type Told = mpsc::Receiver<(String, Vec<u8>)>;

/// A server that takes whatever is sent to it by gRPC; it ends with the runtime that it is given.
fn server() -> (tokio::runtime::Runtime, SocketAddr, Told) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, told) = mpsc::channel();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = hyper::service::service_fn(move |request| taken(request, sender.clone()));
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    (runtime, address, told)
}

/// Tells of each message as soon as it is whole; a stream of them may never end.
async fn taken(
    request: http::Request<Incoming>,
    sender: mpsc::Sender<(String, Vec<u8>)>,
) -> Result<http::Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let path = request.uri().path().to_owned();
    let (mut body, mut all) = (request.into_body(), Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        if let Some(data) = frame.data_ref() {
            all.extend_from_slice(data);
        }
        // A flag, the length, and the message.
        while let Some(length) = all.get(1..5).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap())) {
            let end = 5 + length as usize;
            let Some(message) = all.get(5..end) else { break };
            let _ = sender.send((path.clone(), message.to_vec()));
            all.drain(..end);
        }
    }
    let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let empty = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
    Ok(http::Response::builder().header("content-type", "application/grpc").body(empty).unwrap())
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
    let class = manifest::gateway_class().replace(
        "controllerName",
        "parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, namespace: edge, name: all }\n  controllerName",
    );
    let parameters = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: { name: all, namespace: edge }\nspec:
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
    let documents = [
        class,
        parameters.to_owned(),
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
        let (path, message) = told.recv_timeout(Duration::from_secs(30)).unwrap();
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
        let (path, message) = collected.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(path, "/opentelemetry.proto.collector.logs.v1.LogsService/Export");
        let holds = |text: &str| message.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(holds("team") && holds("blue"), "{}", String::from_utf8_lossy(&message));
        if holds("GET /asked 200") {
            break;
        }
    }
}
