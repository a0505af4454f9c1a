use super::*;
use crate::{Outcome, TrustBundle, find};
use moorgate_model::{Object, ObjectRef, Origin, Position};
use serde_json::{Value as Json, json};

fn compiled(tracing: &Json) -> Outcome {
    let reference = ObjectRef::new(XTelemetry::GROUP, XTelemetry::KIND, "shop", "spans");
    let root = crate::backend_tls::tests::node(&json!({"spec": {"tracing": tracing}}));
    let origin = Origin { file: "a.yaml".into(), start: Position::default(), rendered_from: None };
    let object = Object { reference: reference.clone(), version: "v1alpha1".into(), origin, root };
    find(&reference).unwrap().compile(&object, &Context { trust_bundle: &|_| TrustBundle::Usable })
}

/// A tracing that is on, with these fields besides.
fn enabled(more: &Json) -> Json {
    let mut tracing = json!({
        "mode": "Enabled", "provider": {"backendRef": {"group": "", "kind": "Service", "name": "otel", "port": 4317}},
    });
    tracing.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    tracing
}

fn tracing_of(more: &Json) -> Tracing {
    let outcome = compiled(&enabled(more));
    assert!(outcome.verdict.accepted.status && outcome.diagnostics.is_empty(), "{more}: {outcome:?}");
    outcome.effects.telemetry.unwrap().tracing
}

#[test]
fn a_provider_is_enough() {
    let outcome = compiled(&enabled(&json!({})));
    let telemetry = outcome.effects.telemetry.unwrap();
    let collector = &telemetry.collector;
    assert_eq!(
        (collector.kind.as_str(), collector.name.as_str(), collector.port),
        ("Service", "otel", Some(4317))
    );
    let tracing = telemetry.tracing;
    assert_eq!((tracing.sampling, tracing.follows_parent), ((100, 100), true));
    assert!(tracing.span_name.is_none() && tracing.service_name.is_empty() && tracing.attributes.is_empty());
}

#[test]
fn other_modes_have_no_spans_and_are_accepted() {
    for mode in [json!({"mode": "Disabled"}), json!({"mode": "ImplementationDefault"}), json!({})] {
        let outcome = compiled(&mode);
        assert!(outcome.verdict.accepted.status && outcome.diagnostics.is_empty(), "{mode}");
        assert_eq!(outcome.effects, Effects::default(), "{mode}");
    }
}

#[test]
fn shares_and_parents() {
    for (more, sampling, follows_parent) in [
        (json!({"samplingRate": {"numerator": 5}}), (5, 100), true),
        (json!({"samplingRate": {"numerator": 0, "denominator": 7}}), (0, 7), true),
        (json!({"parentBasedSampling": {"mode": "Enabled"}}), (100, 100), true),
        (json!({"parentBasedSampling": {"mode": "ImplementationDefault"}}), (100, 100), true),
        (json!({"parentBasedSampling": {"mode": "Disabled"}}), (100, 100), false),
        (
            json!({"parentBasedSampling": {"mode": "Enabled", "samplingRate": {"numerator": 3, "denominator": 3}}}),
            (100, 100),
            true,
        ),
    ] {
        let tracing = tracing_of(&more);
        assert_eq!((tracing.sampling, tracing.follows_parent), (sampling, follows_parent), "{more}");
    }
}

#[test]
fn what_envoy_would_refuse_or_do_otherwise_is_not_accepted() {
    let provider = |headers: Json| json!({"provider": {"backendRef": {"name": "otel", "port": 4317}, "headers": headers}});
    for (more, field) in [
        (json!({"samplingRate": {"numerator": 101}}), "spec.tracing.samplingRate"),
        (
            json!({"parentBasedSampling": {"mode": "Enabled", "samplingRate": {"numerator": 50}}}),
            "spec.tracing.parentBasedSampling.samplingRate",
        ),
        (json!({"provider": null}), "spec.tracing.provider"),
        (provider(json!([{"name": "Host", "value": "a"}])), "spec.tracing.provider.headers[0].name"),
        (provider(json!([{"name": "x", "value": "a\r\nb: c"}])), "spec.tracing.provider.headers[0].value"),
        (provider(json!([{"name": "x", "value": "%PROTOCOL%"}])), "spec.tracing.provider.headers[0].value"),
    ] {
        let outcome = compiled(&enabled(&more));
        let verdict = &outcome.verdict.accepted;
        assert_eq!((verdict.status, verdict.reason), (false, "Invalid"), "{more}");
        assert_eq!(outcome.effects, Effects::default(), "{more}");
        let fields: Vec<String> = outcome.diagnostics.iter().map(|found| found.field.to_string()).collect();
        assert_eq!(fields, [field], "{more}");
    }
}

#[test]
fn of_headers_that_mean_the_same_the_first_is_sent() {
    let headers = json!([{"name": "X-Key", "value": "a"}, {"name": "x-key", "value": "b"}, {"name": "y", "value": "c"}]);
    let tracing =
        tracing_of(&json!({"provider": {"backendRef": {"name": "otel", "port": 4317}, "headers": headers}}));
    assert_eq!(tracing.headers, [("x-key".into(), "a".into()), ("y".into(), "c".into())]);
}

#[test]
fn attributes_by_their_source() {
    let attribute =
        |source: &str, key: &str, value: &str| json!({"name": "a", "sourceType": source, key: value});
    let format = |text: &str| SpanValue::Format(text.to_owned());
    for (attribute, expected) in [
        (attribute("Literal", "literalValue", "100%"), SpanValue::Literal("100%".into())),
        (
            attribute("Header", "headerName", "X-User"),
            format(
                r#"%COALESCE({"operators":[{"command":"REQ","param":"x-user"},{"command":"RESP","param":"x-user"}]})%"#,
            ),
        ),
        // No name reaches a format string that could end it.
        (attribute("Header", "headerName", "x%y"), SpanValue::Header("x%y".into())),
        (attribute("Attribute", "attributeKey", "http.request.method"), format("%REQ(:METHOD)%")),
        (attribute("Attribute", "attributeKey", "http.request.header.x-a_b"), format("%REQ(x-a_b)%")),
        (attribute("Attribute", "attributeKey", "http.response.header.server"), format("%RESP(server)%")),
    ] {
        let tracing = tracing_of(&json!({"attributes": [attribute]}));
        assert_eq!(tracing.attributes, [SpanAttribute { name: "a".into(), value: expected }], "{attribute}");
    }
}

#[test]
fn an_attribute_that_envoy_does_not_have_is_left_out_and_told() {
    for key in ["gen_ai.tool.name", "http.request.header.", "http.route", "network.protocol.version"] {
        let outcome = compiled(&enabled(&json!({"attributes": [
            {"name": "a", "sourceType": "Attribute", "attributeKey": key},
            {"name": "b", "sourceType": "Literal", "literalValue": "c"},
        ]})));
        assert!(
            outcome.verdict.accepted.status && outcome.verdict.accepted.message.contains(key),
            "{outcome:?}"
        );
        let findings: Vec<_> =
            outcome.diagnostics.iter().map(|found| (found.code.id, found.field.to_string())).collect();
        assert_eq!(findings, [("MG4011", "spec.tracing.attributes[0].attributeKey".to_owned())]);
        let names: Vec<_> =
            outcome.effects.telemetry.unwrap().tracing.attributes.into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["b"]);
    }
}

#[test]
fn conventions_can_be_searched() {
    assert!(CONVENTIONS.is_sorted_by(|a, b| a.0 < b.0));
}
