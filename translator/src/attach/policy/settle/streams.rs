//! What policies make of connections and datagrams, in which nobody reads requests.

use super::{Settling, Together};
use crate::attach::kind::Mode;
use crate::attach::policy::held::{Chosen, State};
use moorgate_model::diagnostic::policy::{POLICY_FIELD_UNSUPPORTED, POLICY_FIELD_UNSUPPORTED_RESTRICTS};
use moorgate_model::ir::{ClientRanges, Cluster, PolicySource, Stream};
use moorgate_model::{FieldPath, Object, ObjectRef};
use moorgate_policies::{CAPABILITIES, Kind, Lowered};
use std::collections::{BTreeMap, BTreeSet};

/// The capability that says who may do what.
pub(super) const RIGHTS: &str = "authorization";

impl Settling<'_, '_> {
    /// The rule of a route of connections with what policies add, if they add anything.
    pub(super) fn stream(
        &mut self,
        stream: &Stream,
        wide: &[(Kind, Vec<usize>)],
        gateway: &(String, String),
        mode: Option<Mode>,
    ) -> Option<Stream> {
        let chosen = self.chosen(&stream.origin, wide, gateway);
        if chosen.is_empty() {
            return None;
        }
        let together = self.together(&chosen, &stream.origin.object);
        let mut stream = stream.clone();
        stream.policies = self.in_force(&chosen, &together);
        if mode != Some(Mode::Http) {
            let datagrams = mode == Some(Mode::Udp);
            let unfit = self.unfit(&stream.origin.object, &chosen, gateway, datagrams);
            stream.clients.clone_from(&together.connections);
            let nobody = |clients: &ClientRanges| datagrams || clients.allowed.is_empty();
            if unfit || together.closed_streams || stream.clients.as_ref().is_some_and(nobody) {
                stream.backends.clear();
            }
        }
        for cluster in stream.backends.iter_mut().filter_map(|backend| backend.cluster.as_mut()) {
            *cluster = self.variant(cluster, &together);
        }
        Some(hashed(&self.clusters, stream))
    }

    /// The policies that have a say, each with what of it concerns connections.
    fn in_force(&mut self, chosen: &[(Kind, Chosen)], together: &Together) -> Vec<PolicySource> {
        let mut concern: BTreeSet<&str> = BTreeSet::new();
        for (_, chosen) in chosen {
            let compiled = self.compiled(chosen);
            concern
                .extend(compiled.parts.iter().filter(|(_, part)| fits(part, false)).map(|(file, _)| *file));
        }
        let mut sources = together.added.as_ref().map(|added| added.sources.clone()).unwrap_or_default();
        sources.iter_mut().for_each(|source| source.capabilities.retain(|file| concern.contains(file)));
        sources
    }

    /// Says which parts of policies cannot be carried out where nobody reads requests; true if one of them restricts access.
    /// What is said of a whole Gateway or listener is meant for its requests, but for who may do what.
    fn unfit(
        &mut self,
        route: &ObjectRef,
        chosen: &[(Kind, Chosen)],
        gateway: &(String, String),
        datagrams: bool,
    ) -> bool {
        let mut closes = false;
        for (kind, chosen) in chosen {
            let (number, compiled) = (&chosen.winner, self.compiled(chosen));
            let Some(one) = self.policies.held.all.get(*number) else { continue };
            let mut targets = one.targets.iter().filter(|target| target.state == State::Attached);
            let own = targets.any(|target| target.place.0 == *route);
            for (file, part) in &compiled.parts {
                let own = own && one.compiled.parts.contains_key(file);
                if fits(part, datagrams) || !(own || *file == RIGHTS) {
                    continue;
                }
                let field = field(*kind, file, &one.object);
                let restricts = kind.restricts(&field);
                closes |= restricts;
                let message = format!("{route} carries no requests, and the field is for requests");
                if own && restricts {
                    let unmet = self.settled.unmet.entry((*number, gateway.clone()));
                    unmet.or_default().insert(message.clone());
                }
                if !self.told.insert((*number, file)) {
                    continue;
                }
                let (code, help) = if restricts {
                    (
                        &POLICY_FIELD_UNSUPPORTED_RESTRICTS,
                        if *file == RIGHTS && !datagrams {
                            "nothing passes there, because the field restricts access: of connections only clientCIDRs can be asked"
                        } else {
                            "nothing passes there, because the field restricts access"
                        },
                    )
                } else {
                    (&POLICY_FIELD_UNSUPPORTED, "the field has no effect there")
                };
                self.diagnostics.push(one.object.diagnostic(code, field, message).help(help));
            }
        }
        closes
    }
}

/// Whether a part of a policy concerns connections: backends are reached in one way, whatever is carried. Envoy looks at where
/// connections come from, and not at datagrams.
fn fits(part: &Lowered, datagrams: bool) -> bool {
    !part.cluster.is_empty() || (part.connections.is_some() && !datagrams)
}

/// A rule of connections, with whether its clusters want to know the client's address.
fn hashed(clusters: &BTreeMap<String, Cluster>, stream: Stream) -> Stream {
    let names = stream.backends.iter().filter_map(|backend| backend.cluster.as_ref());
    let mut found = names.filter_map(|name| clusters.get(name));
    Stream { by_source: found.any(|cluster| cluster.policies.by_source), ..stream }
}

/// The field of a policy for which a capability's part was made.
fn field(kind: Kind, file: &str, object: &Object) -> FieldPath {
    let about = CAPABILITIES.iter().map(|capability| capability.about());
    let fields =
        about.filter(|about| about.kind == kind && about.file == file).flat_map(|about| about.fields);
    let spec = FieldPath::root().key("spec");
    let fields = fields.map(|field| spec.join(&FieldPath::parse(field)));
    // The one that says most stands last.
    let mut there = fields.filter(|field| object.root.at(field).is_some());
    there.next_back().unwrap_or_else(|| spec.clone())
}
