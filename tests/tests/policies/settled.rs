//! Fields of which nobody can make use: that the published schema takes no value of them, or that they speak of something
//! which is not there, is shown and not only said.

use super::said;
use moorgate::compile::{Compilation, Options, compile};
use moorgate::source::File;
use moorgate_model::Class;
use moorgate_tests::distil::crds;
use serde_json::Value;
use std::collections::BTreeSet;

/// A sound object with a place (`¦`) for each refused field, what is written there, and the field that the finding is at.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    (
        "BackendTrafficPolicy spec.rateLimit.local.rules.cost.response.from",
        "rateLimit: { type: Local, local: { rules: [{ limit: { requests: 1, unit: Second }¦ }] } }",
        ", cost: { response: { from: Number, number: 1 } }",
        "spec.rateLimit.local.rules",
    ),
    (
        "BackendTrafficPolicy spec.rateLimit.local.rules.cost.response.number",
        "rateLimit: { type: Local, local: { rules: [{ limit: { requests: 1, unit: Second }¦ }] } }",
        ", cost: { response: { from: Number, number: 0 } }",
        "spec.rateLimit.local.rules",
    ),
    (
        "BackendTrafficPolicy spec.rateLimit.local.rules.cost.response.metadata.key",
        "rateLimit: { type: Local, local: { rules: [{ limit: { requests: 1, unit: Second }¦ }] } }",
        ", cost: { response: { from: Metadata, metadata: { namespace: a, key: b } } }",
        "spec.rateLimit.local.rules",
    ),
    (
        "BackendTrafficPolicy spec.rateLimit.local.rules.cost.response.metadata.namespace",
        "rateLimit: { type: Local, local: { rules: [{ limit: { requests: 1, unit: Second }¦ }] } }",
        ", cost: { response: { from: Metadata, metadata: { namespace: other, key: b } } }",
        "spec.rateLimit.local.rules",
    ),
    (
        "BackendTrafficPolicy spec.rateLimit.local.rules.limit.fromMetadata.key",
        "rateLimit: { type: Local, local: { rules: [{ limit: { requests: 1, unit: Second¦ } }] } }",
        ", fromMetadata: { namespace: a, key: b }",
        "spec.rateLimit.local.rules",
    ),
    (
        "BackendTrafficPolicy spec.rateLimit.local.rules.limit.fromMetadata.namespace",
        "rateLimit: { type: Local, local: { rules: [{ limit: { requests: 1, unit: Second¦ } }] } }",
        ", fromMetadata: { namespace: other, key: b }",
        "spec.rateLimit.local.rules",
    ),
    (
        "BackendTrafficPolicy spec.responseOverride.redirect.path.replacePrefixMatch",
        "responseOverride: [{ match: { statusCodes: [{ value: 500 }] }, redirect: { statusCode: 302¦ } }]",
        ", path: { type: ReplacePrefixMatch, replacePrefixMatch: /a }",
        "spec.responseOverride[0].redirect.path",
    ),
    (
        "BackendTrafficPolicy spec.responseOverride.response.header.remove",
        "responseOverride: [{ match: { statusCodes: [{ value: 500 }] }, response: { header: { set: [{ name: a, value: b }]¦ } } }]",
        ", remove: [x-a]",
        "spec.responseOverride[0].response.header",
    ),
    (
        "HTTPRouteFilter spec.directResponse.header.remove",
        "directResponse: { statusCode: 200, header: { set: [{ name: a, value: b }]¦ } }",
        ", remove: [x-a]",
        "spec.directResponse.header",
    ),
];

fn compiled(kind: &str, spec: &str) -> Compilation {
    let target = if kind == "BackendTrafficPolicy" {
        "  targetRefs: [{ group: gateway.networking.k8s.io, kind: HTTPRoute, name: a }]\n"
    } else {
        ""
    };
    let text = format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: {kind}\nmetadata: {{ name: a, namespace: b }}\nspec:\n{target}  {spec}\n"
    );
    compile(&[File { name: "in.yaml".into(), bytes: text.into_bytes().into() }], &Options::default())
}

/// Findings about the form of the object: what an API server would say too.
fn refusals(kind: &str, spec: &str) -> Vec<(String, String)> {
    let found = compiled(kind, spec).diagnostics;
    let found = found.iter().filter(|found| found.code.class != Class::Semantic);
    found.map(|found| (found.field.to_string(), found.message.clone())).collect()
}

fn rows(state: &str) -> Vec<Value> {
    let table: Value = serde_json::from_str(&said(&["--fields", "-o", "json"])).unwrap();
    table["fields"].as_array().unwrap().iter().filter(|row| row["state"] == state).cloned().collect()
}

#[test]
fn the_schema_refuses_every_value_of_fields_that_are_called_refused() {
    let rows = rows("refused by the schema");
    let name = |row: &Value| format!("{} {}", row["kind"].as_str().unwrap(), row["field"].as_str().unwrap());
    let named: BTreeSet<String> = rows.iter().map(name).collect();
    let shown: BTreeSet<String> = REFUSED.iter().map(|(field, ..)| (*field).to_owned()).collect();
    assert_eq!(named, shown, "each row of the table has its proof here");
    for (field, spec, written, at) in REFUSED {
        let kind = field.split(' ').next().unwrap();
        assert_eq!(refusals(kind, &spec.replace('¦', "")), [], "{field}: the object is sound without it");
        let found = refusals(kind, &spec.replace('¦', written));
        let row = rows.iter().find(|row| name(row) == *field).unwrap();
        let reason = row["reason"].as_str().unwrap();
        let (_, rule) = reason.split_once(": ").unwrap();
        let refusal = found.iter().find(|(place, message)| place == at && message.ends_with(rule));
        assert!(refusal.is_some(), "{field}: {found:?} at {at}, and the table says {reason}");
    }
}

/// The published description of a field, by the names that lead to it.
fn description(kind: &str, field: &str) -> String {
    let module = crds::module(crds::ENVOY_GATEWAY.module, crds::ENVOY_GATEWAY.version).unwrap();
    let plural =
        if kind == "EnvoyProxy" { "envoyproxies".into() } else { format!("{}s", kind.to_lowercase()) };
    let folder = module.dir.join("charts/gateway-helm/charts/crds/crds/generated");
    let text = std::fs::read_to_string(folder.join(format!("gateway.envoyproxy.io_{plural}.yaml"))).unwrap();
    let crd: Value = yaml_serde::from_str(&text).unwrap();
    let mut at = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for name in field.split('.') {
        at = &at["properties"][name];
    }
    at["description"].as_str().unwrap().to_owned()
}

/// The API says of fingerprints that they are those of clients, wherever the field stands; to say it of a backend costs
/// nobody anything.
#[test]
fn fields_that_are_called_unused_speak_of_clients_by_their_own_description() {
    let rows = rows("not used by definition");
    assert_eq!(rows.len(), 2, "{rows:?}");
    for row in rows {
        let (kind, field) = (row["kind"].as_str().unwrap(), row["field"].as_str().unwrap());
        let text = description(kind, field);
        assert!(
            text.contains("TLS client fingerprinting") && text.contains("the client’s TLS handshake"),
            "{text}"
        );
    }
    let backend = "endpoints: [{ fqdn: { hostname: a.example.com, port: 443 } }]\n  \
                   tls: { wellKnownCACertificates: System, fingerprints: [JA3] }";
    let found = compiled("Backend", backend);
    let said: Vec<_> =
        found.diagnostics.iter().map(|found| (found.code.id, found.field.to_string())).collect();
    assert_eq!(said, [("MG4104", "spec.tls.fingerprints".to_owned())]);
}
