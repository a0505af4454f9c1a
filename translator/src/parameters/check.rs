//! What is wrong with an EnvoyProxy, and which of its fields have no effect.

use super::fields::{Field, SPEC};
use super::pods;
use crate::startup;
use crate::validate::nearest;
use moorgate_model::{FieldPath, Node, Value, duration};

/// Envoy's log levels, as Envoy Gateway writes them.
const LOG_LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

/// Something about one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The field, from `spec` on.
    pub(crate) field: FieldPath,
    /// In one sentence.
    pub(crate) message: String,
    /// Nothing can be made of the parameters. Otherwise the field has no effect, and the others have theirs.
    pub(crate) fatal: bool,
}

/// Checks the `spec` of an EnvoyProxy.
pub(crate) fn check(spec: &Node) -> Vec<Fault> {
    let mut faults = Vec::new();
    walk(spec, &SPEC, &FieldPath::root(), &mut faults);
    together(spec, &mut faults);
    // Of what is no EnvoyProxy at all no pods can be thought of.
    if faults.iter().all(|fault| !fault.fatal) {
        faults.extend(startup::check(spec));
        pods::check(spec, &mut faults);
    }
    faults
}

fn walk(node: &Node, field: &Field, at: &FieldPath, faults: &mut Vec<Fault>) {
    if matches!(node.value, Value::Null) {
        return;
    }
    let shown = || if at.is_root() { "spec".to_owned() } else { at.to_string() };
    let mut wrong = |wanted: &str| {
        let message = format!("{} is a {}, not {wanted}", shown(), node.type_name());
        faults.push(Fault { field: at.clone(), message, fatal: true });
    };
    match field {
        Field::Part(known) => match node.as_mapping() {
            Some(fields) => {
                for entry in fields.entries() {
                    let at = at.key(&entry.key);
                    match known.iter().find(|(name, _)| **name == *entry.key) {
                        Some((_, field)) => walk(&entry.value, field, &at, faults),
                        None => faults.push(unknown(&at, &entry.key, known)),
                    }
                }
            }
            None => wrong("an object"),
        },
        Field::Items(known) => match node.as_sequence() {
            Some(items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(item, &Field::Part(known), &at.index(index), faults);
                }
            }
            None => wrong("an array"),
        },
        Field::Text(choices) => match node.as_str() {
            Some(text) if choices.is_empty() || choices.contains(&text) => {}
            Some(_) => wrong(&format!("one of {}", choices.join(", "))),
            None => wrong("a string"),
        },
        Field::Level => match node.as_str() {
            Some(text) if LOG_LEVELS.contains(&text) => {}
            _ => wrong(&format!("one of {}", LOG_LEVELS.join(", "))),
        },
        Field::Number(least) => match node.as_int() {
            Some(number) if number >= *least => {}
            Some(_) => wrong(&format!("at least {least}")),
            None => wrong("an integer"),
        },
        Field::Duration => match node.as_str().map(duration::parse) {
            Some(Some(_)) => {}
            _ => wrong("a duration such as 90s or 1m30s"),
        },
        Field::Name { service } => match node.as_str() {
            Some(name) if is_name(name, *service) => {}
            _ if *service => wrong("the name of a Service: up to 63 small letters, digits and dashes"),
            _ => wrong("the name of an object: small letters, digits, dashes and dots"),
        },
        Field::Scalar => {
            if matches!(node.value, Value::Mapping(_) | Value::Sequence(_)) {
                wrong("a scalar");
            }
        }
        Field::Texts => match node.as_mapping() {
            Some(fields) if fields.entries().iter().all(|entry| entry.value.as_str().is_some()) => {}
            _ => wrong("an object of strings"),
        },
        Field::Object if node.as_mapping().is_none() => wrong("an object"),
        Field::List if node.as_sequence().is_none() => wrong("an array"),
        Field::Flag | Field::Always(_) if node.as_bool().is_none() => wrong("a boolean"),
        Field::Flag | Field::Object | Field::List => {}
        Field::Always(_) if node.as_bool() == Some(true) => {}
        Field::Ignored(why) | Field::Always(why) => faults.push(no_effect(at, why)),
    }
}

/// A name that Kubernetes takes (RFC 1035 for a Service, RFC 1123 for others), and that no relays have.
fn is_name(name: &str, service: bool) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let part = |part: &str| {
        part.starts_with(edge) && part.ends_with(edge) && part.chars().all(|c| edge(c) || c == '-')
    };
    let fits = if service {
        name.len() <= 63 && part(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
    } else {
        name.len() <= 253 && name.split('.').all(part)
    };
    fits && !crate::render::is_of_relays(name)
}

fn no_effect(at: &FieldPath, why: &str) -> Fault {
    Fault { field: at.clone(), message: format!("{at} has no effect: {why}"), fatal: false }
}

fn unknown(at: &FieldPath, name: &str, known: &[(&'static str, Field)]) -> Fault {
    let near = nearest(name, known.iter().map(|(name, _)| *name));
    let meant = near.map(|near| format!("; is {near} meant?")).unwrap_or_default();
    Fault { field: at.clone(), message: format!("{at} is not known and has no effect{meant}"), fatal: false }
}

/// Fields that do not go together.
fn together(spec: &Node, faults: &mut Vec<Fault>) {
    let merges_backends = spec.get("mergeBackends").is_some_and(|found| found.value != Value::Null);
    if merges_backends && spec.get("mergeGateways").and_then(Node::as_bool) == Some(true) {
        let message = "mergeGateways and mergeBackends cannot both be enabled".to_owned();
        faults.push(Fault { field: FieldPath::parse("mergeGateways"), message, fatal: true });
    }
    let at = FieldPath::parse("provider.kubernetes");
    let Some(kubernetes) = spec.at(&at) else { return };
    let has =
        |path: &str| kubernetes.at(&FieldPath::parse(path)).is_some_and(|node| node.value != Value::Null);
    for workload in ["envoyDaemonSet", "envoyDeployment"] {
        let container = at.key(workload).key("container");
        let both = ["image", "imageRepository"].map(|name| spec.at(&container.key(name)).is_some());
        if both == [true, true] {
            let message = "image and imageRepository are both set".to_owned();
            faults.push(Fault { field: container.key("imageRepository"), message, fatal: true });
        }
        let field = container.key("env");
        let entries = spec.at(&field).and_then(Node::as_sequence).unwrap_or_default();
        for (index, entry) in entries.iter().enumerate() {
            if entry.at(&FieldPath::parse("valueFrom.secretKeyRef")).is_some() {
                // Whoever may write an EnvoyProxy would read any Secret of the namespace.
                faults.push(no_effect(&field.index(index), "values of Secrets are put into no environment"));
            }
        }
    }
    let daemon_set = has("envoyDaemonSet");
    if daemon_set && has("envoyDeployment") {
        let message = "envoyDaemonSet and envoyDeployment are both set".to_owned();
        faults.push(Fault { field: at.key("envoyDaemonSet"), message, fatal: true });
    }
    if daemon_set && has("envoyHpa") {
        faults.push(no_effect(&at.key("envoyHpa"), "a DaemonSet has a pod on each node"));
    }
    if has("envoyHpa") && has("envoyDeployment.replicas") {
        let field = at.key("envoyDeployment").key("replicas");
        faults.push(no_effect(&field, "the autoscaler decides how many there are"));
    }
    let service = at.key("envoyService");
    let kind = spec.at(&service.key("type")).and_then(Node::as_str).unwrap_or("LoadBalancer");
    let lacks = format!("a Service of type {kind} has no such field");
    for name in
        ["allocateLoadBalancerNodePorts", "loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges"]
    {
        if kind != "LoadBalancer" && has(&format!("envoyService.{name}")) {
            // Without the ranges more could connect than are meant to.
            let fatal = name == "loadBalancerSourceRanges";
            faults.push(Fault { fatal, ..no_effect(&service.key(name), &lacks) });
        }
    }
    if kind == "ClusterIP" && has("envoyService.externalTrafficPolicy") {
        faults.push(no_effect(&service.key("externalTrafficPolicy"), &lacks));
    }
}
