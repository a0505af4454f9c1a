use super::*;
use crate::lowering::testing;
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log, access_log_filter};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::HttpGrpcAccessLogConfig;
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::extensions::stat_sinks::open_telemetry::v3::{SinkConfig, sink_config};

fn lowered(spec: &str) -> Lowered {
    let object = testing::parameters(spec);
    let expression = |text: &str| if text.contains('!') { Err("not CEL".to_owned()) } else { Ok(()) };
    let mut world = testing::world();
    lower(&object, Around { world: &mut world, expression: &expression, service: "edge.shop".into() })
}

fn logs(found: Option<&Vec<Vec<u8>>>) -> Vec<AccessLog> {
    found.unwrap().iter().map(|log| AccessLog::decode(log.as_slice()).unwrap()).collect()
}

fn config<M: Message + Default>(log: &AccessLog) -> M {
    let Some(access_log::ConfigType::TypedConfig(any)) = &log.config_type else { panic!("typed") };
    M::decode(any.value.as_slice()).unwrap()
}

fn said(found: &Lowered) -> Vec<String> {
    found.findings.iter().map(|found| format!("{} {}", found.code.id, found.field)).collect()
}

#[test]
fn nothing_said_is_nothing_changed() {
    assert_eq!(lowered("{}").proxy, Proxy::default());
    assert_eq!(lowered(r#"{"telemetry": {"accessLog": {"settings": []}}}"#).proxy, Proxy::default());
    let off = lowered(r#"{"telemetry": {"accessLog": {"disable": true}}}"#).proxy;
    assert_eq!((off.request_logs, off.listener_logs), (Some(vec![]), Some(vec![])));
}

#[test]
fn each_sink_of_a_setting_gets_its_lines() {
    let found = lowered(
        r#"{"telemetry": {"accessLog": {"settings": [
            {"format": {"type": "Text", "text": "%REQ(X-A?B):9% 100%% %REQ_WITHOUT_QUERY(:PATH)%\n"},
             "matches": ["response.code >= 400", "'x-debug' in request.headers"],
             "sinks": [{"type": "File", "file": {"path": "/dev/stderr"}}]},
            {"type": "Route", "sinks": [
                {"type": "ALS", "als": {"type": "HTTP", "logName": "mine", "backendRefs": [{"name": "als", "port": 9000}], "http": {"requestHeaders": ["x-a"]}}},
                {"type": "OpenTelemetry", "openTelemetry": {"backendRefs": [{"name": "otel", "port": 4317}], "resourceAttributes": {"a": "b"},
                    "headers": [{"name": "X-Key", "value": "50%"}]}}]}]}}}"#,
    );
    assert_eq!(said(&found), [""; 0]);
    let clusters: std::collections::BTreeSet<&str> =
        found.proxy.clusters.iter().map(String::as_str).collect();
    assert_eq!(clusters.into_iter().collect::<Vec<_>>(), ["shop/als/9000+h2", "shop/otel/4317+h2"]);
    let requests = logs(found.proxy.request_logs.as_ref());
    assert_eq!(requests.len(), 3);
    let file: FileAccessLog = config(&requests[0]);
    assert_eq!(file.path, "/dev/stderr");
    let filter = requests[0].filter.as_ref().unwrap().filter_specifier.as_ref().unwrap();
    assert!(matches!(filter, access_log_filter::FilterSpecifier::OrFilter(or) if or.filters.len() == 2));
    let als: HttpGrpcAccessLogConfig = config(&requests[1]);
    let common = als.common_config.unwrap();
    let Some(TargetSpecifier::EnvoyGrpc(target)) = common.grpc_service.unwrap().target_specifier else {
        panic!()
    };
    assert_eq!(
        (common.log_name.as_str(), target.cluster_name.as_str(), target.authority.as_str()),
        ("mine", "shop/als/9000+h2", "als")
    );
    assert_eq!(als.additional_request_headers_to_log, ["x-a"]);
    let otel: OpenTelemetryAccessLogConfig = config(&requests[2]);
    assert_eq!(otel.grpc_service.unwrap().initial_metadata[0].value, "50%%");
    assert!(otel.attributes.unwrap().values.iter().any(|pair| pair.key == "response_code"));
    // Connections have no lines of requests, and listeners those that no chain is for.
    assert_eq!(logs(found.proxy.connection_logs.as_ref()).len(), 2);
    let listener = logs(found.proxy.listener_logs.as_ref());
    let filter = listener[0].filter.as_ref().unwrap().filter_specifier.as_ref().unwrap();
    assert!(matches!(filter, access_log_filter::FilterSpecifier::AndFilter(and) if and.filters.len() == 2));
    assert_eq!(listener.len(), 1);
}

#[test]
fn what_cannot_be_logged_is_said_and_the_rest_is() {
    let setting = |more: &str, sink: &str| {
        format!(
            r#"{{"telemetry": {{"accessLog": {{"settings": [{{{more} "sinks": [{sink}]}}, {{"sinks": [{{"type": "File"}}]}}]}}}}}}"#
        )
    };
    let file = r#"{"type": "File"}"#;
    let gone = r#"{"type": "ALS", "als": {"type": "HTTP", "backendRefs": [{"name": "gone", "port": 1}]}}"#;
    let at = "spec.telemetry.accessLog.settings";
    for (spec, wanted) in [
        (setting(r#""matches": ["!"],"#, file), format!("MG4106 {at}[0].matches[0]")),
        (setting(r#""format": {"text": "%NOTHING%"},"#, file), format!("MG4106 {at}.format.text")),
        (setting(r#""format": {"json": {"a": "%REQ(x"}},"#, file), format!("MG4106 {at}.format.json")),
        (setting(r#""type": "Upstream","#, file), format!("MG4106 {at}[0].type")),
        (setting("", gone), format!("MG4002 {at}[0].sinks[0].als.backendRefs[0]")),
        (setting("", r#"{"type": "ALS", "als": {"type": "TCP"}}"#), format!("MG4106 {at}[0].sinks[0].als")),
    ] {
        let found = lowered(&spec);
        assert_eq!(said(&found), [wanted], "{spec}");
        assert_eq!(logs(found.proxy.request_logs.as_ref()).len(), 1, "{spec}");
    }
}

#[test]
fn spans_go_to_each_kind_of_provider() {
    for (provider, name, cluster) in [
        (
            r#""type": "OpenTelemetry", "openTelemetry": {"sampler": {"type": "ParentBasedTraceIdRatio", "samplingPercentage": {"numerator": 5}}}"#,
            "envoy.tracers.opentelemetry",
            "shop/col/9000+h2",
        ),
        (
            r#""type": "Zipkin", "zipkin": {"enable128BitTraceId": true}"#,
            "envoy.tracers.zipkin",
            "shop/col/9000",
        ),
        (r#""type": "Datadog""#, "envoy.tracers.datadog", "shop/col/9000"),
    ] {
        let spec = format!(
            r#"{{"telemetry": {{"tracing": {{"samplingRate": 7, "provider": {{"backendRefs": [{{"name": "col", "port": 9000}}], {provider}}},
                "customTags": {{"env": {{"type": "Environment", "environment": {{"name": "POD"}}}}, "who": {{"type": "Literal", "literal": {{"value": "us"}}}}}},
                "tags": {{"code": "%RESPONSE_CODE%", "bad": "%WHAT%"}}, "spanName": {{"client": "in %REQ(:PATH)%", "server": "to %UPSTREAM_CLUSTER%"}}}}}}}}"#
        );
        let found = lowered(&spec);
        assert_eq!(said(&found), ["MG4106 spec.telemetry.tracing.tags.bad"], "{name}");
        let tracing = Tracing::decode(found.proxy.tracing.unwrap().as_slice()).unwrap();
        assert_eq!(tracing.provider.unwrap().name, name);
        assert_eq!(
            tracing.custom_tags.iter().map(|tag| tag.tag.as_str()).collect::<Vec<_>>(),
            ["code", "env", "who"]
        );
        assert_eq!(
            (tracing.random_sampling.unwrap().value, tracing.client_sampling.unwrap().value),
            (7.0, 0.0)
        );
        // The same names as in a BackendTrafficPolicy, and as Envoy Gateway has them.
        assert_eq!(
            (tracing.operation.as_str(), tracing.upstream_operation.as_str()),
            ("in %REQ(:PATH)%", "to %UPSTREAM_CLUSTER%")
        );
        assert_eq!(found.proxy.clusters, [cluster]);
    }
    let lost = lowered(
        r#"{"telemetry": {"tracing": {"provider": {"type": "Zipkin", "backendRefs": [{"name": "gone", "port": 1}]}}}}"#,
    );
    assert_eq!((said(&lost).len(), lost.proxy.tracing), (1, None));
}

#[test]
fn the_rest_is_as_it_is_written() {
    let found = lowered(
        r#"{"ipFamily": "DualStack", "filterOrder": [{"name": "a", "before": "b"}, {"name": "c", "after": "d"}],
            "backendTLS": {"minVersion": "1.3", "ciphers": ["x"], "clientCertificateRef": {"name": "cert"}}, "telemetry": {"requestID": {"tracing": "Pack"}}}"#,
    );
    let proxy = found.proxy;
    assert_eq!((proxy.family, proxy.order.len(), proxy.manager.len()), (BindFamily::Dual, 2, 1));
    assert!(proxy.order[0].before && !proxy.order[1].before);
    assert_eq!(proxy.backend_tls[0].clear, [vec![1, 1, 3]]);
    assert_eq!(proxy.client_certificate.as_deref(), Some("shop/cert"));
    let away = lowered(r#"{"backendTLS": {"clientCertificateRef": {"name": "cert", "namespace": "other"}}}"#);
    assert_eq!((said(&away).len(), away.proxy.client_certificate), (1, None));
}

#[test]
fn services_are_reached_as_the_fleet_says() {
    let by_service = |kind: &str| lowered(&format!(r#"{{"routingType": "{kind}"}}"#)).proxy.by_service;
    assert!(by_service("Service") && !by_service("Endpoint"));
}

#[test]
fn protocols_for_backends_take_the_place_of_what_is_offered() {
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
    for (list, expected) in [(r#"["h2", "http/1.1"]"#, vec!["h2", "http/1.1"]), ("[]", vec![])] {
        let found = lowered(&format!(r#"{{"backendTLS": {{"alpnProtocols": {list}}}}}"#)).proxy.backend_tls;
        assert_eq!(found[0].clear, [[1, 4]]);
        let context: UpstreamTlsContext = testing::patched(&found);
        assert_eq!(context.common_tls_context.unwrap_or_default().alpn_protocols, expected);
    }
}

#[test]
fn what_health_checks_find_is_written_down() {
    use envoy_types::pb::envoy::config::core::v3::HealthCheck;
    use envoy_types::pb::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
    let check = |log: &str| {
        let found = lowered(&format!(r#"{{"telemetry": {{"healthCheckLog": {log}}}}}"#));
        assert_eq!(said(&found), [""; 0]);
        let check = HealthCheck::decode(found.proxy.health_log.unwrap().as_slice()).unwrap();
        let sink = check.event_logger[0].typed_config.as_ref().unwrap();
        let sink = HealthCheckEventFileSink::decode(sink.value.as_slice()).unwrap();
        (sink.event_log_path, check.always_log_health_check_failures, check.always_log_health_check_success)
    };
    assert_eq!(check("{}"), ("/dev/stdout".into(), true, true));
    let file = r#""sinks": [{"type": "File", "file": {"path": "/var/log/checks"}}]"#;
    let chosen = check(&format!(r#"{{{file}, "matches": ["FailureSeriesStart", "Success"]}}"#));
    assert_eq!(chosen, ("/var/log/checks".into(), false, true));
    let wrong = lowered(r#"{"telemetry": {"healthCheckLog": {"sinks": [{"type": "File"}]}}}"#);
    assert_eq!(said(&wrong), ["MG4106 spec.telemetry.healthCheckLog.sinks[0]"]);
    assert_eq!(wrong.proxy.health_log, None);
}

#[test]
fn sinks_are_reached_as_their_settings_say() {
    let found = lowered(
        r#"{"telemetry": {
            "accessLog": {"settings": [{"type": "Route", "sinks": [
                {"type": "ALS", "als": {"type": "HTTP", "backendRefs": [{"name": "als", "port": 9000}],
                    "backendSettings": {"circuitBreaker": {"maxConnections": 7}}}},
                {"type": "OpenTelemetry", "openTelemetry": {"host": "otel.example.net",
                    "backendSettings": {"retry": {"numRetries": 2}, "timeout": {"tcp": {"connectTimeout": "x"}}}}}]}]},
            "tracing": {"provider": {"type": "Zipkin", "host": "zipkin.example.net", "port": 9411}}}}"#,
    );
    let clusters = &found.proxy.clusters;
    assert!(clusters[0].starts_with("shop/als/9000+h2+shop.guard."), "{clusters:?}");
    assert!(clusters[1].starts_with("otel.example.net:4317:false+shop.guard."), "{clusters:?}");
    assert!(clusters.contains(&"zipkin.example.net:9411:false".to_owned()), "{clusters:?}");
    let sink = "spec.telemetry.accessLog.settings[0].sinks[1].openTelemetry.backendSettings";
    assert_eq!(said(&found), [format!("MG4106 {sink}.timeout.tcp.connectTimeout")]);
    let inside = lowered(
        r#"{"telemetry": {"tracing": {"provider": {"type": "OpenTelemetry", "host": "localhost"}}}}"#,
    );
    assert_eq!(said(&inside), ["MG4106 spec.telemetry.tracing.provider.host"]);
    assert_eq!(inside.proxy.tracing, None);
}

fn metrics(spec: &str) -> Lowered {
    lowered(&format!(r#"{{"telemetry": {{"metrics": {spec}}}}}"#))
}

#[test]
fn statistics_are_shown_kept_and_sent_as_is_written() {
    assert_eq!(metrics("{}").proxy, Proxy::default());
    let found = metrics(
        r#"{"prometheus": {"disable": true, "compression": {"type": "Gzip", "minContentLength": "1Ki"}},
            "matches": [{"value": "a"}, {"type": "Prefix", "value": "b"}, {"type": "Suffix", "value": "c"},
                {"type": "RegularExpression", "value": "d.*"}],
            "sinks": [{"type": "OpenTelemetry", "openTelemetry": {"backendRefs": [{"name": "otel", "port": 4317}],
                "headers": [{"name": "X-Key", "value": "fifty"}], "resourceAttributes": {"team": "shop"},
                "reportCountersAsDeltas": true, "reportHistogramsAsDeltas": true}},
                {"type": "OpenTelemetry", "openTelemetry": {"host": "otel.example.com"}}]}"#,
    );
    assert_eq!(said(&found), [""; 0]);
    let startup = &found.proxy.startup;
    assert!(startup.unscraped && startup.compressor.is_some());
    assert_eq!(startup.kept.as_ref().unwrap().len(), 7, "with what is needed anyway");
    assert_eq!(found.proxy.clusters, [""; 0], "no relay has to know a collector of statistics");
    let sinks: Vec<(&str, &str)> =
        startup.sinks.iter().map(|sink| (sink.name.as_str(), sink.backend.as_str())).collect();
    assert_eq!(sinks[0], ("moorgate-metrics-0", "shop/otel/4317+h2"));
    assert_eq!(sinks[1].0, "moorgate-metrics-1");
    assert!(sinks[1].1.starts_with("otel.example.com:4317:false+"), "gRPC is spoken there: {sinks:?}");
    let config = SinkConfig::decode(startup.sinks[0].config.as_slice()).unwrap();
    assert!(config.report_counters_as_deltas && config.report_histograms_as_deltas);
    assert_eq!(config.resource_detectors.len(), 1);
    let Some(sink_config::ProtocolSpecifier::GrpcService(service)) = config.protocol_specifier else {
        panic!()
    };
    assert_eq!(service.initial_metadata[0].value, "fifty");
}

#[test]
fn hosts_clusters_and_calls_are_counted_where_asked() {
    let found = metrics(
        r#"{"enableVirtualHostStats": true, "enablePerEndpointStats": true, "enableRequestResponseSizesStats": true,
            "enableGRPCStats": true, "clusterStatName": "%ROUTE_NAME%/x"}"#,
    );
    assert_eq!(said(&found), [""; 0]);
    let proxy = &found.proxy;
    assert!(proxy.counts_hosts && proxy.counts_calls.is_some());
    assert_eq!(proxy.cluster_stat_name.as_deref(), Some("%ROUTE_NAME%/x"));
    let tracked = testing::patched::<Cluster>(&proxy.cluster).track_cluster_stats.unwrap();
    assert!(tracked.per_endpoint_stats && tracked.request_response_sizes);
    let off = metrics(
        r#"{"enableVirtualHostStats": false, "enablePerEndpointStats": false, "enableRequestResponseSizesStats": false,
            "enableGRPCStats": false, "clusterStatName": ""}"#,
    );
    assert_eq!(off.proxy, Proxy::default());
}

#[test]
fn statistics_that_cannot_be_had_are_said() {
    for (spec, wanted) in [
        (
            r#"{"prometheus": {"compression": {"type": "Gzip", "minContentLength": "x"}}}"#,
            "prometheus.compression.minContentLength",
        ),
        (r#"{"matches": [{"type": "RegularExpression", "value": "("}]}"#, "matches[0].value"),
        (r#"{"clusterStatName": "%HOST%"}"#, "clusterStatName"),
        (r#"{"clusterStatName": "%ROUTE_NAME"}"#, "clusterStatName"),
        (r#"{"clusterStatName": "100%%"}"#, "clusterStatName"),
        (r#"{"sinks": [{"openTelemetry": {"backendRefs": []}}]}"#, "sinks[0].openTelemetry"),
        (r#"{"sinks": [{"openTelemetry": {"host": "localhost"}}]}"#, "sinks[0].openTelemetry.host"),
    ] {
        let found = metrics(spec);
        assert_eq!(said(&found), [format!("MG4106 spec.telemetry.metrics.{wanted}")], "{spec}");
        assert_eq!((&found.proxy.cluster_stat_name, &found.proxy.startup.sinks), (&None, &vec![]), "{spec}");
    }
    let gone =
        metrics(r#"{"sinks": [{"openTelemetry": {"backendRefs": [{"name": "gone", "port": 1}]}}, {}]}"#);
    assert_eq!(said(&gone), ["MG4002 spec.telemetry.metrics.sinks[0].openTelemetry.backendRefs[0]"]);
    let percent = metrics(
        r#"{"sinks": [{"openTelemetry": {"host": "otel.example.com", "headers": [{"name": "a", "value": "50%"}]}}]}"#,
    );
    assert_eq!(said(&percent), ["MG4106 spec.telemetry.metrics.sinks[0].openTelemetry.headers[0].value"]);
    assert_eq!(percent.proxy.startup.sinks.len(), 1);
}
