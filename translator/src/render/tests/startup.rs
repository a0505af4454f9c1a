//! Statistics and a user's own bootstrap in the manifests of all models.

use super::*;

fn with(spec: &str) -> Fleet {
    let parameters =
        "  infrastructure: { parametersRef: { group: gateway.envoyproxy.io, kind: EnvoyProxy, name: own } }";
    let own = format!(
        "\n---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{ name: own, namespace: infra }}\nspec:\n{spec}"
    );
    fleet_of(&(source(HTTP, parameters, "") + &own))
}

fn models() -> [Settings; 3] {
    super::models().map(|model| Settings { model, ..settings() })
}

fn bootstrap(manifests: &[Value]) -> Value {
    let config = manifests.iter().find(|one| one["kind"] == "ConfigMap").unwrap();
    serde_json::from_str(config["data"]["envoy.json"].as_str().unwrap()).unwrap()
}

fn listener<'b>(bootstrap: &'b Value, name: &str) -> Option<&'b Value> {
    bootstrap["static_resources"]["listeners"].as_array()?.iter().find(|one| one["name"] == name)
}

#[test]
fn pods_of_all_models_show_their_statistics_and_say_where() {
    for settings in models() {
        let manifests = manifests(&plain(), &settings).unwrap();
        let pod = pod(&manifests);
        let annotations = &pod["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/scrape"], "true");
        assert_eq!(annotations["prometheus.io/port"], "19002");
        assert_eq!(annotations["prometheus.io/path"], "/stats/prometheus");
        let port = json!([{"name": "metrics", "containerPort": 19002, "protocol": "TCP"}]);
        assert_eq!(pod["spec"]["containers"][0]["ports"], port);
        let open = &find(&manifests, "NetworkPolicy")["spec"]["ingress"][0]["ports"];
        assert!(open.as_array().unwrap().iter().any(|port| port["port"] == 19002), "{open}");
        let made = bootstrap(&manifests);
        let shown = listener(&made, "moorgate-stats").unwrap();
        let address = json!({"address": "0.0.0.0", "port_value": 19002});
        assert_eq!(shown["address"]["socket_address"], address);
        assert_eq!(shown["ignore_global_conn_limit"], true);
        let cluster = &made["static_resources"]["clusters"][1];
        let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
        assert_eq!(endpoint["address"], made["admin"]["address"]);
    }
}

#[test]
fn what_users_annotate_comes_first_and_what_is_off_is_not_there() {
    let spec = "  provider: { type: Kubernetes, kubernetes: { envoyDeployment: { pod: { annotations: { prometheus.io/scrape: 'false' } } } } }\n";
    let annotated = render(&with(spec));
    assert_eq!(pod(&annotated)["metadata"]["annotations"]["prometheus.io/scrape"], "false");
    assert_eq!(pod(&annotated)["metadata"]["annotations"]["prometheus.io/port"], "19002");
    let off = with("  telemetry: { metrics: { prometheus: { disable: true } } }\n");
    for settings in models() {
        let manifests = manifests(&off, &settings).unwrap();
        let pod = pod(&manifests);
        assert_eq!(pod["metadata"]["annotations"]["prometheus.io/scrape"], Value::Null);
        assert_eq!(pod["spec"]["containers"][0]["ports"], Value::Null);
        assert_eq!(listener(&bootstrap(&manifests), "moorgate-stats"), None);
    }
    let six = with(
        "  ipFamily: DualStack\n  telemetry: { metrics: { prometheus: { compression: { type: Zstd, minContentLength: 1Ki } } } }\n",
    );
    let made = bootstrap(&render(&six));
    let shown = listener(&made, "moorgate-stats").unwrap();
    assert_eq!(
        shown["address"]["socket_address"],
        json!({"address": "::", "ipv4_compat": true, "port_value": 19002})
    );
    let filters = &shown["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
    assert_eq!(filters[0]["typed_config"]["compressor_library"]["name"], "envoy.compression.zstd.compressor");
    assert_eq!(
        filters[0]["typed_config"]["response_direction_config"]["common_config"]["min_content_length"],
        1024
    );
}

/// Envoy reads its bootstrap once: pods are replaced when it changes.
#[test]
fn a_bootstrap_of_ones_own_is_in_the_pods_of_all_models_and_replaces_them() {
    let own = [
        "  bootstrap: { type: Merge, value: 'stats_flush_interval: 2s' }\n",
        "  bootstrap: { type: JSONPatch, jsonPatches: [{ op: add, path: /stats_flush_interval, value: 2s }] }\n",
        "  bootstrap: { value: 'stats_flush_interval: 2s' }\n",
    ];
    for settings in models() {
        let before = manifests(&plain(), &settings).unwrap();
        for spec in own {
            let after = manifests(&with(spec), &settings).unwrap();
            let made = bootstrap(&after);
            assert_eq!(made["stats_flush_interval"], "2s", "{spec}");
            let lds = |made: &Value| made["dynamic_resources"]["lds_config"].clone();
            assert_eq!(lds(&made), lds(&bootstrap(&before)), "{spec}");
            let digest = |all: &[Value]| pod(all)["metadata"]["annotations"]["moorgate.dev/config"].clone();
            assert_ne!(digest(&after), digest(&before), "{spec}");
            assert_eq!(manifests(&with(spec), &settings).unwrap(), after, "the same whenever it is made");
        }
    }
    // A port that the pod has is known only here.
    let taken = "  bootstrap: { type: Merge, value: 'static_resources: { listeners: [{ name: mine, address: { socket_address: { address: 0.0.0.0, port_value: 19003 } } }] }' }\n";
    let mut fleet = with(taken);
    assert!(manifests(&fleet, &settings()).is_ok());
    fleet.ports = [19001, 19002].map(|number| Port { number, transport: Transport::Tcp }).into();
    let error = manifests(&fleet, &settings()).unwrap_err().to_string();
    assert!(error.contains("bootstrap.value: listener \"mine\" is on port 19003"), "{error}");
}

#[test]
fn collectors_and_what_is_kept_stand_in_it() {
    let spec = "  telemetry:\n    metrics:\n      matches: [{ type: Prefix, value: http. }]\n      sinks:\n      \
        - { type: OpenTelemetry, openTelemetry: { host: otel.example.com, port: 4317, reportCountersAsDeltas: true } }\n      \
        - { type: OpenTelemetry, openTelemetry: { backendRefs: [{ name: cart, namespace: shop, port: 8080 }] } }\n";
    let granted = "\n---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: { name: grant, namespace: shop }\nspec:\n  \
        from: [{ group: gateway.envoyproxy.io, kind: EnvoyProxy, namespace: infra }]\n  to: [{ group: '', kind: Service }]\n";
    let made = bootstrap(&render(&with(&format!("{spec}{granted}"))));
    let sinks = made["stats_sinks"].as_array().unwrap();
    let names: Vec<&Value> = sinks
        .iter()
        .map(|sink| &sink["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"])
        .collect();
    assert_eq!(names, ["moorgate-metrics-0", "moorgate-metrics-1"]);
    assert_eq!(sinks[0]["typed_config"]["report_counters_as_deltas"], true);
    let clusters = made["static_resources"]["clusters"].as_array().unwrap();
    let address = |name: &str| {
        let cluster = clusters.iter().find(|one| one["name"] == name).unwrap();
        assert_eq!(cluster["eds_cluster_config"], Value::Null);
        cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
            .clone()
    };
    assert_eq!(address("moorgate-metrics-0"), json!({"address": "otel.example.com", "port_value": 4317}));
    let service = json!({"address": "cart.shop.svc.cluster.local", "port_value": 8080});
    assert_eq!(address("moorgate-metrics-1"), service);
    let patterns = &made["stats_config"]["stats_matcher"]["inclusion_list"]["patterns"];
    assert_eq!(patterns[0], json!({"prefix": "http."}));
    assert!(patterns.to_string().contains("downstream_rq_(5xx|completed)"), "what a relay reads stays");
}
