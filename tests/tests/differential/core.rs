//! The core kinds that are read. Only the fields that are read are checked, so `check` may take what an API server
//! refuses; what `check` refuses an API server must refuse too, and names, labels and annotations are checked whole.

use super::generate::Maker;
use super::mutate::{Act, attempt};
use super::schema::Kind;
use moorgate_tests::cluster::Channel;
use serde_json::{Value, json};
use std::sync::LazyLock;

const ACTS: [Act; 9] = [
    Act::Type,
    Act::Null,
    Act::Remove,
    Act::Number,
    Act::Text,
    Act::Twice,
    Act::Metadata,
    Act::Metadata,
    Act::Metadata,
];

/// Fields of `metadata` that are checked whole.
const WHOLE: [&str; 4] = ["metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations"];

/// The kinds, from the file that the translator has compiled in.
pub(crate) fn kinds() -> Vec<Kind> {
    let file: Value = serde_json::from_str(include_str!("../../../translator/data/kubernetes.json")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let kinds = file["kinds"].as_array().unwrap().iter();
    kinds
        .map(|kind| {
            let version = &kind["channels"]["standard"][0];
            Kind {
                channel: Channel::Experimental,
                group: text(&kind["group"]),
                version: text(&version["name"]),
                kind: text(&kind["kind"]),
                plural: text(&kind["kind"]).to_lowercase() + "s",
                namespaced: kind["scope"] == "Namespaced",
                schema: version["schema"].clone(),
            }
        })
        .collect()
}

/// A valid object of a kind.
pub(crate) fn object(kind: &Kind) -> Value {
    let mut object = match kind.kind.as_str() {
        "ConfigMap" => json!({ "data": { "a": "b" }, "binaryData": { "c": "YQ==" }, "immutable": false }),
        "Secret" => json!({ "data": { "a": "YQ==" }, "stringData": { "b": "c" }, "type": "Opaque" }),
        "Service" => json!({ "spec": {
            "type": "ClusterIP", "selector": { "app": "a" }, "ipFamilyPolicy": "SingleStack", "ports": [
                { "name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080 },
                { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns" },
            ],
        } }),
        "EndpointSlice" => json!({
            "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": [{ "addresses": ["10.1.2.3"], "conditions": { "ready": true }, "zone": "z" }],
        }),
        "Namespace" => json!({}),
        "ClusterTrustBundle" => json!({ "spec": { "trustBundle": authority() } }),
        other => panic!("teach {other} to this suite"),
    };
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.clone().into();
    object["metadata"] = json!({ "name": "made", "labels": { "app": "a" }, "annotations": { "b": "c" } });
    if kind.namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    object
}

/// A CA certificate: an API server reads what a trust bundle holds.
fn authority() -> &'static str {
    static AUTHORITY: LazyLock<String> = LazyLock::new(|| {
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    });
    &AUTHORITY
}

/// Changes an object in one way; what was done, and whether both sides must agree about it.
pub(crate) fn mutate(maker: &mut Maker, kind: &Kind, object: &mut Value) -> (String, bool) {
    loop {
        let act = *maker.pick(&ACTS);
        if let Some(place) = attempt(maker, kind, object, act) {
            let whole = act == Act::Metadata && WHOLE.contains(&place.as_str());
            return (format!("{act:?} {place}"), whole);
        }
    }
}
