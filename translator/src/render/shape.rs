//! What an EnvoyProxy (`gateway.envoyproxy.io`) changes about a fleet's pods and Service.

use super::Infrastructure;
use crate::parameters;
use moorgate_model::{Object, ObjectRef};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Fields of an EnvoyProxy that shape a fleet. Everything is as written: the API server judges it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shape {
    /// A DaemonSet takes the place of the Deployment.
    pub daemon_set: bool,
    /// Replicas of the Deployment.
    pub replicas: Option<i64>,
    /// How pods are replaced.
    pub strategy: Option<Value>,
    /// Fields of the pods' `spec`.
    pub pod: Map<String, Value>,
    /// Labels of pods.
    pub pod_labels: BTreeMap<String, String>,
    /// Annotations of pods.
    pub pod_annotations: BTreeMap<String, String>,
    /// Envoy's image.
    pub envoy_image: Option<String>,
    /// The same without a tag: that of the usual image.
    pub image_repository: Option<String>,
    /// More variables of Envoy's environment, none of them from a Secret.
    pub env: Vec<Value>,
    /// Envoy's resources.
    pub resources: Option<Value>,
    /// Envoy's worker threads.
    pub concurrency: Option<i64>,
    /// Levels of Envoy's loggers, by name; `default` is that of all others.
    pub log_levels: BTreeMap<String, String>,
    /// The Service.
    pub service: ServiceShape,
    /// The `spec` of the HorizontalPodAutoscaler, without its target.
    pub autoscaler: Option<Map<String, Value>>,
    /// The `spec` of the PodDisruptionBudget, without its selector.
    pub disruption_budget: Option<Map<String, Value>>,
}

/// Fields of an EnvoyProxy that shape the Service.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServiceShape {
    /// Its type.
    pub kind: Option<String>,
    /// More labels.
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its external traffic policy.
    pub external_traffic_policy: Option<String>,
    /// The address of the load balancer, if the Gateway asks for none.
    pub address: Option<String>,
    /// Fields of its `spec` that only load balancers have.
    pub balancer: Map<String, Value>,
}

/// Fields of a pod's `spec` that an EnvoyProxy may set.
const POD: [&str; 6] = [
    "affinity",
    "imagePullSecrets",
    "nodeSelector",
    "priorityClassName",
    "tolerations",
    "topologySpreadConstraints",
];
/// Fields of a Service of type LoadBalancer that an EnvoyProxy may set.
const BALANCER: [&str; 3] =
    ["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerSourceRanges"];
/// Fields of a HorizontalPodAutoscaler.
const AUTOSCALER: [&str; 4] = ["behavior", "maxReplicas", "metrics", "minReplicas"];
/// Fields of a PodDisruptionBudget.
const BUDGET: [&str; 2] = ["maxUnavailable", "minAvailable"];

impl Shape {
    /// What the EnvoyProxy that a Gateway or its class names asks for; nothing without one.
    pub(super) fn find(infrastructure: &Infrastructure, objects: &[Object]) -> Self {
        let find = |wanted: &Option<ObjectRef>| {
            let wanted = wanted.as_ref()?;
            objects.iter().find(|object| object.reference == *wanted)
        };
        // What cannot be read has kept its Gateway from being accepted.
        let (own, class) = (find(&infrastructure.parameters), find(&infrastructure.class_parameters));
        let found = parameters::effective(own, class);
        let spec = found.as_ref().and_then(|found| found.root.get("spec")).map(moorgate_model::Node::to_json);
        spec.and_then(|spec| serde_json::to_value(spec).ok())
            .map(|spec| Self::read(&spec))
            .unwrap_or_default()
    }

    /// Reads the `spec` of an EnvoyProxy.
    pub fn read(spec: &Value) -> Self {
        let kubernetes = &spec["provider"]["kubernetes"];
        let daemon_set = kubernetes["envoyDaemonSet"].is_object();
        let workload =
            if daemon_set { &kubernetes["envoyDaemonSet"] } else { &kubernetes["envoyDeployment"] };
        let (pod, container) = (&workload["pod"], &workload["container"]);
        let service = &kubernetes["envoyService"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let object = |value: &Value, fields: &[&str]| value.is_object().then(|| picked(value, fields));
        Self {
            daemon_set,
            replicas: workload["replicas"].as_i64(),
            strategy: workload.get("strategy").cloned(),
            pod: picked(pod, &POD),
            pod_labels: texts(&pod["labels"]),
            pod_annotations: texts(&pod["annotations"]),
            envoy_image: text(&container["image"]),
            image_repository: text(&container["imageRepository"]),
            env: variables(&container["env"]),
            resources: container.get("resources").cloned(),
            concurrency: spec["concurrency"].as_i64(),
            log_levels: texts(&spec["logging"]["level"]),
            service: ServiceShape {
                kind: text(&service["type"]),
                labels: texts(&service["labels"]),
                annotations: texts(&service["annotations"]),
                external_traffic_policy: text(&service["externalTrafficPolicy"]),
                address: text(&service["loadBalancerIP"]).filter(|address| !address.is_empty()),
                balancer: picked(service, &BALANCER),
            },
            autoscaler: object(&kubernetes["envoyHpa"], &AUTOSCALER),
            disruption_budget: object(&kubernetes["envoyPDB"], &BUDGET),
        }
    }
}

fn variables(value: &Value) -> Vec<Value> {
    let secret = |entry: &Value| entry["valueFrom"]["secretKeyRef"].is_object();
    value.as_array().into_iter().flatten().filter(|entry| !secret(entry)).cloned().collect()
}

fn picked(value: &Value, fields: &[&str]) -> Map<String, Value> {
    let found = fields.iter().filter_map(|field| Some(((*field).to_owned(), value.get(field)?.clone())));
    found.collect()
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    let fields = value.as_object().into_iter().flatten();
    fields.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Adds labels or annotations to metadata; what is there stays.
pub(super) fn add(metadata: &mut Value, field: &str, more: &BTreeMap<String, String>) {
    for (key, value) in more {
        if metadata[field].get(key).is_none() {
            metadata[field][key] = json!(value);
        }
    }
}
