//! What an EnvoyProxy may ask of pods: what passes the Pod Security level `restricted` (Kubernetes: Pod Security Standards,
//! v1.37), reads no Secret, and leaves alone what Envoy and its relay live by.
//!
//! The rules hold for fields of an EnvoyProxy and for pods that its patches changed alike.

use super::container::{self, CONFIG, RELAY_TOKEN, SOCKETS, volume};
use super::drain;
use super::relay;
use moorgate_model::FieldPath;
use serde_json::Value;
use std::collections::BTreeSet;

/// What breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breach {
    /// Where, from what was looked at.
    pub(crate) at: FieldPath,
    /// What is wrong, in a few words without the field.
    pub(crate) why: String,
}

/// Containers that Moorgate makes.
pub(super) const CONTAINERS: [&str; 3] = ["envoy", "relay", drain::CONTAINER];
/// Sysctls that are separate for each pod.
const SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    UNPRIVILEGED,
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];
/// That by which listeners of ports below 1024 are bound.
const UNPRIVILEGED: &str = "net.ipv4.ip_unprivileged_port_start";
/// Types of SELinux that containers may have.
const SELINUX: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
/// Kinds of volumes: those of `restricted` but for what holds Secrets, and for drivers, of which nobody knows what they hold.
const VOLUMES: [&str; 7] =
    ["configMap", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected"];
/// Sources of a projected volume: no Secret and nobody's token or key.
const SOURCES: [&str; 3] = ["clusterTrustBundle", "configMap", "downwardAPI"];
/// Folders that Envoy, the relay and the bootstrap live in, and those of the system. `/var/run` is `/run` in most images.
const FOLDERS: [&str; 11] = [
    SOCKETS,
    CONFIG,
    RELAY_TOKEN,
    drain::FOLDER,
    relay::TOKEN,
    "/usr/local/bin/envoy",
    "/run/secrets",
    "/var/run/moorgate",
    "/proc",
    "/sys",
    "/dev",
];
/// Fields of containers that hold probes.
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

fn breach(at: &str, why: impl Into<String>) -> Breach {
    let at = if at.is_empty() { FieldPath::root() } else { FieldPath::parse(at) };
    Breach { at, why: why.into() }
}

/// The same, seen from further up.
pub(crate) fn below(at: &FieldPath, found: Vec<Breach>) -> impl Iterator<Item = Breach> {
    let at = at.clone();
    found.into_iter().map(move |one| Breach { at: at.join(&one.at), ..one })
}

/// A pod's security context, with what it has by itself.
pub(crate) fn pod_security(context: &Value) -> Vec<Breach> {
    let mut out = shared_security(context);
    if context["runAsNonRoot"] != true {
        out.push(breach("runAsNonRoot", "it has to be true"));
    }
    if !is_profile(&context["seccompProfile"]) {
        out.push(breach("seccompProfile", "it has to be of type RuntimeDefault or Localhost"));
    }
    for (index, one) in list(&context["sysctls"]).enumerate() {
        let at = format!("sysctls[{index}]");
        let name = one["name"].as_str().unwrap_or_default();
        if !SYSCTLS.contains(&name) {
            out.push(breach(&at, format!("{name} is none that a pod has by itself")));
        }
        if name == UNPRIVILEGED && one["value"] != "0" {
            out.push(breach(&at, "listeners of low ports need 0"));
        }
    }
    out
}

/// A container's security context, with what it has by itself.
pub(crate) fn container_security(context: &Value) -> Vec<Breach> {
    let mut out = shared_security(context);
    if context["privileged"] == true {
        out.push(breach("privileged", "it has to be false"));
    }
    if context["allowPrivilegeEscalation"] != false {
        out.push(breach("allowPrivilegeEscalation", "it has to be false"));
    }
    if list(&context["capabilities"]["drop"]).all(|one| one != "ALL") {
        out.push(breach("capabilities.drop", "it has to have ALL"));
    }
    if list(&context["capabilities"]["add"]).any(|one| one != "NET_BIND_SERVICE") {
        out.push(breach("capabilities.add", "only NET_BIND_SERVICE may be added"));
    }
    if context["runAsNonRoot"] == false {
        out.push(breach("runAsNonRoot", "it has to be true"));
    }
    if !context["seccompProfile"].is_null() && !is_profile(&context["seccompProfile"]) {
        out.push(breach("seccompProfile", "it has to be of type RuntimeDefault or Localhost"));
    }
    if !context["procMount"].is_null() && context["procMount"] != "Default" {
        out.push(breach("procMount", "it has to be Default"));
    }
    out
}

/// What pods and containers have in common.
fn shared_security(context: &Value) -> Vec<Breach> {
    let mut out = Vec::new();
    if context["runAsUser"] == 0 {
        out.push(breach("runAsUser", "root runs nothing"));
    }
    if !context["windowsOptions"].is_null() {
        out.push(breach("windowsOptions", "Envoy runs on Linux"));
    }
    let apparmor = &context["appArmorProfile"];
    if !apparmor.is_null() && !is_profile(apparmor) {
        out.push(breach("appArmorProfile", "it has to be of type RuntimeDefault or Localhost"));
    }
    let selinux = &context["seLinuxOptions"];
    if !SELINUX.contains(&selinux["type"].as_str().unwrap_or_default()) {
        out.push(breach("seLinuxOptions.type", "it is none of a container's"));
    }
    for field in ["user", "role"] {
        if !selinux[field].as_str().unwrap_or_default().is_empty() {
            out.push(breach(&format!("seLinuxOptions.{field}"), "it may not be set"));
        }
    }
    out
}

fn is_profile(profile: &Value) -> bool {
    profile["type"] == "RuntimeDefault" || profile["type"] == "Localhost"
}

/// Envoy's security context: beside the container's, who it runs as. The relay's socket and the tokens are that user's.
pub(crate) fn envoy_security(context: &Value, pod: &Value) -> Vec<Breach> {
    let mut out = container_security(context);
    for field in ["runAsUser", "runAsGroup"] {
        if !context[field].is_null() && context[field] != pod[field] {
            out.push(breach(
                field,
                "Envoy runs as whoever its pod runs as: set it in the pod's securityContext",
            ));
        }
    }
    out
}

/// A container, apart from its security context and mounts.
pub(crate) fn container(container: &Value) -> Vec<Breach> {
    let mut out = Vec::new();
    for (index, port) in list(&container["ports"]).enumerate() {
        if !port["hostPort"].is_null() && port["hostPort"] != 0 {
            out.push(breach(&format!("ports[{index}].hostPort"), "no port of a node is taken"));
        }
    }
    let probes = PROBES.iter().map(|probe| ((*probe).to_owned(), &container[*probe]));
    let hooks =
        ["postStart", "preStop"].map(|hook| (format!("lifecycle.{hook}"), &container["lifecycle"][hook]));
    for (at, handler) in probes.chain(hooks) {
        for action in ["httpGet", "tcpSocket"] {
            if !handler[action]["host"].as_str().unwrap_or_default().is_empty() {
                out.push(breach(&format!("{at}.{action}.host"), "nobody but the pod itself is asked"));
            }
        }
    }
    for (index, variable) in list(&container["env"]).enumerate() {
        if !variable["valueFrom"]["secretKeyRef"].is_null() {
            out.push(breach(&format!("env[{index}]"), "values of Secrets are put into no environment"));
        }
    }
    for (index, source) in list(&container["envFrom"]).enumerate() {
        if !source["secretRef"].is_null() {
            out.push(breach(&format!("envFrom[{index}]"), "values of Secrets are put into no environment"));
        }
    }
    if list(&container["volumeDevices"]).next().is_some() {
        out.push(breach("volumeDevices", "no device is handed to a container"));
    }
    out
}

/// Containers of an EnvoyProxy, which mount only its own volumes; their security contexts are complete.
pub(crate) fn containers(containers: &Value, volumes: &BTreeSet<String>) -> Vec<Breach> {
    let mut out = Vec::new();
    let mut names: BTreeSet<&str> = CONTAINERS.into();
    for (index, one) in list(containers).enumerate() {
        let at = FieldPath::root().index(index);
        let name = one["name"].as_str().unwrap_or_default();
        if !names.insert(name) {
            out.push(Breach { at: at.key("name"), why: format!("there is a container {name:?} already") });
        }
        out.extend(below(&at, container(one)));
        out.extend(below(&at.key("securityContext"), container_security(&one["securityContext"])));
        out.extend(below(&at.key("volumeMounts"), mounts(&one["volumeMounts"], volumes, &[])));
    }
    out
}

/// Names of volumes.
pub(crate) fn names(volumes: &Value) -> BTreeSet<String> {
    list(volumes).filter_map(|one| one["name"].as_str()).map(str::to_owned).collect()
}

/// Whether Moorgate makes volumes of this name.
pub(crate) fn is_own(name: &str) -> bool {
    let stores = name.strip_prefix(volume::STORE).and_then(|rest| rest.strip_prefix('-'));
    volume::ALL.contains(&name) || stores.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Volumes of an EnvoyProxy.
pub(crate) fn volumes(volumes: &Value) -> Vec<Breach> {
    let mut out = Vec::new();
    let mut names = BTreeSet::new();
    for (index, one) in list(volumes).enumerate() {
        let at = FieldPath::root().index(index);
        let name = one["name"].as_str().unwrap_or_default();
        if is_own(name) {
            let why = format!("pods have a volume {name:?} of Moorgate's own: give it another name");
            out.push(Breach { at: at.key("name"), why });
        } else if !names.insert(name) {
            out.push(Breach { at: at.key("name"), why: format!("there is a volume {name:?} already") });
        }
        for (kind, source) in one.as_object().into_iter().flatten().filter(|(kind, _)| *kind != "name") {
            let at = at.key(kind);
            let why = match kind.as_str() {
                _ if source.is_null() => continue,
                "secret" => "whoever may write an EnvoyProxy would read any Secret of the namespace",
                "csi" => "nobody knows which secrets a driver holds",
                "projected" => {
                    out.extend(below(&at.key("sources"), sources(&source["sources"])));
                    continue;
                }
                known if VOLUMES.contains(&known) => continue,
                _ => "the Pod Security level restricted has no such volumes",
            };
            out.push(Breach { at, why: why.to_owned() });
        }
    }
    out
}

fn sources(sources: &Value) -> Vec<Breach> {
    let mut out = Vec::new();
    for (index, source) in list(sources).enumerate() {
        for (kind, _) in source.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            let why = match kind.as_str() {
                known if SOURCES.contains(&known) => continue,
                "secret" => "whoever may write an EnvoyProxy would read any Secret of the namespace",
                "serviceAccountToken" => {
                    "a token of the fleet's account opens its relay, its store and what it may read"
                }
                _ => "it may hold a secret",
            };
            out.push(Breach { at: FieldPath::root().index(index).key(kind), why: why.to_owned() });
        }
    }
    out
}

/// Mounts of a container: of these volumes, over nothing that is needed. Those in `given` are Moorgate's own.
pub(crate) fn mounts(mounts: &Value, volumes: &BTreeSet<String>, given: &[Value]) -> Vec<Breach> {
    let mut out = Vec::new();
    for (index, mount) in list(mounts).enumerate().filter(|(_, mount)| !given.contains(mount)) {
        let at = FieldPath::root().index(index);
        let name = mount["name"].as_str().unwrap_or_default();
        if !volumes.contains(name) || is_own(name) {
            let why = format!("{name:?} is no volume of the EnvoyProxy");
            out.push(Breach { at: at.key("name"), why });
        }
        let path = mount["mountPath"].as_str().unwrap_or_default();
        if let Some(why) = covers(path) {
            out.push(Breach { at: at.key("mountPath"), why });
        }
        if !mount["mountPropagation"].is_null() && mount["mountPropagation"] != "None" {
            out.push(Breach { at: at.key("mountPropagation"), why: "it has to be None".to_owned() });
        }
    }
    out
}

/// Why nothing may be mounted there.
fn covers(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !path.starts_with('/') || parts.contains(&"..") || path.contains(':') {
        return Some(format!("{path:?} is no absolute path"));
    }
    let is_below =
        |inner: &[&str], outer: &[&str]| inner.len() >= outer.len() && inner[..outer.len()] == *outer;
    let hit = FOLDERS.iter().find(|folder| {
        let folder: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        is_below(&parts, &folder) || is_below(&folder, &parts)
    });
    hit.map(|folder| format!("Envoy needs what is in {folder}"))
}

/// A whole pod: what `restricted` asks for.
pub(super) fn pod(spec: &Value) -> Vec<Breach> {
    let mut out = Vec::new();
    for field in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"] {
        if spec[field] == true {
            out.push(breach(field, "pods share nothing with others, nor their containers with each other"));
        }
    }
    out.extend(below(&FieldPath::parse("securityContext"), pod_security(&spec["securityContext"])));
    for field in ["initContainers", "containers"] {
        for (index, one) in list(&spec[field]).enumerate() {
            let at = FieldPath::root().key(field).index(index);
            out.extend(below(&at.key("securityContext"), container_security(&one["securityContext"])));
        }
    }
    out
}

/// A security context of a container as it will be.
pub(crate) fn complete_container(own: &Value) -> Value {
    container::laid_over(container::security(), &own.as_object().cloned().unwrap_or_default())
}

/// A security context of a pod as it will be.
pub(crate) fn complete_pod(own: &Value) -> Value {
    container::laid_over(super::pod::security(), &own.as_object().cloned().unwrap_or_default())
}

pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests;
