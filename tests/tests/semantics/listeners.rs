//! What a listener takes, covers and keeps to itself.

use super::{answer, attached, compiled, condition, fine, gateway, route, service, to};

/// `*.` covers any number of labels and never the name itself; of several listeners the most specific takes a host.
#[test]
fn wildcards_cover_any_number_of_labels() {
    let listener = |name: &str, hostname: &str| {
        let hostname = if hostname.is_empty() { String::new() } else { format!(", hostname: '{hostname}'") };
        format!("{{name: {name}, port: 80, protocol: HTTP{hostname}}}")
    };
    let names =
        [("all", ""), ("wide", "*.example.com"), ("deep", "*.b.example.com"), ("exact", "a.b.example.com")];
    let listeners: Vec<String> = names.iter().map(|(name, hostname)| listener(name, hostname)).collect();
    let mut documents = vec![gateway(&listeners.join(", "), "")];
    for (name, _) in names {
        documents.push(service("shop", name));
        let spec = format!("parentRefs: [{{name: edge, sectionName: {name}}}]");
        documents.push(route("HTTPRoute", &format!("name: {name}, namespace: shop"), &spec, &to(name)));
    }
    let compilation = fine(&documents);
    for (host, who) in [
        ("a.b.example.com", "exact"),
        ("A.B.EXAMPLE.COM", "exact"),
        ("a.b.example.com:8080", "exact"),
        ("c.b.example.com", "deep"),
        ("d.c.b.example.com", "deep"),
        ("a.a.b.example.com", "deep"),
        ("b.example.com", "wide"),
        ("c.example.com", "wide"),
        ("e.d.example.com", "wide"),
        ("example.com", "all"),
        ("anotherexample.com", "all"),
        ("example.org", "all"),
    ] {
        let found = answer(&compilation, "GET", "http://10.0.0.1/", &[format!("host: {host}").as_str()]);
        assert_eq!(found, format!("shop/{who}/80"), "{host}");
    }
}

/// A request meets the routes of the most specific listener for its host, and of no other (GatewayHTTPListenerIsolation):
/// what these do not match is not found, although another listener's routes would.
#[test]
fn listeners_keep_their_requests() {
    let listeners = "{name: all, port: 80, protocol: HTTP}, {name: wide, port: 80, protocol: HTTP, hostname: '*.example.com'}, \
                     {name: deep, port: 80, protocol: HTTP, hostname: '*.foo.example.com'}, \
                     {name: exact, port: 80, protocol: HTTP, hostname: abc.foo.example.com}";
    let mut documents = vec![gateway(listeners, ""), service("shop", "web")];
    for name in ["all", "wide", "deep", "exact"] {
        let spec = format!("parentRefs: [{{name: edge, sectionName: {name}}}]");
        let rules =
            format!("[{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: web, port: 80}}]}}]");
        documents.push(route("HTTPRoute", &format!("name: {name}, namespace: shop"), &spec, &rules));
    }
    let compilation = fine(&documents);
    for (host, own) in [
        ("bar.com", "all"),
        ("bar.example.com", "wide"),
        ("bar.foo.example.com", "deep"),
        ("abc.foo.example.com", "exact"),
    ] {
        for path in ["all", "wide", "deep", "exact"] {
            let expected = if path == own { "shop/web/80" } else { "404" };
            assert_eq!(
                answer(&compilation, "GET", &format!("http://{host}/{path}"), &[]),
                expected,
                "{host}/{path}"
            );
        }
    }
    assert_eq!(attached(&compilation, "Gateway", "edge"), [1, 1, 1, 1]);
}

/// Which protocols share a port: server names tell listeners with TLS apart, hostnames those with plain HTTP; TCP has a port
/// for itself, and UDP is another transport.
#[test]
fn protocols_share_a_port_where_connections_can_be_told_apart() {
    let listener = |name: &str, protocol: &str| {
        let tls = match protocol {
            "HTTPS" => ", tls: {certificateRefs: [{name: c}]}",
            "TLS" => ", tls: {mode: Passthrough}",
            _ => "",
        };
        let hostname = match protocol {
            "TCP" | "UDP" => String::new(),
            _ => format!(", hostname: {name}.example.com"),
        };
        format!("{{name: {name}, port: 443, protocol: {protocol}{hostname}{tls}}}")
    };
    let protocols = ["HTTP", "HTTPS", "TLS", "TCP", "UDP"];
    for (a, first) in protocols.iter().enumerate() {
        for second in protocols.iter().skip(a) {
            if first == second && matches!(*first, "TCP" | "UDP") {
                // The API server refuses these: nothing tells them apart.
                continue;
            }
            let shares = matches!(
                (*first, *second),
                ("HTTP", "HTTP") | ("HTTPS", "HTTPS" | "TLS") | ("TLS", "TLS") | (_, "UDP")
            );
            let compilation =
                compiled(&[gateway(&format!("{}, {}", listener("a", first), listener("b", second)), "")]);
            for name in ["a", "b"] {
                let expected = if shares { "False/NoConflicts" } else { "True/ProtocolConflict" };
                let found = condition(&compilation, "Gateway", "edge", name, "Conflicted");
                assert_eq!(found, expected, "{name} of {first} and {second}");
            }
        }
    }
}

/// Which ListenerSets a Gateway lets in, and that without a word it is none (GEP-1713).
#[test]
fn gateways_let_listener_sets_in_by_namespace() {
    let set = |namespace: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: {namespace}, namespace: {namespace}}}\nspec:\n  \
             parentRef: {{name: edge, namespace: shop}}\n  listeners: [{{name: l, port: 80, protocol: HTTP, hostname: {namespace}.example.com}}]\n"
        )
    };
    let labels = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team, labels: {tier: gold}}\n".to_owned();
    let selector = "{from: Selector, selector: {matchLabels: {tier: gold}}}";
    for (allowed, shop, team, other) in [
        (None, false, false, false),
        (Some("{from: None}"), false, false, false),
        (Some("{from: Same}"), true, false, false),
        (Some("{from: All}"), true, true, true),
        (Some(selector), false, true, false),
        (
            Some("{from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: other}}}"),
            false,
            false,
            true,
        ),
    ] {
        let more = allowed
            .map(|allowed| format!("  allowedListeners: {{namespaces: {allowed}}}\n"))
            .unwrap_or_default();
        let mut documents = vec![gateway("{name: own, port: 81, protocol: HTTP}", &more), labels.clone()];
        for namespace in ["shop", "team", "other"] {
            documents.push(set(namespace));
            documents.push(service(namespace, "web"));
            let spec = format!("parentRefs: [{{kind: ListenerSet, name: {namespace}}}]");
            documents.push(route(
                "HTTPRoute",
                &format!("name: {namespace}, namespace: {namespace}"),
                &spec,
                &to("web"),
            ));
        }
        let compilation = compiled(&documents);
        for (namespace, expected) in [("shop", shop), ("team", team), ("other", other)] {
            let accepted = condition(&compilation, "ListenerSet", namespace, "", "Accepted");
            assert_eq!(
                accepted,
                if expected { "True/Accepted" } else { "False/NotAllowed" },
                "{allowed:?} {namespace}"
            );
            let found = answer(&compilation, "GET", &format!("http://{namespace}.example.com/"), &[]);
            let served = format!("{namespace}/web/80");
            assert_eq!(found == served, expected, "{allowed:?} {namespace}: {found}");
        }
    }
}

/// `allowedRoutes` of a ListenerSet's listener speaks of the namespace of the set, not of its Gateway's.
#[test]
fn routes_attach_by_the_namespace_of_the_listener_set() {
    let labels =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: guest, labels: {tier: gold}}\n".to_owned();
    for (from, expected) in [
        ("", [false, true, false]),
        (", allowedRoutes: {namespaces: {from: Same}}", [false, true, false]),
        (", allowedRoutes: {namespaces: {from: All}}", [true, true, true]),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {tier: gold}}}}",
            [false, false, true],
        ),
        (", allowedRoutes: {namespaces: {from: All}, kinds: [{kind: GRPCRoute}]}", [false, false, false]),
    ] {
        let set = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: more, namespace: team}}\nspec:\n  \
             parentRef: {{name: edge, namespace: shop}}\n  listeners: [{{name: l, port: 80, protocol: HTTP{from}}}]\n"
        );
        let allow = "  allowedListeners: {namespaces: {from: All}}\n";
        let mut documents =
            vec![gateway("{name: own, port: 81, protocol: HTTP}", allow), set, labels.clone()];
        for namespace in ["shop", "team", "guest"] {
            documents.push(service(namespace, "web"));
            let spec = format!(
                "parentRefs: [{{kind: ListenerSet, name: more, namespace: team}}]\n  hostnames: [{namespace}.example.com]"
            );
            documents.push(route(
                "HTTPRoute",
                &format!("name: {namespace}, namespace: {namespace}"),
                &spec,
                &to("web"),
            ));
        }
        let compilation = compiled(&documents);
        for (namespace, expected) in ["shop", "team", "guest"].into_iter().zip(expected) {
            let accepted = condition(&compilation, "HTTPRoute", namespace, "0", "Accepted");
            let wanted = if expected { "True/Accepted" } else { "False/NotAllowedByListeners" };
            assert_eq!(accepted, wanted, "{from}: {namespace}");
            let found = answer(&compilation, "GET", &format!("http://{namespace}.example.com/"), &[]);
            assert_eq!(
                found,
                if expected { format!("{namespace}/web/80") } else { "404".to_owned() },
                "{from}: {namespace}"
            );
        }
        let count = expected.iter().filter(|one| **one).count();
        assert_eq!(attached(&compilation, "ListenerSet", "more"), [count], "{from}");
        assert_eq!(attached(&compilation, "Gateway", "edge"), [0], "{from}");
    }
}

/// Listeners that want the same: the Gateway's, then the older ListenerSet's, then the first by namespace and name.
#[test]
fn the_oldest_listener_set_wins() {
    let at = |year: u32| format!(", creationTimestamp: '{year}-01-01T00:00:00Z'");
    let set = |namespace: &str, name: &str, created: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: {name}, namespace: {namespace}{created}}}\nspec:\n  \
             parentRef: {{name: edge, namespace: shop}}\n  listeners: [{{name: l, port: 80, protocol: HTTP, hostname: a.example.com}}]\n"
        )
    };
    let allow = "  allowedListeners: {namespaces: {from: All}}\n";
    for (first, second, winner) in [
        (("b", "one", String::new()), ("a", "two", String::new()), "two"),
        (("a", "two", String::new()), ("a", "one", String::new()), "one"),
        (("b", "one", at(2020)), ("a", "two", at(2021)), "one"),
        (("b", "one", at(2020)), ("a", "two", String::new()), "one"),
    ] {
        let compilation = compiled(&[
            gateway("{name: own, port: 81, protocol: HTTP}", allow),
            set(first.0, first.1, &first.2),
            set(second.0, second.1, &second.2),
        ]);
        for name in ["one", "two"] {
            let expected = if name == winner { "False/NoConflicts" } else { "True/HostnameConflict" };
            assert_eq!(
                condition(&compilation, "ListenerSet", name, "l", "Conflicted"),
                expected,
                "{first:?} {second:?} {name}"
            );
        }
        let own = "{name: own, port: 80, protocol: HTTP, hostname: a.example.com}";
        let compilation = compiled(&[gateway(own, allow), set(first.0, first.1, &first.2)]);
        assert_eq!(
            condition(&compilation, "ListenerSet", first.1, "l", "Conflicted"),
            "True/HostnameConflict"
        );
        assert_eq!(condition(&compilation, "Gateway", "edge", "own", "Conflicted"), "False/NoConflicts");
    }
}

/// Several routes of connections on one listener are all attached and counted; the oldest gets the connections. One rule and
/// sixteen backends are the most that they can have.
#[test]
fn routes_of_connections_are_counted_and_bounded() {
    let backends =
        |count: usize| format!("[{{backendRefs: [{}]}}]", vec!["{name: web, port: 80}"; count].join(", "));
    for (kind, protocol, port, scheme) in
        [("TCPRoute", "TCP", 90, "tcp"), ("UDPRoute", "UDP", 90, "udp"), ("TLSRoute", "TLS", 443, "tls")]
    {
        let tls = if protocol == "TLS" { ", tls: {mode: Passthrough}" } else { "" };
        let listener = format!("{{name: l, port: {port}, protocol: {protocol}{tls}}}");
        let hostnames = if kind == "TLSRoute" { "\n  hostnames: [a.example.com]" } else { "" };
        let spec = format!("parentRefs: [{{name: edge}}]{hostnames}");
        let udp = if protocol == "UDP" { "80, protocol: UDP" } else { "80" };
        let service = |name: &str| service("shop", name).replace("port: 80", &format!("port: {udp}"));
        let created = |name: &str, year: u32| {
            format!("name: {name}, namespace: shop, creationTimestamp: '{year}-01-01T00:00:00Z'")
        };
        let compilation = fine(&[
            gateway(&listener, ""),
            service("web"),
            service("old"),
            route(kind, &created("a", 2024), &spec, &to("web")),
            route(kind, &created("b", 2020), &spec, &to("old")),
            route(kind, "name: c, namespace: shop", &spec, &backends(16)),
        ]);
        assert_eq!(attached(&compilation, "Gateway", "edge"), [3], "{kind}");
        for name in ["a", "b", "c"] {
            assert_eq!(
                condition(&compilation, kind, name, "0", "Accepted"),
                "True/Accepted",
                "{kind} {name}"
            );
        }
        let found = answer(&compilation, "CONNECT", &format!("{scheme}://a.example.com:{port}"), &[]);
        assert!(found.starts_with("shop/old/80"), "{kind}: {found}");
        for rules in [
            backends(17),
            format!(
                "[{}, {}]",
                &backends(1)[1..backends(1).len() - 1],
                &backends(1)[1..backends(1).len() - 1]
            ),
            "[]".to_owned(),
        ] {
            let compilation = compiled(&[
                gateway(&listener, ""),
                service("web"),
                route(kind, "name: a, namespace: shop", &spec, &rules),
            ]);
            assert!(
                compilation
                    .diagnostics
                    .iter()
                    .any(|found| found.code.id == "MG2009" || found.code.id == "MG2011"),
                "{kind} {rules:.60}"
            );
            assert_eq!(attached(&compilation, "Gateway", "edge"), [0], "{kind}");
        }
    }
}

/// All certificates of a listener are served, for clients that know one algorithm only; and the system's authorities are
/// enough to trust a backend.
#[test]
fn several_certificates_and_well_known_authorities() {
    let listener = "{name: l, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: rsa}, {name: ec}, {name: rsa}]}}";
    let policy = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  \
                  targetRefs: [{group: '', kind: Service, name: web}]\n  validation: {hostname: web.internal, wellKnownCACertificates: System}\n";
    let compilation = fine(&[
        gateway(listener, ""),
        service("shop", "web"),
        route("HTTPRoute", "name: r, namespace: shop", "parentRefs: [{name: edge}]", &to("web")),
        policy.to_owned(),
    ]);
    let fleet = &compilation.fleets[&moorgate_snapshot::FleetName::gateway("shop", "edge")].ir;
    let tls = fleet.listeners["https-443"].chains[0].tls.as_ref().unwrap();
    assert_eq!(tls.secrets, ["shop/rsa", "shop/ec"]);
    let upstream = fleet.clusters["shop/web/80"].tls.as_ref().unwrap();
    assert!(upstream.system_roots && upstream.ca_bundles.is_empty() && !upstream.refuse);
    assert_eq!(upstream.hostname, "web.internal");
}
