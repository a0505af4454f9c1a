//! Requests to the API server.

use super::inventory::Key;
use super::{FIELD_MANAGER, relays};
use crate::render::{Applier, CONTROLLER_ANNOTATION, FLEET_ANNOTATION, MANAGED_BY_LABEL, fleet_selector};
use futures::future::try_join_all;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use moorgate_snapshot::FleetName;
use serde_json::Value;
use std::collections::BTreeMap;
use thiserror::Error;

/// A request that failed.
#[derive(Debug, Error)]
#[error("{what}: {source}")]
pub struct ApiError {
    /// What was asked.
    what: String,
    /// What came back.
    source: Box<kube::Error>,
}

impl ApiError {
    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match &*self.source {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }
}

/// A kind that is rendered.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    group: &'static str,
    version: &'static str,
    plural: &'static str,
}

/// All of them. Objects that have no namespace are told by their manifests.
pub(super) static KINDS: [Kind; 12] = [
    Kind { name: "ServiceAccount", group: "", version: "v1", plural: "serviceaccounts" },
    Kind { name: "ClusterRole", group: RBAC, version: "v1", plural: "clusterroles" },
    Kind { name: "ClusterRoleBinding", group: RBAC, version: "v1", plural: "clusterrolebindings" },
    Kind { name: "Role", group: RBAC, version: "v1", plural: "roles" },
    Kind { name: "RoleBinding", group: RBAC, version: "v1", plural: "rolebindings" },
    Kind { name: "ConfigMap", group: "", version: "v1", plural: "configmaps" },
    Kind { name: "NetworkPolicy", group: "networking.k8s.io", version: "v1", plural: "networkpolicies" },
    Kind { name: "Service", group: "", version: "v1", plural: "services" },
    Kind { name: "PodDisruptionBudget", group: "policy", version: "v1", plural: "poddisruptionbudgets" },
    Kind { name: "Deployment", group: "apps", version: "v1", plural: "deployments" },
    Kind { name: "DaemonSet", group: "apps", version: "v1", plural: "daemonsets" },
    Kind {
        name: "HorizontalPodAutoscaler",
        group: "autoscaling",
        version: "v2",
        plural: "horizontalpodautoscalers",
    },
];

const RBAC: &str = "rbac.authorization.k8s.io";

/// The Secret's kind: made and read by name, never listed.
pub(super) static SECRET: Kind = Kind { name: "Secret", group: "", version: "v1", plural: "secrets" };

impl Kind {
    /// That of a manifest.
    pub(super) fn of(manifest: &Value) -> Option<&'static Self> {
        KINDS.iter().find(|kind| manifest["kind"] == kind.name)
    }

    fn resource(&self) -> ApiResource {
        let gvk = GroupVersionKind::gvk(self.group, self.version, self.name);
        ApiResource::from_gvk_with_plural(&gvk, self.plural)
    }
}

/// The API server.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Applies a manifest; gives the object as it is now.
    pub(super) async fn apply(&self, manifest: &Value) -> Result<Value, ApiError> {
        let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        let what =
            || format!("applying {} {namespace}/{name}", manifest["kind"].as_str().unwrap_or_default());
        let Some(kind) = Kind::of(manifest) else { return Ok(Value::Null) };
        // By force: whoever changes what a Gateway asks for is set right, and what nobody asked for stays as it is.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patched = self.api(kind, namespace).patch(name, &params, &Patch::Apply(manifest)).await;
        patched.map(|object| plain(&object)).map_err(failed(what))
    }

    /// Deletes an object, if it is there.
    pub(super) async fn delete(&self, key: &Key) -> Result<(), ApiError> {
        let Some(kind) = key.kind() else { return Ok(()) };
        let what = || format!("deleting {} {}/{}", kind.name, key.namespace, key.name);
        match self.api(kind, &key.namespace).delete(&key.name, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            answer => answer.map(|_| ()).map_err(failed(what)),
        }
    }

    /// An object that may not be there.
    pub(super) async fn get(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, ApiError> {
        let what = || format!("reading {} {namespace}/{name}", kind.name);
        let found = self.api(kind, namespace).get_opt(name).await.map_err(failed(what))?;
        Ok(found.map(|object| plain(&object)))
    }

    /// Creates an object; `false` if one of its name is there already.
    pub(super) async fn create(&self, kind: &Kind, object: &Value) -> Result<bool, ApiError> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let what = || format!("creating {} {namespace}/{}", kind.name, object["metadata"]["name"]);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let typed: DynamicObject = serde_json::from_value(object.clone())
            .map_err(|error| failed(what)(kube::Error::SerdeError(error)))?;
        match self.api(kind, namespace).create(&params, &typed).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            answer => answer.map(|_| true).map_err(failed(what)),
        }
    }

    /// The Services of a fleet, by name.
    pub(super) async fn services(
        &self,
        namespace: &str,
        fleet: &FleetName,
    ) -> Result<BTreeMap<String, Value>, ApiError> {
        let Some(kind) = KINDS.iter().find(|kind| kind.name == "Service") else { return Ok(BTreeMap::new()) };
        let what = || format!("listing Services of {fleet}");
        let params = ListParams::default().labels(&selector(&fleet_selector(fleet)));
        let found = self.api(kind, namespace).list(&params).await.map_err(failed(what))?;
        Ok(found
            .items
            .iter()
            .map(|object| (object.metadata.name.clone().unwrap_or_default(), plain(object)))
            .collect())
    }

    /// Everything of ours with this controller's name: object and fleet, or which relays it is of.
    pub(super) async fn ours(&self, controller: &str) -> Result<Vec<(Key, String)>, ApiError> {
        let params = ListParams::default().labels(&selector(""));
        let lists = KINDS.iter().map(async |kind| {
            let what = || format!("listing {}", kind.plural);
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind.resource());
            let found = api.list(&params).await.map_err(failed(what))?;
            let own = found.items.iter().filter_map(|object| {
                let mut manifest = plain(object);
                // Items of a list may come without their kind.
                manifest["kind"] = kind.name.into();
                let annotations = &manifest["metadata"]["annotations"];
                let fleet = annotations[FLEET_ANNOTATION].as_str().map(str::to_owned);
                let fleet = fleet.or_else(|| relays::owner_of(&manifest["metadata"]["labels"]))?;
                (annotations[CONTROLLER_ANNOTATION] == controller).then_some((Key::of(&manifest)?, fleet))
            });
            Ok(own.collect::<Vec<_>>())
        });
        Ok(try_join_all(lists).await?.into_iter().flatten().collect())
    }

    fn api(&self, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
        let resource = kind.resource();
        if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        }
    }
}

fn selector(more: &str) -> String {
    let own = format!("{MANAGED_BY_LABEL}={}", Applier::Watch.label());
    if more.is_empty() { own } else { format!("{own},{more}") }
}

fn plain(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

fn failed(what: impl Fn() -> String) -> impl Fn(kube::Error) -> ApiError {
    move |source| ApiError { what: what(), source: Box::new(source) }
}
