//! Routes that are looked for again once a token was read: no request comes past what the route that is found asks for.

use super::{CLASS, compiled};
use envoy_types::pb::envoy::config::listener::v3::{self as pb, filter};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use moorgate_model::ir::{Action, Respond};
use moorgate_snapshot::{FleetName, Record};
use prost::Message as _;

const LISTENER_TYPE: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

const JWT: &str = r#"jwt: {providers: [{name: us, localJWKS: {type: Inline, inline: '{"keys": [{"kty": "oct", "k": "YQ"}]}'}, claimToHeaders: [{header: x-role, claim: role}], recomputeRoute: true}]}"#;
const ASK: &str = "extAuth: {http: {backendRefs: [{name: web, port: 80}], headersToBackend: [x-role]}, recomputeRoute: true}";
const CSRF: &str = "csrf: {}";
const RIGHTS: &str = "authorization: {rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/8]}}]}";

const LUA: &str = "lua: [{type: Inline, inline: \"function envoy_on_request(h) h:headers():replace('x-role', 'admin') end\"}]";
const LEADS: &str = "lua: [{type: Inline, inline: \"function envoy_on_request(h) h:clearRouteCache() end\"}]";
const WASM: &str = "wasm: [{name: m, code: {type: HTTP, http: {url: 'http://m.example/m.wasm', sha256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}}}]";
const PROCESS: &str = "extProc: [{backendRefs: [{name: web, port: 80}]}]";

/// The policy of a rule, or of the Gateway if none is named.
fn policy(rule: &str, spec: &str) -> String {
    let kind =
        if [LUA, LEADS, WASM, PROCESS].contains(&spec) { "EnvoyExtensionPolicy" } else { "SecurityPolicy" };
    let target = if rule.is_empty() {
        "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}".to_owned()
    } else {
        format!("{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: {rule}}}")
    };
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: {kind}\nmetadata: {{name: p{rule}, namespace: infra}}\n\
         spec:\n  targetRefs: [{target}]\n  {spec}\n---\n"
    )
}

/// Which of two rules answer 500, and where that is said; the second one has this path, and is for a role.
fn closed(policies: &[String], path: &str, parameters: &str) -> (Vec<&'static str>, Vec<String>) {
    closed_of(
        policies,
        &format!("path: {{value: {path}}}, headers: [{{name: x-role, value: admin}}]"),
        parameters,
    )
}

/// The same, where the second one matches these.
fn closed_of(policies: &[String], second: &str, parameters: &str) -> (Vec<&'static str>, Vec<String>) {
    let found = compiled(&[("in.yaml", text(policies, second, parameters))]);
    let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
    let tables = fleet.tables();
    let routes: Vec<_> =
        tables.values().flat_map(|table| &table.hosts).flat_map(|host| &host.routes).collect();
    assert_eq!(routes.len(), 2);
    let refuses = |name: &&str| {
        routes.iter().any(|route| {
            route.origin.rule_name.as_deref() == Some(*name)
                && matches!(route.action, Action::Respond(Respond { status: 500 }))
        })
    };
    let said = found.diagnostics.iter().map(|found| format!("{} {}", found.code.id, found.field)).collect();
    (["first", "second"].into_iter().filter(refuses).collect(), said)
}

fn text(policies: &[String], second: &str, parameters: &str) -> String {
    format!(
        "{}apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{name: all, namespace: infra}}\nspec: {{{parameters}}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: infra}}\n\
         spec: {{gatewayClassName: moorgate, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: infra}}\n\
         spec:\n  parentRefs: [{{name: edge}}]\n  rules:\n  \
         - {{name: first, matches: [{{path: {{value: /a}}}}], backendRefs: [{{name: web, port: 80}}]}}\n  \
         - {{name: second, matches: [{{{second}}}], backendRefs: [{{name: web, port: 80}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: infra}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n{}",
        CLASS.replace(
            "spec: {",
            "spec: {parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: all, namespace: infra}, "
        ),
        policies.concat()
    )
}

/// Policies of the two rules.
fn all(first: &str, second: &str) -> Vec<String> {
    let named = [("first", first), ("second", second)].into_iter().filter(|(_, spec)| !spec.is_empty());
    named.map(|(rule, spec)| policy(rule, spec)).collect()
}

#[test]
fn a_route_that_leads_past_what_another_asks_for_is_closed() {
    let field = "MG4105 spec.jwt.providers[0].recomputeRoute".to_owned();
    let moved = "filterOrder: [{name: envoy.filters.http.rbac, before: envoy.filters.http.jwt_authn}]";
    // A service is asked before tokens are read: what the second route asks for is asked for then.
    let token = JWT.replace(", recomputeRoute: true", "");
    assert_eq!(closed(&all(ASK, &token), "/a", ""), (vec![], vec![]));
    let of_service = vec!["MG4105 spec.extAuth.recomputeRoute".to_owned()];
    assert_eq!(closed(&all(ASK, CSRF), "/a", ""), (vec!["first"], of_service));
    for (policies, path, parameters, expected) in [
        // Both are found by one policy, or the second asks for nothing, or for what comes later.
        (vec![policy("", JWT)], "/a", "", vec![]),
        (all(JWT, ""), "/a", "", vec![]),
        (all(JWT, RIGHTS), "/a", "", vec![]),
        // It asks for something before, or filters stand in another order.
        (all(JWT, CSRF), "/a", "", vec!["first"]),
        (all(JWT, RIGHTS), "/a", moved, vec!["first"]),
        // Both ask for a token, and each for another one.
        (all(JWT, JWT), "/a/b", "", vec!["first", "second"]),
        // What asks for more cannot be found.
        (all(JWT, CSRF), "/b", "", vec![]),
        (all(CSRF, JWT), "/a", "", vec!["second"]),
    ] {
        let (closed, said) = closed(&policies, path, parameters);
        assert_eq!(closed, expected, "{path} {parameters} {policies:?}");
        assert_eq!(said, vec![field.clone(); expected.len()], "{path} {parameters} {policies:?}");
    }
}

/// Only headers change: what a request did not meet by its path it never does.
#[test]
fn a_route_that_cannot_be_found_closes_nothing() {
    for second in ["path: {value: /a/b}", "path: {value: /a}, method: GET", "path: {type: Exact, value: /a}"]
    {
        assert_eq!(closed_of(&all(JWT, CSRF), second, ""), (vec![], vec![]), "{second}");
    }
    let field = vec!["MG4105 spec.jwt.providers[0].recomputeRoute".to_owned()];
    for second in [
        "path: {value: /a/b}, queryParams: [{name: a, value: b}]",
        "path: {value: /}, headers: [{name: a, value: b}]",
    ] {
        let (closed, said) = closed_of(&all(JWT, CSRF), second, "");
        let expected =
            if second.contains("/a/b") { (vec!["first"], field.clone()) } else { (vec![], vec![]) };
        assert_eq!((closed, said), expected, "{second}");
    }
}

#[test]
fn scripts_services_and_modules_lead_to_no_route_that_asks_for_more_before() {
    for (first, second, expected) in [
        // What a script or service changes leads nowhere, unless the script asks for that.
        (LUA, CSRF, None),
        (PROCESS, CSRF, None),
        (LEADS, CSRF, Some("MG4105 spec.lua[0]")),
        (LEADS, RIGHTS, None),
        (WASM, CSRF, Some("MG4105 spec.wasm[0]")),
        (WASM, RIGHTS, None),
        // A service stands on the listener whole: Envoy leaves it out for good.
        (WASM, PROCESS, Some("MG4105 spec.wasm[0]")),
    ] {
        let (closed, said) = closed(&all(first, second), "/a", "");
        assert_eq!(said, expected.map(str::to_owned).into_iter().collect::<Vec<_>>(), "{first} {second}");
        assert_eq!(closed, if expected.is_some() { vec!["first"] } else { vec![] }, "{first} {second}");
    }
}

/// Which filters of requests run on all routes, though no route has a word for them.
fn running(policies: &[String]) -> Vec<String> {
    let second = "path: {value: /a}, headers: [{name: x-role, value: admin}]";
    let found = compiled(&[("in.yaml", text(policies, second, ""))]);
    let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
    let listener = crate::xds::records(fleet).into_iter().find_map(|record| match record {
        Record::Resource(found) if &*found.type_url == LISTENER_TYPE => Some(found.bytes),
        _ => None,
    });
    let listener = pb::Listener::decode(listener.unwrap()).unwrap();
    let Some(filter::ConfigType::TypedConfig(config)) = &listener.filter_chains[0].filters[0].config_type
    else {
        panic!("a connection manager")
    };
    let manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
    let running = manager.http_filters.into_iter().filter(|filter| !filter.disabled);
    running.map(|filter| filter.name.replace("envoy.filters.http.", "")).collect()
}

/// Envoy leaves out for good what the first route has no word for.
#[test]
fn what_stands_behind_runs_on_every_route_of_the_table() {
    let limit = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {name: l, namespace: infra}\nspec:\n  \
        targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: second}]\n  \
        rateLimit: {type: Local, local: {rules: [{limit: {requests: 1, unit: Hour}}]}}\n---\n"
        .to_owned();
    let token = JWT.replace(", recomputeRoute: true", "");
    let rights = |first: &str| [all(first, RIGHTS), vec![limit.clone()]].concat();
    assert_eq!(running(&rights(&token)), ["cors", "router"]);
    assert_eq!(
        running(&rights(JWT)),
        ["cors", "jwt_authn", "stateful_session", "rbac", "local_ratelimit", "router"]
    );
    assert_eq!(running(&rights(ASK)), ["cors", "stateful_session", "rbac", "local_ratelimit", "router"]);
    assert_eq!(running(&rights(WASM)), ["cors", "stateful_session", "rbac", "local_ratelimit", "router"]);
    assert_eq!(running(&all(ASK, &token)), ["cors", "jwt_authn", "stateful_session", "router"]);
}

/// A module may make any request of one, also one for another host.
#[test]
fn modules_of_one_namespace_do_not_reach_into_another() {
    let route = |namespace: &str, policies: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: {namespace}}}\n\
             spec: {{parentRefs: [{{name: edge, namespace: infra}}], hostnames: [{namespace}.example.com], \
             rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {namespace}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n{policies}"
        )
    };
    let of = |namespace: &str, target: &str, spec: &str| {
        let kind = if spec == WASM { "EnvoyExtensionPolicy" } else { "SecurityPolicy" };
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, {target}}}]\n  {spec}\n---\n"
        )
    };
    let edge = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: infra}\n\
        spec: {gatewayClassName: moorgate, listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]}\n---\n";
    let closed = |documents: &[String]| {
        let found = compiled(&[("in.yaml", format!("{CLASS}{edge}{}", documents.concat()))]);
        let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
        let routes: Vec<_> = fleet.tables().values().flat_map(|table| table.hosts.clone()).collect();
        let routes = routes.into_iter().flat_map(|host| host.routes);
        let closed = routes.filter(|route| matches!(route.action, Action::Respond(Respond { status: 500 })));
        let closed: Vec<_> = closed.map(|route| route.origin.object.namespace.to_string()).collect();
        let said: Vec<_> =
            found.diagnostics.iter().map(|found| format!("{} {}", found.code.id, found.field)).collect();
        (closed, said)
    };
    let (module, asks) =
        (of("a", "kind: HTTPRoute, name: r", WASM), of("b", "kind: HTTPRoute, name: r", CSRF));
    assert_eq!(
        closed(&[route("a", &module), route("b", &asks)]),
        (vec!["a".to_owned()], vec!["MG4105 spec.wasm[0]".to_owned()])
    );
    assert_eq!(closed(&[route("a", &module), route("b", "")]), (vec![], vec![]));
    // Whoever has the Gateway may lead requests where he likes.
    let all = of("infra", "kind: Gateway, name: edge", WASM);
    assert_eq!(closed(&[route("a", &all), route("b", &asks)]), (vec![], vec![]));
}
