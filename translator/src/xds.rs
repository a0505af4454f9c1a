//! Envoy resources from the intermediate representation.
//!
//! ```text
//! ir::Fleet ──▶ envoy-types ──▶ canonical bytes ──▶ Record
//!   listener, tls, access_log    sorted maps         cluster, listener, route table in parts, binding
//!   route, header, rewrite, cors, auth, session, stream
//!   cluster, tracing, limit, module, quic
//! ```
//! [`records()`] is a pure function: equal fleets give equal bytes. [`json`] prints records as Envoy's own JSON,
//! [`bootstrap()`] makes the file that an Envoy of a fleet starts with.
//!
//! Decisions that hold for every resource:
//! - Routes lie apart from listeners (RDS), endpoints and secrets are names only (EDS, SDS), all over one ADS stream.
//! - A resource's name comes from the names of objects, never from an index, so that nothing moves when a rule is
//!   inserted.
//! - Listeners do not depend on what routes use: a route that is the first to need CORS must not drain connections. The
//!   exception are filters of policies, of which there are many: the first policy of a table that needs one brings it.

mod access_log;
mod auth;
mod binding;
mod bootstrap;
pub mod canonical;
mod cluster;
mod cors;
mod direct;
mod header;
pub mod json;
mod limit;
mod listener;
mod module;
mod patch;
mod quic;
mod read;
mod reading;
mod ready;
mod rewrite;
mod route;
mod rules;
mod session;
mod stream;
mod template;
#[cfg(test)]
mod tests;
mod tls;
mod tracing;
mod value;

pub use bootstrap::{
    AdsProtocol, BootstrapOptions, RelayCertificate, RelayToken, STATS_PATH, Shown, bootstrap,
    bootstrap_with_certificate, bootstrap_with_token, client_secret, relay_authority, with_metrics, zone,
};
pub(crate) use bootstrap::{LOCAL, STATS};
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3 as cluster_pb;
use envoy_types::pb::envoy::config::listener::v3 as listener_pb;
use envoy_types::pb::envoy::config::route::v3 as route_pb;
pub use json::envoy as envoy_json;
use moorgate_model::ir;
use moorgate_snapshot::record::{Record, Reference, Resource};
pub use read::{Origins, fleet as read};
pub use reading::{Reading, Slashes, Underscores};
pub(crate) use ready::NAME as READY;
pub use ready::answering_probes;
pub(crate) use rules::fits;
use std::collections::BTreeSet;
use std::sync::Arc;
use thiserror::Error;

/// The type URL of clusters.
pub const CLUSTER_TYPE: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// The type URL of listeners.
pub const LISTENER_TYPE: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// The type URL of what Envoys start with.
pub(crate) const BOOTSTRAP_TYPE: &str = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";
/// The type URL of route tables.
pub const ROUTE_TYPE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// The type URL of what a rate limit service counts (envoyproxy/ratelimit); no Envoy asks for it.
pub const RATE_LIMIT_TYPE: &str = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig";

/// The minors of Envoy that read what is written here, oldest first.
pub const ENVOY_MINORS: [&str; 3] = ["1.38", "1.39", "1.40"];

/// Why records cannot be printed.
#[derive(Debug, Error)]
pub enum XdsError {
    /// The bytes are no message of their type.
    #[error("no {type_url}: {source}")]
    Decode {
        /// The type.
        type_url: String,
        /// What went wrong.
        source: prost::DecodeError,
    },
    /// A type that the descriptors built into this program do not describe.
    #[error("messages of type {0} cannot be read by this version")]
    Descriptor(String),
    /// A message has no JSON form: it holds an `Any` of a type that this program does not know.
    #[error("{type_url} cannot be printed as JSON: {source}")]
    Json {
        /// The type.
        type_url: String,
        /// What went wrong.
        source: serde_json::Error,
    },
}

/// All records of a fleet: resources sorted by (type, name, part), then bindings sorted by (kind, name).
///
/// A route table is several records: the first part holds everything but virtual hosts, each further part is one
/// virtual host under its name. Protobuf lets encodings be concatenated, so the parts in the order of their keys are
/// a valid encoding of the table, and these are the bytes that a relay serves and that are hashed. One encode in one
/// go would have the host fields between others; Envoy reads both alike.
pub fn records(fleet: &ir::Fleet) -> Vec<Record> {
    let mut resources = Vec::new();
    let mut bindings = binding::Bindings::default();
    let types = Types::default();
    for (name, cluster) in &fleet.clusters {
        let (message, refs) = cluster::lower(name, cluster, &fleet.proxy);
        bindings.cluster(cluster);
        let bytes = canonical::encode(&message);
        resources.push(resource(&types.cluster, name, "", bytes, refs));
    }
    for (name, listener) in &fleet.listeners {
        let (message, refs) = listener::lower(name, listener, &fleet.proxy);
        bindings.objects(&refs);
        bindings.clients(listener);
        let bytes = canonical::encode(&message);
        if let Some(beside) = quic::beside(name, listener, &message) {
            let bytes = canonical::encode(&beside);
            resources.push(resource(&types.listener, &beside.name, "", bytes, refs.clone()));
        }
        resources.push(resource(&types.listener, name, "", bytes, refs));
    }
    for (name, table) in fleet.tables() {
        bindings.made(table);
        let head = canonical::encode(&route::head(name));
        let name: Arc<str> = name.into();
        resources.push(part(&types.route, &name, "", head));
        let off = patch::off(table);
        for host in &table.hosts {
            let mut message = route::host(host);
            if fleet.proxy.counts_hosts {
                message.virtual_clusters = vec![route::counted(host)];
            }
            message.typed_per_filter_config.extend(off.iter().map(|(name, off)| (name.clone(), off.clone())));
            let bytes = canonical::encode_field(route::VIRTUAL_HOSTS, &message);
            resources.push(part(&types.route, &name, &host.name, bytes));
        }
    }
    for (domain, config) in &fleet.limits {
        let type_url = RATE_LIMIT_TYPE.into();
        resources.push(resource(&type_url, domain, "", limit::lower(domain, config), Vec::new()));
    }
    resources.extend(module::records(fleet));
    resources.sort_by(|a, b| (&a.type_url, &a.name, &a.part).cmp(&(&b.type_url, &b.name, &b.part)));
    resources.into_iter().map(Record::Resource).chain(bindings.finish()).collect()
}

/// The parts of the record of a resource that is given as JSON: their keys, and canonical bytes.
///
/// # Errors
/// Says why it is no resource of the type, or cannot be cut.
pub(crate) fn encode_json(type_url: &str, json: &serde_json::Value) -> Result<Vec<(String, Bytes)>, String> {
    fn one<M: prost::Message + prost::Name + Default>(bytes: &[u8]) -> Result<M, String> {
        M::decode(bytes).map_err(|error| error.to_string())
    }
    let bytes = json::parse(type_url, json)?;
    let whole = |bytes: Bytes| Ok(vec![(String::new(), bytes)]);
    match type_url {
        CLUSTER_TYPE => whole(canonical::encode(&one::<cluster_pb::Cluster>(&bytes)?)),
        LISTENER_TYPE => whole(canonical::encode(&one::<listener_pb::Listener>(&bytes)?)),
        ROUTE_TYPE => {
            let mut table: route_pb::RouteConfiguration = one(&bytes)?;
            let hosts = std::mem::take(&mut table.virtual_hosts);
            let mut parts = vec![(String::new(), canonical::encode(&table))];
            let (mut names, mut domains) = (BTreeSet::new(), BTreeSet::new());
            for host in hosts {
                if host.name.is_empty() || !names.insert(host.name.clone()) {
                    return Err(format!("each virtual host has a name of its own, and not {:?}", host.name));
                }
                if let Some(twice) = host.domains.iter().find(|domain| !domains.insert((*domain).clone())) {
                    return Err(format!("two virtual hosts have the domain {twice:?}"));
                }
                let bytes = canonical::encode_field(route::VIRTUAL_HOSTS, &host);
                parts.push((host.name, bytes));
            }
            Ok(parts)
        }
        other => Err(format!("{other} is no type of a snapshot")),
    }
}

/// One route of a virtual host as it lies in a table.
pub fn route_bytes(route: &ir::Route) -> Bytes {
    let routes = route::routes(route);
    match routes.as_slice() {
        [one] => canonical::encode(one),
        many => many.iter().flat_map(|one| canonical::encode(one).to_vec()).collect(),
    }
}

/// The match of a route as it lies in a table: equal for those that Envoy cannot tell apart.
pub fn match_bytes(route: &ir::Route) -> Bytes {
    canonical::encode(&route::matches(route))
}

/// Type URLs, shared by all records.
struct Types {
    cluster: Arc<str>,
    listener: Arc<str>,
    route: Arc<str>,
}

impl Default for Types {
    fn default() -> Self {
        Self { cluster: CLUSTER_TYPE.into(), listener: LISTENER_TYPE.into(), route: ROUTE_TYPE.into() }
    }
}

fn resource(type_url: &Arc<str>, name: &str, part: &str, bytes: Bytes, mut refs: Vec<Reference>) -> Resource {
    refs.sort();
    refs.dedup();
    Resource { type_url: type_url.clone(), name: name.into(), part: part.into(), bytes, refs }
}

fn part(type_url: &Arc<str>, name: &Arc<str>, part: &str, bytes: Bytes) -> Resource {
    let (type_url, name) = (type_url.clone(), name.clone());
    Resource { type_url, name, part: part.into(), bytes, refs: Vec::new() }
}
