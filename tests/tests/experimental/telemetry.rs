//! `XTelemetryPolicy`: spans of a real Envoy at a collector, over both transports of the OpenTelemetry protocol.

use super::{HOST, publish, start};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send};
use moorgate_tests::program::envoys;
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, runtime, wait};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// A request that a collector took: its path, host and headers, and the spans in it with the service that they are of.
#[derive(Clone, Debug)]
struct Export {
    path: String,
    host: String,
    headers: http::HeaderMap,
    spans: Vec<(String, Span)>,
}

/// A collector that takes spans over gRPC and HTTP on one port, and keeps them.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Export>>>);

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.clone()) {
        Some(any_value::Value::StringValue(text)) => text,
        other => format!("{other:?}"),
    }
}

fn of(list: &[KeyValue], key: &str) -> Option<String> {
    list.iter().find(|one| one.key == key).map(|one| text(one.value.as_ref()))
}

impl Collector {
    fn start() -> Result<(Self, SocketAddr)> {
        let listener = runtime().block_on(TcpListener::bind("127.0.0.1:0"))?;
        let (collector, address) = (Self::default(), listener.local_addr()?);
        let out = collector.clone();
        runtime().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let collector = collector.clone();
                let service = service_fn(move |request| collector.clone().take(request));
                tokio::spawn(async move {
                    let builder = Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok((out, address))
    }

    async fn take(self, request: http::Request<Incoming>) -> Result<http::Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let grpc = head.headers.get("content-type").is_some_and(|value| value == "application/grpc");
        // A message of gRPC has five bytes before it, and this one is not compressed.
        let message = if grpc { body.slice(5..) } else { body };
        let told = ExportTraceServiceRequest::decode(message).unwrap();
        let mut spans = Vec::new();
        for resource in told.resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = of(&attributes, "service.name").unwrap_or_default();
            let found = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(found.map(|span| (service.clone(), span)));
        }
        let host = head.headers.get("host").and_then(|host| host.to_str().ok().map(str::to_owned));
        let host = host.or_else(|| head.uri.authority().map(ToString::to_string)).unwrap_or_default();
        let path = head.uri.path().to_owned();
        self.0.lock().unwrap().push(Export { path, host, headers: head.headers, spans });
        let mut answer = http::Response::builder();
        let mut trailers = http::HeaderMap::new();
        if grpc {
            answer = answer.header("content-type", "application/grpc");
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        }
        let bytes = if grpc { Bytes::from_static(&[0; 5]) } else { Bytes::new() };
        let body = Full::new(bytes).with_trailers(async move { Some(Ok(trailers)) });
        Ok(answer.body(body.boxed_unsync()).unwrap())
    }

    /// Spans of requests for a path, as this service, with the export that brought each.
    fn spans(&self, service: &str, path: &str) -> Vec<(Export, Span)> {
        let exports = self.0.lock().unwrap().clone();
        let all = exports.into_iter().flat_map(|export| {
            export.spans.clone().into_iter().map(move |(service, span)| (export.clone(), service, span))
        });
        let here = |span: &Span| of(&span.attributes, "http.url").is_some_and(|url| url.ends_with(path));
        all.filter(|(_, of, span)| of == service && here(span))
            .map(|(export, _, span)| (export, span))
            .collect()
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

/// A Gateway with a route, a collector's Service in another namespace that permits it, and a policy.
fn objects(port: u16, collector_port: u16, tracing: &str) -> Vec<String> {
    vec![
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{ name: public, namespace: edge }}\n\
             spec:\n  gatewayClassName: moorgate\n  listeners: [{{ name: http, port: {port}, protocol: HTTP }}]\n"
        ),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: { name: r, namespace: edge }\n\
         spec:\n  parentRefs: [{ name: public }]\n  rules:\n  \
         - matches: [{ path: { value: /rewritten } }]\n    \
         filters: [{ type: URLRewrite, urlRewrite: { path: { type: ReplaceFullPath, replaceFullPath: /inner } } }]\n    \
         backendRefs: [{ name: web, port: 80 }]\n  - backendRefs: [{ name: web, port: 80 }]\n"
            .to_owned(),
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{ name: otel, namespace: telemetry }}\n\
             spec: {{ ports: [{{ name: http, port: {collector_port} }}] }}\n"
        ),
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: { name: g, namespace: telemetry }\n\
         spec:\n  from: [{ group: gateway.networking.x-k8s.io, kind: XTelemetryPolicy, namespace: edge }]\n  \
         to: [{ group: '', kind: Service }]\n"
            .to_owned(),
        format!(
            "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XTelemetryPolicy\n\
             metadata: {{ name: p, namespace: edge }}\nspec:\n  \
             targetRefs: [{{ group: gateway.networking.k8s.io, kind: Gateway, name: public }}]\n  tracing:\n    \
             mode: Enabled\n    provider:\n      backendRef: {{ name: otel, namespace: telemetry, port: {collector_port} }}\n      \
             headers: [{{ name: X-Key, value: all mine }}]\n{tracing}"
        ),
    ]
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A request of a trace, whose span is sampled or not.
fn of_trace(path: &str, sampled: bool) -> Request {
    let flags = if sampled { "01" } else { "00" };
    Request::get(HOST, path).header("traceparent", &format!("00-{TRACE}-b7ad6b7169203331-{flags}"))
}

/// Sends this until a span of it is there as this service: then Envoy does what was published last.
fn until_traced(collector: &Collector, port: u16, service: &str, request: &Request) -> (Export, Span) {
    wait::until(&format!("a span of {} as {service}", request.path), || {
        // As many spans as make Envoy send them at once.
        for _ in 0..5 {
            ensure!(send(&Target::plain(port), request)?.status == 200, "no answer");
        }
        collector.spans(service, &request.path).into_iter().next().context("no span")
    })
    .unwrap()
}

const ATTRIBUTES: &str = "    spanName: ingress shop
    attributes:
    - { name: tier, sourceType: Literal, literalValue: 100% front }
    - { name: user, sourceType: Header, headerName: X-User }
    - { name: backend, sourceType: Header, headerName: X-Backend }
    - { name: nobody, sourceType: Header, headerName: X-Nobody }
    - { name: http.request.method, sourceType: Attribute, attributeKey: http.request.method }
    - { name: status, sourceType: Attribute, attributeKey: http.response.status_code }
    - { name: url.path, sourceType: Attribute, attributeKey: url.path }
    - { name: client.address, sourceType: Attribute, attributeKey: client.address }
    - { name: agent, sourceType: Attribute, attributeKey: http.request.header.user-agent }
    - { name: issuer, sourceType: Attribute, attributeKey: tls.client.issuer }
";

#[test]
fn spans_reach_the_collector_that_a_policy_names_with_what_it_asks_for() {
    for (version, program) in envoys().unwrap() {
        println!("Envoy {version}");
        spans_of(program);
    }
}

fn spans_of(envoy: PathBuf) {
    let mut stack = Stack::new("edge/public").unwrap();
    stack.program = envoy;
    let backend = Backend::start("web").unwrap();
    stack.set_endpoints("edge", "web", &[backend.address()]).unwrap();
    let (collector, address) = Collector::start().unwrap();
    stack.set_endpoints("telemetry", "otel", &[address]).unwrap();
    let port = ports::free().unwrap();
    start(&mut stack, &[port], &["web"], &objects(port, 4317, ATTRIBUTES));

    // All new traces, over gRPC.
    let request = Request::get(HOST, "/rewritten").header("x-user", "ann").header("user-agent", "test/1");
    let (export, span) = until_traced(&collector, port, "public.edge", &request);
    assert_eq!(export.path, "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    assert_eq!(export.host, "otel.telemetry.svc:4317");
    assert_eq!(export.headers["x-key"], "all mine");
    assert_eq!(span.name, "ingress shop");
    let attribute = |key: &str| of(&span.attributes, key);
    for (key, expected) in [
        ("tier", "100% front"),
        ("user", "ann"),
        // The request has no such header, the response has.
        ("backend", "web"),
        ("http.request.method", "GET"),
        ("status", "200"),
        ("url.path", "/rewritten"),
        ("client.address", "127.0.0.1"),
        ("agent", "test/1"),
    ] {
        assert_eq!(attribute(key).as_deref(), Some(expected), "{key} in {:?}", span.attributes);
    }
    assert_eq!((attribute("nobody"), attribute("issuer")), (None, None));
    // The backend goes on in the same trace.
    let last = backend.last().unwrap();
    assert_eq!((last.path.as_str(), last.header("traceparent").len()), ("/inner", 1));

    // Whoever asks in a trace is its child; one that is not sampled stays so.
    let (_, child) = until_traced(&collector, port, "public.edge", &of_trace("/child", true));
    assert_eq!(hex(&child.trace_id), TRACE);
    assert_eq!(hex(&child.parent_span_id), "b7ad6b7169203331");
    assert_eq!(send(&Target::plain(port), &of_trace("/hidden", false)).unwrap().status, 200);
    until_traced(&collector, port, "public.edge", &of_trace("/after-hidden", true));
    assert!(collector.spans("public.edge", "/hidden").is_empty());

    // No new trace; those that are sampled already show when this is in force.
    publish(
        &stack,
        &["web"],
        &objects(port, 4317, "    serviceName: none\n    samplingRate: { numerator: 0 }\n"),
    );
    until_traced(&collector, port, "none", &of_trace("/on", true));
    for _ in 0..50 {
        let forced =
            Request::get(HOST, "/new").header("x-client-trace-id", "1").header("x-envoy-force-trace", "1");
        assert_eq!(send(&Target::plain(port), &forced).unwrap().status, 200);
    }
    until_traced(&collector, port, "none", &of_trace("/off", true));
    assert!(collector.spans("none", "/new").is_empty());

    // Whatever the parent says, over HTTP.
    let alone = "    serviceName: alone\n    parentBasedSampling: { mode: Disabled }\n";
    publish(&stack, &["web"], &objects(port, 4318, alone));
    let (export, span) = until_traced(&collector, port, "alone", &of_trace("/own", false));
    assert_eq!((export.path.as_str(), hex(&span.trace_id).as_str()), ("/v1/traces", TRACE));
    assert_eq!(export.host, "otel.telemetry.svc:4318");
    assert_eq!(export.headers["x-key"], "all mine");
    assert_eq!(export.headers["content-type"], "application/x-protobuf");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
