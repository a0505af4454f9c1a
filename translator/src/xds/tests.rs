mod fleet;

use super::*;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use fleet::{backend, cluster, fleet, forward, route};
use moorgate_model::ir::{Action, Fleet, PathMatch, UpstreamTls};
use moorgate_snapshot::Digest;
use moorgate_snapshot::Template;
use moorgate_snapshot::record::{BindingKind, BindingSource};
use prost::Message as _;
use serde_json::{Value, json};

fn resources(records: &[Record]) -> Vec<&Resource> {
    records
        .iter()
        .filter_map(|record| match record {
            Record::Resource(resource) => Some(resource),
            Record::Binding(_) => None,
        })
        .collect()
}

fn parts<'r>(records: &'r [Record], table: &str) -> Vec<&'r Resource> {
    resources(records)
        .into_iter()
        .filter(|part| *part.type_url == *ROUTE_TYPE && *part.name == *table)
        .collect()
}

fn bindings(records: &[Record]) -> Vec<String> {
    let bindings = records.iter().filter_map(|record| match record {
        Record::Resource(_) => None,
        Record::Binding(binding) => Some(match &binding.source {
            BindingSource::Endpoints(sources) | BindingSource::Zoned(sources, _) => {
                format!("{:?} {} {}", binding.kind, binding.name, sources.len())
            }
            BindingSource::Object { kind, namespace, name } => {
                format!("{:?} {} = {kind} {namespace} {name}", binding.kind, binding.name)
            }
            BindingSource::Template(Template { objects, .. }) | BindingSource::Objects(objects) => {
                format!("{:?} {} = {} objects", binding.kind, binding.name, objects.len())
            }
        }),
    });
    bindings.collect()
}

/// Changes when any byte of any resource does. A change here moves the snapshot of every user: say so in CHANGELOG.
#[test]
fn the_bytes_of_a_fleet_are_these() {
    let records = records(&fleet());
    let digest = Digest::of_parts(resources(&records).iter().map(|resource| &*resource.bytes));
    assert_eq!(digest.to_string(), "7202d36f50f1b4bcf2bdb78299f0a37f6ffdbd2ef8a463024f572424fa189937");
}

#[test]
fn every_run_gives_the_same_records_in_order() {
    let first = records(&fleet());
    for _ in 0..50 {
        assert_eq!(records(&fleet()), first);
    }
    let keys: Vec<_> =
        resources(&first).iter().map(|r| (r.type_url.clone(), r.name.clone(), r.part.clone())).collect();
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
}

#[test]
fn parts_in_order_are_the_table() {
    let fleet = fleet();
    let records = records(&fleet);
    let parts = parts(&records, "http-80");
    assert_eq!(
        parts.iter().map(|part| &*part.part).collect::<Vec<_>>(),
        ["", "*", "*.example.com", "a.example.com"]
    );
    let joined: Vec<u8> = parts.iter().flat_map(|part| part.bytes.iter().copied()).collect();
    let table = RouteConfiguration::decode(&*joined).unwrap();
    let hosts = &fleet.listeners["http-80"].chains[0].routes().unwrap().hosts;
    let whole = RouteConfiguration {
        virtual_hosts: hosts.iter().map(route::host).collect(),
        ..route::head("http-80")
    };
    assert_eq!(table, whole);
    // The one encoding of the whole holds the same bytes, hosts before the fields with higher numbers.
    let single = canonical::encode(&whole);
    assert_eq!(canonical::encode(&table), single);
    assert_eq!(joined.len(), single.len());
    for part in &parts[1..] {
        assert!(single.windows(part.bytes.len()).any(|window| *window == *part.bytes), "{}", part.part);
    }
}

#[test]
fn bindings_name_what_resources_refer_to() {
    let records = records(&fleet());
    assert_eq!(
        bindings(&records),
        [
            "Endpoints shop/cart/443 1",
            "Endpoints shop/cart/80 1",
            "Secret shop/cert = Secret shop cert",
            "Secret shop/ecdsa = Secret shop ecdsa",
            "TrustBundle ConfigMap/shop/ca = ConfigMap shop ca",
        ]
    );
    let mut wanted: Vec<_> =
        resources(&records).iter().flat_map(|resource| resource.refs.iter().cloned()).collect();
    wanted.sort();
    wanted.dedup();
    let found: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Binding(binding) => Some(Reference { kind: binding.kind, name: binding.name.clone() }),
            Record::Resource(_) => None,
        })
        .collect();
    assert_eq!(wanted, found);
}

fn cluster_named(records: &[Record], name: &str) -> (Cluster, Vec<Reference>) {
    let resource = resources(records).into_iter().find(|resource| *resource.name == *name).unwrap();
    (Cluster::decode(resource.bytes.clone()).unwrap(), resource.refs.clone())
}

#[test]
fn a_refused_cluster_has_nothing_to_connect_to() {
    let all = records(&fleet());
    let (refused, refs) = cluster_named(&all, "shop/gone/443+refuse");
    assert!(refused.eds_cluster_config.is_none() && refused.load_assignment.is_none() && refs.is_empty());
    // So has one that nothing could verify.
    let mut unverified = Fleet::default();
    let tls = UpstreamTls { ca_bundles: Vec::new(), ..fleet::tls() };
    unverified.clusters.insert("c".into(), moorgate_model::ir::Cluster { tls: Some(tls), ..cluster("c") });
    let all = records(&unverified);
    assert!(cluster_named(&all, "c").0.eds_cluster_config.is_none());
    assert_eq!(bindings(&all), [""; 0]);
}

#[test]
fn listeners_do_not_change_with_routes() {
    let before = records(&fleet());
    let mut changed = fleet();
    for chain in changed.listeners.values_mut().flat_map(|listener| &mut listener.chains) {
        for host in chain.routes_mut().into_iter().flat_map(|routes| &mut routes.hosts) {
            host.routes.clear();
            host.routes.push(route("new", PathMatch::Prefix("/new".into()), Action::Forward(forward())));
        }
    }
    let after = records(&changed);
    let listeners = |records: &[Record]| -> Vec<Resource> {
        let listeners =
            resources(records).into_iter().filter(|resource| *resource.type_url == *LISTENER_TYPE);
        listeners.cloned().collect()
    };
    assert_eq!(listeners(&before), listeners(&after));
    let secret = |resource: &Resource| resource.refs.iter().all(|r| r.kind == BindingKind::Secret);
    assert!(listeners(&before).iter().all(secret));
    for listener in listeners(&before) {
        Listener::decode(listener.bytes).unwrap();
    }
}

fn only_route(forward: moorgate_model::ir::Forward) -> Value {
    let mut one = fleet();
    one.listeners.remove("https-443");
    let hosts = &mut one.listeners.get_mut("http-80").unwrap().chains[0].routes_mut().unwrap().hosts;
    hosts.truncate(1);
    hosts[0].routes = vec![route("one", PathMatch::Prefix(String::new()), Action::Forward(forward))];
    let mut all = json::resources(&records(&one)).unwrap();
    all["routes"][0]["virtual_hosts"][0]["routes"][0].take()
}

#[test]
fn a_plain_rule_is_a_small_route() {
    assert_eq!(
        only_route(forward()),
        json!({
            "name": "httproute/shop/one",
            "match": {"prefix": "/"},
            "route": {"cluster": "shop/cart/80", "timeout": "0s"},
        })
    );
}

#[test]
fn an_unresolved_share_answers_500_and_only_that_share() {
    let mut both = forward();
    both.backends = vec![backend(Some("shop/cart/80"), 3), backend(None, 1)];
    let route = only_route(both);
    assert_eq!(route["route"]["cluster_not_found_response_code"], "INTERNAL_SERVER_ERROR");
    let clusters = &route["route"]["weighted_clusters"]["clusters"];
    assert_eq!(clusters[0], json!({"name": "shop/cart/80", "weight": 3}));
    assert_eq!(clusters[1]["weight"], 1);
    let mut none = forward();
    none.backends = vec![backend(None, 1)];
    assert_eq!(only_route(none)["direct_response"], json!({"status": 500}));
}

#[test]
fn the_envoy_form_holds_the_served_resources() {
    let records = records(&fleet());
    let served = json::resources(&records).unwrap();
    let whole = envoy_json(&records).unwrap();
    let clusters = whole["static_resources"]["clusters"].as_array().unwrap();
    assert_eq!(clusters.len(), served["clusters"].as_array().unwrap().len() + 1);
    assert_eq!(clusters[..clusters.len() - 1], served["clusters"].as_array().unwrap()[..]);
    let manager =
        &whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["route_config"], served["routes"][2]);
    assert_eq!(manager["rds"], Value::Null);
    assert!(whole["dynamic_resources"].get("lds_config").is_none());
}
