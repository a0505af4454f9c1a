//! What an EnvoyProxy asks of pods beyond what is passed on as written: whether pods stay as Envoy, its relay and the Pod
//! Security level `restricted` need them. What would break that refuses the parameters; arguments that Envoy cannot have are left out.

use super::check::Fault;
use crate::render::{arguments, probe, rules};
use moorgate_model::{FieldPath, Node, duration};
use rules::Breach;
use serde_json::Value;

/// Everything that is wrong with the pods of this `spec`.
pub(super) fn check(spec: &Node, faults: &mut Vec<Fault>) {
    let Ok(value) = serde_json::to_value(spec.to_json()) else { return };
    let args =
        value["extraArgs"].as_array().into_iter().flatten().map(|arg| arg.as_str().unwrap_or_default());
    let at = FieldPath::parse("extraArgs");
    faults.extend(rules::below(&at, arguments::check(args)).map(|Breach { at, why }| Fault {
        message: format!("no argument is added, because of {at}: {why}"),
        field: at,
        fatal: false,
    }));
    let mut refuse = |at: &FieldPath, found: Vec<Breach>| {
        faults.extend(rules::below(at, found).map(|Breach { at, why }| Fault {
            message: format!("{at} cannot be used: {why}"),
            field: at,
            fatal: true,
        }));
    };
    // Parts of a whole that other parameters complete name what these do not have.
    let whole = !["StrategicMerge", "JSONMerge"].contains(&value["mergeType"].as_str().unwrap_or_default());
    for kind in ["envoyDaemonSet", "envoyDeployment"] {
        let workload = &value["provider"]["kubernetes"][kind];
        let at = FieldPath::parse("provider.kubernetes").key(kind);
        let (pod, container) = (&workload["pod"], &workload["container"]);
        let security = rules::complete_pod(&pod["securityContext"]);
        let (at_pod, at_container) = (at.key("pod"), at.key("container"));
        refuse(&at_pod.key("securityContext"), rules::pod_security(&security));
        refuse(&at_pod.key("volumes"), rules::volumes(&pod["volumes"]));
        let own = rules::complete_container(&container["securityContext"]);
        refuse(&at_container.key("securityContext"), rules::envoy_security(&own, &security));
        let mut volumes = rules::names(&pod["volumes"]);
        let mut inits = workload["initContainers"].clone();
        if !whole {
            for list in [&container["volumeMounts"]]
                .into_iter()
                .chain(rules::list(&inits).map(|one| &one["volumeMounts"]))
            {
                volumes.extend(rules::names(list).into_iter().filter(|name| !rules::is_own(name)));
            }
        }
        refuse(&at_container.key("volumeMounts"), rules::mounts(&container["volumeMounts"], &volumes, &[]));
        for one in inits.as_array_mut().into_iter().flatten().filter(|one| one.is_object()) {
            one["securityContext"] = rules::complete_container(&one["securityContext"]);
        }
        refuse(&at.key("initContainers"), rules::containers(&inits, &volumes));
    }
    ends(&value["shutdown"], faults);
    let patches = ["envoyDaemonSet", "envoyDeployment", "envoyService", "envoyHpa", "envoyPDB"];
    for kind in patches {
        let patch = &value["provider"]["kubernetes"][kind]["patch"];
        if patch.is_object() && !patch["value"].is_object() {
            let at = FieldPath::parse("provider.kubernetes").key(kind).key("patch");
            faults.push(Fault { message: format!("{at} has no value"), field: at, fatal: true });
        }
    }
    let patched = patches.iter().any(|kind| value["provider"]["kubernetes"][*kind]["patch"].is_object());
    // A patch is judged by what it makes, and of parts of a whole by what the whole makes.
    if patched && whole && !faults.iter().any(|fault| fault.fatal) {
        faults.extend(probe::check(&value).into_iter().map(|(at, message)| Fault {
            field: at,
            message,
            fatal: true,
        }));
    }
}

/// How long pods drain.
fn ends(shutdown: &Value, faults: &mut Vec<Fault>) {
    let time = |field: &str| shutdown[field].as_str().and_then(duration::parse);
    let most = time("drainTimeout").unwrap_or(std::time::Duration::from_mins(1));
    for field in ["minDrainDuration", "healthCheckFailureDelay"] {
        if time(field).is_some_and(|time| time > most) {
            let at = FieldPath::parse("shutdown").key(field);
            let message = format!("{at} has no effect: no pod drains for longer than drainTimeout");
            faults.push(Fault { field: at, message, fatal: false });
        }
    }
}
