//! A pod's status, from its board.

use super::Place;
use super::board::{Board, Doing, Ended, Line};
use crate::cluster::names::condition;
use crate::cluster::network::Sandbox;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

/// Whether it is a container that starts before the others and stays.
pub(super) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn ended(end: &Ended) -> Value {
    let reason = if end.code == 0 { "Completed" } else { "Error" };
    json!({"terminated": {
        "exitCode": end.code, "reason": reason, "startedAt": time(end.started), "finishedAt": time(end.finished),
    }})
}

fn container(container: &Container, line: &Line) -> Value {
    let state = match &line.doing {
        Doing::Waiting(reason, message) => json!({"waiting": {"reason": reason, "message": message}}),
        Doing::Running(since) => json!({"running": {"startedAt": time(*since)}}),
        Doing::Ended(end) => ended(end),
    };
    json!({
        "name": container.name,
        "image": container.image,
        "imageID": container.image,
        "ready": line.ready,
        "started": line.started,
        "restartCount": line.restarts,
        "state": state,
        "lastState": line.before.as_ref().map_or(json!({}), ended),
    })
}

/// What it says as a whole.
struct Whole {
    initialized: bool,
    ready: bool,
    phase: &'static str,
}

fn whole(spec: &PodSpec, board: &Board) -> Whole {
    let first = spec.init_containers.as_deref().unwrap_or_default();
    let done = |container: &Container| {
        let line = board.get(&container.name);
        if is_sidecar(container) {
            return line.started;
        }
        matches!(line.doing, Doing::Ended(Ended { code: 0, .. }))
    };
    let initialized = first.iter().all(done);
    let lines: Vec<Line> = spec.containers.iter().map(|container| board.get(&container.name)).collect();
    let sidecars = first.iter().filter(|container| is_sidecar(container));
    let ready = initialized
        && lines.iter().all(|line| line.ready)
        && sidecars.map(|container| board.get(&container.name)).all(|line| line.ready);
    let codes: Vec<Option<i32>> = lines
        .iter()
        .map(|line| if let Doing::Ended(end) = &line.doing { Some(end.code) } else { None })
        .collect();
    let failed_first = first.iter().any(
        |container| matches!(board.get(&container.name).doing, Doing::Ended(Ended { code, .. }) if code != 0),
    );
    let ran = |line: &Line| !matches!(line.doing, Doing::Waiting(..)) || line.before.is_some();
    let phase = if failed_first {
        "Failed"
    } else if codes.iter().all(Option::is_some) {
        if codes.iter().all(|code| *code == Some(0)) { "Succeeded" } else { "Failed" }
    } else if initialized && lines.iter().all(ran) {
        "Running"
    } else {
        "Pending"
    };
    Whole { initialized, ready, phase }
}

/// The status; times of conditions that did not change are kept.
pub(super) fn status(pod: &Pod, place: &Place, sandbox: Option<&Sandbox>, board: &Board) -> Value {
    let Some(spec) = &pod.spec else { return json!({}) };
    let Whole { initialized, ready, phase } = whole(spec, board);
    let now = crate::cluster::names::now();
    let known = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let conditions: Vec<Value> = [
        ("PodScheduled", true),
        ("PodReadyToStartContainers", sandbox.is_some()),
        ("Initialized", initialized),
        ("ContainersReady", ready),
        ("Ready", ready),
    ]
    .into_iter()
    .map(|(kind, holds)| {
        let status = if holds { "True" } else { "False" };
        let same = known.iter().find(|condition| condition.type_ == kind && condition.status == status);
        let since =
            same.and_then(|condition| condition.last_transition_time.as_ref()).map(|since| time(since.0));
        condition(kind, holds, &since.unwrap_or_else(|| now.clone()))
    })
    .collect();
    let lines = |containers: &[Container]| -> Vec<Value> {
        containers.iter().map(|one| container(one, &board.get(&one.name))).collect()
    };
    let mut status = Map::new();
    status.insert("phase".to_owned(), json!(phase));
    status.insert("conditions".to_owned(), json!(conditions));
    status.insert("hostIP".to_owned(), json!(place.address));
    status.insert("hostIPs".to_owned(), json!([{"ip": place.address}]));
    status.insert("containerStatuses".to_owned(), json!(lines(&spec.containers)));
    if let Some(first) = &spec.init_containers {
        status.insert("initContainerStatuses".to_owned(), json!(lines(first)));
    }
    if let Some(sandbox) = sandbox {
        status.insert("podIP".to_owned(), json!(sandbox.address));
        status.insert("podIPs".to_owned(), json!([{"ip": sandbox.address}]));
    }
    let since = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|since| time(since.0));
    status.insert("startTime".to_owned(), json!(since.unwrap_or(now)));
    if let Some(generation) = pod.metadata.generation {
        status.insert("observedGeneration".to_owned(), json!(generation));
    }
    Value::Object(status)
}
