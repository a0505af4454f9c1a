//! The manifests of a fleet: what Kubernetes needs to run a Gateway's Envoys and their relays.
//!
//! ```text
//! compiled fleet ─┐
//! Gateway ────────┼─▶ Fleet ──▶ manifests ──▶ [ServiceAccount, Roles, ConfigMap, Service, Deployment, …]
//! Settings ───────┘
//! ```
//! Pure: the same fleet and settings give the same manifests in the same order, so that they are fit for a GitOps
//! repository and for server-side apply. `moorgate render` prints them, `watch --provision` applies them.
//!
//! Names and labels follow GEP-1762: objects lie in the Gateway's namespace, are called `<gateway>-<class>` and carry
//! `gateway.networking.k8s.io/gateway-name` and what `spec.infrastructure` asks for. Pods fit the Pod Security level
//! `restricted`. Ports of listeners stand in the Service only, never in the pods: a new listener restarts nothing.

mod access;
mod address;
pub(crate) mod arguments;
mod config;
mod container;
mod drain;
mod gateway;
mod guard;
mod metadata;
mod name;
mod needs;
mod network;
mod node;
mod patch;
mod pod;
mod pool;
mod port;
pub(crate) mod probe;
mod relay;
mod relays;
pub(crate) mod rules;
mod scale;
mod service;
mod shape;
mod types;
mod workload;
mod yaml;

pub use address::{Address, AddressKind, Addresses, Routability, addresses};
pub use gateway::Infrastructure;
pub use metadata::{
    CLASS_NAME_LABEL, CONTROLLER_ANNOTATION, FLEET_ANNOTATION, FLEET_LABEL, GATEWAY_NAME_LABEL,
    MANAGED_BY_LABEL, POOL_LABEL,
};
pub(crate) use name::is_of_relays;
pub use needs::Needs;
pub use node::{Node, manifests as node_manifests};
pub use patch::{MERGED_LISTS, MERGED_LISTS_OF_CONTAINERS, Patch};
pub use pool::{Pool, manifests as pool_manifests};
pub use port::{Port, of as ports};
pub use relay::REPORT_KEY;
pub use relays::Relays;
pub use shape::{Names, Patches, Shape, Shutdown};
pub use yaml::documents;

use crate::compile::CompiledFleet;
use metadata::Metadata;
use moorgate_model::{Object, ir};
use moorgate_snapshot::{Channel, FleetName};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// How Envoys reach a relay (DESIGN §7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Model {
    /// A relay beside each Envoy, in one pod, over a Unix socket.
    Sidecar,
    /// Relays of their own for each GatewayClass, over TLS: [`pool_manifests`].
    Pool(Pool),
    /// A relay on each node, for all Envoys there, over TLS: [`node_manifests`].
    Node(Node),
}

/// Who puts the manifests into the cluster. Each removes only what is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Applier {
    /// Somebody who has the output of `moorgate render`.
    Render,
    /// `moorgate watch --provision`.
    Watch,
}

/// Where a pod finds a store on a local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreVolume {
    /// The same path on the node. The Pod Security levels `baseline` and `restricted` forbid it.
    HostPath,
    /// A PersistentVolumeClaim of this name in the Gateway's namespace.
    Claim(String),
}

/// What is the same for all fleets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How Envoys reach a relay.
    pub model: Model,
    /// Who applies the manifests.
    pub applier: Applier,
    /// The controller name of the GatewayClasses.
    pub controller_name: String,
    /// Stores, the first one first.
    pub stores: Vec<String>,
    /// Where a `file://` store comes from.
    pub store_volume: Option<StoreVolume>,
    /// A Secret in the Gateway's namespace whose keys become the relay's environment: the store's credentials.
    pub store_secret: Option<String>,
    /// The store is one of `watch --serve-store`: relays show it a token of their pod.
    pub store_tokens: bool,
    /// The CA of a store over HTTPS, PEM; that of the machine if not given.
    pub store_ca: Option<String>,
    /// The channel that relays follow.
    pub channel: Channel,
    /// Whom relays trust: PEM, or a trust file.
    pub trust: String,
    /// The Secret in the Gateway's namespace with the key that signs reports, under `report.key`.
    pub report_secret: Option<ReportSecret>,
    /// The relay's image.
    pub relay_image: String,
    /// Envoy's image.
    pub envoy_image: String,
    /// The namespace of fleets that serve a merged class.
    pub merged_namespace: String,
}

/// Which Secret holds the key that signs a relay's reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReportSecret {
    /// One of this name, made by somebody else.
    Named(String),
    /// One with the fleet's own name and `-report`.
    PerFleet,
}

/// Envoy's image if nothing else is said: the newest minor that is supported.
pub const ENVOY_IMAGE: &str = "docker.io/envoyproxy/envoy:distroless-v1.40.0";

/// The relay's image if nothing else is said.
pub const RELAY_IMAGE: &str = concat!("ghcr.io/moorgate/moorgate-relay:v", env!("CARGO_PKG_VERSION"));

/// One fleet to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// The fleet.
    pub name: FleetName,
    /// What its Gateway asks of infrastructure.
    pub infrastructure: Infrastructure,
    /// Ports on which its Envoys listen.
    pub ports: BTreeSet<Port>,
    /// Objects that its relays read.
    pub needs: Needs,
    /// What an EnvoyProxy changes about its pods and Service.
    pub shape: Shape,
    /// Its Envoys have to know in which zone they run.
    pub in_zone: bool,
    /// What an EnvoyProxy says of its Envoys, the bootstrap among it.
    pub proxy: ir::Proxy,
}

/// Why a fleet has no manifests.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RenderError {
    /// A local store without a volume.
    #[error("store {0} lies on a disk: say where a pod finds it (--store-volume)")]
    StoreVolume(String),
    /// A relative or empty path.
    #[error("store {0} has no absolute path")]
    StorePath(String),
    /// A bootstrap that cannot be made.
    #[error("no bootstrap: {0}")]
    Startup(String),
    /// A manifest is not what it has to be.
    #[error("{kind} {name}: {at}: {why}")]
    Refused {
        /// The kind of the manifest.
        kind: String,
        /// Its name.
        name: String,
        /// Where in it.
        at: String,
        /// What is wrong.
        why: String,
    },
}

impl Settings {
    /// Finds out whether fleets can be rendered with these settings.
    pub fn check(&self) -> Result<(), RenderError> {
        relay::store_paths(self).map(|_| ())
    }
}

impl Fleet {
    /// The fleet of a Gateway or merged class among the objects that were compiled; `None` if that is not there. A class's
    /// fleet lies in the namespace `home`.
    pub fn of(name: &FleetName, compiled: &CompiledFleet, objects: &[Object], home: &str) -> Option<Self> {
        let infrastructure = Infrastructure::find(name, objects, home)?;
        Some(Self {
            name: name.clone(),
            shape: Shape::find(&infrastructure, objects),
            infrastructure,
            ports: port::of(&compiled.ir),
            needs: Needs::of(&compiled.snapshot),
            in_zone: compiled.ir.clusters.values().any(|cluster| cluster.policies.in_zone),
            proxy: compiled.ir.proxy.clone(),
        })
    }

    /// The name of the fleet's Deployment, ServiceAccount, first Service and so on.
    pub fn object_name(&self) -> String {
        object_name(&self.name, &self.infrastructure.class)
    }

    /// The name of the Secret that `watch --provision` makes for the key of reports.
    pub fn report_secret_name(&self) -> String {
        name::suffixed(&self.object_name(), "report")
    }
}

/// The name of the objects of a fleet of this class, unless an EnvoyProxy chooses others.
pub fn object_name(fleet: &FleetName, class: &str) -> String {
    match fleet {
        FleetName::Gateway { name, .. } => name::object(name, class),
        FleetName::Class { name } => name::of_class(name),
    }
}

/// All manifests of a fleet, each before those that need it. The Services lead to all ports of the fleet.
pub fn manifests(fleet: &Fleet, settings: &Settings) -> Result<Vec<Value>, RenderError> {
    unpatched(fleet, settings)?.into_iter().map(|manifest| patched(&fleet.shape, manifest)).collect()
}

fn unpatched(fleet: &Fleet, settings: &Settings) -> Result<Vec<Value>, RenderError> {
    let metadata = Metadata::new(fleet, settings);
    let config = config::data(fleet, settings)?;
    let mut out = vec![access::service_account(&metadata)];
    // With a pool, its relays read for all of them, by rights of their own.
    if !matches!(settings.model, Model::Pool(_)) {
        out.extend(access::roles(&fleet.needs, &metadata));
    }
    out.push(config::config_map(&metadata, &config));
    out.push(network::policy(fleet, &metadata));
    out.extend(service::services(fleet, &metadata));
    out.extend(scale::disruption_budget(fleet, &metadata));
    out.push(workload::workload(fleet, settings, &metadata, &config)?);
    out.extend(scale::autoscaler(fleet, &metadata));
    Ok(out)
}

/// A manifest with its patch over it, if it is what it has to be. Pods are looked at in any case: parameters that ask for
/// too much have kept their Gateways from being accepted, so that this stops what nobody thought of.
fn patched(shape: &Shape, manifest: Value) -> Result<Value, RenderError> {
    let kind = manifest["kind"].as_str().unwrap_or_default();
    let patch = shape.patches.of(kind);
    let refused = |at: String, why: String| {
        let name = manifest["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        RenderError::Refused { kind: kind.to_owned(), name, at, why }
    };
    let after = match patch {
        Some(patch) => {
            patch.over(&manifest).map_err(|error| refused("its patch".to_owned(), error.to_string()))?
        }
        None if ["Deployment", "DaemonSet"].contains(&kind) => manifest.clone(),
        None => return Ok(manifest),
    };
    match guard::check(&manifest, &after).into_iter().next() {
        Some(breach) => Err(refused(breach.at.to_string(), breach.why)),
        None => Ok(after),
    }
}

/// The Secret for the key that signs a fleet's reports ([`ReportSecret::PerFleet`]); never printed.
pub fn report_secret(fleet: &Fleet, settings: &Settings, private_key: &str) -> Value {
    let metadata = Metadata::new(fleet, settings);
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata.named(&fleet.report_secret_name()),
        "stringData": {REPORT_KEY: private_key},
    })
}

/// The label selector of a fleet's objects.
pub fn fleet_selector(fleet: &FleetName) -> String {
    format!("{FLEET_LABEL}={}", name::fleet(fleet))
}

/// The value of [`FLEET_LABEL`] for a fleet.
pub fn fleet_label(fleet: &FleetName) -> String {
    name::fleet(fleet)
}

/// The labels of what `watch --provision` makes for a fleet.
pub fn made_for(fleet: &FleetName) -> [(String, String); 2] {
    [
        (FLEET_LABEL.to_owned(), name::fleet(fleet)),
        (MANAGED_BY_LABEL.to_owned(), Applier::Watch.label().to_owned()),
    ]
}

/// Whether an object with these labels was made by `watch --provision` for a fleet.
pub fn is_made_for(labels: &BTreeMap<String, String>, fleet: &FleetName) -> bool {
    made_for(fleet).iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests;
