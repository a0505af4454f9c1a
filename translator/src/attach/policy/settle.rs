//! What policies make of the routes at each listener.

mod limits;
mod needs;
mod streams;

use super::held::{Chosen, Held, One};
use super::merge::merged_object;
use super::world::Sources;
use super::{Policies, held};
use crate::attach::backend::direct;
use crate::attach::index::{Index, Key};
use crate::attach::kind::Rules;
use crate::attach::listener::{Gateway, Listener};
use crate::attach::parent::{Placement, Routes};
use moorgate_model::diagnostic::policy::{
    POLICY_FIELD_UNSUPPORTED, POLICY_FIELD_UNSUPPORTED_RESTRICTS, POLICY_INVALID,
};
use moorgate_model::ir::{
    Action, Added, ClientRanges, Cluster, ClusterPolicies, EndpointSource, PolicySource, Recompute, Route,
    RouteOrigin, RoutePolicies, SharedLimits,
};
use moorgate_model::{Diagnostic, Diagnostics, FieldPath, Object, ObjectRef};
use moorgate_policies::{Compiled, Kind, LimitService, Lowered, Need, compile_merged};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

/// Kinds that speak of routes.
const KINDS: [Kind; 3] = [Kind::BackendTraffic, Kind::Extension, Kind::Security];

/// Under which clusters name their Services, unless they are set up otherwise.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// What is known of policies once routes have listeners, for their status: by policy and Gateway.
#[derive(Debug, Default)]
pub(in crate::attach) struct Settled {
    /// What took its place.
    pub(super) overridden: BTreeMap<(usize, (String, String)), BTreeSet<ObjectRef>>,
    /// What was merged with it.
    pub(super) merged: BTreeMap<(usize, (String, String)), BTreeSet<ObjectRef>>,
    /// Why it cannot be carried out there.
    pub(super) unmet: BTreeMap<(usize, (String, String)), BTreeSet<String>>,
}

/// What policies of all kinds together make of a rule.
struct Together {
    added: Added<RoutePolicies>,
    cluster: ClusterPolicies,
    /// What the service of a fleet counts.
    limits: Vec<SharedLimits>,
    /// What the parameters of a fleet have to give.
    needs: Vec<Need>,
    /// Behind the names of clusters that they change: the policies that do.
    suffix: String,
    /// Who speaks of clusters, if anybody does.
    speaker: Option<usize>,
    /// Whose connections pass.
    connections: Option<ClientRanges>,
    closed: bool,
    /// Connections must not pass either.
    closed_streams: bool,
}

/// Puts policies on every route at every listener. Routes that no policy concerns stay as they are.
pub(in crate::attach) fn settle<'a>(
    index: &Index<'a>,
    policies: &mut Policies,
    gateways: &BTreeMap<Key<'a>, Gateway<'a>>,
    routes: &mut Routes<'a>,
    diagnostics: &mut Diagnostics,
) {
    if policies.held.is_empty() {
        return;
    }
    for (name, cluster) in &policies.clusters {
        routes.clusters.entry(name.clone()).or_insert_with(|| cluster.clone());
    }
    // What is known of listeners stays.
    let settled = std::mem::take(&mut policies.settled);
    let mut settling = Settling {
        index,
        policies,
        gateways,
        services: BTreeMap::new(),
        parameters: BTreeMap::new(),
        clusters: std::mem::take(&mut routes.clusters),
        merged: BTreeMap::new(),
        together: BTreeMap::new(),
        settled,
        told: BTreeSet::new(),
        host: String::new(),
        diagnostics,
    };
    let mut asked: BTreeSet<(String, Key<'a>)> = BTreeSet::new();
    for ((key, position), placements) in &mut routes.placements {
        let Some(gateway) = gateways.get(key) else { continue };
        let Some(listener) = gateway.listeners.get(*position) else { continue };
        let found = settling.listener(gateway, listener, placements);
        asked.extend(found.into_iter().map(|cluster| (cluster, *key)));
    }
    let Settling { clusters, settled, .. } = settling;
    routes.clusters = clusters;
    asked.iter().for_each(|(cluster, key)| routes.note(cluster, *key));
    policies.settled = settled;
}

struct Settling<'s, 'a> {
    index: &'s Index<'a>,
    policies: &'s Policies,
    gateways: &'s BTreeMap<Key<'a>, Gateway<'a>>,
    /// The service that counts for each Gateway, or why there is none.
    services: BTreeMap<(String, String), Rc<Result<LimitService, String>>>,
    /// The parameters of each Gateway.
    parameters: BTreeMap<(String, String), Rc<Option<Object>>>,
    clusters: BTreeMap<String, Cluster>,
    /// Policies that were merged: the narrow one, then the wide one.
    merged: BTreeMap<(usize, usize), Rc<Compiled>>,
    together: BTreeMap<Vec<(Kind, Chosen)>, Rc<Together>>,
    settled: Settled,
    /// Parts of policies of which it was said that they do not concern connections.
    told: BTreeSet<(usize, &'static str)>,
    /// The host that health checks ask for on behalf of the route that is looked at.
    host: String,
    diagnostics: &'s mut Diagnostics,
}

impl Settling<'_, '_> {
    /// Changes the routes at a listener; gives the clusters that are asked there.
    fn listener(
        &mut self,
        gateway: &Gateway<'_>,
        listener: &Listener<'_>,
        placements: &mut [Placement],
    ) -> BTreeSet<String> {
        let held = &self.policies.held;
        let wide: Vec<(Kind, Vec<usize>)> = KINDS
            .into_iter()
            .map(|kind| (kind, held.of_listener(kind, listener, &gateway.object.reference)))
            .collect();
        let reference = &gateway.object.reference;
        let gateway = (reference.namespace.to_string(), reference.name.to_string());
        let mut done: Vec<(Rules, Rules)> = Vec::new();
        let mut asked = BTreeSet::new();
        for position in 0..placements.len() {
            self.host = checked_as(placements.get(position..).unwrap_or_default());
            let Some(placement) = placements.get_mut(position) else { continue };
            let known = done.iter().find(|(before, _)| before.same(&placement.rules));
            if let Some((_, after)) = known {
                placement.rules = after.clone();
                continue;
            }
            let after = match &placement.rules {
                Rules::Http(rules) => {
                    self.requests(rules, &wide, &gateway).map(|rules| Rules::Http(Rc::new(rules)))
                }
                Rules::Stream(stream) => {
                    let settled = self.stream(stream, &wide, &gateway, listener.mode);
                    settled.map(|stream| Rules::Stream(Rc::new(stream)))
                }
            };
            let after = after.unwrap_or_else(|| placement.rules.clone());
            let added = after.http().iter().filter_map(|route| route.policies.as_ref());
            asked.extend(added.flat_map(|added| added.clusters.iter().cloned()));
            let before = std::mem::replace(&mut placement.rules, after.clone());
            done.push((before, after));
        }
        asked
    }

    /// The rules of a route with what policies add, if they add anything.
    fn requests(
        &mut self,
        rules: &[Route],
        wide: &[(Kind, Vec<usize>)],
        gateway: &(String, String),
    ) -> Option<Vec<Route>> {
        let chosen: Vec<_> = rules.iter().map(|route| self.chosen(&route.origin, wide, gateway)).collect();
        if chosen.iter().all(Vec::is_empty) {
            return None;
        }
        let apply = |(route, chosen): (&Route, Vec<(Kind, Chosen)>)| {
            let mut route = route.clone();
            if !chosen.is_empty() {
                let together = self.together(&chosen, &route.origin.object);
                self.apply(&mut route, &together);
                if !together.closed {
                    self.meet(&mut route, &together, &chosen, gateway);
                }
            }
            route
        };
        Some(rules.iter().zip(chosen).map(apply).collect())
    }

    fn chosen(
        &mut self,
        origin: &RouteOrigin,
        wide: &[(Kind, Vec<usize>)],
        gateway: &(String, String),
    ) -> Vec<(Kind, Chosen)> {
        let held = &self.policies.held;
        let mut out = Vec::new();
        for (kind, wide) in wide {
            let Some(chosen) = held.choose(*kind, &origin.object, origin.rule_name.as_deref(), wide) else {
                continue;
            };
            let winner = held.all.get(chosen.winner).map(|one| one.object.reference.clone());
            for (others, notes) in [
                (&chosen.overridden[..], &mut self.settled.overridden),
                (chosen.merged.as_slice(), &mut self.settled.merged),
            ] {
                for other in others {
                    notes.entry((*other, gateway.clone())).or_default().extend(winner.clone());
                }
            }
            out.push((*kind, chosen));
        }
        out
    }

    /// What the chosen policies of all kinds together make of a rule.
    fn together(&mut self, chosen: &Vec<(Kind, Chosen)>, route: &ObjectRef) -> Rc<Together> {
        if let Some(known) = self.together.get(chosen) {
            return Rc::clone(known);
        }
        let mut all = Lowered::default();
        let (mut sources, mut suffix) = (Vec::new(), String::new());
        let (mut recomputes, mut speaker) = (None, None);
        let (mut closed, mut closed_streams) = (false, false);
        for (kind, chosen) in chosen {
            let compiled = self.compiled(chosen);
            closed |= compiled.closed;
            closed_streams |= match kind {
                Kind::Security => {
                    let rights = compiled.parts.get(streams::RIGHTS);
                    compiled.closed || rights.is_some_and(|part| part.connections.is_none())
                }
                Kind::Backend
                | Kind::BackendTraffic
                | Kind::ClientTraffic
                | Kind::Extension
                | Kind::RouteFilter => compiled.closed,
            };
            let own = compiled.together();
            if !own.cluster.is_empty() {
                speaker = Some(chosen.winner);
                for number in [Some(chosen.winner), chosen.merged].into_iter().flatten() {
                    let Some(one) = self.policies.held.all.get(number) else { continue };
                    let reference = &one.object.reference;
                    // A namespace has no dot, and no name of an object a plus sign.
                    let _ = write!(suffix, "+{}.{}", reference.namespace, reference.name);
                }
            }
            let again = own.recomputes.clone().map(|(place, freely, field)| Recompute {
                place,
                freely,
                policy: self.speaker(chosen),
                field,
            });
            recomputes = again.max(recomputes);
            all.add(&own);
            sources.extend(explained(&self.policies.held, chosen, &compiled, route));
        }
        all.filters.sort();
        let added = RoutePolicies {
            sources,
            filters: all.filters,
            route: all.route,
            forward: all.forward,
            clusters: all.clusters,
            described: all.describes,
            late: all.late,
            counted: Vec::new(),
            oldest_envoy: None,
            recomputes,
            modules: all.modules,
            reserved: Vec::new(),
        };
        let together = Rc::new(Together {
            added: Some(Arc::new(added)),
            cluster: all.cluster,
            limits: all.limits,
            needs: all.needs,
            suffix,
            speaker,
            connections: all.connections,
            closed,
            closed_streams,
        });
        self.together.insert(chosen.clone(), Rc::clone(&together));
        together
    }

    /// Which of two merged policies asks for a route to be looked for again.
    fn speaker(&self, chosen: &Chosen) -> ObjectRef {
        let all = &self.policies.held.all;
        let asks = |one: &&One| one.compiled.together().recomputes.is_some();
        let (narrow, wide) = (all.get(chosen.winner), chosen.merged.and_then(|number| all.get(number)));
        let speaker = narrow.filter(asks).or(wide.filter(asks)).or(narrow);
        speaker.map_or_else(|| ObjectRef::new("", "", "", ""), |one| one.object.reference.clone())
    }

    /// What the winner says, merged with the wider one if it asks for that.
    fn compiled(&mut self, chosen: &Chosen) -> Rc<Compiled> {
        let all = &self.policies.held.all;
        let Some(narrow) = all.get(chosen.winner) else { return Rc::new(Compiled::default()) };
        let Some((number, wide)) = chosen.merged.and_then(|number| Some((number, all.get(number)?))) else {
            return Rc::new(narrow.compiled.clone());
        };
        if let Some(known) = self.merged.get(&(chosen.winner, number)) {
            return Rc::clone(known);
        }
        let object = merged_object(&narrow.object, &wide.object, narrow.merge);
        let mut world = Sources { index: self.index, policies: self.policies, clusters: &mut self.clusters };
        let compiled = compile_merged(
            narrow.kind,
            (&narrow.object, &narrow.compiled),
            (&wide.object, &wide.compiled),
            &object,
            &mut world,
        );
        if let Some(found) = compiled.findings.first() {
            // The places of its own findings are those of two files.
            let message = format!(
                "merged with {}, the policy cannot be carried out: {}",
                wide.object.reference, found.message
            );
            let code = if compiled.closed { &POLICY_FIELD_UNSUPPORTED_RESTRICTS } else { &POLICY_INVALID };
            self.diagnostics.push(narrow.object.diagnostic(
                code,
                FieldPath::parse("spec.mergeType"),
                message,
            ));
        }
        let compiled = Rc::new(compiled);
        self.merged.insert((chosen.winner, number), Rc::clone(&compiled));
        compiled
    }

    fn apply(&mut self, route: &mut Route, together: &Together) {
        let own = route.policies.take();
        route.policies = match (&own, &together.added) {
            // What filters of the rule itself say comes before what policies do.
            (Some(own), Some(added)) => Some(Arc::new(joined(own, added))),
            (own, added) => added.clone().or_else(|| own.clone()),
        };
        if together.closed {
            // Nothing of what filters would do matters any more, and nobody is to be asked.
            route.refuse(500);
            return;
        }
        let Action::Forward(forward) = &mut route.action else { return };
        for cluster in forward.backends.iter_mut().filter_map(|backend| backend.cluster.as_mut()) {
            *cluster = self.variant(cluster, together);
        }
    }

    /// The name of the cluster with what policies add to it.
    fn variant(&mut self, cluster: &str, together: &Together) -> String {
        if together.cluster.is_empty() {
            return cluster.to_owned();
        }
        let members: Vec<String> =
            self.clusters.get(cluster).iter().flat_map(|base| base.members().map(str::to_owned)).collect();
        if !members.is_empty() {
            let members: Vec<String> = members.iter().map(|member| self.variant(member, together)).collect();
            return direct::in_turn(&mut self.clusters, &members).unwrap_or_else(|| cluster.to_owned());
        }
        let mut name = format!("{cluster}{}", together.suffix);
        let checked_as = together.cluster.checked_as.as_ref().filter(|_| !self.host.is_empty());
        if checked_as.is_some() {
            // Health checks ask for the host of the route, so that each host has its own.
            let _ = write!(name, "@{}", self.host);
        }
        if let Some(base) = self.clusters.get(cluster).filter(|_| !self.clusters.contains_key(&name)) {
            let mut variant = base.with(&together.cluster, &together.suffix);
            if checked_as.is_some() {
                variant.policies.checked_as = Some(self.host.clone());
            }
            if together.cluster.by_service == Some(true) {
                by_service(&mut variant);
            }
            let speaker = together.speaker.and_then(|number| self.policies.held.all.get(number));
            if let Some(speaker) = speaker {
                self.diagnostics.extend(without_effect(cluster, &variant, &speaker.object));
            }
            self.clusters.insert(name.clone(), variant);
        }
        name
    }
}

/// What a policy asks of a cluster that cannot have it.
fn without_effect(name: &str, cluster: &Cluster, policy: &Object) -> Vec<Diagnostic> {
    let policies = &cluster.policies;
    let find = |field: &str, why: &str| {
        let finding = policy.diagnostic(&POLICY_FIELD_UNSUPPORTED, FieldPath::parse(field), why);
        finding.help(format!("the field has no effect for the backend {name}"))
    };
    let whole = cluster.is_dynamic() && !policies.balancing.is_empty();
    let plain = !cluster.speaks_http2() && !policies.over_http2.is_empty();
    let dynamic = whole.then(|| {
        find("spec.loadBalancer", "a backend of type DynamicResolver has no endpoints to choose from")
    });
    let unasked = plain.then(|| {
        find("spec.healthCheck.active", "a backend that is not spoken to by HTTP/2 is not checked by gRPC")
    });
    dynamic.into_iter().chain(unasked).collect()
}

/// What the filters of a rule add, with what policies add to it.
fn joined(own: &RoutePolicies, added: &RoutePolicies) -> RoutePolicies {
    fn front<T: Clone>(list: &mut Vec<T>, own: &[T]) {
        list.splice(0..0, own.iter().cloned());
    }
    let mut both = added.clone();
    front(&mut both.sources, &own.sources);
    front(&mut both.filters, &own.filters);
    front(&mut both.route, &own.route);
    front(&mut both.forward, &own.forward);
    front(&mut both.clusters, &own.clusters);
    front(&mut both.late, &own.late);
    front(&mut both.counted, &own.counted);
    front(&mut both.modules, &own.modules);
    front(&mut both.reserved, &own.reserved);
    both.described |= own.described;
    both.oldest_envoy = both.oldest_envoy.max(own.oldest_envoy);
    both.filters.sort();
    both
}

/// Services are reached by their own names, behind which a cluster has their addresses.
pub(in crate::attach) fn by_service(cluster: &mut Cluster) {
    for source in cluster.sources.iter_mut().filter(|source| !source.service.is_empty()) {
        let host = format!("{}.{}.svc.{CLUSTER_DOMAIN}", source.service, source.namespace);
        *source = EndpointSource {
            weight: source.weight,
            ..EndpointSource::of_host(&source.namespace, &host, source.port)
        };
    }
    cluster.eds_name.push_str("+service");
}

/// The host that health checks ask for on behalf of a route: the first of those at which the route begins here, which stand
/// beside each other and in order. A wildcard stands for any name below it; empty for any at all.
fn checked_as(placements: &[Placement]) -> String {
    let own = placements
        .iter()
        .take_while(|other| placements.first().is_some_and(|one| other.rules.same(&one.rules)));
    let mut hosts = own.map(|placement| placement.host.as_str()).filter(|host| !host.is_empty()).peekable();
    let first = hosts.peek().copied();
    let found = hosts.find(|host| !host.starts_with('*')).or(first).unwrap_or_default();
    found.strip_prefix('*').map_or_else(|| found.to_owned(), |rest| format!("health-check{rest}"))
}

/// Which policies have a say, for `explain`.
fn explained(held: &Held, chosen: &Chosen, compiled: &Compiled, route: &ObjectRef) -> Vec<PolicySource> {
    let winner = held.all.get(chosen.winner).map(|one| one.object.reference.clone());
    let numbers = [chosen.winner].into_iter().chain(chosen.merged).chain(chosen.overridden.iter().copied());
    let source = |number: usize| {
        let one = held.all.get(number)?;
        let in_force = number == chosen.winner || Some(number) == chosen.merged;
        let target = one.targets.iter().filter(|target| target.state == held::State::Attached);
        let mut target = target.clone().filter(|target| target.place.0 == *route).chain(target);
        let target = target.next()?;
        let spoken = compiled
            .parts
            .keys()
            .filter(|file| in_force && (chosen.merged.is_none() || one.compiled.parts.contains_key(*file)));
        Some(one.source(target, spoken.copied().collect(), winner.clone().filter(|_| !in_force)))
    };
    numbers.filter_map(source).collect()
}
