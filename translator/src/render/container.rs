//! Envoy's container, and what both containers have in common.

use super::config::BOOTSTRAP;
use super::port::{self, Port};
use super::{Fleet, Model, Settings, drain};
use crate::xds;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Where the relay listens for Envoy. The fleet's name is not in it: a socket's path may have 107 bytes, and a pod has
/// one fleet.
pub(super) const RELAY_SOCKET: &str = "/run/moorgate/relay.sock";
/// Envoy's admin interface, for the relay alone.
pub(super) const ENVOY_ADMIN: &str = "/run/moorgate/envoy-admin.sock";
/// The folder of the sockets.
pub(super) const SOCKETS: &str = "/run/moorgate";
/// The folder of the ConfigMap's files.
pub(super) const CONFIG: &str = "/etc/moorgate";
/// The folder of the token by which a relay of a pool knows Envoy.
pub(super) const RELAY_TOKEN: &str = "/var/run/secrets/moorgate-relay";
/// The file in there of the token by which a relay of a node reads for a fleet.
pub(super) const KUBERNETES_TOKEN: &str = "kubernetes-token";
/// The health port, unless a listener has it.
pub(super) const HEALTH: u16 = 19001;
/// Time for load balancers to stop sending, before Envoy stops.
pub(super) const LEAVE_SECONDS: u32 = 5;

/// Names of the pod's volumes.
pub(super) mod volume {
    pub(in crate::render) const SOCKETS: &str = "sockets";
    pub(in crate::render) const CONFIG: &str = "config";
    pub(in crate::render) const CACHE: &str = "cache";
    pub(in crate::render) const TOKEN: &str = "token";
    pub(in crate::render) const REPORT: &str = "report-key";
    pub(in crate::render) const STORE: &str = "store";
    pub(in crate::render) const STORE_TOKEN: &str = "store-token";
    pub(in crate::render) const RELAY_TOKEN: &str = "relay-token";
    pub(in crate::render) const TLS: &str = "tls";
    pub(in crate::render) const DRAIN: &str = "drain";
    /// All of them, but for stores on a disk, which have numbers.
    pub(in crate::render) const ALL: [&str; 9] =
        [SOCKETS, CONFIG, CACHE, TOKEN, REPORT, STORE_TOKEN, RELAY_TOKEN, TLS, DRAIN];
}

/// The volumes that every pod has, with the ConfigMap of this name.
pub(super) fn volumes(config_map: &str) -> [Value; 2] {
    [
        json!({"name": volume::SOCKETS, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}),
        json!({"name": volume::CONFIG, "configMap": {"name": config_map}}),
    ]
}

/// The port of a pod's probes: the same for all fleets, but for one that listens there itself. The relay answers there, or
/// Envoy where it is alone.
pub(super) fn health_port(ports: &BTreeSet<Port>) -> u16 {
    port::free(ports, HEALTH)
}

/// The port on which Envoy shows its statistics, if it does: the first behind that of probes that no listener has.
pub(super) fn stats_port(fleet: &Fleet) -> Option<u16> {
    let from = health_port(&fleet.ports).saturating_add(1);
    (!fleet.proxy.startup.unscraped).then(|| port::free(&fleet.ports, from))
}

/// What scrapers look for at a pod: where its statistics are.
pub(super) fn scraped(fleet: &Fleet) -> BTreeMap<String, String> {
    let Some(port) = stats_port(fleet) else { return BTreeMap::new() };
    let port = port.to_string();
    let all = [("scrape", "true"), ("port", &port), ("path", xds::STATS_PATH)];
    all.map(|(name, value)| (format!("prometheus.io/{name}"), value.to_owned())).into()
}

/// Envoy. What its listeners are on stands in no manifest of the pod.
pub(super) fn envoy(fleet: &Fleet, settings: &Settings) -> Value {
    let shape = &fleet.shape;
    let own = pod_name();
    let more = shape.env.iter().filter(|variable| variable["name"] != own["name"]).cloned();
    let env: Vec<Value> = std::iter::once(own.clone()).chain(more).collect();
    let mut container = json!({
        "name": "envoy",
        "image": image(fleet, settings),
        "command": ["/usr/local/bin/envoy"],
        "args": arguments(fleet),
        "env": env,
        "lifecycle": {"preStop": drain::hook(fleet)},
        "resources": shape.resources.clone().unwrap_or_else(|| {
            json!({"requests": {"cpu": "100m", "memory": "256Mi"}})
        }),
        "securityContext": laid_over(security(), &shape.container_security),
        "volumeMounts": [
            {"name": volume::SOCKETS, "mountPath": SOCKETS},
            {"name": volume::CONFIG, "mountPath": CONFIG, "readOnly": true},
        ],
    });
    if let Some(variables) = container["env"].as_array_mut().filter(|_| fleet.in_zone) {
        // Clusters copy it from the node to its pods (KEP-4742); a pod without it is in no zone.
        let field = "metadata.labels['topology.kubernetes.io/zone']";
        variables.push(json!({"name": "ZONE", "valueFrom": {"fieldRef": {"fieldPath": field}}}));
    }
    if let Some(port) = stats_port(fleet) {
        container["ports"] = json!([{"name": "metrics", "containerPort": port, "protocol": "TCP"}]);
    }
    let alone = settings.model != Model::Sidecar;
    if let Some(mounts) = container["volumeMounts"].as_array_mut().filter(|_| alone) {
        mounts.push(json!({"name": volume::RELAY_TOKEN, "mountPath": RELAY_TOKEN, "readOnly": true}));
        container["readinessProbe"] = probe("/ready", health_port(&fleet.ports), 1, 3);
    }
    if let Some(mounts) = container["volumeMounts"].as_array_mut() {
        mounts.extend(shape.shutdown.map(|_| drain::mount()));
        mounts.extend(shape.mounts.iter().cloned());
    }
    container
}

/// Envoy's arguments: Moorgate's own, then those that an EnvoyProxy adds.
fn arguments(fleet: &Fleet) -> Vec<String> {
    let shape = &fleet.shape;
    let bootstrap = format!("{CONFIG}/{BOOTSTRAP}");
    // A pod is replaced, never restarted hot; without that, Envoy needs no shared memory.
    let level = shape.log_levels.get("default").map_or("warning", String::as_str);
    let mut args = vec!["--disable-hot-restart", "--log-level", level, "--config-path", &bootstrap];
    let own = shape.log_levels.iter().filter(|(name, _)| !["default", "system"].contains(&name.as_str()));
    let own: Vec<String> = own.map(|(name, level)| format!("{name}:{level}")).collect();
    let own = own.join(",");
    if !own.is_empty() {
        args.extend(["--component-log-level", &own]);
    }
    args.extend(["--service-node", "$(POD_NAME)"]);
    let zone = fleet.in_zone.then(|| xds::zone("$(ZONE)").to_string());
    args.extend(zone.iter().flat_map(|zone| ["--config-yaml", zone]));
    let concurrency = shape.concurrency.map(|threads| threads.to_string());
    args.extend(concurrency.iter().flat_map(|threads| ["--concurrency", threads]));
    let drain: Vec<String> = shape.shutdown.as_ref().map(drain::arguments).into_iter().flatten().collect();
    args.extend(drain.iter().map(String::as_str));
    args.extend(shape.extra_args.iter().map(String::as_str));
    args.into_iter().map(str::to_owned).collect()
}

/// A security context with what an EnvoyProxy says laid over it: what that does not say keeps a pod restricted.
pub(super) fn laid_over(mut base: Value, own: &Map<String, Value>) -> Value {
    for (field, value) in own.iter().filter(|(_, value)| !value.is_null()) {
        match (&mut base[field], value) {
            (Value::Object(known), Value::Object(more)) => {
                let known = Value::Object(std::mem::take(known));
                base[field] = laid_over(known, more);
            }
            // Of sysctls, those of another name stay.
            (Value::Array(known), Value::Array(more)) if field == "sysctls" => {
                known.retain(|one| more.iter().all(|other| other["name"] != one["name"]));
                known.extend(more.iter().cloned());
            }
            (known, value) => *known = value.clone(),
        }
    }
    base
}

/// Envoy's image: its own, that of the same tag from elsewhere, or the usual one.
fn image(fleet: &Fleet, settings: &Settings) -> String {
    let usual = &settings.envoy_image;
    if let Some(image) = &fleet.shape.envoy_image {
        return image.clone();
    }
    let Some(repository) = &fleet.shape.image_repository else { return usual.clone() };
    // A digest is that of one repository's image; a colon before the last slash is that of a port.
    let tagged = usual.split_once('@').map_or(usual.as_str(), |(tagged, _)| tagged);
    let last = tagged.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, tag)) => format!("{repository}:{tag}"),
        None => repository.clone(),
    }
}

/// A probe of an HTTP path: every `period` seconds, until `failures` in a row failed.
pub(super) fn probe(path: &str, port: u16, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": port}, "periodSeconds": period, "timeoutSeconds": 5,
        "failureThreshold": failures,
    })
}

/// The pod's name as `POD_NAME`.
pub(super) fn pod_name() -> Value {
    json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
}

/// What the Pod Security level `restricted` asks of a container, and a root that cannot be written.
pub(super) fn security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
    })
}
