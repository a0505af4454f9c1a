//! Clusters of their own for the rules of routes (EnvoyProxy `mergeBackends.selector`).
//!
//! A backend has one cluster, however many rules name it. Where parameters choose by labels whose backends are merged in this
//! way, each rule has a cluster of its own for all others.

use super::backend::direct;
use super::index::{Index, Key, metadata};
use super::kind::Rules;
use super::parent::{Placement, Routes};
use super::proxy;
use super::spec::LabelSelector;
use moorgate_model::ObjectRef;
use moorgate_model::ir::{Action, Cluster, Mirror, Route, RouteOrigin, Stream};
use moorgate_model::node::decode;
use moorgate_policies::GROUP;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Takes clusters apart at the Gateways whose parameters ask for it.
pub(super) fn take<'a>(index: &Index<'a>, routes: &mut Routes<'a>) {
    let mut selectors: BTreeMap<Key<'a>, Option<LabelSelector>> = BTreeMap::new();
    let Routes { placements, clusters, .. } = routes;
    for ((key, _), placements) in placements {
        let selector = selectors.entry(*key).or_insert_with(|| selector(index, *key));
        if let Some(selector) = selector {
            Taking { index, selector, clusters }.listener(placements);
        }
    }
}

fn selector(index: &Index<'_>, gateway: Key<'_>) -> Option<LabelSelector> {
    let parameters = proxy::parameters_of(index, gateway)?;
    decode(parameters.at("spec.mergeBackends.selector")?).ok()
}

struct Taking<'t, 'a> {
    index: &'t Index<'a>,
    selector: &'t LabelSelector,
    clusters: &'t mut BTreeMap<String, Cluster>,
}

impl Taking<'_, '_> {
    fn listener(&mut self, placements: &mut [Placement]) {
        let mut done: Vec<(Rules, Rules)> = Vec::new();
        for placement in placements {
            let known = done.iter().find(|(before, _)| before.same(&placement.rules));
            let after = match (known, &placement.rules) {
                (Some((_, after)), _) => after.clone(),
                (None, Rules::Http(routes)) => {
                    let mut routes = Vec::clone(routes);
                    routes.iter_mut().for_each(|route| self.route(route));
                    Rules::Http(Rc::new(routes))
                }
                (None, Rules::Stream(stream)) => {
                    let mut stream = Stream::clone(stream);
                    for cluster in stream.backends.iter_mut().filter_map(|one| one.cluster.as_mut()) {
                        *cluster = self.own(cluster, &stream.origin);
                    }
                    Rules::Stream(Rc::new(stream))
                }
            };
            let before = std::mem::replace(&mut placement.rules, after.clone());
            done.push((before, after));
        }
    }

    fn route(&mut self, route: &mut Route) {
        let origin = route.origin.clone();
        let mut mirrors = |mirrors: &mut Vec<Mirror>| {
            mirrors.iter_mut().for_each(|mirror| mirror.cluster = self.own(&mirror.cluster, &origin));
        };
        mirrors(&mut route.mirrors);
        let Action::Forward(forward) = &mut route.action else { return };
        forward.backends.iter_mut().for_each(|backend| mirrors(&mut backend.mirrors));
        for cluster in forward.backends.iter_mut().filter_map(|backend| backend.cluster.as_mut()) {
            *cluster = self.own(cluster, &origin);
        }
    }

    /// The cluster of a rule, if its backend is not one of those that are merged.
    fn own(&mut self, cluster: &str, origin: &RouteOrigin) -> String {
        let Some(base) = self.clusters.get(cluster) else { return cluster.to_owned() };
        let members: Vec<String> = base.members().map(str::to_owned).collect();
        if !members.is_empty() {
            let own: Vec<String> = members.iter().map(|member| self.own(member, origin)).collect();
            return direct::in_turn(self.clusters, &own).unwrap_or_else(|| cluster.to_owned());
        }
        if self.merged(cluster) {
            return cluster.to_owned();
        }
        // No name of an object has such a sign.
        let route = &origin.object;
        let name = format!("{cluster}@{}.{}.{}", route.namespace, route.name, origin.rule);
        let base = base.clone();
        self.clusters.entry(name.clone()).or_insert(base);
        name
    }

    /// Whether the backend of a cluster, which begins with its namespace and name, is chosen.
    fn merged(&self, cluster: &str) -> bool {
        let mut parts = cluster.split('/');
        let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else { return true };
        let service = || self.index.services.get(&(namespace, name)).map(|service| service.object);
        let object = match name.split_once('=') {
            Some(("XBackend", name)) => {
                self.index.x_backends.get(&(namespace, name)).map(|backend| backend.object)
            }
            Some((kind, name)) => {
                let reference = ObjectRef::new(GROUP, kind, namespace, name);
                let others = &self.index.others;
                let found = others.binary_search_by_key(&&reference, |object| &object.reference);
                found.ok().and_then(|place| others.get(place)).copied()
            }
            None => service(),
        };
        let labels = object.and_then(metadata).map(|metadata| metadata.labels).unwrap_or_default();
        self.selector.matches(&labels)
    }
}
