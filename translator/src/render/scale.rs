//! How many pods a fleet has, and how many may be away at a time: where an EnvoyProxy asks for it.

use super::Fleet;
use super::metadata::Metadata;
use serde_json::{Map, Value, json};

/// The HorizontalPodAutoscaler of a Deployment.
pub(super) fn autoscaler(fleet: &Fleet, metadata: &Metadata) -> Option<Value> {
    let mut spec = fleet.shape.autoscaler.clone().filter(|_| !fleet.shape.daemon_set)?;
    spec.insert(
        "scaleTargetRef".into(),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata.name}),
    );
    Some(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata.of_fleet(),
        "spec": spec,
    }))
}

/// The PodDisruptionBudget.
pub(super) fn disruption_budget(fleet: &Fleet, metadata: &Metadata) -> Option<Value> {
    fleet.shape.disruption_budget.clone().map(|spec| budget(metadata, spec))
}

/// A PodDisruptionBudget of this `spec`, but for its selector.
pub(super) fn budget(metadata: &Metadata, mut spec: Map<String, Value>) -> Value {
    spec.insert("selector".into(), json!({"matchLabels": metadata.selector()}));
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata.of_fleet(), "spec": spec,
    })
}
