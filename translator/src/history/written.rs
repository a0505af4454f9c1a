//! Who wrote what Envoy has: from records to the origins of routes and listeners.

use super::{Item, Records, chain_mark, object, stream_mark};
use crate::attach::GATEWAY_GROUP;
use crate::xds::Origins;
use moorgate_model::ir::{FilterChain, ListenerOrigin, PolicySource, RouteOrigin};
use moorgate_model::{FieldPath, ObjectRef, Segment};
use moorgate_policies::Kind;
use moorgate_snapshot::FleetName;
use std::collections::BTreeMap;

/// The origins that records know.
#[derive(Debug)]
pub struct Written<'r> {
    records: &'r Records,
    /// Objects by the names that Envoy's routes carry: kind in lower case, namespace, name.
    routes: BTreeMap<(String, String, String), (ObjectRef, &'r str)>,
}

impl<'r> Written<'r> {
    /// Looks through the records once.
    pub fn new(records: &'r Records) -> Self {
        let routes = records.objects.keys().filter_map(|key| {
            let object = object(key)?;
            let name =
                (object.kind.to_ascii_lowercase(), object.namespace.to_string(), object.name.to_string());
            Some((name, (object, key.as_str())))
        });
        Self { routes: routes.collect(), records }
    }

    /// `file:line` of an object, or of one of its rules or listeners; none if nothing is recorded of it.
    pub fn place(&self, object: &ObjectRef, part: Option<usize>) -> Option<String> {
        self.records.objects.get(&super::key(object)).map(|item| item.place(part))
    }
}

/// A policy that has a say somewhere.
struct Say<'r> {
    kind: Kind,
    object: ObjectRef,
    target: String,
    part: usize,
    capabilities: Vec<&'static str>,
    /// Those of them that concern connections.
    carrying: Vec<&'static str>,
    merges: bool,
    item: &'r Item,
}

impl Written<'_> {
    /// Which policies have a say about a request, the narrowest of each kind first: what was settled at the compile is found
    /// again from their targets. What a wide policy says where it is merged is told with all that it does.
    pub fn policies(
        &self,
        fleet: &FleetName,
        chain: &FilterChain,
        route: Option<&RouteOrigin>,
    ) -> Vec<PolicySource> {
        let of_route: Vec<String> = route.map(scopes).unwrap_or_default();
        let mut of_listener: Vec<String> = Vec::new();
        for origin in &chain.origins {
            of_listener.push(format!("{} section {}", origin.owner, origin.listener));
        }
        of_listener.extend(chain.origins.iter().map(|origin| origin.owner.to_string()));
        if let FleetName::Gateway { namespace, name } = fleet {
            of_listener.push(ObjectRef::new(GATEWAY_GROUP, "Gateway", namespace, name).to_string());
        }
        of_listener.dedup();
        let says = self.says();
        let mut out = Vec::new();
        for kind in Kind::ALL {
            // What is said of clients is said of their listener.
            let carries = kind != Kind::ClientTraffic && chain.stream().is_some();
            let at = |scopes: &[String]| -> Vec<&Say<'_>> {
                let of = |scope: &String| says.iter().find(|say| say.kind == kind && say.target == *scope);
                scopes.iter().filter_map(of).collect()
            };
            let (own, wide) =
                (if kind == Kind::ClientTraffic { Vec::new() } else { at(&of_route) }, at(&of_listener));
            let Some(winner) = own.first().or(wide.first()).copied() else { continue };
            let merged = wide.first().filter(|_| !own.is_empty() && winner.merges);
            for say in own.iter().chain(&wide) {
                let in_force =
                    std::ptr::eq(*say, winner) || merged.is_some_and(|merged| std::ptr::eq(*merged, *say));
                out.push(PolicySource {
                    object: say.object.clone(),
                    field: FieldPath::root().key("spec").key("targetRefs").index(say.part),
                    target: say.target.clone(),
                    capabilities: match (in_force, carries) {
                        (true, true) => say.carrying.clone(),
                        (true, false) => say.capabilities.clone(),
                        (false, _) => Vec::new(),
                    },
                    overridden_by: (!in_force).then(|| winner.object.clone()),
                });
            }
        }
        out
    }

    /// `file:line` of a target of a policy.
    pub fn target(&self, policy: &ObjectRef, field: &FieldPath) -> Option<String> {
        let index = field.segments().iter().find_map(|step| match step {
            Segment::Index(index) => Some(*index),
            Segment::Key(_) => None,
        });
        self.place(policy, index)
    }

    fn says(&self) -> Vec<Say<'_>> {
        let mut out = Vec::new();
        for (key, item) in &self.records.objects {
            let Some((object, kind)) =
                object(key).and_then(|object| Some((object.clone(), Kind::of(&object)?)))
            else {
                continue;
            };
            for (part, found) in item.parts.iter().enumerate() {
                let marked = |prefix: &str| -> Vec<&'static str> {
                    found.makes.iter().filter_map(|made| capability(made, prefix)).collect()
                };
                let (capabilities, carrying) = (marked(super::DOES), marked(super::DOES_CARRYING));
                let targets = found.makes.iter().filter_map(|made| made.strip_prefix("policy/"));
                out.extend(targets.map(|target| Say {
                    kind,
                    object: object.clone(),
                    target: target.to_owned(),
                    part,
                    capabilities: capabilities.clone(),
                    carrying: carrying.clone(),
                    merges: found.makes.iter().any(|made| made == super::MERGES),
                    item,
                }));
            }
        }
        // The oldest has a target; of files that is the first by name, and others have no mark of it.
        out.sort_by(|a, b| (&a.object, &a.item.file).cmp(&(&b.object, &b.item.file)));
        out
    }
}

/// The scopes of a rule as policies are told of them, the narrowest first.
fn scopes(origin: &RouteOrigin) -> Vec<String> {
    let rule = origin.rule_name.as_ref().map(|rule| format!("{} section {rule}", origin.object));
    rule.into_iter().chain([origin.object.to_string()]).collect()
}

/// The capability of a mark, if this version knows it.
fn capability(made: &str, prefix: &str) -> Option<&'static str> {
    let name = made.strip_prefix(prefix)?;
    let mut known = moorgate_policies::CAPABILITIES.iter().map(|known| known.about().file);
    known.find(|known| *known == name)
}

impl Origins for Written<'_> {
    fn route(&self, name: &str, matched: &[u8]) -> RouteOrigin {
        let mut parts = name.splitn(4, '/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let named = (next(), next(), next());
        let rule_name = parts.next();
        let Some((object, key)) = self.routes.get(&named) else {
            let object = ObjectRef::new("", &named.0, &named.1, &named.2);
            return RouteOrigin { object, rule: 0, rule_name, matched: 0 };
        };
        let rule = self.records.objects.get(*key).and_then(|item| item.part_of(&super::mark(matched)));
        RouteOrigin { object: object.clone(), rule: rule.unwrap_or(0), rule_name, matched: 0 }
    }

    fn chain(&self, listener: &str, chain: &str) -> Vec<ListenerOrigin> {
        let prefix = chain_mark(listener, chain, "");
        let mut origins = Vec::new();
        for (key, item) in &self.records.objects {
            let listens = |object: &ObjectRef| matches!(&*object.kind, "Gateway" | "ListenerSet");
            let Some(owner) = object(key).filter(listens) else { continue };
            for (index, part) in item.parts.iter().enumerate() {
                let made = part.makes.iter().filter_map(|made| made.strip_prefix(&prefix));
                // A listener's name has no slash: with one this is a chain whose name only begins alike.
                origins.extend(made.filter(|name| !name.contains('/')).map(|name| {
                    let (owner, listener) = (owner.clone(), name.to_owned());
                    ListenerOrigin { owner, listener, index, hostname: String::new() }
                }));
            }
        }
        origins
    }

    fn stream(&self, listener: &str, chain: &str) -> RouteOrigin {
        let mark = stream_mark(listener, chain);
        let found =
            self.records.objects.iter().find_map(|(key, item)| Some((object(key)?, item.part_of(&mark)?)));
        let (object, rule) = found.unwrap_or_else(|| (ObjectRef::new("", "", "", ""), 0));
        RouteOrigin { object, rule, rule_name: None, matched: 0 }
    }
}
