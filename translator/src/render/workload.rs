//! The Deployment or DaemonSet of a fleet.

use super::metadata::Metadata;
use super::{Fleet, RenderError, Settings, pod};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The workload. How many replicas a Deployment has is left to whoever scales it, unless an EnvoyProxy says it.
pub(super) fn workload(
    fleet: &Fleet,
    settings: &Settings,
    metadata: &Metadata,
    config: &BTreeMap<&'static str, String>,
) -> Result<Value, RenderError> {
    let shape = &fleet.shape;
    let mut spec = Map::new();
    spec.insert("selector".into(), json!({"matchLabels": metadata.selector()}));
    spec.insert("template".into(), pod::template(fleet, settings, metadata, config)?);
    // A new pod is ready before an old one goes.
    let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    let strategy = shape.strategy.clone().unwrap_or(rolling);
    let kind = if shape.daemon_set {
        spec.insert("updateStrategy".into(), strategy);
        "DaemonSet"
    } else {
        spec.insert("strategy".into(), strategy);
        if let (Some(replicas), None) = (shape.replicas, &shape.autoscaler) {
            spec.insert("replicas".into(), replicas.into());
        }
        "Deployment"
    };
    let own = metadata.named(name(fleet, metadata));
    Ok(json!({"apiVersion": "apps/v1", "kind": kind, "metadata": own, "spec": spec}))
}

/// What it is called.
pub(super) fn name<'f>(fleet: &'f Fleet, metadata: &'f Metadata) -> &'f str {
    fleet.shape.names.workload.as_deref().unwrap_or(&metadata.name)
}
