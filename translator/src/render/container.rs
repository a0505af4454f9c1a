//! The two containers of a pod: the relay, and Envoy.

use super::config::{BOOTSTRAP, STORE_CA, TRUST};
use super::port::{self, Port};
use super::{Applier, Fleet, ReportSecret, Settings};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Where the relay listens for Envoy. The fleet's name is not in it: a socket's path may have 107 bytes, and a pod has
/// one fleet.
pub(super) const RELAY_SOCKET: &str = "/run/moorgate/relay.sock";
/// Envoy's admin interface, for the relay alone.
pub(super) const ENVOY_ADMIN: &str = "/run/moorgate/envoy-admin.sock";
/// The relay's own, for people who enter the pod.
const RELAY_ADMIN: &str = "/run/moorgate/relay-admin.sock";
/// The folder of the sockets.
const SOCKETS: &str = "/run/moorgate";
/// The folder of the ConfigMap's files.
const CONFIG: &str = "/etc/moorgate";
/// The folder of the key that signs reports.
const REPORT: &str = "/etc/moorgate-report";
/// The folder that survives a restart of the relay.
const CACHE: &str = "/var/cache/moorgate";
/// Where Kubernetes' clients look for their token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The folder of the token for a store that `watch --serve-store` serves.
const STORE_TOKEN: &str = "/var/run/secrets/moorgate-store";
/// The relay's health port, unless a listener has it.
const HEALTH: u16 = 19001;
/// Time for load balancers to stop sending, before Envoy stops.
const LEAVE_SECONDS: u32 = 5;

/// Names of the pod's volumes.
pub(super) mod volume {
    pub(in crate::render) const SOCKETS: &str = "sockets";
    pub(in crate::render) const CONFIG: &str = "config";
    pub(in crate::render) const CACHE: &str = "cache";
    pub(in crate::render) const TOKEN: &str = "token";
    pub(in crate::render) const REPORT: &str = "report-key";
    pub(in crate::render) const STORE: &str = "store";
    pub(in crate::render) const STORE_TOKEN: &str = "store-token";
}

/// The port of `/livez`, `/readyz` and `/metrics`: the same for all fleets, but for one that listens there itself.
pub(super) fn health_port(ports: &BTreeSet<Port>) -> u16 {
    port::free(ports, HEALTH)
}

/// The relay: a sidecar in Kubernetes' sense, so that it starts before Envoy and ends after it. Envoy is started when the
/// relay answers, which is when its socket is there; the pod is ready when Envoy took the snapshot.
pub(super) fn relay(fleet: &Fleet, settings: &Settings, store_paths: &[&str]) -> Value {
    let health = health_port(&fleet.ports);
    let probe = |path: &str, period: u32, failures: u32| {
        json!({
            "httpGet": {"path": path, "port": health}, "periodSeconds": period, "timeoutSeconds": 5,
            "failureThreshold": failures,
        })
    };
    let mut args: Vec<String> = settings.stores.iter().map(|url| format!("--store={url}")).collect();
    args.extend([
        format!("--fleet={}", fleet.name),
        format!("--channel={}", settings.channel),
        format!("--trust={CONFIG}/{TRUST}"),
        format!("--listen=unix:{RELAY_SOCKET}"),
        format!("--cache={CACHE}"),
        format!("--health=0.0.0.0:{health}"),
        format!("--admin=unix:{RELAY_ADMIN}"),
        format!("--envoy-admin=unix:{ENVOY_ADMIN}"),
        "--ready-acked".to_owned(),
        "--kubernetes".to_owned(),
    ]);
    if settings.store_tokens {
        // Such a store lies in the cluster, and nobody pays for requests.
        args.push("--poll-interval=1s".to_owned());
    } else if settings.applier == Applier::Watch {
        // Who writes to a live cluster waits for it to be programmed, on a store that cannot tell of changes too.
        args.push("--poll-interval=2s".to_owned());
    }
    let mut mounts = vec![
        json!({"name": volume::SOCKETS, "mountPath": SOCKETS}),
        json!({"name": volume::CACHE, "mountPath": CACHE}),
        json!({"name": volume::CONFIG, "mountPath": CONFIG, "readOnly": true}),
        json!({"name": volume::TOKEN, "mountPath": TOKEN, "readOnly": true}),
    ];
    if settings.report_secret.is_some() {
        args.push(format!("--report-key=file:{REPORT}/{REPORT_KEY}"));
        mounts.push(json!({"name": volume::REPORT, "mountPath": REPORT, "readOnly": true}));
    }
    if settings.store_tokens {
        args.push(format!("--store-token-file={STORE_TOKEN}/token"));
        mounts.push(json!({"name": volume::STORE_TOKEN, "mountPath": STORE_TOKEN, "readOnly": true}));
    }
    args.extend(settings.store_ca.as_ref().map(|_| format!("--store-ca-file={CONFIG}/{STORE_CA}")));
    for (number, path) in store_paths.iter().enumerate() {
        mounts.push(json!({"name": format!("{}-{number}", volume::STORE), "mountPath": path}));
    }
    let mut container = json!({
        "name": "relay",
        "image": settings.relay_image,
        "args": args,
        "env": [pod_name()],
        "ports": [{"name": "health", "containerPort": health, "protocol": "TCP"}],
        "restartPolicy": "Always",
        "startupProbe": probe("/livez", 1, 60),
        "livenessProbe": probe("/livez", 10, 6),
        "readinessProbe": probe("/readyz", 1, 3),
        "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        "securityContext": security(),
        "volumeMounts": mounts,
    });
    if let Some(secret) = &settings.store_secret {
        container["envFrom"] = json!([{"secretRef": {"name": secret}}]);
    }
    container
}

/// The key of the Secret with the key that signs reports.
pub const REPORT_KEY: &str = "report.key";

/// Envoy. What it listens on stands in no manifest of the pod.
pub(super) fn envoy(fleet: &Fleet, settings: &Settings) -> Value {
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
    let concurrency = shape.concurrency.map(|threads| threads.to_string());
    args.extend(concurrency.iter().flat_map(|threads| ["--concurrency", threads]));
    json!({
        "name": "envoy",
        "image": shape.envoy_image.as_ref().unwrap_or(&settings.envoy_image),
        "command": ["/usr/local/bin/envoy"],
        "args": args,
        "env": [pod_name()],
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_SECONDS}}},
        "resources": shape.resources.clone().unwrap_or_else(|| {
            json!({"requests": {"cpu": "100m", "memory": "256Mi"}})
        }),
        "securityContext": security(),
        "volumeMounts": [
            {"name": volume::SOCKETS, "mountPath": SOCKETS},
            {"name": volume::CONFIG, "mountPath": CONFIG, "readOnly": true},
        ],
    })
}

/// The Secret with the key that signs reports.
pub(super) fn report_secret(fleet: &Fleet, settings: &Settings) -> Option<String> {
    settings.report_secret.as_ref().map(|secret| match secret {
        ReportSecret::Named(name) => name.clone(),
        ReportSecret::PerFleet => fleet.report_secret_name(),
    })
}

fn pod_name() -> Value {
    json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
}

/// What the Pod Security level `restricted` asks of a container, and a root that cannot be written.
fn security() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
    })
}
