//! The pods of a fleet: Envoy, with the relay beside it or with a token for a relay elsewhere.

use super::config::{MEMBERS, STORE_CA};
use super::container::{self, ENVOY_ADMIN, RELAY_SOCKET, volume};
use super::metadata::Metadata;
use super::relay::{self, Relay};
use super::{Fleet, Model, RenderError, Settings, drain, name};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// User and group of all containers: a socket of the one is entered by the other.
const USER: u32 = 65532;
/// A digest of what pods read at their start only: they are replaced when it changes.
pub(super) const CONFIG_ANNOTATION: &str = "moorgate.dev/config";
/// The audience of the tokens by which relays know Envoys, unless they are told another.
const RELAY_AUDIENCE: &str = "moorgate-relay";

/// The template of the fleet's pods.
pub(super) fn template(
    fleet: &Fleet,
    settings: &Settings,
    metadata: &Metadata,
    config: &BTreeMap<&'static str, String>,
) -> Result<Value, RenderError> {
    let shape = &fleet.shape;
    let mut annotations = container::scraped(fleet);
    annotations.extend(shape.pod_annotations.clone());
    annotations.extend(metadata.pod_annotations());
    annotations.insert(CONFIG_ANNOTATION.into(), read_at_start(config));
    let mut labels = shape.pod_labels.clone();
    labels.extend(metadata.pod_labels());
    let mut spec = spec(metadata);
    spec.insert("securityContext".into(), container::laid_over(security(), &shape.pod_security));
    let grace = drain::grace(shape.shutdown.as_ref());
    spec.insert("terminationGracePeriodSeconds".into(), grace.into());
    let mut before: Vec<Value> = drain::container(fleet, settings).into_iter().collect();
    let mut volumes;
    match settings.model {
        Model::Sidecar => {
            let relay = beside(fleet, settings, metadata)?;
            volumes = relay.volumes(settings, &metadata.name);
            let mut container = relay.container(settings);
            // A sidecar in Kubernetes' sense: it starts before Envoy and ends after it. Envoy is started when the relay
            // answers, which is when its socket is there; the pod is ready when Envoy took the snapshot.
            container["restartPolicy"] = "Always".into();
            before.push(container);
        }
        Model::Pool(_) | Model::Node(_) => {
            volumes = container::volumes(&metadata.name).to_vec();
            let mut tokens = relay::service_account_token(volume::RELAY_TOKEN, RELAY_AUDIENCE);
            if matches!(settings.model, Model::Node(_))
                && let Some(sources) = tokens["projected"]["sources"].as_array_mut()
            {
                sources.push(relay::kubernetes_token(container::KUBERNETES_TOKEN));
            }
            volumes.push(tokens);
        }
    }
    volumes.extend(shape.shutdown.map(|_| drain::volume()));
    volumes.extend(shape.volumes.iter().cloned());
    spec.insert("volumes".into(), volumes.into());
    // What a relay beside it needs is there before: those of an EnvoyProxy run when it serves.
    before.extend(shape.init_containers.iter().cloned().map(restricted));
    if !before.is_empty() {
        spec.insert("initContainers".into(), before.into());
    }
    spec.insert("containers".into(), json!([container::envoy(fleet, settings)]));
    spec.extend(shape.pod.clone());
    Ok(json!({"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}))
}

/// A digest of the files that are read once: the CA of a store and who is of which fleet are read anew whenever they change.
pub(super) fn read_at_start(config: &BTreeMap<&'static str, String>) -> String {
    let start = config.iter().filter(|(key, _)| ![STORE_CA, MEMBERS].contains(*key));
    let texts: Vec<&str> = start.flat_map(|(key, text)| [*key, text.as_str()]).collect();
    name::digest(&texts)
}

/// What the `spec` of every pod has.
pub(super) fn spec(metadata: &Metadata) -> Map<String, Value> {
    let mut spec = Map::new();
    spec.insert("serviceAccountName".into(), metadata.name.clone().into());
    // Tokens are mounted one by one, each into the container that shows it.
    spec.insert("automountServiceAccountToken".into(), false.into());
    spec.insert("enableServiceLinks".into(), false.into());
    spec.insert("terminationGracePeriodSeconds".into(), drain::grace(None).into());
    spec.insert("securityContext".into(), security());
    spec.insert("topologySpreadConstraints".into(), spread(metadata));
    spec
}

/// The relay in the pod of its only Envoy.
fn beside<'s>(fleet: &Fleet, settings: &'s Settings, metadata: &Metadata) -> Result<Relay<'s>, RenderError> {
    Ok(Relay {
        health: container::health_port(&fleet.ports),
        fleets: vec![format!("--fleet={}", fleet.name)],
        doors: vec![format!("--listen=unix:{RELAY_SOCKET}")],
        more: vec![format!("--envoy-admin=unix:{ENVOY_ADMIN}"), "--ready-acked".to_owned()],
        mounts: Vec::new(),
        report_secret: relay::report_secret(settings, metadata),
        store_paths: relay::store_paths(settings)?,
    })
}

/// A container of an EnvoyProxy. Of what `restricted` asks for it says what it wants otherwise.
fn restricted(mut container: Value) -> Value {
    let own = container["securityContext"].as_object().cloned().unwrap_or_default();
    if container.is_object() {
        container["securityContext"] = container::laid_over(container::security(), &own);
    }
    container
}

/// Listeners of ports below 1024 are bound without a capability: the sysctl is one of those that every Pod Security level
/// allows, and it is always set, so that such a listener replaces no pod.
pub(super) fn security() -> Value {
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
