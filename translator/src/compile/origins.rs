//! Where each object of a fleet was written and what Envoy gets of it: signed beside the snapshot, so that history
//! answers without the sources.

use super::{Compilation, CompiledFleet};
use crate::history::{self, Item, Part, Records};
use crate::status::{ParentReference, Status};
use crate::xds;
use moorgate_model::ir::{self, FilterChain};
use moorgate_model::{FieldPath, Object, ObjectRef, Segment};
use moorgate_snapshot::{Digest, FleetName, Record};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// Digests of what objects make.
type Made<'c> = BTreeMap<&'c ObjectRef, Vec<Digest>>;
/// Which rule or listener makes what.
type Marks<'c> = BTreeMap<&'c ObjectRef, BTreeMap<usize, BTreeSet<String>>>;

impl Compilation {
    /// The objects that a fleet is made of, and no others: what one fleet stores another must not read.
    pub fn records(&self, name: &FleetName, fleet: &CompiledFleet) -> Records {
        let objects: BTreeMap<&ObjectRef, &Object> =
            self.objects.iter().map(|object| (&object.reference, object)).collect();
        let (mut made, mut marks) = (Made::new(), Marks::new());
        let bytes = resources(fleet);
        listeners(&fleet.ir, &bytes, &mut made, &mut marks);
        routes(&fleet.ir, &bytes, &mut made, &mut marks);
        streams(&fleet.ir, &bytes, &mut made, &mut marks);
        policies(&fleet.ir, &mut marks);
        let services = services(&fleet.ir, &objects, &bytes);
        made.extend(services);
        let gateways: BTreeSet<&ObjectRef> =
            objects.keys().copied().filter(|object| is_gateway_of(name, object, &made)).collect();
        let classes: BTreeSet<&str> = gateways
            .iter()
            .filter_map(|gateway| objects.get(gateway)?.at("spec.gatewayClassName")?.as_str())
            .collect();
        let parents = parents(&gateways, &objects);
        let mine = |(object, status)| Some((object, of_fleet(&parents, &classes, object, status)?));
        let statuses: BTreeMap<&ObjectRef, Status> = self.statuses.iter().filter_map(mine).collect();
        let names: BTreeSet<&ObjectRef> =
            made.keys().chain(statuses.keys()).chain(&gateways).copied().collect();
        let item = |reference: &ObjectRef| {
            let object = objects.get(reference)?;
            let status = statuses.get(reference).and_then(|status| serde_json::to_value(status).ok());
            let item = item(object, made.get(reference), marks.get(reference), status);
            Some((history::key(reference), item))
        };
        Records { objects: names.into_iter().filter_map(item).collect(), ..Records::default() }
    }

    /// The place of an object's field, as `file:line:column`.
    pub fn place(&self, object: &ObjectRef, field: &FieldPath) -> Option<String> {
        let object = self.objects.iter().find(|candidate| candidate.reference == *object)?;
        let start = object.root.locate(field).start;
        Some(format!("{}:{}:{}", object.origin.file, start.line, start.column))
    }
}

/// The bytes of listeners and clusters, by type and name.
fn resources(fleet: &CompiledFleet) -> BTreeMap<(&str, &str), &[u8]> {
    let resources = fleet.snapshot.records().filter_map(|record| match record {
        Record::Resource(resource) if resource.part.is_empty() => {
            Some(((&*resource.type_url, &*resource.name), &*resource.bytes))
        }
        _ => None,
    });
    resources.collect()
}

/// A Gateway makes the listeners of its ports; one that shares a port sees it change with the others.
fn listeners<'c>(
    fleet: &'c ir::Fleet,
    bytes: &BTreeMap<(&str, &str), &[u8]>,
    made: &mut Made<'c>,
    marks: &mut Marks<'c>,
) {
    for (name, listener) in &fleet.listeners {
        for chain in &listener.chains {
            for origin in &chain.origins {
                let lowered = bytes.get(&(xds::LISTENER_TYPE, name.as_str())).copied().unwrap_or_default();
                made.entry(&origin.owner).or_default().push(Digest::of(lowered));
                let parts = marks.entry(&origin.owner).or_default();
                let mark = history::chain_mark(name, &chain.name, &origin.listener);
                parts.entry(origin.index).or_default().insert(mark);
            }
        }
    }
}

/// A route object makes routes, and with them what their clusters are.
fn routes<'c>(
    fleet: &'c ir::Fleet,
    bytes: &BTreeMap<(&str, &str), &[u8]>,
    made: &mut Made<'c>,
    marks: &mut Marks<'c>,
) {
    let tables = fleet.tables();
    for (table, host) in
        tables.iter().flat_map(|(name, table)| table.hosts.iter().map(move |host| (name, host)))
    {
        for route in &host.routes {
            let (place, lowered) = (format!("{table}\0{}\0", host.domain), xds::route_bytes(route));
            let clusters = route
                .clusters()
                .map(|name| bytes.get(&(xds::CLUSTER_TYPE, name)).copied().unwrap_or_default());
            let pieces = [place.as_bytes(), &lowered].into_iter().chain(clusters);
            let origin = &route.origin;
            made.entry(&origin.object).or_default().push(Digest::of_parts(pieces));
            let mark = history::mark(&xds::match_bytes(route));
            marks.entry(&origin.object).or_default().entry(origin.rule).or_default().insert(mark);
        }
    }
}

/// A route object whose rule carries bytes makes the chains that do, and with them what their clusters are.
fn streams<'c>(
    fleet: &'c ir::Fleet,
    bytes: &BTreeMap<(&str, &str), &[u8]>,
    made: &mut Made<'c>,
    marks: &mut Marks<'c>,
) {
    for (name, listener) in &fleet.listeners {
        for chain in &listener.chains {
            let Some(stream) = chain.stream() else { continue };
            let mut place =
                format!("{name}\0{}\0{:?}\0{:?}", chain.name, chain.server_names, stream.backends);
            if let Some(clients) = stream.told_apart() {
                let _ = write!(place, "\0{:?}\0{:?}", clients.allowed, clients.denied);
            }
            let clusters = stream.backends.iter().filter_map(|backend| backend.cluster.as_deref());
            let clusters =
                clusters.map(|name| bytes.get(&(xds::CLUSTER_TYPE, name)).copied().unwrap_or_default());
            let pieces = [place.as_bytes()].into_iter().chain(clusters);
            let origin = &stream.origin;
            made.entry(&origin.object).or_default().push(Digest::of_parts(pieces));
            let mark = history::stream_mark(name, &chain.name);
            marks.entry(&origin.object).or_default().entry(origin.rule).or_default().insert(mark);
        }
    }
}

/// A policy has a say at its targets: each is a part of it.
fn policies<'c>(fleet: &'c ir::Fleet, marks: &mut Marks<'c>) {
    let chains = || fleet.listeners.values().flat_map(|listener| &listener.chains);
    let of_chains = chains().filter_map(|chain| chain.policies.as_ref()).flat_map(|added| &added.sources);
    let tables = fleet.tables();
    let hosts = tables.into_values().flat_map(|table| &table.hosts);
    let routes = hosts.flat_map(|host| &host.routes).filter_map(|route| route.policies.as_ref());
    let of_routes = routes.flat_map(|added| &added.sources);
    let of_streams = chains().filter_map(FilterChain::stream).flat_map(|stream| &stream.policies);
    let of_requests =
        of_chains.chain(of_routes).map(|source| (source, history::capability_mark as fn(&str) -> String));
    let of_streams = of_streams.map(|source| (source, history::carrying_mark as fn(&str) -> String));
    for (source, mark) in of_requests.chain(of_streams) {
        let index = source.field.segments().iter().find_map(|step| match step {
            Segment::Index(index) => Some(*index),
            Segment::Key(_) => None,
        });
        let parts = marks.entry(&source.object).or_default();
        let makes = parts.entry(index.unwrap_or_default()).or_default();
        makes.insert(history::policy_mark(&source.target));
        makes.extend(source.capabilities.iter().map(|name| mark(name)));
    }
}

/// A Service makes the clusters that take their endpoints from it. One that the source does not have has no place.
fn services<'c>(
    fleet: &ir::Fleet,
    objects: &BTreeMap<&'c ObjectRef, &Object>,
    bytes: &BTreeMap<(&str, &str), &[u8]>,
) -> Made<'c> {
    let mut made = Made::new();
    for (name, cluster) in &fleet.clusters {
        for source in &cluster.sources {
            let service = ObjectRef::new("", "Service", &source.namespace, &source.service);
            let Some((reference, _)) = objects.get_key_value(&service) else { continue };
            let place = format!("{name}\0{source:?}\0");
            let lowered = bytes.get(&(xds::CLUSTER_TYPE, name.as_str())).copied().unwrap_or_default();
            made.entry(reference).or_default().push(Digest::of_parts([place.as_bytes(), lowered]));
        }
    }
    made
}

fn is_gateway_of(fleet: &FleetName, object: &ObjectRef, made: &Made<'_>) -> bool {
    &*object.kind == "Gateway"
        && match fleet {
            FleetName::Gateway { namespace, name } => {
                (&*object.namespace, &*object.name) == (namespace.as_str(), name.as_str())
            }
            FleetName::Class { .. } => made.contains_key(object),
        }
}

/// Gateways with the ListenerSets that name them.
fn parents<'c>(
    gateways: &BTreeSet<&'c ObjectRef>,
    objects: &BTreeMap<&'c ObjectRef, &Object>,
) -> BTreeSet<&'c ObjectRef> {
    let names_one = |(reference, object): &(&&ObjectRef, &&Object)| {
        let text = |field: &str| object.at(field).and_then(|node| node.as_str());
        let namespace = text("spec.parentRef.namespace").unwrap_or(&reference.namespace);
        let name = text("spec.parentRef.name").unwrap_or_default();
        &*reference.kind == "ListenerSet"
            && gateways.iter().any(|gateway| (&*gateway.namespace, &*gateway.name) == (namespace, name))
    };
    let sets = objects.iter().filter(names_one).map(|(reference, _)| *reference);
    gateways.iter().copied().chain(sets).collect()
}

/// What a status says about these parents, if it does: what other fleets make of a route is not for this one's store.
fn of_fleet(
    parents: &BTreeSet<&ObjectRef>,
    classes: &BTreeSet<&str>,
    object: &ObjectRef,
    status: &Status,
) -> Option<Status> {
    let mine = |parent: &ParentReference| {
        let namespace = parent.namespace.as_deref().unwrap_or(&object.namespace);
        parents.iter().any(|known| {
            (&*known.kind, &*known.namespace, &*known.name)
                == (parent.kind.as_str(), namespace, parent.name.as_str())
        })
    };
    let mut status = status.clone();
    let says = match &mut status {
        Status::Class { .. } => classes.contains(&*object.name),
        Status::Gateway { .. } | Status::ListenerSet { .. } | Status::Object { .. } => {
            parents.contains(object)
        }
        Status::Route { parents } => {
            parents.retain(|parent| mine(&parent.parent_ref));
            !parents.is_empty()
        }
        Status::Policy { ancestors } => {
            ancestors.retain(|ancestor| mine(&ancestor.ancestor_ref));
            !ancestors.is_empty()
        }
    };
    says.then_some(status)
}

/// What tells contents of an object apart: the mark that records have of it.
pub fn content(object: &Object) -> String {
    // Keys in the order of names: who writes them otherwise says the same.
    let spec = object.at("spec").and_then(|spec| serde_json::to_value(spec.to_json()).ok());
    history::mark(spec.map(|spec| spec.to_string()).unwrap_or_default().as_bytes())
}

fn item(
    object: &Object,
    made: Option<&Vec<Digest>>,
    marks: Option<&BTreeMap<usize, BTreeSet<String>>>,
    status: Option<Value>,
) -> Item {
    let line = object.origin.start.line;
    let is_policy = moorgate_policies::Kind::of(&object.reference).is_some();
    let spec = FieldPath::root().key("spec");
    let list = match &*object.reference.kind {
        "Gateway" | "ListenerSet" => spec.key("listeners"),
        _ if !is_policy => spec.key("rules"),
        _ => {
            // A policy says in one of these ways whom it concerns.
            let ways = ["targetRefs", "targetSelectors", "targetRef"].map(|name| spec.clone().key(name));
            ways.into_iter().find(|way| object.root.at(way).is_some()).unwrap_or(spec)
        }
    };
    let node = object.root.at(&list);
    let count = node.and_then(|node| node.as_sequence()).map_or(usize::from(is_policy), <[_]>::len);
    let merges = is_policy && object.at("spec.mergeType").is_some();
    let part = |index: usize| {
        let place = if node.is_some_and(|node| node.as_sequence().is_none()) {
            list.clone()
        } else {
            list.clone().index(index)
        };
        let own = marks.and_then(|marks| marks.get(&index)).into_iter().flatten().cloned();
        Part {
            line: object.root.locate(&place).start.line.saturating_sub(line),
            makes: own.chain(merges.then(|| history::MERGES.to_owned())).collect(),
        }
    };
    let effective = made.map(|pieces| pieces.iter().flat_map(Digest::as_bytes).copied().collect::<Vec<u8>>());
    Item {
        file: object.origin.file.to_string(),
        line,
        rendered_from: object.origin.rendered_from.as_ref().map(ToString::to_string),
        content: content(object),
        effective: effective.map(|bytes| history::mark(&bytes)).unwrap_or_default(),
        parts: (0..count).map(part).collect(),
        status,
    }
}

#[cfg(test)]
mod tests;
