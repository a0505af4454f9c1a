//! Policies of Envoy Gateway's kinds: what of them is supported, and what a real Envoy makes of each capability, a request
//! that passes and one that does not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

#[path = "policies/answers.rs"]
mod answers;
#[path = "policies/behaviour.rs"]
mod behaviour;
#[path = "policies/bootstrap.rs"]
mod bootstrap;
#[path = "policies/buffers.rs"]
mod buffers;
#[path = "policies/by_token.rs"]
mod by_token;
#[path = "policies/connections.rs"]
mod connections;
#[path = "policies/edges.rs"]
mod edges;
#[path = "policies/extensions.rs"]
mod extensions;
#[path = "policies/external.rs"]
mod external;
#[path = "policies/fleets.rs"]
mod fleets;
#[path = "policies/grants.rs"]
mod grants;
#[path = "policies/handshakes.rs"]
mod handshakes;
#[path = "policies/http3.rs"]
mod http3;
#[path = "policies/interplay.rs"]
mod interplay;
#[path = "policies/limits.rs"]
mod limits;
#[path = "policies/listeners.rs"]
mod listeners;
#[path = "policies/locations.rs"]
mod locations;
#[path = "policies/metrics.rs"]
mod metrics;
#[path = "policies/modules.rs"]
mod modules;
#[path = "policies/patches.rs"]
mod patches;
#[path = "policies/proof.rs"]
mod proof;
#[path = "policies/proxies.rs"]
mod proxies;
#[path = "policies/rerouted.rs"]
mod rerouted;
#[path = "policies/rules.rs"]
mod rules;
#[path = "policies/security.rs"]
mod security;
#[path = "policies/settled.rs"]
mod settled;
#[path = "policies/shown.rs"]
mod shown;
#[path = "policies/sinks.rs"]
mod sinks;
#[path = "policies/tokens.rs"]
mod tokens;
#[path = "policies/traffic.rs"]
mod traffic;
#[path = "policies/zones.rs"]
mod zones;

use moorgate_tests::distil::crds;
use moorgate_tests::program::{self, moorgate, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn said(arguments: &[&str]) -> String {
    let mut command = moorgate().unwrap();
    let outcome = run(command.arg("policies").args(arguments)).unwrap();
    outcome.ended_with(&[0]).unwrap().stdout
}

/// Every field of a schema that holds no others.
fn walk(schema: &Value, at: &str, out: &mut BTreeSet<String>) {
    if let Some(items) = schema.get("items") {
        return walk(items, at, out);
    }
    match schema["properties"].as_object() {
        Some(fields) => fields.iter().for_each(|(name, field)| walk(field, &format!("{at}.{name}"), out)),
        None => drop(out.insert(at.to_owned())),
    }
}

/// Every field below `spec` that holds no others, as the published CRDs have them.
fn published() -> BTreeSet<String> {
    let source = crds::ENVOY_GATEWAY;
    let module = crds::module(source.module, source.version).unwrap();
    let mut out = BTreeSet::new();
    for crd in crds::published(&source, &module).unwrap() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        for version in crd["spec"]["versions"].as_array().unwrap() {
            let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
            walk(spec, &format!("{kind}.spec"), &mut out);
        }
    }
    out
}

#[test]
fn the_table_names_every_published_field() {
    let table: Value = serde_json::from_str(&said(&["--fields", "-o", "json"])).unwrap();
    let fields = table["fields"].as_array().unwrap();
    for row in fields {
        let left = row["state"] == "not carried out";
        assert_eq!(row["supported"].as_bool().unwrap(), !left, "{row}");
        assert_eq!(row["state"] == "carried out", row["reason"].is_null(), "{row}");
        assert!(row["class"].as_str().is_some_and(|class| !class.is_empty()), "{row}");
    }
    let named: BTreeSet<String> = fields
        .iter()
        .filter(|row| row["kind"] != "EnvoyProxy")
        .map(|row| format!("{}.{}", row["kind"].as_str().unwrap(), row["field"].as_str().unwrap()))
        .collect();
    let published = published();
    let missing: Vec<_> = published.difference(&named).collect();
    let invented: Vec<_> = named.difference(&published).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}, not published: {invented:?}");
    assert!(named.len() > 900, "{} fields", named.len());
}

/// An EnvoyProxy holds half of Kubernetes' workload API: what is passed on as written is one row of the table.
#[test]
fn the_table_names_every_published_field_of_an_envoy_proxy() {
    let source = crds::ENVOY_GATEWAY;
    let module = crds::module(source.module, source.version).unwrap();
    let file = "charts/gateway-helm/charts/crds/crds/generated/gateway.envoyproxy.io_envoyproxies.yaml";
    let crd: Value = yaml_serde::from_str(&std::fs::read_to_string(module.dir.join(file)).unwrap()).unwrap();
    let mut published = BTreeSet::new();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    walk(spec, "spec", &mut published);
    let table: Value = serde_json::from_str(&said(&["--fields", "-o", "json"])).unwrap();
    let rows = table["fields"].as_array().unwrap().iter().filter(|row| row["kind"] == "EnvoyProxy");
    let rows: Vec<&str> = rows.map(|row| row["field"].as_str().unwrap()).collect();
    let above = |row: &str, field: &str| {
        field.strip_prefix(row).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    // Of a map that anybody names the fields of, the table has those that are known.
    let same = |row: &str, field: &str| above(row, field) || above(field, row);
    let missing: Vec<_> = published.iter().filter(|field| !rows.iter().any(|row| same(row, field))).collect();
    let invented: Vec<_> =
        rows.iter().filter(|row| !published.iter().any(|field| same(row, field))).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}, not published: {invented:?}");
}

/// The table and the page are read like code: `MOORGATE_BLESS=1` writes them.
#[test]
fn the_table_and_the_page_are_as_they_were_read() {
    for (name, arguments) in [("fields.txt", ["--fields"]), ("reference.md", ["--reference"])] {
        let path: PathBuf = program::root().join("tests/tests/policies").join(name);
        let text = said(&arguments);
        if program::variable("MOORGATE_BLESS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text == expected, "{} differs: run with MOORGATE_BLESS=1 and look at it", path.display());
    }
}

#[test]
fn capabilities_are_listed_with_their_filters_in_order() {
    let list: Value = serde_json::from_str(&said(&["-o", "json"])).unwrap();
    let policies = list["policies"].as_array().unwrap();
    let find = |name: &str| policies.iter().find(|one| one["capability"] == name).unwrap();
    assert_eq!(find("jwt")["kind"], "SecurityPolicy");
    assert!(find("jwt")["order"].as_u64() < find("authorization")["order"].as_u64());
    assert!(find("backend_tls")["targets"].as_array().unwrap().contains(&"Service".into()));
    let text = said(&[]);
    assert!(text.lines().count() > policies.len(), "a header and a line for each: {text}");
}

/// What Envoy Gateway's own tests translate, with the policies by themselves: its harness skips the schemas, so some of them
/// break these; nearly all must be taken, and of what is taken each field is carried out or named.
#[test]
fn the_projects_own_policies_are_taken_and_nothing_of_them_is_passed_over() {
    let module = crds::module(crds::ENVOY_GATEWAY.module, crds::ENVOY_GATEWAY.version).unwrap();
    let folder = module.dir.join("internal/gatewayapi/testdata");
    let (mut all, mut refused) = (0_u32, Vec::new());
    for path in moorgate_tests::manifest::files(&folder).unwrap() {
        if !path.to_string_lossy().ends_with(".in.yaml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let Ok(groups) = yaml_serde::from_str::<Value>(&text) else { continue };
        for list in [
            "backendTrafficPolicies",
            "backends",
            "clientTrafficPolicies",
            "envoyExtensionPolicies",
            "httpFilters",
            "securityPolicies",
        ] {
            for policy in groups[list].as_array().into_iter().flatten() {
                all += 1;
                let bytes = policy.to_string().into_bytes().into();
                let mut options = moorgate::compile::Options::default();
                options.validate.namespace = Some("default".into());
                let file = moorgate::source::File { name: "in.yaml".into(), bytes };
                let found = moorgate::compile::compile(&[file], &options);
                let wrong = found
                    .diagnostics
                    .iter()
                    .find(|found| found.code.class != moorgate_model::Class::Semantic);
                if let Some(wrong) = wrong {
                    refused.push(format!("{} {}: {}", path.display(), wrong.field, wrong.message));
                    continue;
                }
                let named: Vec<String> =
                    found.diagnostics.iter().map(|found| found.field.to_string()).collect();
                let object = &found.objects[0];
                let kind = moorgate_policies::Kind::of(&object.reference).unwrap();
                for field in moorgate_policies::uncovered(kind, object) {
                    let silent = moorgate::validate::is_default(object, &field);
                    assert!(
                        silent || named.contains(&field.to_string()),
                        "{}: {field} is passed over",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(all >= 300, "{all} policies");
    let share = f64::from(u32::try_from(refused.len()).unwrap()) / f64::from(all);
    assert!(share < 0.15, "{} of {all} refused:\n{}", refused.len(), refused.join("\n"));
}

/// The case `operators`, which all supported Envoys take, holds each operator that texts may have.
#[test]
fn each_operator_of_texts_is_shown_to_envoy() {
    let source = std::fs::read_to_string(program::root().join("policies/src/operators.rs")).unwrap();
    let case = program::root().join("tests/golden/policies/operators/in.yaml");
    let case = std::fs::read_to_string(case).unwrap();
    let lists = source.split_once("/// Operators that stand alone").unwrap().1;
    let lists = lists.split("/// Whether Envoy takes a text").next().unwrap();
    let names = lists.split('"').skip(1).step_by(2);
    let missing: Vec<&str> = names.clone().filter(|name| !case.contains(*name)).collect();
    assert!(names.count() > 150 && missing.is_empty(), "{missing:?}");
}

/// A field that is carried out is set, at its place, in a case that all Envoys take; the few others are named, with a reason.
#[test]
fn each_field_that_is_carried_out_is_shown() {
    let shown = proof::Shown::new();
    let table: Value = serde_json::from_str(&said(&["--fields", "-o", "json"])).unwrap();
    let carried = table["fields"].as_array().unwrap().iter().filter(|row| row["state"] == "carried out");
    let (mut missing, mut in_cases) = (Vec::new(), 0);
    for row in carried {
        let kind = row["kind"].as_str().unwrap();
        let field = row["field"].as_str().unwrap().strip_prefix("spec.").unwrap();
        in_cases += usize::from(shown.in_a_case(kind, field));
        if !shown.holds(kind, field) {
            missing.push(format!("{kind} {field}"));
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(in_cases >= 600, "cases set {in_cases} fields");
    // A name that stands elsewhere shows nothing here.
    for (kind, field) in [
        ("BackendTrafficPolicy", "retry.jwt"),
        ("BackendTrafficPolicy", "cors.allowOrigins"),
        ("SecurityPolicy", "cors.numRetries"),
        ("SecurityPolicy", "jwt.backendSettings.retry"),
        ("SecurityPolicy", "basicAuth.credentialRefs.name"),
    ] {
        assert!(!shown.holds(kind, field), "{kind} {field}");
    }
}

/// Which policies are in force for a request, from which object and line, and which have no effect because of others.
#[test]
fn explain_names_the_policies_of_a_request() {
    let source = program::root().join("tests/golden/policies/merged/in.yaml");
    let explain = |path: &str, output: &str| {
        let mut command = moorgate().unwrap();
        let url = format!("http://shop.example.com{path}");
        command.args(["explain", "-o", output]).arg(&source).args(["GET", url.as_str()]);
        run(&mut command).unwrap().ended_with(&[0]).unwrap().stdout
    };
    let text = explain("/cart", "text");
    let line = |name: &str| {
        text.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let (narrow, wide) =
        (line("policy BackendTrafficPolicy shop/narrow"), line("policy BackendTrafficPolicy shop/wide"));
    assert!(narrow.contains("on HTTPRoute shop/cart section cart: retry  ("), "{narrow}");
    assert!(wide.contains("on Gateway shop/edge: retry, timeout  ("), "{wide}");
    let written = std::fs::read_to_string(&source).unwrap();
    let place = narrow.rsplit_once("in.yaml:").unwrap().1;
    let number: usize = place.split_once(':').unwrap().0.parse().unwrap();
    let named = written.lines().nth(number - 1).unwrap();
    assert!(named.contains("targetRefs") && named.contains("sectionName: cart"), "{number}: {named}");
    // Elsewhere the wide one counts alone.
    let answers: Value = serde_json::from_str(&explain("/other", "json")).unwrap();
    let policies = answers["answers"][0]["policies"].as_array().unwrap();
    assert_eq!((policies.len(), policies[0]["object"]["name"].as_str()), (1, Some("wide")));
}

/// What is patched is said to be.
#[test]
fn explain_names_patches() {
    let source = program::root().join("tests/golden/policies/patches/in.yaml");
    let mut command = moorgate().unwrap();
    command.args(["explain", "--envoy-patch-policy", "--fleet", "shop/edge"]).arg(&source);
    let text =
        run(command.args(["GET", "http://shop.example.com/cart"])).unwrap().ended_with(&[0]).unwrap().stdout;
    for wanted in [
        "policy EnvoyPatchPolicy shop/header patches Listener http-80",
        "policy EnvoyPatchPolicy shop/header patches RouteConfiguration http-80",
        "policy EnvoyPatchPolicy shop/value patches RouteConfiguration http-80",
    ] {
        assert!(text.contains(wanted), "{text}");
    }
    assert!(!text.contains("shop/lost") && !text.contains("shop/opens"), "{text}");
}

/// Of connections too: who may come, what took the place of what, and why nobody passes; and the same from the store alone.
#[test]
fn explain_names_the_policies_of_connections() {
    let golden = program::root().join("tests/golden/policies/client-ranges/in.yaml");
    let text = std::fs::read_to_string(golden).unwrap();
    // Where nobody can be asked where datagrams come from there is an error, and no release.
    let documents: Vec<&str> = text.split("---\n").filter(|one| !one.contains("kind: UDPRoute")).collect();
    let stack = moorgate_tests::stack::Stack::new("shop/edge").unwrap();
    let source = stack.folder().join("in.yaml");
    std::fs::write(&source, documents.join("---\n")).unwrap();
    stack.publish(&source).unwrap();
    let explain = |from: &str, output: &str, port: u16, code: i32| {
        let mut command = stack.command("explain").unwrap();
        command.args(["-o", output, from, "CONNECT", &format!("tcp://any.example:{port}")]);
        run(&mut command).unwrap().ended_with(&[code]).unwrap().stdout
    };
    let live = source.display().to_string();
    let (some, all, none) =
        (explain(&live, "text", 5000, 0), explain(&live, "text", 5001, 0), explain(&live, "text", 5002, 1));
    for (text, wanted) in [
        (&some, "policy SecurityPolicy shop/offices on Gateway shop/edge: authorization  ("),
        (
            &some,
            "clients from 10.0.0.0/8, 192.0.2.7/32, 2001:db8::/32 pass, those from 0.0.0.0/0, 10.9.0.0/16",
        ),
        (&all, "policy SecurityPolicy shop/everybody on TCPRoute shop/all: authorization  ("),
        (
            &all,
            "shop/offices on Gateway shop/edge: has no effect here, SecurityPolicy shop/everybody takes its place  (",
        ),
        (&none, "policy SecurityPolicy shop/nobody on TCPRoute shop/none: authorization  ("),
        (&none, "the connection is closed"),
    ] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert!(!all.contains("clients from"), "{all}");
    let answer = |from: &str, port: u16| -> Value {
        serde_json::from_str::<Value>(&explain(from, "json", port, 0)).unwrap()["answers"][0].clone()
    };
    for port in [5000, 5001] {
        let (live, stored) = (answer(&live, port), answer("channel:shop/edge@stable", port));
        assert_eq!(
            (&live["clients"], &live["backends"]),
            (&stored["clients"], &stored["backends"]),
            "{port}"
        );
        let told = |answer: &Value| -> Vec<(Value, Value, Value)> {
            let policies = answer["policies"].as_array().unwrap().iter();
            policies
                .map(|one| (one["object"].clone(), one["capabilities"].clone(), one["overridden_by"].clone()))
                .collect()
        };
        assert_eq!(told(&live), told(&stored), "{port}");
    }
    assert_eq!(answer(&live, 5000)["clients"]["allowed"][0], "10.0.0.0/8");
}

/// The same from the store alone: the places were signed beside the snapshot, and how paths are read stands in it.
#[test]
fn explain_names_the_policies_of_a_request_from_the_store_alone() {
    let golden = program::root().join("tests/golden/policies/merged/in.yaml");
    let paths = behaviour::policy(
        "paths",
        "ClientTrafficPolicy",
        "Gateway",
        "edge",
        "  path: { escapedSlashesAction: UnescapeAndForward, disableMergeSlashes: true }\n",
    );
    let text = std::fs::read_to_string(golden).unwrap()
        + "---\n"
        + &paths.replace("namespace: edge", "namespace: shop");
    let stack = moorgate_tests::stack::Stack::new("shop/edge").unwrap();
    let source = stack.folder().join("in.yaml");
    std::fs::write(&source, text).unwrap();
    stack.publish(&source).unwrap();
    let asked = |from: &str, path: &str| -> Value {
        let mut command = stack.command("explain").unwrap();
        let url = format!("http://shop.example.com{path}");
        command.args(["-o", "json", from, "GET", &url]);
        let said = run(&mut command).unwrap().ended_with(&[0]).unwrap().stdout;
        serde_json::from_str::<Value>(&said).unwrap()["answers"][0].clone()
    };
    let told = |answer: &Value| -> Vec<Value> {
        let policies = answer["policies"].as_array().unwrap().iter();
        let one = |policy: &Value| {
            let mut policy = policy.clone();
            // Records know lines, and no columns.
            let place: Vec<String> =
                policy["place"].as_str().unwrap().split(':').take(2).map(str::to_owned).collect();
            policy["place"] = place.join(":").into();
            policy
        };
        let mut all: Vec<Value> = policies.map(one).collect();
        all.sort_by_key(|policy| policy["object"].to_string());
        all
    };
    // Escaped slashes are slashes here, and dots are resolved behind them.
    for (path, rule, count) in [("/cart", "cart", 3), ("/other", "rest", 2), ("/x%2F..%2Fcart", "cart", 3)] {
        let (live, stored) =
            (asked(&source.display().to_string(), path), asked("channel:shop/edge@stable", path));
        assert_eq!(
            (&live["route"]["rule_name"], &stored["route"]["rule_name"]),
            (&rule.into(), &rule.into())
        );
        assert_eq!(told(&stored), told(&live), "{path}");
        assert_eq!(told(&stored).len(), count, "{path}");
    }
}
