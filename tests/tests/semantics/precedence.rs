//! Which of several matches answers, and which of several routes.

use super::{answer, compiled, fine, gateway, route, service, to};

const HTTP: &str = "{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}";
const PARENT: &str = "parentRefs: [{name: edge, namespace: shop}]";

/// Matches of one host, the first to answer first: exact path, longest prefix, method, headers, query parameters. Each
/// stands in a rule of its own that comes after those that are less specific, and answers its own request.
#[test]
fn the_most_specific_match_answers() {
    let matches = [
        ("{path: {type: Exact, value: /a/b}}", "/a/b", "GET", vec![]),
        ("{path: {value: /a/b}, method: GET, headers: [{name: x, value: z}]}", "/a/b/c", "GET", vec!["x: z"]),
        ("{path: {value: /a/b}, method: GET}", "/a/b/c?q=z", "GET", vec!["w: z"]),
        (
            "{path: {value: /a/b}, headers: [{name: x, value: z}, {name: w, value: z}]}",
            "/a/b/c",
            "PUT",
            vec!["x: z", "w: z"],
        ),
        (
            "{path: {value: /a/b}, headers: [{name: x, value: z}], queryParams: [{name: q, value: z}]}",
            "/a/b/c?q=z",
            "PUT",
            vec!["x: z"],
        ),
        ("{path: {value: /a/b}, headers: [{name: x, value: z}]}", "/a/b/c", "PUT", vec!["x: z"]),
        (
            "{path: {value: /a/b}, queryParams: [{name: q, value: z}, {name: r, value: z}]}",
            "/a/b/c?q=z&r=z",
            "PUT",
            vec![],
        ),
        ("{path: {value: /a/b}, queryParams: [{name: q, value: z}]}", "/a/b/c?q=z", "PUT", vec![]),
        ("{path: {value: /a/b}}", "/a/b/c", "PUT", vec![]),
        ("{path: {value: /a}, method: PUT, headers: [{name: x, value: z}]}", "/a/c", "PUT", vec!["x: z"]),
        ("{path: {value: /a}}", "/a/c", "GET", vec!["x: z"]),
        ("{}", "/ab", "GET", vec!["x: z"]),
    ];
    let mut documents = vec![gateway(HTTP, "")];
    let mut rules = Vec::new();
    for (position, (found, ..)) in matches.iter().enumerate() {
        documents.push(service("shop", &format!("s{position}")));
        rules.push(format!("{{matches: [{found}], backendRefs: [{{name: s{position}, port: 80}}]}}"));
    }
    rules.reverse();
    documents.push(route(
        "HTTPRoute",
        "name: r, namespace: shop",
        PARENT,
        &format!("[{}]", rules.join(", ")),
    ));
    let compilation = fine(&documents);
    for (position, (found, path, method, headers)) in matches.iter().enumerate() {
        let url = format!("http://any.example.com{path}");
        let expected = format!("shop/s{position}/80");
        assert_eq!(
            answer(&compilation, method, &url, headers),
            expected,
            "{found}: {method} {path} {headers:?}"
        );
    }
}

/// Of equal matches the older route answers, then the first by namespace and name; what has no creation time comes after
/// what has one, and within a route the first rule.
#[test]
fn the_older_route_answers_then_the_first_by_name() {
    let at = |year: u32| format!(", creationTimestamp: '{year}-01-01T00:00:00Z'");
    let none = String::new;
    for (first, second, winner) in [
        (("a", "r", none()), ("b", "a", none()), "a"),
        (("a", "s", none()), ("a", "r", none()), "a/r"),
        (("b", "r", at(2020)), ("a", "r", at(2021)), "b"),
        (("b", "r", at(2020)), ("a", "r", none()), "b"),
        (("b", "r", at(2020)), ("a", "r", at(2020)), "a"),
    ] {
        let mut documents = vec![gateway(HTTP, ""), service("a", "web"), service("b", "web")];
        for (namespace, name, created) in [&first, &second] {
            let rules = format!(
                "[{{backendRefs: [{{name: web, port: 80}}], name: {name}}}, {{backendRefs: [{{name: web, port: 80}}]}}]"
            );
            let metadata = format!("name: {name}, namespace: {namespace}{created}");
            documents.push(route("HTTPRoute", &metadata, PARENT, &rules));
        }
        for _ in 0..2 {
            let compilation = compiled(&documents);
            let fleet = &compilation.fleets[&moorgate_snapshot::FleetName::gateway("shop", "edge")].ir;
            let origin = &fleet.tables()["http-80"].hosts[0].routes[0].origin;
            let found = format!("{}/{}", origin.object.namespace, origin.object.name);
            assert!(found.starts_with(winner), "{first:?} {second:?}: {found}");
            assert_eq!(origin.rule, 0);
            // The order of documents plays no part.
            documents[3..].reverse();
        }
    }
}

/// The hostname that a route wrote comes before everything else: what the route of the longer name does not match falls to
/// the next.
#[test]
fn the_longer_hostname_answers_before_the_older_route() {
    let spec = |hostname: &str| format!("{PARENT}\n  hostnames: [{hostname}]");
    let rules = |path: &str, service: &str| {
        format!("[{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: {service}, port: 80}}]}}]")
    };
    let listener = HTTP.replace("port: 80", "port: 80, hostname: abc.example.com");
    let compilation = fine(&[
        gateway(&listener, ""),
        service("shop", "wide"),
        service("shop", "exact"),
        route(
            "HTTPRoute",
            "name: wide, namespace: shop, creationTimestamp: '2020-01-01T00:00:00Z'",
            &spec("'*.example.com'"),
            &rules("/a/long/path", "wide"),
        ),
        route(
            "HTTPRoute",
            "name: exact, namespace: shop, creationTimestamp: '2024-01-01T00:00:00Z'",
            &spec("abc.example.com"),
            &rules("/a", "exact"),
        ),
    ]);
    assert_eq!(answer(&compilation, "GET", "http://abc.example.com/a/long/path", &[]), "shop/exact/80");
    assert_eq!(answer(&compilation, "GET", "http://abc.example.com/b", &[]), "404");
}

/// GRPCRoute: the longer service, the longer method, more headers; and what no GRPCRoute takes falls to HTTPRoutes.
#[test]
fn grpc_calls_are_explained_in_their_own_order() {
    let matches = [
        ("{method: {service: a.LongService}}", "/a.LongService/X", vec![]),
        ("{method: {service: a.B, method: C}, headers: [{name: x, value: z}]}", "/a.B/C", vec!["x: z"]),
        ("{method: {service: a.B, method: C}}", "/a.B/C", vec![]),
        ("{method: {service: a.B}}", "/a.B/D", vec!["x: z"]),
        ("{method: {method: LongMethodName}}", "/z.Z/LongMethodName", vec!["x: z"]),
        ("{headers: [{name: x, value: z}]}", "/z.Z/Y", vec!["x: z"]),
    ];
    let mut documents = vec![gateway(HTTP, ""), service("shop", "web")];
    let mut rules = Vec::new();
    for (position, (found, ..)) in matches.iter().enumerate() {
        documents.push(service("shop", &format!("s{position}")));
        rules.push(format!("{{matches: [{found}], backendRefs: [{{name: s{position}, port: 80}}]}}"));
    }
    rules.reverse();
    documents.push(route(
        "GRPCRoute",
        "name: calls, namespace: shop",
        PARENT,
        &format!("[{}]", rules.join(", ")),
    ));
    documents.push(route("HTTPRoute", "name: pages, namespace: shop", PARENT, &to("web")));
    let compilation = fine(&documents);
    for (position, (found, path, headers)) in matches.iter().enumerate() {
        let url = format!("http://any.example.com{path}");
        let mut all = vec!["content-type: application/grpc"];
        all.extend(headers);
        let expected = format!("shop/s{position}/80+h2");
        assert_eq!(answer(&compilation, "POST", &url, &all), expected, "{found}");
        // The same as a request of another kind is none of a GRPCRoute.
        assert_eq!(answer(&compilation, "POST", &url, headers), "shop/web/80", "{found}");
    }
    let other =
        answer(&compilation, "POST", "http://any.example.com/z.Z/Y", &["content-type: application/grpc"]);
    assert_eq!(other, "shop/web/80");
}

/// Expressions are bounded: by the length that the API gives, and by the program that RE2 would make of them; the rest of
/// the route goes on.
#[test]
fn expressions_are_bounded() {
    let with = |expression: &str| {
        let rules = format!(
            "[{{matches: [{{path: {{type: RegularExpression, value: '{expression}'}}}}, {{path: {{value: /plain}}}}], backendRefs: \
             [{{name: web, port: 80}}]}}]"
        );
        let documents = [
            gateway(HTTP, ""),
            service("shop", "web"),
            route("HTTPRoute", "name: r, namespace: shop", PARENT, &rules),
        ];
        compiled(&documents)
    };
    for (expression, path, expected) in [
        ("/a[0-9]+", "/a12", "shop/web/80"),
        // The whole path must match, not a part of it.
        ("/a[0-9]+", "/a12/b", "404"),
        ("/(a|b){2}", "/ab", "shop/web/80"),
        ("/(a{1000}){1000}", "/a", "404"),
        ("/(?P<name>a)", "/a", "shop/web/80"),
    ] {
        let compilation = with(expression);
        assert_eq!(
            answer(&compilation, "GET", &format!("http://any.example.com{path}"), &[]),
            expected,
            "{expression}"
        );
        assert_eq!(
            answer(&compilation, "GET", "http://any.example.com/plain", &[]),
            "shop/web/80",
            "{expression}"
        );
    }
}

/// Broken backends keep their weight: that share is answered with 500, whatever is wrong with them.
#[test]
fn broken_backends_keep_their_weight() {
    let backends = "{name: web, port: 80, weight: 5}, {name: gone, port: 80, weight: 4}, {name: web, port: 81, weight: 3}, \
                    {name: db, namespace: vault, port: 80, weight: 2}, {name: web, kind: Pod, port: 80}, {name: web, port: 80, weight: 0}";
    let rules = format!("[{{backendRefs: [{backends}]}}]");
    let compilation = compiled(&[
        gateway(HTTP, ""),
        service("shop", "web"),
        service("vault", "db"),
        route("HTTPRoute", "name: r, namespace: shop", PARENT, &rules),
    ]);
    let fleet = &compilation.fleets[&moorgate_snapshot::FleetName::gateway("shop", "edge")].ir;
    let route = &fleet.tables()["http-80"].hosts[0].routes[0];
    let moorgate_model::ir::Action::Forward(forward) = &route.action else { panic!("{route:?}") };
    let shares: Vec<_> = forward.backends.iter().map(|one| (one.cluster.as_deref(), one.weight)).collect();
    assert_eq!(shares, [(Some("shop/web/80"), 5), (None, 4), (None, 3), (None, 2), (None, 1)]);
}
