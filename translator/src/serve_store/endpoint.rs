//! Which replica the store's Service leads to: the one that writes. Readiness of pods could not say that: a Deployment whose
//! second pod never becomes ready is never rolled out.

use kube::api::{Api, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;

/// The field manager of the EndpointSlice.
const FIELD_MANAGER: &str = "moorgate-watch";
/// It is applied again so often, against changes by other hands.
const AGAIN: Duration = Duration::from_mins(1);
/// The wait after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// The API server has so long to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Leads a Service without a selector to this replica while it writes.
pub struct Endpoint {
    /// The cluster.
    pub client: kube::Client,
    /// The Service's namespace.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// Where this replica is reached.
    pub address: IpAddr,
    /// Where it listens.
    pub port: u16,
}

impl Endpoint {
    /// Does so as long as the loop lives.
    pub async fn run(self, mut leads: watch::Receiver<bool>) {
        let kind = GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice");
        let resource = ApiResource::from_gvk_with_plural(&kind, "endpointslices");
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let slice = self.slice();
        let name = slice["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        loop {
            if leads.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let patch = Patch::Apply(&slice);
            let applied = tokio::time::timeout(ANSWER, api.patch(&name, &params, &patch)).await;
            let wait = match applied {
                Ok(Ok(_)) => AGAIN,
                Ok(Err(error)) => {
                    tracing::warn!(service = self.service, %error, "the Service of the store does not lead here");
                    RETRY
                }
                Err(_) => RETRY,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = leads.changed() => if changed.is_err() { return },
            }
        }
    }

    fn slice(&self) -> Value {
        let family = if self.address.is_ipv4() { "IPv4" } else { "IPv6" };
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.service, family.to_ascii_lowercase()),
                "namespace": self.namespace,
                "labels": {
                    "kubernetes.io/service-name": self.service,
                    "endpointslice.kubernetes.io/managed-by": FIELD_MANAGER,
                },
            },
            "addressType": family,
            "endpoints": [{"addresses": [self.address.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": self.port, "protocol": "TCP"}],
        })
    }
}
