//! What Kubernetes' types say of a manifest: a field that they do not have would be lost, or refused by the API server.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Fields whose values, and those of whose fields, are quantities: numbers are taken for them, too.
const QUANTITIES: [&str; 5] = ["averageValue", "divisor", "limits", "requests", "sizeLimit"];

/// What of a manifest that a patch made is none of its kind's.
pub(super) fn unknown(manifest: &Value) -> Option<String> {
    let manifest = with_quantities(manifest, false);
    match manifest["kind"].as_str()? {
        "Deployment" => read::<Deployment>(&manifest),
        "DaemonSet" => read::<DaemonSet>(&manifest),
        "Service" => read::<Service>(&manifest),
        "HorizontalPodAutoscaler" => read::<HorizontalPodAutoscaler>(&manifest),
        "PodDisruptionBudget" => read::<PodDisruptionBudget>(&manifest),
        _ => None,
    }
}

fn read<T: Serialize + DeserializeOwned>(manifest: &Value) -> Option<String> {
    let read: T = match serde_json::from_value(manifest.clone()) {
        Ok(read) => read,
        Err(error) => return Some(format!("Kubernetes does not take it: {error}")),
    };
    let back = serde_json::to_value(read).ok()?;
    lost(manifest, &back, "").map(|at| format!("Kubernetes has no field {at}"))
}

/// A field that did not come back.
fn lost(sent: &Value, back: &Value, at: &str) -> Option<String> {
    match (sent, back) {
        (Value::Object(sent), _) => sent.iter().find_map(|(field, value)| {
            let at = if at.is_empty() { field.clone() } else { format!("{at}.{field}") };
            match back.get(field) {
                Some(back) => lost(value, back, &at),
                // An empty value may stand for none.
                None if is_empty(value) => None,
                None => Some(at),
            }
        }),
        (Value::Array(sent), Value::Array(back)) => sent
            .iter()
            .zip(back)
            .enumerate()
            .find_map(|(index, (sent, back))| lost(sent, back, &format!("{at}[{index}]"))),
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn with_quantities(value: &Value, inside: bool) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(field, value)| {
                let quantity = QUANTITIES.contains(&field.as_str());
                (field.clone(), with_quantities(value, quantity))
            })
            .map(|(field, value)| if inside { (field, text(value)) } else { (field, value) })
            .collect(),
        Value::Array(items) => items.iter().map(|item| with_quantities(item, false)).collect(),
        other if inside => text(other.clone()),
        other => other.clone(),
    }
}

fn text(value: Value) -> Value {
    if value.is_number() { value.to_string().into() } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_that_a_kind_lacks_are_named() {
        let of = |spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": spec});
        assert_eq!(unknown(&of(json!({"type": "ClusterIP", "ports": [{"port": 80}]}))), None);
        let found = unknown(&of(json!({"ports": [{"port": 80, "node": 1}]}))).unwrap();
        assert!(found.contains("spec.ports[0].node"), "{found}");
        let found = unknown(&of(json!({"ports": "80"}))).unwrap();
        assert!(found.contains("does not take it"), "{found}");
        let limits = json!({"cpu": 2, "memory": "1Gi"});
        let pod = json!({"containers": [{"name": "envoy", "resources": {"limits": limits}}]});
        let template = json!({"metadata": {}, "spec": pod});
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {}, "spec": {"selector": {}, "template": template}});
        assert_eq!(unknown(&deployment), None, "a number is a quantity");
    }
}
