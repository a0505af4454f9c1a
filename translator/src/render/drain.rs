//! How a pod ends: its clients are sent away first.
//!
//! Unless an EnvoyProxy says more, Envoy goes on for some seconds in which load balancers leave it, and stops. If one does
//! (`shutdown`), the relay's program drains it. Envoy's image has nothing that could do so, hence a container lays that
//! program into a volume, where Envoy's container finds it: no port is open by which others could drain Envoy.

use super::container::{self, ENVOY_ADMIN, LEAVE_SECONDS, volume};
use super::shape::Shutdown;
use super::{Fleet, Settings};
use serde_json::{Value, json};
use std::time::Duration;

/// The name of the container that lays the program.
pub(super) const CONTAINER: &str = "drain";
/// Where Envoy's container finds it.
pub(super) const FOLDER: &str = "/opt/moorgate";
/// What the program may need.
const SIZE: &str = "256Mi";
/// How long a pod has to end, unless it drains for longer.
const GRACE_SECONDS: u64 = 30;

/// What is done before Envoy's container is stopped.
pub(super) fn hook(fleet: &Fleet) -> Value {
    let Some(shutdown) = &fleet.shape.shutdown else { return json!({"sleep": {"seconds": LEAVE_SECONDS}}) };
    let time = |flag: &str, time: Duration| format!("--{flag}={}ms", time.as_millis());
    let mut command = vec![
        format!("{FOLDER}/moorgate-relay"),
        "drain".to_owned(),
        format!("--envoy-admin=unix:{ENVOY_ADMIN}"),
        time("at-least", shutdown.at_least),
        time("at-most", shutdown.at_most),
        time("unhealthy-after", shutdown.unhealthy_after),
    ];
    // Probes and scrapers are no clients.
    let apart = [Some(container::health_port(&fleet.ports)), container::stats_port(fleet)];
    command.extend(apart.into_iter().flatten().map(|port| format!("--apart={port}")));
    json!({"exec": {"command": command}})
}

/// Arguments of an Envoy that drains: listeners that go close their connections within that time, too, and all at once, for
/// nobody follows on them.
pub(super) fn arguments(shutdown: &Shutdown) -> [String; 4] {
    let seconds = seconds(shutdown.at_most).max(1).to_string();
    ["--drain-time-s".to_owned(), seconds, "--drain-strategy".to_owned(), "immediate".to_owned()]
}

/// How long a pod has to end, in seconds: what it drains, and as long as any pod has from then on.
pub(super) fn grace(shutdown: Option<&Shutdown>) -> u64 {
    let rest = GRACE_SECONDS - u64::from(LEAVE_SECONDS);
    shutdown.map_or(GRACE_SECONDS, |shutdown| (seconds(shutdown.at_most) + rest).max(GRACE_SECONDS))
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// The volume of the program.
pub(super) fn volume() -> Value {
    json!({"name": volume::DRAIN, "emptyDir": {"sizeLimit": SIZE}})
}

/// Where Envoy's container sees it.
pub(super) fn mount() -> Value {
    json!({"name": volume::DRAIN, "mountPath": FOLDER, "readOnly": true})
}

/// The container that lays the program, if it is needed.
pub(super) fn container(fleet: &Fleet, settings: &Settings) -> Option<Value> {
    fleet.shape.shutdown.map(|_| {
        json!({
            "name": CONTAINER,
            "image": settings.relay_image,
            "args": ["copy-to", FOLDER],
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
            "securityContext": container::security(),
            "volumeMounts": [{"name": volume::DRAIN, "mountPath": FOLDER}],
        })
    })
}
