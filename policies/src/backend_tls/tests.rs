use super::*;
use crate::{Outcome, find};
use moorgate_model::{Entry, Mapping, Node, Object, Origin, Position, Span, Value};
use serde_json::{Value as Json, json};

pub(crate) fn node(json: &Json) -> Node {
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Int(number.as_i64().unwrap()),
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(items) => Value::Sequence(items.iter().map(node).collect()),
        Json::Object(fields) => {
            let mut mapping = Mapping::default();
            for (key, value) in fields {
                let entry = Entry { key: key.as_str().into(), key_span: Span::default(), value: node(value) };
                mapping.insert(entry).unwrap();
            }
            Value::Mapping(mapping)
        }
    };
    Node::new(value, Span::default())
}

fn object(spec: &Json) -> Object {
    Object {
        reference: ObjectRef::new(BackendTls::GROUP, BackendTls::KIND, "shop", "cart"),
        version: "v1".into(),
        origin: Origin { file: "a.yaml".into(), start: Position::default(), rendered_from: None },
        root: node(&json!({"spec": spec})),
    }
}

fn policy(validation: &Json) -> Object {
    object(
        &json!({"targetRefs": [{"group": "", "kind": "Service", "name": "cart"}], "validation": validation}),
    )
}

/// `good` is usable, `bad` is not, everything else is missing.
fn compile(object: &Object) -> Outcome {
    let trust_bundle = |reference: &ObjectRef| match (&*reference.namespace, &*reference.name) {
        ("shop", "good" | "good-too") | ("", "roots") => TrustBundle::Usable,
        ("shop", "bad") => TrustBundle::Unusable("it is empty".into()),
        _ => TrustBundle::Missing,
    };
    find(&object.reference).unwrap().compile(object, &Context { trust_bundle: &trust_bundle })
}

fn config_map(name: &str) -> Json {
    json!({"group": "", "kind": "ConfigMap", "name": name})
}

/// Codes, then the reasons of `Accepted` and `ResolvedRefs`.
fn summary(outcome: &Outcome) -> (Vec<&'static str>, &'static str, &'static str) {
    let codes = outcome.diagnostics.iter().map(|finding| finding.code.id).collect();
    (codes, outcome.verdict.accepted.reason, outcome.verdict.resolved_refs.reason)
}

#[test]
fn a_config_map_becomes_a_trust_bundle() {
    let outcome = compile(&policy(&json!({
        "hostname": "cart.internal",
        "caCertificateRefs": [config_map("good")],
        "subjectAltNames": [
            {"type": "Hostname", "hostname": "a.internal"},
            {"type": "URI", "uri": "spiffe://a/b"},
        ],
    })));
    assert_eq!(summary(&outcome), (vec![], "Accepted", "ResolvedRefs"));
    let tls = outcome.effects.upstream_tls.unwrap();
    assert_eq!(
        tls,
        UpstreamTls {
            hostname: "cart.internal".into(),
            ca_bundles: vec!["ConfigMap/shop/good".into()],
            system_roots: false,
            dns_names: vec!["a.internal".into()],
            uris: vec!["spiffe://a/b".into()],
            refuse: false,
            ..UpstreamTls::refused()
        }
    );
}

#[test]
fn the_roots_of_the_system_need_no_bundle() {
    let outcome = compile(&policy(&json!({"hostname": "a.example", "wellKnownCACertificates": "System"})));
    assert_eq!(summary(&outcome), (vec![], "Accepted", "ResolvedRefs"));
    let tls = outcome.effects.upstream_tls.unwrap();
    assert!(tls.system_roots && tls.ca_bundles.is_empty() && !tls.refuse);
}

#[test]
fn what_is_wrong_closes_the_target() {
    let with_refs = |refs: Json| json!({"hostname": "a", "caCertificateRefs": refs});
    let secret = json!({"group": "", "kind": "Secret", "name": "good"});
    let invalid = || (vec!["MG4002"], "Invalid", "ResolvedRefs");
    let cases = [
        (with_refs(json!([config_map("gone")])), (vec!["MG4003"], NO_VALID_CA, INVALID_CA_REF)),
        (with_refs(json!([config_map("bad")])), (vec!["MG4004"], NO_VALID_CA, INVALID_CA_REF)),
        (with_refs(json!([secret])), (vec!["MG4005"], NO_VALID_CA, INVALID_KIND)),
        (json!({"hostname": "a"}), invalid()),
        (json!({"hostname": "", "wellKnownCACertificates": "System"}), invalid()),
        (json!({"hostname": "a", "wellKnownCACertificates": "Mine"}), invalid()),
        (
            json!({"hostname": "a", "wellKnownCACertificates": "System", "caCertificateRefs": [config_map("good")]}),
            invalid(),
        ),
        (
            json!({"hostname": "a", "wellKnownCACertificates": "System",
                "subjectAltNames": [{"type": "Hostname", "uri": "spiffe://a"}]}),
            invalid(),
        ),
        (
            json!({"hostname": "a", "wellKnownCACertificates": "System",
                "subjectAltNames": [{"type": "Email", "hostname": "a"}]}),
            invalid(),
        ),
        (json!({"hostname": 7}), invalid()),
    ];
    for (validation, expected) in cases {
        let outcome = compile(&policy(&validation));
        assert_eq!(summary(&outcome), expected, "{validation}");
        assert!(outcome.effects.upstream_tls.is_some_and(|tls| tls.refuse), "{validation}");
        assert!(!outcome.verdict.accepted.status, "{validation}");
    }
    let outcome = compile(&object(&Json::Null));
    assert!(outcome.effects.upstream_tls.is_some_and(|tls| tls.refuse));
}

#[test]
fn a_broken_reference_beside_a_good_one_is_only_reported() {
    let refs = json!({"hostname": "a", "caCertificateRefs": [config_map("gone"), config_map("good")]});
    let outcome = compile(&policy(&refs));
    assert_eq!(summary(&outcome), (vec!["MG4003"], "Accepted", INVALID_CA_REF));
    let tls = outcome.effects.upstream_tls.unwrap();
    assert_eq!((tls.ca_bundles, tls.refuse), (vec!["ConfigMap/shop/good".to_owned()], false));
}

#[test]
fn several_bundles_are_trusted_together() {
    let bundle = json!({"group": "certificates.k8s.io", "kind": "ClusterTrustBundle", "name": "roots"});
    let refs =
        json!({"hostname": "a", "caCertificateRefs": [config_map("good-too"), bundle, config_map("good")]});
    let outcome = compile(&policy(&refs));
    assert_eq!(summary(&outcome), (vec![], "Accepted", "ResolvedRefs"));
    let bundles = outcome.effects.upstream_tls.unwrap().ca_bundles;
    assert_eq!(bundles, ["ConfigMap/shop/good-too", "ClusterTrustBundle//roots", "ConfigMap/shop/good"]);
}

#[test]
fn findings_name_their_field() {
    let refs = json!({"hostname": "a", "caCertificateRefs": [config_map("good"), config_map("gone")]});
    let outcome = compile(&policy(&refs));
    assert_eq!(outcome.diagnostics[0].field.to_string(), "spec.validation.caCertificateRefs[1].name");
}

#[test]
fn unknown_options_are_said_to_have_no_effect() {
    let mut spec = json!({
        "validation": {"hostname": "a", "wellKnownCACertificates": "System"},
        "options": {"example.com/min-tls": "1.3"},
    });
    spec["targetRefs"] = json!([]);
    let outcome = compile(&object(&spec));
    assert_eq!(summary(&outcome), (vec!["MG4008"], "Accepted", "ResolvedRefs"));
    assert!(outcome.effects.upstream_tls.is_some_and(|tls| !tls.refuse));
}

#[test]
fn services_and_their_ports_are_targets() {
    let spec = json!({"targetRefs": [
        {"group": "", "kind": "Service", "name": "cart", "sectionName": "https"},
        {"group": "", "kind": "ConfigMap", "name": "cart"},
        {"group": "", "kind": "Service", "name": "shop"},
    ]});
    let object = object(&spec);
    let (targets, findings) = find(&object.reference).unwrap().targets(&object);
    let targets: Vec<_> = targets
        .iter()
        .map(|target| (target.object.to_string(), target.section.as_deref(), target.field.to_string()))
        .collect();
    assert_eq!(
        targets,
        [
            ("Service shop/cart".to_owned(), Some("https"), "spec.targetRefs[0]".to_owned()),
            ("Service shop/shop".to_owned(), None, "spec.targetRefs[2]".to_owned()),
        ]
    );
    assert_eq!(findings.len(), 1);
    assert_eq!(
        (findings[0].code.id, findings[0].field.to_string()),
        ("MG4009", "spec.targetRefs[1].kind".into())
    );
}
