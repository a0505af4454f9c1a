//! Instead of a scheduler: binds each pod to a node.

use super::Kubelet;
use crate::cluster::inside::say;
use crate::cluster::names::key;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt as _;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The node that a pod's affinity names, as the pods of a DaemonSet do.
fn named(spec: &PodSpec) -> Option<String> {
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields =
        required.node_selector_terms.iter().filter_map(|term| term.match_fields.as_ref()).flatten();
    let field = fields.find(|field| field.key == "metadata.name" && field.operator == "In")?;
    field.values.as_ref()?.first().cloned()
}

/// How many pods of an owner, or of all, are on a node.
type Load = BTreeMap<(String, Option<String>), usize>;

fn owner(pod: &Pod) -> Option<String> {
    pod.owner_references().first().map(|owner| owner.uid.clone())
}

fn count(load: &mut Load, pod: &Pod, node: &str) {
    let keys: BTreeSet<Option<String>> = BTreeSet::from([None, owner(pod)]);
    for key in keys {
        *load.entry((node.to_owned(), key)).or_default() += 1;
    }
}

/// The node that it names; or that with the fewest of the same owner, and of all.
fn choose(kubelet: &Kubelet, pod: &Pod, load: &Load) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let wanted = named(spec).or_else(|| spec.node_selector.as_ref()?.get("kubernetes.io/hostname").cloned());
    let mut names = kubelet.places.iter().map(|place| &place.name);
    if let Some(wanted) = wanted {
        return names.find(|name| **name == wanted).cloned();
    }
    let on = |name: &String, owner| load.get(&(name.clone(), owner)).copied().unwrap_or(0);
    names.min_by_key(|name| (on(name, owner(pod)), on(name, None))).cloned()
}

/// Binds pods as they come; each once.
pub(super) async fn run(kubelet: Arc<Kubelet>) {
    let mut changes = kubelet.pods.changes();
    // The node of each by its uid: what was bound a moment ago may not say so yet, and counts all the same.
    let mut bound: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let pods = kubelet.pods.all();
        let mut load = Load::new();
        for pod in &pods {
            let said = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
            if let Some(node) = said.or_else(|| bound.get(&pod.uid().unwrap_or_default())) {
                count(&mut load, pod, node);
            }
        }
        for pod in &pods {
            let waits = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none());
            let uid = pod.uid().unwrap_or_default();
            if !waits || pod.metadata.deletion_timestamp.is_some() || bound.contains_key(&uid) {
                continue;
            }
            let Some(node) = choose(&kubelet, pod, &load) else { continue };
            count(&mut load, pod, &node);
            bound.insert(uid, node.clone());
            let api: Api<Pod> = Api::namespaced(kubelet.client.clone(), &pod.namespace().unwrap_or_default());
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod.name_any()},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            let params = PostParams::default();
            if let Err(error) =
                api.create_subresource::<_, Value>("binding", &pod.name_any(), &params, &binding).await
            {
                say(&format!("binding {}: {error}", key(&**pod)));
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
