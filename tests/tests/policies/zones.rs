//! Zones of endpoints on a real Envoy that knows its own.

use super::behaviour::{HOST, policy};
use super::extensions::object;
use anyhow::ensure;
use moorgate_tests::backend::Backend;
use moorgate_tests::http::{Request, Target, send, send_until};
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::ports;
use moorgate_tests::stack::Stack;
use moorgate_tests::wait;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How many requests each backend got of so many.
fn shares(target: &Target, path: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let answer = send(target, &Request::get(HOST, path)).unwrap();
        assert_eq!(answer.status, 200, "{path}");
        *counts.entry(answer.who()).or_insert(0) += 1;
    }
    counts
}

/// Says beside the relay where the endpoints of `web` are, by zone.
fn lay(stack: &Stack, zones: &[(&str, &[&Backend])]) {
    let mut text = "endpoints:\n".to_owned();
    for (zone, backends) in zones {
        let addresses: Vec<_> = backends.iter().map(|backend| format!("'{}'", backend.address())).collect();
        let _ = writeln!(
            text,
            "- {{ service: edge/web, port: http, addresses: [{}], zone: {zone} }}",
            addresses.join(", ")
        );
    }
    let file = stack.folder().join("endpoints/web.yaml");
    let new = stack.folder().join("endpoints.new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// A route `/name` with a policy of these zones.
fn route(name: &str, backend: &str, zones: &str) -> Vec<String> {
    let rule = format!(
        "    - matches: [{{ path: {{ type: PathPrefix, value: /{name} }} }}]\n      backendRefs: [{backend}]\n"
    );
    let spec = format!("  loadBalancer: {{ type: RoundRobin, zoneAware: {zones} }}\n");
    vec![
        manifest::http_route("edge", name, "edge/public", &[], &rule),
        policy(name, "BackendTrafficPolicy", "HTTPRoute", name, &spec),
    ]
}

#[test]
fn requests_stay_in_their_zone_or_go_by_the_weights_of_zones() {
    let mut stack = Stack::new("edge/public").unwrap();
    stack.bootstrap_arguments = vec!["--zone".to_owned(), "a".to_owned()];
    let start = |name: &str| Backend::start(name).unwrap();
    let (one, two, far, away) = (start("one"), start("two"), start("far"), start("away"));
    lay(&stack, &[("a", &[&one, &two]), ("b", &[&far, &away])]);
    let port = ports::free().unwrap();
    let service = "{ name: web, port: 80 }";
    let fixed = "{ group: gateway.envoyproxy.io, kind: Backend, name: fixed }";
    let endpoint = |backend: &Backend, zone: &str| {
        let address = backend.address();
        format!("{{ ip: {{ address: {}, port: {} }}, zone: {zone} }}", address.ip(), address.port())
    };
    let mut documents = vec![
        manifest::gateway_class(),
        manifest::gateway("edge", "public", &[Listener::http("http", port)]),
        manifest::service("edge", "web"),
        object(
            "Backend",
            "fixed",
            &format!("  endpoints: [{}, {}]\n", endpoint(&one, "a"), endpoint(&far, "b")),
        ),
    ];
    let local = "{ preferLocal: { minEndpointsThreshold: 1, force: { minEndpointsInZoneThreshold: 2 } } }";
    let weights = "{ weightedZones: [{ zone: a, weight: 1 }, { zone: b, weight: 3 }] }";
    documents.extend(route("local", service, local));
    documents.extend(route("near", service, "{ preferLocal: { minEndpointsThreshold: 1 } }"));
    documents.extend(route("weights", service, weights));
    documents.extend(route("fixed", fixed, weights));
    documents.extend(route("large", service, "{ preferLocal: { minEndpointsThreshold: 5, force: {} } }"));
    let told = stack.publish_documents_with(&documents, &["--allow-address", "127.0.0.0/8"]).unwrap();
    // Without force it is approximate, and says so once.
    assert_eq!(told.stderr.matches("MG4011").count(), 1, "{}", told.stderr);
    stack.start_relay().unwrap();
    stack.start_envoy(&[port]).unwrap();
    let target = Target::plain(port);
    for path in ["/local", "/near", "/weights", "/fixed", "/large"] {
        send_until(&target, &Request::get(HOST, path), "an answer", |answer| answer.status == 200).unwrap();
    }

    // Enough endpoints in the own zone: they alone are asked, and all of them.
    for path in ["/local", "/near"] {
        let counts = shares(&target, path, 40);
        assert_eq!(counts.keys().map(String::as_str).collect::<Vec<_>>(), ["one", "two"], "{path}");
    }
    // Too few endpoints in all: zones do not matter.
    let counts = shares(&target, "/large", 40);
    assert_eq!(counts.len(), 4, "{counts:?}");
    // Each of Envoy's threads goes round by itself.
    let counts = shares(&target, "/weights", 400);
    let of = |name: &str| counts.get(name).copied().unwrap_or_default();
    let (near, other) = (of("one") + of("two"), of("far") + of("away"));
    assert!((90..=110).contains(&near) && near + other == 400, "{counts:?}");
    let counts = shares(&target, "/fixed", 200);
    assert!((40..=60).contains(&counts["one"]), "{counts:?}");

    // One endpoint is not enough for a zone of which two are wanted: others are asked too, until it has two again. Where no
    // number is said one is enough, and without any the others are asked.
    lay(&stack, &[("a", &[&one]), ("b", &[&far, &away])]);
    let seen = |path: &str, wanted: &[&str]| {
        wait::until(&format!("{path} to lead to {wanted:?}"), || {
            let counts = shares(&target, path, 20);
            ensure!(counts.keys().map(String::as_str).eq(wanted.iter().copied()), "{counts:?}");
            Ok(())
        })
        .unwrap();
    };
    seen("/local", &["away", "far", "one"]);
    seen("/near", &["one"]);
    lay(&stack, &[("b", &[&far, &away])]);
    seen("/near", &["away", "far"]);
    lay(&stack, &[("a", &[&one, &two]), ("b", &[&far, &away])]);
    seen("/local", &["one", "two"]);
    seen("/near", &["one", "two"]);
}
