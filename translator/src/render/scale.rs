//! How many pods a fleet has, and how many may be away at a time: where an EnvoyProxy asks for it.

use super::Fleet;
use super::metadata::Metadata;
use serde_json::{Value, json};

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
    let mut spec = fleet.shape.disruption_budget.clone()?;
    spec.insert("selector".into(), json!({"matchLabels": metadata.selector()}));
    Some(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata.of_fleet(), "spec": spec,
    }))
}
