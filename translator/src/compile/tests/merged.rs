//! Gateways of one class that one fleet serves together.

use super::*;
use crate::status::Status;
use moorgate_model::ir::{Action, Serves};

fn options() -> Options {
    let mut options = Options::default();
    options.attach.merged.insert("moorgate".to_owned());
    options
}

/// A Gateway made at this second, with these listeners.
fn made(name: &str, second: u8, listeners: &str, spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: infra, \
         creationTimestamp: \"2024-01-01T00:00:{second:02}Z\"}}\nspec:\n  gatewayClassName: moorgate\n  \
         listeners: [{listeners}]\n{spec}---\n"
    )
}

fn http(name: &str, port: u16, host: &str) -> String {
    let hostname = if host.is_empty() { String::new() } else { format!("hostname: {host}, ") };
    format!(
        "{{name: {name}, port: {port}, {hostname}protocol: HTTP, allowedRoutes: {{namespaces: {{from: All}}}}}}"
    )
}

fn all(objects: &[String]) -> Compilation {
    let text = format!("{CLASS}{}", objects.concat());
    compile(&[File { name: "in.yaml".into(), bytes: text.into_bytes().into() }], &options())
}

fn class() -> FleetName {
    FleetName::Class { name: "moorgate".to_owned() }
}

/// Reasons of `Accepted` of a Gateway's listeners, and whether the Gateway is accepted.
fn verdicts(compilation: &Compilation, gateway: &str) -> (Vec<&'static str>, &'static str) {
    let reference = ObjectRef::new(attach::GATEWAY_GROUP, "Gateway", "infra", gateway);
    let Some(Status::Gateway { conditions, listeners, .. }) = compilation.statuses.get(&reference) else {
        panic!("no status of {gateway}")
    };
    let reason = |conditions: &[crate::status::Condition]| {
        conditions.iter().find(|one| one.kind == "Accepted").map(|one| one.reason).unwrap()
    };
    let own = conditions.iter().find(|one| one.kind == "Accepted").unwrap();
    (listeners.iter().map(|listener| reason(&listener.conditions)).collect(), own.status)
}

#[test]
fn one_fleet_serves_all_gateways_of_a_merged_class_and_no_others() {
    let other = made("apart", 1, &http("a", 80, ""), "")
        .replace("gatewayClassName: moorgate", "gatewayClassName: other");
    let second = CLASS.replace("name: moorgate}", "name: other}");
    let compilation = all(&[
        made("one", 2, &http("http", 80, "one.example.com"), ""),
        made("two", 1, &http("http", 80, "two.example.com"), ""),
        second,
        other,
        route("one", "one", FINE),
        route("two", "two", FINE),
    ]);
    assert!(!compilation.diagnostics.has_errors(), "{:#?}", compilation.diagnostics);
    let names: Vec<String> = compilation.fleets.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["infra/apart", "class/moorgate"]);
    let fleet = &compilation.fleets[&class()].ir;
    let tables = fleet.tables();
    let table = tables.values().next().unwrap();
    let hosts: Vec<&str> = table.hosts.iter().map(|host| host.domain.as_str()).collect();
    assert_eq!((tables.len(), hosts), (1, vec!["one.example.com", "two.example.com"]));
    assert_eq!(compilation.served_by.of("infra", "one"), class());
    assert_eq!(compilation.served_by.of("infra", "apart"), FleetName::gateway("infra", "apart"));
    // What only one of them has is no business of the other's: its route does not match its neighbour's listener.
    let crossed = all(&[
        made("one", 2, &http("http", 80, "one.example.com"), ""),
        made("two", 1, &http("http", 80, "two.example.com"), ""),
        route("two", "one", FINE),
    ]);
    assert!(
        crossed.fleets[&class()]
            .ir
            .tables()
            .values()
            .all(|table| table.hosts.iter().all(|host| host.routes.is_empty()))
    );
}

#[test]
fn what_an_older_gateway_has_a_younger_one_cannot_have() {
    // By age, not by name or place.
    let objects = [
        made(
            "young",
            9,
            &format!("{}, {}", http("same", 80, "a.example.com"), http("own", 80, "b.example.com")),
            "",
        ),
        made("old", 1, &http("http", 80, "a.example.com"), ""),
        made("middle", 5, "{name: tcp, port: 80, protocol: TCP}, {name: udp, port: 80, protocol: UDP}", ""),
    ];
    let compilation = all(&objects);
    assert_eq!(verdicts(&compilation, "old"), (vec!["Accepted"], "True"));
    assert_eq!(verdicts(&compilation, "young"), (vec!["HostnameConflict", "Accepted"], "True"));
    // Datagrams have ports of their own.
    assert_eq!(verdicts(&compilation, "middle"), (vec!["ProtocolConflict", "Accepted"], "True"));
    let mut turned = objects.clone();
    turned.reverse();
    assert_eq!(compilation.fleets[&class()].snapshot.id(), all(&turned).fleets[&class()].snapshot.id());
    // Within one Gateway none is served, as ever, and so neither is taken from others.
    let clash = format!("{}, {{name: b, port: 80, protocol: TCP}}", http("a", 80, "a.example.com"));
    let compilation =
        all(&[made("old", 1, &clash, ""), made("young", 2, &http("c", 80, "a.example.com"), "")]);
    assert_eq!(verdicts(&compilation, "old").0, ["ProtocolConflict", "ProtocolConflict"]);
    assert_eq!(verdicts(&compilation, "young").0, ["Accepted"]);
}

#[test]
fn a_gateway_that_shows_another_certificate_to_backends_does_not_share_a_fleet() {
    let shows = |secret: &str| format!("  tls: {{backend: {{clientCertificateRef: {{name: {secret}}}}}}}\n");
    let compilation = all(&[
        made("first", 1, &http("a", 80, "a.example.com"), &shows("one")),
        made("second", 2, &http("b", 80, "b.example.com"), &shows("one")),
        made("third", 3, &http("c", 80, "c.example.com"), &shows("two")),
        made("fourth", 4, &http("d", 80, "d.example.com"), ""),
    ]);
    for (gateway, accepted) in
        [("first", "True"), ("second", "True"), ("third", "False"), ("fourth", "False")]
    {
        assert_eq!(verdicts(&compilation, gateway).1, accepted, "{gateway}");
    }
    // Their errors keep nobody back but as the Gateway API says.
    assert!(!compilation.blocked.blocks(&class()));
}

#[test]
fn a_policy_that_cannot_be_carried_out_closes_its_own_gateway_only() {
    let policy = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {name: p, namespace: infra}\n\
        spec: {targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: one}, jwt: {providers: [{name: x}]}}\n---\n";
    let stream = |gateway: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\nmetadata: {{name: {gateway}, namespace: infra}}\n\
             spec: {{parentRefs: [{{name: {gateway}}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}\n---\n"
        )
    };
    let both = |name: &str, port: u16| {
        format!(
            "{}, {{name: tcp, port: {port}, protocol: TCP}}",
            http("http", 80, &format!("{name}.example.com"))
        )
    };
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: infra}\nspec: {ports: [{port: 80}]}\n---\n";
    let compilation = all(&[
        made("one", 1, &both("one", 9001), ""),
        made("two", 2, &both("two", 9002), ""),
        route("one", "one", FINE),
        route("two", "two", FINE),
        stream("one"),
        stream("two"),
        service.to_owned(),
        policy.to_owned(),
    ]);
    let fleet = &compilation.fleets[&class()].ir;
    let answers = |host: &str| -> bool {
        let chains = fleet.listeners.values().flat_map(|listener| &listener.chains);
        let tables = chains.filter_map(|chain| match &chain.serves {
            Serves::Http(table) => Some(table),
            _ => None,
        });
        let mut hosts = tables.flat_map(|table| &table.hosts);
        let found = hosts.find(|found| found.domain == host).unwrap();
        found.routes.iter().all(|route| !matches!(route.action, Action::Respond(_)))
    };
    assert!(!answers("one.example.com") && answers("two.example.com"));
    let passes = |port: &str| matches!(fleet.listeners[port].chains[0].serves, Serves::Stream(_));
    assert!(!passes("tcp-9001") && passes("tcp-9002"));
}

#[test]
fn a_mistake_in_one_gateway_blocks_the_fleet_that_serves_it() {
    let broken = made("one", 1, "{name: http, port: none, protocol: HTTP}", "");
    let compilation = all(&[broken, made("two", 2, &http("http", 80, ""), "")]);
    assert!(
        compilation.blocked.blocks(&class()) && !compilation.blocked.all,
        "{:#?}",
        compilation.diagnostics
    );
}

/// The message of `OverlappingTLSConfig` of each listener of a Gateway, empty for none.
fn overlaps(compilation: &Compilation, gateway: &str) -> Vec<String> {
    let reference = ObjectRef::new(attach::GATEWAY_GROUP, "Gateway", "infra", gateway);
    let Some(Status::Gateway { listeners, .. }) = compilation.statuses.get(&reference) else {
        panic!("no status of {gateway}")
    };
    let of = |listener: &crate::status::ListenerStatus| {
        let found = listener.conditions.iter().find(|one| one.kind == "OverlappingTLSConfig");
        found.map(|one| format!("{} {} {}", one.status, one.reason, one.message)).unwrap_or_default()
    };
    listeners.iter().map(of).collect()
}

#[test]
fn listeners_of_gateways_that_share_a_fleet_overlap_too() {
    let tls = |name: &str, port: u16, host: &str| {
        format!(
            "{{name: {name}, port: {port}, hostname: '{host}', protocol: HTTPS, tls: {{certificateRefs: [{{name: pair}}]}}}}"
        )
    };
    let objects = [
        made("one", 1, &tls("foo", 443, "foo.example.com"), ""),
        made(
            "two",
            2,
            &format!("{}, {}", tls("wild", 443, "*.example.com"), tls("org", 443, "foo.example.org")),
            "",
        ),
        made("three", 3, &tls("far", 8443, "*.example.com"), ""),
    ];
    let merged = all(&objects);
    let said = |own: &str, other: &str| {
        format!(
            "True OverlappingHostnames listener {own:?} and listener {other:?} share hostnames on port 443"
        )
    };
    assert_eq!(overlaps(&merged, "one"), [said("foo", "infra/two/wild")]);
    assert_eq!(overlaps(&merged, "two"), [said("wild", "infra/one/foo"), String::new()]);
    assert_eq!(overlaps(&merged, "three"), [""]);
    // One certificate for both: clients do reuse connections.
    let codes: Vec<&str> = merged.diagnostics.iter().map(|found| found.code.id).collect();
    assert_eq!(codes, [moorgate_model::diagnostic::semantic::OVERLAPPING_TLS.id]);

    // With fleets of their own they never meet.
    let apart = compiled(&[("in.yaml", format!("{CLASS}{}", objects.concat()))]);
    for gateway in ["one", "two", "three"] {
        assert!(overlaps(&apart, gateway).iter().all(String::is_empty), "{gateway}");
    }
}

/// The parameters of the class say it too; those of a Gateway cannot.
#[test]
fn a_class_is_merged_by_its_parameters() {
    let named =
        "parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: all, namespace: infra}";
    let class = CLASS.replace("spec: {", &format!("spec: {{{named}, "));
    assert_ne!(class, CLASS);
    let proxy = |name: &str, merge: bool| {
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyProxy\nmetadata: {{name: {name}, namespace: infra}}\n\
             spec: {{mergeGateways: {merge}}}\n---\n"
        )
    };
    let own =
        "  infrastructure: {parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: own}}\n";
    let compiled = |class: &str, merge: bool| {
        let objects = [
            class.to_owned(),
            proxy("all", merge),
            proxy("own", true),
            made("one", 2, &http("http", 80, "one.example.com"), ""),
            made("two", 1, &http("http", 80, "two.example.com"), own),
        ];
        let files = [File { name: "in.yaml".into(), bytes: objects.concat().into_bytes().into() }];
        compile(&files, &Options::default())
    };
    let names = |found: &Compilation| found.fleets.keys().map(ToString::to_string).collect::<Vec<_>>();
    let merged = compiled(&class, true);
    assert_eq!(names(&merged), ["class/moorgate"]);
    assert_eq!(merged.served_by.of("infra", "one"), self::class());
    assert_eq!(merged.fleets[&self::class()].ir.tables().len(), 1);
    for apart in [compiled(&class, false), compiled(CLASS, true)] {
        assert_eq!(names(&apart), ["infra/one", "infra/two"]);
        let said: Vec<_> =
            apart.diagnostics.iter().map(|found| (found.code.id, found.field.to_string())).collect();
        assert_eq!(said, [("MG4103", "spec.mergeGateways".to_owned())]);
    }
    // Of another controller nothing is compiled, whatever its class says.
    let foreign =
        compiled(&class.replace("moorgate.dev/gateway-controller", "other.example/controller"), true);
    assert!(foreign.fleets.is_empty(), "{:?}", names(&foreign));
}
