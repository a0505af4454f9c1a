//! The pod of the model `sidecar`.

use super::config::STORE_CA;
use super::container::{self, volume};
use super::metadata::Metadata;
use super::{Fleet, RenderError, Settings, StoreVolume, name};
use moorgate_snapshot::store::AUDIENCE;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// User and group of both containers: a socket of the one is entered by the other.
const USER: u32 = 65532;
/// A digest of what pods read at their start only: they are replaced when it changes.
const CONFIG_ANNOTATION: &str = "moorgate.dev/config";
/// How long a pod has to end.
const GRACE_SECONDS: u32 = 30;
/// What a relay may keep on its node's disk: the last snapshots.
const CACHE_SIZE: &str = "1Gi";
/// The lifetime that is asked for the relay's tokens; kubelets renew it before.
const TOKEN_SECONDS: u32 = 3607;

/// The template of the fleet's pods.
pub(super) fn template(
    fleet: &Fleet,
    settings: &Settings,
    metadata: &Metadata,
    config: &BTreeMap<&'static str, String>,
) -> Result<Value, RenderError> {
    let shape = &fleet.shape;
    let paths = store_paths(settings)?;
    let mut annotations = shape.pod_annotations.clone();
    annotations.extend(metadata.pod_annotations());
    // The CA of a store is read anew whenever it changes.
    let start = config.iter().filter(|(key, _)| **key != STORE_CA);
    let texts: Vec<&str> = start.flat_map(|(key, text)| [*key, text.as_str()]).collect();
    annotations.insert(CONFIG_ANNOTATION.into(), name::digest(&texts));
    let mut labels = shape.pod_labels.clone();
    labels.extend(metadata.pod_labels());
    let mut spec = Map::new();
    spec.insert("serviceAccountName".into(), metadata.name.clone().into());
    // The token is mounted below, into the relay alone.
    spec.insert("automountServiceAccountToken".into(), false.into());
    spec.insert("enableServiceLinks".into(), false.into());
    spec.insert("terminationGracePeriodSeconds".into(), GRACE_SECONDS.into());
    spec.insert("securityContext".into(), security());
    spec.insert("initContainers".into(), json!([container::relay(fleet, settings, &paths)]));
    spec.insert("containers".into(), json!([container::envoy(fleet, settings)]));
    spec.insert("volumes".into(), volumes(fleet, settings, metadata, &paths).into());
    spec.insert("topologySpreadConstraints".into(), spread(metadata));
    spec.extend(shape.pod.clone());
    Ok(json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}))
}

/// Listeners of ports below 1024 are bound without a capability: the sysctl is one of those that every Pod Security level
/// allows, and it is always set, so that such a listener replaces no pod.
fn security() -> Value {
    json!({
        "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
        "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}],
    })
}

/// Replicas on different nodes where there are several.
fn spread(metadata: &Metadata) -> Value {
    json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": metadata.selector()},
    }])
}

/// The paths of stores on a disk.
pub(super) fn store_paths(settings: &Settings) -> Result<Vec<&str>, RenderError> {
    let mut paths = Vec::new();
    for url in &settings.stores {
        let Some(path) = url.strip_prefix("file://") else { continue };
        if !path.starts_with('/') || path.len() < 2 {
            return Err(RenderError::StorePath(url.clone()));
        }
        if settings.store_volume.is_none() {
            return Err(RenderError::StoreVolume(url.clone()));
        }
        paths.push(path);
    }
    Ok(paths)
}

fn volumes(fleet: &Fleet, settings: &Settings, metadata: &Metadata, store_paths: &[&str]) -> Vec<Value> {
    let mut volumes = vec![
        json!({"name": volume::SOCKETS, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        json!({"name": volume::CACHE, "emptyDir": {"sizeLimit": CACHE_SIZE}}),
        json!({"name": volume::CONFIG, "configMap": {"name": metadata.name}}),
        token(),
    ];
    if let Some(secret) = container::report_secret(fleet, settings) {
        volumes.push(json!({"name": volume::REPORT, "secret": {"secretName": secret, "defaultMode": 0o440}}));
    }
    if settings.store_tokens {
        volumes.push(json!({"name": volume::STORE_TOKEN, "projected": {"sources": [{"serviceAccountToken": {
            "path": "token", "audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS,
        }}]}}));
    }
    for (number, path) in store_paths.iter().enumerate() {
        let name = format!("{}-{number}", volume::STORE);
        volumes.extend(settings.store_volume.as_ref().map(|volume| match volume {
            StoreVolume::HostPath => json!({"name": name, "hostPath": {"path": path, "type": "Directory"}}),
            StoreVolume::Claim(claim) => {
                json!({"name": name, "persistentVolumeClaim": {"claimName": claim}})
            }
        }));
    }
    volumes
}

/// The relay's token for the Kubernetes API, as Kubernetes mounts it by itself where it mounts one.
fn token() -> Value {
    json!({"name": volume::TOKEN, "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}})
}
