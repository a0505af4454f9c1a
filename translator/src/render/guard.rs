//! What a patch may not change: by what objects of a fleet are found, who its pods are, and that these run Envoy and its relay
//! under the Pod Security level `restricted`.

use super::container::{self, volume};
use super::metadata::{CONTROLLER_ANNOTATION, FLEET_ANNOTATION, FLEET_LABEL, MANAGED_BY_LABEL};
use super::rules::{self, Breach, list};
use super::{arguments, drain, pod};
use moorgate_model::FieldPath;
use serde_json::Value;
use std::collections::BTreeSet;

/// Where the pod stands in its workload.
const AT: &str = "spec.template.spec";
/// Fields of a pod that are Moorgate's: who it is, and what it is given.
const POD: [&str; 4] =
    ["automountServiceAccountToken", "serviceAccount", "serviceAccountName", "restartPolicy"];
/// Fields of the relay's container, and of what lays the program that drains, that may be changed.
const FREE: [&str; 4] =
    ["imagePullPolicy", "resources", "terminationMessagePath", "terminationMessagePolicy"];
/// What Envoy's container mounts of Moorgate's own: no token of the relay's, nor its key or cache.
const MOUNTS: [(&str, &str); 4] = [
    (volume::SOCKETS, container::SOCKETS),
    (volume::CONFIG, container::CONFIG),
    (volume::RELAY_TOKEN, container::RELAY_TOKEN),
    (volume::DRAIN, drain::FOLDER),
];
/// Labels by which objects are found, beside those that select.
const LABELS: [&str; 2] = [FLEET_LABEL, MANAGED_BY_LABEL];
/// Annotations by which they are.
const ANNOTATIONS: [&str; 3] = [CONTROLLER_ANNOTATION, FLEET_ANNOTATION, pod::CONFIG_ANNOTATION];

/// What is not as it has to be in a manifest that was `before`.
pub(super) fn check(before: &Value, after: &Value) -> Vec<Breach> {
    let mut guard = Guard { out: Vec::new() };
    guard.only(after, "", &["apiVersion", "kind", "metadata", "spec"]);
    for field in ["apiVersion", "kind"] {
        guard.same(before, after, field);
    }
    guard.metadata(&before["metadata"], &after["metadata"], "metadata", &before["spec"]["selector"]);
    guard.only(
        &after["metadata"],
        "metadata",
        &["annotations", "labels", "name", "namespace", "ownerReferences"],
    );
    for field in ["metadata.name", "metadata.namespace", "metadata.ownerReferences"] {
        guard.same(before, after, field);
    }
    match before["kind"].as_str() {
        Some("Deployment" | "DaemonSet") => guard.workload(before, after),
        Some("Service") => guard.service(&before["spec"], &after["spec"]),
        Some("HorizontalPodAutoscaler") => guard.same(before, after, "spec.scaleTargetRef"),
        _ => guard.same(before, after, "spec.selector"),
    }
    // What no patch touched is for the API server to judge.
    if guard.out.is_empty()
        && before != after
        && let Some(why) = super::types::unknown(after)
    {
        guard.refuse("", why);
    }
    guard.out
}

struct Guard {
    out: Vec<Breach>,
}

impl Guard {
    fn refuse(&mut self, at: &str, why: impl Into<String>) {
        let at = if at.is_empty() { FieldPath::root() } else { FieldPath::parse(at) };
        self.out.push(Breach { at, why: why.into() });
    }

    fn take(&mut self, at: &str, found: Vec<Breach>) {
        self.out.extend(rules::below(&FieldPath::parse(at), found));
    }

    fn same(&mut self, before: &Value, after: &Value, at: &str) {
        let pointer = format!("/{}", at.replace('.', "/"));
        if before.pointer(&pointer) != after.pointer(&pointer) {
            self.refuse(at, "a patch may not change it");
        }
    }

    fn only(&mut self, value: &Value, at: &str, fields: &[&str]) {
        for field in value.as_object().into_iter().flatten().map(|(field, _)| field) {
            if !fields.contains(&field.as_str()) {
                let at = if at.is_empty() { field.clone() } else { format!("{at}.{field}") };
                self.refuse(&at, "a patch may not set it");
            }
        }
    }

    fn metadata(&mut self, before: &Value, after: &Value, at: &str, selector: &Value) {
        let selector = selector["matchLabels"].as_object().or_else(|| selector.as_object());
        let selected = selector.into_iter().flatten().map(|(label, _)| label.as_str());
        let labels: BTreeSet<&str> = selected.chain(LABELS).collect();
        for (kind, names) in [("labels", labels), ("annotations", ANNOTATIONS.into())] {
            for name in names.iter().filter(|name| before[kind][*name] != after[kind][*name]) {
                self.refuse(
                    &format!("{at}.{kind}"),
                    format!("a patch may not change {name}, by which it is found"),
                );
            }
        }
    }

    fn service(&mut self, before: &Value, after: &Value) {
        if before["selector"] != after["selector"] {
            self.refuse("spec.selector", "a patch may not change it");
        }
        if after["type"] == "ExternalName" {
            self.refuse("spec.type", "it has to lead to the fleet's pods");
        }
        if list(&after["externalIPs"]).next().is_some() {
            self.refuse("spec.externalIPs", "they would take traffic that is meant for others");
        }
        let same = |one: &Value, other: &Value| {
            one["port"] == other["port"]
                && protocol(one) == protocol(other)
                && one["targetPort"] == other["targetPort"]
        };
        for port in list(&before["ports"]) {
            if !list(&after["ports"]).any(|other| same(port, other)) {
                self.refuse("spec.ports", format!("port {} has to lead to its listener", port["port"]));
            }
        }
    }

    fn workload(&mut self, before: &Value, after: &Value) {
        self.same(before, after, "spec.selector");
        let (old, new) = (&before["spec"]["template"], &after["spec"]["template"]);
        self.metadata(
            &old["metadata"],
            &new["metadata"],
            "spec.template.metadata",
            &before["spec"]["selector"],
        );
        self.only(new, "spec.template", &["metadata", "spec"]);
        self.only(&new["metadata"], "spec.template.metadata", &["annotations", "labels"]);
        let (old, new) = (&old["spec"], &new["spec"]);
        for field in POD.iter().filter(|field| old[**field] != new[**field]) {
            self.refuse(&format!("{AT}.{field}"), "a patch may not change it");
        }
        self.take(AT, rules::pod(new));
        let is_own = |one: &Value| one["name"].as_str().is_some_and(rules::is_own);
        for volume in list(&old["volumes"]).filter(|volume| is_own(volume)) {
            if list(&new["volumes"]).all(|other| other != volume) {
                self.refuse(
                    &format!("{AT}.volumes"),
                    format!("a patch may not change volume {}", volume["name"]),
                );
            }
        }
        let others: Vec<&Value> = list(&new["volumes"]).filter(|one| !is_own(one)).collect();
        self.take(&format!("{AT}.volumes"), rules::volumes(&serde_json::json!(others)));
        if list(&new["volumes"]).count() != rules::names(&new["volumes"]).len() {
            self.refuse(&format!("{AT}.volumes"), "two volumes have one name");
        }
        self.claims(old, new);
        let mut volumes = rules::names(&new["volumes"]);
        volumes.retain(|name| !rules::is_own(name));
        for field in ["initContainers", "containers"] {
            self.containers(&old[field], new, field, &volumes);
        }
    }

    /// A store on a claim is the relay's alone.
    fn claims(&mut self, old: &Value, new: &Value) {
        let claim = |volume: &Value| volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned);
        let is_own = |one: &&Value| one["name"].as_str().is_some_and(rules::is_own);
        let own: BTreeSet<String> = list(&old["volumes"]).filter(is_own).filter_map(claim).collect();
        let taken = list(&new["volumes"]).filter(|one| !is_own(one)).filter_map(claim);
        for claim in taken.filter(|claim| own.contains(claim)) {
            self.refuse("spec.template.spec.volumes", format!("claim {claim} is that of the store"));
        }
    }

    fn containers(&mut self, old: &Value, spec: &Value, field: &str, volumes: &BTreeSet<String>) {
        let at = format!("spec.template.spec.{field}");
        let is_own = |one: &Value| one["name"].as_str().is_some_and(|name| rules::CONTAINERS.contains(&name));
        for own in list(old).filter(|one| is_own(one)) {
            let mut found = list(&spec[field]).enumerate().filter(|(_, one)| one["name"] == own["name"]);
            match (found.next(), found.next()) {
                (Some((index, one)), None) if own["name"] == "envoy" => {
                    self.envoy(own, one, spec, (&format!("{at}[{index}]"), volumes));
                }
                (Some((_, one)), None) if fixed(own) == fixed(one) => {}
                _ => self.refuse(&at, format!("a patch may not change container {}", own["name"])),
            }
        }
        let names: BTreeSet<&str> = list(old).filter_map(|one| one["name"].as_str()).collect();
        for (index, one) in list(&spec[field]).enumerate() {
            let name = one["name"].as_str().unwrap_or_default();
            if is_own(one) && names.contains(name) {
                continue;
            }
            let found = rules::containers(&serde_json::json!([one]), volumes);
            let place = FieldPath::parse(&format!("{at}[{index}]"));
            // It stands alone in that list.
            self.out.extend(found.into_iter().map(|one| {
                let tail = one.at.segments().iter().skip(1).cloned();
                let mut at = place.clone();
                tail.for_each(|segment| at.push(segment));
                Breach { at, ..one }
            }));
        }
    }

    fn envoy(&mut self, old: &Value, new: &Value, spec: &Value, (at, volumes): (&str, &BTreeSet<String>)) {
        if old["command"] != new["command"] {
            self.refuse(&format!("{at}.command"), "a patch may not change it");
        }
        let (own, args) = (args(old), args(new));
        match args.strip_prefix(own.as_slice()) {
            Some(more) => self.take(&format!("{at}.args"), arguments::check(more.iter().copied())),
            None => {
                self.refuse(&format!("{at}.args"), "a patch may only add to them (extraArgs does so, too)");
            }
        }
        for variable in list(&old["env"]).filter(|one| one["name"] == "POD_NAME" || one["name"] == "ZONE") {
            if !list(&new["env"]).any(|other| other == variable) {
                self.refuse(&format!("{at}.env"), format!("a patch may not change {}", variable["name"]));
            }
        }
        if old["readinessProbe"]["httpGet"] != new["readinessProbe"]["httpGet"] {
            self.refuse(&format!("{at}.readinessProbe"), "the pod is ready when Envoy has its configuration");
        }
        let is_own = |mount: &&Value| {
            MOUNTS.iter().any(|(name, path)| mount["name"] == *name && mount["mountPath"] == *path)
        };
        let given: Vec<Value> = list(&old["volumeMounts"]).filter(is_own).cloned().collect();
        for mount in given.iter().filter(|mount| !list(&new["volumeMounts"]).any(|other| other == *mount)) {
            self.refuse(&format!("{at}.volumeMounts"), format!("{} has to stay mounted", mount["mountPath"]));
        }
        self.take(&format!("{at}.volumeMounts"), rules::mounts(&new["volumeMounts"], volumes, &given));
        self.take(at, rules::container(new));
        let security = rules::envoy_security(&new["securityContext"], &spec["securityContext"]);
        // The rest was found with the pod.
        let security = security.into_iter().filter(|one| one.why.starts_with("Envoy runs")).collect();
        self.take(&format!("{at}.securityContext"), security);
    }
}

/// What of a container a patch may not change.
fn fixed(container: &Value) -> Value {
    let mut fixed = container.clone();
    if let Some(fields) = fixed.as_object_mut() {
        fields.retain(|field, _| !FREE.contains(&field.as_str()));
    }
    fixed
}

fn args(container: &Value) -> Vec<&str> {
    list(&container["args"]).map(|arg| arg.as_str().unwrap_or_default()).collect()
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

#[cfg(test)]
mod tests;
