//! The relay as it is seen from outside: status of clients, metrics, traces, and what a bad secret costs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

use anyhow::{Context as _, Result, bail, ensure};
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use envoy_types::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ConfigStatus, client_config::GenericXdsConfig,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{NodeMatcher, StringMatcher};
use moorgate_tests::backend::Backend;
use moorgate_tests::certificate::Certificate;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::stack::Stack;
use moorgate_tests::{ports, program, runtime, wait};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::transport::Endpoint;

const HOST: &str = "shop.example.com";

fn route() -> String {
    manifest::http_route("shop", "shop", "edge/public", &[HOST], &manifest::rule("/", "cart"))
}

/// A fleet with one plain listener and what else is asked for; the relay serves it.
fn stage(more: &[Listener], arguments: &[String]) -> Result<(Stack, Backend, u16)> {
    let (mut stack, port, backend) = (Stack::new("edge/public")?, ports::free()?, Backend::start("cart")?);
    stack.set_endpoints("shop", "cart", &[backend.address()])?;
    stack.relay_arguments = arguments.to_vec();
    publish(&stack, port, more)?;
    stack.start_relay()?;
    Ok((stack, backend, port))
}

fn publish(stack: &Stack, port: u16, more: &[Listener]) -> Result<()> {
    let mut listeners = vec![Listener::http("http", port)];
    listeners.extend_from_slice(more);
    let gateway = manifest::gateway("edge", "public", &listeners);
    let documents = [manifest::gateway_class(), gateway, manifest::service("shop", "cart"), route()];
    stack.publish_documents(&documents)?;
    Ok(())
}

/// What the service tells of the clients that the matchers fit, over both of its methods.
fn statuses(stack: &Stack, node_matchers: Vec<NodeMatcher>) -> Result<Vec<ClientConfig>> {
    let socket = format!("unix://{}", stack.folder().join("admin.sock").display());
    let question = ClientStatusRequest { node_matchers, ..Default::default() };
    runtime().block_on(async {
        let channel = Endpoint::from_shared(socket)?.connect().await?;
        let mut service = ClientStatusDiscoveryServiceClient::new(channel);
        let once = service.fetch_client_status(question.clone()).await?.into_inner();
        let questions = tokio_stream::iter([question.clone(), question]);
        let mut answers = service.stream_client_status(questions).await?.into_inner();
        let mut count = 0;
        while let Some(answer) = answers.message().await? {
            ensure!(answer.config.len() == once.config.len(), "another answer on the stream");
            count += 1;
        }
        ensure!(count == 2, "{count} answers to two questions");
        Ok(once.config)
    })
}

/// The end of a type's name, and its entry.
fn by_type(client: &ClientConfig) -> BTreeMap<&str, &GenericXdsConfig> {
    let end = |entry: &'_ GenericXdsConfig| entry.type_url.rfind('.').map_or(0, |dot| dot + 1);
    client.generic_xds_configs.iter().map(|entry| (&entry.type_url[end(entry)..], entry)).collect()
}

/// The gRPC command line asks for the types and versions of a node, as anybody would by hand.
fn grpcurl_reads_it(stack: &Stack, snapshot: &str, node: &str) -> Result<()> {
    let descriptors = stack.folder().join("csds.protoset");
    let written = std::process::Command::new(program::go("csds-descriptors")?)
        .stdout(std::fs::File::create(&descriptors)?)
        .status()?;
    ensure!(written.success(), "no descriptors: {written}");
    let ask = |question: &str| -> Result<serde_json::Value> {
        let mut command = std::process::Command::new(program::go("grpcurl")?);
        command.args(["-plaintext", "-protoset"]).arg(&descriptors).args(["-d", question]);
        command.arg(format!("unix://{}", stack.folder().join("admin.sock").display()));
        command.arg("envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus");
        program::run(&mut command)?.ended_with(&[0])?.json()
    };
    let told = ask("{}")?;
    let entries = told["config"][0]["genericXdsConfigs"].as_array().cloned().unwrap_or_default();
    for name in ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"] {
        let of_type = |entry: &&serde_json::Value| {
            entry["typeUrl"].as_str().is_some_and(|url| url.ends_with(&format!(".{name}")))
        };
        let entry = entries.iter().find(of_type).with_context(|| format!("{name}: {told}"))?;
        ensure!(entry["configStatus"] == "SYNCED" && entry["versionInfo"] == snapshot, "{name}: {entry}");
    }
    let one = serde_json::json!({"node_matchers": [{"node_id": {"exact": node}}]}).to_string();
    ensure!(ask(&one)?["config"].as_array().is_some_and(|all| all.len() == 1), "the node by its id");
    ensure!(ask(r#"{"node_matchers": [{"node_id": {"exact": "nobody"}}]}"#)?["config"].is_null());
    Ok(())
}

#[test]
fn tools_that_speak_csds_read_what_each_client_took_and_refused() {
    let (mut stack, _backend, port) = stage(&[], &[]).unwrap();
    assert_eq!(statuses(&stack, vec![]).unwrap().len(), 0);
    stack.start_envoy(&[port]).unwrap();
    let snapshot =
        stack.relay_admin("/snapshot").unwrap()["fleets"][0]["snapshot"].as_str().unwrap().to_owned();
    let synced = |client: &ClientConfig| {
        let types = by_type(client);
        for name in ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"] {
            let entry = types.get(name).with_context(|| format!("no {name}"))?;
            ensure!(entry.config_status() == ConfigStatus::Synced, "{name}: {:?}", entry.config_status());
            ensure!(entry.version_info == snapshot, "{name}: {}", entry.version_info);
        }
        ensure!(types["Secret"].config_status() == ConfigStatus::NotSent, "a secret");
        Ok(types.len())
    };
    let client = wait::until("Envoy to be in sync", || {
        let clients = statuses(&stack, vec![])?;
        let [client] = &clients[..] else { bail!("{} clients", clients.len()) };
        synced(client)?;
        Ok(client.clone())
    })
    .unwrap();
    assert_eq!(client.client_scope, "edge/public");
    let node = client.node.clone().unwrap();
    assert!(node.user_agent_name.starts_with("envoy 1."), "{}", node.user_agent_name);
    // No content, whatever is asked for.
    assert!(client.generic_xds_configs.iter().all(|entry| entry.xds_config.is_none()));
    grpcurl_reads_it(&stack, &snapshot, &node.id).unwrap();
    let exactly = |id: &str| {
        let match_pattern = Some(MatchPattern::Exact(id.to_owned()));
        let node_id = Some(StringMatcher { match_pattern, ..Default::default() });
        vec![NodeMatcher { node_id, ..Default::default() }]
    };
    assert_eq!(statuses(&stack, exactly(&node.id)).unwrap().len(), 1);
    assert_eq!(statuses(&stack, exactly("somebody-else")).unwrap().len(), 0);
    // Somebody else has this port: Envoy cannot listen on it and refuses the listener.
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    publish(&stack, port, &[Listener::http("taken", taken.local_addr().unwrap().port())]).unwrap();
    wait::until("the refusal to be told", || {
        let clients = statuses(&stack, vec![])?;
        let entry = clients.first().and_then(|client| by_type(client).get("Listener").copied().cloned());
        let entry = entry.context("no entry for listeners")?;
        ensure!(entry.config_status() == ConfigStatus::Error, "{:?}", entry.config_status());
        let error = entry.error_state.context("no words")?;
        ensure!(error.details.contains("cannot bind"), "{}", error.details);
        ensure!(!error.version_info.is_empty() && error.version_info != snapshot, "which snapshot?");
        Ok(())
    })
    .unwrap();
    let told = stack.relay_admin("/clients").unwrap();
    let listeners = &told["fleets"][0]["clients"][0]["types"]["LDS"];
    assert!(listeners["nack"].as_str().is_some_and(|text| text.contains("cannot bind")), "{told}");
    assert!(listeners["sent"].is_string() && listeners["acked"].is_string(), "{told}");
}

/// What a line of OpenMetrics may be, judged line by line: families announced before their samples, each once; counters
/// that end in `_total`; labels quoted; one `# EOF` at the end. The names of the families, and how many series each has.
fn openmetrics(text: &str) -> Result<BTreeMap<String, usize>> {
    let body = text.strip_suffix("# EOF\n").context("no # EOF at the end")?;
    let sample = regex::Regex::new(
        r#"^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{([a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*\})? (-?[0-9.]+(?:[eE][-+]?[0-9]+)?)$"#,
    )?;
    let (mut families, mut series) = (BTreeMap::new(), BTreeSet::new());
    let mut current: Option<(String, String)> = None;
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a type")?;
            ensure!(["counter", "gauge"].contains(&kind), "{line}");
            ensure!(families.insert(name.to_owned(), 0).is_none(), "{name} twice");
            current = Some((name.to_owned(), kind.to_owned()));
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let name = rest.split(' ').next();
            ensure!(name == current.as_ref().map(|(name, _)| name.as_str()), "{line}");
        } else {
            let parts = sample.captures(line).with_context(|| format!("no sample: {line}"))?;
            let (family, kind) = current.as_ref().context("a sample before its family")?;
            let expected = if kind == "counter" { format!("{family}_total") } else { family.clone() };
            ensure!(parts[1] == expected, "{line} in family {family}");
            ensure!(series.insert(line.rsplit_once(' ').context("a value")?.0.to_owned()), "twice: {line}");
            *families.get_mut(family).context("a family")? += 1;
        }
    }
    Ok(families)
}

#[test]
fn metrics_are_openmetrics_and_clients_cannot_make_more_of_them() {
    let certificate = Certificate::for_names(&[HOST]).unwrap();
    let tls = ports::free().unwrap();
    let (mut stack, _backend, port) = stage(&[Listener::https("https", tls, "good")], &[]).unwrap();
    stack.set_secret("edge", "good", &certificate).unwrap();
    stack.start_envoy(&[port, tls]).unwrap();
    let scrape = || {
        let answer = stack.health("/metrics")?;
        let kind = answer.header("content-type").unwrap_or_default().to_owned();
        ensure!(kind.starts_with("application/openmetrics-text; version=1.0.0"), "{kind}");
        openmetrics(std::str::from_utf8(&answer.body)?)
    };
    let before = wait::until("the certificate's end in the metrics", || {
        let families = scrape()?;
        ensure!(families.contains_key("moorgate_relay_secret_not_after_seconds"), "not yet");
        ensure!(families.contains_key("moorgate_relay_acks"), "no acknowledgement yet");
        Ok(families)
    })
    .unwrap();
    assert!(before.len() >= 15, "{before:?}");
    // Clients with strange names, strange types and strange paths: no series of their own.
    runtime().block_on(async {
        let socket = format!("unix://{}", stack.socket().display());
        for number in 0..50 {
            let channel = Endpoint::from_shared(socket.clone()).unwrap().connect().await.unwrap();
            strange_client(channel, number).await;
        }
    });
    let after = scrape().unwrap();
    let grown: Vec<_> =
        after.iter().filter(|(name, count)| before.get(*name).is_some_and(|old| **count > old + 2)).collect();
    assert!(grown.is_empty(), "{grown:?}");
    for path in ["/livez", "/readyz"] {
        assert_eq!(stack.health(path).unwrap().status, 200, "{path}");
    }
    assert_eq!(
        stack.health("/snapshot").unwrap().status,
        404,
        "the health address shows no more than health"
    );
    assert!(openmetrics("# TYPE a gauge\na{b=\"c\nd\"} 1\n# EOF\n").is_err());
    assert!(openmetrics("# TYPE a counter\na 1\n# EOF\n").is_err());
}

async fn strange_client(channel: tonic::transport::Channel, number: u32) {
    use envoy_types::pb::envoy::config::core::v3::Node;
    use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
    use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    let id = format!("node-{number}\"}} 1\nevil{{x=\"");
    let request = DeltaDiscoveryRequest {
        node: Some(Node { id, ..Default::default() }),
        type_url: format!("type.googleapis.com/strange.{number}"),
        resource_names_subscribe: vec!["a".to_owned()],
        ..Default::default()
    };
    let mut service = AggregatedDiscoveryServiceClient::new(channel);
    let answered = service.delta_aggregated_resources(tokio_stream::once(request)).await;
    if let Ok(answers) = answered {
        let mut answers = answers.into_inner();
        while let Ok(Some(_)) = answers.message().await {}
    }
}

/// A collector of traces: keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn traces_of_pull_verify_swap_and_push_reach_a_collector() {
    let (collector, address) = runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (collector, address) = (Collector::default(), listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        (collector, address)
    });
    let arguments = ["--traces".to_owned(), format!("http://{address}")];
    let (mut stack, _backend, port) = stage(&[], &arguments).unwrap();
    stack.start_envoy(&[port]).unwrap();
    // The rest is sent at the end.
    assert!(stack.relay().unwrap().terminate(Duration::from_secs(30)).unwrap().success());
    let requests = collector.0.lock().unwrap().clone();
    let resource = requests[0].resource_spans[0].resource.clone().unwrap();
    assert!(format!("{resource:?}").contains("moorgate-relay"), "{resource:?}");
    let spans: Vec<_> = requests
        .into_iter()
        .flat_map(|request| request.resource_spans)
        .flat_map(|spans| spans.scope_spans)
        .flat_map(|spans| spans.spans)
        .collect();
    let names: BTreeSet<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["pull", "push", "swap", "verify"]));
    let of = |name: &'static str| spans.iter().filter(move |span| span.name == name);
    let has = |span: &opentelemetry_proto::tonic::trace::v1::Span, key: &str| {
        span.attributes.iter().any(|attribute| attribute.key == key)
    };
    assert!(of("pull").all(|span| has(span, "fleet") && has(span, "outcome")));
    assert!(of("push").any(|span| has(span, "type") && has(span, "resources")));
    // What is verified while pulling is part of it.
    let pulls: BTreeSet<_> = of("pull").map(|span| span.span_id.clone()).collect();
    assert!(of("verify").any(|span| pulls.contains(&span.parent_span_id)), "verifying belongs to pulling");
    assert!(!stack.relay().unwrap().output().contains("moorgate::trace"), "spans are no log lines");
}

#[test]
fn a_collector_that_is_not_there_costs_nothing() {
    let arguments = ["--traces".to_owned(), "http://127.0.0.1:1".to_owned()];
    let (mut stack, _backend, port) = stage(&[], &arguments).unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    send_until(&target, &Request::get(HOST, "/"), "an answer", |answer| answer.status == 200).unwrap();
    assert!(stack.relay().unwrap().terminate(Duration::from_secs(30)).unwrap().success());
}

/// How long it takes from the start of an Envoy until a host on a listener answers whose neighbours have a missing and a
/// mismatched certificate.
fn neighbour(stack: &mut Stack, port: u16, certificate: &Certificate) -> Result<Duration> {
    let (began, target) = (Instant::now(), Target::tls(port, HOST, &certificate.der)?);
    stack.start_envoy(&[])?;
    send_until(&target, &Request::get(HOST, "/"), "the neighbour", |answer| answer.status == 200)?;
    Ok(began.elapsed())
}

#[test]
fn a_bad_and_a_missing_secret_cost_their_own_hosts_and_the_neighbour_is_live_within_two_seconds() {
    const BOUND: Duration = Duration::from_secs(2);
    let port = ports::free().unwrap();
    let of = |name: &str, host: &str| Listener::https(name, port, name).hostname(host);
    let hosts = [of("good", HOST), of("missing", "missing.example.com"), of("bad", "bad.example.com")];
    let (mut stack, _backend, _) = stage(&hosts, &[]).unwrap();
    let names = [HOST, "bad.example.com"].map(|name| Certificate::for_names(&[name]).unwrap());
    let [good, bad] = names;
    stack.set_secret("edge", "good", &good).unwrap();
    stack.set_secret("edge", "bad", &Certificate { key: good.key.clone(), ..bad.clone() }).unwrap();
    wait::until("the relay to have read the secrets", || {
        let told = stack.relay_admin("/snapshot")?["fleets"][0]["bindings"]["secrets"].to_string();
        ensure!(["\"ok\"", "\"invalid\"", "\"missing\""].iter().all(|state| told.contains(state)), "{told}");
        Ok(())
    })
    .unwrap();
    // A busy machine may be slow; one start of three that is fast enough shows that nothing is waited for.
    let mut took = Vec::new();
    while took.len() < 3 && took.iter().all(|one| *one >= BOUND) {
        took.push(neighbour(&mut stack, port, &good).unwrap());
    }
    println!("the neighbour of a bad and a missing secret is live after {took:?}");
    assert!(took.iter().any(|one| *one < BOUND), "{took:?}");
    for host in ["missing.example.com", "bad.example.com"] {
        let target = Target::tls(port, host, &bad.der).unwrap();
        assert!(send(&target, &Request::get(host, "/")).is_err(), "{host} answers without a certificate");
    }
    // What was good and goes bad stays in service.
    stack.set_secret("edge", "good", &Certificate { key: bad.key.clone(), ..good.clone() }).unwrap();
    wait::until("the last good one to be served on", || {
        let told = stack.relay_admin("/snapshot")?["fleets"][0]["bindings"]["secrets"].to_string();
        ensure!(told.contains("last-good"), "{told}");
        Ok(())
    })
    .unwrap();
    let target = Target::tls(port, HOST, &good.der).unwrap();
    assert_eq!(send(&target, &Request::get(HOST, "/")).unwrap().status, 200);
    // And each comes when its pair is whole.
    stack.set_secret("edge", "bad", &bad).unwrap();
    let target = Target::tls(port, "bad.example.com", &bad.der).unwrap();
    send_until(&target, &Request::get("bad.example.com", "/"), "its own host", |answer| answer.status == 404)
        .unwrap();
}

#[test]
fn a_certificate_that_has_run_out_is_served_on_with_an_alarm() {
    let tls = ports::free().unwrap();
    let (mut stack, _backend, port) = stage(&[Listener::https("https", tls, "old")], &[]).unwrap();
    let old = Certificate::expired(&[HOST]).unwrap();
    stack.set_secret("edge", "old", &old).unwrap();
    stack.start_envoy(&[port, tls]).unwrap();
    // A client that trusts it finds that its time is over, and nothing else wrong with it.
    let target = Target::tls(tls, HOST, &old.der).unwrap();
    wait::until("the expired certificate on the wire", || {
        let Err(error) = send(&target, &Request::get(HOST, "/")) else { bail!("a client took it") };
        ensure!(format!("{error:#}").to_lowercase().contains("expired"), "{error:#}");
        Ok(())
    })
    .unwrap();
    let metrics = String::from_utf8(stack.health("/metrics").unwrap().body.to_vec()).unwrap();
    for sample in [
        "moorgate_relay_secret_state{fleet=\"edge/public\",secret=\"edge/old\",state=\"expired\"} 1",
        "moorgate_relay_binding_errors_total{fleet=\"edge/public\",reason=\"expired\"} 1",
    ] {
        assert!(metrics.contains(sample), "{sample} is not in\n{metrics}");
    }
    assert!(
        metrics
            .contains("moorgate_relay_secret_not_after_seconds{fleet=\"edge/public\",secret=\"edge/old\"} ")
    );
    let log = stack.relay().unwrap().output();
    assert_eq!(log.matches("a certificate has run out: it is served on").count(), 1, "{log}");
}
