//! Who wins, who is merged and who is told: policies of Envoy Gateway's kinds on a Gateway with two listeners, a ListenerSet
//! and routes.

use super::{CLASS, compiled};
use crate::compile::Compilation;
use crate::status::Status;
use moorgate_model::ObjectRef;
use moorgate_model::ir::{Action, PolicySource, Route};
use moorgate_snapshot::FleetName;

const INFRA: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: infra, labels: {tier: front}}\n\
    spec:\n  gatewayClassName: moorgate\n  allowedListeners: {namespaces: {from: All}}\n  listeners:\n  \
    - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}\n  \
    - {name: alt, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}\n  \
    - {name: raw, port: 9000, protocol: TCP, allowedRoutes: {namespaces: {from: All}}}\n---\n\
    apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {name: set, namespace: shop}\n\
    spec:\n  parentRef: {name: edge, namespace: infra}\n  listeners: [{name: extra, port: 81, protocol: HTTP}]\n---\n";

const ROUTES: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop, labels: {tier: front}}\n\
    spec:\n  parentRefs: [{name: edge, namespace: infra, sectionName: http}, {name: edge, namespace: infra, sectionName: alt}, \
    {kind: ListenerSet, name: set}]\n  rules:\n  \
    - {name: first, matches: [{path: {value: /first}}], backendRefs: [{name: web, port: 80}]}\n  \
    - {name: second, matches: [{path: {value: /second}}], backendRefs: [{name: web, port: 80}]}\n---\n\
    apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {name: raw, namespace: shop}\n\
    spec: {parentRefs: [{name: edge, namespace: infra, sectionName: raw}], rules: [{backendRefs: [{name: web, port: 80}]}]}\n---\n\
    apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n---\n";

/// A policy: `kind namespace/name`, its targets as `Kind name[#section]`, and the rest of its spec.
pub(super) fn policy(what: &str, targets: &[&str], spec: &str) -> String {
    let (kind, name) = what.split_once(' ').unwrap();
    let (namespace, name) = name.split_once('/').unwrap();
    let target = |text: &&str| {
        let (kind, name) = text.split_once(' ').unwrap();
        let (name, section) = name
            .split_once('#')
            .map_or((name, String::new()), |(name, section)| (name, format!(", sectionName: {section}")));
        format!("{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}{section}}}")
    };
    let targets = match targets {
        [] => String::new(),
        _ => format!("  targetRefs: [{}]\n", targets.iter().map(target).collect::<Vec<_>>().join(", ")),
    };
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n{targets}{spec}---\n"
    )
}

fn retries(count: u32) -> String {
    format!("  retry: {{numRetries: {count}}}\n")
}

pub(super) fn with(policies: &[String]) -> Compilation {
    compiled(&[("infra.yaml", format!("{CLASS}{INFRA}{ROUTES}")), ("policies.yaml", policies.concat())])
}

/// The route of a rule at a port.
pub(super) fn at<'c>(found: &'c Compilation, port: u16, rule: &str) -> &'c Route {
    let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
    let listener = &fleet.listeners[&format!("http-{port}")];
    let routes = listener.chains[0].routes().unwrap().hosts.iter().flat_map(|host| &host.routes);
    routes.into_iter().find(|route| route.origin.rule_name.as_deref() == Some(rule)).unwrap()
}

/// Which policies have a say, each with its capabilities, and behind a slash those that have none because of others.
fn says(route: &Route) -> String {
    let sources = route.policies.iter().flat_map(|added| &added.sources);
    let one = |source: &PolicySource| match &source.overridden_by {
        None => format!("{}:{}", source.object.name, source.capabilities.join("+")),
        Some(other) => format!("/{}<{}", source.object.name, other.name),
    };
    sources.map(one).collect::<Vec<_>>().join(" ")
}

pub(super) fn status(route: &Route) -> Option<u16> {
    match &route.action {
        Action::Respond(respond) => Some(respond.status),
        Action::Forward(_) | Action::Redirect(_) => None,
    }
}

pub(super) fn codes(found: &Compilation) -> Vec<&'static str> {
    found.diagnostics.iter().map(|found| found.code.id).collect()
}

/// Conditions of a policy at its only Gateway, as `Type=Status/Reason`.
pub(super) fn conditions(found: &Compilation, kind: &str, namespace: &str, name: &str) -> Vec<String> {
    let object = ObjectRef::new("gateway.envoyproxy.io", kind, namespace, name);
    let Some(Status::Policy { ancestors }) = found.statuses.get(&object) else { return Vec::new() };
    let [ancestor] = ancestors.as_slice() else { panic!("{ancestors:?}") };
    assert_eq!(
        (ancestor.ancestor_ref.kind.as_str(), ancestor.ancestor_ref.name.as_str()),
        ("Gateway", "edge")
    );
    let conditions = ancestor.conditions.iter();
    conditions.map(|one| format!("{}={}/{}", one.kind, one.status, one.reason)).collect()
}

/// What is known of listeners is not lost when routes are looked at.
#[test]
fn a_wider_policy_of_clients_is_told_whose_place_is_taken() {
    let path = "  path: {disableMergeSlashes: true}\n";
    let found = with(&[
        policy("ClientTrafficPolicy infra/all", &["Gateway edge"], path),
        policy("ClientTrafficPolicy infra/alt", &["Gateway edge#alt"], path),
        policy("BackendTrafficPolicy infra/retry", &["Gateway edge"], &retries(1)),
    ]);
    assert_eq!(codes(&found), Vec::<&str>::new(), "{:?}", found.diagnostics);
    assert_eq!(
        conditions(&found, "ClientTrafficPolicy", "infra", "all"),
        ["Accepted=True/Accepted", "Overridden=True/Overridden"]
    );
    assert_eq!(conditions(&found, "ClientTrafficPolicy", "infra", "alt"), ["Accepted=True/Accepted"]);
}

#[test]
fn the_narrowest_scope_counts() {
    const KIND: &str = "BackendTrafficPolicy";
    let scopes = [
        policy("BackendTrafficPolicy infra/a-gateway", &["Gateway edge"], &retries(1)),
        policy("BackendTrafficPolicy infra/b-listener", &["Gateway edge#alt"], &retries(2)),
        policy("BackendTrafficPolicy shop/c-set", &["ListenerSet set"], &retries(3)),
        policy("BackendTrafficPolicy shop/d-extra", &["ListenerSet set#extra"], &retries(4)),
        policy("BackendTrafficPolicy shop/e-route", &["HTTPRoute web"], &retries(5)),
        policy("BackendTrafficPolicy shop/f-rule", &["HTTPRoute web#first"], &retries(6)),
    ];
    // Without the policies of routes the listeners' scopes count.
    let found = with(&scopes[..4]);
    assert_eq!(codes(&found), Vec::<&str>::new(), "{:?}", found.diagnostics);
    assert_eq!(says(at(&found, 80, "first")), "a-gateway:retry");
    assert_eq!(says(at(&found, 8080, "first")), "b-listener:retry /a-gateway<b-listener");
    assert_eq!(says(at(&found, 81, "first")), "d-extra:retry /c-set<d-extra /a-gateway<d-extra");
    assert_eq!(
        conditions(&found, KIND, "infra", "a-gateway"),
        ["Accepted=True/Accepted", "Overridden=True/Overridden"]
    );
    assert_eq!(conditions(&found, KIND, "infra", "b-listener"), ["Accepted=True/Accepted"]);
    let found = with(&scopes);
    assert_eq!(says(at(&found, 80, "first")), "f-rule:retry /e-route<f-rule /a-gateway<f-rule");
    assert_eq!(says(at(&found, 80, "second")), "e-route:retry /a-gateway<e-route");
    assert_eq!(
        conditions(&found, KIND, "shop", "d-extra"),
        ["Accepted=True/Accepted", "Overridden=True/Overridden"]
    );
    // The clusters of streams have no retries, and the Gateway's policy stays theirs.
    assert_eq!(conditions(&found, KIND, "shop", "f-rule"), ["Accepted=True/Accepted"]);
}

#[test]
fn the_oldest_of_several_with_one_target_counts() {
    let old = policy("BackendTrafficPolicy shop/z-old", &["HTTPRoute web"], &retries(1))
        .replace("{name: z-old", "{creationTimestamp: '2020-01-01T00:00:00Z', generation: 7, name: z-old");
    let young =
        policy("BackendTrafficPolicy shop/a-young", &["HTTPRoute web", "HTTPRoute web#second"], &retries(2))
            .replace(
                "{name: a-young",
                "{creationTimestamp: '2021-01-01T00:00:00Z', generation: 8, name: a-young",
            );
    let found = with(&[young.clone(), old.clone()]);
    assert_eq!(codes(&found), ["MG4007"]);
    assert_eq!(says(at(&found, 80, "first")), "z-old:retry");
    assert_eq!(says(at(&found, 80, "second")), "a-young:retry /z-old<a-young");
    // It has one target and not the other.
    assert_eq!(conditions(&found, "BackendTrafficPolicy", "shop", "a-young"), ["Accepted=True/Accepted"]);
    let alone = young
        .replace(", {group: gateway.networking.k8s.io, kind: HTTPRoute, name: web, sectionName: second}", "");
    let found = with(&[alone, old]);
    assert_eq!(conditions(&found, "BackendTrafficPolicy", "shop", "a-young"), ["Accepted=False/Conflicted"]);
    let object = ObjectRef::new("gateway.envoyproxy.io", "BackendTrafficPolicy", "shop", "a-young");
    let Some(Status::Policy { ancestors }) = found.statuses.get(&object) else { panic!("a status") };
    assert_eq!(ancestors[0].conditions[0].observed_generation, Some(8));
}

#[test]
fn targets_that_are_not_there_are_named() {
    for (target, kind, codes_expected, conditions_expected) in [
        ("HTTPRoute gone", "BackendTrafficPolicy", "MG4001", &[][..]),
        ("HTTPRoute web#gone", "BackendTrafficPolicy", "MG4001", &["Accepted=False/TargetNotFound"]),
        ("ListenerSet set#gone", "BackendTrafficPolicy", "MG4001", &["Accepted=False/TargetNotFound"]),
    ] {
        let found = with(&[policy(&format!("{kind} shop/p"), &[target], &retries(1))]);
        assert_eq!(codes(&found), [codes_expected], "{target}");
        assert_eq!(conditions(&found, kind, "shop", "p"), conditions_expected, "{target}");
        assert_eq!(says(at(&found, 80, "first")), "");
    }
    // Who restricts a rule that is not there meant some rule.
    let cors = "  cors: {allowOrigins: ['https://a.example']}\n";
    let found = with(&[policy("SecurityPolicy shop/p", &["HTTPRoute web#gone"], cors)]);
    assert_eq!(codes(&found), ["MG4010"]);
    assert_eq!((status(at(&found, 80, "first")), status(at(&found, 80, "second"))), (Some(500), Some(500)));
}

#[test]
fn policies_are_merged_if_the_narrow_one_asks_for_it() {
    let wide = policy(
        "BackendTrafficPolicy infra/wide",
        &["Gateway edge"],
        "  retry: {numRetries: 9, perRetry: {timeout: 7s}}\n  timeout: {http: {requestTimeout: 3s}}\n",
    );
    let narrow = |merge: &str| {
        policy(
            "BackendTrafficPolicy shop/narrow",
            &["HTTPRoute web"],
            &format!("{merge}  retry: {{numRetries: 2}}\n"),
        )
    };
    for (merge, said) in [
        ("", "narrow:retry /wide<narrow"),
        ("  mergeType: Replace\n", "narrow:retry /wide<narrow"),
        ("  mergeType: JSONMerge\n", "narrow:retry wide:retry+timeout"),
        ("  mergeType: StrategicMerge\n", "narrow:retry wide:retry+timeout"),
    ] {
        let found = with(&[wide.clone(), narrow(merge)]);
        if merge.contains("Replace") && found.diagnostics.has_errors() {
            // Not every release of the API has the word.
            continue;
        }
        assert_eq!(codes(&found), Vec::<&str>::new(), "{merge}: {:?}", found.diagnostics);
        let route = at(&found, 80, "first");
        assert_eq!(says(route), said, "{merge}");
        let forward = &route.policies.as_ref().unwrap().forward;
        // The limit of the wide one is there, and its part of the retries beside the narrow one's.
        assert_eq!(forward.len(), if said.contains("timeout") { 2 } else { 1 }, "{merge}");
        let conditions = conditions(&found, "BackendTrafficPolicy", "infra", "wide");
        let other =
            if said.contains("timeout") { "Merged=True/Merged" } else { "Overridden=True/Overridden" };
        assert_eq!(conditions[1], other, "{merge}");
    }
}

#[test]
fn selectors_choose_by_labels_and_grants() {
    let select = |rest: &str| {
        let selector = format!("  targetSelectors: [{{kind: HTTPRoute, {rest}}}]\n");
        policy("BackendTrafficPolicy shop/p", &[], &format!("{selector}{}", retries(1)))
    };
    for (rest, said) in [
        ("matchLabels: {tier: front}", "p:retry"),
        ("matchLabels: {tier: back}", ""),
        ("matchExpressions: [{key: tier, operator: In, values: [front, back]}]", "p:retry"),
        ("matchExpressions: [{key: tier, operator: DoesNotExist}]", ""),
    ] {
        let found = with(&[select(rest)]);
        assert_eq!(says(at(&found, 80, "first")), said, "{rest}: {:?}", found.diagnostics);
    }
    // Another namespace's route needs a grant there.
    let across = policy(
        "BackendTrafficPolicy infra/p",
        &[],
        &format!(
            "  targetSelectors: [{{kind: HTTPRoute, matchLabels: {{tier: front}}, namespaces: {{from: All}}}}]\n{}",
            retries(1)
        ),
    );
    let found = with(std::slice::from_ref(&across));
    assert_eq!((codes(&found), says(at(&found, 80, "first"))), (vec!["MG4013"], String::new()));
    let grant = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: shop}\nspec:\n  \
                 from: [{group: gateway.envoyproxy.io, kind: BackendTrafficPolicy, namespace: infra}]\n  \
                 to: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]\n---\n";
    let found = with(&[across, grant.to_owned()]);
    assert_eq!((codes(&found), says(at(&found, 80, "first"))), (Vec::new(), "p:retry".to_owned()));
}

#[test]
fn a_policy_that_cannot_be_carried_out_closes_what_it_counts_for_and_nothing_else() {
    let fine = "  cors: {allowOrigins: ['https://a.example']}\n";
    let broken = |rule: &str| format!("{fine}  authorization: {{rules: [{{action: Allow, {rule}}}]}}\n");
    // What no fleet here has a database for, and what nobody can read.
    let located = broken("principal: {clientCIDRs: [10.0.0.0/8], clientIPGeoLocations: [{country: DE}]}");
    let unreadable = broken("cel: 'request.('");
    for (broken, code) in [(located.as_str(), "MG4051"), (unreadable.as_str(), "MG4002")] {
        let wide = policy("SecurityPolicy infra/wide", &["Gateway edge#http"], broken);
        let found = with(std::slice::from_ref(&wide));
        assert_eq!(codes(&found), [code]);
        assert_eq!((status(at(&found, 80, "first")), status(at(&found, 8080, "first"))), (Some(500), None));
        assert_eq!(conditions(&found, "SecurityPolicy", "infra", "wide"), ["Accepted=False/Invalid"]);
        // A narrower one takes its place, and with it what it would have closed; merged with it, it closes.
        let narrow = policy("SecurityPolicy shop/narrow", &["HTTPRoute web#first"], fine);
        let found = with(&[wide.clone(), narrow.clone()]);
        assert_eq!((status(at(&found, 80, "first")), status(at(&found, 80, "second"))), (None, Some(500)));
        let merged = narrow.replace("  cors", "  mergeType: JSONMerge\n  cors");
        let found = with(&[wide, merged]);
        assert_eq!(status(at(&found, 80, "first")), Some(500), "{:?}", found.diagnostics);
    }
    // Connections pass by their addresses, or not where more is asked: nobody can look into them.
    let addresses = "  authorization: {defaultAction: Deny, rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/8]}}]}\n";
    let open = |spec: &str| {
        let found = with(&[policy("SecurityPolicy infra/p", &["Gateway edge"], spec)]);
        let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
        fleet.listeners["tcp-9000"].chains[0].stream().is_some_and(|stream| !stream.backends.is_empty())
    };
    assert_eq!(
        [fine, addresses, located.as_str(), unreadable.as_str()].map(open),
        [true, true, false, false]
    );
}

#[test]
fn limits_that_nobody_counts_close_their_routes() {
    let limit = "  rateLimit: {global: {rules: [{limit: {requests: 1, unit: Hour}}]}}\n";
    let limit = policy("BackendTrafficPolicy shop/p", &["HTTPRoute web#first"], limit);
    let found = with(std::slice::from_ref(&limit));
    assert_eq!(codes(&found), ["MG4050"]);
    assert_eq!((status(at(&found, 80, "first")), status(at(&found, 80, "second"))), (Some(500), None));
    // With a service they are asked about, and nothing is closed.
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: counting, namespace: infra}\nspec: {ports: [{name: grpc, port: 81}]}\n---\n";
    let named = "annotations: {moorgate.dev/rate-limit-service: 'infra/counting:81'}, labels:";
    let counted = format!("{service}{}", INFRA.replacen("labels:", named, 1));
    let found = compiled(&[("infra.yaml", format!("{CLASS}{counted}{ROUTES}")), ("policies.yaml", limit)]);
    assert_eq!((codes(&found), status(at(&found, 80, "first"))), (vec![], None));
}

#[test]
fn a_policy_that_its_schema_refuses_closes_what_it_restricts() {
    for (spec, first) in [
        ("  jwt: {providers: [{name: x}]}\n", Some(500)),
        ("  cors: {allowOrigns: [a]}\n", Some(500)),
        ("  authorization: 7\n", Some(500)),
    ] {
        let found = with(&[policy("SecurityPolicy shop/p", &["HTTPRoute web"], spec)]);
        assert!(found.diagnostics.has_errors(), "{spec}");
        assert_eq!(status(at(&found, 80, "first")), first, "{spec}");
    }
    // What restricts nothing has no effect, and the fleet is held back as for any error of a schema.
    let found =
        with(&[policy("BackendTrafficPolicy shop/p", &["HTTPRoute web"], "  retry: {numRetries: many}\n")]);
    assert!(found.diagnostics.has_errors() && status(at(&found, 80, "first")).is_none());
    assert!(found.blocked.blocks(&FleetName::gateway("infra", "edge")));
}

#[test]
fn variants_of_clusters_are_named_by_their_policies() {
    let bounds = "  circuitBreaker: {maxConnections: 5}\n";
    let found = with(&[
        policy("BackendTrafficPolicy shop/p", &["HTTPRoute web#first"], bounds),
        policy("BackendTrafficPolicy infra/g", &["Gateway edge#raw"], bounds),
    ]);
    let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
    let names: Vec<&str> = fleet.clusters.keys().map(String::as_str).collect();
    assert_eq!(names, ["shop/web/80", "shop/web/80+shop.p", "shop/web/80+tcp+infra.g"]);
    // They have their endpoints in common, which the relay resolves once.
    assert!(fleet.clusters.values().all(|cluster| cluster.eds_name == "shop/web/80"));
    assert_eq!(fleet.clusters["shop/web/80+shop.p"].policies.cluster.len(), 1);
}

#[test]
fn listeners_that_share_a_port_need_one_policy() {
    let client = |name: &str, target: &str, spec: &str| {
        policy(&format!("ClientTrafficPolicy infra/{name}"), &[target], spec)
    };
    let quick = "  timeout: {http: {idleTimeout: 1s}}\n";
    let gateway = INFRA.replace(
        "- {name: alt, port: 8080, protocol: HTTP,",
        "- {name: same, port: 80, hostname: a.example.com, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}\n  \
         - {name: alt, port: 8080, protocol: HTTP,",
    );
    let shared = |policies: &[String]| {
        compiled(&[("infra.yaml", format!("{CLASS}{gateway}{ROUTES}")), ("policies.yaml", policies.concat())])
    };
    let chain = |found: &Compilation, port: u16| {
        let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
        let chain = &fleet.listeners[&format!("http-{port}")].chains[0];
        chain.policies.as_ref().map(|added| added.manager.len())
    };
    let found = shared(&[client("all", "Gateway edge", quick)]);
    assert_eq!((codes(&found), chain(&found, 80), chain(&found, 8080)), (Vec::new(), Some(1), Some(1)));
    let found =
        shared(&[client("some", "Gateway edge#same", quick), client("alt", "Gateway edge#alt", quick)]);
    assert_eq!((codes(&found), chain(&found, 80), chain(&found, 8080)), (vec!["MG4012"], None, Some(1)));
    assert_eq!(status(at(&found, 80, "first")), None);
    // Whose address counts is what rules decide by.
    let hops = "  clientIPDetection: {xForwardedFor: {numTrustedHops: 1}}\n";
    let found = shared(&[client("some", "Gateway edge#http", hops)]);
    assert_eq!(codes(&found), ["MG4012"]);
    assert_eq!(status(at(&found, 80, "first")), Some(500));
}

/// A narrow policy can switch off or replace what a wider one that it is merged with compresses.
#[test]
fn compressors_of_the_narrower_policy_replace_those_of_the_wider_one() {
    let wide = "  compression: [{type: Brotli}, {type: Gzip}]\n";
    let newer = "  compressor: [{type: Brotli, brotli: {}}, {type: Gzip, gzip: {}}]\n";
    for (wide, narrow, left) in [
        (wide, "  mergeType: JSONMerge\n  compressor: [{type: Gzip}]\n", ""),
        (newer, "  mergeType: JSONMerge\n  compressor: [{type: Gzip}, {type: Brotli}]\n", ""),
        (newer, "  mergeType: JSONMerge\n  compressor: [{type: Zstd, zstd: {}}]\n", "zstd"),
        (
            newer,
            "  mergeType: StrategicMerge\n  compressor: [{type: Brotli, minContentLength: 9}]\n",
            "brotli.9.first gzip",
        ),
        (
            "  compressor: [{type: Gzip, gzip: {}}]\n",
            "  mergeType: StrategicMerge\n  compressor: [{type: Brotli, brotli: {}}]\n",
            "brotli.first gzip",
        ),
        (
            "  compressor: [{type: Brotli, brotli: {}}]\n",
            "  mergeType: StrategicMerge\n  compressor: [{type: Gzip, gzip: {}}]\n",
            "brotli gzip.first",
        ),
        (newer, "  mergeType: StrategicMerge\n  retry: {}\n", "brotli.first gzip"),
    ] {
        let found = with(&[
            policy("BackendTrafficPolicy infra/wide", &["Gateway edge"], wide),
            policy("BackendTrafficPolicy shop/narrow", &["HTTPRoute web"], narrow),
        ]);
        let added = at(&found, 80, "first").policies.clone().unwrap();
        let names = added.filters.iter().filter_map(|filter| filter.name.split_once(".compressor."));
        let names: Vec<&str> = names.map(|(_, name)| name).collect();
        assert_eq!(names.join(" "), left, "{narrow}: {:?}", found.diagnostics);
    }
}

/// Clusters are apart where health checks ask for the hosts of their routes, and only there.
#[test]
fn checks_ask_for_the_host_of_the_route() {
    let checked = |http: &str| {
        let spec = format!("  healthCheck: {{active: {{type: HTTP, http: {{path: /up{http}}}}}}}\n");
        let hosts = |text: &str, hosts: &str| {
            text.replacen("  rules:", &format!("  hostnames: [{hosts}]\n  rules:"), 1)
        };
        let routes = hosts(ROUTES, "'*.example.com', b.example.com, a.example.com");
        let second =
            ROUTES.split("---\n").next().unwrap().replace("name: web, namespace", "name: other, namespace");
        let second = hosts(&second, "'*.example.org'");
        let policies = policy("BackendTrafficPolicy infra/check", &["Gateway edge"], &spec);
        let text = format!("{CLASS}{INFRA}{routes}{second}---\n");
        let found = compiled(&[("infra.yaml", text), ("policies.yaml", policies)]);
        let fleet = &found.fleets[&FleetName::gateway("infra", "edge")].ir;
        fleet
            .clusters
            .iter()
            .map(|(name, cluster)| (name.clone(), cluster.policies.checked_as.clone()))
            .collect::<Vec<_>>()
    };
    let own = |host: &str| (format!("shop/web/80+infra.check@{host}"), Some(host.to_owned()));
    let found = checked("");
    assert!(
        found.contains(&own("a.example.com")) && found.contains(&own("health-check.example.org")),
        "{found:?}"
    );
    let found = checked(", hostname: up.internal");
    assert!(found.iter().all(|(name, host)| !name.contains('@') && host.is_none()), "{found:?}");
}
