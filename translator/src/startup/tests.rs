use super::guard::{CLUSTERS, LISTENERS, items, named};
use super::*;
use crate::xds::{READY, STATS};
use moorgate_model::ir::{BootstrapPatch, OwnBootstrap};
use moorgate_policies::RELAY_CLUSTER as RELAY;
use serde_json::json;

fn bases() -> Vec<Value> {
    let all = samples(&ir::Proxy::default()).unwrap();
    assert_eq!(all.len(), 3, "one for each model");
    all
}

fn apply(own: &OwnBootstrap) -> Result<own::Applied, Said> {
    let mut all = bases().into_iter().map(|base| own::apply(&base, own, &[PROBES]));
    let first = all.next().unwrap()?;
    for other in all {
        assert_eq!(other?.notes, first.notes);
    }
    Ok(first)
}

fn merge(text: &str) -> Result<own::Applied, Said> {
    apply(&OwnBootstrap::Merge(text.to_owned()))
}

fn replace(text: &str) -> Result<own::Applied, Said> {
    apply(&OwnBootstrap::Replace(text.to_owned()))
}

/// `op path value`, or `op $jsonpath value`.
fn patches(written: &[(&str, &str, Value)]) -> OwnBootstrap {
    let one = |(op, at, value): &(&str, &str, Value)| BootstrapPatch {
        op: (*op).to_owned(),
        path: (!at.starts_with('$')).then(|| (*at).to_owned()),
        json_path: at.starts_with('$').then(|| (*at).to_owned()),
        from: None,
        value: (!value.is_null()).then(|| value.to_string()),
    };
    OwnBootstrap::Patch(written.iter().map(one).collect())
}

fn names<'j>(json: &'j Value, list: &str) -> Vec<&'j str> {
    items(json, list).iter().filter_map(|item| item["name"].as_str()).collect()
}

#[test]
fn a_merge_adds_to_lists_and_messages_and_takes_over_values() {
    let made = merge(
        "statsConfig: { useAllDefaultTags: true, stats_tags: [{ tag_name: team, fixed_value: shop }] }\n\
         admin: { accessLog: [{ name: envoy.access_loggers.file, typedConfig: { '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/null } }] }\n\
         overload_manager: { refresh_interval: 0.25s }\n\
         static_resources: { clusters: [{ name: mine, type: STATIC, connect_timeout: 1s }] }\n\
         layered_runtime: { layers: [{ name: admin, admin_layer: {} }] }\n",
    )
    .unwrap();
    assert_eq!(made.notes, []);
    let made = made.bootstrap;
    assert_eq!(made["stats_config"]["stats_tags"][0]["tag_name"], "team");
    assert_eq!(made["overload_manager"]["refresh_interval"], "0.250s");
    assert_eq!(items(&made, "/overload_manager/resource_monitors").len(), 1, "what was there stays");
    assert_eq!(names(&made, CLUSTERS), [RELAY, STATS, "mine"]);
    assert_eq!(items(&made, "/layered_runtime/layers").len(), 2);
    assert_eq!(made["admin"]["address"]["pipe"]["path"], "/run/moorgate/envoy-admin.sock");
    assert_eq!(made["admin"]["access_log"][0]["typed_config"]["path"], "/dev/null");
}

#[test]
fn patches_meet_places_by_pointers_and_paths() {
    let made = apply(&patches(&[
        ("add", "/stats_flush_interval", json!("2s")),
        (
            "replace",
            "$.overload_manager.resource_monitors[0].typed_config.max_active_downstream_connections",
            json!(7),
        ),
        ("test", "/node/cluster", json!("sample/sample")),
    ]))
    .unwrap();
    let made = made.bootstrap;
    assert_eq!(made["stats_flush_interval"], "2s");
    let limit = &made["overload_manager"]["resource_monitors"][0]["typed_config"];
    assert_eq!(limit["max_active_downstream_connections"], "7");
    for (written, field, words) in [
        (("remove", "/gone", Value::Null), "jsonPatches[0].path", "meets nothing"),
        (("remove", "$..gone", Value::Null), "jsonPatches[0].jsonPath", "finds nothing"),
        (("add", "/stats_flush_interval", Value::Null), "jsonPatches[0].value", "needs a value"),
        (("test", "/node/cluster", json!("other")), "jsonPatches[0].path", "meets nothing"),
        (("add", "/stats_flush", json!("2s")), "jsonPatches", "stats_flush does not fit"),
        (("mend", "/node", json!(1)), "jsonPatches[0].op", "no operation"),
    ] {
        let said = apply(&patches(std::slice::from_ref(&written))).unwrap_err();
        assert_eq!(said.field.to_string(), field, "{said:?}");
        assert!(said.message.contains(words), "{said:?}");
    }
    let doubled: Vec<_> =
        (0..40).map(|_| ("add", "/node/metadata", json!({"a": "x".repeat(9000)}))).collect();
    assert!(apply(&patches(&doubled)).is_ok(), "what takes the place of itself grows nothing");
    assert!(apply(&patches(&vec![("test", "/node/cluster", json!("sample/sample")); 300])).is_err());
    let long = json!({"a": "x".repeat(300_000)});
    assert!(apply(&patches(&[("add", "/node/metadata", long)])).unwrap_err().message.contains("bytes"));
}

/// However a user goes about it, a fleet finds its relay, and others see whether it does.
#[test]
fn what_a_fleet_lives_by_stays() {
    for (text, words) in [
        ("node: { id: mine }", "node.id cannot be changed"),
        ("node: { cluster: other/fleet }", "node.cluster cannot be changed"),
        (
            "admin: { address: { socket_address: { address: 0.0.0.0, port_value: 9901 } } }",
            "admin.address cannot",
        ),
        ("dynamic_resources: { ads_config: { api_type: GRPC } }", "dynamic_resources cannot be changed"),
        (
            "dynamic_resources: { ads_config: { grpc_services: [{ envoy_grpc: { cluster_name: mine } }] } }",
            "dynamic_resources",
        ),
        (
            "static_resources: { clusters: [{ name: moorgate-relay, type: STATIC }] }",
            "moorgate-relay of static_resources",
        ),
        (
            "layered_runtime: { layers: [{ name: mine, static_layer: { re2.max_program_size.error_level: 100 } }] }",
            "re2.max",
        ),
        (
            "layered_runtime: { layers: [{ name: mine, static_layer: { re2: { max_program_size.error_level: 100 } } }] }",
            "re2.max",
        ),
        ("layered_runtime: { layers: [{ name: moorgate, static_layer: {} }] }", "\"moorgate\" twice"),
        ("static_resources: { listeners: [{ name: moorgate-stats }] }", "\"moorgate-stats\" twice"),
        (
            "static_resources: { listeners: [{ name: mine, address: { socket_address: { address: 0.0.0.0, port_value: 19001 } } }] }",
            "port 19001, which is taken",
        ),
        (
            "static_resources: { listeners: [{ name: mine, address: { socket_address: { address: 0.0.0.0, port_value: 19002 } } }] }",
            "port 19002, which is taken",
        ),
    ] {
        let said = merge(text).unwrap_err();
        assert_eq!(said.field.to_string(), "value", "{text}");
        assert!(said.message.contains(words), "{text}: {}", said.message);
    }
    for (op, at, value) in [
        ("replace", "/static_resources/clusters/0/load_assignment/endpoints", json!([])),
        ("remove", "/static_resources/clusters/0", Value::Null),
        ("replace", "$.static_resources.clusters[?@.name=='moorgate-relay'].name", json!("x")),
        ("remove", "/dynamic_resources", Value::Null),
        ("remove", "/admin", Value::Null),
        ("remove", "/layered_runtime", Value::Null),
        ("replace", "/node", json!({"id": "x", "cluster": "sample/sample"})),
        ("add", "", json!({})),
    ] {
        let said = apply(&patches(&[(op, at, value)])).unwrap_err();
        assert!(said.message.contains("cannot be changed"), "{op} {at}: {said:?}");
    }
    // Where Envoy is alone, its probes are answered by it.
    let probed = &bases()[1];
    let own = patches(&[("remove", "$.static_resources.listeners[?@.name=='moorgate-ready']", Value::Null)]);
    assert!(own::apply(probed, &own, &[]).unwrap_err().message.contains("moorgate-ready"));
    // How long Envoy waits can be written, and has no effect.
    let waits = merge("dynamic_resources: { lds_config: { initial_fetch_timeout: 10s } }").unwrap();
    assert_eq!(waits.bootstrap["dynamic_resources"]["lds_config"]["initial_fetch_timeout"], "0s");
    assert_eq!(waits.notes.len(), 1);
}

#[test]
fn what_is_no_bootstrap_is_said_with_its_place() {
    for (text, words) in [
        ("a: [", "line 1 of it is no YAML"),
        ("- a", "is no object, and so no bootstrap"),
        (
            "static_resource: {}",
            "static_resource does not fit Envoy's Bootstrap: Bootstrap has no such field; is static_resources meant?",
        ),
        (
            "static_resources: { clusters: [{}, { typo: 1 }] }",
            "static_resources.clusters[1].typo does not fit",
        ),
        ("stats_flush_interval: soon", "stats_flush_interval does not fit"),
        (
            "static_resources: { clusters: [{ type: SOMETIMES }] }",
            "static_resources.clusters[0].type does not fit",
        ),
        (
            "admin: { access_log: [{ typed_config: { '@type': a/b.C } }] }",
            "admin.access_log[0].typed_config.@type does not fit Envoy's Bootstrap: messages of type \"b.C\" are not known",
        ),
        (
            "admin: { access_log: [{ typed_config: { '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, pfad: x } }] }",
            "admin.access_log[0].typed_config.pfad does not fit",
        ),
    ] {
        for made in [merge(text), replace(text)] {
            let said = made.unwrap_err();
            assert!(said.message.contains(words), "{text}: {}", said.message);
        }
    }
    assert!(merge(&"#".repeat(300_000)).unwrap_err().message.contains("300000 bytes"));
}

#[test]
fn secrets_have_no_place_in_it() {
    let cluster = |key: &str| {
        format!(
            "static_resources: {{ clusters: [{{ name: c, type: STATIC, transport_socket: {{ name: t, typed_config: {{ \
             '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, \
             common_tls_context: {{ tls_certificates: [{{ certificate_chain: {{ filename: /c }}, private_key: {key} }}] }} }} }} }}] }}"
        )
    };
    for inline in ["{ inline_string: hidden-key }", "{ inline_bytes: aGlkZGVuLWtleQ== }"] {
        for made in [merge(&cluster(inline)), replace(&cluster(inline))] {
            let said = made.unwrap_err();
            assert!(said.message.contains("holds a secret") && !said.message.contains("hidden"), "{said:?}");
        }
    }
    let camel = cluster("{ inlineString: hidden-key }").replace("private_key", "privateKey");
    assert!(merge(&camel).unwrap_err().message.contains("holds a secret"));
    let torn = cluster("'-----BEGIN PRIVATE KEY-----hidden'").replace("private_key", "privateKey");
    assert!(!merge(&torn).unwrap_err().message.contains("hidden"));
    assert!(merge(&cluster("{ filename: /key }")).is_ok());
    let secret = json!([{"name": "s", "generic_secret": {"secret": {"inline_string": "hidden-key"}}}]);
    let said = apply(&patches(&[("add", "/static_resources/secrets", secret)])).unwrap_err();
    assert_eq!(said.field.to_string(), "jsonPatches[0].value");
    assert!(said.message.contains("holds a secret") && !said.message.contains("hidden"), "{said:?}");
}

/// What a user of Envoy Gateway has in git: its own bootstrap, with some changes of his.
const COPIED: &str = include_str!("copied.yaml");

#[test]
fn a_copy_of_envoy_gateways_bootstrap_works_without_what_was_for_its_control_plane() {
    let made = replace(COPIED).unwrap();
    let said: Vec<&str> = made.notes.iter().map(|said| said.message.as_str()).collect();
    for words in [
        "node.locality",
        "admin.address",
        "dynamic_resources",
        "\"xds_cluster\"",
        "\"local\"",
        "envoy-gateway-proxy-stats",
    ] {
        assert_eq!(said.iter().filter(|said| said.contains(words)).count(), 1, "{words}: {said:#?}");
    }
    let made = made.bootstrap;
    let base = own::apply(&bases()[0], &OwnBootstrap::Merge("{}".into()), &[]).unwrap().bootstrap;
    for place in ["/dynamic_resources", "/admin/address", "/node/id", "/node/cluster"] {
        assert_eq!(made.pointer(place), base.pointer(place), "{place}");
    }
    assert_eq!(named(&made, CLUSTERS, RELAY), named(&base, CLUSTERS, RELAY));
    assert_eq!(names(&made, CLUSTERS), [RELAY, STATS, "collector"]);
    assert_eq!(names(&made, LISTENERS), [STATS]);
    // What the user wants is there.
    assert_eq!(made["stats_config"]["stats_tags"][0]["tag_name"], "team");
    assert_eq!(made["admin"]["access_log"][0]["typed_config"]["path"], "/dev/null");
    assert_eq!(
        made["overload_manager"]["resource_monitors"][0]["typed_config"]["max_active_downstream_connections"],
        "123"
    );
    assert!(made["cluster_manager"]["local_cluster_name"].is_null());
    let layers: Vec<&str> = names(&made, "/layered_runtime/layers");
    assert_eq!(layers, ["global_config", "moorgate"], "the last one wins");
}

#[test]
fn what_a_replaced_bootstrap_does_not_say_is_as_ever() {
    let made = replace("admin: { profile_path: /tmp/p }\nstats_flush_interval: 7s").unwrap();
    assert_eq!(made.notes, []);
    let base = own::apply(&bases()[0], &OwnBootstrap::Merge("{}".into()), &[]).unwrap().bootstrap;
    let mut expected = base;
    expected["stats_flush_interval"] = "7s".into();
    expected["admin"]["profile_path"] = "/tmp/p".into();
    assert_eq!(made.bootstrap, expected);
    let probed = own::apply(&bases()[2], &OwnBootstrap::Replace("{}".into()), &[PROBES]).unwrap();
    assert_eq!(names(&probed.bootstrap, LISTENERS), [STATS, READY]);
}

fn node(text: &str) -> Node {
    crate::load::document(text.as_bytes()).unwrap()
}

#[test]
fn an_envoy_proxy_is_checked_with_what_else_it_says() {
    let said = |text: &str| -> Vec<(String, bool)> {
        check(&node(text)).into_iter().map(|fault| (fault.field.to_string(), fault.fatal)).collect()
    };
    assert_eq!(said("{}"), []);
    assert_eq!(said("bootstrap: {}"), [("bootstrap".into(), true)]);
    assert_eq!(said("bootstrap: { type: JSONPatch }"), [("bootstrap.jsonPatches".into(), true)]);
    assert_eq!(said("bootstrap: { value: 'stats_flush_interval: 1s' }"), []);
    assert_eq!(
        said("bootstrap: { type: Merge, value: 'node: { id: x }' }"),
        [("bootstrap.value".into(), true)]
    );
    let waits = "bootstrap: { type: Merge, value: 'dynamic_resources: { cds_config: { initial_fetch_timeout: 1s } }' }";
    assert_eq!(said(waits), [("bootstrap.value".into(), false)]);
    let prefix = "bootstrap: { type: JSONPatch, jsonPatches: [{ op: add, path: /stats_sinks/0/typed_config/prefix, value: shop }] }\n";
    assert_eq!(said(prefix), [("bootstrap.jsonPatches[0].path".into(), true)], "there is no sink");
    let sink = "telemetry: { metrics: { sinks: [{ type: OpenTelemetry, openTelemetry: { host: otel, port: 4317 } }] } }\n";
    assert_eq!(said(&format!("{prefix}{sink}")), []);
    let listener = "bootstrap: { type: JSONPatch, jsonPatches: [{ op: add, jsonPath: \"$.static_resources.listeners[?@.name=='moorgate-stats']\", path: /enable_reuse_port, value: false }] }\n";
    assert_eq!(said(listener), []);
}
