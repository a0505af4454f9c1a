//! What an EnvoyProxy (`gateway.envoyproxy.io`) changes about a fleet's pods and Service.

use super::patch::Patch;
use super::{Infrastructure, arguments};
use crate::parameters;
use moorgate_model::{Object, ObjectRef, duration};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

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
    /// More arguments of Envoy.
    pub extra_args: Vec<String>,
    /// How its clients are sent away before it stops; if nothing is said, it is only left by load balancers.
    pub shutdown: Option<Shutdown>,
    /// More volumes of pods.
    pub volumes: Vec<Value>,
    /// More mounts of Envoy's container.
    pub mounts: Vec<Value>,
    /// Containers that run before Envoy does.
    pub init_containers: Vec<Value>,
    /// What is laid over the security context of pods.
    pub pod_security: Map<String, Value>,
    /// What is laid over the security context of Envoy's container.
    pub container_security: Map<String, Value>,
    /// The Service.
    pub service: ServiceShape,
    /// The `spec` of the HorizontalPodAutoscaler, without its target.
    pub autoscaler: Option<Map<String, Value>>,
    /// The `spec` of the PodDisruptionBudget, without its selector.
    pub disruption_budget: Option<Map<String, Value>>,
    /// What is put over manifests.
    pub patches: Patches,
    /// Names of objects, where they are not those that follow from the Gateway's.
    pub names: Names,
}

/// Names that an EnvoyProxy chooses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Names {
    /// Of the Deployment or DaemonSet.
    pub workload: Option<String>,
    /// Of the Service; of those for further addresses the beginning.
    pub service: Option<String>,
    /// Of the HorizontalPodAutoscaler.
    pub autoscaler: Option<String>,
    /// Of the PodDisruptionBudget.
    pub disruption_budget: Option<String>,
}

/// What is put over the manifests of a fleet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Patches {
    /// Over the Deployment or DaemonSet.
    pub workload: Option<Patch>,
    /// Over each Service.
    pub service: Option<Patch>,
    /// Over the HorizontalPodAutoscaler.
    pub autoscaler: Option<Patch>,
    /// Over the PodDisruptionBudget.
    pub disruption_budget: Option<Patch>,
}

impl Patches {
    /// That of a kind.
    pub(super) fn of(&self, kind: &str) -> Option<&Patch> {
        match kind {
            "Deployment" | "DaemonSet" => self.workload.as_ref(),
            "Service" => self.service.as_ref(),
            "HorizontalPodAutoscaler" => self.autoscaler.as_ref(),
            "PodDisruptionBudget" => self.disruption_budget.as_ref(),
            _ => None,
        }
    }
}

/// How the clients of an Envoy are sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown {
    /// After so long Envoy stops, whoever is still connected.
    pub at_most: Duration,
    /// So long it goes on, even if nobody is connected.
    pub at_least: Duration,
    /// So long its health does not fail yet.
    pub unhealthy_after: Duration,
}

impl Shutdown {
    /// What the fields say; what they do not say is as their descriptions have it.
    fn read(value: &Value) -> Option<Self> {
        value.is_object().then(|| {
            let time = |field: &str, seconds| {
                let own = value[field].as_str().and_then(duration::parse);
                own.unwrap_or(Duration::from_secs(seconds))
            };
            Self {
                at_most: time("drainTimeout", 60),
                at_least: time("minDrainDuration", 10),
                unhealthy_after: time("healthCheckFailureDelay", 0),
            }
        })
    }
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

    /// The kinds of which an EnvoyProxy may choose the name, among those that there are, with the names of a fleet whose
    /// objects are called `usual`; true for those that were chosen.
    pub(crate) fn claims(&self, usual: &str) -> Vec<(&'static str, String, bool)> {
        let names = &self.names;
        let workload = if self.daemon_set { "DaemonSet" } else { "Deployment" };
        let scaler = self.autoscaler.as_ref().filter(|_| !self.daemon_set);
        let all = [
            Some((workload, &names.workload)),
            Some(("Service", &names.service)),
            scaler.map(|_| ("HorizontalPodAutoscaler", &names.autoscaler)),
            self.disruption_budget.as_ref().map(|_| ("PodDisruptionBudget", &names.disruption_budget)),
        ];
        let claim = |(kind, name): (&'static str, &Option<String>)| {
            (kind, name.clone().unwrap_or_else(|| usual.to_owned()), name.is_some())
        };
        all.into_iter().flatten().map(claim).collect()
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
            extra_args: extra_args(&spec["extraArgs"]),
            shutdown: Shutdown::read(&spec["shutdown"]),
            volumes: list(&pod["volumes"]).collect(),
            mounts: list(&container["volumeMounts"]).collect(),
            init_containers: list(&workload["initContainers"]).collect(),
            pod_security: fields(&pod["securityContext"]),
            container_security: fields(&container["securityContext"]),
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
            names: Names {
                workload: text(&workload["name"]),
                service: text(&service["name"]),
                autoscaler: text(&kubernetes["envoyHpa"]["name"]),
                disruption_budget: text(&kubernetes["envoyPDB"]["name"]),
            },
            patches: Patches {
                workload: Patch::read(&workload["patch"]),
                service: Patch::read(&service["patch"]),
                autoscaler: Patch::read(&kubernetes["envoyHpa"]["patch"]),
                disruption_budget: Patch::read(&kubernetes["envoyPDB"]["patch"]),
            },
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = Value> {
    value.as_array().cloned().unwrap_or_default().into_iter()
}

fn fields(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
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

/// Arguments for Envoy; none if one of them cannot be one, since what belongs to which is not known then.
fn extra_args(written: &Value) -> Vec<String> {
    let all: Vec<String> = list(written).filter_map(|arg| Some(arg.as_str()?.to_owned())).collect();
    if arguments::check(all.iter().map(String::as_str)).is_empty() { all } else { Vec::new() }
}
