//! Nodes: each runs the pods that are bound to it, as processes in network namespaces.
//!
//! ```text
//!  pods ──▶ binder: a node for each ──▶ pod: sandbox, volumes, init containers, containers ──▶ status
//!                                        │ supervise: process, probes, restarts
//!                                        └ server: logs, for the API server
//! ```

mod binder;
mod board;
mod environment;
mod payload;
mod pod;
mod probe;
mod server;
mod status;
mod supervise;
mod volume;

use super::image::Images;
use super::inside::say;
use super::names::Folder;
use super::network::node_address;
use super::table::Table;
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// The port of each node's server.
const PORT: u16 = 10_250;

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    name: String,
    address: Ipv4Addr,
}

/// All nodes of the cluster, and what they need to know.
pub(super) struct Kubelet {
    client: Client,
    folder: Folder,
    images: Images,
    /// This very program, which turns into containers.
    program: PathBuf,
    places: Vec<Place>,
    pods: Table<Pod>,
    secrets: Table<Secret>,
    config_maps: Table<ConfigMap>,
}

impl Kubelet {
    /// Registers the nodes and starts to run what is bound to them.
    pub(super) async fn start(client: Client, folder: Folder, nodes: u8) -> Result<Arc<Self>> {
        let names =
            (0..nodes).map(|index| Place { name: format!("node-{index}"), address: node_address(index) });
        let kubelet = Arc::new(Self {
            images: Images::find(&folder.0)?,
            program: std::env::current_exe().context("this program")?,
            places: names.collect(),
            pods: Table::watch(&client),
            secrets: Table::watch(&client),
            config_maps: Table::watch(&client),
            client,
            folder,
        });
        let tls = server::tls()?;
        for place in &kubelet.places {
            kubelet.register(place).await.with_context(|| place.name.clone())?;
            server::start(&kubelet, place.address, &tls).await?;
        }
        tokio::spawn(binder::run(Arc::clone(&kubelet)));
        tokio::spawn(Arc::clone(&kubelet).run());
        Ok(kubelet)
    }

    async fn register(&self, place: &Place) -> Result<()> {
        let api: Api<Node> = Api::all(self.client.clone());
        let labels = json!({
            "kubernetes.io/hostname": place.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "topology.kubernetes.io/zone": format!("zone-{}", place.name.rsplit('-').next().unwrap_or_default()),
        });
        let node =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": place.name, "labels": labels}});
        api.create(&PostParams::default(), &serde_json::from_value(node)?).await?;
        let now = super::names::now();
        let capacity = json!({"cpu": "64", "memory": "256Gi", "pods": "1000", "ephemeral-storage": "100Gi"});
        let status = json!({"status": {
            "addresses": [
                {"type": "InternalIP", "address": place.address},
                {"type": "Hostname", "address": place.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
            "capacity": capacity,
            "allocatable": capacity,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "runs processes",
                "lastHeartbeatTime": now, "lastTransitionTime": now,
            }],
        }});
        api.patch_status(&place.name, &PatchParams::default(), &Patch::Merge(status)).await?;
        // The API server taints each new node until somebody says that it is ready.
        let spec = json!({"spec": {"taints": null}});
        api.patch(&place.name, &PatchParams::default(), &Patch::Merge(spec)).await?;
        Ok(())
    }

    fn place(&self, name: &str) -> Option<Place> {
        self.places.iter().find(|place| place.name == name).cloned()
    }

    /// Keeps one worker for each pod that is bound to a node of ours.
    async fn run(self: Arc<Self>) {
        let mut workers: BTreeMap<String, watch::Sender<Option<Arc<Pod>>>> = BTreeMap::new();
        let mut changes = self.pods.changes();
        loop {
            let mut there: BTreeMap<String, Arc<Pod>> = BTreeMap::new();
            for pod in self.pods.all() {
                there.insert(pod.uid().unwrap_or_default(), pod);
            }
            for (uid, pod) in &there {
                if let Some(worker) = workers.get(uid) {
                    worker.send_if_modified(|known| {
                        let newer = known.as_ref().is_some_and(|known| !Arc::ptr_eq(known, pod));
                        *known = Some(Arc::clone(pod));
                        newer
                    });
                    continue;
                }
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
                let Some(place) = node.and_then(|node| self.place(&node)) else { continue };
                let (sender, receiver) = watch::channel(Some(Arc::clone(pod)));
                workers.insert(uid.clone(), sender);
                let worker = pod::run(Arc::clone(&self), place, Arc::clone(pod), receiver);
                let name = super::names::key(&**pod);
                tokio::spawn(async move {
                    if let Err(error) = worker.await {
                        say(&format!("pod {name}: {error:#}"));
                    }
                });
            }
            workers.retain(|uid, worker| {
                let kept = there.contains_key(uid);
                if !kept {
                    worker.send_replace(None);
                }
                kept
            });
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
