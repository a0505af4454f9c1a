//! The relay's container, and the volumes that it needs.

use super::config::{STORE_CA, TRUST};
use super::container::{self, CONFIG, SOCKETS, probe, volume};
use super::metadata::Metadata;
use super::{Applier, RenderError, ReportSecret, Settings, StoreVolume, name};
use moorgate_snapshot::store::AUDIENCE;
use serde_json::{Value, json};

/// The relay's own admin socket, for people who enter the pod.
const RELAY_ADMIN: &str = "/run/moorgate/relay-admin.sock";
/// The folder of the key that signs reports.
const REPORT: &str = "/etc/moorgate-report";
/// The key of the Secret with the key that signs reports.
pub const REPORT_KEY: &str = "report.key";
/// The folder that survives a restart of the relay.
const CACHE: &str = "/var/cache/moorgate";
/// What a relay may keep on its node's disk: the last snapshots of a fleet.
const CACHE_SIZE: &str = "1Gi";
/// Where Kubernetes' clients look for their token.
pub(super) const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The lifetime that is asked for tokens; kubelets renew them before.
const TOKEN_SECONDS: u32 = 3607;
/// The folder of the token for a store that `watch --serve-store` serves.
const STORE_TOKEN: &str = "/var/run/secrets/moorgate-store";

/// The Secret with the key that signs the reports of whom these objects are made for.
pub(super) fn report_secret(settings: &Settings, metadata: &Metadata) -> Option<String> {
    settings.report_secret.as_ref().map(|secret| match secret {
        ReportSecret::Named(name) => name.clone(),
        ReportSecret::PerFleet => name::suffixed(&metadata.name, "report"),
    })
}

/// A relay in a pod: what differs between the models.
#[derive(Debug)]
pub(super) struct Relay<'s> {
    /// The port of `/livez`, `/readyz` and `/metrics`.
    pub(super) health: u16,
    /// Its fleets, as arguments.
    pub(super) fleets: Vec<String>,
    /// Where and to whom it answers, as arguments.
    pub(super) doors: Vec<String>,
    /// Further arguments.
    pub(super) more: Vec<String>,
    /// Further mounts.
    pub(super) mounts: Vec<Value>,
    /// The Secret with the key that signs reports.
    pub(super) report_secret: Option<String>,
    /// Where stores on a disk lie.
    pub(super) store_paths: Vec<&'s str>,
}

impl Relay<'_> {
    /// The container. It is alive as soon as it answers, which is when its doors are open.
    pub(super) fn container(self, settings: &Settings) -> Value {
        let probe = |path, period, failures| probe(path, self.health, period, failures);
        let (startup, liveness) = (probe("/livez", 1, 60), probe("/livez", 10, 6));
        let readiness = probe("/readyz", 1, 3);
        let mut args: Vec<String> = settings.stores.iter().map(|url| format!("--store={url}")).collect();
        args.extend(self.fleets);
        args.extend([format!("--channel={}", settings.channel), format!("--trust={CONFIG}/{TRUST}")]);
        args.extend(self.doors);
        args.extend([
            format!("--cache={CACHE}"),
            format!("--health=0.0.0.0:{}", self.health),
            format!("--admin=unix:{RELAY_ADMIN}"),
        ]);
        args.extend(self.more);
        args.push("--kubernetes".to_owned());
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
        if self.report_secret.is_some() {
            args.push(format!("--report-key=file:{REPORT}/{REPORT_KEY}"));
            mounts.push(json!({"name": volume::REPORT, "mountPath": REPORT, "readOnly": true}));
        }
        if settings.store_tokens {
            args.push(format!("--store-token-file={STORE_TOKEN}/token"));
            mounts.push(json!({"name": volume::STORE_TOKEN, "mountPath": STORE_TOKEN, "readOnly": true}));
        }
        args.extend(settings.store_ca.as_ref().map(|_| format!("--store-ca-file={CONFIG}/{STORE_CA}")));
        for (number, path) in self.store_paths.iter().enumerate() {
            mounts.push(json!({"name": format!("{}-{number}", volume::STORE), "mountPath": path}));
        }
        mounts.extend(self.mounts);
        let mut container = json!({
            "name": "relay",
            "image": settings.relay_image,
            "args": args,
            "env": [container::pod_name()],
            "ports": [{"name": "health", "containerPort": self.health, "protocol": "TCP"}],
            "startupProbe": startup,
            "livenessProbe": liveness,
            "readinessProbe": readiness,
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
            "securityContext": container::security(),
            "volumeMounts": mounts,
        });
        if let Some(secret) = &settings.store_secret {
            container["envFrom"] = json!([{"secretRef": {"name": secret}}]);
        }
        container
    }

    /// The volumes of its pod, with the ConfigMap of this name.
    pub(super) fn volumes(&self, settings: &Settings, config_map: &str) -> Vec<Value> {
        let [sockets, config] = container::volumes(config_map);
        let cache = json!({"name": volume::CACHE, "emptyDir": {"sizeLimit": CACHE_SIZE}});
        let mut volumes = vec![sockets, cache, config, token()];
        if let Some(secret) = &self.report_secret {
            let secret = json!({"secretName": secret, "defaultMode": 0o440});
            volumes.push(json!({"name": volume::REPORT, "secret": secret}));
        }
        if settings.store_tokens {
            volumes.push(service_account_token(volume::STORE_TOKEN, AUDIENCE));
        }
        for (number, path) in self.store_paths.iter().enumerate() {
            let name = format!("{}-{number}", volume::STORE);
            volumes.extend(settings.store_volume.as_ref().map(|volume| match volume {
                StoreVolume::HostPath => {
                    json!({"name": name, "hostPath": {"path": path, "type": "Directory"}})
                }
                StoreVolume::Claim(claim) => {
                    json!({"name": name, "persistentVolumeClaim": {"claimName": claim}})
                }
            }));
        }
        volumes
    }
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

/// A volume with a token of the pod's ServiceAccount for this audience, in the file `token`.
pub(super) fn service_account_token(name: &str, audience: &str) -> Value {
    json!({"name": name, "projected": {"sources": [{"serviceAccountToken": {
        "path": "token", "audience": audience, "expirationSeconds": TOKEN_SECONDS,
    }}]}})
}

/// A source of a token of the pod's ServiceAccount for the Kubernetes API, in this file.
pub(super) fn kubernetes_token(path: &str) -> Value {
    json!({"serviceAccountToken": {"path": path, "expirationSeconds": TOKEN_SECONDS}})
}

/// The relay's token for the Kubernetes API, as Kubernetes mounts it by itself where it mounts one.
fn token() -> Value {
    json!({"name": volume::TOKEN, "projected": {"sources": [
        kubernetes_token("token"),
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]}})
}
