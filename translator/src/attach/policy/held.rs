//! Policies of Envoy Gateway's kinds and what each is attached to.
//!
//! Scopes, from narrow to wide: a rule, a route, a listener of a ListenerSet, the ListenerSet, a listener of a Gateway, the
//! Gateway. Of each kind the narrowest counts; with `mergeType` it is merged with the narrowest of the listeners' scopes. Of
//! several with one target the oldest counts (GEP-713).

use super::world::Sources;
use super::{Policies, target};
use crate::attach::index::{Index, metadata};
use crate::attach::listener::Listener;
use crate::attach::precedence::Age;
use moorgate_model::diagnostic::policy::{
    POLICY_CONFLICTED, POLICY_INVALID, POLICY_SECTION_NOT_FOUND, POLICY_TARGET_NOT_FOUND,
    POLICY_TARGET_NOT_PERMITTED,
};
use moorgate_model::ir::{Cluster, PolicySource};
use moorgate_model::{Diagnostics, FieldPath, Node, Object, ObjectRef};
use moorgate_policies::{Compiled, Kind, compile};
use std::collections::BTreeMap;

/// What a policy is attached to: an object, or a section of it.
pub(super) type Place = (ObjectRef, Option<String>);

/// All of them.
#[derive(Debug, Default)]
pub(in crate::attach) struct Held {
    /// The oldest first.
    pub(super) all: Vec<One>,
    /// Of each kind the one that has a target.
    taken: BTreeMap<(Kind, Place), usize>,
}

/// One policy.
#[derive(Debug)]
pub(super) struct One {
    pub(super) kind: Kind,
    pub(super) object: Object,
    pub(super) generation: Option<i64>,
    /// How it is merged with one of a wider scope.
    pub(super) merge: Option<Merge>,
    pub(super) compiled: Compiled,
    pub(super) targets: Vec<Target>,
}

/// How a policy is merged with one of a wider scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merge {
    /// Lists that have a key are merged by it; all others are replaced.
    Strategic,
    /// RFC 7386: lists are replaced, and null takes a field away.
    Json,
}

/// A target as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) place: Place,
    pub(super) field: FieldPath,
    pub(super) state: State,
}

impl One {
    /// Its say at one of its targets, for `explain`.
    pub(super) fn source(
        &self,
        target: &Target,
        capabilities: Vec<&'static str>,
        overridden_by: Option<ObjectRef>,
    ) -> PolicySource {
        let (object, section) = &target.place;
        let section = section.as_ref().map(|name| format!(" section {name}")).unwrap_or_default();
        PolicySource {
            object: self.object.reference.clone(),
            field: target.field.clone(),
            target: format!("{object}{section}"),
            capabilities,
            overridden_by,
        }
    }
}

/// What became of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// The policy has the target.
    Attached,
    /// An older policy of the kind has it.
    Conflicted(ObjectRef),
    /// It is not there.
    Missing(String),
}

/// What counts of one kind for a rule at a listener.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Chosen {
    /// The narrowest.
    pub(super) winner: usize,
    /// What it is merged with.
    pub(super) merged: Option<usize>,
    /// Wider ones that have no say.
    pub(super) overridden: Vec<usize>,
}

/// Reads all policies of these kinds, the oldest first. Those that validation refused are not among `objects`.
pub(super) fn attach(
    index: &Index<'_>,
    mut objects: Vec<(Kind, &Object)>,
    policies: &mut Policies,
    clusters: &mut BTreeMap<String, Cluster>,
    diagnostics: &mut Diagnostics,
) -> Held {
    let mut held = Held::default();
    objects.sort_by_cached_key(|(_, object)| {
        let created = metadata(object).and_then(|metadata| metadata.creation_timestamp);
        Age::new(created.as_deref(), &object.reference.namespace, &object.reference.name)
    });
    for (kind, object) in objects {
        let compiled = compile(kind, object, &mut Sources { index, policies, clusters });
        diagnostics.extend(compiled.findings.iter().cloned());
        let targets = held.targets(index, kind, object, diagnostics);
        if kind.asks(object) {
            let unclear = |target: &&Target| {
                let known = kind.targets().iter().any(|known| *known.kind == *target.place.0.kind);
                !known || missing(index, &target.place).is_some_and(|(section, _)| section)
            };
            for Target { place, .. } in targets.iter().filter(unclear) {
                // Nobody can say what was meant by a section that is not there: everything around it, to be safe. An object
                // that is not there needs no closing, and the policy's other targets have it.
                let around = target::Target { object: place.0.clone(), section: place.1.clone() };
                super::deny_target(index, object, around, policies);
            }
        }
        for wrong in target::unreadable(object) {
            let finding = object.diagnostic(&POLICY_INVALID, wrong.field.clone(), wrong.why.as_str());
            diagnostics.push(finding.help(if kind.asks(object) {
                super::deny_selected(index, object, &wrong, policies);
                "what it may have meant in the policy's namespace answers 500, because the policy restricts access"
            } else {
                "nothing is selected"
            }));
        }
        held.all.push(One {
            kind,
            object: object.clone(),
            generation: metadata(object).and_then(|metadata| metadata.generation),
            merge: match object.at("spec.mergeType").and_then(Node::as_str) {
                Some("StrategicMerge") => Some(Merge::Strategic),
                Some("JSONMerge") => Some(Merge::Json),
                _ => None,
            },
            compiled,
            targets,
        });
    }
    held
}

impl Held {
    /// True without policies.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes what a policy targets, if no older one has it.
    fn targets(
        &mut self,
        index: &Index<'_>,
        kind: Kind,
        object: &Object,
        diagnostics: &mut Diagnostics,
    ) -> Vec<Target> {
        let number = self.all.len();
        let mut out: Vec<Target> = Vec::new();
        for (place, field, permitted) in target::all(index, object) {
            if out.iter().any(|target| target.place == place) {
                continue;
            }
            if !permitted {
                let message = format!("{} may not be targeted from {}", place.0, object.reference);
                let help = format!("add a ReferenceGrant in namespace {}", place.0.namespace);
                diagnostics.push(object.diagnostic(&POLICY_TARGET_NOT_PERMITTED, field, message).help(help));
                continue;
            }
            let state = match (missing(index, &place), self.taken.get(&(kind, place.clone()))) {
                (Some((section, why)), _) => {
                    let code = if section && kind.asks(object) {
                        &POLICY_SECTION_NOT_FOUND
                    } else {
                        &POLICY_TARGET_NOT_FOUND
                    };
                    let help = "what is named is not there: correct the name";
                    diagnostics.push(object.diagnostic(code, field.clone(), why.as_str()).help(help));
                    State::Missing(why)
                }
                (None, Some(older)) => {
                    let older = self.all.get(*older).map(|one| one.object.reference.clone());
                    let older = older.unwrap_or_else(|| object.reference.clone());
                    let message =
                        format!("{} has an older policy of this kind, {older}, which is in effect", place.0);
                    diagnostics.push(object.diagnostic(&POLICY_CONFLICTED, field.clone(), message));
                    State::Conflicted(older)
                }
                (None, None) => {
                    self.taken.insert((kind, place.clone()), number);
                    State::Attached
                }
            };
            out.push(Target { place, field, state });
        }
        out
    }

    /// The policies of a kind in the scopes of a listener, from narrow to wide.
    pub(super) fn of_listener(&self, kind: Kind, listener: &Listener<'_>, gateway: &ObjectRef) -> Vec<usize> {
        let owner = &listener.owner.reference;
        let named = Some(listener.spec.name.clone());
        let mut places = vec![(owner.clone(), named), (owner.clone(), None)];
        if owner != gateway {
            places.push((gateway.clone(), None));
        }
        places.into_iter().filter_map(|place| self.taken.get(&(kind, place)).copied()).collect()
    }

    /// What counts of a kind for a rule of a route, given what counts for its listener.
    pub(super) fn choose(
        &self,
        kind: Kind,
        route: &ObjectRef,
        rule: Option<&str>,
        listener: &[usize],
    ) -> Option<Chosen> {
        let of = |section: Option<&str>| {
            self.taken.get(&(kind, (route.clone(), section.map(str::to_owned)))).copied()
        };
        let own: Vec<usize> = rule.and_then(|rule| of(Some(rule))).into_iter().chain(of(None)).collect();
        let all: Vec<usize> = own.iter().chain(listener).copied().collect();
        let winner = *all.first()?;
        let merges = !own.is_empty() && self.all.get(winner).is_some_and(|one| one.merge.is_some());
        let merged = listener.first().copied().filter(|_| merges);
        let overridden = all.into_iter().skip(1).filter(|other| Some(*other) != merged).collect();
        Some(Chosen { winner, merged, overridden })
    }
}

/// Why a target is not there, if so; true if it is only its section. What is not in the source may be elsewhere if its kind
/// is open.
fn missing(index: &Index<'_>, (object, section): &Place) -> Option<(bool, String)> {
    let key = (&*object.namespace, &*object.name);
    let there = match &*object.kind {
        "Gateway" => index.gateways.contains_key(&key),
        "ListenerSet" => index.listener_sets.contains_key(&key),
        "HTTPRoute" => index.http_routes.contains_key(&key),
        "GRPCRoute" => index.grpc_routes.contains_key(&key),
        "TLSRoute" => index.tls_routes.contains_key(&key),
        "TCPRoute" => index.tcp_routes.contains_key(&key),
        "UDPRoute" => index.udp_routes.contains_key(&key),
        _ => false,
    };
    if !there {
        let why = format!("{object} is not in this source");
        return (!index.is_open(&object.kind)).then_some((false, why));
    }
    let section = section.as_deref()?;
    let named = |listeners: &[crate::attach::spec::Listener]| {
        listeners.iter().any(|listener| listener.name == section)
    };
    let (what, has) = match &*object.kind {
        "Gateway" => {
            ("listener", index.gateways.get(&key).is_some_and(|found| named(&found.value.spec.listeners)))
        }
        "ListenerSet" => (
            "listener",
            index.listener_sets.get(&key).is_some_and(|found| named(&found.value.spec.listeners)),
        ),
        "HTTPRoute" | "GRPCRoute" => ("rule", index.has_rule(object, section)),
        // The API has one rule in these, so a section is all of it.
        _ => ("rule", true),
    };
    (!has).then(|| (true, format!("{object} has no {what} named {section:?}")))
}
