//! A user's bootstrap in the place of Moorgate's: what a fleet lives by is put into it, and what was for another control plane
//! is left out.
//!
//! Who moves here may have a copy of Envoy Gateway's bootstrap in git. It keeps its meaning but for how configuration comes.

use super::Said;
use super::guard::{CLUSTERS, LISTENERS, items, named};
use super::own::{said, value};
use crate::xds::{LOCAL, READY, STATS};
use moorgate_policies::RELAY_CLUSTER as RELAY;
use serde_json::{Value as Json, json};
use std::collections::BTreeSet;

/// Listeners of Envoy Gateway's own bootstrap, by the beginnings of their names, and the cluster behind them.
const OLD_LISTENERS: [&str; 2] = ["envoy-gateway-proxy-stats", "envoy-gateway-proxy-ready"];
const OLD_STATS: &str = "prometheus_stats";
/// The cluster of Envoy Gateway's own control plane.
const OLD_CONTROL_PLANE: &str = "xds_cluster";

/// The user's bootstrap with what is Moorgate's own. Both have the field names of the .proto files.
pub(super) fn apply(base: &Json, mut user: Json, notes: &mut Vec<Said>) -> Json {
    let mut note = |message: String| notes.push(said(&value(), message));
    node(base, &mut user, &mut note);
    admin(base, &mut user, &mut note);
    let gone = control_plane(base, &mut user, &mut note);
    clusters(&gone, &mut user, &mut note);
    listeners(&mut user, &mut note);
    additions(base, &mut user);
    user
}

fn node(base: &Json, user: &mut Json, note: &mut impl FnMut(String)) {
    for field in ["id", "cluster"] {
        let (ours, theirs) = (&base["node"][field], &user["node"][field]);
        if theirs.as_str().is_some_and(|text| !text.is_empty()) && theirs != ours {
            note(format!("node.{field} is Moorgate's own"));
        }
        user["node"][field] = ours.clone();
    }
    if user["node"]["locality"].to_string().contains("$(") {
        if let Some(node) = user["node"].as_object_mut() {
            node.remove("locality");
        }
        note("node.locality is left out: nobody fills in its variable here".to_owned());
    }
    if let Some(locality) = base["node"].get("locality") {
        user["node"]["locality"] = locality.clone();
    }
}

/// The admin interface stays where it is, and clusters that lead there still do.
fn admin(base: &Json, user: &mut Json, note: &mut impl FnMut(String)) {
    let ours = base["admin"]["address"].clone();
    let theirs = user["admin"]["address"].clone();
    for (field, ours) in base["admin"].as_object().into_iter().flatten() {
        if field == "address" || user["admin"][field].is_null() {
            user["admin"][field] = ours.clone();
        }
    }
    if theirs.is_null() || theirs == ours {
        return;
    }
    note(
        "admin.address stays where the relay looks for it; clusters that lead there are led to it".to_owned(),
    );
    let clusters = user.pointer_mut(CLUSTERS).and_then(Json::as_array_mut);
    for cluster in clusters.into_iter().flatten() {
        let endpoints = cluster.pointer_mut("/load_assignment/endpoints").and_then(Json::as_array_mut);
        let members = endpoints
            .into_iter()
            .flatten()
            .filter_map(|locality| locality.get_mut("lb_endpoints")?.as_array_mut());
        for address in members.flatten().filter_map(|member| member.pointer_mut("/endpoint/address")) {
            if *address == theirs {
                *address = ours.clone();
            }
        }
    }
}

/// Where configuration comes from. The names of clusters by which it came before.
fn control_plane(base: &Json, user: &mut Json, note: &mut impl FnMut(String)) -> BTreeSet<String> {
    let theirs = user["dynamic_resources"].take();
    user["dynamic_resources"] = base["dynamic_resources"].clone();
    let mut gone = BTreeSet::from([OLD_CONTROL_PLANE.to_owned(), RELAY.to_owned(), LOCAL.to_owned()]);
    if !theirs.is_null() && theirs != base["dynamic_resources"] {
        note("dynamic_resources was for another control plane, and is Moorgate's own".to_owned());
        let services = items(&theirs, "/ads_config/grpc_services").iter();
        let names = services.filter_map(|service| service["envoy_grpc"]["cluster_name"].as_str());
        gone.extend(names.map(str::to_owned));
    }
    gone
}

fn clusters(gone: &BTreeSet<String>, user: &mut Json, note: &mut impl FnMut(String)) {
    let local = user["cluster_manager"]["local_cluster_name"].as_str().map(str::to_owned);
    let mut without_local = false;
    if let Some(list) = user.pointer_mut(CLUSTERS).and_then(Json::as_array_mut) {
        list.retain(|cluster| {
            let name = cluster["name"].as_str().unwrap_or_default();
            let why = if gone.contains(name) {
                "was for another control plane, or has the name of one of Moorgate's own"
            } else if cluster["type"] == "EDS" {
                "has endpoints of a control plane, and no relay knows them"
            } else {
                return true;
            };
            without_local |= local.as_deref() == Some(name);
            note(format!("cluster {name:?} is left out: it {why}"));
            false
        });
    }
    if without_local && let Some(manager) = user["cluster_manager"].as_object_mut() {
        manager.remove("local_cluster_name");
    }
}

/// Envoy Gateway's listeners for probes and scrapers would be on ports of Moorgate's.
fn listeners(user: &mut Json, note: &mut impl FnMut(String)) {
    let mut old = false;
    if let Some(list) = user.pointer_mut(LISTENERS).and_then(Json::as_array_mut) {
        list.retain(|listener| {
            let name = listener["name"].as_str().unwrap_or_default();
            let found = OLD_LISTENERS.iter().any(|start| name.starts_with(start));
            if found {
                note(format!("listener {name:?} is left out: Moorgate's own take its place"));
            }
            old |= found;
            !found && ![STATS, READY].contains(&name)
        });
    }
    if let Some(list) = user.pointer_mut(CLUSTERS).and_then(Json::as_array_mut).filter(|_| old) {
        list.retain(|cluster| cluster["name"] != OLD_STATS);
    }
}

/// What of Moorgate's is put in: how the relay is found and probes are answered always, and the rest where the user says nothing.
fn additions(base: &Json, user: &mut Json) {
    let sinks = user.get("stats_sinks").is_none();
    let collectors: BTreeSet<&str> = items(base, "/stats_sinks")
        .iter()
        .filter(|_| sinks)
        .filter_map(|sink| sink.pointer("/typed_config/grpc_service/envoy_grpc/cluster_name")?.as_str())
        .collect();
    let ours = |cluster: &&Json| {
        let name = cluster["name"].as_str().unwrap_or_default();
        [RELAY, LOCAL, STATS].contains(&name) || collectors.contains(name)
    };
    let mut clusters: Vec<Json> = items(base, CLUSTERS).iter().filter(ours).cloned().collect();
    clusters.extend(items(user, CLUSTERS).iter().filter(|cluster| !ours(cluster)).cloned());
    let mut listeners: Vec<Json> = items(user, LISTENERS).to_vec();
    let own = [STATS, READY].into_iter().flat_map(|name| named(base, LISTENERS, name));
    listeners.extend(own.cloned());
    user["static_resources"]["clusters"] = clusters.into();
    user["static_resources"]["listeners"] = listeners.into();
    for field in ["stats_sinks", "overload_manager"] {
        if let (None, Some(ours)) = (user.get(field), base.get(field)) {
            user[field] = ours.clone();
        }
    }
    if let (None, Some(ours)) =
        (user["stats_config"].get("stats_matcher"), base["stats_config"].get("stats_matcher"))
    {
        user["stats_config"]["stats_matcher"] = ours.clone();
    }
    if let Some(local) = base.get("cluster_manager") {
        user["cluster_manager"]["local_cluster_name"] = local["local_cluster_name"].clone();
    }
    // The last layer wins.
    let layers = items(base, "/layered_runtime/layers").to_vec();
    let mine = |layer: &&Json| layers.iter().any(|own| own["name"] == layer["name"]);
    let theirs = items(user, "/layered_runtime/layers").iter().filter(|layer| !mine(layer)).cloned();
    let all: Vec<Json> = theirs.chain(layers.iter().cloned()).collect();
    user["layered_runtime"] = json!({"layers": all});
    if let Some(fields) = user.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
    }
}
