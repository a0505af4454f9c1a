//! Routes that are looked for again once a token was read: no request comes past what the route that is found asks for.

use super::{CLASS, compiled};
use moorgate_model::ir::{Action, Respond};
use moorgate_snapshot::FleetName;

const JWT: &str = r#"jwt: {providers: [{name: us, localJWKS: {type: Inline, inline: '{"keys": [{"kty": "oct", "k": "YQ"}]}'}, claimToHeaders: [{header: x-role, claim: role}], recomputeRoute: true}]}"#;
const ASK: &str = "extAuth: {http: {backendRefs: [{name: web, port: 80}], headersToBackend: [x-role]}, recomputeRoute: true}";
const CSRF: &str = "csrf: {}";
const RIGHTS: &str = "authorization: {rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/8]}}]}";

/// The policy of a rule, or of the Gateway if none is named.
fn policy(rule: &str, spec: &str) -> String {
    let target = if rule.is_empty() {
        "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}".to_owned()
    } else {
        format!("{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: {rule}}}")
    };
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: p{rule}, namespace: infra}}\n\
         spec:\n  targetRefs: [{target}]\n  {spec}\n---\n"
    )
}

/// Which of two rules answer 500, and where that is said; the second one has this path.
fn closed(policies: &[String], path: &str, parameters: &str) -> (Vec<&'static str>, Vec<String>) {
    let text = format!(
        "{}apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{name: all, namespace: infra}}\nspec: {{{parameters}}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: infra}}\n\
         spec: {{gatewayClassName: moorgate, listeners: [{{name: http, port: 80, protocol: HTTP}}]}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: infra}}\n\
         spec:\n  parentRefs: [{{name: edge}}]\n  rules:\n  \
         - {{name: first, matches: [{{path: {{value: /a}}}}], backendRefs: [{{name: web, port: 80}}]}}\n  \
         - {{name: second, matches: [{{path: {{value: {path}}}, headers: [{{name: x-role, value: admin}}]}}], backendRefs: [{{name: web, port: 80}}]}}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: infra}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\n{}",
        CLASS.replace(
            "spec: {",
            "spec: {parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: all, namespace: infra}, "
        ),
        policies.concat()
    );
    let found = compiled(&[("in.yaml", text)]);
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

#[test]
fn a_route_that_leads_past_what_another_asks_for_is_closed() {
    let field = "MG4105 spec.jwt.providers[0].recomputeRoute".to_owned();
    let all = |first: &str, second: &str| {
        let mut out = Vec::new();
        if !first.is_empty() {
            out.push(policy("first", first));
        }
        if !second.is_empty() {
            out.push(policy("second", second));
        }
        out
    };
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
