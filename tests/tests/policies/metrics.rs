//! Statistics of a real Envoy: who reads them, which there are, and what they are called (EnvoyProxy `telemetry.metrics`).

use super::behaviour::HOST;
use super::sinks::{Message, Told, server};
use envoy_types::pb::opentelemetry::proto::common::v1::{KeyValue, any_value};
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Answer, Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A fleet whose Envoy starts as its EnvoyProxy says.
pub(super) struct Stage {
    pub(super) stack: Stack,
    pub(super) port: u16,
    pub(super) stats: u16,
    web: Backend,
}

impl Stage {
    pub(super) fn new() -> Self {
        let (stack, web) = (Stack::new("edge/public").unwrap(), Backend::start("web").unwrap());
        stack.set_endpoints("edge", "web", &[web.address()]).unwrap();
        let [port, stats] = [(); 2].map(|()| ports::free().unwrap());
        Self { stack, port, stats, web }
    }

    /// The documents of the fleet, with this `spec` of its EnvoyProxy.
    pub(super) fn documents(&self, spec: &str) -> Vec<String> {
        let class = manifest::gateway_class().replace(
            "controllerName",
            "parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, namespace: edge, name: all }\n  controllerName",
        );
        let parameters = format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{ name: all, namespace: edge }}\nspec:\n{spec}"
        );
        let rules = manifest::rule("/one", "web") + &manifest::rule("/two", "web");
        vec![
            class,
            parameters,
            manifest::service("edge", "web"),
            manifest::gateway("edge", "public", &[Listener::http("http", self.port)]),
            manifest::http_route("edge", "paths", "edge/public", &[HOST], &rules),
        ]
    }

    /// Publishes these, and starts an Envoy with the bootstrap of the same source. Collectors lie on the same machine.
    pub(super) fn start(&mut self, documents: &[String]) {
        const HERE: [&str; 2] = ["--allow-address", "127.0.0.1"];
        self.stack.publish_documents_with(documents, &HERE).unwrap();
        if self.stack.relay().is_err() {
            self.stack.start_relay().unwrap();
        }
        let source = self.stack.folder().join("source.yaml").display().to_string();
        let stats = format!("127.0.0.1:{}", self.stats);
        let more = HERE.map(str::to_owned).into_iter().chain([source, "--stats".to_owned(), stats]);
        self.stack.bootstrap_arguments = more.collect();
        self.stack.start_envoy(&[self.port]).unwrap();
        let answers = |answer: &Answer| answer.backend() == Some("web");
        send_until(&Target::plain(self.port), &Request::get(HOST, "/one"), "an answer", answers).unwrap();
    }

    fn scrape(&self, request: &Request) -> Answer {
        send(&Target::plain(self.stats), request).unwrap()
    }

    /// What Prometheus reads.
    fn series(&self) -> String {
        let answer = self.scrape(&Request::get("any", "/stats/prometheus"));
        assert_eq!(answer.status, 200);
        String::from_utf8(answer.body.to_vec()).unwrap()
    }
}

#[test]
fn prometheus_reads_statistics_and_nothing_else_of_the_admin_interface() {
    let mut stage = Stage::new();
    let with = |kind: &str| {
        format!("  telemetry: {{ metrics: {{ prometheus: {{ compression: {{ type: {kind} }} }} }} }}\n")
    };
    for (kind, coding) in [("Gzip", "gzip"), ("Brotli", "br"), ("Zstd", "zstd")] {
        stage.start(&stage.documents(&with(kind)));
        let text = stage.series();
        assert!(text.contains("envoy_http_downstream_rq_completed{"), "{text}");
        let asked = Request::get("any", "/stats/prometheus");
        let packed = stage.scrape(&asked.clone().header("accept-encoding", coding));
        assert_eq!(packed.header("content-encoding"), Some(coding));
        assert!(packed.body.len() * 2 < text.len(), "{} of {}", packed.body.len(), text.len());
        let other = stage.scrape(&asked.header("accept-encoding", "identity"));
        assert_eq!(other.header("content-encoding"), None);
    }
    let others = [
        "/",
        "/stats",
        "/clusters",
        "/config_dump",
        "/certs",
        "/server_info",
        "/quitquitquit",
        "/logging?level=off",
        "/healthcheck/fail",
        "/stats/prometheus/",
        "/stats/prometheus/../../quitquitquit",
        "//quitquitquit",
        "/stats/prometheus%2f..%2f..%2fquitquitquit",
        "/stats/recentlookups",
        "/drain_listeners",
        "/runtime_modify?a=b",
    ];
    for path in others {
        for method in ["GET", "POST"] {
            let answer = stage.scrape(&Request::get("any", path).method(method));
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = stage.scrape(&Request::get("any", "/stats/prometheus").method(method));
        assert_eq!(answer.status, 404, "{method}");
    }
    assert!(stage.series().contains("envoy_server_live"), "it lives on");
    let counts = stage.stack.envoy().unwrap().stat("http.moorgate-stats.downstream_rq_completed").unwrap();
    assert!(counts > 30, "they are counted by themselves, and relays pass them over: {counts}");

    stage.start(&stage.documents("  telemetry: { metrics: { prometheus: { disable: true } } }\n"));
    let closed = std::net::TcpStream::connect(("127.0.0.1", stage.stats));
    assert!(closed.is_err(), "nobody listens where statistics are off");
}

/// What a collector of OpenTelemetry takes (opentelemetry-proto 1.x, `metrics/v1/metrics.proto`), as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfResource {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Metric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "7")]
    sum: Option<Points>,
    #[prost(message, optional, tag = "9")]
    histogram: Option<Points>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Points {
    #[prost(int32, tag = "2")]
    temporality: i32,
}

/// Waits until a collector was told of a metric, and gives all that it was told till then.
fn told_of(told: &Told, wanted: &str) -> (Vec<Metric>, BTreeMap<String, String>, Option<String>) {
    let mut all = Vec::new();
    loop {
        let Message { path, key, bytes } = told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(path, "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export");
        let export = Export::decode(bytes.as_slice()).unwrap();
        let mut attributes = BTreeMap::new();
        for of in export.resources {
            for pair in of.resource.into_iter().flat_map(|resource| resource.attributes) {
                if let Some(any_value::Value::StringValue(text)) = pair.value.and_then(|value| value.value) {
                    attributes.insert(pair.key, text);
                }
            }
            all.extend(of.scopes.into_iter().flat_map(|scope| scope.metrics));
        }
        if all.iter().any(|metric| metric.name.contains(wanted)) {
            return (all, attributes, key);
        }
    }
}

/// Two collectors: one is a Service of which Envoy itself finds the address, the other has a host and port.
#[test]
fn collectors_are_told_what_is_kept_as_they_want_it() {
    let mut stage = Stage::new();
    let (_first_runtime, first, deltas) = server();
    let (_second_runtime, second, totals) = server();
    let spec = "  bootstrap: { type: Merge, value: 'stats_flush_interval: 0.2s' }\n  telemetry:\n    metrics:\n      \
         matches: [{ type: Prefix, value: http.http- }, { type: Suffix, value: upstream_rq_total }, { value: server.uptime }, \
         { type: RegularExpression, value: 'cluster\\.edge/web/80\\.upstream_rq_time' }]\n      sinks:\n      \
         - type: OpenTelemetry\n        openTelemetry:\n          backendRefs: [{ group: gateway.envoyproxy.io, kind: Backend, name: otel }]\n          \
         headers: [{ name: X-Key, value: fifty }]\n          resourceAttributes: { team: blue }\n          \
         reportCountersAsDeltas: true\n          reportHistogramsAsDeltas: true\n      \
         - type: OpenTelemetry\n        openTelemetry: { backendRefs: [{ group: gateway.envoyproxy.io, kind: Backend, name: other }] }\n";
    let backend = |name: &str, at: std::net::SocketAddr| {
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {{ name: {name}, namespace: edge }}\nspec:\n  \
             endpoints: [{{ ip: {{ address: {}, port: {} }} }}]\n",
            at.ip(),
            at.port()
        )
    };
    let mut documents = stage.documents(spec);
    documents.extend([backend("otel", first), backend("other", second)]);
    stage.start(&documents);

    let (metrics, attributes, key) = told_of(&deltas, "upstream_rq_time");
    assert_eq!(attributes.get("team").map(String::as_str), Some("blue"), "{attributes:?}");
    assert_eq!(key.as_deref(), Some("fifty"));
    let temporality = |metrics: &[Metric]| -> BTreeSet<i32> {
        let points = metrics.iter().filter_map(|metric| metric.sum.as_ref().or(metric.histogram.as_ref()));
        points.map(|points| points.temporality).collect()
    };
    assert_eq!(temporality(&metrics), BTreeSet::from([1]), "deltas");
    let (metrics, attributes, key) = told_of(&totals, "upstream_rq_time");
    assert_eq!((attributes.get("team"), key), (None, None));
    assert_eq!(temporality(&metrics), BTreeSet::from([2]), "totals");
    // What is not asked for is not there, but what Envoy and its relay live by.
    let named = |part: &str| metrics.iter().any(|metric| metric.name.contains(part));
    assert!(named("downstream_rq_completed") && named("upstream_rq_total") && named("membership_healthy"));
    for absent in ["server.live", "downstream_cx_rx_bytes_total", "listener_manager", "upstream_cx_total"] {
        let found = stage.stack.envoy().unwrap().admin(&format!("/stats?filter={absent}")).unwrap();
        let found: Vec<&str> = found.lines().filter(|line| !line.starts_with("http.http-")).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn routes_hosts_endpoints_sizes_and_calls_are_counted_by_name() {
    let mut stage = Stage::new();
    let (_runtime, calls, _told) = server();
    stage.stack.set_endpoints("edge", "calls", &[calls]).unwrap();
    let spec = "  telemetry:\n    metrics:\n      enableVirtualHostStats: true\n      enablePerEndpointStats: true\n      \
        enableRequestResponseSizesStats: true\n      enableGRPCStats: true\n      \
        clusterStatName: '%ROUTE_KIND%/%ROUTE_NAMESPACE%/%ROUTE_NAME%/rule/%ROUTE_RULE_NUMBER%'\n";
    let mut documents = stage.documents(spec);
    documents.push(manifest::service("edge", "calls"));
    documents.push(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: { name: calls, namespace: edge }\nspec:\n  \
         parentRefs: [{ name: public }]\n  hostnames: [calls.example.com]\n  rules: [{ backendRefs: [{ name: calls, port: 80 }] }]\n"
            .to_owned(),
    );
    stage.start(&documents);
    let target = Target::plain(stage.port);
    for path in ["/one", "/two", "/two"] {
        assert_eq!(send(&target, &Request::get(HOST, path)).unwrap().status, 200);
    }
    let call = Request::get("calls.example.com", "/shop.Basket/Add").method("POST");
    let answer = send(&target, &call.header("content-type", "application/grpc")).unwrap();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/grpc")));
    let envoy = stage.stack.envoy().unwrap();
    let count = |name: &str| envoy.stat(name).unwrap();
    // Rules with one backend are counted apart.
    assert_eq!(count("cluster.httproute/edge/paths/rule/1.upstream_rq_total"), 2);
    assert!(count("cluster.httproute/edge/paths/rule/0.upstream_rq_total") >= 2);
    assert_eq!(count("cluster.grpcroute/edge/calls/rule/0.grpc.shop.Basket.Add.success"), 1);
    let all = envoy.admin("/stats?filter=vcluster%7Csize").unwrap();
    let host = all.lines().find(|line| line.contains(".vcluster.shop_example_com.upstream_rq_200: "));
    assert!(host.is_some_and(|line| line.starts_with("vhost.")), "{all}");
    assert!(all.contains("cluster.httproute/edge/paths/rule/1.upstream_rq_headers_size"), "{all}");
    let series = stage.series();
    let mut endpoints = series.lines().filter(|line| line.starts_with("envoy_cluster_endpoint_rq_success"));
    let port = stage.web.address().port().to_string();
    assert!(endpoints.any(|line| line.contains(&port)), "{series}");
}
