//! Native checks say what the published texts say.

use super::generate::{Chance, value};
use crate::validate::bundle::{Bundle, node};
use crate::validate::library::Scope;
use crate::validate::rules::Rule;
use crate::validate::schema::{Schema, Type};
use crate::validate::walk::Walk;
use crate::validate::{Channel, codes};
use moorgate_model::Node;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many values each schema with rules gets.
const VALUES: usize = 800;

/// The schemas of a kind that have rules, in both channels.
fn with_rules(kinds: &[&str]) -> Vec<Arc<Schema>> {
    let bundle = Bundle::gateway_api();
    let kinds: Vec<String> = kinds.iter().map(|kind| format!("{kind}.")).collect();
    let all = bundle.schemas().into_iter();
    all.filter(|(path, schema)| !schema.rules.is_empty() && kinds.iter().any(|kind| path.starts_with(kind)))
        .map(|(_, schema)| schema)
        .collect()
}

/// Whether a value with its defaults is sound but for rules, and for what rules repeat: choices and unique names.
fn sound(walk: &Walk) -> bool {
    let allowed = [&codes::RULE_VIOLATED, &codes::UNSUPPORTED_VALUE, &codes::DUPLICATE_ITEM];
    walk.findings.iter().all(|found| allowed.iter().any(|code| found.code.id == code.id))
}

#[test]
fn every_rule_of_http_and_grpc_routes_has_a_native_check() {
    let missing: Vec<String> = with_rules(&["HTTPRoute", "GRPCRoute"])
        .iter()
        .flat_map(|schema| schema.rules.iter())
        .filter(|rule| rule.shared().native().is_none())
        .map(|rule| rule.text().to_owned())
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_native_check_is_used_by_a_published_rule() {
    let all = Bundle::gateway_api().schemas();
    let texts: Vec<&str> = all.iter().flat_map(|(_, schema)| schema.rules.iter().map(Rule::text)).collect();
    for (text, _) in crate::validate::native::all() {
        assert!(texts.contains(&text), "no release has this rule: {text}");
    }
}

/// How often each rule held and did not.
type Tally = BTreeMap<String, (usize, usize)>;

/// Compares each rule's native check with its text on one value.
fn compare(node: &Node, schema: &Schema, tally: &mut Tally) {
    let scope = Scope::new(node, schema);
    for rule in &schema.rules {
        let Some(native) = rule.shared().native() else { continue };
        let published = rule.shared().expression().holds(&scope);
        let holds = native(node);
        assert_eq!(
            holds,
            published.clone().unwrap_or(false),
            "{}\n{published:?}\n{}",
            rule.text(),
            serde_json::to_string(&node.to_json()).unwrap()
        );
        let entry = tally.entry(rule.text().to_owned()).or_default();
        if holds { entry.0 += 1 } else { entry.1 += 1 }
    }
}

/// References to backends, which chance rarely makes with the one group and kind that matters.
fn backends() -> Vec<Json> {
    let mut backends = Vec::new();
    for group in ["", "gateway.networking.x-k8s.io"] {
        for kind in ["Service", "XBackend"] {
            backends.push(json!({ "group": group, "kind": kind, "name": "a" }));
            backends.push(json!({ "group": group, "kind": kind, "name": "a", "port": 80 }));
        }
    }
    backends
}

/// Rules that replace a prefix, which chance rarely makes: in filters of the rule or of a backend, once or twice, with
/// one prefix, another match, several, or none.
fn prefix_rules() -> Vec<Json> {
    let replaced = json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/x" });
    let matches = [
        json!([{ "path": { "type": "PathPrefix", "value": "/a" } }]),
        json!([{ "path": { "type": "Exact", "value": "/a" } }]),
        json!([{ "path": { "value": "/a" } }, { "path": { "value": "/b" } }]),
        json!([{}]),
        json!([]),
    ];
    let mut rules = Vec::new();
    for (kind, field) in [("RequestRedirect", "requestRedirect"), ("URLRewrite", "urlRewrite")] {
        let mut filter = json!({ "type": kind });
        filter[field] = json!({ "path": replaced });
        for filters in [json!([filter]), json!([filter, filter])] {
            for matches in &matches {
                let backend = json!({ "name": "a", "port": 80, "filters": filters });
                rules.push(json!({ "matches": matches, "filters": filters }));
                rules.push(json!({ "matches": matches, "backendRefs": [backend] }));
                rules.push(json!({ "matches": matches, "backendRefs": [backend, backend] }));
            }
        }
    }
    rules
}

#[test]
fn native_checks_equal_the_published_texts() {
    let mut tally = Tally::new();
    let mut chance = Chance(7);
    for schema in with_rules(&["HTTPRoute", "GRPCRoute", "Gateway", "ListenerSet"]) {
        for _ in 0..VALUES {
            let mut node = value(&schema, &mut chance);
            let mut walk = Walk::new(false);
            walk.visit(&mut node, &schema);
            if sound(&walk) {
                compare(&node, &schema, &mut tally);
            }
        }
    }
    for (path, schema) in Bundle::gateway_api().schemas() {
        let made = match path.as_str() {
            "HTTPRoute.spec.rules[]" => prefix_rules(),
            "HTTPRoute.spec.rules[].backendRefs[]" => backends(),
            _ => continue,
        };
        for value in made {
            let mut node = node(&value);
            Walk::new(false).visit(&mut node, &schema);
            compare(&node, &schema, &mut tally);
        }
    }
    for (text, (held, failed)) in &tally {
        assert!(*held > 0 && *failed > 0, "held {held} times, failed {failed} times: {text}");
    }
    let total: usize = tally.values().map(|(held, failed)| held + failed).sum();
    assert!(tally.len() > 60 && total > 20_000, "{} rules, {total} evaluations", tally.len());
}

/// Rules may be left unmet by made-up values, but never be impossible to evaluate on most of them.
#[test]
fn the_library_evaluates_every_published_rule() {
    let mut evaluated: BTreeMap<String, usize> = BTreeMap::new();
    let mut chance = Chance(11);
    for (_, schema) in Bundle::gateway_api().schemas() {
        if schema.rules.is_empty() || schema.kind == Type::Any {
            continue;
        }
        for rule in &schema.rules {
            evaluated.entry(rule.text().to_owned()).or_default();
        }
        for _ in 0..60 {
            let mut node = value(&schema, &mut chance);
            Walk::new(false).visit(&mut node, &schema);
            let scope = Scope::new(&node, &schema);
            for rule in &schema.rules {
                if rule.shared().expression().holds(&scope).is_ok() {
                    *evaluated.entry(rule.text().to_owned()).or_default() += 1;
                }
            }
        }
    }
    for (text, times) in &evaluated {
        assert!(*times > 0, "never evaluated: {text}");
    }
    assert!(evaluated.len() > 110);
}

#[test]
fn both_channels_serve_routes() {
    let kind = Bundle::gateway_api().kind("gateway.networking.k8s.io", "HTTPRoute").unwrap();
    for channel in [Channel::Standard, Channel::Experimental] {
        assert!(kind.schema(channel, "v1").is_some());
        assert_eq!(&**kind.handled(channel).unwrap(), "v1");
    }
}
