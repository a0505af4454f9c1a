//! The relays of all nodes, each for the Envoys on its own (DESIGN §7).
//!
//! ```text
//! node A   Envoy of shop/edge ──┐
//!          Envoy of pay/edge ───┴─▶ relay: shop/edge, pay/edge
//! node B   Envoy of pay/edge ─────▶ relay: pay/edge
//! ```
//! An Envoy reaches the relay of its node by a Service that never leads elsewhere, over TLS, with the token of its
//! ServiceAccount. With that the relay opens this fleet, and forgets it some time after its last Envoy. It reads endpoints
//! and certificates with a second token that the same Envoy hands over: its own account may read nothing at all, so that a
//! node gives away the secrets of the fleets on it, and of no other. A new fleet restarts no relay: who is of which fleet is
//! a file that they read again.

use super::access;
use super::config::{self, MEMBERS};
use super::container::{self, CONFIG};
use super::metadata::Metadata;
use super::pod;
use super::pool;
use super::relay::{self, Relay};
use super::{Fleet, Relays, RenderError, Settings};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The name of the relays, and of their Service.
pub(super) const NAME: &str = "moorgate-node";
/// What selects them, where a pool has its class.
pub(super) const SELECTOR: &str = "node";

/// What the relays of nodes are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Their namespace.
    pub namespace: String,
    /// A Secret in it of type `kubernetes.io/tls`: the certificate for `moorgate-node.NAMESPACE.svc`. It is read again
    /// whenever it changes.
    pub tls_secret: String,
    /// The CA of that certificate, PEM.
    pub ca: String,
    /// The issuer of ServiceAccount tokens: the API server's `--service-account-issuer`.
    pub token_issuer: String,
}

impl Node {
    /// Where Envoys reach the relay of their node.
    pub(super) fn address(&self) -> String {
        pool::address(NAME, &self.namespace)
    }
}

/// All manifests of the relays, each before those that need it, for all these fleets: those of
/// [`manifests`](super::manifests) refer to them.
pub fn manifests(fleets: &[Fleet], settings: &Settings, node: &Node) -> Result<Vec<Value>, RenderError> {
    let metadata = Relays::OfNodes(node).metadata(settings);
    let mut config = config::of_relay(settings);
    config.insert(MEMBERS, members(fleets));
    let mut service = pool::service(&metadata);
    service["spec"]["internalTrafficPolicy"] = "Local".into();
    let mut template = json!({
        "metadata": {"labels": metadata.pod_labels(), "annotations": metadata.pod_annotations()},
        "spec": spec(settings, node, &metadata)?,
    });
    template["metadata"]["annotations"][pod::CONFIG_ANNOTATION] = pod::read_at_start(&config).into();
    Ok(vec![
        access::service_account(&metadata),
        config::config_map(&metadata, &config),
        pool::network_policy(fleets, settings, &metadata),
        service,
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata.of_fleet(),
            "spec": {
                "selector": {"matchLabels": metadata.selector()},
                // One node after the other, and there a new relay is ready before the old one sends its Envoys away.
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "template": template,
            },
        }),
    ])
}

/// Who is of which fleet: a line for each account.
fn members(fleets: &[Fleet]) -> String {
    let mut lines: Vec<(String, String)> =
        fleets.iter().map(|fleet| (pool::account(fleet), fleet.name.to_string())).collect();
    lines.sort();
    let mut text = String::from("# ServiceAccounts of Envoys, and their fleets\n");
    for (account, fleet) in lines {
        let _ = writeln!(text, "{account}={fleet}");
    }
    text
}

fn spec(settings: &Settings, node: &Node, metadata: &Metadata) -> Result<Value, RenderError> {
    let doors = pool::doors(&node.token_issuer);
    let relay = Relay {
        health: container::HEALTH,
        fleets: vec!["--on-demand".to_owned()],
        doors: doors.into_iter().chain([format!("--member-file={CONFIG}/{MEMBERS}")]).collect(),
        more: vec!["--kubernetes-as-client".to_owned()],
        mounts: vec![pool::tls_mount()],
        report_secret: relay::report_secret(settings, metadata),
        store_paths: relay::store_paths(settings)?,
    };
    let mut volumes = relay.volumes(settings, &metadata.name);
    volumes.push(pool::tls_volume(&node.tls_secret));
    let mut container = relay.container(settings);
    pool::open_door(&mut container);
    let mut spec = pod::spec(metadata);
    // There is one on each node anyway.
    spec.remove("topologySpreadConstraints");
    // Wherever Envoys may run.
    spec.insert("tolerations".into(), json!([{"operator": "Exists"}]));
    spec.insert("volumes".into(), volumes.into());
    spec.insert("containers".into(), json!([container]));
    Ok(spec.into())
}

#[cfg(test)]
mod tests;
