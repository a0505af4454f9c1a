//! Whose mistake, fleet by fleet.

mod bounds;
mod closed;
mod fields;
mod inputs;
mod listeners;
mod merged;
mod misdirected;
mod policies;
mod recomputed;
mod referred;
mod telemetry;

use super::*;
use crate::source::File;
use moorgate_model::Severity;
use std::fmt::Write as _;

const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: moorgate}\n\
    spec: {controllerName: moorgate.dev/gateway-controller}\n---\n";

fn gateway(name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: infra}}\n\
         spec:\n  gatewayClassName: moorgate\n  listeners:\n  - {{name: http, port: 80, protocol: HTTP, \
         allowedRoutes: {{namespaces: {{from: All}}}}}}\n---\n"
    )
}

fn route(name: &str, gateway: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {name}}}\n\
         spec:\n  parentRefs: [{{name: {gateway}, namespace: infra}}]\n  hostnames: [{name}.example.com]\n  \
         rules: {rules}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {name}}}\n\
         spec: {{ports: [{{name: http, port: 80}}]}}\n---\n"
    )
}

const FINE: &str = "[{backendRefs: [{name: web, port: 80}]}]";

fn compiled(files: &[(&str, String)]) -> Compilation {
    let files: Vec<File> = files
        .iter()
        .map(|(name, text)| File { name: (*name).into(), bytes: text.as_bytes().into() })
        .collect();
    compiled_with(&files)
}

fn compiled_with(files: &[File]) -> Compilation {
    compile(files, &Options::default())
}

/// Two fleets, and a route on one of them with these rules.
fn with_rules(rules: &str) -> Compilation {
    compiled(&[
        ("infra.yaml", format!("{CLASS}{}{}", gateway("one"), gateway("two"))),
        ("shop.yaml", route("shop", "one", rules)),
        ("blog.yaml", route("blog", "two", FINE)),
    ])
}

fn one() -> FleetName {
    FleetName::gateway("infra", "one")
}

fn two() -> FleetName {
    FleetName::gateway("infra", "two")
}

#[test]
fn an_error_concerns_the_fleets_that_its_object_names() {
    let fine = with_rules(FINE);
    assert_eq!((&fine.blocked, &fine.erring), (&Blocked::default(), &Blocked::default()));
    let schema = with_rules("[{matches: [{path: {type: Prefix, value: /}}]}]");
    assert!(schema.blocked.blocks(&one()) && !schema.blocked.blocks(&two()), "{:?}", schema.diagnostics);
    let semantic = with_rules("[{backendRefs: [{name: gone, port: 80}]}]");
    assert!(!semantic.blocked.blocks(&one()) && !semantic.blocked.blocks(&two()));
    assert!(semantic.erring.blocks(&one()) && !semantic.erring.blocks(&two()));
}

#[test]
fn services_and_policies_concern_the_fleets_of_their_routes() {
    let infra = ("infra.yaml", format!("{CLASS}{}{}", gateway("one"), gateway("two")));
    let routes = ("routes.yaml", route("shop", "one", FINE) + &route("blog", "two", FINE));
    let policy = |target: &str| {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: tls, namespace: shop}}\n\
             spec: {{targetRefs: [{{group: '', kind: Service, name: {target}}}], validation: {{hostname: 7}}}}\n"
        );
        compiled(&[infra.clone(), routes.clone(), ("policy.yaml", text)])
    };
    let found = policy("web");
    assert!(found.blocked.blocks(&one()) && !found.blocked.blocks(&two()), "{:?}", found.blocked);
    assert!(policy("other").blocked.all, "a target that nobody knows may be anyone's");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: api, namespace: shop}\nspec: {ports: 7}\n";
    let found = compiled(&[infra.clone(), routes.clone(), ("service.yaml", service.to_owned())]);
    assert!(found.diagnostics.has_errors() && found.blocked == Blocked::default(), "{:?}", found.blocked);
    let unreadable = compiled(&[infra, routes, ("broken.yaml", "a: [".to_owned())]);
    assert!(unreadable.blocked.all);
}

#[test]
fn a_gateway_that_is_not_valid_is_a_fleet_that_fails() {
    let broken = gateway("one").replace("port: 80", "port: 0");
    let found = compiled(&[("infra.yaml", format!("{CLASS}{broken}{}", gateway("two")))]);
    assert_eq!(found.refused.iter().collect::<Vec<_>>(), [&one()]);
    assert_eq!(found.fleets.keys().collect::<Vec<_>>(), [&two()]);
    let foreign = CLASS.replace("moorgate.dev", "example.com");
    assert!(compiled(&[("infra.yaml", format!("{foreign}{broken}"))]).refused.is_empty());
}

/// Matches with long header values on one hostname: about 4 kB a match.
fn heavy(matches: usize) -> String {
    let value = "v".repeat(4000);
    let mut rules = String::from("[");
    for n in 0..matches {
        let open = if n % 64 == 0 { "{matches: [" } else { "" };
        let close = if n % 64 == 63 || n + 1 == matches { "]}," } else { "," };
        let _ = write!(rules, "{open}{{headers: [{{name: x-{n}, value: {value}}}]}}{close}");
    }
    rules + "]"
}

#[test]
fn an_oversized_table_costs_its_own_fleet_and_warns_before() {
    let table = |routes: usize| {
        let mut text = String::new();
        for n in 0..routes {
            // All on one hostname, as one record.
            text += &route(&format!("r{n}"), "one", &heavy(64))
                .replace(&format!("r{n}.example.com"), "a.example.com");
        }
        compiled(&[
            ("infra.yaml", format!("{CLASS}{}{}", gateway("one"), gateway("two"))),
            ("shop.yaml", text),
            ("blog.yaml", route("blog", "two", FINE)),
        ])
    };
    let small = table(2);
    assert!(!small.diagnostics.iter().any(|found| found.code.id == "MG3028"));
    // 5.2 of 6 MiB, and 6.5.
    let near = table(20);
    let warned: Vec<_> = near.diagnostics.iter().filter(|found| found.code.id == "MG3028").collect();
    let [warned] = warned.as_slice() else { panic!("{warned:?}") };
    assert_eq!((warned.severity, warned.file.as_deref()), (Severity::Warning, Some("infra.yaml")));
    assert_eq!(warned.related[0].file.as_ref(), "shop.yaml");
    assert!(near.fleets.contains_key(&one()));
    let over = table(25);
    let refused: Vec<_> = over.diagnostics.iter().filter(|found| found.code.id == "MG3027").collect();
    let [refused] = refused.as_slice() else { panic!("{refused:?}") };
    assert!(refused.related[0].message.starts_with("HTTPRoute r"), "{refused:?}");
    assert_eq!(over.fleets.keys().collect::<Vec<_>>(), [&two()]);
    assert_eq!(over.refused.iter().collect::<Vec<_>>(), [&one()]);
    assert!(over.erring.blocks(&one()) && !over.erring.blocks(&two()));
}

#[test]
fn routes_are_counted_by_namespace_and_hostname() {
    let found = compiled(&[
        ("infra.yaml", format!("{CLASS}{}", gateway("one"))),
        ("shop.yaml", route("shop", "one", "[{matches: [{path: {value: /a}}, {path: {value: /b}}]}]")),
        ("blog.yaml", route("blog", "one", FINE)),
    ]);
    let fleet = &found.fleets[&one()];
    assert_eq!(fleet.routes, 3);
    let counts = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    assert_eq!(fleet.counts.namespaces, counts(&[("blog", 1), ("shop", 2)]));
    assert_eq!(fleet.counts.hostnames, counts(&[("blog.example.com", 1), ("shop.example.com", 2)]));
}

/// Routes of a namespace on one hostname, 64 matches each.
fn shared(namespace: &str, matches: usize, one: impl Fn(usize) -> String) -> String {
    let mut text = String::new();
    for (n, start) in (0..matches).step_by(64).enumerate() {
        let found: Vec<String> = (start..matches.min(start + 64)).map(&one).collect();
        let rules = format!("[{{matches: [{}], backendRefs: [{{name: web, port: 80}}]}}]", found.join(", "));
        let named =
            route(namespace, "one", &rules).replace(&format!("{namespace}.example.com"), "www.example.com");
        let named = named.replacen(&format!("name: {namespace},"), &format!("name: r{n},"), 1);
        // The Service stands there once.
        text += if n == 0 { &named } else { named.split_inclusive("---\n").next().unwrap_or_default() };
    }
    text
}

fn codes<'c>(found: &'c Compilation, code: &str) -> Vec<&'c moorgate_model::Diagnostic> {
    found.diagnostics.iter().filter(|found| found.code.id == code).collect()
}

/// Hundreds of teams below one team's catch-all are compared to the end: each pair of objects is named once.
#[test]
fn many_namespaces_on_one_host_are_all_compared() {
    let mut files = vec![
        ("infra.yaml", format!("{CLASS}{}", gateway("one"))),
        ("site.yaml", shared("site", 1, |_| "{path: {value: /}}".to_owned())),
    ];
    let teams: String = (0..200)
        .map(|team| shared(&format!("t{team}"), 20, |n| format!("{{path: {{value: /t{team}/{n}}}}}")))
        .collect();
    files.push(("teams.yaml", teams));
    let found = compiled(&files);
    assert_eq!(codes(&found, "MG3032").len(), 0);
    assert_eq!(codes(&found, "MG3031").len(), 200);
    assert!(codes(&found, "MG3031").iter().all(|found| &*found.related[0].file == "site.yaml"));
}

/// What cannot be told in time is said, and is no permission where there is an ownership file.
#[test]
fn too_many_matches_on_one_path_are_not_passed_over() {
    let matches = |value: &'static str| move |n| format!("{{headers: [{{name: x, value: {value}{n}}}]}}");
    let files = [
        ("infra.yaml", format!("{CLASS}{}", gateway("one"))),
        ("a.yaml", shared("a", 1200, matches("a"))),
        ("b.yaml", shared("b", 1200, matches("b"))),
    ];
    let found = compiled(&files);
    assert_eq!(codes(&found, "MG3032").len(), 1);
    assert!(!found.blocked.blocks(&one()));
    let text = "version: 1\nentries:\n- {name: all, paths: ['**'], namespaces: ['*'], kinds: ['*'], hostnames: ['*']}\n";
    let root = crate::source::Root { label: "".into(), repository: "".into(), folder: "".into() };
    let ownership = Some(Ownership::parse("o.yaml", text.as_bytes(), vec![root]).unwrap());
    let files: Vec<File> = files
        .iter()
        .map(|(name, text)| File { name: (*name).into(), bytes: text.as_bytes().into() })
        .collect();
    let found = compile(&files, &Options { ownership, ..Options::default() });
    assert!(found.blocked.blocks(&one()) && found.diagnostics.has_errors());
}

/// The Gateway API sets no upper bound for retries, so no number of them stops a compile.
#[test]
fn any_number_of_retries_compiles() {
    let mut options = Options::default();
    options.validate.channel = crate::validate::Channel::Experimental;
    for attempts in ["0", "3", "4294967297", "9223372036854775807"] {
        let rules = format!("[{{retry: {{attempts: {attempts}}}, backendRefs: [{{name: web, port: 80}}]}}]");
        let text = format!("{CLASS}{}{}", gateway("one"), route("shop", "one", &rules));
        let file = File { name: "a.yaml".into(), bytes: text.as_bytes().into() };
        let compiled = compile(&[file], &options);
        assert!(!compiled.diagnostics.has_errors(), "{attempts}: {:?}", compiled.diagnostics);
        assert!(compiled.fleets.contains_key(&one()));
    }
}
