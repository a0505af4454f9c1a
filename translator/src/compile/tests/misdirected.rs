//! Requests that come by another listener than the one that owns their host (GEP-3567).

use super::*;
use crate::explain::{Answer, Request, explain};
use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use moorgate_snapshot::Record;
use prost::Message as _;

/// Class, certificate, and a Gateway with HTTPS listeners of these names and hostnames.
fn https(listeners: &[(String, String)]) -> String {
    let mut text = format!(
        "{CLASS}apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: one, namespace: shop}}\n\
         spec:\n  gatewayClassName: moorgate\n  listeners:\n"
    );
    for (name, hostname) in listeners {
        let hostname = if hostname.is_empty() { String::new() } else { format!(", hostname: '{hostname}'") };
        let _ = writeln!(
            text,
            "  - {{name: {name}, port: 443, protocol: HTTPS{hostname}, tls: {{certificateRefs: [{{name: pair}}]}}}}"
        );
    }
    text + "---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80}]}\n---\n"
}

fn on_listener(name: &str, hostnames: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  parentRefs: [{{name: one, sectionName: {name}}}]\n  hostnames: [{hostnames}]\n  \
         rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n---\n"
    )
}

fn fleet(text: &str) -> CompiledFleet {
    let mut compilation = compiled(&[("all.yaml", text.to_owned())]);
    assert!(!compilation.diagnostics.has_errors(), "{:?}", compilation.diagnostics);
    compilation.fleets.remove(&FleetName::gateway("shop", "one")).unwrap()
}

/// What `explain` says of a request over a connection for another name: the route, or the status.
fn answer(fleet: &CompiledFleet, server_name: &str, host: &str) -> String {
    let mut request = Request::parse("GET", &format!("https://{host}/"), &[]).unwrap();
    request.server_name = server_name.to_owned();
    match explain(&fleet.ir, &request) {
        Answer::Found(_, route) => route.origin.object.name.to_string(),
        Answer::NotFound(_) => "404".into(),
        Answer::Misdirected(..) => "421".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_most_specific_listener_of_a_host_must_be_that_of_the_connection() {
    let names = [
        ("any", ""),
        ("second", "second.example"),
        ("wild", "*.wildcard.example"),
        ("fourth", "fourth.wildcard.example"),
    ];
    let text = https(&names.map(|(name, hostname)| (name.to_owned(), hostname.to_owned())))
        + &on_listener("any", "first.example")
        + &on_listener("second", "second.example")
        + &on_listener("wild", "'*.wildcard.example', fourth.wildcard.example")
        + &on_listener("fourth", "fourth.wildcard.example");
    let all = fleet(&text);
    let cases = [
        ("first.example", "first.example", "any"),
        ("first.example", "second.example", "421"),
        ("first.example", "unknown.example", "404"),
        ("second.example", "second.example", "second"),
        ("second.example", "SECOND.example.", "second"),
        ("second.example", "first.example", "421"),
        // The listener without a hostname owns what nobody else does.
        ("second.example", "unknown.example", "421"),
        ("third.wildcard.example", "third.wildcard.example", "wild"),
        ("third.wildcard.example", "deep.fifth.wildcard.example", "wild"),
        ("third.wildcard.example", "fourth.wildcard.example", "421"),
        ("third.wildcard.example", "second.example", "421"),
        ("fourth.wildcard.example", "fourth.wildcard.example", "fourth"),
        ("fourth.wildcard.example", "fifth.wildcard.example", "421"),
        ("unknown.example", "first.example", "any"),
        ("unknown.example", "unknown.example", "404"),
        ("", "first.example", "any"),
        ("", "second.example", "421"),
    ];
    for (server_name, host, expected) in cases {
        assert_eq!(answer(&all, server_name, host), expected, "{host} over {server_name}");
    }
}

#[test]
fn without_a_listener_for_everything_unknown_hosts_are_not_found() {
    let names = [("a", "a.example"), ("b", "b.example")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let two = fleet(&(https(&names) + &on_listener("a", "a.example") + &on_listener("b", "b.example")));
    for (server_name, host, expected) in [
        ("a.example", "a.example", "a"),
        ("a.example", "b.example", "421"),
        ("a.example", "c.example", "404"),
    ] {
        assert_eq!(answer(&two, server_name, host), expected, "{host} over {server_name}");
    }
    let one = fleet(&(https(&names[..1]) + &on_listener("a", "a.example")));
    assert_eq!(answer(&one, "a.example", "b.example"), "404");
    assert!(one.ir.tables()["https-443"].hosts.iter().all(|host| host.listener.is_none()));
}

/// A Gateway with so many HTTPS listeners, each for a hostname.
fn in_sets(listeners: usize) -> String {
    // Sixty-four listeners is what one Gateway has; the others come from ListenerSets.
    let names = |range: std::ops::Range<usize>| -> Vec<(String, String)> {
        range.map(|n| (format!("l{n:04}"), format!("h{n:04}.example"))).collect()
    };
    let mut text = https(&names(0..64)).replace(
        "spec:\n  gatewayClassName: moorgate\n",
        "spec:\n  gatewayClassName: moorgate\n  allowedListeners: {namespaces: {from: Same}}\n",
    );
    for set in 1..listeners / 64 {
        let _ = write!(
            text,
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: s{set:03}, namespace: shop}}\n\
             spec:\n  parentRef: {{name: one}}\n  listeners:\n"
        );
        for (name, hostname) in names(set * 64..(set + 1) * 64) {
            let _ = writeln!(
                text,
                "  - {{name: {name}, port: 443, protocol: HTTPS, hostname: {hostname}, tls: {{certificateRefs: \
                 [{{name: pair}}]}}}}"
            );
        }
        text.push_str("---\n");
    }
    text
}

/// All bytes of a fleet, and those of its largest resource but the listener.
fn bytes(listeners: usize) -> (usize, usize) {
    let fleet = fleet(&in_sets(listeners));
    let chains: usize = fleet.ir.listeners.values().map(|listener| listener.chains.len()).sum();
    assert_eq!(chains, listeners);
    let sizes = fleet.snapshot.records().filter_map(|record| match record {
        Record::Resource(resource) => {
            Some((resource.type_url.ends_with("RouteConfiguration"), resource.bytes.len()))
        }
        Record::Binding(_) => None,
    });
    let sizes: Vec<_> = sizes.collect();
    let sum = |table: bool| sizes.iter().filter(|(is, _)| *is == table).map(|(_, size)| size).sum();
    (sum(false), sum(true))
}

/// What Envoy keeps and does for the hosts of a port with so many listeners, each with a route of its own: virtual hosts,
/// their domains, all their routes, and the most routes that one of them has. Envoy finds a virtual host by its domain, in
/// a table, and tries its routes one after another: the last number bounds what any request costs.
fn work(listeners: usize) -> [usize; 4] {
    let names = |n: usize| (format!("l{n:04}"), format!("h{n:04}.example"));
    let own: Vec<(String, String)> = (0..listeners).map(names).collect();
    let mut text = in_sets(listeners);
    for (name, host) in &own {
        text.push_str(&on_listener(name, host).replace(
            &format!("{{name: one, sectionName: {name}}}"),
            &match name[1..].parse::<usize>().unwrap() / 64 {
                0 => format!("{{name: one, sectionName: {name}}}"),
                set => format!("{{kind: ListenerSet, name: s{set:03}, sectionName: {name}}}"),
            },
        ));
    }
    let fleet = fleet(&text);
    assert_eq!(fleet.routes, listeners);
    let tables = fleet.snapshot.records().filter_map(|record| match record {
        Record::Resource(resource) if resource.type_url.ends_with("RouteConfiguration") => {
            Some(RouteConfiguration::decode(&*resource.bytes).unwrap())
        }
        _ => None,
    });
    let hosts: Vec<VirtualHost> = tables.flat_map(|table| table.virtual_hosts).collect();
    let routes = hosts.iter().map(|host| host.routes.len());
    let domains = hosts.iter().map(|host| host.domains.len()).sum();
    [hosts.len(), domains, routes.clone().sum(), routes.max().unwrap()]
}

#[test]
fn sixteen_times_the_listeners_are_sixteen_times_the_work_and_no_more_for_a_request() {
    let (few, many) = (work(64), work(1024));
    for (what, few, many) in
        [("hosts", few[0], many[0]), ("domains", few[1], many[1]), ("routes", few[2], many[2])]
    {
        assert_eq!(many, few * 16, "{what} of 64 listeners and of 1024");
    }
    assert_eq!(few[3], many[3], "routes that a request tries, with 64 listeners and with 1024");
}

#[test]
fn sixteen_times_the_listeners_are_sixteen_times_the_bytes() {
    let (few, many) = (bytes(64), bytes(1024));
    for (name, few, many) in [("listener", few.0, many.0), ("routes", few.1, many.1)] {
        // Names of listeners of a set are longer; pairs of listeners would be 256 times as many.
        assert!(many < few * 20, "{name}: {few} bytes for 64 listeners, {many} for 1024");
    }
    // One host with its check, without routes.
    assert!(many.1 / 1024 < 200, "{} bytes a host", many.1 / 1024);
}
