//! What is accepted, what is refused, and in which words.

use super::{http_route, lines, one};
use crate::validate::{Channel, Options, validate};
use serde_json::{Value as Json, json};

fn standard() -> Options {
    Options::default()
}

fn experimental() -> Options {
    Options { channel: Channel::Experimental, namespace: None }
}

/// The diagnostics of a value that is refused, each with its help.
fn refused(value: &Json) -> Vec<String> {
    let (accepted, diagnostics) = one(value, &standard());
    assert!(accepted.is_none(), "accepted: {value}");
    let help = diagnostics.iter().map(|found| found.help.clone().unwrap_or_default());
    lines(&diagnostics).into_iter().zip(help).map(|(line, help)| format!("{line} | {help}")).collect()
}

#[test]
fn an_unknown_field_is_shown_at_its_name() {
    let mut object = super::object(&http_route(&json!({ "rulez": 7 })));
    let place = |column| {
        let at = |column| moorgate_model::origin::Position { line: 9, column };
        moorgate_model::Span { start: at(column), end: at(column + 5) }
    };
    let moorgate_model::Value::Mapping(root) = &mut object.root.value else { panic!("no object") };
    let moorgate_model::Value::Mapping(spec) = &mut root.get_mut("spec").unwrap().value else {
        panic!("no spec")
    };
    let value = spec.remove("rulez").unwrap().value;
    spec.insert(moorgate_model::Entry { key: "rulez".into(), key_span: place(3), value }).unwrap();
    let (_, diagnostics) = validate(vec![object], &standard());
    let found = diagnostics.iter().next().unwrap();
    assert_eq!((found.field.to_string().as_str(), found.span), ("spec.rulez", place(3)));
    assert_eq!(found.help.as_deref(), Some("did you mean \"rules\"?"));
}

fn as_json(value: &Json) -> Json {
    let (accepted, diagnostics) = one(value, &standard());
    assert_eq!(lines(&diagnostics), Vec::<String>::new());
    serde_json::to_value(accepted.unwrap().root.to_json()).unwrap()
}

#[test]
fn defaults_are_those_of_the_crd() {
    let route = http_route(&json!({
        "parentRefs": [{ "name": "edge" }],
        "rules": [{ "backendRefs": [{ "name": "shop", "port": 80 }] }, { "matches": [{ "headers": [
            { "name": "x", "value": "1" }] }], "filters": null }],
    }));
    assert_eq!(
        as_json(&route)["spec"],
        json!({
            "parentRefs": [{ "name": "edge", "group": "gateway.networking.k8s.io", "kind": "Gateway" }],
            "rules": [
                {
                    "backendRefs": [{ "name": "shop", "port": 80, "group": "", "kind": "Service", "weight": 1 }],
                    "matches": [{ "path": { "type": "PathPrefix", "value": "/" } }],
                },
                {
                    "matches": [{
                        "headers": [{ "name": "x", "value": "1", "type": "Exact" }],
                        "path": { "type": "PathPrefix", "value": "/" },
                    }],
                },
            ],
        })
    );
}

#[test]
fn a_rule_without_anything_gets_its_match() {
    let route = as_json(&http_route(&json!({ "rules": [{}] })));
    assert_eq!(route["spec"]["rules"][0]["matches"][0]["path"]["value"], "/");
    let bare = as_json(&http_route(&json!({})));
    assert_eq!(bare["spec"]["rules"][0]["matches"][0]["path"]["type"], "PathPrefix");
}

#[test]
fn every_fault_of_an_object_is_named_at_its_field() {
    let route = http_route(&json!({
        "hostnames": ["Example.com", "*", "10.0.0.1:80"],
        "rules": [{
            "backenRefs": [],
            "matches": [{ "path": { "type": "exact", "value": 7 } }],
            "backendRefs": [{ "name": "a", "port": 0 }, { "port": 65536, "name": "b", "weight": -1 }, {}],
        }],
    }));
    let found = refused(&route).join("\n");
    for line in [
        "MG2005 spec.hostnames[0]: Invalid value: \"Example.com\": should match",
        "| write it in lower case: example.com",
        "MG2005 spec.hostnames[1]: Invalid value: \"*\"",
        "a wildcard is the whole first label",
        "MG2005 spec.hostnames[2]",
        "MG2002 spec.rules[0].backenRefs: unknown field \"backenRefs\" | did you mean \"backendRefs\"?",
        "MG2006 spec.rules[0].matches[0].path.type: Unsupported value: \"exact\": supported values: \"Exact\"",
        "| did you mean \"Exact\"?",
        "MG2001 spec.rules[0].matches[0].path.value: Invalid value: \"integer\": must be of type string | quote it",
        "MG2007 spec.rules[0].backendRefs[0].port: Invalid value: 0: should be greater than or equal to 1 | allowed are 1 to 65535",
        "MG2007 spec.rules[0].backendRefs[1].port: Invalid value: 65536: should be less than or equal to 65535",
        "MG2007 spec.rules[0].backendRefs[1].weight",
        "MG2004 spec.rules[0].backendRefs[2].name: Required value | add \"name\"",
    ] {
        assert!(found.contains(line), "{line}\nnot in\n{found}");
    }
}

#[test]
fn rules_speak_with_their_own_message_and_text() {
    let route = http_route(&json!({ "rules": [{
        "filters": [{ "type": "RequestRedirect", "requestRedirect": { "scheme": "https" } }],
        "backendRefs": [{ "name": "a", "port": 80 }],
    }] }));
    assert_eq!(
        refused(&route),
        [
            "MG2011 spec.rules[0]: Invalid value: \"object\": RequestRedirect filter must not be used together with backendRefs | the \
          rule is: (has(self.backendRefs) && size(self.backendRefs) > 0) ? (!has(self.filters) || \
          self.filters.all(f, !has(f.requestRedirect))): true"
        ]
    );
}

#[test]
fn international_names_are_explained() {
    let found = refused(&http_route(&json!({ "hostnames": ["ex\u{430}mple.com"] })));
    assert!(
        found[0].contains("(U+0430) is not an ASCII character") && found[0].contains("A-label (xn--"),
        "{found:?}"
    );
}

#[test]
fn experimental_fields_values_and_kinds_need_the_channel() {
    let field = http_route(&json!({ "rules": [{ "sessionPersistence": { "type": "Cookie" } }] }));
    let found = refused(&field);
    assert!(
        found[0].starts_with(
            "MG2003 spec.rules[0].sessionPersistence: field \"sessionPersistence\" is not in the standard channel"
        ),
        "{found:?}"
    );
    assert!(found[0].contains("--crds experimental"));
    let value = http_route(&json!({ "rules": [{ "filters": [{ "type": "ExternalAuth" }] }] }));
    assert!(refused(&value)[0].starts_with("MG2003 spec.rules[0].filters[0].type"));
    let kind = json!({ "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh",
        "metadata": { "name": "m" }, "spec": { "controllerName": "a.b/c" } });
    assert!(refused(&kind)[0].starts_with("MG2022 apiVersion"));
    let (accepted, diagnostics) = one(&kind, &experimental());
    assert!(accepted.is_some(), "{:?}", lines(&diagnostics));
}

#[test]
fn kinds_and_versions() {
    let table: [(&str, &str, &str); 6] = [
        ("gateway.networking.k8s.io/v1", "HTTPRoutes", "MG2020 kind: no kind \"HTTPRoutes\""),
        ("gateway.networking.k8s.io/v1", "Mesh", "MG2020 kind: no kind \"Mesh\""),
        (
            "gateway.networking.k8s.io/v2",
            "HTTPRoute",
            "MG2021 apiVersion: HTTPRoute is not served as gateway.networking.k8s.io/v2: served is v1, v1beta1 | write apiVersion: gateway.networking.k8s.io/v1",
        ),
        ("gateway.networking.k8s.io/v1alpha2", "HTTPRoute", "MG2021"),
        (
            "gateway.networking.k8s.io/v1alpha2",
            "TLSRoute",
            "MG2022 apiVersion: TLSRoute is not served as gateway.networking.k8s.io/v1alpha2 in the standard channel | write apiVersion: gateway.networking.k8s.io/v1, or compile with --crds experimental",
        ),
        ("v2", "Service", "MG2021 apiVersion: Service is not served as v2"),
    ];
    for (api, kind, expected) in table {
        let value = json!({ "apiVersion": api, "kind": kind, "metadata": { "name": "a", "namespace": "b" }, "spec": {} });
        let found = refused(&value);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
}

#[test]
fn beta_versions_become_v1_and_deprecated_ones_are_named() {
    let mut route = http_route(&json!({}));
    route["apiVersion"] = "gateway.networking.k8s.io/v1beta1".into();
    let (accepted, diagnostics) = one(&route, &standard());
    assert!(diagnostics.is_empty());
    assert_eq!(&*accepted.unwrap().version, "v1");
    let grant = json!({ "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": { "name": "a", "namespace": "b" },
        "spec": { "from": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "c" }],
                  "to": [{ "group": "", "kind": "Service" }] } });
    assert_eq!(&*one(&grant, &standard()).0.unwrap().version, "v1");
    let old = json!({ "apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute",
        "metadata": { "name": "a", "namespace": "b" }, "spec": { "rules": [{ "backendRefs": [{ "name": "a", "port": 1 }] }] } });
    let (accepted, diagnostics) = one(&old, &experimental());
    assert_eq!(&*accepted.unwrap().version, "v1");
    assert_eq!(lines(&diagnostics), ["MG2023 apiVersion: TCPRoute v1alpha2 is deprecated"]);
}

#[test]
fn namespaces_are_filled_in_or_missed() {
    let mut route = http_route(&json!({}));
    route["metadata"] = json!({ "name": "shop" });
    assert!(refused(&route)[0].starts_with("MG2031 metadata.namespace: Required value"));
    let options = Options { namespace: Some("team".into()), ..Options::default() };
    let (accepted, diagnostics) = one(&route, &options);
    assert!(diagnostics.is_empty());
    let accepted = accepted.unwrap();
    assert_eq!(&*accepted.reference.namespace, "team");
    assert_eq!(accepted.at("metadata.namespace").and_then(|node| node.as_str()), Some("team"));
    let class = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": { "name": "a", "namespace": "b" }, "spec": { "controllerName": "a.b/c" } });
    assert_eq!(&*one(&class, &standard()).0.unwrap().reference.namespace, "");
    let policy = json!({ "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "BackendTrafficPolicy",
        "metadata": { "name": "a" }, "spec": { "anything": true } });
    assert_eq!(&*one(&policy, &options).0.unwrap().reference.namespace, "team");
}

#[test]
fn metadata_has_its_own_rules() {
    let long = "a".repeat(254);
    let table: [(Json, &str); 12] = [
        (json!({ "name": "Shop", "namespace": "web" }), "MG2030 metadata.name: Invalid value: \"Shop\""),
        (json!({ "name": long, "namespace": "web" }), "MG2030 metadata.name"),
        (json!({ "name": "a_b", "namespace": "web" }), "MG2030 metadata.name"),
        (json!({ "name": "a", "namespace": "web.x" }), "MG2030 metadata.namespace"),
        (json!({ "name": 7, "namespace": "web" }), "MG2001 metadata.name"),
        (json!({ "namespace": "web" }), "MG2004 metadata.name: Required value"),
        (
            json!({ "generateName": "a-", "namespace": "web" }),
            "MG2004 metadata.name: Required value | generateName",
        ),
        (
            json!({ "name": "a", "namespace": "web", "label": {} }),
            "MG2002 metadata.label: unknown field \"label\" | did you mean \"labels\"?",
        ),
        (json!({ "name": "a", "namespace": "web", "labels": { "a": true } }), "MG2001 metadata.labels.a"),
        (
            json!({ "name": "a", "namespace": "web", "labels": { "a/b/c": "x" } }),
            "MG2032 metadata.labels.a/b/c",
        ),
        (json!({ "name": "a", "namespace": "web", "labels": { "a": "x y" } }), "MG2032 metadata.labels.a"),
        (
            json!({ "name": "a", "namespace": "web", "annotations": { "a b": "x" } }),
            "MG2032 metadata.annotations.a b",
        ),
    ];
    for (metadata, expected) in table {
        let mut route = http_route(&json!({}));
        route["metadata"] = metadata;
        let found = refused(&route);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?} is not {expected}");
    }
    let mut exported = http_route(&json!({}));
    exported["metadata"] = json!({ "name": "a", "namespace": "web", "creationTimestamp": null, "labels": null,
        "managedFields": [], "uid": "x", "annotations": { "Example.com/A": "x" } });
    // Values of a status are nobody's business here; its fields are.
    exported["status"] = json!({ "parents": [1] });
    assert_eq!(as_json(&exported)["status"], json!({ "parents": [1] }));
    exported["status"] = json!({ "whatever": [1] });
    assert!(refused(&exported)[0].starts_with("MG2002 status.whatever"));
}

#[test]
fn core_kinds_are_checked_in_what_is_read() {
    let service = |port: Json| {
        json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "a", "namespace": "b" }, "spec": { "ports": [port], "novelty": 1 } })
    };
    let accepted = as_json(&service(json!({ "port": 80, "targetPort": "http", "new": true })));
    assert_eq!(accepted["spec"]["ports"][0]["protocol"], "TCP");
    assert_eq!(accepted["spec"]["type"], "ClusterIP");
    assert!(refused(&service(json!({ "port": "80" })))[0].contains("write it without quotes: 80"));
    assert!(refused(&service(json!({ "port": 70000 })))[0].starts_with("MG2007 spec.ports[0].port"));
    let twice = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "a", "namespace": "b" },
        "spec": { "ports": [{ "port": 80, "name": "x" }, { "port": 80, "name": "y", "protocol": "TCP" }] } });
    assert_eq!(
        refused(&twice)[0],
        "MG2010 spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}: the same as item [0] | remove one \
         of the two, or merge them"
    );
}

#[test]
fn secrets_are_never_repeated() {
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "a", "namespace": "b" },
        "type": "Opaque", "data": { "password": 4711, "token": ["hunter2"] }, "stringData": "swordfish" });
    let found = refused(&secret).join("\n");
    assert!(found.contains("MG2001 data.password") && found.contains("MG2001 stringData"));
    for value in ["4711", "hunter2", "swordfish"] {
        assert!(!found.contains(value), "{found}");
    }
}

#[test]
fn other_kinds_pass_and_near_groups_are_doubted() {
    let other =
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "A_B" }, "spec": 7 });
    let (accepted, diagnostics) = one(&other, &standard());
    assert!(accepted.is_some() && diagnostics.is_empty());
    let mut near = http_route(&json!({ "rules": 7 }));
    near["apiVersion"] = "gateway.networking.k8.io/v1".into();
    let (accepted, diagnostics) = one(&near, &standard());
    assert!(accepted.is_some());
    assert!(lines(&diagnostics)[0].starts_with("MG2024 apiVersion"), "{:?}", lines(&diagnostics));
}

#[test]
fn one_objects_error_never_hides_another() {
    let bad = super::object(&http_route(&json!({ "rules": 7 })));
    let good = super::object(&http_route(&json!({})));
    let (accepted, diagnostics) = validate(vec![bad.clone(), good, bad], &standard());
    assert_eq!((accepted.len(), diagnostics.len()), (1, 2));
}

#[test]
fn addresses_need_the_form_of_their_type() {
    let gateway = |address: Json| {
        json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": "a", "namespace": "b" }, "spec": { "gatewayClassName": "c", "addresses": [address],
        "listeners": [{ "name": "l", "port": 80, "protocol": "HTTP" }] } })
    };
    as_json(&gateway(json!({ "value": "10.0.0.1" })));
    as_json(&gateway(json!({ "type": "Hostname", "value": "example.com" })));
    let found = refused(&gateway(json!({ "value": "1.1.1" })));
    assert!(
        found[0].starts_with("MG2013 spec.addresses[0]") && found[0].contains("(oneOf), found none valid"),
        "{found:?}"
    );
}

#[test]
fn gateways_go_through_the_library() {
    let listeners = json!([
        { "name": "a", "port": 80, "protocol": "HTTP", "tls": {} },
        { "name": "a", "port": 80, "protocol": "HTTP" },
    ]);
    let gateway = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": "a", "namespace": "b" }, "spec": { "gatewayClassName": "c", "listeners": listeners } });
    let found = refused(&gateway).join("\n");
    assert!(found.contains("MG2010 spec.listeners[1]: Duplicate value: {\"name\":\"a\"}"), "{found}");
    let unique = json!([
        { "name": "a", "port": 80, "protocol": "HTTP", "tls": { "certificateRefs": [{ "name": "c" }] } },
        { "name": "b", "port": 80, "protocol": "HTTP" },
    ]);
    let mut gateway = gateway.clone();
    gateway["spec"]["listeners"] = unique;
    let found = refused(&gateway).join("\n");
    assert!(found.contains("tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']"), "{found}");
    assert!(found.contains("Combination of port, protocol and hostname must be unique"), "{found}");
}
