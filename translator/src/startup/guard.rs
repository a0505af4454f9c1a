//! What a user's bootstrap must not change: how a fleet finds its relay, and how others see whether it does.

use super::Said;
use super::own::said;
use crate::xds::{LOCAL, READY};
use moorgate_model::FieldPath;
use moorgate_policies::RELAY_CLUSTER as RELAY;
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// Places that stay as they are, and why.
const FIXED: [(&str, &str); 3] = [
    ("node.id", "by it a relay tells Envoys of a fleet apart"),
    ("node.cluster", "it is the name of the fleet"),
    ("admin.address", "whoever reaches it can stop Envoy, and the relay looks for it where it is"),
];

/// The bound of regular expressions: the translator has its own, and below that Envoy would refuse a whole table.
const PROGRAM_SIZE: &str = "re2.max_program_size.error_level";

/// Items of a list with this name.
pub(super) fn named<'j>(json: &'j Json, list: &str, name: &str) -> Vec<&'j Json> {
    items(json, list).iter().filter(|item| item["name"] == name).collect()
}

/// A list below `static_resources`, or at another pointer.
pub(super) fn items<'j>(json: &'j Json, pointer: &str) -> &'j [Json] {
    json.pointer(pointer).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

pub(super) const CLUSTERS: &str = "/static_resources/clusters";
pub(super) const LISTENERS: &str = "/static_resources/listeners";

/// Compares what came of a bootstrap with what it was. Of the time that Envoy waits for its first configuration, ours is put
/// back: with another one an Envoy whose relay is not there yet serves nothing and calls itself ready.
pub(super) fn keep(
    base: &Json,
    made: &mut Json,
    field: &FieldPath,
    notes: &mut Vec<Said>,
) -> Result<(), Said> {
    let stays = |what: &str, why: &str| Err(said(field, format!("{what} cannot be changed: {why}")));
    for (name, why) in FIXED {
        let pointer = format!("/{}", name.replace('.', "/"));
        if base.pointer(&pointer) != made.pointer(&pointer) {
            return stays(name, why);
        }
    }
    let (ours, theirs) = (&base["dynamic_resources"], &made["dynamic_resources"]);
    if ours != theirs {
        if patient(ours) != patient(theirs) {
            return stays("dynamic_resources", "by it the fleet finds its relay");
        }
        made["dynamic_resources"] = ours.clone();
        let message = "initial_fetch_timeout has no effect: an Envoy whose relay is not there yet would serve nothing and \
                       call itself ready";
        notes.push(said(field, message));
    }
    for (list, name, why) in [
        (CLUSTERS, RELAY, "it is how the fleet finds its relay"),
        (CLUSTERS, LOCAL, "it stands for the fleet's own zone"),
        (LISTENERS, READY, "probes of the pod are answered there"),
    ] {
        if named(base, list, name) != named(made, list, name) {
            return stays(&format!("{name} of {}", list.trim_start_matches('/').replace('/', ".")), why);
        }
    }
    if program_size(made) != program_size(base) {
        return stays(PROGRAM_SIZE, "Envoy would refuse tables with longer expressions as a whole");
    }
    Ok(())
}

/// The same without how long Envoy waits.
fn patient(resources: &Json) -> Json {
    let mut out = resources.clone();
    for source in ["cds_config", "lds_config"] {
        if let Some(fields) = out.get_mut(source).and_then(Json::as_object_mut) {
            fields.remove("initial_fetch_timeout");
        }
    }
    out
}

/// What the last layer that says it has for the bound; layers behind it may be changed while Envoy runs.
fn program_size(json: &Json) -> Option<&Json> {
    let layers = items(json, "/layered_runtime/layers").iter().rev();
    layers.filter_map(|layer| layer.get("static_layer")).find_map(|layer| setting(layer, PROGRAM_SIZE))
}

/// A setting of a layer, whose names may be cut at any dot.
fn setting<'j>(layer: &'j Json, name: &str) -> Option<&'j Json> {
    if let Some(found) = layer.get(name) {
        return Some(found);
    }
    let cuts = name.match_indices('.');
    cuts.rev().find_map(|(cut, _)| setting(layer.get(name.get(..cut)?)?, name.get(cut + 1..)?))
}

/// Lists whose items Envoy wants to have names of their own.
const UNIQUE: [&str; 5] = [
    CLUSTERS,
    "/layered_runtime/layers",
    "/overload_manager/actions",
    "/overload_manager/resource_monitors",
    LISTENERS,
];

/// What Envoy refuses at its start, and descriptors do not know: names that are not unique, and ports that somebody has.
pub(super) fn sound(made: &Json, taken: &[u16]) -> Result<(), String> {
    for list in UNIQUE {
        let mut names = BTreeSet::new();
        for name in items(made, list).iter().filter_map(|item| item["name"].as_str()) {
            if !names.insert(name) {
                let list = list.trim_start_matches('/').replace('/', ".");
                return Err(format!("{list} has {name:?} twice, which Envoy does not take"));
            }
        }
    }
    let mut ports: BTreeSet<u64> = taken.iter().copied().map(u64::from).collect();
    for listener in items(made, LISTENERS) {
        // That of probes is what the port is kept for.
        if listener["name"] == READY {
            continue;
        }
        let address = &listener["address"]["socket_address"];
        let port = address["port_value"].as_u64().filter(|_| address["protocol"] != "UDP");
        if let Some(port) = port.filter(|port| !ports.insert(*port)) {
            return Err(format!(
                "listener {} is on port {port}, which is taken in its pod",
                listener["name"]
            ));
        }
    }
    Ok(())
}
