//! How many pods a fleet has, and how many may be away at a time: where an EnvoyProxy asks for it.

use super::Fleet;
use super::metadata::Metadata;
use super::workload;
use serde_json::{Map, Value, json};

/// The HorizontalPodAutoscaler of a Deployment.
pub(super) fn autoscaler(fleet: &Fleet, metadata: &Metadata) -> Option<Value> {
    let mut spec = fleet.shape.autoscaler.clone().filter(|_| !fleet.shape.daemon_set)?;
    spec.insert(
        "scaleTargetRef".into(),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": workload::name(fleet, metadata)}),
    );
    let own = metadata.named(fleet.shape.names.autoscaler.as_deref().unwrap_or(&metadata.name));
    Some(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": own, "spec": spec,
    }))
}

/// The PodDisruptionBudget.
pub(super) fn disruption_budget(fleet: &Fleet, metadata: &Metadata) -> Option<Value> {
    let mut budget = budget(metadata, fleet.shape.disruption_budget.clone()?);
    budget["metadata"] =
        metadata.named(fleet.shape.names.disruption_budget.as_deref().unwrap_or(&metadata.name));
    Some(budget)
}

/// A PodDisruptionBudget of this `spec`, but for its selector.
pub(super) fn budget(metadata: &Metadata, mut spec: Map<String, Value>) -> Value {
    spec.insert("selector".into(), json!({"matchLabels": metadata.selector()}));
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata.of_fleet(), "spec": spec,
    })
}
