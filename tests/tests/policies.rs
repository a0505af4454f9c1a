//! Policies of Envoy Gateway's kinds: what of them is supported, and what a real Envoy makes of each capability, a request
//! that passes and one that does not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test ends where something is not as it must be")]

#[path = "policies/behaviour.rs"]
mod behaviour;
#[path = "policies/connections.rs"]
mod connections;
#[path = "policies/extensions.rs"]
mod extensions;
#[path = "policies/patches.rs"]
mod patches;

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

/// Every field below `spec` that holds no others, as the published CRDs have them.
fn published() -> BTreeSet<String> {
    fn walk(schema: &Value, at: &str, out: &mut BTreeSet<String>) {
        if let Some(items) = schema.get("items") {
            return walk(items, at, out);
        }
        match schema["properties"].as_object() {
            Some(fields) => fields.iter().for_each(|(name, field)| walk(field, &format!("{at}.{name}"), out)),
            None => drop(out.insert(at.to_owned())),
        }
    }
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
    let named: BTreeSet<String> = fields
        .iter()
        .map(|row| format!("{}.{}", row["kind"].as_str().unwrap(), row["field"].as_str().unwrap()))
        .collect();
    let published = published();
    let missing: Vec<_> = published.difference(&named).collect();
    let invented: Vec<_> = named.difference(&published).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:?}, not published: {invented:?}");
    assert!(named.len() > 900, "{} fields", named.len());
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
