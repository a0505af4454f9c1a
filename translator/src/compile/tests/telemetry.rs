//! XTelemetryPolicies and the Gateways that they meet: who is told of which requests, and what status says.

use super::*;
use crate::status::Status;
use crate::validate::Channel;
use moorgate_model::ir::{SpanProtocol, Tracing};
use std::collections::BTreeMap;

fn policy(name: &str, second: u8, targets: &[&str], tracing: &str) -> String {
    let target = |name: &&str| format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}}}");
    let targets: Vec<String> = targets.iter().map(target).collect();
    format!(
        "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XTelemetryPolicy\nmetadata: {{name: {name}, namespace: \
         infra, generation: 5, creationTimestamp: \"2024-01-01T00:00:{second:02}Z\"}}\nspec:\n  targetRefs: [{}]\n  \
         tracing: {tracing}\n---\n",
        targets.join(", ")
    )
}

fn to(backend: &str) -> String {
    format!("{{mode: Enabled, provider: {{backendRef: {backend}}}}}")
}

const OTEL: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: otel, namespace: infra}\nspec: {ports: [\
    {name: grpc, port: 4317}, {name: http, port: 4318}, {name: text, port: 80, appProtocol: http}, \
    {name: two, port: 81, appProtocol: kubernetes.io/h2c}]}\n---\n";

fn all(objects: &[String], merged: bool) -> Compilation {
    let text = format!("{CLASS}{OTEL}{}", objects.concat());
    let mut options = Options::default();
    options.validate.channel = Channel::Experimental;
    if merged {
        options.attach.merged.insert("moorgate".to_owned());
    }
    compile(&[File { name: "in.yaml".into(), bytes: text.into_bytes().into() }], &options)
}

/// What the chains of a fleet tell a collector, by port and chain.
fn told<'c>(compilation: &'c Compilation, fleet: &FleetName) -> BTreeMap<String, Option<&'c Tracing>> {
    let listeners = compilation.fleets[fleet].ir.listeners.iter();
    let chains =
        listeners.flat_map(|(port, listener)| listener.chains.iter().map(move |chain| (port, chain)));
    chains.map(|(port, chain)| (format!("{port} {}", chain.name), chain.tracing.as_deref())).collect()
}

fn of(compilation: &Compilation, gateway: &str) -> Option<Tracing> {
    told(compilation, &FleetName::gateway("infra", gateway))["http-80 http-80"].cloned()
}

/// The ancestors of a policy, each with status and reason of `Accepted` and `ResolvedRefs`.
fn verdicts(compilation: &Compilation, policy: &str) -> Vec<String> {
    let reference = ObjectRef::new("gateway.networking.x-k8s.io", "XTelemetryPolicy", "infra", policy);
    let Some(Status::Policy { ancestors }) = compilation.statuses.get(&reference) else { return Vec::new() };
    let ancestor = |ancestor: &crate::status::AncestorStatus| {
        let conditions = ancestor.conditions.iter().map(|one| {
            assert_eq!(one.observed_generation, Some(5));
            format!("{} {} {}", one.kind, one.status, one.reason)
        });
        format!("{}: {}", ancestor.ancestor_ref.name, conditions.collect::<Vec<_>>().join(", "))
    };
    ancestors.iter().map(ancestor).collect()
}

const GOOD: &str = "Accepted True Accepted, ResolvedRefs True ResolvedRefs";

#[test]
fn the_oldest_policy_of_each_gateway_is_in_effect() {
    let compilation = all(
        &[
            gateway("a"),
            gateway("b"),
            policy("young", 9, &["a", "b"], &to("{name: otel, port: 4318}")),
            policy("old", 1, &["a"], &to("{name: otel, port: 4317}")),
        ],
        false,
    );
    let protocol = |gateway| of(&compilation, gateway).map(|tracing| tracing.protocol);
    assert_eq!((protocol("a"), protocol("b")), (Some(SpanProtocol::Grpc), Some(SpanProtocol::Http)));
    assert_eq!(verdicts(&compilation, "old"), [format!("a: {GOOD}")]);
    let conflicted = "a: Accepted False Conflicted, ResolvedRefs True ResolvedRefs".to_owned();
    assert_eq!(verdicts(&compilation, "young"), [conflicted, format!("b: {GOOD}")]);
    let codes: Vec<_> = compilation.diagnostics.iter().map(|found| found.code.id).collect();
    assert_eq!(codes, ["MG4007"]);
}

#[test]
fn the_transport_is_what_the_port_says_or_that_of_its_number() {
    for (port, expected, cluster) in [
        (4317, SpanProtocol::Grpc, "infra/otel/4317+h2"),
        (4318, SpanProtocol::Http, "infra/otel/4318"),
        (80, SpanProtocol::Http, "infra/otel/80"),
        (81, SpanProtocol::Grpc, "infra/otel/81"),
    ] {
        let backend = format!("{{name: otel, port: {port}}}");
        let compilation = all(&[gateway("a"), policy("p", 1, &["a"], &to(&backend))], false);
        let tracing = of(&compilation, "a").unwrap();
        assert_eq!((tracing.protocol, tracing.cluster.as_str()), (expected, cluster));
        assert_eq!(tracing.authority, format!("otel.infra.svc:{port}"));
        assert_eq!(tracing.service_name, "a.infra");
        let clusters = &compilation.fleets[&FleetName::gateway("infra", "a")].ir.clusters;
        assert!(clusters.contains_key(cluster), "{:?}", clusters.keys());
    }
}

#[test]
fn references_that_cannot_be_followed_cost_spans_and_nothing_else() {
    let private = OTEL.replace("namespace: infra", "namespace: private");
    for (backend, reason) in [
        ("{name: gone, port: 4317}", "BackendNotFound"),
        ("{name: otel, port: 9}", "BackendNotFound"),
        ("{group: example.com, kind: Thing, name: otel, port: 4317}", "InvalidKind"),
        ("{name: otel, namespace: private, port: 4317}", "RefNotPermitted"),
        ("{name: nobody-knows, namespace: private, port: 4317}", "RefNotPermitted"),
    ] {
        let objects =
            [gateway("a"), private.clone(), policy("p", 1, &["a"], &to(backend)), route("shop", "a", FINE)];
        let compilation = all(&objects, false);
        assert_eq!(of(&compilation, "a"), None, "{backend}");
        let expected = format!("a: Accepted True Accepted, ResolvedRefs False {reason}");
        assert_eq!(verdicts(&compilation, "p"), [expected], "{backend}");
        let fleet = &compilation.fleets[&FleetName::gateway("infra", "a")];
        assert!(fleet.routes > 0, "{backend}: the route is served");
        let found: Vec<_> = compilation.diagnostics.iter().collect();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].field.to_string().starts_with("spec.tracing.provider.backendRef"), "{found:?}");
    }
    let grant = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: private}\n\
                 spec:\n  from: [{group: gateway.networking.x-k8s.io, kind: XTelemetryPolicy, namespace: infra}]\n  \
                 to: [{group: \"\", kind: Service}]\n---\n";
    let granted = policy("p", 1, &["a"], &to("{name: otel, namespace: private, port: 4317}"));
    let compilation = all(&[gateway("a"), private, granted, grant.to_owned()], false);
    assert_eq!(of(&compilation, "a").unwrap().cluster, "private/otel/4317+h2");
}

#[test]
fn a_gateway_that_nobody_has_is_told_and_one_of_others_is_none_of_ours() {
    let foreign = CLASS.replace("name: moorgate}", "name: other}").replace("moorgate.dev/", "example.com/");
    let theirs = gateway("theirs").replace("gatewayClassName: moorgate", "gatewayClassName: other");
    let lost = policy("lost", 1, &["gone"], &to("{name: otel, port: 4317}"));
    let far = policy("far", 1, &["theirs"], &to("{name: nobody, port: 1}"));
    let compilation = all(&[foreign, theirs, lost, far], false);
    assert_eq!(
        verdicts(&compilation, "lost"),
        ["gone: Accepted False TargetNotFound, ResolvedRefs True ResolvedRefs"]
    );
    assert_eq!(verdicts(&compilation, "far"), [] as [&str; 0]);
    let codes: Vec<_> = compilation.diagnostics.iter().map(|found| found.code.id).collect();
    assert_eq!(codes, ["MG4001"]);
}

fn shared(name: &str, ports: &[u16]) -> String {
    let listener =
        |port: &u16| format!("{{name: p{port}, port: {port}, hostname: {name}.example.com, protocol: HTTP}}");
    let listeners: Vec<String> = ports.iter().map(listener).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: infra}}\nspec:\n  \
         gatewayClassName: moorgate\n  listeners: [{}]\n---\n",
        listeners.join(", ")
    )
}

#[test]
fn gateways_of_a_merged_class_that_share_a_port_are_traced_alike_or_not_at_all() {
    let class = FleetName::Class { name: "moorgate".to_owned() };
    let otel = to("{name: otel, port: 4317}");
    let alike = all(
        &[shared("a", &[80]), shared("b", &[80]), shared("c", &[81]), policy("p", 1, &["a", "b"], &otel)],
        true,
    );
    let told_alike = told(&alike, &class);
    assert_eq!(told_alike["http-80 http-80"].unwrap().service_name, "moorgate");
    assert_eq!(told_alike["http-81 http-81"], None, "c has no policy");
    assert_eq!(verdicts(&alike, "p"), [format!("a: {GOOD}"), format!("b: {GOOD}")]);

    // b is not traced, so a is not; without a, c is not either, with which b shares nothing.
    let apart = all(
        &[
            shared("a", &[80, 81]),
            shared("b", &[80]),
            shared("c", &[81]),
            shared("d", &[82]),
            policy("p", 1, &["a", "c", "d"], &otel),
        ],
        true,
    );
    let told_apart = told(&apart, &class);
    let traced: Vec<&str> =
        told_apart.iter().filter(|(_, tracing)| tracing.is_some()).map(|(name, _)| name.as_str()).collect();
    assert_eq!(traced, ["http-82 http-82"]);
    let refused = "Accepted False Conflicted, ResolvedRefs True ResolvedRefs";
    assert_eq!(
        verdicts(&apart, "p"),
        [format!("a: {refused}"), format!("c: {refused}"), format!("d: {GOOD}")]
    );
    let messages: Vec<_> = apart.diagnostics.iter().map(|found| found.message.clone()).collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(messages.iter().any(|text| text.contains("infra/b shares port 80")), "{messages:?}");
    assert!(messages.iter().any(|text| text.contains("infra/a shares port 81")), "{messages:?}");
}

#[test]
fn a_schema_error_of_a_collector_keeps_its_fleets_alone_from_being_published() {
    let broken = OTEL.replace("port: 4318", "port: many").replace("name: otel", "name: spans");
    let objects =
        [gateway("a"), gateway("b"), broken, policy("p", 1, &["a"], &to("{name: spans, port: 4317}"))];
    let compilation = all(&objects, false);
    assert!(compilation.blocked.blocks(&FleetName::gateway("infra", "a")));
    assert!(!compilation.blocked.blocks(&FleetName::gateway("infra", "b")));
}
