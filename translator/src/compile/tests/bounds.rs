//! Whom a policy that cannot be carried out closes, and whom it never does.

use super::policies::{at, codes, conditions, policy, status, with};
use crate::compile::Compilation;
use moorgate_model::Diagnostic;
use moorgate_snapshot::FleetName;

const RIGHTS: &str = "  authorization: {defaultAction: Deny}\n";
const CSRF: &str = "  csrf: {}\n";
const OF_CLASS: &str = "  targetRef: {group: gateway.networking.k8s.io, kind: GatewayClass, name: moorgate}\n  type: JSONPatch\n  \
    jsonPatches: [{type: type.googleapis.com/envoy.config.listener.v3.Listener, name: x, \
    operation: {op: add, path: /a, value: {name: envoy.filters.http.rbac}}}]\n";

/// Whether the first rule of the route answers by itself, on the first listener.
fn closed(found: &Compilation) -> bool {
    status(at(found, 80, "first")) == Some(500)
}

/// Whether connections are carried.
fn carries(found: &Compilation) -> bool {
    let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
    fleet.listeners["tcp-9000"].chains[0].stream().is_some_and(|stream| !stream.backends.is_empty())
}

fn selecting(namespaces: &str, spec: &str) -> String {
    format!(
        "  targetSelectors: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespaces: {namespaces}}}]\n{spec}"
    )
}

#[test]
fn no_namespace_closes_another() {
    let wrong = "  authorization: {defaultAction: Nope}\n";
    let all = |spec: &str| selecting("{from: All}", spec);
    for (namespace, is_closed) in [("evil", false), ("infra", true)] {
        let of = |kind: &str, targets: &[&str], spec: &str| {
            with(&[policy(&format!("{kind} {namespace}/p"), targets, spec)])
        };
        for (what, found) in [
            ("a kind without it", of("SecurityPolicy", &["GatewayClass moorgate"], RIGHTS)),
            ("patches that are off", of("EnvoyPatchPolicy", &[], OF_CLASS)),
        ] {
            assert_eq!(closed(&found), is_closed, "{what} of {namespace}: {:?}", found.diagnostics);
        }
        // Without a ReferenceGrant nothing of another namespace is meant, whatever else is wrong.
        for (what, found) in [
            ("a target that is gone", of("SecurityPolicy", &["HTTPRoute gone"], &all(RIGHTS))),
            ("a schema that refuses it", of("SecurityPolicy", &[], &all(wrong))),
        ] {
            assert!(!closed(&found), "{what} of {namespace}: {:?}", found.diagnostics);
        }
    }
    let found = with(&[policy("SecurityPolicy shop/p", &[], &all(wrong))]);
    assert!(closed(&found), "{:?}", found.diagnostics);
}

#[test]
fn an_object_that_is_gone_costs_the_others_nothing() {
    let found = with(&[policy("SecurityPolicy shop/p", &["HTTPRoute web", "HTTPRoute gone"], CSRF)]);
    assert_eq!((codes(&found), closed(&found)), (vec!["MG4001"], false));
    assert_eq!(conditions(&found, "SecurityPolicy", "shop", "p"), ["Accepted=True/Accepted"]);
    // Whoever names a section that is not there meant some section of that object, and of no other one.
    let found = with(&[policy("SecurityPolicy shop/p", &["HTTPRoute web#gone", "TCPRoute gone"], CSRF)]);
    assert!(closed(&found) && carries(&found));
}

#[test]
fn a_selector_that_cannot_be_read_closes_what_it_may_have_meant() {
    let labels = "kind: HTTPRoute, matchLabels: {tier: 1}";
    let operator = "kind: HTTPRoute, matchExpressions: [{key: tier, operator: Is, values: [front]}]";
    let values = "kind: HTTPRoute, matchExpressions: [{key: tier, operator: In}]";
    let kind = "kind: HTTPRout, matchLabels: {tier: front}";
    for (selector, code, streams) in [
        (labels, "MG2001", true),
        (operator, "MG4002", true),
        (values, "MG4002", true),
        // Nobody knows what was meant.
        (kind, "MG4002", false),
    ] {
        let of = |what: &str, spec: &str| {
            let selector = format!("  targetSelectors: [{{group: gateway.networking.k8s.io, {selector}}}]\n");
            with(&[policy(what, &[], &format!("{selector}{spec}"))])
        };
        let found = of("SecurityPolicy shop/p", RIGHTS);
        assert!(codes(&found).contains(&code), "{selector}: {:?}", found.diagnostics);
        assert_eq!((closed(&found), carries(&found)), (true, streams), "{selector}");
        assert!(!closed(&of("SecurityPolicy evil/p", RIGHTS)), "{selector}");
        let found = of("BackendTrafficPolicy shop/p", "  retry: {numRetries: 1}\n");
        assert!(codes(&found).contains(&code) && !closed(&found), "{selector}: {:?}", found.diagnostics);
    }
}

/// Nobody reads requests there: what is for requests is said, and lets nothing pass that it was to stop.
#[test]
fn what_is_for_requests_closes_connections_that_it_names() {
    let jwt = "  jwt: {providers: [{name: us, remoteJWKS: {uri: 'https://a.example/k'}}]}\n";
    let basic = "  basicAuth: {users: {name: u}}\n";
    let limit = "  rateLimit: {type: Local, local: {rules: [{limit: {requests: 1, unit: Hour}}]}}\n";
    let script = "  lua: [{type: Inline, inline: 'function envoy_on_request(h) end'}]\n";
    let rights = "  authorization: {defaultAction: Deny, rules: [{action: Allow, principal: {headers: [{name: x-a, values: [b]}]}}]}\n";
    let wide = policy("SecurityPolicy infra/wide", &["Gateway edge"], rights);
    for (kind, spec) in [
        ("SecurityPolicy", jwt),
        ("SecurityPolicy", basic),
        ("SecurityPolicy", CSRF),
        ("SecurityPolicy", rights),
        ("BackendTrafficPolicy", limit),
        ("EnvoyExtensionPolicy", script),
    ] {
        let own = policy(&format!("{kind} shop/p"), &["TCPRoute raw"], spec);
        let found = with(std::slice::from_ref(&own));
        assert_eq!(
            (codes(&found), carries(&found)),
            (vec!["MG4105"], false),
            "{spec}: {:?}",
            found.diagnostics
        );
        assert_eq!(conditions(&found, kind, "shop", "p"), ["Accepted=False/Invalid"], "{spec}");
        // What the Gateway says of all its connections it does not take away.
        assert!(!carries(&with(&[own, wide.clone()])), "{spec}");
    }
    let field = |kind: &str, target: &str, spec: &str| {
        let found = with(&[policy(
            &format!("{kind} {target}"),
            &[if target.starts_with("infra") { "Gateway edge" } else { "TCPRoute raw" }],
            spec,
        )]);
        let said: Vec<_> =
            found.diagnostics.iter().map(|found| format!("{} {}", found.code.id, found.field)).collect();
        (said.join(" "), carries(&found))
    };
    assert_eq!(
        field("BackendTrafficPolicy", "shop/p", "  retry: {numRetries: 1}\n"),
        ("MG4104 spec.retry".to_owned(), true)
    );
    assert_eq!(
        field("BackendTrafficPolicy", "shop/p", "  circuitBreaker: {maxConnections: 5}\n"),
        (String::new(), true)
    );
    assert_eq!(field("BackendTrafficPolicy", "shop/p", limit).0, "MG4105 spec.rateLimit.local");
    // What is said of a whole Gateway is meant for its requests, but for who may connect.
    for (kind, spec) in
        [("SecurityPolicy", basic), ("BackendTrafficPolicy", limit), ("EnvoyExtensionPolicy", script)]
    {
        assert_eq!(field(kind, "infra/p", spec), (String::new(), true), "{spec}");
    }
    assert_eq!(field("SecurityPolicy", "infra/p", rights), ("MG4105 spec.authorization".to_owned(), false));
}

/// Of a client that has not spoken the address is known.
#[test]
fn addresses_decide_about_connections() {
    let rights = |merge: &str, rule: &str| {
        format!(
            "{merge}  authorization: {{defaultAction: Deny, rules: [{{action: Allow, principal: {{clientCIDRs: [{rule}]}}}}]}}\n"
        )
    };
    let methods =
        "  authorization: {rules: [{action: Allow, principal: {headers: [{name: x-a, values: [b]}]}}]}\n";
    let wide = policy("SecurityPolicy infra/wide", &["Gateway edge"], &rights("", "10.0.0.0/8"));
    let of_requests = policy("SecurityPolicy infra/wide", &["Gateway edge"], methods);
    let own =
        |merge: &str, rule: &str| policy("SecurityPolicy shop/p", &["TCPRoute raw"], &rights(merge, rule));
    let merge = "  mergeType: StrategicMerge\n";
    let more = policy("SecurityPolicy shop/p", &["TCPRoute raw"], &format!("{merge}  csrf: {{}}\n"));
    for (policies, allowed, said) in [
        (vec![wide.clone()], "10.0.0.0/8", vec![]),
        (vec![own("", "10.1.0.0/16")], "10.1.0.0/16", vec![]),
        (vec![own("", "10.1.0.0/16"), wide.clone()], "10.1.0.0/16", vec![]),
        // A narrower policy takes the place of one that could not be carried out.
        (vec![own("", "10.1.0.0/16"), of_requests.clone()], "10.1.0.0/16", vec![]),
        (vec![own(merge, "10.1.0.0/16"), wide.clone()], "10.1.0.0/16", vec![]),
        (vec![of_requests.clone()], "closed", vec!["MG4105"]),
        (vec![more.clone(), wide], "closed", vec!["MG4105"]),
        (vec![more, of_requests], "closed", vec!["MG4105", "MG4105"]),
        (vec![policy("SecurityPolicy infra/p", &["Gateway edge"], RIGHTS)], "closed", vec![]),
    ] {
        let found = with(&policies);
        let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
        let stream = fleet.listeners["tcp-9000"].chains[0].stream().unwrap();
        let ranges = stream.clients.iter().flat_map(|clients| &clients.allowed);
        let ranges: Vec<String> = ranges.map(ToString::to_string).collect();
        let passes = if stream.backends.is_empty() { "closed".to_owned() } else { ranges.join(" ") };
        assert_eq!(
            (passes.as_str(), codes(&found)),
            (allowed, said),
            "{policies:?}: {:?}",
            found.diagnostics
        );
    }
}

#[test]
fn a_refused_policy_of_listeners_closes_where_addresses_decide() {
    let refused =
        "  clientIPDetection: {xForwardedFor: {numTrustedHops: 1}}\n  timeout: {http: {idleTimeout: 5}}\n";
    let found = with(&[policy("ClientTrafficPolicy infra/p", &["Gateway edge#http"], refused)]);
    assert!(closed(&found) && found.diagnostics.has_errors(), "{:?}", found.diagnostics);
    let other = "  timeout: {http: {idleTimeout: 5}}\n";
    assert!(!closed(&with(&[policy("ClientTrafficPolicy infra/p", &["Gateway edge#http"], other)])));
}

#[test]
fn certificates_that_nobody_asks_for_are_said() {
    let ask = "  tls: {clientValidation: {caCertificateRefs: [{kind: ConfigMap, group: '', name: ca}]}}\n";
    for (targets, said) in [
        (&["Gateway edge#http"][..], 1),
        (&["Gateway edge#http", "Gateway edge#raw"], 2),
        (&["Gateway edge"], 1),
    ] {
        let found = with(&[policy("ClientTrafficPolicy infra/p", targets, ask)]);
        let field = |found: &&Diagnostic| {
            found.field.to_string() == "spec.tls.clientValidation" && found.code.id == "MG4104"
        };
        assert_eq!(
            found.diagnostics.iter().filter(field).count(),
            said,
            "{targets:?}: {:?}",
            found.diagnostics
        );
    }
}
