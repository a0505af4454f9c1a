//! The relays of a GatewayClass, for Envoys in pods of their own (DESIGN §7).
//!
//! ```text
//! Envoy of shop/edge ──┐ TLS, and the token of its ServiceAccount
//! Envoy of shop/other ─┼──▶ Service ──▶ relays: every fleet of the class, one set of bindings, one cache
//! Envoy of pay/edge ───┘
//! ```
//! A token opens the fleet of the pod that it is bound to, and no other. Certificates and endpoints are read by the relays
//! alone: an Envoy's own ServiceAccount may read nothing.

use super::access;
use super::config;
use super::container::{self, volume};
use super::metadata::Metadata;
use super::network;
use super::pod;
use super::relay::{self, Relay};
use super::scale;
use super::{Fleet, Needs, Relays, RenderError, Settings, name};
use serde_json::{Map, Value, json};

/// The port on which the relays answer Envoys.
const PORT: u16 = 18000;
/// The folder of the relays' certificate.
const TLS: &str = "/etc/moorgate-tls";

/// What the relays of a class are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Their namespace.
    pub namespace: String,
    /// A Secret in it of type `kubernetes.io/tls`: the certificate for the names of the Service. It is read again whenever it
    /// changes.
    pub tls_secret: String,
    /// The CA of that certificate, PEM.
    pub ca: String,
    /// The issuer of ServiceAccount tokens: the API server's `--service-account-issuer`.
    pub token_issuer: String,
    /// How many there are.
    pub replicas: u32,
}

impl Pool {
    /// Where Envoys of a class reach its relays: the certificate names this host.
    pub(super) fn address(&self, class: &str) -> String {
        address(&name::pool(class), &self.namespace)
    }
}

/// Where Envoys reach relays behind a Service.
pub(super) fn address(service: &str, namespace: &str) -> String {
    format!("{service}.{namespace}.svc:{PORT}")
}

/// The ServiceAccount of a fleet's Envoys, as relays know it.
pub(super) fn account(fleet: &Fleet) -> String {
    format!("system:serviceaccount:{}:{}", fleet.infrastructure.namespace, fleet.object_name())
}

/// Where relays answer Envoys that they know by their tokens, as arguments.
pub(super) fn doors(issuer: &str) -> [String; 5] {
    [
        format!("--listen=tcp:0.0.0.0:{PORT}"),
        format!("--tls-cert={TLS}/tls.crt"),
        format!("--tls-key={TLS}/tls.key"),
        "--token-keys=kubernetes".to_owned(),
        format!("--token-issuer={issuer}"),
    ]
}

/// The volume of the relays' certificate.
pub(super) fn tls_volume(secret: &str) -> Value {
    json!({"name": volume::TLS, "secret": {"secretName": secret, "defaultMode": 0o440}})
}

/// Where a relay finds it.
pub(super) fn tls_mount() -> Value {
    json!({"name": volume::TLS, "mountPath": TLS, "readOnly": true})
}

/// Names the port for Envoys in a relay's container.
pub(super) fn open_door(container: &mut Value) {
    let port = json!({"name": "xds", "containerPort": PORT, "protocol": "TCP"});
    container["ports"].as_array_mut().into_iter().for_each(|ports| ports.push(port.clone()));
}

/// All manifests of the relays of a class, each before those that need it, for all its fleets: those of
/// [`manifests`](super::manifests) refer to them.
pub fn manifests(
    class: &str,
    fleets: &[Fleet],
    settings: &Settings,
    pool: &Pool,
) -> Result<Vec<Value>, RenderError> {
    let metadata = Relays::OfClass(class, pool).metadata(settings);
    let config = config::of_relay(settings);
    let needs = Needs::of_all(fleets.iter().map(|fleet| &fleet.needs));
    let mut out = vec![access::service_account(&metadata)];
    out.extend(access::roles(&needs, &metadata));
    out.extend([
        config::config_map(&metadata, &config),
        network_policy(fleets, settings, &metadata),
        service(&metadata),
        scale::budget(&metadata, Map::from_iter([("maxUnavailable".to_owned(), 1.into())])),
    ]);
    let mut template = json!({
        "metadata": {"labels": metadata.pod_labels(), "annotations": metadata.pod_annotations()},
        "spec": spec(fleets, settings, pool, &metadata)?,
    });
    template["metadata"]["annotations"][pod::CONFIG_ANNOTATION] = pod::read_at_start(&config).into();
    out.push(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata.of_fleet(),
        "spec": {
            "replicas": pool.replicas,
            "selector": {"matchLabels": metadata.selector()},
            // A new relay is ready, with every fleet verified, before an old one sends its Envoys away.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": template,
        },
    }));
    Ok(out)
}

fn spec(
    fleets: &[Fleet],
    settings: &Settings,
    pool: &Pool,
    metadata: &Metadata,
) -> Result<Value, RenderError> {
    let members = fleets.iter().map(|fleet| format!("--member={}={}", account(fleet), fleet.name));
    let relay = Relay {
        health: container::HEALTH,
        fleets: fleets.iter().map(|fleet| format!("--fleet={}", fleet.name)).collect(),
        doors: doors(&pool.token_issuer).into_iter().chain(members).collect(),
        more: Vec::new(),
        mounts: vec![tls_mount()],
        report_secret: relay::report_secret(settings, metadata),
        store_paths: relay::store_paths(settings)?,
    };
    let mut volumes = relay.volumes(settings, &metadata.name);
    volumes.push(tls_volume(&pool.tls_secret));
    let mut container = relay.container(settings);
    open_door(&mut container);
    let mut spec = pod::spec(metadata);
    spec.insert("volumes".into(), volumes.into());
    spec.insert("containers".into(), json!([container]));
    Ok(spec.into())
}

/// Envoys of these fleets to the one port, probes and scrapers to the other, nobody to anything else.
pub(super) fn network_policy(fleets: &[Fleet], settings: &Settings, metadata: &Metadata) -> Value {
    let peers: Vec<Value> = fleets
        .iter()
        .map(|fleet| {
            let namespace = json!({"kubernetes.io/metadata.name": fleet.infrastructure.namespace});
            let selector = Metadata::new(fleet, settings).selector();
            json!({"namespaceSelector": {"matchLabels": namespace}, "podSelector": {"matchLabels": selector}})
        })
        .collect();
    // An empty list of peers would let in everybody.
    let doors =
        (!peers.is_empty()).then(|| json!({"from": peers, "ports": [{"port": PORT, "protocol": "TCP"}]}));
    let health = json!({"ports": [{"port": container::HEALTH, "protocol": "TCP"}]});
    network::ingress(metadata, &doors.into_iter().chain([health]).collect::<Vec<_>>())
}

/// The Service by which Envoys reach relays.
pub(super) fn service(metadata: &Metadata) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata.of_fleet(),
        "spec": {
            "type": "ClusterIP",
            "selector": metadata.selector(),
            "ports": [{"name": "xds", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
        },
    })
}

#[cfg(test)]
mod tests;
